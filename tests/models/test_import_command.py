"""`handhold weights import` for every method: which options go where, and what the result eats."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from handhold.cli.weights import import_weights
from handhold.errors import InputError, MissingFileError
from handhold.models import registry
from handhold.models.h2onet.model import H2ONetConfig
from handhold.models.handoccnet.model import HandOccNetConfig
from handhold.models.mobrecon.model import MobReconConfig
from handhold.models.nn.hope_config import HopeProcessorConfig
from handhold.models.processors import stored_settings
from handhold.models.registry import MODELS
from handhold.models.simplehand.model import SimpleHandConfig
from handhold.models.switched import official as classifier
from handhold.models.weights import read_weights

IMPORTED = [name for name, entry in MODELS.items() if entry.importer is not None]


class _Net(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.layer = nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("method", "config", "expected"),
    [
        ("handoccnet", HandOccNetConfig(), HopeProcessorConfig.hand_alone(256)),
        ("handoccnet", HandOccNetConfig.unihope(), HopeProcessorConfig.unihope(256, hand=True)),
        ("mobrecon", MobReconConfig(), HopeProcessorConfig.unihope(128, hand=True)),
        ("mobrecon", MobReconConfig.handbooster(), HopeProcessorConfig.hand_alone(128)),
        ("h2onet", H2ONetConfig(), HopeProcessorConfig.hand_alone(128)),
        ("simplehand", SimpleHandConfig(), HopeProcessorConfig.unihope(224, hand=True)),
        ("simplehand", SimpleHandConfig.original(), None),
    ],
)
def test_the_crop_follows_the_origin(
    method: str,
    config: Any,
    expected: HopeProcessorConfig | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """What the imported network eats is written beside it, and read back."""
    file, out = tmp_path / "x.pth", tmp_path / "x.safetensors"
    file.write_bytes(b"anything")
    entry = dataclasses.replace(MODELS[method], importer=lambda path: _Net(config))
    monkeypatch.setitem(registry.MODELS, method, entry)
    import_weights(method, file, out=out)
    told = read_weights(out)
    found = stored_settings(entry.processor(), told, config, "x")
    if expected is None:  # the hand alone, its box times 1.25
        assert (found.crop_rule, found.crop_factor, found.input_size) == ("hand", 1.25, 224)
    else:
        assert found == expected


@pytest.mark.parametrize("method", [*IMPORTED, "grasp-classifier"])
def test_every_method_looks_for_its_file(method: str, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere\.pth"):
        import_weights(method, tmp_path / "nowhere.pth", out=tmp_path / "x.safetensors")


def test_options_that_a_method_does_not_know(tmp_path: Path) -> None:
    file, out = tmp_path / "x.pth", tmp_path / "x.safetensors"
    with pytest.raises(InputError, match="--origin: unihope does not need it"):
        import_weights("unihope", file, out=out, origin="original")
    with pytest.raises(InputError, match="--template: handoccnet does not need it"):
        import_weights("handoccnet", file, out=out, template="hand")
    with pytest.raises(InputError, match=r"expected one of hflnet, .*, grasp-classifier, found"):
        import_weights("hflnet-small", file, out=out)
    with pytest.raises(InputError, match=r"--out: expected a file named \.safetensors"):
        import_weights("hflnet", file, out=tmp_path / "x.pth")


def test_the_classifiers_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    file.write_bytes(b"anything")
    made = _Net(MobReconConfig())
    monkeypatch.setattr(classifier, "load_official", lambda path: made)
    with pytest.raises(InputError, match=r"--input-size: x\.pth was made for 128, found 256"):
        import_weights("grasp-classifier", file, out=tmp_path / "x.safetensors", input_size="256")
    import_weights("grasp-classifier", file, out=tmp_path / "x.safetensors")
    assert read_weights(tmp_path / "x.safetensors").model == "grasp-classifier"
