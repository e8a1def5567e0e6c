"""A run learns, stops, goes on bit for bit, and refuses what cannot go on."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from stub import DotNetwork, encode, losses, make_folder, stub_task

from handhold.errors import (
    FileFormatError,
    InputError,
    MissingFileError,
    TrainingError,
    WeightsError,
)
from handhold.training.checkpoints import load_checkpoint, start_from
from handhold.training.config import TrainConfig
from handhold.training.module import Ema, TrainingModule, make_optimizer
from handhold.training.run import train
from handhold.training.stages import train_stages
from handhold.training.stream import BatchStream

FILES = ("config.json", "curves.png", "last.ckpt", "metrics.jsonl", "weights.safetensors")


def config(dots: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "model": "dot",
        "data": (f"shards:{dots}",),
        "steps": 30,
        "batch_size": 8,
        "lr": 3e-3,
        "schedule": "cosine",
        "warmup": 3,
        "ema": 0.9,
        "clip_norm": 50.0,
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "log_steps": 5,
        "validate_steps": 15,
    }
    return TrainConfig(**(values | changes))


class Interrupting:
    """An encoder that presses Ctrl-C at its n-th training batch."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, items: Any, rng: Any) -> Any:
        if rng is not None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)
        return encode(items, rng)


def test_it_learns_and_leaves_everything_a_reader_needs(
    dots: Path, new_dots: Path, tmp_path: Path
) -> None:
    new = (f"shards:{new_dots}",)
    wanted = config(dots, steps=200, validate_steps=100, lr=1e-2, validation=new)
    result = train(wanted, stub_task, tmp_path / "run")
    assert (result.done, result.total, result.stopped) == (200, 200, None)
    held = [row["shards/wrist_px"] for row in result.rows if row["kind"] == "validation"]
    assert len(held) == 2 and held[-1] < 2.5  # a guess at the middle is 4.6 px off
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == [
        "config.json",
        "curves.png",
        "last.ckpt",
        "metrics.jsonl",
        "weights.safetensors",
    ]
    assert TrainConfig.from_json((tmp_path / "run/config.json").read_text()) == wanted
    with safe_open(result.weights, "pt") as file:
        assert TrainConfig.from_json(file.metadata()["training"]) == wanted
    checkpoint = load_checkpoint(tmp_path / "run/last.ckpt")
    exported = load_file(result.weights)
    assert exported.keys() == checkpoint.state["ema"].keys()
    for name, value in exported.items():
        assert torch.equal(value, checkpoint.state["ema"][name])
    assert not torch.equal(exported["conv.weight"], checkpoint.state["network"]["conv.weight"])
    assert (tmp_path / "run/curves.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("workers", [0, 1])
def test_stopped_and_continued_equals_uninterrupted(
    dots: Path, tmp_path: Path, workers: int
) -> None:
    slow = {"lr_factors": {"conv": 0.1}}
    whole = train(config(dots, **slow), stub_task, tmp_path / "whole")
    broken = config(dots, workers=workers, **slow)
    if workers:
        half = train(dataclasses.replace(broken), stub_task, tmp_path / "x", time_limit=1e-9)
        assert half.stopped == "the time limit of 1e-09 minutes" and half.done == 1
    else:
        task = partial(stub_task, encode=Interrupting(12))
        half = train(broken, task, tmp_path / "x")
        assert half.stopped == "SIGINT" and half.done == 12
    assert half.weights.exists()
    rest = train(broken, stub_task, tmp_path / "x")
    assert rest.stopped is None and rest.done == 30
    one, two = (load_checkpoint(r.folder / "last.ckpt").state for r in (whole, rest))
    for part in ("network", "ema"):
        for name, value in one[part].items():
            assert torch.equal(value, two[part][name]), name
    for key, state in one["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, two["optimizer"]["state"][key][name])
    last = broken.lr_at(29, 57)
    for state in (one, two):
        rates = [group["lr"] for group in state["optimizer"]["param_groups"]]
        assert rates == [0.1 * last, last, 0.1 * last, last]  # matrices, then biases

    def held(result: Any) -> list[Any]:
        return [row for row in result.rows if row["kind"] == "validation"]

    assert held(whole) == held(rest)
    written = (tmp_path / "x/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == rest.rows


def test_a_finished_run_can_be_lengthened_but_not_changed(dots: Path, tmp_path: Path) -> None:
    flat = config(dots, schedule="constant", warmup=0)
    train(dataclasses.replace(flat, steps=10), stub_task, tmp_path / "x")
    longer = train(dataclasses.replace(flat, steps=20), stub_task, tmp_path / "x")
    once = train(dataclasses.replace(flat, steps=20), stub_task, tmp_path / "y")
    for name, value in load_file(once.weights).items():
        assert torch.equal(value, load_file(longer.weights)[name])
    with pytest.raises(InputError, match=r"lr=0\.003, not 0\.5; .*--fresh"):
        train(dataclasses.replace(flat, lr=0.5), stub_task, tmp_path / "x")
    again = train(dataclasses.replace(flat, lr=0.01), stub_task, tmp_path / "x", fresh=True)
    assert again.done == 30 and again.rows[0]["step"] == 5


def test_a_loss_that_is_not_finite_stops_at_once(dots: Path, tmp_path: Path) -> None:
    calls = 0

    def explode(network: Any, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        terms = losses(network, batch)
        return {k: v * float("nan") for k, v in terms.items()} if calls == 7 else terms

    with pytest.raises(TrainingError, match=r"step 6: .*not finite \(wrist nan.*samples: dot\d+"):
        train(config(dots, checkpoint_steps=5), partial(stub_task, losses=explode), tmp_path / "x")
    kept = load_checkpoint(tmp_path / "x/last.ckpt")
    assert kept.done == 5 and int(kept.state["network"]["norm.num_batches_tracked"]) == 5

    def steep(network: Any, batch: Any) -> Any:
        terms = losses(network, batch)
        total = terms["total"] * 0 + (network.linear.bias[0] - network.linear.bias[0]).sqrt()
        return {"total": total}

    with pytest.raises(TrainingError, match="step 0: the gradient's norm is nan"):
        train(config(dots), partial(stub_task, losses=steep), tmp_path / "z")


def test_a_run_without_labels_stops(dots: Path, tmp_path: Path) -> None:
    """After 20 steps in a row without one, or the whole of a shorter run; a taught step between
    starts the count anew."""
    calls = 0

    def teach_at(*taught: int) -> Any:
        def sometimes(network: Any, batch: Any) -> Any:
            nonlocal calls
            calls += 1
            terms = losses(network, batch)
            return terms if calls - 1 in taught else {k: v * 0 for k, v in terms.items()}

        nonlocal calls
        calls = 0
        return partial(stub_task, losses=sometimes)

    told = r"no label for dot in the last samples \(wrist\); samples: dot\d+"
    with pytest.raises(TrainingError, match=f"^step 41: {told}"):
        train(config(dots, steps=60), teach_at(0, 1, 21), tmp_path / "long")
    with pytest.raises(TrainingError, match=f"^step 4: {told}"):
        train(config(dots, steps=5), teach_at(), tmp_path / "short")
    assert train(config(dots, steps=22), teach_at(19), tmp_path / "taught").done == 22


def test_bf16_and_channels_last_train_too(dots: Path, new_dots: Path, tmp_path: Path) -> None:
    fast = {"precision": "bf16", "channels_last": True, "validation": f"shards:{new_dots}"}
    result = train(config(dots, steps=60, lr=1e-2, **fast), stub_task, tmp_path)
    assert result.rows[-1]["shards/wrist_px"] < 4.2
    assert all(v.dtype != torch.bfloat16 for v in load_file(result.weights).values())


def test_checkpoints_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no checkpoint there"):
        load_checkpoint(tmp_path / "last.ckpt")
    (tmp_path / "last.ckpt").write_bytes(b"nothing")
    with pytest.raises(FileFormatError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "last.ckpt")


def test_starting_from_weights_takes_what_fits(dots: Path, tmp_path: Path) -> None:
    first = train(config(dots, steps=5), stub_task, tmp_path / "a")
    for file in (first.weights, first.folder / "last.ckpt"):
        network = DotNetwork()
        network.linear = torch.nn.Linear(3, 2)
        fresh = network.linear.weight.clone()
        assert start_from(file, network) == ["linear.weight"]
        assert torch.equal(network.conv.weight, load_file(first.weights)["conv.weight"])
        assert torch.equal(network.linear.weight, fresh)
    still = config(dots, steps=1, lr=1e-12, ema=0.0, start_from=str(first.weights))
    second = train(still, stub_task, tmp_path / "b")
    expected = load_file(first.weights)["conv.weight"]
    torch.testing.assert_close(
        load_file(second.weights)["conv.weight"], expected, atol=1e-9, rtol=0
    )
    with pytest.raises(WeightsError, match="none of its 9 tensors fits"):
        start_from(first.weights, torch.nn.Linear(5, 5))
    with pytest.raises(MissingFileError, match="no weights there"):
        start_from(tmp_path / "none.safetensors", DotNetwork())


def test_stages_start_from_each_other_and_go_on(dots: Path, tmp_path: Path) -> None:
    stages = [config(dots, steps=n, lr=rate, ema=0.0) for n, rate in ((6, 1e-2), (4, 1e-12))]
    last = train_stages(stages, stub_task, tmp_path)
    assert last.folder.name == "stage2" and last.done == 4
    first = load_file(tmp_path / "stage1/weights.safetensors")
    torch.testing.assert_close(
        load_file(last.weights)["conv.weight"], first["conv.weight"], atol=1e-9, rtol=0
    )
    when = (tmp_path / "stage1/last.ckpt").stat().st_mtime_ns
    again = train_stages(stages, stub_task, tmp_path)
    assert again.done == 4 and (tmp_path / "stage1/last.ckpt").stat().st_mtime_ns == when
    stopped = train_stages(stages, stub_task, tmp_path / "x", time_limit=1e-9)
    assert stopped.folder.name == "stage1" and not (tmp_path / "x/stage2").exists()
    with pytest.raises(InputError, match="at least one stage"):
        train_stages([], stub_task, tmp_path)


def test_average_follows_its_formula() -> None:
    torch.manual_seed(0)
    network = DotNetwork()
    ema = Ema(network, 0.5)
    ema.attach(network)
    expected = network.linear.bias.detach().clone().double()
    for step in range(6):
        with torch.no_grad():
            network.linear.bias.add_(torch.randn(2))
            network.norm.num_batches_tracked.add_(1)  # type: ignore[union-attr,operator]
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network.linear.bias.detach()
    torch.testing.assert_close(ema.values["linear.bias"].double(), expected, atol=1e-6, rtol=0)
    assert int(ema.values["norm.num_batches_tracked"]) == 6
    assert "scale" not in ema.values


def test_adamw_spares_biases_and_adam_does_not() -> None:
    network = DotNetwork()
    plain = TrainConfig(model="x", steps=1, weight_decay=0.1)
    assert [g["weight_decay"] for g in make_optimizer(network, plain).param_groups] == [0.1]
    decoupled = make_optimizer(network, dataclasses.replace(plain, optimizer="adamw"))
    assert {
        (p.ndim > 1, g["weight_decay"]) for g in decoupled.param_groups for p in g["params"]
    } == {
        (True, 0.1),
        (False, 0.0),
    }


def test_parts_learn_at_their_own_rates(dots: Path, tmp_path: Path) -> None:
    """The first step of Adam is the learning rate, whatever the gradient."""
    network = DotNetwork()
    before = {name: value.clone() for name, value in network.named_parameters()}
    factors = {"conv": 0.1, "conv.bias": 4.0, "linear": 0.5}
    chosen = config(dots, steps=1, lr=1e-2, optimizer="adam", weight_decay=0.0, warmup=0)
    chosen = dataclasses.replace(chosen, schedule="constant", lr_factors=factors)
    train(chosen, partial(stub_task, network=network), tmp_path)
    after = load_checkpoint(tmp_path / "last.ckpt").state["network"]
    wanted = {"conv.weight": 0.1, "norm.weight": 1.0, "norm.bias": 1.0, "linear.weight": 0.5}
    for name, factor in (wanted | {"linear.bias": 0.5}).items():
        moved = (after[name] - before[name].detach()).abs()
        assert float(moved.median()) == pytest.approx(1e-2 * factor, rel=2e-3), name
    rates = {
        id(p): group["lr"]
        for group in make_optimizer(network, chosen).param_groups
        for p in group["params"]
    }
    found = {name: rates[id(p)] for name, p in network.named_parameters()}
    wanted |= {
        "conv.bias": 4.0,
        "linear.bias": 0.5,
    }  # no gradient reaches conv.bias: a norm follows
    assert found == {name: pytest.approx(1e-2 * factor) for name, factor in wanted.items()}
    with pytest.raises(InputError, match="begins with 'con'; there are conv, norm, drop, linear"):
        make_optimizer(network, dataclasses.replace(chosen, lr_factors={"con": 0.1}))
    with pytest.raises(InputError, match="lr_factors: expected a positive number for 'conv'"):
        dataclasses.replace(chosen, lr_factors={"conv": 0})


def test_plain_norms_keep_the_batches_own_variance(tmp_path: Path) -> None:
    """With one batch for all steps and a network at rest, evaluation is what training saw."""
    make_folder(tmp_path / "dots", 5)  # one is held out
    still = config(tmp_path / "dots", steps=150, batch_size=4, lr=1e-12, ema=0.0, augment=False)
    for plain in (True, False):
        network = DotNetwork()
        network.drop.p = 0.0
        chosen = dataclasses.replace(still, plain_norms=plain)
        task = stub_task(chosen, network=network)
        train(chosen, lambda _, task=task: task, tmp_path / str(plain))
        x = network.conv(BatchStream(chosen, task)[0].image)
        wanted = x.detach().var((0, 2, 3), correction=0 if plain else 1)
        torch.testing.assert_close(network.norm.running_var, wanted, rtol=3e-4, atol=0)
        assert (network.norm.momentum, x.numel() // 8) == (0.1, 4 * 64)


def test_frozen_modules_stay_with_their_statistics(dots: Path, tmp_path: Path) -> None:
    network = DotNetwork()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    chosen = config(dots, steps=3, frozen=("conv", "norm"))
    train(chosen, partial(stub_task, network=network), tmp_path)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith(("conv.", "norm.")), name
    with pytest.raises(InputError, match="no module's name begins with 'nor'"):
        TrainingModule(stub_task(chosen), config(dots, frozen=("nor",)), 10)
