"""HandOS's weights file without the detector that the package has anyway."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from handhold.cli.weights import pack
from handhold.errors import WeightsError
from handhold.models.detector.weights import default_weights
from handhold.models.handos.bases import load_base
from handhold.models.handos.config import HandOSConfig
from handhold.models.handos.shipped import TOLD, leave_out_detector
from handhold.models.photo_registry import build_photo_model, load_photo_model
from handhold.models.weights import read_weights, save_weights, write_weights

SMALL = {"width": 32, "heads": 2, "feedforward": 32, "vertices": 49, "layers_mesh": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network on the shipped detector, with everything in its file."""
    detector, options = load_base("hand-detector", {}, default_weights())
    config = dataclasses.replace(
        HandOSConfig.small(), layers_2d=1, side_hidden=16, detector_options=options, **SMALL
    )
    model = build_photo_model("handos-small", config=config, detector=detector, seed=1)
    path = tmp_path_factory.mktemp("weights") / "whole.safetensors"
    return save_weights(path, model.network, model="handos-small", precision="fp16")


def test_packed_without_the_detector_it_is_the_same_network(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "packed.safetensors"
    pack(whole, out, shipped_detector=True)
    entries = read_weights(out).entries
    assert not any(key.startswith("detector.") for key in entries)
    assert out.stat().st_size < whole.stat().st_size - 0.9 * default_weights().stat().st_size
    expected = load_photo_model("handos-small", whole).network.state_dict()
    found = load_photo_model("handos-small", out).network.state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_another_detector_is_kept_or_refused(whole: Path, tmp_path: Path) -> None:
    file = read_weights(whole)
    moved = dict(file.entries)
    key = next(key for key in moved if key.startswith("detector.network.stem"))
    moved[key] = 2 * moved[key]
    with pytest.raises(WeightsError, match="must keep its own"):
        leave_out_detector(dataclasses.replace(file, entries=moved), "file")
    packed = leave_out_detector(file, "file")
    later = dataclasses.replace(packed, extra={**packed.extra, TOLD: "0" * 64})
    path = tmp_path / "later.safetensors"
    write_weights(path, later, "fp16")
    with pytest.raises(WeightsError, match=r"later\.safetensors.*another release"):
        load_photo_model("handos-small", path)
