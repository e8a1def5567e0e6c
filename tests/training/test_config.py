"""Schedules against their closed forms; configurations survive JSON and refuse nonsense."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from handhold.errors import FileFormatError, InputError
from handhold.training.config import TrainConfig
from handhold.training.recipes import RECIPES
from handhold.training.recipes.papers import (
    grasp_classifier,
    hflnet,
    unihope_stage1,
    unihope_stage2,
)


def test_rate_is_tied_to_the_batch() -> None:
    config = TrainConfig(model="x", steps=1, lr=1e-4, lr_batch=64, batch_size=16)
    assert config.peak_lr == pytest.approx(2.5e-5)
    assert dataclasses.replace(config, lr_batch=0).peak_lr == 1e-4


def test_step_schedule_of_the_papers() -> None:
    config = hflnet()  # 1e-4, x0.7 every 5 epochs, 40 epochs, batch 64
    items = 6400  # 100 steps an epoch
    assert config.total_steps(items) == 4000
    for epoch in range(40):
        for step in (100 * epoch, 100 * epoch + 99):
            expected = 1e-4 * 0.7 ** (epoch // 5)
            assert config.lr_at(step, items) == pytest.approx(expected, rel=1e-12)
    first, second = unihope_stage1(), unihope_stage2()
    assert (first.epochs, second.epochs) == (30, 40)
    assert second.lr_at(0, items) == pytest.approx(1.18e-5, rel=5e-3)
    assert first.pairs and second.pairs and second.loss == {"enhancement": True}


def test_milestones() -> None:
    config = grasp_classifier()  # 5e-5, x0.1 at 25 and 30, 38 epochs, batch 64
    items = 6400  # 100 steps an epoch
    assert config.total_steps(items) == 3800
    for epoch, power in {0: 0, 24: 0, 25: 1, 29: 1, 30: 2, 37: 2}.items():
        for step in (100 * epoch, 100 * epoch + 99):
            assert config.lr_at(step, items) == pytest.approx(5e-5 * 0.1**power, rel=1e-12)


def test_cosine_with_warm_up() -> None:
    config = TrainConfig(model="x", steps=110, lr=1.0, schedule="cosine", warmup=10, final_lr=0.1)
    for step in range(10):
        assert config.lr_at(step, 1) == pytest.approx((step + 1) / 11)
    for step in range(10, 110):
        expected = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 10) / 100))
        assert config.lr_at(step, 1) == pytest.approx(expected)


def test_one_cycle_rises_then_falls() -> None:
    config = TrainConfig(model="x", steps=100, lr=2.0, schedule="one_cycle", final_lr=0.01)
    rates = [config.lr_at(step, 1) for step in range(100)]
    assert rates[0] == pytest.approx(2 / 25) and max(rates) == rates[30] == pytest.approx(2.0)
    assert rates[:31] == sorted(rates[:31]) and rates[30:] == sorted(rates[30:], reverse=True)
    assert config.lr_at(100, 1) == pytest.approx(0.02)


def test_length_in_epochs_rounds_up() -> None:
    config = TrainConfig(model="x", epochs=1.5, batch_size=8)
    assert config.total_steps(100) == 19
    assert TrainConfig(model="x", steps=7).total_steps(100) == 7


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json_and_carry_their_name(name: str) -> None:
    config = RECIPES[name]()
    assert config.recipe == name
    assert TrainConfig.from_json(config.to_json()) == config
    assert RECIPES[name](batch_size=12).batch_size == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "either steps or epochs"),
        ({"steps": 1, "epochs": 1.0}, "either steps or epochs"),
        ({"steps": 1, "batch_size": 0}, "batch_size: expected 1 or more"),
        ({"steps": 1, "batch_size": 3, "devices": 2}, "3 cannot be shared by 2"),
        ({"steps": 1, "schedule": "linear"}, "schedule: expected one of constant, step"),
        ({"steps": 1, "ema": 1.0}, "0 <= ema < 1"),
        ({"steps": 1, "lr": 0.0}, "lr, decay_epochs"),
        ({"steps": 1, "lr": float("nan")}, "lr, decay_epochs"),
        ({"steps": 1, "warmup": -1}, "warmup: expected 0 or more"),
        ({"steps": 1, "data": ()}, "at least one source"),
    ],
)
def test_nonsense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig(model="x", **changes)


def test_json_that_does_not_fit_is_named() -> None:
    with pytest.raises(FileFormatError, match="here: unknown fields colour"):
        TrainConfig.from_json('{"model": "x", "colour": 1}', "here")
    with pytest.raises(FileFormatError, match="here: not a training configuration"):
        TrainConfig.from_json("[", "here")


def test_what_may_change_in_a_continuation() -> None:
    config = TrainConfig(model="x", steps=10)
    dataclasses.replace(config, steps=0, epochs=2.0, workers=3).check_continues(config)
    with pytest.raises(InputError, match="batch_size=32, not 16"):
        dataclasses.replace(config, batch_size=16).check_continues(config)
