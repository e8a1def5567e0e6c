"""Importing the authors' checkpoints: keys, wrappers, and files that must be refused.

The key lists are those of the original implementations (golden files); the files are made here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.official_file import Danger, empty, made_up
from tests.models.official_file import shapes as shapes_of
from torch import Tensor, nn

from handhold.errors import InputError, MissingFileError, WeightsError
from handhold.hand.model import HandModel
from handhold.models.hflnet import official as hflnet
from handhold.models.hflnet.model import HFLNet, HFLNetConfig
from handhold.models.unihope import official as unihope
from handhold.models.unihope.model import UniHOPE, UniHOPEConfig
from handhold.models.weights import OfficialFile, fit, read_official, rename

DATA = Path(__file__).parents[1] / "golden" / "data"


def _network(kind: type[nn.Module], config: Any, hand: HandModel) -> nn.Module:
    with torch.device("meta"):
        return kind(config, hand)


@pytest.mark.parametrize("name", ["hflnet", "unihope"])
def test_keys_map_one_to_one(name: str, hand: HandModel) -> None:
    entries = made_up(name, "meta")
    kind, config, convert = {
        "hflnet": (HFLNet, HFLNetConfig(), hflnet.convert),
        "unihope": (UniHOPE, UniHOPEConfig(), unihope.convert),
    }[name]
    converted = convert(entries)
    own = _network(kind, config, hand).state_dict()
    assert set(converted) == set(own)
    assert all(converted[key].shape == own[key].shape for key in own)
    dropped = [k for k in entries if "mano_layer" in k or k.endswith((".uu", ".vv"))]
    assert len(converted) == len(entries) - len(dropped)


def test_legacy_keys(hand: HandModel) -> None:
    told = json.loads((DATA / "unihope.json").read_text())["state_dict_legacy_difference"]
    shapes = shapes_of("unihope") | {key: tuple(shape) for key, shape in told.items()}
    config = unihope.config_for(empty(shapes))
    assert config.switch_legacy
    assert config.input_size == 128
    own = _network(UniHOPE, config, hand).state_dict()
    converted = unihope.convert(empty(shapes))
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in own.items()}


def test_input_size_is_read_from_the_switch() -> None:
    shapes = shapes_of("unihope") | {"obj_conf_layer.2.weight": (2, 64 * 64 * 64)}
    assert unihope.config_for(empty(shapes)).input_size == 256
    shapes["obj_conf_layer.2.weight"] = (2, 1000)
    with pytest.raises(WeightsError, match="1000"):
        unihope.config_for(empty(shapes))
    with pytest.raises(WeightsError, match="obj_conf_layer"):
        unihope.config_for(made_up("hflnet", "meta"))


def test_single_keys() -> None:
    entries = made_up("hflnet")
    found = hflnet.convert(entries)
    for ours, theirs in {
        "backbone.object_stage3.4.conv2.weight": "base_net.layer3_o.0.4.conv2.weight",
        "hand_encoder.units.5.norm2.running_mean": "hand_encoder.reg.5.bn1.running_mean",
    }.items():
        assert torch.equal(found[ours], entries[theirs]), ours


def test_origin() -> None:
    def file(keys: list[str], *wrapper: str) -> OfficialFile:
        entries = {key: torch.zeros(1) for key in keys}
        return OfficialFile(path=Path("x.pth"), entries=entries, wrapper=frozenset(wrapper))

    key = "hand_head.betas"
    original, copied = HFLNetConfig.original(), HFLNetConfig()
    assert original.heads == 4
    assert copied.heads == 8
    assert hflnet.config_for(file([key], "epoch", "network")) == original
    assert hflnet.config_for(file([f"honet.module.{key}"])) == original
    assert hflnet.config_for(file([f"module.{key}"], "optimizer", "scheduler", "step")) == copied
    assert hflnet.config_for(file([key]), "original") == original
    with pytest.raises(InputError, match="attention heads"):
        hflnet.config_for(file([key]))


class _Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.norm = nn.BatchNorm1d(3)


RULES = ((r"conv\.(.*)", r"layer.\1"), (r"bn\.(.*)", r"norm.\1"))


def _small_entries() -> dict[str, Tensor]:
    names = {"layer": "conv", "norm": "bn"}
    state = _Small().state_dict()
    return {f"{names[k.split('.')[0]]}.{k.split('.', 1)[1]}": v for k, v in state.items()}


def test_gaps_and_leftovers_are_named() -> None:
    network = _Small()
    whole = rename({f"module.{k}": v for k, v in _small_entries().items()}, RULES, ("module.",))
    fit(network, whole, "file")
    assert torch.equal(network.layer.weight, whole["layer.weight"])
    with pytest.raises(WeightsError, match=r"lacks: strange\.key"):
        rename(_small_entries() | {"strange.key": torch.zeros(1)}, RULES)
    with pytest.raises(WeightsError, match=r"missing layer\.bias"):
        fit(network, {k: v for k, v in whole.items() if k != "layer.bias"}, "file")
    with pytest.raises(WeightsError, match=r"left over more"):
        fit(network, whole | {"more": torch.zeros(1)}, "file")
    with pytest.raises(WeightsError, match=r"layer\.bias \(4,\) instead of \(3,\)"):
        fit(network, whole | {"layer.bias": torch.zeros(4)}, "file")
    with pytest.raises(WeightsError, match=r"NaN .*layer\.bias"):
        fit(network, whole | {"layer.bias": torch.full((3,), torch.nan)}, "file")
    counter = {k: v for k, v in whole.items() if k != "norm.num_batches_tracked"}
    fit(network, counter, "file")  # files older than PyTorch 0.4.1 have none


def test_two_keys_for_one() -> None:
    with pytest.raises(WeightsError, match=r"layer\.bias"):
        rename(
            {"conv.bias": torch.zeros(1), "lin.bias": torch.zeros(1)},
            (*RULES, (r"lin\.(.*)", r"layer.\1")),
        )


@pytest.mark.parametrize("protocol", [True, False])
def test_scores_and_optimiser_state_are_read(tmp_path: Path, protocol: bool) -> None:
    """NumPy scalars beside the weights, as UniHOPE's files hold; both file formats of PyTorch."""
    path = tmp_path / "model.pth"
    torch.save(
        {
            "state_dict": {"a": torch.ones(2)},
            "optimizer": {"lr": np.float64(0.1), "state": {0: {"step": np.int64(4)}}},
            "score_status": {"best": np.float32(1.5), "all": np.arange(3.0)},
        },
        path,
        _use_new_zipfile_serialization=protocol,
    )
    file = read_official(path)
    assert file.entries["a"].tolist() == [1, 1]
    assert file.wrapper == {"optimizer", "score_status"}


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": Danger()}, path)
    with pytest.raises(WeightsError, match="objects other than tensors"):
        read_official(path)
    assert not Danger.ran


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable"),
        (b"PK\x03\x04 nothing more", "not a readable"),
        (b"hello, this is text", "not a readable|other than tensors"),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_official(path)


def test_other_contents(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save([torch.ones(1)], path)
    with pytest.raises(WeightsError, match="dictionary, found list"):
        read_official(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(WeightsError, match="epoch"):
        read_official(path)
    with pytest.raises(MissingFileError, match="no such"):
        read_official(tmp_path / "none.pth")
