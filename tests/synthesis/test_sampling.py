"""Choosing grasp poses: against brute force, closed forms and round trips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from handhold.data.dataset import Record
from handhold.errors import InputError
from handhold.scene import Camera, Hand, RigidObject
from handhold.synthesis.sampling import (
    draw_poses,
    farthest_poses,
    grasp_split,
    novelty,
    pose_vectors,
    random_turn,
    relative_pose,
    sample_poses,
    similarities,
    turned,
)
from handhold.synthesis.sampling_plots import draw_similarities, mean_nearest
from handhold.synthesis.scenes import SceneConfig, make_scene

CAMERA = Camera(
    intrinsics=np.array([[300.0, 0, 64], [0, 300, 64], [0, 0, 1]]), width=128, height=128
)


def poses(count: int, seed: int, spread: float = 0.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return pose_vectors(
        rng.normal(0, spread, (count, 15, 3)),
        Rotation.random(count, rng=rng).as_matrix(),
        rng.normal(0, 0.05, (count, 3)),
    )


def plainly_farthest(vectors: np.ndarray, count: int, start: int, sign: float) -> list[int]:
    """Algorithm 1 word for word."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen = [start]
    while len(chosen) < count:
        nearest = (sign * unit @ unit[chosen].T).min(1)
        nearest[chosen] = -np.inf
        chosen.append(int(nearest.argmax()))
    return chosen


@pytest.mark.parametrize("literal", [False, True])
def test_farthest_poses_equal_the_plain_algorithm(literal: bool) -> None:
    vectors = poses(600, 0)
    found = farthest_poses(vectors, 80, start=7, literal=literal)
    assert found.tolist() == plainly_farthest(vectors, 80, 7, 1.0 if literal else -1.0)
    assert farthest_poses(vectors[:5], 5, start=2).tolist() == plainly_farthest(
        vectors[:5], 5, 2, -1.0
    )


def test_the_default_spreads_and_the_letter_gathers() -> None:
    vectors = np.concatenate([poses(300, 1, 0.1), poses(100, 2, 1.0)])
    spread, literal = (
        mean_nearest(vectors[farthest_poses(vectors, 20, seed=3, literal=x)]) for x in (False, True)
    )
    by_chance = mean_nearest(vectors[np.random.default_rng(0).permutation(400)[:20]])
    assert spread < by_chance - 0.03 and literal > by_chance + 0.03


def test_start_and_wrong_requests() -> None:
    vectors = poses(10, 0)
    assert (
        farthest_poses(vectors, 3, seed=4).tolist() == farthest_poses(vectors, 3, seed=4).tolist()
    )
    assert len({int(farthest_poses(vectors, 1, seed=s)[0]) for s in range(20)}) > 3
    for options, words in (
        ({"count": 11}, "1 to 10 poses"),
        ({"count": 3, "start": 10}, "below 10"),
    ):
        with pytest.raises(InputError, match=words):
            farthest_poses(vectors, **options)
    with pytest.raises(InputError, match="zero"):
        similarities(np.zeros((2, 67)))
    with pytest.raises(InputError, match=r"fingers: expected \(2, 15, 3\)"):
        pose_vectors(np.zeros((2, 45)), np.zeros((2, 3, 3)), np.zeros((2, 3)))


def test_novelty_prefers_what_is_unlike_the_real() -> None:
    real = np.array([[1.0, 0, 0]])
    made = np.array([[1.0, 0, 0], [1, 1, 0], [0, 1, 0], [-1, 0, 0]])
    distance = 1 - np.array([1, np.sqrt(0.5), 0, -1])
    np.testing.assert_allclose(novelty(made, real), distance / distance.sum(), atol=1e-12)
    np.testing.assert_allclose(novelty(made[:1].repeat(3, 0), real), 1 / 3)
    drawn = np.bincount(draw_poses(novelty(made, real), 20_000, seed=1), minlength=4) / 20_000
    np.testing.assert_allclose(drawn, distance / distance.sum(), atol=0.015)
    assert draw_poses(np.array([0.5, 0.5, 0.0]), uniforms=np.array([1.0 - 1e-17])).tolist() == [1]


def test_both_samplings_together() -> None:
    real, made = poses(60, 5, 0.2), poses(200, 6)
    found = sample_poses(real, made, real_count=8, synthetic_count=50, seed=2)
    assert len(set(found.real.tolist())) == 8 and len(set(found.synthetic.tolist())) == 50
    np.testing.assert_allclose(
        found.probabilities, novelty(made[found.synthetic], real[found.real])
    )
    assert set(found.draw(300, seed=1)) <= set(found.synthetic.tolist())
    by_chance = sample_poses(real, made, real_count=8, synthetic_count=50, intra=False, cross=False)
    assert np.ptp(by_chance.probabilities) == 0
    assert mean_nearest(made[found.synthetic]) < mean_nearest(made[by_chance.synthetic])
    assert len(sample_poses(real, made[:3]).synthetic) == 3


# ------------------------------------------------------------------------- hands and their objects


@pytest.fixture(scope="module")
def holding() -> tuple[Hand, RigidObject, Camera]:
    config = SceneConfig(width=64, height=64, holding=1.0, near=0.0, occluder=0.0, left=0.0)
    for number in range(20):
        sample = make_scene(3, number, config)
        if sample.hands and sample.object is not None and sample.hands[0].grasping:
            return sample.hands[0], sample.object, sample.camera
    pytest.fail("no scene holds anything")


def test_turning_everything_leaves_the_vector_alone(
    holding: tuple[Hand, RigidObject, Camera],
) -> None:
    """Equation 4 has no global orientation and no place."""
    hand, thing, camera = holding
    assert hand.joints is not None and hand.vertices is not None
    turn = random_turn(np.random.default_rng(0))
    moved, with_it = turned(hand, thing, camera, turn)
    assert with_it is not None and moved.joints is not None and moved.vertices is not None
    before, after = relative_pose(hand, thing), relative_pose(moved, with_it)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    # about the wrist, and the hand as one body with its object
    np.testing.assert_allclose(moved.joints[0], hand.joints[0], atol=1e-9)
    np.testing.assert_allclose(
        moved.joints[9] - moved.joints[0], turn @ (hand.joints[9] - hand.joints[0])
    )
    gap = np.linalg.norm(hand.vertices - thing.translation, axis=1)
    np.testing.assert_allclose(
        np.linalg.norm(moved.vertices - with_it.translation, axis=1), gap, atol=1e-6
    )
    np.testing.assert_allclose(camera.project(moved.joints), moved.joints2d)
    with pytest.raises(InputError, match="joints"):
        turned(replace(hand, joints=None), thing, camera, turn)


def test_a_left_hand_is_its_mirror_image(holding: tuple[Hand, RigidObject, Camera]) -> None:
    hand, thing, _ = holding
    assert hand.pose is not None and hand.joints is not None
    sign = np.array([-1.0, 1.0, 1.0])
    left = replace(
        hand, side="left", pose=hand.pose * [1, -1, -1], joints=hand.joints * sign, vertices=None
    )
    mirrored = replace(
        thing,
        rotation=sign[:, None] * thing.rotation * sign,
        translation=thing.translation * sign,
    )
    for one, other in zip(relative_pose(hand, thing), relative_pose(left, mirrored), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_turns_are_one_sided_unless_asked() -> None:
    rng = np.random.default_rng(0)
    for both_ways in (False, True):
        found = np.array(
            [
                Rotation.from_matrix(random_turn(rng, both_ways=both_ways)).as_euler(
                    "XYZ", degrees=True
                )
                for _ in range(200)
            ]
        )
        low = -30 if both_ways else 0
        assert found.min() >= low - 1e-9 and found.max() <= 30
        np.testing.assert_allclose(found.mean(0), (low + 30) / 2, atol=4)
    turn = random_turn(np.random.default_rng(5))
    x, y, z = np.radians(np.random.default_rng(5).uniform(0, 30, 3))
    about = [Rotation.from_rotvec(v).as_matrix() for v in ([x, 0, 0], [0, y, 0], [0, 0, z])]
    np.testing.assert_allclose(turn, about[0] @ about[1] @ about[2], atol=1e-12)


def test_grasp_split() -> None:
    def record(label: bool | None, near: bool | None, far: bool | None) -> Record:
        return Record(
            key="a",
            image="a.png",
            camera=CAMERA,
            hands=(Hand(side="right", grasping=label),),
            grasping_10mm=near,
            grasping_50mm=far,
        )

    records = [record(True, False, None), record(False, True, False), record(None, None, None)]
    found = {rule: grasp_split(records, rule) for rule in ("label", "10mm", "50mm")}
    assert [found["label"].grasping.tolist(), found["label"].free.tolist()] == [[0], [1]]
    assert [found["10mm"].grasping.tolist(), found["10mm"].free.tolist()] == [[1], [0]]
    assert [found["50mm"].grasping.tolist(), found["50mm"].free.tolist()] == [[0], [1]]
    assert all(split.unknown.tolist() == [2] for split in found.values())
    scenes = [make_scene(0, n, SceneConfig(width=48, height=48)) for n in range(4)]
    held = [n for n, scene in enumerate(scenes) if scene.hands and scene.hands[0].grasping]
    assert grasp_split(scenes).grasping.tolist() == held
    with pytest.raises(InputError, match="rule"):
        grasp_split([], "5mm")  # type: ignore[arg-type]


def test_plot(tmp_path: Path) -> None:
    real, made = poses(60, 5, 0.4), poses(200, 6)
    means = draw_similarities(real, made, tmp_path / "plot.png")
    picture = cv2.imread(str(tmp_path / "plot.png"))
    assert picture is not None and picture.std() > 10
    assert means["made, farthest"] < means["made, random"]
    assert means["real, farthest"] < means["real, random"]
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]
