"""Importing the authors' grasp classifier: keys of the original, files made here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.official_file import Danger, made_up, write

from handhold.cli.weights import pair as pair_command
from handhold.errors import WeightsError
from handhold.models.handoccnet.model import HandOccNetConfig
from handhold.models.loading import build_model, load_model
from handhold.models.semihand.model import SemiHandConfig
from handhold.models.switched.model import (
    GraspClassifier,
    GraspClassifierConfig,
    Switched,
    SwitchedConfig,
)
from handhold.models.switched.official import convert, load_official
from handhold.models.weights import fit, save_weights
from handhold.scene import Batch

DATA = Path(__file__).parents[1] / "golden" / "data"


def test_keys_map_one_to_one() -> None:
    entries = made_up("classifier", "meta")
    with torch.device("meta"):
        own = GraspClassifier().state_dict()
    converted = convert(entries)
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in own.items()}
    assert len(converted) == len(entries)


def test_file_of_the_original(tmp_path: Path) -> None:
    entries = made_up("classifier")
    network = load_official(write(tmp_path / "model.pth", "classifier"))
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
    entries = made_up("classifier", "meta")
    with pytest.raises(WeightsError, match=r"lacks: surplus\.weight"):
        convert(entries | {"surplus.weight": torch.zeros(1)})
    with torch.device("meta"):
        network = GraspClassifier()
    gap = {k: torch.zeros(v.shape) for k, v in entries.items() if k != "obj_conf_layer.2.bias"}
    with pytest.raises(WeightsError, match=r"missing head\.out\.bias"):
        fit(network, convert(gap), "file")
    with pytest.raises(WeightsError, match="no grasp classifier alone"):
        convert(entries | {"hand_head.betas": torch.zeros(21, 1)})


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": Danger()}, path)
    with pytest.raises(WeightsError, match="objects other than tensors"):
        load_official(path)
    assert not Danger.ran


TINY: dict[str, Any] = {
    "input_size": 64,
    "depths": (1, 1, 1, 1),
    "widths": (8, 8, 16, 16),
    "stem_width": 8,
    "pyramid_width": 16,
}


def test_a_pair_in_one_file(tmp_path: Path) -> None:
    """Three files become one, which loads by name and gives what the three networks give."""
    heads: dict[str, Any] = {"hourglass_depth": 2, "mano_widths": (32, 16)}
    one = dataclasses.replace(HandOccNetConfig.small(), **TINY, **heads)
    other = dataclasses.replace(
        SemiHandConfig.small(), **(TINY | {"input_size": 96}), **heads, roi_size=8
    )
    looks = GraspClassifierConfig(block="basic", switch_width=4, **TINY)
    models = [build_model("handoccnet", config=one), build_model("semihand", config=other)]
    classifier = GraspClassifier(looks).eval()
    paths = [
        save_weights(tmp_path / f"{model.name}.safetensors", model.network, model=model.name)
        for model in models
    ]
    paths.append(save_weights(tmp_path / "c.safetensors", classifier, model="grasp-classifier"))
    out = tmp_path / "pair.safetensors"
    pair_command(paths[0], paths[1], paths[2], out=out, threshold=0.4)
    found = load_model("switched", weights=out)
    assert found.processor.config.input_size == 96
    assert found.config == SwitchedConfig(threshold=0.4)
    pair = Switched(models[0].network, models[1].network, classifier, found.config)
    draw = torch.Generator().manual_seed(0)
    box = torch.tensor([[20.0, 20, 70, 70]]).expand(3, 4)
    batch = Batch(image=torch.rand(3, 3, 96, 96, generator=draw), hand_box=box, object_box=box + 5)
    with torch.no_grad():
        expected, told = pair(batch), found.network(batch)
    assert torch.equal(expected.vertices, told.vertices)
    assert torch.equal(expected.object_confidence, told.object_confidence)
    with pytest.raises(WeightsError, match="expected weights of grasp-classifier, found those of"):
        pair_command(paths[0], paths[1], paths[0], out=out)
    with pytest.raises(WeightsError, match="weights pair"):
        load_model("switched")
    with pytest.raises(WeightsError, match="expected weights of switched, found those of semihand"):
        load_model("switched", weights=paths[1])
