"""Shards read from addresses: the samples that lie in the files, dealt out without repeats."""

from __future__ import annotations

import dataclasses
import http.server
import itertools
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stub import make_sample, stub_task

from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.synthesis import shard_stream
from handhold.synthesis.shard_stream import ShardStream, is_address, read_shard
from handhold.synthesis.shards import ShardDataset, write_shards
from handhold.training.config import TrainConfig
from handhold.training.stream import BatchStream, loader, validation_batches

SHARDS, SIZE = 7, 5
NAMES = f"shard-{{000000..{SHARDS - 1:06d}}}.tar"


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder; `asked` counts requests by name, `cuts` are broken off after half."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked: Counter[str] = Counter()
        self.cuts: Counter[str] = Counter()
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.asked[name] += 1
        file = self.server.folder / name
        if not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.server.cuts[name] > 0:
            self.server.cuts[name] -= 1
            data = data[: _second_sample(file)]  # between two samples: a tar file as any other
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _second_sample(file: Path) -> int:
    with tarfile.open(file) as archive:
        names = [item.name.partition(".")[0] for item in archive]
        second = names.index(sorted(set(names))[1])
        return archive.getmembers()[second].offset


def made(number: int) -> Any:
    """A dot with two hands, with none, or with one."""
    sample = make_sample(number)
    count = {3: 2, 4: 0}.get(number % 5, 1)
    return dataclasses.replace(sample, hands=sample.hands * count)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shards")
    write_shards((made(number) for number in range(SHARDS * SIZE)), path, shard_size=SIZE)
    return path


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(shard_stream, "PAUSE", 0.0)
    running = Server(folder)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def truth(folder: Path) -> list[tuple[str, int]]:
    return [(s.key, hand) for s in ShardDataset(folder) for hand in range(len(s.hands))]


def keys(items: Any) -> list[tuple[str, int]]:
    return [(sample.key, hand) for sample, hand in items]


@pytest.mark.parametrize("form", ["http", "file", "pipe", "two"])
def test_the_same_samples_as_in_the_files(form: str, server: Server, folder: Path) -> None:
    where = {
        "http": f"{server.address}/{NAMES}",
        "file": f"file:{folder}/{NAMES}",
        "pipe": f"pipe:cat {folder}/{NAMES}",
        "two": f"{server.address}/shard-{{000000..000002}}.tar::file:{folder}/"
        f"shard-{{000003..{SHARDS - 1:06d}}}.tar",
    }[form]
    found = list(ShardStream(where).once())
    assert keys(found) == truth(folder)
    expected = ShardDataset(folder)
    for (sample, _), number in zip(found[:4], (0, 1, 2, 3), strict=True):
        assert np.array_equal(sample.image, expected[number].image)
        for a, b in zip(sample.hands, expected[number].hands, strict=True):
            assert np.array_equal(a.joints2d, b.joints2d)  # type: ignore[arg-type]
    images = ShardStream(where, per="image").once()
    assert [sample.key for sample, _ in images] == [sample.key for sample in expected]


def turn(stream: ShardStream, number: int, folder: Path) -> int:
    """Items of a lane's first turn."""
    order = np.random.default_rng([stream.seed, 0]).permutation(len(stream.urls))
    own = [stream.urls[place].rpartition("/")[2] for place in order[number :: stream.lanes]]
    return sum(sum(ShardDataset(folder / name).hands) for name in own)


def test_lanes_share_a_turn_without_repeats(folder: Path) -> None:
    stream = ShardStream(f"file:{folder}/{NAMES}", seed=3)
    assert stream.lanes == 6
    counts = [turn(stream, lane, folder) for lane in range(6)]
    lanes = [keys(itertools.islice(stream.lane(k), counts[k])) for k in range(6)]
    assert sorted(itertools.chain(*lanes)) == sorted(truth(folder))
    assert any(lane != sorted(lane) for lane in lanes)  # shuffled inside, too
    again = ShardStream(f"file:{folder}/{NAMES}", seed=3)
    assert keys(itertools.islice(again.lane(2), 12)) == keys(itertools.islice(stream.lane(2), 12))
    other = ShardStream(f"file:{folder}/{NAMES}", seed=4)
    assert keys(itertools.islice(other.lane(2), 12)) != keys(itertools.islice(stream.lane(2), 12))


def test_a_lane_goes_on_without_reading_what_it_has_given(server: Server) -> None:
    stream = ShardStream(f"{server.address}/{NAMES}")
    whole = keys(itertools.islice(stream.lane(1), 23))
    server.asked.clear()
    items = ShardStream(f"{server.address}/{NAMES}").lane(1, 20)
    assert keys(itertools.islice(items, 3)) == whole[20:]
    with_index = sum(count for name, count in server.asked.items() if name.endswith(".tar"))
    assert server.asked["index.json"] == 1 and with_index == 1
    (index := server.folder / "index.json").rename(server.folder / "hidden")
    try:
        items = ShardStream(f"{server.address}/{NAMES}").lane(1, 20)
        assert keys(itertools.islice(items, 3)) == whole[20:]
    finally:
        (server.folder / "hidden").rename(index)


def config(*data: str, **changes: Any) -> TrainConfig:
    return TrainConfig(model="dot", data=data, steps=10, batch_size=4, **changes)


def test_batches_are_the_same_for_any_workers_and_after_a_pause(folder: Path) -> None:
    where = f"shards:file:{folder}/{NAMES}"
    task = stub_task(config(where))
    whole = [BatchStream(config(where), task)[step] for step in range(7)]
    stream = BatchStream(config(where), task)
    running = [stream[step] for step in range(7)]
    resumed = list(loader(BatchStream(config(where, workers=2), task), 3, 7))
    for a, b in zip(whole, running, strict=True):
        assert a.keys == b.keys and torch.equal(a.image, b.image)
    for a, b in zip(whole[3:], resumed, strict=True):
        assert a.keys == b.keys and torch.equal(a.image, b.image)


def test_ranks_and_workers_get_different_items(folder: Path) -> None:
    """Six lanes of a shard each: two ranks of two workers see no item twice in the first turn."""
    shared = config(f"shards:file:{folder}/{NAMES}", devices=2)
    task = stub_task(shared)
    seen: list[tuple[str, int]] = []
    for rank, worker in itertools.product(range(2), range(2)):
        stream = BatchStream(shared, task, rank=rank)
        for step in (worker, worker + 2, worker + 4)[: 3 if worker == 0 else 1]:
            seen += keys(stream.items(step))
    assert len(seen) == 16 and len(set(seen)) == 16
    held = ShardDataset(folder / f"shard-{SHARDS - 1:06d}.tar")
    assert not {key for key, _ in seen} & {sample.key for sample in held}
    found = [key for _, batch in validation_batches(shared, task) for key in batch.keys]
    assert found == [key for key, _ in truth(folder)[-len(found) :]]
    assert len(found) == sum(held.hands)


def test_a_stream_in_a_mixture(folder: Path, dots: Path) -> None:
    """Its items come in their lanes' order, as many as its weight says."""
    mixed = config(f"shards:file:{folder}/{NAMES}=1", f"shards:{dots}=3", epoch_items=40)
    task = stub_task(mixed)
    whole = [keys(BatchStream(mixed, task).items(step)) for step in range(20)]
    stream = BatchStream(mixed, task)
    assert [keys(stream.items(step)) for step in range(20)] == whole
    parts = [[stream.mixture(4 * step + i)[0] for i in range(4)] for step in range(20)]
    lanes: dict[int, list[tuple[str, int]]] = {}
    for step, (found, which) in enumerate(zip(whole, parts, strict=True)):
        own = [item for item, source in zip(found, which, strict=True) if source == 0]
        lanes.setdefault(step % 6, []).extend(own)
    assert sum(map(len, lanes.values())) == 20
    train = ShardStream(f"file:{folder}/{NAMES}", part="train")
    for number, found in lanes.items():
        assert found == keys(itertools.islice(train.lane(number), len(found)))


def test_a_broken_connection_is_opened_again(server: Server, folder: Path) -> None:
    url = f"{server.address}/shard-000002.tar"
    server.cuts["shard-000002.tar"] = 2
    expected = [members["info"] for members in read_shard(f"file:{folder}/shard-000002.tar")]
    assert [members["info"] for members in read_shard(url)] == expected
    assert server.asked["shard-000002.tar"] == 3
    server.cuts["shard-000002.tar"] = 99
    with pytest.raises(MissingFileError, match=r"shard-000002\.tar: .*bytes early"):
        list(read_shard(url))


def test_a_missing_shard_is_named(server: Server, folder: Path) -> None:
    with pytest.raises(MissingFileError, match=r"shard-000009\.tar: this shard .* 404"):
        list(ShardStream(f"{server.address}/shard-{{000005..000009..4}}.tar").once())
    assert server.asked["shard-000009.tar"] == 1  # asking again would not help
    with pytest.raises(MissingFileError, match=r"shard-000008\.tar: this shard cannot be read"):
        list(read_shard(f"file:{folder}/shard-000008.tar"))
    with pytest.raises(MissingFileError, match="this shard cannot be read"):
        list(read_shard(f"pipe:cat {folder}/nothing.tar 2>&1 >&2"))


def test_damage_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_stream, "PAUSE", 0.0)
    data = (folder / "shard-000001.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 2 + 100])
    with pytest.raises(FileFormatError, match=r"cut\.tar: this shard cannot be read"):
        list(read_shard(f"file:{tmp_path}/cut.tar"))
    (tmp_path / "a.txt").write_text("no sample")
    with tarfile.open(tmp_path / "odd.tar", "w") as archive:
        archive.add(tmp_path / "a.txt", "a.txt")
    with pytest.raises(FileFormatError, match=r"odd\.tar: unexpected member a\.txt"):
        list(read_shard(f"file:{tmp_path}/odd.tar"))
    with pytest.raises(InputError, match="two shards or more"):
        ShardStream(f"file:{folder}/shard-000001.tar", part="train")


def test_braces_also_name_files(folder: Path) -> None:
    found = ShardDataset(f"{folder}/shard-{{000001..000002}}.tar")
    assert [sample.key for sample in found] == [f"dot{i}" for i in range(5, 15)]
    with pytest.raises(MissingFileError, match="shard-000007"):
        ShardDataset(f"{folder}/shard-{{000006..000007}}.tar")
    with pytest.raises(InputError, match="address"):
        ShardDataset(f"https://example.org/{NAMES}")
    assert is_address("s3://a/b.tar") and not is_address("C:/a") and not is_address("a/b:c")
