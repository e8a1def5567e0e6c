"""Detectors of the package `transformers`, built from tiny configurations with random weights,
against the package's own forward pass."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from handhold.errors import InputError, MissingExtraError, WeightsError
from handhold.models.handos.detectors.grounding_dino import CLASSES, PROMPT, GroundingDino


def tiny(kind: str, **changes: Any) -> Any:
    import transformers

    name = CLASSES[kind].replace("ForObjectDetection", "Config")
    backbone = transformers.SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_indices=[2, 3, 4],
    )
    text = transformers.BertConfig(
        vocab_size=2200,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
    )
    fields = {
        "backbone_config": backbone,
        "text_config": text,
        "num_queries": 10,
        "encoder_layers": 2,
        "encoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "decoder_layers": 2,
        "decoder_ffn_dim": 32,
        "decoder_attention_heads": 2,
        "d_model": 32,
        "disable_custom_kernels": True,
    }
    return getattr(transformers, name)(**(fields | changes))


@pytest.fixture(scope="module", params=list(CLASSES))
def pair(request: pytest.FixtureRequest) -> tuple[Any, GroundingDino]:
    """The package's whole model, and the detector made of a copy."""
    import transformers

    torch.manual_seed(0)
    kind = request.param
    whole = getattr(transformers, CLASSES[kind])(tiny(kind))
    for name, parameter in whole.named_parameters():  # fresh heads say nothing
        if "bbox_embed" in name or "query_position" in name or "bias_c" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    detector = GroundingDino(kind=kind, config=tiny(kind))
    detector._take(copy.deepcopy(whole), "none", "Apache-2.0")
    return whole.eval(), detector


def normalised(images: Tensor) -> Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images - mean[:, None, None]) / std[:, None, None]


def theirs(whole: Any, images: Tensor, mask: Tensor | None = None) -> Any:
    with torch.no_grad():
        return whole(
            pixel_values=normalised(images) * (1 if mask is None else mask[:, None]),
            input_ids=torch.tensor([PROMPT] * len(images)),
            attention_mask=torch.ones(len(images), len(PROMPT), dtype=torch.long),
            pixel_mask=None if mask is None else mask.long(),
            output_hidden_states=True,
        )


def test_stored_text_changes_no_bit(pair) -> None:
    whole, detector = pair
    images = torch.rand(1, 3, 64, 96)
    found, told = detector(images), theirs(whole, images)
    assert torch.equal(found.memory, told.encoder_last_hidden_state_vision)
    assert torch.equal(found.query_last, told.last_hidden_state)
    assert torch.equal(found.boxes, told.pred_boxes)
    assert torch.equal(found.scores, told.logits[..., 1].sigmoid())
    left_out = {id(p) for p in whole.model.text_backbone.parameters()}
    kept = sum(p.numel() for p in whole.parameters() if id(p) not in left_out)
    assert sum(p.numel() for p in detector.parameters()) == kept


def test_fields_are_those_of_the_interface(pair) -> None:
    """A batch with padding: levels and validity from the masks that the model makes itself, queries
    before the norm, layers in their order."""
    whole, detector = pair
    images, mask = torch.rand(2, 3, 64, 96), torch.ones(2, 64, 96, dtype=torch.bool)
    mask[1, 32:], mask[1, :, 48:] = False, False
    found, told = detector(images, mask), theirs(whole, images, mask)
    for ours, other in (
        (found.memory, told.encoder_last_hidden_state_vision),
        (found.query_last, told.last_hidden_state),
        (found.boxes, told.pred_boxes),
        (found.scores, told.logits[..., 1].sigmoid()),
    ):
        torch.testing.assert_close(ours, other, atol=1e-5, rtol=1e-4)
    table = whole.model.query_position_embeddings.weight
    assert torch.equal(found.query_first[1], table) and found.query_first.shape == (2, 10, 32)
    assert found.query_layers is not None and found.memory_layers is not None
    torch.testing.assert_close(found.query_layers[0], told.intermediate_hidden_states[:, 0])
    assert torch.equal(found.query_layers[-1], found.query_last)
    torch.testing.assert_close(found.memory_layers[0], told.encoder_vision_hidden_states[1])
    assert torch.equal(found.memory_layers[-1], found.memory)
    assert found.shapes == [(8, 12), (4, 6), (2, 3), (1, 2)] and detector.strides == (8, 16, 32, 64)
    # the first three levels are projections of the shallow maps, in the same order
    projected = whole.model.input_proj_vision[1](found.shallow[1]).flatten(2).transpose(1, 2)
    torch.testing.assert_close(projected, told.encoder_vision_hidden_states[0][:, 96 : 96 + 24])
    assert detector.shallow_channels == tuple(x.shape[1] for x in found.shallow) == (16, 32, 64)
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[:4, :6] = True
    assert torch.equal(found.token_valid[1, :96].reshape(8, 12), expected)
    torch.testing.assert_close(found.valid_ratios[1, 0], torch.tensor([0.5, 0.5]))
    # what is not valid reaches nothing
    other = torch.where(mask[:, None], images, torch.rand_like(images))
    torch.testing.assert_close(detector(other, mask).boxes, found.boxes)


def test_training_leaves_drop_paths_and_dropout_out(pair) -> None:
    _, detector = pair
    images = torch.rand(1, 3, 64, 96)
    before = detector(images)
    parent = torch.nn.Sequential(detector).train()
    assert not any(module.training for module in detector.modules())
    assert torch.equal(parent(images).memory, before.memory)
    assert not any(p.requires_grad for p in detector.parameters())


def test_weights_of_a_local_folder(pair, tmp_path: Path) -> None:
    whole, detector = pair
    whole.save_pretrained(tmp_path / "own")
    loaded = GroundingDino(tmp_path / "own", kind=detector.kind)
    images = torch.rand(1, 3, 64, 96)
    assert torch.equal(loaded(images).boxes, detector(images).boxes)
    assert loaded.weights_id.endswith("own") and loaded.licence.startswith("see ")
    with pytest.raises(WeightsError, match="expected a folder or the name of a repository"):
        loaded.load(tmp_path / "none")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'handhold\[transformers\]'"):
        GroundingDino("IDEA-Research/grounding-dino-tiny")


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="kind: expected one of grounding-dino, mm-grounding-dino"):
        GroundingDino("x", kind="other")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected weights, or a configuration"):
        GroundingDino()
    with pytest.raises(InputError, match="columns 1 to 2"):
        GroundingDino("x", phrase=(3,))
