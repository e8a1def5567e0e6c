"""HandBooster's denoiser beside the goldens: its file, its loss, and what it refuses."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from handhold.cli.weights import import_weights
from handhold.errors import InputError, MissingExtraError, WeightsError
from handhold.models.handbooster import official
from handhold.models.handbooster.loss import HandBoosterLossConfig, loss
from handhold.models.handbooster.model import HandBoosterConfig, HandBoosterUNet
from handhold.models.handbooster.weights import load_denoiser, save_denoiser
from handhold.models.weights import read_weights
from handhold.synthesis.diffusion import schedule

KEYS = Path(__file__).parents[1] / "golden" / "data" / "handbooster_unet.json"
TINY = HandBoosterConfig(input_size=16, width=8, multipliers=(1, 2), embedding=8, head_width=4)


def given(count: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    images = [torch.randn(count, 3, 16, 16, generator=draw) for _ in range(3)]
    turned = torch.nn.functional.normalize(torch.randn(count, 4, generator=draw), dim=1)
    return (*images, torch.arange(count) * 100, turned)


def test_parameter_count_equals_the_paper_code() -> None:
    with torch.device("meta"):
        network, small = HandBoosterUNet(), HandBoosterUNet(HandBoosterConfig.small())
    told = json.loads(KEYS.read_text())
    assert sum(p.numel() for p in network.parameters()) == told["parameters"] == 38_417_795
    assert sum(p.numel() for p in small.parameters()) == 738_019


# ------------------------------------------------------------------------------- the authors' file


def authors_file(path: Path, *, averaged: bool) -> dict[str, Tensor]:
    """A checkpoint in the layout of the released one; returns what should be read from it."""
    shapes = json.loads(KEYS.read_text())["state_dict"]
    draw = torch.Generator().manual_seed(0)
    # one number an entry is enough to see where it went
    live = {k: torch.rand(1, generator=draw).expand(tuple(s)) for k, s in shapes.items()}
    better = {k: v + 1 for k, v in live.items()}
    constants = {name: torch.zeros(1000) for name in official.SCHEDULE}
    file = {
        "step": 700_000,
        "model": {f"model.{k}": v for k, v in live.items()} | constants,
        "opt": {"state": {}, "param_groups": []},
        "scaler": None,
        "version": "1.0",
    }
    if averaged:
        file["ema"] = (
            {f"ema_model.model.{k}": v for k, v in better.items()}
            | {f"ema_model.{k}": v for k, v in constants.items()}
            | {f"online_model.model.{k}": v for k, v in live.items()}
            | {f"online_model.{k}": v for k, v in constants.items()}
            | {"initted": torch.tensor(True), "step": torch.tensor(700_000)}
        )
    torch.save(file, path)
    return better if averaged else live


@pytest.mark.parametrize("averaged", [True, False])
def test_import(tmp_path: Path, averaged: bool) -> None:
    told = authors_file(tmp_path / "model-700.pt", averaged=averaged)
    out = tmp_path / "out.safetensors"
    import_weights("handbooster", tmp_path / "model-700.pt", out=out, precision="fp16")
    stored = read_weights(out)
    assert stored.model == "handbooster" and stored.hand is None
    assert stored.extra["source"]["file"] == "model-700.pt"
    network = load_denoiser(out)
    expected = {key: float(value.flatten()[0]) for key, value in told.items()}
    for ours, theirs in (
        (network.stem.weight, "init_conv.weight"),
        (network.no_orientation, "null_classes_emb"),
        (network.down[1].block2.norm2.bias, "downs.1.1.block2.norm.bias"),
        (network.down[3].resample.weight, "downs.3.3.weight"),
        (network.up[0].resample.weight, "ups.0.3.1.weight"),
        (network.up[3].resample.bias, "ups.3.3.bias"),
        (network.up[2].attention.out_norm.gain, "ups.2.2.fn.fn.to_out.1.g"),
        (network.middle_attention.norm.gain, "mid_attn.fn.norm.g"),
    ):
        assert float(ours.detach().flatten()[0]) == pytest.approx(expected[theirs], abs=1e-3), (
            theirs
        )


def test_strange_files_are_refused(tmp_path: Path) -> None:
    entries = {"init_conv.weight": torch.zeros(64, 9, 7, 7)}
    torch.save({"model": entries | {"extra.weight": torch.zeros(1)}}, tmp_path / "more.pt")
    with pytest.raises(WeightsError, match=r"extra\.weight"):
        official.load_official(tmp_path / "more.pt")
    torch.save({"model": entries}, tmp_path / "less.pt")
    with pytest.raises(WeightsError, match=r"less\.pt: does not fit the network: missing"):
        official.load_official(tmp_path / "less.pt")


def test_own_file_round_trip(tmp_path: Path) -> None:
    network = HandBoosterUNet(TINY).eval()
    path = save_denoiser(tmp_path / "a.safetensors", network, {"note": 1})
    again = load_denoiser(path)
    assert again.config == TINY
    torch.testing.assert_close(again(*given()), network(*given()), rtol=0, atol=0)


# ------------------------------------------------------------------------------------ the network


def test_every_condition_counts_and_every_parameter_learns() -> None:
    torch.manual_seed(0)
    network = HandBoosterUNet(TINY)
    inputs = given()
    keep = torch.tensor([True, False])
    network(*inputs, keep).square().mean().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle
    first = network(*inputs, keep)
    for place in range(5):
        changed = list(inputs)
        changed[place] = changed[place].flip(0) if place == 3 else -changed[place]
        other = network(*changed, keep)
        moved = (other - first).flatten(1).abs().amax(1)
        assert moved[0] > 1e-4
        assert (moved[1] > 1e-4) == (place != 4)  # its orientation is dropped


def test_wrong_sizes_are_named() -> None:
    network, inputs = HandBoosterUNet(TINY), list(given())
    for place, name in ((1, "texture"), (3, "time"), (4, "quaternion")):
        with pytest.raises(InputError, match=rf"^{name}: expected"):
            network(*(x[:1] if n == place else x for n, x in enumerate(inputs)))
    with pytest.raises(InputError, match="sides divisible by 2"):
        network(*(x[..., :15] if n < 3 else x for n, x in enumerate(inputs)))
    for wrong in ({"width": 12}, {"input_size": 20}, {"first_beta": 0.0}, {"timesteps": 0}):
        with pytest.raises(InputError, match="HandBoosterConfig: expected"):
            HandBoosterConfig(**wrong)


# --------------------------------------------------------------------------------------- the loss


def test_foreground_weighs_ten_times_the_background() -> None:
    target, clean = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    foreground = torch.zeros(1, 1, 4, 4)
    foreground[..., 1, 2] = 1
    snr = torch.ones(1)
    found = []
    for row, column in ((1, 2), (0, 0)):
        clean = torch.zeros(1, 3, 4, 4)
        clean[:, 0, row, column] = 0.5
        found.append(float(loss(clean, target, snr, foreground)["total"]))
    assert found == pytest.approx([0.5 / 48, 0.05 / 48])
    inert = HandBoosterLossConfig.released()
    assert float(loss(clean, target, snr, None, inert)["total"]) == pytest.approx(0.05 / 48)
    with pytest.raises(InputError, match="foreground"):
        loss(clean, target, snr)


def test_largest_snr() -> None:
    clean, target = torch.ones(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    ones, snr = torch.ones(2, 1, 2, 2), torch.tensor([9999.0, 0.5])
    limited = HandBoosterLossConfig(largest_snr=5.0)
    assert float(loss(clean, target, snr, ones, limited)["total"]) == pytest.approx(2.75)
    with pytest.raises(InputError, match="largest_snr"):
        HandBoosterLossConfig(largest_snr=-math.inf)


# -------------------------------------------------------------------------------------- the extra


def test_without_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'handhold\[diffusion\]'"):
        schedule.ancestral(TINY)


def test_the_network_needs_no_diffusers() -> None:
    code = (
        "import sys, handhold.models.handbooster.official, handhold.synthesis.diffusion.generate;"
        "print('diffusers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
