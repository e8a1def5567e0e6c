"""`handhold train` killed in the middle and started again ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from handhold.scene import Camera, Hand, Sample
from handhold.synthesis.shards import write_shards

LIMIT = 600.0  # seconds; a hung process fails the test


def _sample(number: int) -> Sample:
    rng = np.random.default_rng(number)
    image = rng.integers(0, 60, (48, 64, 3), dtype=np.uint8)
    x, y = rng.integers(4, 30, 2)
    image[y : y + 14, x : x + 14] = (230, 180, 150)
    joints = np.stack([rng.uniform(x, x + 14, 21), rng.uniform(y, y + 14, 21)], -1)
    camera = Camera(intrinsics=np.eye(3), width=64, height=48, source="synthetic")
    hand = Hand(side="right", joints2d=joints.astype(np.float32), grasping=bool(number % 2))
    return Sample(key=f"square{number}", image=image, camera=camera, hands=(hand,))


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    write_shards((_sample(i) for i in range(40)), folder)
    return folder


def _start(data: Path, out: Path, *extra: str) -> subprocess.Popen[str]:
    words = ["train", "hand-detector", "--data", f"shards:{data}", "--out", str(out)]
    words += ["--steps", "24", "--batch-size", "4", "--workers", "0", "--seed", "5"]
    words += ["--checkpoint-steps", "4", "--network", "input_size=64", "width=16", *extra]
    return subprocess.Popen(
        [sys.executable, "-m", "handhold.cli.main", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def _finish(process: subprocess.Popen[str]) -> str:
    text, _ = process.communicate(timeout=LIMIT)
    return text


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + LIMIT
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, _finish(process)
        time.sleep(0.005)


def _states(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / "last.ckpt", weights_only=True)["state"]
    tensors = {f"{part}.{k}": v for part in ("network", "ema") for k, v in state[part].items()}
    for number, values in state["optimizer"]["state"].items():
        tensors |= {f"optimizer.{number}.{k}": v for k, v in values.items()}
    return tensors


def test_killed_and_resumed_equals_uninterrupted(squares: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = _start(squares, whole)
    assert "24 of 24 steps" in (text := _finish(process)), text

    process = _start(squares, broken)
    _wait_for(broken / "last.ckpt", process)
    process.send_signal(signal.SIGKILL)
    _finish(process)
    assert process.returncode == -signal.SIGKILL
    killed_at = torch.load(broken / "last.ckpt", weights_only=True)["done"]
    assert 0 < killed_at < 24 and not (broken / "weights.safetensors").exists()

    text = _finish(_start(squares, broken))
    assert f"going on at step {killed_at}" in text and "24 of 24 steps" in text
    one, two = _states(whole), _states(broken)
    assert one.keys() == two.keys() and len(one) > 200
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    first, second = (load_file(folder / "weights.safetensors") for folder in (whole, broken))
    assert all(torch.equal(first[name], second[name]) for name in first)
    steps = [json.loads(line)["step"] for line in (broken / "metrics.jsonl").open()]
    assert steps == sorted(steps) and steps[-1] == 24


def test_ctrl_c_leaves_checkpoint_and_weights(squares: Path, tmp_path: Path) -> None:
    process = _start(squares, tmp_path / "run", "--steps", "100000", "--workers", "1")
    _wait_for(tmp_path / "run/last.ckpt", process)
    process.send_signal(signal.SIGINT)
    text = _finish(process)
    assert process.returncode == 130 and "stopped by SIGINT" in text, text
    done = torch.load(tmp_path / "run/last.ckpt", weights_only=True)["done"]
    assert done >= 4 and f"{done} of 100000 steps" in text
    assert load_file(tmp_path / "run/weights.safetensors")
