"""Every step of `handhold synth` killed at its worst moments, on a disk that fills, and given what
it cannot use: finished shards stay, a run that goes on ends with the same bytes, one line tells."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import trimesh

from handhold.cli.main import main
from handhold.errors import WriteError
from handhold.models.detector import DetectorConfig, HandDetectorNetwork, save_detector
from handhold.models.handbooster.model import HandBoosterConfig, HandBoosterUNet
from handhold.models.handbooster.weights import save_denoiser
from handhold.synthesis.shards import read_shards, write_shards
from handhold.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from handhold.training.config import TrainConfig

resource = pytest.importorskip("resource")  # Windows has neither it nor fork
CAN = "005_tomato_soup_can"
SMALL = ("--config.width", "96", "--config.height", "96", "--config.edge-rays", "1",
         "--config.holding", "1", "--config.near", "0")  # fmt: skip

# A process that has read all modules once and forks for every order. The child runs a command and
# ends where it is told: "half": with half of `last` written under its temporary name; "moved":
# right after `last` got its name. "full": after `first` no file may grow beyond 300 bytes.
HOST = """
import json, os, resource, signal, sys
import torch
import handhold.cli.synth, handhold.inference.estimator, handhold.synthesis.grasps.files
import handhold.synthesis.filtering, handhold.synthesis.novel_shards
from handhold.cli.main import main

def watch(mode, first, last):
    moved = False
    def hook(event, arguments):
        nonlocal moved
        if moved and event != "os.kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if event != "os.rename":
            return
        source, name = os.fspath(arguments[0]), os.path.basename(os.fspath(arguments[1]))
        if mode == "full" and name == first:
            resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
        if mode != "full" and name == last:
            moved = True
            if mode == "half":
                os.truncate(source, os.path.getsize(source) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

for line in sys.stdin:
    order = json.loads(line)
    out, into = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(into, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.close(into)
        torch.set_num_threads(1)
        watch(order["mode"], order["first"], order["last"])
        os._exit(main(order["words"]))
    os.close(into)
    told = os.fdopen(out).read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps({"code": code, "told": told}), flush=True)
"""


@pytest.fixture(scope="module")
def order() -> Iterator[Callable[..., dict[str, Any]]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOST],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        read, write = process.stdout.readline, process.stdin

        def ask(**words: Any) -> dict[str, Any]:
            write.write(json.dumps(words) + "\n")
            write.flush()
            return json.loads(read())

        yield ask
        write.close()


class Steps:
    """The commands on the smallest of everything, and what they give when nothing stops them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "meshes").mkdir()
        can = trimesh.creation.cylinder(radius=0.03, height=0.1, sections=16)
        can.export(folder / "meshes" / f"{CAN}.obj")
        torch.manual_seed(0)
        small = HandBoosterConfig(width=8, multipliers=(1, 2), input_size=32, embedding=16)
        save_denoiser(folder / "denoiser.safetensors", HandBoosterUNet(small))
        self._done: dict[str, dict[str, bytes]] = {}

    def words(self, name: str, out: Path) -> list[str]:
        at = self.folder
        series = ("--count", "2", "--shard-size", "1", "--no-sheet")
        told: dict[str, tuple[object, ...]] = {
            "scenes": (*series, *SMALL, "--config.conditions", "--seed", "1"),
            "grasps": ("--objects", at / "meshes", "--count", "4", "--batch", "3", "--steps", "4",
                       "--no-sheet"),
            "novel": ("--grasps", at / "grasps", "--data", f"shards:{at / 'scenes'}", *series,
                      "--objects", at / "meshes", "--scene.edge-rays", "1"),
            "images": ("--data", at / "scenes", "--weights", at / "denoiser.safetensors", *series,
                       "--threads", "1", "--config.steps", "2"),
            "filter": (at / "scenes", "--threads", "1", "--config.pictures", "0",
                       *(f"--config.{kind}mp{what}pe-mm=1e9" for kind in ("", "pa-")
                         for what in "jv")),
            "deocclude": ("--data", at / "scenes", "--free", "--threshold", "1", "--no-sheet",
                          "--shard-size", "1"),
        }  # fmt: skip
        return ["synth", name, *map(str, told[name]), "--out", str(out)]

    def whole(self, name: str) -> dict[str, bytes]:
        for needed in {"novel": ("grasps", "scenes"), "scenes": (), "grasps": ()}.get(
            name, ("scenes",)
        ):
            self.whole(needed)
        if name not in self._done:
            main(self.words(name, self.folder / name))
            self._done[name] = contents(self.folder / name)
        return self._done[name]


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Steps:
    return Steps(tmp_path_factory.mktemp("steps"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the index, which readers make anew where a shard is not in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "index.json"
    }


@pytest.mark.parametrize("name", ["scenes", "grasps", "novel", "images", "filter", "deocclude"])
def test_goes_on_byte_for_byte(
    name: str, steps: Steps, order: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """One run: the disk fills after the first shard; going on, it is killed halfway through the
    second; going on, it is killed when the second is there; then nothing stops it."""
    whole, out = steps.whole(name), tmp_path / "out"
    first, last = [f for f in whole if Path(f).name.startswith("shard-") and "json" not in f][:2]
    words = steps.words(name, out)

    def run(mode: str) -> tuple[dict[str, Any], dict[str, bytes]]:
        found = order(words=words, mode=mode, first=Path(first).name, last=Path(last).name)
        left = contents(out)
        assert left[first] == whole[first]
        assert left.get(last) == (whole[last] if mode == "moved" else None)
        return found, left

    found, left = run("full")
    line = rf"handhold: {re.escape(str(out))}/\S+: cannot be written \(File too large\); .* kept\n"
    assert found["code"] == 2 and re.fullmatch(line, found["told"]), found["told"]
    assert not [file for file in left if Path(file).name.startswith(".")]
    found, left = run("half")
    assert found["code"] == -9, found["told"]
    assert len([file for file in left if Path(file).name.startswith(".")]) == 1
    found, left = run("moved")
    assert found["code"] == -9, found["told"]
    main(words)
    assert contents(out) == whole
    if first.endswith(".tar"):
        assert len(list(read_shards(out))) == 2


def test_pairs_were_drawn(steps: Steps) -> None:
    """What was compared above are second images, not only copies."""
    steps.whole("deocclude")
    assert all(sample.bare_image is not None for sample in read_shards(steps.folder / "deocclude"))


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    path, config = tmp_path / "last.ckpt", TrainConfig(model="unihope-small", steps=9)
    state = {"network": {"weight": torch.arange(1000.0)}}
    save_checkpoint(path, Checkpoint(config=config, done=1, seconds=1.0, state=state))
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(WriteError, match=r"last\.ckpt: cannot be written \(File too large"):
            save_checkpoint(path, Checkpoint(config=config, done=2, seconds=2.0, state=state))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and load_checkpoint(path).done == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "last.ckpt"]


# -------------------------------------------------------------------------------------- one line


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    told = capsys.readouterr().err
    assert told.startswith("handhold: ") and told.count("\n") == 1, told
    return told


def test_what_images_cannot_use(
    steps: Steps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, out = tmp_path / "empty", tmp_path / "out"
    empty.mkdir()
    steps.whole("images")
    scenes, weights = steps.folder / "scenes", steps.folder / "denoiser.safetensors"

    def told(data: Path, weights: Path, *more: str) -> str:
        words = ("--data", data, "--weights", weights, "--out", out, "--count", "2", *more)
        return refused(capsys, "synth", "images", *words)

    assert f"{empty}: no shards" in told(empty, weights)
    with tarfile.open(empty / "shard-000000.tar", "w"):
        pass
    assert f"{empty}: its shards hold no samples" in told(empty, weights)
    plain = tmp_path / "plain"
    write_shards([dataclasses.replace(next(read_shards(scenes)), normal_map=None)], plain)
    assert f"{plain}: its samples have no texture_map and normal_map" in told(plain, weights)
    wrong = tmp_path / "wrong.safetensors"
    assert f"{wrong}: no such weights file" in told(scenes, wrong)
    data = weights.read_bytes()
    for damaged in (b"", b"no weights at all", data[: len(data) // 2]):
        wrong.write_bytes(damaged)
        assert str(wrong) in told(scenes, wrong)
    save_detector(wrong, HandDetectorNetwork(DetectorConfig(input_size=64)))
    assert "expected the weights of 'handbooster', found" in told(scenes, wrong)
    assert "--shard-size: expected 1 or more" in told(scenes, weights, "--shard-size", "0")
    assert not out.exists()


def test_what_novel_and_filter_cannot_use(
    steps: Steps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, meshes, out = tmp_path / "empty", tmp_path / "meshes", tmp_path / "out"
    empty.mkdir()
    meshes.mkdir()
    steps.whole("novel")
    real, grasps = f"shards:{steps.folder / 'scenes'}", steps.folder / "grasps"

    def novel(grasps: Path, data: str, objects: Path) -> str:
        words = ("--grasps", grasps, "--data", data, "--objects", objects, "--out", out)
        return refused(capsys, "synth", "novel", *words)

    (meshes / "other.obj").write_bytes((steps.folder / "meshes" / f"{CAN}.obj").read_bytes())
    assert f"{meshes}: there is no mesh of {CAN}" in novel(grasps, real, meshes)
    assert f"{empty}: expected mesh files" in novel(grasps, real, empty)
    assert f"{empty}: expected OBJECT/shard-0000" in novel(empty, real, meshes)
    assert f"{empty}: no shards" in novel(grasps, f"shards:{empty}", steps.folder / "meshes")
    assert f"{empty}: no shards" in refused(capsys, "synth", "filter", empty, "--out", out)
    assert not out.exists()
    blocked = tmp_path / "file"
    blocked.write_text("")
    for words in (("scenes", "--count", "1"), ("grasps", "--objects", steps.folder / "meshes")):
        told = refused(capsys, "synth", *words, "--out", blocked / "below")
        assert f"{blocked}" in told and "Not a directory" in told
