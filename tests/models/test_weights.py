"""Weights files of our own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from handhold.errors import MissingFileError, WeightsError
from handhold.models.hflnet.model import HFLNet, HFLNetConfig
from handhold.models.weights import all_finite, fit, make_config, read_weights, save_weights
from handhold.scene import Batch


@pytest.fixture
def network(tiny_hflnet: HFLNetConfig) -> HFLNet:
    torch.manual_seed(0)
    return HFLNet(tiny_hflnet).eval()


def test_round_trip(
    network: HFLNet, tiny_hflnet: HFLNetConfig, make_batch: Callable[..., Batch], tmp_path: Path
) -> None:
    path = save_weights(tmp_path / "new" / "a.safetensors", network, model="m", extra={"x": [1]})
    file = read_weights(path)
    assert (file.model, file.extra) == ("m", {"x": [1]})
    config = make_config(HFLNetConfig, file.config, "a")
    assert config == tiny_hflnet
    again = HFLNet(config).eval()
    fit(again, file.entries, "a")
    batch = make_batch(tiny_hflnet)
    with torch.no_grad():
        assert torch.equal(again(batch).vertices, network(batch).vertices)
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_half_precision(network: HFLNet, tmp_path: Path) -> None:
    path = save_weights(tmp_path / "a.safetensors", network, model="m", precision="fp16")
    whole = save_weights(tmp_path / "b.safetensors", network, model="m")
    with safe_open(path, framework="pt") as file:
        assert file.get_tensor("mano_head.pose.weight").dtype == torch.float16
        assert file.get_tensor("mano_head.pose.bias").dtype == torch.float32
    assert path.stat().st_size < 0.65 * whole.stat().st_size
    entries = read_weights(path).entries
    for key, value in network.state_dict().items():
        stored = entries[key]
        assert stored.dtype == value.dtype
        torch.testing.assert_close(stored, value, rtol=1e-3, atol=1e-6)


def test_hand_model_is_never_stored(network: HFLNet, tmp_path: Path) -> None:
    entries = read_weights(save_weights(tmp_path / "a.safetensors", network, model="m")).entries
    assert not [key for key in entries if key.startswith("hand.")]
    assert all(778 not in value.shape for value in entries.values())


def test_refuses_to_save_what_cannot_work(network: HFLNet, tmp_path: Path) -> None:
    with torch.no_grad():
        network.mano_head.pose.weight[0, 0] = 1e6
    with pytest.raises(WeightsError, match=r"mano_head\.pose\.weight.*fp16"):
        save_weights(tmp_path / "a.safetensors", network, model="m", precision="fp16")
    save_weights(tmp_path / "b.safetensors", network, model="m")
    with torch.no_grad():
        network.mano_head.pose.weight[0, 0] = torch.nan
    with pytest.raises(WeightsError, match="NaN"):
        save_weights(tmp_path / "c.safetensors", network, model="m")
    assert [p.name for p in tmp_path.iterdir()] == ["b.safetensors"]


def test_refuses_other_files(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(MissingFileError):
        read_weights(path)
    path.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="not a readable safetensors"):
        read_weights(path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match="found format 'none'"):
        read_weights(path)
    head = {"format": "handhold-1", "model": "m", "config": "{", "extra": "{}"}
    save_file({"a": torch.ones(1)}, path, metadata=head)
    with pytest.raises(WeightsError, match="configuration"):
        read_weights(path)
    save_file({"a": torch.tensor([torch.inf])}, path, metadata=head | {"config": "{}"})
    with pytest.raises(WeightsError, match="a holds NaN or infinite"):
        read_weights(path)


def test_configuration_from_json(tiny_hflnet: HFLNetConfig) -> None:
    fields = json.loads(json.dumps(dataclasses.asdict(tiny_hflnet)))
    assert make_config(HFLNetConfig, fields, "x") == tiny_hflnet
    with pytest.raises(WeightsError, match=r"x: .*unknown fields colour"):
        make_config(HFLNetConfig, fields | {"colour": 1}, "x")
    with pytest.raises(WeightsError, match=r"x: .*heads"):
        make_config(HFLNetConfig, fields | {"heads": 5}, "x")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_bad_number_is_found(value: float) -> None:
    for number in (0, 7, 29):
        line = torch.linspace(-1, 1, 30)
        assert all_finite(line.reshape(5, 6))
        line[number] = value
        assert not all_finite(line.reshape(5, 6).t())
        assert not all_finite(line.half())
    assert all_finite(torch.zeros(0, 3))
    assert all_finite(torch.tensor([3]))
