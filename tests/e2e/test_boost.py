"""The whole road on the smallest of everything: what each step reads is what the one before wrote,
nothing is done twice, and mistakes are told before work is done."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from handhold.cli.boost import Boost, boost
from handhold.cli.synth import scenes
from handhold.cli.train import Train
from handhold.errors import FileFormatError, HandholdError, InputError
from handhold.models.handbooster.model import HandBoosterConfig, HandBoosterUNet
from handhold.models.handbooster.weights import save_denoiser
from handhold.objects.procedural import make_object
from handhold.synthesis.scenes import SceneConfig
from handhold.synthesis.shards import read_shards

CAN = "005_tomato_soup_can"


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real set, meshes and a denoiser."""
    folder = tmp_path_factory.mktemp("ground")
    view = SceneConfig(width=64, height=64, left=0.0, holding=0.0, near=0.0, edge_rays=1)
    scenes(folder / "real", count=16, sheet=False, config=view)
    (folder / "meshes").mkdir()
    mesh = make_object(CAN, np.random.default_rng(0))
    trimesh.Trimesh(*mesh.surface, process=False).export(folder / "meshes" / f"{CAN}.obj")
    (folder / "meshes" / "broken.obj").write_text("v 0 0 0\nv 0 0 1\nv 0 1 0\nf 1 2 9\n")
    torch.manual_seed(0)
    small = HandBoosterConfig(width=8, multipliers=(1, 2), input_size=32, embedding=16)
    save_denoiser(folder / "denoiser.safetensors", HandBoosterUNet(small))
    return folder


def options(ground: Path, out: Path, **changes: object) -> Boost:
    plain = Boost(
        data=f"shards:{ground / 'real'}",
        out=out,
        objects=str(ground / "meshes"),
        generator=ground / "denoiser.safetensors",
        grasps=2,
        count=6,
        steps=2,
        threads=1,
    )
    return dataclasses.replace(plain, **changes)


def shards(folder: Path) -> dict[str, bytes]:
    found = {p.name: p.read_bytes() for p in sorted(folder.glob("shard-*.tar"))}
    assert found
    return found


@pytest.fixture(scope="module")
def run(ground: Path, tmp_path_factory: pytest.TempPathFactory) -> Boost:
    """Finished but for the filter: an untrained denoiser shows no hands, and with it nothing would
    be left to train on."""
    found = options(ground, tmp_path_factory.mktemp("runs") / "run", skip=("filter",))
    assert boost(found) == 0
    return found


def test_made_photos_reach_the_training(run: Boost) -> None:
    made = list(read_shards(run.out / "images"))
    conditions = list(read_shards(run.out / "conditions"))
    assert len(made) == len(conditions) == 6 and made[0].image.shape == (32, 32, 3)
    for one, other in zip(made, conditions, strict=True):
        assert one.provenance is not None and other.provenance is not None
        assert one.provenance.pose == other.provenance.pose and one.object is not None
        assert one.object.name == CAN
        np.testing.assert_allclose(one.hands[0].joints, other.hands[0].joints)
    told = json.loads((run.out / "network" / "config.json").read_text())
    assert [item.rsplit("=")[1] for item in told["data"]] == ["0.5", "0.5"]
    assert told["data"][1].startswith(f"shards:{run.out / 'images'}")
    report = json.loads((run.out / "report.json").read_text())["grasps"]
    assert list(report["objects"]) == [CAN] and list(report["failed"]) == ["broken"]
    before = shards(run.out / "images")
    assert boost(run) == 0  # nothing is done again
    assert shards(run.out / "images") == before
    with pytest.raises(InputError, match="another count; give another --out"):
        boost(dataclasses.replace(run, count=7))


def test_with_the_filter_what_the_judge_does_not_see_is_left_out(
    run: Boost, tmp_path: Path
) -> None:
    again = dataclasses.replace(run, out=tmp_path / "run", skip=())
    shutil.copytree(run.out, again.out, ignore=shutil.ignore_patterns("network"))
    with pytest.raises(HandholdError, match="accepted"):  # noise everywhere: nothing to train on
        boost(again)
    report = json.loads((again.out / "accepted" / "report.json").read_text())
    assert report["photos"] == 6 and report["accepted"] == 0


def test_mistakes_are_told_first(ground: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    wrong: list[tuple[dict[str, object], str]] = [
        ({"network": "nothing"}, "no recipe 'nothing'"),
        ({"network": "hand-detector"}, "--network hand-detector: expected .* sees crops"),
        ({"network": "mobrecon", "steps": None, "plain": True}, "counts epochs.*--steps"),
        ({"data": "photos:mine"}, "--data 'photos:mine': expected shards:FOLDER"),
        ({"data": f"shards:{tmp_path}"}, "no shards"),
        ({"data": "dexycb/s0-train:X", "generator": None, "objects": "catalogue"}, "--generator"),
        ({"generator": None}, "no texture_map"),
        ({"generator": tmp_path / "none"}, "--generator .*none: no such file"),
        ({"judge": "nobody"}, "--judge: expected"),
        ({"test": "nowhere"}, "--test 'nowhere'"),
        ({"objects": str(tmp_path / "none")}, "none"),
        ({"share": 1.0}, "between 0 and 1"),
        ({"count": 0}, "--count: expected 1 or more, found 0"),
    ]
    for changes, words in wrong:
        with pytest.raises(HandholdError, match=words):
            boost(options(ground, out, **changes))
    assert not out.exists()
    large = make_object(CAN, np.random.default_rng(0))
    meshes = tmp_path / "large"
    meshes.mkdir()
    vertices, faces = large.surface
    trimesh.Trimesh(8 * vertices, faces, process=False).export(meshes / "barrel.obj")
    assert boost(options(ground, out, objects=str(meshes))) == 2  # no hand can hold it
    report = json.loads((out / "grasps" / "report.json").read_text())
    assert "barrel" in report["failed"] and not report["objects"]


def test_skipped_interrupted_and_other_settings(
    ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Train] = []

    def stopped(options: Train) -> int:
        asked.append(options)
        return 130

    monkeypatch.setattr("handhold.cli.train.train", stopped)
    done = ("grasps", "conditions", "images", "filter")
    start = options(ground, tmp_path / "run", skip=done, plain=True, mano=tmp_path, seed=4)
    assert boost(start) == 130
    (plain,) = asked  # the other training is not begun
    assert plain.data == (start.data,) and plain.out == start.out / "plain"
    assert (plain.steps, plain.seed, plain.threads, plain.mano) == (2, 4, 1, tmp_path)
    assert not (start.out / "report.json").exists()
    rest = dataclasses.replace(start, skip=(*done, "plain", "network"))
    assert boost(dataclasses.replace(rest, steps=3, plain=False, workers=2)) == 0
    assert json.loads((start.out / "report.json").read_text())["settings"]["steps"] == 3
    other = tmp_path / "other.safetensors"
    shutil.copy(ground / "denoiser.safetensors", other)
    with pytest.raises(InputError, match="another generator, seed; give another --out"):
        boost(dataclasses.replace(rest, generator=other, seed=5))
    assert len(asked) == 1
    (start.out / "boost.json").write_text("[]")
    with pytest.raises(FileFormatError, match=r"boost\.json: expected an object"):
        boost(rest)
