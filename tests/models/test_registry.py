"""The dictionary of methods, and loading by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import handhold
from handhold.errors import InputError, WeightsError
from handhold.models import loading
from handhold.models.loading import build_model, load_model, shipped_weights
from handhold.models.registry import MODELS, entry
from handhold.models.unihope.model import UniHOPEConfig
from handhold.models.weights import save_weights
from handhold.objects.catalogue import info


def test_names() -> None:
    assert handhold.list_models() == list(MODELS)
    assert {"hflnet", "unihope", "unihope-small"} <= set(MODELS)
    with pytest.raises(InputError, match=r"unihope-small.*'uniop'"):
        entry("uniop")


def test_seeds(tiny_unihope: UniHOPEConfig) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (
        build_model("unihope", config=tiny_unihope, seed=s).network.state_dict() for s in (1, 1, 2)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    key = "switch.out.weight"
    assert torch.equal(first[key], again[key])
    assert not torch.equal(first[key], other[key])


def test_load_takes_configuration_and_processor_from_the_file(
    tiny_unihope: UniHOPEConfig, tmp_path: Path
) -> None:
    built = build_model("unihope", config=tiny_unihope)
    prepared = dataclasses.replace(built.processor.config, crop_factor=1.7, mask_size=8)
    path = save_weights(
        tmp_path / "a.safetensors",
        built.network,
        model="unihope",
        extra={"processor": dataclasses.asdict(prepared), "note": "hello"},
    )
    loaded = handhold.load_model("unihope", weights=path)
    assert loaded.config == tiny_unihope
    assert loaded.processor.config == prepared
    assert loaded.extra["note"] == "hello"
    assert not loaded.network.training
    with pytest.raises(WeightsError, match="expected weights of hflnet, found those of unihope"):
        load_model("hflnet", weights=path)
    wrong = dataclasses.asdict(dataclasses.replace(prepared, input_size=128))
    save_weights(path, built.network, model="unihope", extra={"processor": wrong})
    with pytest.raises(WeightsError, match="crops of 128 pixels"):
        load_model("unihope", weights=path)


def test_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "shipped_weights", lambda name: None)
    with pytest.raises(WeightsError, match="weights import hflnet"):
        load_model("hflnet")
    with pytest.raises(WeightsError, match="handhold train unihope-small"):
        load_model("unihope-small")


def test_shipped_weights_load() -> None:
    """Whatever weights are in the package fit their method and hold finite numbers."""
    for name in MODELS:
        path = shipped_weights(name)
        if path is None:
            assert not (Path(handhold.__file__).parent / "weights" / f"{name}.safetensors").exists()
            continue
        assert path.with_suffix(".json").is_file(), f"{name}: the card is missing"
        loaded = load_model(name)
        assert sum(p.numel() for p in loaded.network.parameters()) > 0


def test_processor_knows_the_catalogue(tiny_unihope: UniHOPEConfig) -> None:
    processor = build_model("unihope", config=tiny_unihope).processor
    assert len(processor.object_classes) == tiny_unihope.object_classes
    points = processor.control_points["003_cracker_box"]
    box = info("003_cracker_box")
    np.testing.assert_allclose(points[20], box.box_centre, atol=1e-9)
    np.testing.assert_allclose(points[7] - points[0], box.extent, atol=1e-9)
