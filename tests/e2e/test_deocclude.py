"""Pairs from the command to UniHOPE's training, drawn (`--free`) and painted with tiny networks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.synthesis.tiny_diffusion import make_pipeline

from handhold.cli.main import main
from handhold.models.unihope.model import second_of
from handhold.synthesis.scenes import SceneConfig, make_scene
from handhold.synthesis.shards import ShardDataset, read_shards, write_shards
from handhold.training import curves
from handhold.training.build import build_task
from handhold.training.config import TrainConfig

HOLDING = SceneConfig(
    width=144, height=128, holding=1.0, near=0.0, occluder=0.0, sensor=0.0, hand_size=(0.5, 0.8)
)
NETWORK = ("input_size=64", "block=basic", "depths=[1,1,1,1]", "widths=[8,8,16,16]", "stem_width=8",
           "pyramid_width=16", "switch_width=4", "roi_size=8", "heads=2", "hourglass_depth=2",
           "mano_widths=[32,16]", "adaptation_heads=2", "adaptation_head_dim=8")  # fmt: skip


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANDHOLD_HOME", str(tmp_path / "home"))
        patch.setattr(curves, "draw_curves", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of two half hidden hands, one in full view and a bare one; no second images."""
    where = tmp_path_factory.mktemp("scenes")
    hidden = [make_scene(3, number, HOLDING) for number in (2, 5)]
    assert all((scene.hands[0].visibility or 1) < 0.85 for scene in hidden)
    hand = dataclasses.replace(hidden[0].hands[0], visibility=0.95)
    seen = dataclasses.replace(hidden[0], key="seen", hands=(hand,))
    bare = make_scene(3, 0, dataclasses.replace(HOLDING, holding=0.0))
    write_shards([*hidden, seen, bare], where)
    return where


def test_unihope_trains_on_drawn_pairs(scenes: Path, tmp_path: Path) -> None:
    """Two steps with the feature loss; of each pair both images have the same labels."""
    pairs = tmp_path / "pairs"
    assert run("synth", "deocclude", "--data", f"shards:{scenes}", "--out", pairs, "--free") == 0
    train = ("--steps", "2", "--batch-size", "3", "--workers", "0", "--threads", "1")
    out = ("--out", tmp_path / "run", "--network", *NETWORK)
    assert run("train", "unihope-stage2", "--data", f"shards:{pairs}", *train, *out) == 0
    found: dict[str, Any] = {}
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        found |= json.loads(line)
    assert all(found[f"loss/{name}"] > 0 for name in ("c3", "roi", "mano", "joints"))

    samples = ShardDataset(pairs)
    task = build_task(TrainConfig(model="unihope-small", pairs=True, steps=1))
    plain = build_task(TrainConfig(model="unihope-small", steps=1))
    items = [(sample, 0) for sample in samples]
    batch = task.encode(items, np.random.default_rng(1))
    again = plain.encode(items, np.random.default_rng(1))
    expected = [sample.bare_image is None for sample in samples]
    assert batch.is_filtered.tolist() == expected and expected.count(False) == 2
    differ = (batch.image != batch.paired_image).flatten(1).any(1)
    assert differ.tolist() == [not same for same in expected]
    second = second_of(batch)
    assert torch.equal(second.image, batch.paired_image)
    for name in ("pose", "betas", "joints2d", "root", "hand_box", "crop", "intrinsics"):
        label = getattr(again, name)
        assert torch.equal(getattr(batch, name), label), name
        assert torch.equal(getattr(second, name), label), name


def test_painted_pairs(scenes: Path, tmp_path: Path) -> None:
    """The whole road of the diffusion way: folders of networks, a judge, shards, a record."""
    make_pipeline().save_pretrained(tmp_path / "networks")
    weights = (
        "--base",
        tmp_path / "networks",
        "--controlnet",
        tmp_path / "networks" / "controlnet",
    )
    small = ("--config.size", "64", "--config.steps", "2", "--config.strengths", "0.25", "1.0")
    told = ("--data", scenes, *weights, *small, "--count", "2", "--shard-size", "1")
    assert run("synth", "deocclude", *told, "--out", tmp_path / "a") == 0
    rows = [json.loads((tmp_path / "a" / f"shard-00000{n}.json").read_text())[0] for n in range(2)]
    for row, sample, old in zip(
        rows, read_shards(tmp_path / "a"), read_shards(scenes), strict=False
    ):
        tried = {float(k): v for k, v in row["tried_mpjpe"].items()}
        assert row["strength"] == min(tried, key=lambda s: tried[s]) and set(tried) == {0.25, 1.0}
        assert row["made"]["mpjpe"] == min(tried.values()) and row["photo"]["mpjpe"] > 0
        bare, mask = sample.bare_image, sample.object_mask
        assert bare is not None and mask is not None and sample.hand_mask_amodal is not None
        off = np.abs(bare.astype(float) - old.image).mean(2)
        assert off[mask | sample.hand_mask_amodal].mean() > 10
        assert off[:4].mean() < 3  # stored as JPEG


def test_one_line_for_what_cannot_be(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "out")
    assert run("synth", "deocclude", "--data", scenes, *out, "--base", "nobody/x") == 2
    assert "--controlnet" in capsys.readouterr().err
    assert run("synth", "deocclude", "--data", tmp_path / "none", *out, "--free") == 2
    assert capsys.readouterr().err.count("\n") == 1
    bare = tmp_path / "bare"
    write_shards([make_scene(3, 0, dataclasses.replace(HOLDING, holding=0.0))], bare)
    assert run("synth", "deocclude", "--data", bare, *out, "--free") == 1
    told = capsys.readouterr()
    assert "no frame got a second image" in told.err and "1 not grasping" in told.out
