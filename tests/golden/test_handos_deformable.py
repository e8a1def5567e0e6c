"""Deformable attention against the stored numbers of another implementation."""

from __future__ import annotations

import pytest
import torch

from handhold.models.nn.deformable_attention import DeformableAttention

THEIRS = {
    "sampling_offsets": "offsets",
    "attention_weights": "attention",
    "value_proj": "value",
    "output_proj": "output",
}


@pytest.fixture
def told(golden):
    return golden("handos")


def _block(told) -> DeformableAttention:
    config = told.json["config"]["msda"]
    block = DeformableAttention(
        config["d"], heads=config["heads"], levels=config["levels"], points=config["points"]
    )
    entries = {}
    for key, value in told.state_dict().items():
        if key.startswith("msda."):
            _, layer, kind = key.split(".")
            entries[f"{THEIRS[layer]}.{kind}"] = value
    entries["offsets.bias"] = entries["offsets.bias"] * 40  # the json's note
    block.load_state_dict(entries)
    return block


def test_output_and_weights(told) -> None:
    block = _block(told)
    shapes = [tuple(shape) for shape in told.json["config"]["msda"]["spatial_shapes"]]
    query, memory, boxes = (told.tensor(f"msda_{name}") for name in ("query", "memory", "ref"))
    learning = block(query, boxes, block.project(memory), shapes)
    told.compare("msda", learning.detach(), rtol=1e-5)
    with torch.no_grad():
        told.compare("msda", block(query, boxes, block.project(memory), shapes), rtol=1e-5)
        told.compare("msda_weights", block.weights(query), rtol=1e-5)
