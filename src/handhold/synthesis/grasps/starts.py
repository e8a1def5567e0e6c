"""Where an optimisation starts: by closing a grip on the object, or far out as published.

A grasp is a vector (51,): translation, root axis-angle, 15 finger axis-angles in MANO's order
(flat hand = zero), in the object's frame. Right hand.
"""

from __future__ import annotations

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handhold.geometry.farthest import farthest_points
from handhold.geometry.signed_distance import MeshDistance
from handhold.synthesis.grasps.hand import GraspHand
from handhold.synthesis.grasps.solid import Solid, points_on
from handhold.synthesis.grips import HoldConfig
from handhold.synthesis.holding import close_a_grip

Array = NDArray[np.float64]

_FAR = 0.2  # metres by which the hull is inflated
_APPROACH = 0.1  # and the palm stands off
_OFFSET = (-0.1, -0.05, 0.0)
_CONE = np.pi / 4


def from_grips(
    hand: GraspHand, solid: Solid, rng: np.random.Generator, count: int, tries: int = 8
) -> tuple[Array, list[str]]:
    """Vectors (N, 51), N <= count, of grips closed on the object, and the names of the grips.

    A grip that finds no place is drawn again, `tries` times in all.
    """
    config = HoldConfig()
    vectors: list[Array] = []
    names: list[str] = []
    for _ in range(count):
        for _ in range(tries):
            held = close_a_grip(hand.model, hand.betas, solid.grid, rng, config)
            if held is not None:
                vectors.append(to_vector(hand, held.pose, held.rotation, held.translation))
                names.append(held.kind)
                break
    return np.array(vectors).reshape(-1, 51), names


def to_vector(hand: GraspHand, pose: Array, rotation: Array, translation: Array) -> Array:
    """The vector of a pose (16, 3) with zero root and x_hand = rotation x_object + translation."""
    turn = rotation.T
    place = turn @ (hand.root - translation) - hand.root
    return np.concatenate([place, Rotation.from_matrix(turn).as_rotvec(), pose[1:].reshape(-1)])


def from_hull(
    hand: GraspHand,
    solid: Solid,
    rng: np.random.Generator,
    count: int,
    planes: Array | None = None,
) -> Array:
    """The published start: open hands (count, 51) around the inflated convex hull, palm inward.

    Anchor points are spread over the hull, inflated by 0.2 m, by farthest points; every hand faces
    the object, is turned at random about its direction, and stands off. planes (count, 4): a table
    for each grasp; then hands come from above.
    """
    del hand  # the published pose suits every hand with MANO's axes
    vertices, _ = solid.mesh.surface
    hull = trimesh.convex.convex_hull(np.asarray(vertices, dtype=np.float64))
    corners = np.asarray(hull.vertices)
    outward = corners / np.maximum(np.linalg.norm(corners, axis=1, keepdims=True), 1e-12)
    outer = trimesh.convex.convex_hull(corners + _FAR * outward)
    surface = MeshDistance(corners, np.asarray(hull.faces))
    anchors = _spread(outer, 100 * count, count, rng)
    if planes is not None:
        anchors = _above(outer, anchors, planes, rng)
    _, closest, _ = surface.query(anchors)
    toward = closest - anchors
    toward /= np.linalg.norm(toward, axis=1, keepdims=True)
    face = np.stack(
        [
            np.arctan2(toward[:, 1], toward[:, 0]) - np.pi / 2,
            -np.arccos(np.clip(toward[:, 2], -1, 1)),
            rng.uniform(0, 2 * np.pi, count),  # roll; the published cone of tilts is 0 wide
        ],
        axis=1,
    )
    turn = Rotation.from_euler("ZXZ", face)
    place = anchors - _APPROACH * turn.apply([0.0, 0.0, 1.0]) + turn.apply(_OFFSET)
    palm = Rotation.from_euler("ZXZ", [-np.pi / 2, -np.pi / 2, np.pi / 6])
    root = (turn * palm).as_rotvec()
    fingers = np.zeros((15, 3))
    fingers[[0, 3, 6, 9]] = (0.0, 0.0, np.pi / 6)
    fingers[12] = np.pi / 2 * np.array([2.0, 1.0, 0.0]) / np.sqrt(5.0)
    return np.concatenate([place, root, np.tile(fingers.reshape(1, -1), (count, 1))], axis=1)


def _spread(outer: trimesh.Trimesh, drawn: int, count: int, rng: np.random.Generator) -> Array:
    points = points_on(np.asarray(outer.triangles), drawn, rng)
    return points[farthest_points(points.astype(np.float32), count)]


def _above(
    outer: trimesh.Trimesh, anchors: Array, planes: Array, rng: np.random.Generator
) -> Array:
    """Anchors redrawn until they lie within 45 degrees above the foot of the table's plane."""
    out = anchors.copy()
    todo = np.arange(len(out))
    for _ in range(200):
        normal, height = planes[todo, :3], planes[todo, 3:]
        way = out[todo] + height * normal
        way /= np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-12)
        todo = todo[(way * normal).sum(axis=1) < np.cos(_CONE)]
        if not len(todo):
            break
        out[todo] = points_on(np.asarray(outer.triangles), len(todo), rng)
    return out


def resting_poses(solid: Solid, rng: np.random.Generator, count: int) -> Array:
    """Poses (count, 4, 4) of an object that was dropped, object to table (the plane z = 0).

    Their third rows (A, B, C, D) are the table in the object's frame: A x + B y + C z + D >= 0 is
    above it.

    The resting poses and their chances are trimesh's (Goldberg et al., "Part pose statistics",
    1999: where the convex hull comes to rest when it is dropped at random), not simulated ones.
    """
    vertices, _ = solid.mesh.surface
    hull = trimesh.convex.convex_hull(np.asarray(vertices, dtype=np.float64))
    poses, chances = trimesh.poses.compute_stable_poses(hull, center_mass=solid.mass_centre)
    drawn = rng.choice(len(poses), size=count, p=np.asarray(chances) / np.sum(chances))
    return np.asarray(poses)[drawn]
