"""Batches by step number: the same whoever asks; sources as written on the command line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from stub import make_sample, stub_task

from handhold.errors import InputError
from handhold.training.config import TrainConfig
from handhold.training.drawn_scenes import SyntheticScenes
from handhold.training.stream import (
    BatchStream,
    DataSpec,
    loader,
    validation_batches,
)


def config(*data: str, **changes: Any) -> TrainConfig:
    return TrainConfig(model="dot", data=data, steps=10, batch_size=6, **changes)


def test_sources_as_written() -> None:
    assert DataSpec.parse("shards:a/b=0.7") == DataSpec(kind="shards", where="a/b", weight=0.7)
    assert DataSpec.parse("photos:x=y/z") == DataSpec(kind="photos", where="x=y/z")
    assert DataSpec.parse("synthetic") == DataSpec(kind="synthetic")
    assert DataSpec.parse("synthetic:7=2") == DataSpec(kind="synthetic", where="7", weight=2.0)
    assert DataSpec.parse("synthetic:7:16") == DataSpec(kind="synthetic", where="7:16")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("folder", r"expected synthetic, synthetic:SEED, synthetic:SEED:COUNT, shards:FOLDER"),
        ("shards", "expected synthetic"),
        ("shards:a=0", "positive weight"),
        ("synthetic:x", "a number as the seed"),
        ("synthetic:1:0", "seed and count as in 0:16, found '1:0'"),
        ("synthetic:1:2:3", "a number as the seed"),
    ],
)
def test_sources_that_are_none(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DataSpec.parse(text)


def test_batches_do_not_depend_on_workers_or_history(dots: Path) -> None:
    plain = config(f"shards:{dots}")
    task = stub_task(plain)
    here = [BatchStream(plain, task)[step] for step in (4, 3)][::-1]
    two = config(f"shards:{dots}", workers=2)
    there = list(loader(BatchStream(two, task), 3, 5))
    for a, b in zip(here, there, strict=True):
        assert a.keys == b.keys
        assert torch.equal(a.image, b.image) and torch.equal(a.joints2d, b.joints2d)
    assert not torch.equal(here[0].image, here[1].image)


def test_ranks_share_the_global_batch(dots: Path) -> None:
    alone, shared = config(f"shards:{dots}"), config(f"shards:{dots}", devices=2)
    task = stub_task(alone)
    whole = [sample.key for sample, _ in BatchStream(alone, task).items(5)]
    parts = [BatchStream(shared, task, rank=rank).items(5) for rank in range(2)]
    assert [sample.key for part in parts for sample, _ in part] == whole and len(parts[0]) == 3


def test_an_epoch_visits_what_is_not_held_out_and_nothing_else(dots: Path) -> None:
    chosen = config(f"shards:{dots}")
    task = stub_task(chosen)
    stream = BatchStream(chosen, task)
    assert stream.epoch_items == 57
    seen = [stream._item(i)[0].key for i in range(57)]
    assert sorted(seen) == sorted(f"dot{i}" for i in range(57))
    held = [key for _, batch in validation_batches(chosen, task) for key in batch.keys]
    assert held == ["dot57", "dot58", "dot59"]


def test_validation_elsewhere_uses_all_of_it_evenly(dots: Path, new_dots: Path) -> None:
    chosen = config(f"shards:{dots}", validation=(f"shards:{new_dots}",), validation_items=10)
    found = list(validation_batches(chosen, stub_task(chosen)))
    assert {kind for kind, _ in found} == {"shards"}
    keys = [key for _, batch in found for key in batch.keys]
    assert keys == [f"dot{1000 + 10 * i}" for i in range(10)]


def _photos(folder: Path) -> Path:
    folder.mkdir()
    entries = []
    for i in range(30):
        sample = make_sample(5000 + i)
        cv2.imwrite(str(folder / f"{i}.png"), sample.image[..., ::-1])
        joints = sample.hands[0].joints2d
        assert joints is not None
        hand = {
            "side": "right",
            "joints_2d": joints.tolist(),
            "visible": [1] * 21,
            "box": [1, 1, 9, 9],
            "holding": None,
        }
        entries.append(
            {
                "file": f"{i}.png",
                "width": 16,
                "height": 16,
                "sequence": f"{i // 3}",
                "hands": [hand],
            }
        )
    (folder / "labels.json").write_text(json.dumps({"photos": entries}))
    return folder


def test_mixing_shards_and_photos(dots: Path, tmp_path: Path) -> None:
    photos = _photos(tmp_path / "photos")
    mixed = config(f"shards:{dots}=0.75", f"photos:{photos}=0.25", epoch_items=40)
    task = stub_task(mixed)
    stream = BatchStream(mixed, task)
    keys = [stream._item(i)[0].key for i in range(40)]
    assert sum(key.startswith("dot") for key in keys) == 30
    kinds = {}
    for kind, batch in validation_batches(mixed, task):
        kinds.setdefault(kind, []).extend(batch.keys)
    assert len(kinds["photos"]) == 3 and not set(kinds["photos"]) & set(keys)
    with pytest.raises(InputError, match="every source a weight, or none"):
        BatchStream(config(f"shards:{dots}=0.75", f"photos:{photos}"), task)


def test_half_of_every_batch_has_3d_labels(dots: Path, new_dots: Path, tmp_path: Path) -> None:
    """Whatever the sources' sizes; both of the 3D kind are in proportion to theirs."""
    photos = _photos(tmp_path / "photos")
    sources = (f"shards:{dots}", f"photos:{photos}", f"shards:{new_dots}")
    mixed = config(*sources, mixing="half_3d", epoch_items=120)
    stream = BatchStream(mixed, stub_task(mixed))
    batches = [[sample.key for sample, _ in stream.items(step)] for step in range(40)]
    for keys in batches:
        assert sum(not key.startswith("dot") for key in keys) == 3
    first = sum(key in {f"dot{i}" for i in range(60)} for keys in batches for key in keys)
    assert first == pytest.approx(120 * 57 / (57 + 95), abs=1)
    by_size = config(*sources, mixing="batch", epoch_items=120)
    stream = BatchStream(by_size, stub_task(by_size))
    batches = [[sample.key for sample, _ in stream.items(step)] for step in range(40)]
    of_photos = [sum(not key.startswith("dot") for key in keys) for keys in batches]
    share = 6 * 27 / (57 + 27 + 95)
    assert set(of_photos) <= {int(share), int(share) + 1}
    assert sum(of_photos) == pytest.approx(40 * share, abs=1.5)


def test_augmentation_can_be_switched_off(dots: Path) -> None:
    plain = config(f"shards:{dots}", augment=False)
    batch = BatchStream(plain, stub_task(plain))[0]
    truth = {make_sample(i).key: i for i in range(60)}
    picture = make_sample(truth[batch.keys[0]]).image.astype(np.float32) / 255
    assert np.abs(batch.image[0].permute(1, 2, 0).numpy() - picture).mean() < 0.08  # JPEG


def test_synthetic_validation_differs_in_seed_and_backgrounds(tmp_path: Path) -> None:
    chosen = config("synthetic:4", pairs=True, backgrounds=str(tmp_path))
    train, held = (SyntheticScenes(4, chosen, part) for part in ("train", "held_out"))
    assert train.seed == 4 and held.seed != 4
    assert train.config.paired and train.config.backgrounds == tmp_path
    assert train.config.background_part[1] == held.config.background_part[0]


def test_counted_scenes_are_the_first_of_their_series_and_the_same_for_validation() -> None:
    chosen = TrainConfig(model="dot", data=("synthetic:4:3",), steps=9, batch_size=3, augment=False)
    task = stub_task(chosen, encode=lambda items, rng: [sample for sample, _ in items])
    stream = BatchStream(chosen, task)
    assert stream.epoch_items == 3
    first, later = stream[0], stream[5]
    names = {f"scene-4-{i:07d}" for i in range(3)}
    assert {sample.key for sample in first} == names and later is first
    endless = SyntheticScenes(4, chosen)
    for sample in first:
        assert np.array_equal(sample.image, endless[int(sample.key[-7:])].image)
    held = SyntheticScenes(4, chosen, "held_out", 3)
    assert {held[i].key for i in range(len(held))} == names
    shuffled = BatchStream(dataclasses.replace(chosen, batch_size=2), task)
    assert [len(shuffled[step]) for step in range(3)] == [2, 2, 2]
    assert {sample.key for step in range(3) for sample in shuffled[step]} == names
