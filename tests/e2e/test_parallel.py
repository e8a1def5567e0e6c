"""Where jobs run changes nothing: one process, several, and Ray write the same files."""

from __future__ import annotations

import importlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from handhold.cli import doctor
from handhold.cli.main import main
from handhold.cli.synth import images, scenes
from handhold.cli.synth_grasps import grasps
from handhold.errors import InputError
from handhold.models.handbooster.model import HandBoosterConfig, HandBoosterUNet
from handhold.models.handbooster.weights import save_denoiser
from handhold.objects.catalogue import YCB_NAMES
from handhold.objects.procedural import make_object
from handhold.parallel import run_jobs
from handhold.synthesis.diffusion.images import ImageConfig
from handhold.synthesis.scenes import SceneConfig

SCENES = SceneConfig(width=64, height=64, conditions=True, holding=0.0, near=0.0, edge_rays=1)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """One local cluster for all of these tests."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    yield
    ray.shutdown()


def contents(folder: Path, pattern: str) -> dict[str, bytes]:
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob(pattern))}
    assert found
    return found


@pytest.fixture(scope="module")
def conditions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes")
    scenes(out, count=4, shard_size=2, sheet=False, config=SCENES)
    return out


def test_scenes(conditions: Path, ray_cluster: None, tmp_path: Path) -> None:
    expected = contents(conditions, "*.tar")
    assert len(expected) == 2
    more: list[dict[str, Any]] = [{"workers": 2}, {"ray": "local"}]
    for number, where in enumerate(more):
        out = tmp_path / str(number)
        scenes(out, count=4, shard_size=2, sheet=False, config=SCENES, **where)
        assert contents(out, "*.tar") == expected


@pytest.mark.parametrize("name", ["count", "shard_size"])
def test_less_than_one_is_told(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(
        InputError, match=f"--{name.replace('_', '-')}: expected 1 or more, found 0"
    ):
        scenes(out, config=SCENES, **{name: 0})  # type: ignore[arg-type]
    assert not out.exists()


def test_grasps(ray_cluster: None, tmp_path: Path) -> None:
    import numpy as np
    import trimesh

    meshes = tmp_path / "meshes"
    meshes.mkdir()
    for name in (YCB_NAMES[4], YCB_NAMES[0]):
        mesh = make_object(name, np.random.default_rng(0))
        closed = trimesh.Trimesh(*mesh.surface, process=False)
        closed.export(meshes / f"{name}.obj")
    (meshes / "broken.obj").write_text("v 0 0 0\nv 0 0 1\nv 0 1 0\nf 1 2 9\n")

    def run(name: str, **where: Any) -> dict[str, bytes]:
        out = tmp_path / name
        code = grasps(out, str(meshes), count=2, steps=4, batch=8, sheet=False, **where)
        assert code == 1  # the broken mesh, and nothing else
        assert "broken" in (out / "report.json").read_text()
        return contents(out, "*.*")

    assert run("one") == run("ray", ray="local")


def test_images(conditions: Path, ray_cluster: None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = HandBoosterConfig(width=8, multipliers=(1, 2), input_size=32, embedding=16)
    weights = save_denoiser(tmp_path / "w.safetensors", HandBoosterUNet(small))

    def run(name: str, **where: Any) -> dict[str, bytes]:
        out = tmp_path / name
        how = ImageConfig(steps=2, batch=2)
        images(conditions, weights, out, 4, 5, 2, threads=1, sheet=False, config=how, **where)
        return contents(out, "*.tar")

    assert run("one") == run("ray", ray="local")


JOBS = """
import errno, os, signal
from handhold.errors import InputError

def fails(number):
    if number == 1:
        raise InputError("job 1 cannot be done")
    return 10 * number

def is_killed(number):
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number

def is_full(number):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"shard-{number}.tar")
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that worker processes can import."""
    (tmp_path / "made_up_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "made_up_jobs", raising=False)
    return importlib.import_module("made_up_jobs")


def _fails(number: int) -> int:  # for Ray, which sends the function itself
    if number == 1:
        raise InputError("job 1 cannot be done")
    return 10 * number


@pytest.mark.parametrize("where", [{}, {"workers": 2}, {"ray": "local"}])
def test_results_and_errors_come_back(where: dict[str, Any], ray_cluster: None, jobs: Any) -> None:
    function = _fails if "ray" in where else jobs.fails
    assert dict(run_jobs(function, [(0,), (2,), (3,)], **where)) == {0: 0, 1: 20, 2: 30}
    with pytest.raises(InputError, match="job 1 cannot be done"):
        list(run_jobs(function, [(1,)], **where))
    assert list(run_jobs(function, [], **where)) == []


def test_a_killed_worker_and_a_full_disk_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], jobs: Any
) -> None:
    def told(function: Any) -> str:
        monkeypatch.setattr(
            doctor, "COMMANDS", lambda: len(list(run_jobs(function, [(1,), (2,)], workers=2)))
        )
        assert main(["doctor"]) == 2
        return capsys.readouterr().err

    assert told(jobs.is_killed).startswith("handhold: a worker process was killed")
    assert re.fullmatch(r"handhold: shard-[12]\.tar: No space left on device\n", told(jobs.is_full))


ORPHANS = """
import os, signal, time
from handhold.parallel import run_jobs

def job(number):
    if number:
        os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)

if __name__ == "__main__":
    list(run_jobs(job, [(0,), (1,)], workers=2))
"""


def test_no_worker_outlives_kill_9(tmp_path: Path) -> None:
    """The pipe ends when the last process that holds it has ended."""
    (tmp_path / "orphans.py").write_text(ORPHANS)
    command = [sys.executable, str(tmp_path / "orphans.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL
