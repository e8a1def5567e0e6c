"""Novel conditions against what they are made of: grasps, frames and turns come back out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from handhold.cli import synth
from handhold.cli.synth import novel
from handhold.errors import InputError
from handhold.hand.anatomy import sample_pose
from handhold.hand.model import HandModel
from handhold.objects.mesh import ObjectMesh
from handhold.objects.procedural import make_object
from handhold.scene import Sample
from handhold.synthesis.grasps.files import shard_path as grasp_shard
from handhold.synthesis.grasps.files import write_shard
from handhold.synthesis.grasps.generate import ARRAYS, Batch
from handhold.synthesis.grasps.hand import GraspHand
from handhold.synthesis.novel import (
    NovelConditions,
    NovelConfig,
    Poses,
    Reference,
    made_grasps,
)
from handhold.synthesis.sampling import relative_pose
from handhold.synthesis.scenes import SceneConfig, make_scene
from handhold.synthesis.shards import read_shards, write_shards

CAN, MUG = "005_tomato_soup_can", "025_mug"
SCENE = SceneConfig(width=64, height=64, sensor=0.0, edge_rays=1, occluder=0.0)


def grasp_vectors(seed: int, count: int) -> np.ndarray:
    """Hands of natural poses about 12 cm beside an object, which is all that is needed here."""
    rng = np.random.default_rng(seed)
    fingers = sample_pose(rng, count)[:, 1:].reshape(count, 45)
    roots = Rotation.random(count, rng=rng).as_rotvec()
    away = rng.normal(size=(count, 3))
    away *= 0.12 / np.linalg.norm(away, axis=1, keepdims=True)
    return np.concatenate([away, roots, fingers], axis=1).astype(np.float32)


def write_grasps(folder: Path, vectors: np.ndarray) -> None:
    count = len(vectors)
    rows = {name: np.zeros((count, *shape), kind) for name, (shape, kind) in ARRAYS.items()}
    rows |= {"vectors": vectors, "contacts": np.zeros((count, 4), np.int16)}
    folder.mkdir(parents=True)
    write_shard(Batch(**rows, attempts=count, fallen={}), grasp_shard(folder, 0), {})


@pytest.fixture(scope="module")
def grasps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grasps")
    for seed, name in enumerate((CAN, MUG)):
        write_grasps(folder / name, grasp_vectors(seed, 6))
    return folder


@pytest.fixture(scope="module")
def scenes() -> list[Sample]:
    config = dataclasses.replace(SCENE, left=0.3, holding=0.5, near=0.0)
    return [make_scene(8, number, config) for number in range(8)]


@pytest.fixture(scope="module")
def objects() -> dict[str, ObjectMesh]:
    return {name: make_object(name, np.random.default_rng(0)) for name in (CAN, MUG)}


@pytest.fixture(scope="module")
def own(scenes: list[Sample]) -> Reference:
    """The scenes as a real set in which the first object held is a can."""
    changed, done = [], False
    for sample in scenes:
        thing = sample.object
        if thing is not None and not done and sample.hands and sample.hands[0].side == "right":
            sample, done = dataclasses.replace(sample, object=_named(thing, CAN)), True
        changed.append(sample)
    assert done
    return Reference.of(changed, "label")


def _named(thing, name):
    return dataclasses.replace(thing, name=name)


def test_only_right_hands_are_taken(scenes: list[Sample]) -> None:
    keys = [sample.key for sample in scenes if sample.hands and sample.hands[0].side == "right"]
    found = Reference.of(scenes, "label")
    assert [frame.key for frame in found.frames] == keys and 2 < len(keys) < len(scenes)
    held = [s for s in scenes if s.key in keys and s.hands[0].grasping]
    assert sum(len(poses.names) for poses in found.grasps.values()) == len(held) > 0
    with pytest.raises(InputError, match="found none"):
        Reference.of([dataclasses.replace(sample, hands=()) for sample in scenes])


def test_a_made_grasp_comes_back_out(grasps, own, objects) -> None:
    made = made_grasps(grasps)
    config = NovelConfig(made=1.0, turn_deg=20.0)
    series = NovelConditions(own, made, objects, config, seed=3, scene=SCENE)
    frames = {frame.key: frame for frame in own.frames}
    hand = GraspHand(HandModel.free())
    seen = set()
    for number in range(6):
        sample = series[number]
        told = sample.provenance
        assert told is not None and told.pose is not None and told.seed == 3
        name, which = told.pose.split("/")
        assert sample.object is not None and name == told.object == sample.object.name
        seen.add(name)
        label, poses = sample.hands[0], made[name]
        fingers, rotation, translation = relative_pose(label, sample.object)
        np.testing.assert_allclose(fingers, poses.fingers[int(which)], atol=1e-6)
        np.testing.assert_allclose(rotation, poses.rotations[int(which)], atol=1e-5)
        np.testing.assert_allclose(translation, poses.translations[int(which)], atol=1e-5)
        # against the shard itself: the hand's frame seen from the object is the grasp's
        vector = grasp_vectors((CAN, MUG).index(name), 6)[int(which)]
        assert label.joints is not None and label.pose is not None
        turn = sample.object.rotation.T @ Rotation.from_rotvec(label.pose[0]).as_matrix()
        np.testing.assert_allclose(turn, Rotation.from_rotvec(vector[3:6]).as_matrix(), atol=1e-5)
        wrist = sample.object.rotation.T @ (label.joints[0] - sample.object.translation)
        expected = hand.posed(torch.from_numpy(vector[None]))[1][0, 0].numpy()
        np.testing.assert_allclose(wrist, expected, atol=1e-5)
        # camera, place, shape and nearly the turn are the frame's
        frame = frames[told.source]
        assert sample.camera == frame.camera
        np.testing.assert_allclose(label.joints[0], frame.wrist, atol=1e-6)
        np.testing.assert_allclose(label.betas, frame.betas)
        change = Rotation.from_rotvec(label.pose[0]) * Rotation.from_rotvec(frame.turn).inv()
        angles = change.as_euler("XYZ", degrees=True)
        assert (angles > -0.01).all() and (angles < 20.01).all()
        assert sample.texture_map is not None and sample.texture_map.any()
    assert seen == {CAN, MUG}


def test_real_grasps_keep_their_frames(grasps, own, objects) -> None:
    config = NovelConfig(made=0.0, turn_deg=0.0)
    series = NovelConditions(own, made_grasps(grasps), objects, config, seed=1, scene=SCENE)
    real = own.grasps[CAN]
    kinds = set()
    for number in range(8):
        sample = series[number]
        told, thing = sample.provenance, sample.object
        assert told is not None and thing is not None
        kinds.add(thing.name)
        if thing.name == MUG:  # the set has none, so a made one is shown
            assert told.pose is not None and told.pose.startswith(MUG)
            continue
        assert told.pose == told.source == real.names[0]
        rotation, translation = relative_pose(sample.hands[0], thing)[1:]
        np.testing.assert_allclose(rotation, real.rotations[0], atol=1e-5)
        np.testing.assert_allclose(translation, real.translations[0], atol=1e-5)
    assert kinds == {CAN, MUG}


def test_poses_unlike_the_set_are_drawn_more_often(grasps, own, objects) -> None:
    made = made_grasps(grasps)
    own_poses = own.grasps[CAN]
    twin = Poses(  # the first made grasp is the set's own
        names=made[CAN].names,
        fingers=np.concatenate([own_poses.fingers[:1], made[CAN].fingers[1:]]),
        rotations=np.concatenate([own_poses.rotations[:1], made[CAN].rotations[1:]]),
        translations=np.concatenate([own_poses.translations[:1], made[CAN].translations[1:]]),
    )
    build = NovelConditions(own, {CAN: twin}, objects, NovelConfig(), scene=SCENE)
    chosen = build.chosen[CAN]
    assert chosen.probabilities[list(chosen.synthetic).index(0)] == 0
    flat = NovelConditions(own, {CAN: twin}, objects, NovelConfig(cross=False), scene=SCENE)
    np.testing.assert_allclose(flat.chosen[CAN].probabilities, 1 / 6)


def test_series_do_not_depend_on_how_they_are_made(grasps, scenes, tmp_path: Path) -> None:
    write_shards(iter(scenes), tmp_path / "real", 8, 0)
    data, small = f"shards:{tmp_path / 'real'}", dataclasses.replace(SCENE, edge_rays=1)

    def run(name: str, workers: int = 1, count: int = 5) -> Path:
        out = tmp_path / name
        novel(
            grasps,
            data,
            out,
            count=count,
            shard_size=2,
            workers=workers,
            scene=small,
            config=NovelConfig(rule="label"),
            sheet=workers == 1,
        )
        return out

    first, second = run("one"), run("two", workers=2)
    names = [f"shard-{number:06d}.tar" for number in range(3)]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    before = {name: (first / name).read_bytes() for name in names}
    (first / names[1]).unlink()  # as if it had never been finished
    run("one")
    assert {name: (first / name).read_bytes() for name in names} == before
    assert (first / "sheet.png").stat().st_size > 1000
    told = [sample.provenance for sample in read_shards(first)]
    assert len(told) == 5 and all(item is not None and item.pose for item in told)


def test_what_does_not_fit_is_named(grasps, own, objects, tmp_path: Path) -> None:
    made = made_grasps(grasps)
    with pytest.raises(InputError, match=r"no mesh of 025_mug"):
        NovelConditions(own, made, {CAN: objects[CAN]})
    with pytest.raises(InputError, match="at least one object"):
        NovelConditions(own, {}, objects)
    with pytest.raises(InputError, match=r"empty.*shard-0000"):
        made_grasps(tmp_path / "empty")
    write_grasps(tmp_path / "fruitless" / MUG, grasp_vectors(0, 0))
    with pytest.raises(InputError, match=r"fruitless: expected valid grasps.*025_mug"):
        made_grasps(tmp_path / "fruitless")
    write_grasps(tmp_path / "fruitless" / CAN, grasp_vectors(0, 2))
    assert list(made_grasps(tmp_path / "fruitless")) == [CAN]
    with pytest.raises(InputError, match="--count: expected 1 or more, found 0"):
        synth.scenes(tmp_path / "out", count=0, shard_size=100)
    with pytest.raises(InputError, match=r"made in 0\.\.1"):
        NovelConfig(made=1.5)
    with pytest.raises(InputError, match=r"data 'nothing'.*shards:FOLDER"):
        novel(grasps, "nothing", tmp_path / "out")
    behind = [dataclasses.replace(frame, wrist=-frame.wrist) for frame in own.frames]
    lost = NovelConditions(
        dataclasses.replace(own, frames=tuple(behind)),
        made,
        objects,
        NovelConfig(made=1.0),
        scene=SCENE,
    )
    with pytest.raises(InputError, match=r"condition 0: in 50 attempts"):
        lost[0]
