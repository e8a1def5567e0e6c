"""Importing the authors' grasp classifier: keys of the original, files made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from handhold.errors import WeightsError
from handhold.models.switched.model import GraspClassifier
from handhold.models.switched.official import convert, load_official
from handhold.models.weights import fit

DATA = Path(__file__).parents[1] / "golden" / "data"


def _entries(device: str = "meta") -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    told = json.loads((DATA / "classifier.json").read_text())["state_dict"]
    if device == "meta":
        return {key: torch.zeros(tuple(shape), device="meta") for key, shape in told.items()}
    return {
        key: torch.tensor(3)
        if key.endswith("num_batches_tracked")
        else 0.01 * torch.randn(tuple(shape), generator=draw)
        for key, shape in told.items()
    }


def test_keys_map_one_to_one() -> None:
    entries = _entries()
    with torch.device("meta"):
        own = GraspClassifier().state_dict()
    converted = convert(entries)
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in own.items()}
    assert len(converted) == len(entries)


def test_file_of_the_original(tmp_path: Path) -> None:
    path, entries = tmp_path / "model.pth", _entries(device="cpu")
    wrapped = {f"module.{key}": value for key, value in entries.items()}
    status = {"state_dict": wrapped, "optimizer": {}, "scheduler": {}, "step": 1, "epoch": 38}
    torch.save(status | {"score_status": {}}, path)
    network = load_official(path)
    path.unlink()
    assert not network.training
    state = network.state_dict()
    for ours, theirs in {
        "head.out.weight": "obj_conf_layer.2.weight",
        "head.reduce.bias": "obj_conf_layer.0.bias",
        "backbone.object_stage3.4.conv2.weight": "base_net.layer3_o.0.4.conv2.weight",
        "backbone.object_pyramid.lateral1.weight": "base_net.latlayer1_o.weight",
    }.items():
        assert torch.equal(state[ours], entries[theirs]), ours


def test_gaps_leftovers_and_other_networks() -> None:
    entries = _entries()
    with pytest.raises(WeightsError, match=r"lacks: surplus\.weight"):
        convert(entries | {"surplus.weight": torch.zeros(1)})
    with torch.device("meta"):
        network = GraspClassifier()
    gap = {k: torch.zeros(v.shape) for k, v in entries.items() if k != "obj_conf_layer.2.bias"}
    with pytest.raises(WeightsError, match=r"missing head\.out\.bias"):
        fit(network, convert(gap), "file")
    with pytest.raises(WeightsError, match="no grasp classifier alone"):
        convert(entries | {"hand_head.betas": torch.zeros(21, 1)})


class _Danger:
    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (_Danger, "ran", True))


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": _Danger()}, path)
    with pytest.raises(WeightsError, match="objects other than tensors"):
        load_official(path)
    assert not _Danger.ran
