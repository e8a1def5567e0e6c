"""The authors' files of HOISDF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from handhold.errors import WeightsError
from handhold.hand.model import HandModel
from handhold.models.hoisdf import official
from handhold.models.hoisdf.model import HOISDF

DATA = Path(__file__).parents[1] / "golden" / "data"


def _keys(name: str) -> dict[str, tuple[int, ...]]:
    told = json.loads((DATA / f"{name}.json").read_text())["state_dict"]
    return {key: tuple(shape) for key, shape in told.items()}


@pytest.mark.parametrize("name", ["hoisdf", "hoisdf_ho3d"])
def test_keys_map_one_to_one(hand: HandModel, name: str) -> None:
    shapes = _keys(name)
    entries = {k: torch.zeros(s, device="meta") for k, s in shapes.items()}
    config = official.config_for(entries)
    assert config.decoder == ("big" if name == "hoisdf_ho3d" else "small")
    with torch.device("meta"):
        own = HOISDF(config, hand).state_dict()
    converted = official.convert(entries)
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in own.items()}
    assert len(converted) == len([k for k in shapes if not k.startswith("mano_head.")])


def test_authors_file(hand: HandModel, tmp_path: Path) -> None:
    """Wrapper, prefix, hand model's arrays; every number ends where it belongs."""
    shapes = _keys("hoisdf")
    # one stored number a key keeps the file small
    values = {
        f"module.{key}": torch.tensor(1 + index / 1024).expand(shape)
        for index, (key, shape) in enumerate(shapes.items())
    }
    path = tmp_path / "snapshot_69.pth.tar"
    torch.save({"epoch": 69, "network": values, "optimizer": {}, "lr_scheduler": {}}, path)
    network = official.load_official(path, hand=hand)
    state = network.state_dict()
    for ours, theirs in (
        ("hand_field.hidden.2.gain", "hand_sdf_decoder.linh2.weight_g"),
        ("object_head.encoder.norm.weight", "obj_transformer.encoder.inter_norm.weight"),
        ("decoder.up.8.0.weight", "decoder_net.resnet_decoder.deconv2.0.weight"),
        ("backbone.stage3.0.shortcut.0.weight", "backbone_net.resnet.layer3.0.downsample.0.weight"),
        (
            "hand_head.decoder.layers.3.cross_attention.out_proj.bias",
            "hand_transformer.decoder.layers.3.multihead_attn.out_proj.bias",
        ),
    ):
        assert float(state[ours].flatten()[0]) == float(values[f"module.{theirs}"].flatten()[0])
    assert not [key for key in state if "th_" in key or "mano" in key]

    del values["module.linear_shape.layers.1.bias"]
    values["module.surprise"] = torch.zeros(1)
    with pytest.raises(WeightsError, match="surprise"):
        official.convert(values)
    del values["module.surprise"]
    torch.save({"network": values}, path)
    with pytest.raises(WeightsError, match=r"hand_head\.shape\.layers\.1\.bias"):
        official.load_official(path, hand=hand)


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def test_file_with_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.pth"
    torch.save({"network": {"module.norm1.weight": _Code()}}, path)
    with pytest.raises(WeightsError, match="code"):
        official.load_official(path)
    assert not capsys.readouterr().out


def test_foreign_queries_are_named() -> None:
    with pytest.raises(WeightsError, match="queries"):
        official.config_for({"mano_query_embed.weight": torch.zeros(36, 256)})
    one = {"mano_query_embed.weight": torch.zeros(1, 256)}
    assert official.config_for(one).hand_head == "kinematics"
