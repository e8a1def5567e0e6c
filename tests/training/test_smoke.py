"""`handhold train METHOD-smoke`: 16 scenes, in memory, and what remains of the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from handhold.cli.main import main
from handhold.models.registry import MODELS
from handhold.training.recipes import smoke


def test_every_small_network_of_hands_has_a_recipe() -> None:
    small = {name for name in MODELS if name.endswith("-small")}
    assert {recipe().model for recipe in smoke.RECIPES.values()} == small
    for name, recipe in smoke.RECIPES.items():
        config = recipe()
        assert config.recipe == name and config.total_steps(smoke.SCENES) <= 1500
        assert config.data == (f"synthetic:0:{smoke.SCENES}",) and not config.augment


def test_the_command_learns_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The loss falls, and the error on the very scenes is printed and written down."""
    steps = ["--steps", "24", "--validate-steps", "12"]
    assert main(["train", "handoccnet-smoke", "--out", str(tmp_path), *steps]) == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss/total"] for row in rows if row["kind"] == "train"]
    assert losses[-1] < 0.6 * losses[0]
    errors = [row for row in rows if row["kind"] == "validation"]
    assert [row["step"] for row in errors] == [12, 24]
    last = errors[-1]["synthetic/pa_mpjpe_mm"]
    assert 0 < last < 40
    assert f"synthetic/pa_mpjpe_mm {last:.4g}" in " ".join(capsys.readouterr().out.split())
    for name in ("curves.png", "weights.safetensors"):
        assert (tmp_path / name).stat().st_size > 1000
