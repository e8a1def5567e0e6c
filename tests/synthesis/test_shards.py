"""Shards give back exactly what was put in, whatever library reads them."""

from __future__ import annotations

import dataclasses
import json
import pickle
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import webdataset

from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.scene import Camera, Hand, RigidObject, Sample
from handhold.synthesis import shards
from handhold.synthesis.shards import ShardDataset, next_sample, read_shards, write_shards


def make(number: int, *, hands: int = 1, rich: bool = True) -> Sample:
    """A sample with random labels in mixed dtypes and a smooth picture."""
    rng = np.random.default_rng(number)
    height, width = 48, 64
    picture = cv2.resize(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8), (width, height))
    labels = tuple(
        Hand(
            side="left" if rng.random() < 0.5 else "right",
            score=float(rng.random()),
            box=rng.random(4).astype(np.float32),
            joints2d=rng.normal(size=(21, 2)) * 1e3,
            joints2d_valid=rng.random(21) < 0.5,
            joints=rng.normal(size=(21, 3)).astype(np.float32),
            vertices=rng.normal(size=(778, 3)).astype(np.float32) * np.float32(1e-3),
            pose=rng.normal(size=(16, 3)).astype(np.float32) if rich else None,
            grasping=bool(rng.random() < 0.5) if rich else None,
            visibility=float(rng.random()),
        )
        for _ in range(hands)
    )
    thing = RigidObject(
        name="003_cracker_box",
        rotation=np.linalg.qr(rng.normal(size=(3, 3)))[0],
        translation=rng.normal(size=3).astype(np.float32),
        held=True,
    )
    return Sample(
        key=f"a/b.c {number}",
        image=picture,
        camera=Camera(
            intrinsics=np.array([[61.3, 0, 31.1], [0, 61.2, 24.7], [0, 0, 1]], dtype=np.float32),
            width=width,
            height=height,
            source="synthetic",
        ),
        hands=labels,
        object=thing if rich else None,
        hands_complete=number % 2 == 0,
        hand_mask=rng.random((height, width)) < 0.3 if rich else None,
        object_mask=rng.random((height, width)) < 0.3 if rich else None,
        depth=rng.random((height, width)) * 3 if rich else None,
        bare_image=picture[:, ::-1].copy() if rich else None,
    )


def same(found: object, expected: object) -> None:
    """Every field equal in value, dtype and shape (the pictures apart)."""
    assert type(found) is type(expected)
    for item in dataclasses.fields(expected):  # type: ignore[arg-type]
        a, b = getattr(found, item.name), getattr(expected, item.name)
        if item.name in ("image", "bare_image", "depth"):
            assert (a is None) == (b is None)
        elif isinstance(b, np.ndarray):
            assert a.dtype == b.dtype and a.shape == b.shape, item.name
            assert a.tobytes() == b.tobytes(), item.name
        elif isinstance(b, tuple):
            assert len(a) == len(b)
            for x, y in zip(a, b, strict=True):
                same(x, y)
        elif dataclasses.is_dataclass(b):
            same(a, b)
        else:
            assert a == b and type(a) is type(b), item.name


def test_labels_and_masks_return_bit_for_bit(tmp_path: Path) -> None:
    samples = [make(0), make(1, hands=2), make(2, hands=0, rich=False), make(3, rich=False)]
    write_shards(samples, tmp_path, shard_size=3)
    back = list(read_shards(tmp_path))
    assert len(back) == 4
    for found, expected in zip(back, samples, strict=True):
        same(found, expected)
        assert np.abs(found.image.astype(int) - expected.image).mean() < 3  # JPEG
        if expected.bare_image is not None:
            assert np.abs(found.bare_image.astype(int) - expected.bare_image).mean() < 3
            np.testing.assert_allclose(found.depth, expected.depth, atol=0.000501)
    assert ShardDataset(tmp_path).hands == [1, 2, 0, 1]


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_shards((make(i) for i in range(5)), tmp_path / name, shard_size=2)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["index.json", *(f"shard-00000{i}.tar" for i in range(3))]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    write_shards((make(i) for i in range(6)), whole, shard_size=2)

    def breaks() -> object:
        yield from (make(i) for i in range(5))
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_shards(breaks(), broken, shard_size=2)
    assert sorted(path.name for path in broken.glob("*")) == [
        "index.json",
        "shard-000000.tar",
        "shard-000001.tar",
    ]
    kept = (broken / "shard-000001.tar").stat().st_mtime_ns
    start = next_sample(broken, 2)
    assert start == 4
    write_shards((make(i) for i in range(start, 6)), broken, shard_size=2, start=start)
    assert (broken / "shard-000001.tar").stat().st_mtime_ns == kept
    for path in whole.iterdir():
        assert path.read_bytes() == (broken / path.name).read_bytes(), path.name
    assert write_shards((make(i) for i in range(6)), broken, shard_size=2) == []


def test_webdataset_reads_the_same_members(tmp_path: Path) -> None:
    samples = [make(i) for i in range(3)]
    (path,) = write_shards(samples, tmp_path)
    found = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [item["__key__"] for item in found] == ["00000000", "00000001", "00000002"]
    for item, sample in zip(found, samples, strict=True):
        assert json.loads(item["json"])["key"] == sample.key
        mask = cv2.imdecode(np.frombuffer(item["hand_mask.png"], np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask > 0, sample.hand_mask)


def test_random_access_equals_order_without_index_and_after_pickling(tmp_path: Path) -> None:
    write_shards((make(i) for i in range(5)), tmp_path, shard_size=2)
    order = [sample.key for sample in read_shards(str(tmp_path / "*.tar"))]
    assert order == [f"a/b.c {i}" for i in range(5)]
    cached = (tmp_path / "index.json").read_bytes()
    (tmp_path / "index.json").write_text("{")
    rescanned = ShardDataset(tmp_path)
    assert (tmp_path / "index.json").read_bytes() == cached
    assert rescanned[3].key == order[3]
    copy = pickle.loads(pickle.dumps(rescanned))  # noqa: S301, TID251
    assert [copy[i].key for i in (4, 0, 2)] == [order[i] for i in (4, 0, 2)]
    light = ShardDataset(tmp_path, skip=("bare_image", "depth"))[1]
    assert light.bare_image is None and light.depth is None and light.hand_mask is not None
    with pytest.raises(IndexError):
        copy[5]


def test_opening_reads_the_index_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards((make(i, rich=False) for i in range(2)), tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    shard = index["shards"]["shard-000000.tar"]
    shard["members"] = shard["members"] * 25_000
    shard["hands"] = shard["hands"] * 25_000
    (tmp_path / "index.json").write_text(json.dumps(index))

    def scanned(path: Path) -> None:
        raise AssertionError(f"{path} was read from end to end")

    monkeypatch.setattr(shards, "scan_shard", scanned)
    assert len(ShardDataset(tmp_path)) == 50_000


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no shards"):
        ShardDataset(tmp_path)
    with pytest.raises(InputError, match="multiple of shard_size"):
        write_shards([], tmp_path, shard_size=10, start=5)
    deep = dataclasses.replace(make(0), depth=np.full((48, 64), 70.0))
    with pytest.raises(InputError, match=r"depth must lie in 0\.\.65"):
        write_shards([deep], tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "shard-000000.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(FileFormatError, match=r"shard-000000\.tar"):
        ShardDataset(tmp_path)
    with tarfile.open(tmp_path / "shard-000000.tar", "w") as archive:
        (tmp_path / "x").write_text("x")
        archive.add(tmp_path / "x", "00000000.txt")
    with pytest.raises(FileFormatError, match=r"unexpected member 00000000\.txt"):
        ShardDataset(tmp_path)
    (path,) = write_shards([make(0)], tmp_path / "cut")
    data = ShardDataset(path)
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(FileFormatError, match="the file ends inside"):
        data[0]
