"""Which made photos fall, for which reason, and that an interrupted choice ends the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.scene import Camera, Hand, Provenance, Sample, Scene
from handhold.synthesis import filtering
from handhold.synthesis.filtering import FilterConfig, filter_images, hand_errors
from handhold.synthesis.scenes import SceneConfig, make_scene
from handhold.synthesis.shards import ShardDataset, encode_sample, read_shards, write_shards

SCENES = SceneConfig(width=64, height=64, occluder=0.0)
TURN = Rotation.from_rotvec([0.0, 0.0, 1.2]).as_matrix()


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Seven scenes; what `Stub` sees in them goes by their key."""
    scenes = [make_scene(5, number, SCENES) for number in range(7)]
    kinds = ("good", "turned", "good", "bent", "blind", "moved", "flat")
    made = [
        replace(
            scene,
            key=f"{kind}-{number}",
            provenance=Provenance(source=scene.key, seed=3, pose="grasp-9") if number else None,
        )
        for number, (scene, kind) in enumerate(zip(scenes, kinds, strict=True))
    ]
    assert {sample.hands[0].side for sample in made} == {"left", "right"}
    return made


class _Network:
    def state_dict(self) -> dict[str, Any]:
        return {}


class _Model:
    network = _Network()


class Stub:
    """An estimator whose errors are known: it is given the true hand by its wrist."""

    model = _Model()
    truths: dict[str, Hand] = {}  # noqa: RUF012 - filled by the fixture
    asked: list[str] = []  # noqa: RUF012

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(
        self, image: Any, *, intrinsics: Any, boxes: list[dict[str, Any]], name: str
    ) -> Scene:
        truth = self.truths[name]
        self.asked.append(name)
        assert boxes[0]["side"] == truth.side
        np.testing.assert_array_equal(boxes[0]["box"], truth.box)
        assert truth.joints is not None and truth.vertices is not None
        joints, vertices = truth.joints.copy(), truth.vertices.copy()
        kind = name.split("-")[0]
        camera = Camera(intrinsics=intrinsics, width=64, height=64)
        if kind == "blind":
            return Scene(image=name, camera=camera, model="stub")
        if kind == "moved":  # a shift of the whole hand is no error
            joints, vertices = joints + 0.3, vertices + 0.3
        if kind == "turned":  # nothing is left after alignment
            joints = (joints - joints[0]) @ TURN.T
            vertices = (vertices - truth.joints[0]) @ TURN.T
        if kind == "bent":  # the joints alone
            joints[1:] += np.random.default_rng(0).normal(0, 0.04, (20, 3))
        seen = Hand(side=truth.side, joints=joints, vertices=None if kind == "flat" else vertices)
        return Scene(image=name, camera=camera, model="stub", hands=(seen,), objects=(None,))


@pytest.fixture
def stub(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> type[Stub]:
    Stub.truths = {sample.key: sample.hands[0] for sample in samples}
    Stub.asked = []
    monkeypatch.setattr(filtering, "Estimator", Stub)
    return Stub


def test_errors_in_closed_form(samples: list[Sample]) -> None:
    """A turn by an angle about the wrist moves a point at radius r by 2 r sin(angle / 2)."""
    truth = samples[0].hands[0]
    assert truth.joints is not None and truth.vertices is not None
    wrist = truth.joints[0]
    turned = replace(
        truth,
        joints=(truth.joints - wrist) @ TURN.T + 1.0,
        vertices=(truth.vertices - wrist) @ TURN.T + 1.0,
    )
    found = hand_errors(turned, truth)
    for name, points in (("mpjpe_mm", truth.joints), ("mpvpe_mm", truth.vertices)):
        radius = np.linalg.norm((points - wrist)[:, :2], axis=1)
        assert found[name] == pytest.approx(2000 * np.sin(0.6) * radius.mean(), abs=2e-3)
        assert found[f"pa_{name}"] == pytest.approx(0, abs=2e-3)
    assert found["score"] == pytest.approx(found["mpjpe_mm"] + found["mpvpe_mm"], abs=5e-3)
    scaled = replace(truth, joints=wrist + 1.1 * (truth.joints - wrist), vertices=None)
    found = hand_errors(scaled, truth)
    reach = np.linalg.norm(truth.joints - wrist, axis=1).mean()
    assert found["mpjpe_mm"] == pytest.approx(100 * reach, abs=2e-3)
    assert set(found) == {"mpjpe_mm", "pa_mpjpe_mm", "score"}
    with pytest.raises(InputError, match="3D joints and vertices"):
        hand_errors(truth, replace(truth, vertices=None))


def test_published_limits() -> None:
    """The released code's figures; an error equal to its limit is accepted."""
    on = {"mpjpe_mm": 25.0, "mpvpe_mm": 25.0, "pa_mpjpe_mm": 10.0, "pa_mpvpe_mm": 10.0}
    strict, loose = FilterConfig(limits="dexycb"), FilterConfig()
    assert strict.reasons(on) == [] and loose.reasons({n: 2 * v for n, v in on.items()}) == []
    for name in on:
        assert strict.reasons(on | {name: on[name] + 0.01}) == [name]
        assert loose.reasons(on | {name: 2 * on[name] + 0.01}) == [name]
        assert strict.reasons(on | {name: float("nan")}) == [name]
    assert replace(strict, pa_mpjpe_mm=9.0).reasons(on) == ["pa_mpjpe_mm"]
    assert strict.reasons({}) == ["not_found"]
    wrongs: list[dict[str, Any]] = [{"limits": "frei"}, {"mpjpe_mm": 0.0}, {"pictures": -1}]
    for wrong in wrongs:
        with pytest.raises(InputError, match="FilterConfig"):
            FilterConfig(**wrong)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if not path.name.startswith(".")
    }


def test_folders(samples: list[Sample], stub: type[Stub], tmp_path: Path) -> None:
    """The report counts every photo; accepted ones are what they were, with their errors."""
    write_shards(samples, tmp_path / "in", 3)
    told: list[tuple[int, int]] = []
    report = filter_images(
        tmp_path / "in", tmp_path / "out", progress=lambda *done: told.append(done)
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert (report.photos, report.accepted, report.fallen) == (7, 4, 3)
    turned = hand_errors_of(samples[1], stub)
    over = [n for n, limit in FilterConfig().largest.items() if turned[n] > limit]
    assert over == ["mpjpe_mm", "mpvpe_mm"]
    assert report.reasons["not_found"] == report.alone["not_found"] == 1
    assert report.reasons["mpvpe_mm"] == 1 and report.alone["mpvpe_mm"] == 0
    assert report.reasons["pa_mpjpe_mm"] == 1 and report.reasons["pa_mpvpe_mm"] == 0
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["reasons"] == report.reasons and written["settings"]["method"] == "unihope-small"
    assert not (tmp_path / "out" / "fallen_pa_mpvpe_mm.png").exists()
    sheet = cv2.imread(str(tmp_path / "out" / "fallen_not_found.png"))
    assert sheet is not None and sheet.std() > 10

    kept = list(read_shards(tmp_path / "out"))
    assert [sample.key for sample in kept] == ["good-0", "good-2", "moved-5", "flat-6"]
    originals = {sample.key: sample for sample in read_shards(tmp_path / "in")}
    for sample in kept:
        before = originals[sample.key]
        assert sample.provenance is not None
        expected = before.provenance or Provenance(
            source=sample.key, object=None if before.object is None else before.object.name
        )
        assert replace(sample.provenance, scores={}) == expected
        scores = hand_errors_of(before, stub)
        assert dict(sample.provenance.scores) == scores
        stored = [encode_sample(replace(one, provenance=None)) for one in (sample, before)]
        assert stored[0] == stored[1]
        np.testing.assert_array_equal(sample.image, before.image)  # not compressed again


def hand_errors_of(sample: Sample, stub: type[Stub]) -> dict[str, float]:
    return filtering.Judge(stub())(sample)[0]  # type: ignore[arg-type]


def test_goes_on(samples: list[Sample], stub: type[Stub], tmp_path: Path) -> None:
    """Finished shards are not looked at again; whatever is lost comes back byte for byte."""
    write_shards(samples, tmp_path / "in", 3)
    filter_images(tmp_path / "in", tmp_path / "out")
    whole = digests(tmp_path / "out")
    assert whole["report.json"] and len([n for n in whole if n.endswith(".tar")]) == 3
    losses: list[Callable[[Path], Any]] = [
        lambda out: (out / "shard-000001.scores.json").unlink(),  # killed between the two files
        lambda out: [path.unlink() for path in out.glob("shard-000001*")],
        lambda out: (out / ".shard-000001.99.tar").write_bytes(b"half a shard"),
        lambda out: [path.unlink() for path in out.glob("*.png")],
    ]
    for lose in losses:
        lose(tmp_path / "out")
        stub.asked.clear()
        filter_images(tmp_path / "in", tmp_path / "out", config=FilterConfig(pictures=24))
        assert digests(tmp_path / "out") == whole
    assert len(read_all(tmp_path / "out")) == 4  # not the unfinished one
    stub.asked.clear()
    filter_images(tmp_path / "in", tmp_path / "out", config=FilterConfig(pictures=0))
    assert not stub.asked
    with pytest.raises(InputError, match=r"scores\.json: filtered with .*give another folder"):
        filter_images(tmp_path / "in", tmp_path / "out", config=FilterConfig(limits="dexycb"))
    (tmp_path / "in" / "shard-000002.tar").unlink()
    with pytest.raises(InputError, match=r"shard-000002\.tar: no shard of"):
        filter_images(tmp_path / "in", tmp_path / "out")
    write_shards(samples[1:2], tmp_path / "changed", 3)
    (tmp_path / "changed" / "shard-000000.tar").replace(tmp_path / "in" / "shard-000002.tar")
    report = filter_images(tmp_path / "in", tmp_path / "out")
    assert report.photos == 7 and not (tmp_path / "out" / "shard-000002.tar").exists()


def read_all(folder: Path) -> list[Sample]:
    return list(read_shards(folder))


def test_damage(samples: list[Sample], stub: type[Stub], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "none"):
        with pytest.raises(MissingFileError, match=f"{folder}: no shards"):
            filter_images(tmp_path / folder, tmp_path / "out")
    write_shards(samples[:6], tmp_path / "in", 3)
    with pytest.raises(InputError, match="own folder"):
        filter_images(tmp_path / "in", tmp_path / "in")
    second = tmp_path / "in" / "shard-000001.tar"
    data = second.read_bytes()
    place = ShardDataset(second)._places[1]["image"][0]
    damaged = data[:place] + bytes(40) + data[place + 40 :]
    for number, wrong in enumerate((b"", b"no tar" * 200, data[: len(data) // 2], damaged)):
        second.write_bytes(wrong)
        (tmp_path / "in" / "index.json").unlink(missing_ok=True)
        out = tmp_path / f"out{number}"
        with pytest.raises(FileFormatError, match=r"shard-000001\.tar"):
            filter_images(tmp_path / "in", out)
        assert [sample.key for sample in read_all(out)] == ["good-0", "good-2"]  # intact
    second.write_bytes(data)
    assert filter_images(tmp_path / "in", tmp_path / "out0").photos == 6
    (tmp_path / "out0" / "shard-000001.scores.json").write_text('{"photos": [1]}')
    with pytest.raises(FileFormatError, match=r"shard-000001\.scores\.json"):
        filter_images(tmp_path / "in", tmp_path / "out0")
    bare = replace(samples[0], hands=(replace(samples[0].hands[0], vertices=None),))
    write_shards([bare], tmp_path / "bare")
    with pytest.raises(InputError, match="good-0: expected a hand with side, 3D joints"):
        filter_images(tmp_path / "bare", tmp_path / "out9")
