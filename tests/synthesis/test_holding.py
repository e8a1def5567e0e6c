"""Holds touch, do not enter, and repeat; near misses keep their distance. All measured exactly."""

import numpy as np
import pytest
import torch

from handhold.errors import InputError
from handhold.geometry.signed_distance import GridDistance, MeshDistance
from handhold.hand.anatomy import LIMITS, angles_from_pose, sample_betas
from handhold.hand.model import HandModel
from handhold.objects.procedural import make_object, random_object
from handhold.synthesis.holding import HoldConfig, hold, near_miss

NAMES = ("005_tomato_soup_can", "003_cracker_box", "011_banana", "040_large_marker", "025_mug")
DIGIT_OF_JOINT = ["palm"] + [
    d for d in ("index", "middle", "little", "ring", "thumb") for _ in "abc"
]


@pytest.fixture(scope="module")
def hand():
    return HandModel.free()


@pytest.fixture(scope="module")
def objects():
    rng = np.random.default_rng(0)
    meshes = [make_object(name, rng) for name in NAMES] + [random_object(rng) for _ in range(2)]
    return [(mesh, GridDistance(*mesh.surface)) for mesh in meshes]


def posed(hand, pose, betas):
    with torch.no_grad():
        out = hand(
            torch.tensor(pose, dtype=torch.float32), torch.tensor(betas, dtype=torch.float32)
        )
    return out.vertices.numpy().astype(np.float64)


def surface_distance(hand, mesh, result, betas):
    """Distances of the hand's vertices and triangle centres to the exact mesh."""
    vertices = posed(hand, result.pose, betas)
    centres = vertices[hand.faces.numpy()].mean(axis=1)
    points = (np.concatenate([vertices, centres]) - result.translation) @ result.rotation
    return MeshDistance(*mesh.surface).distance(points)


@pytest.fixture(scope="module")
def holds(hand, objects):
    found = []
    for number, (mesh, distance) in enumerate(objects):
        rng = np.random.default_rng(number)
        for _ in range(4):
            betas = sample_betas(rng, 1)[0] * 0.8
            found.append((mesh, betas, hold(hand, betas, mesh, distance, rng)))
    return found


def test_nearly_every_call_finds_a_hold(holds):
    assert sum(result is not None for _, _, result in holds) >= 0.9 * len(holds)


def test_holds_do_not_enter_the_object(hand, holds):
    for mesh, betas, result in holds:
        if result is None:
            continue
        deepest = surface_distance(hand, mesh, result, betas).min()
        assert deepest > -0.002, (mesh.name, result.kind)
        assert max(0, -1e3 * deepest) == pytest.approx(result.penetration_mm, abs=0.05)


def test_opposing_parts_touch(hand, holds):
    owner = np.array(DIGIT_OF_JOINT)[hand.weights.argmax(dim=1).numpy()]
    for mesh, betas, result in holds:
        if result is None:
            continue
        near = surface_distance(hand, mesh, result, betas)[:778] < 0.003
        touching = set(owner[near])
        fingers = touching - {"thumb", "palm"}
        assert ("thumb" in touching and fingers) or ("palm" in touching and len(fingers) >= 2)


def test_poses_are_anatomical_and_transforms_rigid(holds):
    for _, _, result in holds:
        if result is None:
            continue
        assert np.abs(result.pose[0]).max() == 0
        angles = angles_from_pose(result.pose)
        assert (angles >= LIMITS[..., 0] - 1e-6).all() and (angles <= LIMITS[..., 1] + 1e-6).all()
        assert np.allclose(result.rotation @ result.rotation.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(result.rotation) == pytest.approx(1)


def test_same_seed_same_hold_other_seed_other_hold(hand, objects):
    mesh, distance = objects[0]
    first, same, other = (
        hold(hand, np.zeros(10), mesh, distance, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert first is not None and same is not None and other is not None
    assert np.array_equal(first.pose, same.pose)
    assert np.array_equal(first.translation, same.translation)
    assert np.abs(first.pose - other.pose).max() > 0.05


def test_near_misses_keep_their_distance(hand, objects):
    rng = np.random.default_rng(5)
    sorts, found = set(), 0
    for mesh, distance in objects:
        for _ in range(3):
            betas = sample_betas(rng, 1)[0]
            result = near_miss(hand, betas, mesh, distance, rng)
            if result is None:
                continue
            found += 1
            sorts.add(result.kind)
            nearest = surface_distance(hand, mesh, result, betas)[:778].min()
            assert 0.0119 < nearest < 0.0801
            assert result.contacts == ()
    assert found >= 15 and len(sorts) >= 3


def test_impossible_objects_give_none(hand):
    """A block that no hand can span, without a flat try that would succeed by lying on the palm."""
    import trimesh

    block = trimesh.creation.box([0.4, 0.4, 0.4])
    from handhold.objects.mesh import ObjectMesh

    mesh = ObjectMesh(name="block", vertices=block.vertices, faces=block.faces)
    assert (
        hold(
            hand,
            np.zeros(10),
            mesh,
            GridDistance(*mesh.surface, 24),
            np.random.default_rng(0),
            HoldConfig(tries=2),
        )
        is None
    )


def test_wrong_input_is_refused(hand, objects):
    mesh, distance = objects[0]
    with pytest.raises(InputError, match="right"):
        hold(hand.mirrored(), np.zeros(10), mesh, distance, np.random.default_rng(0))
    with pytest.raises(InputError, match="betas"):
        hold(hand, np.zeros(3), mesh, distance, np.random.default_rng(0))
    with pytest.raises(InputError, match="tries"):
        HoldConfig(tries=0)
    with pytest.raises(InputError, match="gap"):
        HoldConfig(gap=(0.05, 0.01))
