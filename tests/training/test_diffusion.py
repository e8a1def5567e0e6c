"""HandBooster's denoiser as a training task: it learns, resumes, and refuses what it cannot use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handhold.errors import InputError
from handhold.models.handbooster.model import HandBoosterConfig
from handhold.models.handbooster.weights import load_denoiser
from handhold.scene import Camera, Hand, Sample
from handhold.synthesis.shards import write_shards
from handhold.training.build import build_task
from handhold.training.config import TrainConfig
from handhold.training.module import make_optimizer
from handhold.training.recipes import RECIPES
from handhold.training.run import train

TINY: dict[str, Any] = {
    "input_size": 16,
    "width": 8,
    "multipliers": [1, 2],
    "embedding": 16,
    "head_width": 4,
}
CAMERA = Camera(intrinsics=np.array([[50.0, 0, 20], [0, 50, 20], [0, 0, 1]]), width=40, height=40)


def disc(number: int) -> Sample:
    """A disc whose colour in the photo follows from that of its map."""
    rng = np.random.default_rng(number)
    middle, colour = rng.uniform(16, 24, 2), rng.integers(60, 250, 3)
    rows, columns = np.mgrid[:40, :40]
    inside = np.hypot(columns - middle[0], rows - middle[1]) < 8
    texture, normal = np.zeros((2, 40, 40, 3), np.uint8)
    texture[inside], normal[inside] = colour, (128, 128, 255)
    image = np.full((40, 40, 3), 40, np.uint8)
    image[inside] = colour[::-1]
    angle = np.linspace(0, 2 * np.pi, 21)
    joints = middle + 8 * np.stack([np.cos(angle), np.sin(angle)], -1)
    pose = np.zeros((16, 3))
    pose[0] = rng.normal(0, 1, 3)
    hand = Hand(side="right", joints2d=joints, pose=pose)
    maps = {"texture_map": texture, "normal_map": normal}
    return Sample(key=f"disc{number}", image=image, camera=CAMERA, hands=(hand,), **maps)


def config(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "model": "handbooster",
        "network": TINY,
        "loss": {"largest_snr": 5.0},
        "steps": 1,
        "batch_size": 8,
        "augment": False,
    }
    return TrainConfig(**(values | changes))


def test_it_learns_what_the_maps_say() -> None:
    """The colour of the disc is in its map alone, the photo being almost pure noise."""
    torch.manual_seed(0)
    chosen = config(lr=5e-3)
    task = build_task(chosen)
    train_on, judged_on = (
        task.encode([(disc(n), 0) for n in range(first, first + 8)], None) for first in (0, 100)
    )
    optimizer = make_optimizer(task.network, chosen)

    def errors() -> dict[str, float]:
        with torch.no_grad():
            found = task.measures(task.network.eval(), judged_on)
        task.network.train()
        return {name: total / count for name, (total, count) in found.items()}

    before = errors()
    assert list(before) == ["foreground_error_20%", "foreground_error_50%", "foreground_error_80%"]
    for _ in range(120):
        optimizer.zero_grad()
        task.losses(task.network, train_on)["total"].backward()
        optimizer.step()
    after = errors()
    assert all(after[name] < 0.5 * before[name] for name in before), (before, after)
    assert errors() == after  # the same noise every time


def test_half_of_the_orientations_are_dropped() -> None:
    task = build_task(config())
    batch = task.encode([(disc(n), 0) for n in range(200)], None)
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, noisy: Any, texture: Any, normal: Any, time: Any, turned: Any, keep: Any):
            seen.append((time, keep, noisy))
            return noisy

    torch.manual_seed(3)
    task.losses(Spy(), batch)
    time, keep, noisy = seen[0]
    assert 70 < int(keep.sum()) < 130
    assert int(time.min()) < 50 and int(time.max()) > 950
    late = noisy[time > 900]  # hardly anything of the crop is left
    assert float(late.mean().abs()) < 0.1 and float(late.std()) == pytest.approx(1, abs=0.1)


def test_a_continued_run_is_the_same_run(tmp_path: Path) -> None:
    write_shards((disc(n) for n in range(24)), tmp_path / "discs")
    common = {
        "data": (f"shards:{tmp_path / 'discs'}",),
        "ema": 0.9,
        "betas": (0.9, 0.99),
        "batch_size": 4,
        "validate_steps": 3,
    }
    whole = train(config(steps=6, **common), build_task, tmp_path / "whole")
    train(config(steps=3, **common), build_task, tmp_path / "part")
    part = train(config(steps=6, **common), build_task, tmp_path / "part")
    one, other = (load_denoiser(result.weights) for result in (whole, part))
    assert one.config == HandBoosterConfig(**TINY)
    for (name, first), second in zip(
        one.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(first, second), name
    measured = [row for row in whole.rows if row["kind"] == "validation"]
    assert any("foreground_error_50%" in name for name in measured[-1])


@pytest.mark.parametrize("name", ["handbooster-diffusion", "handbooster-small"])
def test_recipes(name: str) -> None:
    recipe = RECIPES[name]()
    settings = HandBoosterConfig(**recipe.network)
    expected = HandBoosterConfig.small() if name.endswith("small") else HandBoosterConfig()
    assert settings == expected and recipe.ema and not recipe.augment
    optimizer = make_optimizer(torch.nn.Linear(2, 2), replace(recipe, betas=(0.5, 0.6)))
    assert optimizer.defaults["betas"] == (0.5, 0.6)


def test_what_it_refuses() -> None:
    with pytest.raises(InputError, match="no augmentation"):
        build_task(config(augment=True))
    with pytest.raises(InputError, match=r"handbooster, loss: .*'colour'"):
        build_task(config(loss={"colour": 1}))
    with pytest.raises(InputError, match=r"TrainConfig\.betas"):
        config(betas=(0.9, 1.0))
    with pytest.raises(InputError, match="disc1: it has no texture_map"):
        build_task(config()).encode([(replace(disc(1), texture_map=None), 0)], None)
