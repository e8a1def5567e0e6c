"""Which grasp poses to make photos of: HandBooster's similarity-aware sampling (section 3.3).

A grasp is a vector (equation 4); the similarity of two is the cosine between theirs, their distance
1 - similarity. Of each distribution, real and made, farthest pose sampling (algorithm 1) keeps few
poses that are far from each other; of the made ones, those unlike the real ones are then drawn more
often (equation 6). Nothing of this was released, so it follows the paper; where the paper is open,
the choice is named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handhold.data.dataset import Record
from handhold.errors import InputError
from handhold.geometry.boxes import box_from_points
from handhold.hand.convention import mirror_pose
from handhold.scene import Camera, FloatArray, Hand, RigidObject, Sample

Array = NDArray[np.float64]
Rule = Literal["label", "10mm", "50mm"]
PERTURBATION_DEG = 30.0
_MIRROR = np.array([-1.0, 1.0, 1.0])


# -------------------------------------------------------------------------- grasping or not, turns


@dataclass(frozen=True, kw_only=True)
class GraspSplit:
    """Numbers of the records by what their hand does; `unknown`: the set does not say."""

    grasping: NDArray[np.int64]
    free: NDArray[np.int64]
    unknown: NDArray[np.int64]


def grasp_split(records: Iterable[Record | Sample], rule: Rule = "10mm") -> GraspSplit:
    """Divide a set by whether the (first) hand grasps.

    rule: "10mm" as printed in the paper and "50mm" as released read the object's motion
    (`data.labels`), where the set's records have it; "label", and every record without motion, the
    hand's own label. Raises InputError for another rule.
    """
    if rule not in ("label", "10mm", "50mm"):
        raise InputError(f"rule: expected label, 10mm or 50mm, found {rule!r}")
    parts: dict[bool | None, list[int]] = {True: [], False: [], None: []}
    for number, record in enumerate(records):
        found = None if rule == "label" else getattr(record, f"grasping_{rule}", None)
        if found is None and record.hands:
            found = record.hands[0].grasping
        parts[None if found is None else bool(found)].append(number)
    yes, no, unknown = (np.asarray(parts[key], np.int64) for key in (True, False, None))
    return GraspSplit(grasping=yes, free=no, unknown=unknown)


def random_turn(
    rng: np.random.Generator, degrees: float = PERTURBATION_DEG, *, both_ways: bool = False
) -> Array:
    """The orientation perturbation: Rx Ry Rz (3, 3) of three independent angles.

    Each is uniform in 0..degrees, as released; both_ways: in -degrees..degrees.
    """
    x, y, z = rng.uniform(-degrees if both_ways else 0.0, degrees, 3)
    return Rotation.from_euler("XYZ", [x, y, z], degrees=True).as_matrix()


def turned(
    hand: Hand, thing: RigidObject | None, camera: Camera, turn: FloatArray
) -> tuple[Hand, RigidObject | None]:
    """Hand and object turned together about the hand's wrist, in the camera frame.

    What the image alone tells (visibility) becomes unknown. Raises InputError for a hand without
    joints.
    """
    if hand.joints is None:
        raise InputError("turned: expected a hand with joints, found none")
    wrist = hand.joints[0]

    def move(points: FloatArray) -> FloatArray:
        return (points - wrist) @ turn.T + wrist

    joints = move(hand.joints)
    pixels = camera.project(joints)
    pose = hand.pose
    if pose is not None:
        pose = np.array(pose)
        rotation = turn @ Rotation.from_rotvec(pose[0]).as_matrix()
        pose[0] = Rotation.from_matrix(rotation).as_rotvec()
    hand = dataclasses.replace(
        hand,
        joints=joints,
        vertices=None if hand.vertices is None else move(hand.vertices),
        pose=pose,
        joints2d=pixels,
        box=box_from_points(pixels),
        joints_visible=None,
        visibility=None,
    )
    if thing is not None:
        thing = dataclasses.replace(
            thing, rotation=turn @ thing.rotation, translation=move(thing.translation), box=None
        )
    return hand, thing


# ------------------------------------------------------------------------------ vectors, equation 4


def relative_pose(hand: Hand, thing: RigidObject) -> tuple[Array, Array, Array]:
    """Pose (15, 3) of the fingers, rotation (3, 3) and translation (3,) of the object in the hand's
    root frame, with the wrist as its origin; a left hand and its object are mirrored first.

    Raises InputError for hands without pose, joints or side.
    """
    if hand.pose is None or hand.joints is None or hand.side is None:
        raise InputError("relative_pose: expected a hand with pose, joints and side")
    pose = np.asarray(hand.pose, np.float64)
    root = Rotation.from_rotvec(pose[0]).as_matrix()
    rotation = root.T @ thing.rotation
    translation = root.T @ (thing.translation - hand.joints[0])
    if hand.side == "left":
        pose = mirror_pose(pose)
        rotation = _MIRROR[:, None] * rotation * _MIRROR
        translation = _MIRROR * translation
    return pose[1:], rotation, translation


def pose_vectors(fingers: FloatArray, rotations: FloatArray, translations: FloatArray) -> Array:
    """Equation 4: (P, 67) numbers of P grasps: 15 joint quaternions, the object's, its translation.

    fingers (P, 15, 3) axis-angle from the flat hand, MANO's joint order; rotations (P, 3, 3) and
    translations (P, 3), metres, in the hand's root frame (`relative_pose`). Open in the paper and
    chosen: quaternions w, x, y, z with w >= 0, nothing weighted. The translation hardly counts.
    Raises InputError for other shapes.
    """
    count = len(fingers)
    shapes = {"fingers": (fingers, (15, 3)), "rotations": (rotations, (3, 3))}
    for name, (value, shape) in (shapes | {"translations": (translations, (3,))}).items():
        if np.shape(value) != (count, *shape):
            raise InputError(
                f"pose_vectors, {name}: expected {(count, *shape)}, found {np.shape(value)}"
            )
    joints = Rotation.from_rotvec(np.asarray(fingers, np.float64).reshape(-1, 3))
    parts = (
        joints.as_quat(canonical=True, scalar_first=True).reshape(count, 60),
        Rotation.from_matrix(rotations).as_quat(canonical=True, scalar_first=True),
        np.asarray(translations, np.float64),
    )
    return np.concatenate(parts, axis=1)


def _directions(vectors: FloatArray) -> Array:
    vectors = np.asarray(vectors, np.float64)
    if vectors.ndim != 2 or not len(vectors) or not np.isfinite(vectors).all():
        raise InputError(f"poses: expected finite vectors (P, N), found {vectors.shape}")
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (length > 0).all():
        raise InputError("poses: a vector is zero, so it has no direction")
    return vectors / length


def similarities(first: FloatArray, second: FloatArray | None = None) -> Array:
    """Cosines (P, Q) between pose vectors (P, N) and (Q, N); without `second` of all pairs.

    This is what equation 5 prints under the name of a distance; the distance is 1 minus it.
    """
    one = _directions(first)
    return one @ (one if second is None else _directions(second)).T


# ---------------------------------------------------------------------- within one, algorithm 1


def farthest_poses(
    vectors: FloatArray,
    count: int,
    *,
    start: int | None = None,
    seed: int = 0,
    literal: bool = False,
) -> NDArray[np.int64]:
    """Numbers of `count` poses, each the farthest from those before it (algorithm 1).

    vectors (P, N). start: the first; None draws it from `seed`. Ties go to the lower number.
    literal: take the printed equation 5, a similarity, for the distance, which gathers poses that
    are alike; the default spreads them. Raises InputError for more poses than there are.
    """
    directions = _directions(vectors)
    total = len(directions)
    if not 1 <= count <= total:
        raise InputError(f"count: expected 1 to {total} poses, found {count}")
    first = int(np.random.default_rng(seed).integers(total)) if start is None else start
    if not 0 <= first < total:
        raise InputError(f"start: expected a number below {total}, found {start}")
    sign = 1.0 if literal else -1.0
    chosen = np.full(count, first)
    nearest = np.full(total, np.inf)  # smallest sign * similarity to those chosen so far
    for number in range(1, count):
        last = chosen[number - 1]
        np.minimum(nearest, sign * (directions @ directions[last]), out=nearest)
        nearest[chosen[:number]] = -np.inf
        chosen[number] = nearest.argmax()
    return chosen


# ------------------------------------------------------------------------- between two, equation 6


def novelty(synthetic: FloatArray, real: FloatArray) -> Array:
    """Equation 6's probabilities (P,) of made poses (P, N) given real ones (M, N); their sum is 1.

    The score of a pose is the sum of its distances to the real ones, scaled to 0..1 over the poses
    (min-max) and then to sum 1: the one most like the real ones is never drawn. Equal scores give
    equal probabilities.
    """
    score = (1 - similarities(synthetic, real)).sum(axis=1)
    spread = np.ptp(score)
    if not spread > 0:
        return np.full(len(score), 1 / len(score))
    scaled = (score - score.min()) / spread
    return scaled / scaled.sum()


def draw_poses(
    probabilities: FloatArray, count: int = 0, *, seed: int = 0, uniforms: FloatArray | None = None
) -> NDArray[np.int64]:
    """`count` numbers with replacement, by the inverse of the summed probabilities.

    uniforms: numbers 0..1 to use instead of those that `seed` gives.
    """
    summed = np.cumsum(np.asarray(probabilities, np.float64))
    if uniforms is None:
        uniforms = np.random.default_rng(seed).random(count)
    last = int(np.flatnonzero(probabilities)[-1])  # rounding may leave the sum below 1
    return np.searchsorted(summed, uniforms, side="right").clip(max=last)


@dataclass(frozen=True, kw_only=True)
class SampledPoses:
    """Of one object: numbers of the real poses kept and of the made ones, and the probabilities
    with which the made ones are drawn."""

    real: NDArray[np.int64]
    synthetic: NDArray[np.int64]
    probabilities: Array

    def draw(self, count: int, seed: int = 0) -> NDArray[np.int64]:
        """Numbers of made poses (of the whole set), with replacement."""
        return self.synthetic[draw_poses(self.probabilities, count, seed=seed)]


def sample_poses(
    real: FloatArray,
    synthetic: FloatArray,
    *,
    real_count: int = 10,
    synthetic_count: int = 500,
    seed: int = 0,
    intra: bool = True,
    cross: bool = True,
) -> SampledPoses:
    """Both samplings for the poses (P, N) and (Q, N) of one object; where there are fewer poses
    than wanted, all are kept.

    Counts are those of the paper for HO3D (M, N). intra, cross: without them the poses are chosen,
    or drawn, at random, as the paper's ablation does.
    """
    rng = np.random.default_rng(seed)

    def pick(vectors: FloatArray, wanted: int) -> NDArray[np.int64]:
        total = len(vectors)
        wanted = min(wanted, total)
        if not intra:
            return rng.permutation(total)[:wanted]
        return farthest_poses(vectors, wanted, start=int(rng.integers(total)))

    kept, made = pick(real, real_count), pick(synthetic, synthetic_count)
    chances = np.full(len(made), 1 / len(made))
    if cross:
        chances = novelty(np.asarray(synthetic)[made], np.asarray(real)[kept])
    return SampledPoses(real=kept, synthetic=made, probabilities=chances)
