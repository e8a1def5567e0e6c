"""HOISDF's training points against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from handhold.errors import InputError
from handhold.geometry.signed_distance import MeshDistance
from handhold.hand.model import HandModel
from handhold.models.hoisdf.points import (
    Surfaces,
    gives_queries,
    jitter_width,
    on_surface,
    sample,
    training_points,
)

RADIUS = 0.04
PLACE = np.array([0.05, 0.0, 0.6])


@pytest.fixture(scope="module")
def surfaces(hand: HandModel) -> Surfaces:
    ball = trimesh.creation.icosphere(subdivisions=3, radius=RADIUS)
    vertices = hand(torch.zeros(16, 3)).vertices.numpy() + [0, 0, 0.6]
    thing = MeshDistance(ball.vertices, ball.faces)
    return Surfaces(vertices, hand.faces.numpy(), thing, np.eye(3), PLACE)


def test_object_distance_is_that_of_a_ball(surfaces: Surfaces) -> None:
    points = sample(surfaces, "object", 400, np.random.default_rng(0))
    distances = surfaces.distance("object", points)
    expected = np.linalg.norm(points - PLACE, axis=1) - RADIUS
    np.testing.assert_allclose(distances, expected, atol=6e-4)  # the ball has flat faces
    assert (distances < 0).any()
    assert (distances > 0).any()
    assert (np.abs(distances) < 0.05).mean() > 0.9
    again = sample(surfaces, "object", 400, np.random.default_rng(0))
    np.testing.assert_array_equal(points, again)


def test_mirrored_and_turned_object(hand: HandModel) -> None:
    """A box off its own centre, turned and seen in a mirrored crop."""
    box = trimesh.creation.box(extents=(0.1, 0.04, 0.02))
    box.apply_translation((0.03, 0, 0))
    thing = MeshDistance(np.asarray(box.vertices), np.asarray(box.faces))
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    vertices = hand(torch.zeros(16, 3)).vertices.numpy()
    surfaces = Surfaces(
        vertices, hand.faces.numpy(), thing, turn, np.array([0.2, 0, 0.5]), mirrored=True
    )
    # the box's centre: turned to +y, placed, mirrored
    points = np.array([[-0.2, 0.03, 0.5], [-0.2, 0.03, 0.53], [0.2, 0.03, 0.5]])
    distances = surfaces.distance("object", points)
    np.testing.assert_allclose(distances, [-0.01, 0.02, 0.38], atol=1e-6)
    np.testing.assert_array_equal(surfaces.near("object", points, 0.015), [True, False, False])
    placed, _ = surfaces.mesh("object")
    np.testing.assert_allclose(placed.mean(axis=0), [-0.2, 0.03, 0.5], atol=1e-6)


def test_hand_is_closed_and_its_joints_are_inside(surfaces: Surfaces, hand: HandModel) -> None:
    joints = hand(torch.zeros(16, 3)).joints16.numpy() + [0, 0, 0.6]
    assert (surfaces.distance("hand", joints[1:]) < 0).all()
    points = sample(surfaces, "hand", 300, np.random.default_rng(1))
    assert (np.abs(surfaces.distance("hand", points)) < 0.002).any()
    on = on_surface(surfaces.hand.vertices, surfaces.hand.faces, 100, np.random.default_rng(2))
    assert np.abs(surfaces.distance("hand", on)).max() < 1e-6


def test_points_of_a_batch(surfaces: Surfaces) -> None:
    draw = np.random.default_rng(3)
    points = PLACE + draw.standard_normal((200, 3)) * 0.1
    distances = np.linalg.norm(points - PLACE, axis=1) - RADIUS  # 40 or so lie within 5 cm
    origin = np.array([0.0, 0, 0.5])
    found = training_points(surfaces, "object", points, origin, 60, draw, progress=0.5)
    back = found["sdf_points"] + origin
    truth = np.linalg.norm(back - PLACE, axis=1) - RADIUS
    np.testing.assert_allclose(found["sdf"], truth, atol=6e-4)  # the ball has flat faces
    assert len(np.unique(found["sdf"])) == 60
    query = found["query_points"] + origin
    width = 0.05 / 3.1
    near = points[np.abs(distances) < 0.05 + 6e-4]
    away = np.abs(query[:, None] - near[None]).max(axis=2).min(axis=1)
    assert away.max() <= width + 1e-6
    assert away.max() > 0.3 * width
    with pytest.raises(InputError, match="none lies"):
        training_points(surfaces, "object", points + 2.0, origin, 10, draw)


def test_query_points_come_from_all_near_points(surfaces: Surfaces) -> None:
    """Also from those whose distance nobody needs, and from no others."""
    draw = np.random.default_rng(8)
    points = sample(surfaces, "hand", 300, draw)
    near = points[np.abs(surfaces.distance("hand", points)) < 0.05]
    seen: set[int] = set()
    for _ in range(40):
        found = training_points(surfaces, "hand", points, np.zeros(3), 100, draw, scale=1e9)
        gap = np.linalg.norm(found["query_points"][:, None] - near, axis=2)
        assert gap.min(axis=1).max() < 1e-6
        seen |= set(gap.argmin(axis=1).tolist())
    assert 20 < len(near) < len(points)
    assert len(seen) == len(near)


def test_schedule() -> None:
    assert [jitter_width(p) for p in (0, 0.29, 0.3, 0.69, 0.7, 1)] == [
        *(0.03, 0.03, 0.05, 0.05, 0.07, 0.07)
    ]
    draw = np.random.default_rng(4)
    assert all(gives_queries(39, draw) for _ in range(50))
    assert 0.3 < np.mean([gives_queries(40, draw) for _ in range(1000)]) < 0.5


def test_no_object(hand: HandModel) -> None:
    vertices = hand(torch.zeros(16, 3)).vertices.numpy()
    alone = Surfaces(vertices, hand.faces.numpy())
    assert len(sample(alone, "hand", 50, np.random.default_rng(0))) == 50
    with pytest.raises(InputError, match="no object"):
        sample(alone, "object", 50, np.random.default_rng(0))
    with pytest.raises(InputError, match="target"):
        sample(alone, "foot", 50, np.random.default_rng(0))
