"""What a hand's joints can do, and natural poses and shapes drawn at random.

Angles are degrees about three anatomical axes of each finger joint, in this order:

- flexion (0): positive curls towards the palm;
- abduction (1): positive leans a finger to the thumb's side, and lifts the thumb off the palm;
- twist (2): about the bone, seen from the knuckle positive is clockwise.

A joint's rotation is ``F Rx(flexion) Ry(abduction) Rz(twist) F^T`` with its frame ``F``.  Poses are
axis-angle (16, 3) in MANO's joint order, "flat" convention, for a right hand; the root row is zero.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from handhold.errors import InputError
from handhold.hand import shapes
from handhold.hand.clearance import PARENTS, Capsules

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float64]

DIGITS = {"index": 1, "middle": 4, "little": 7, "ring": 10, "thumb": 13}
"""First MANO joint of each digit."""

BETA_NAMES = {
    "size": "everything 5 % larger: 9.5 mm of hand length",
    "finger length": "the four fingers 4 % longer: 3.9 mm at the middle finger",
    "finger thickness": "all digits 6 % thicker: 1.1 mm at the index finger's middle joint",
    "palm width": "the palm 4 % wider: 3.0 mm across the knuckles",
    "palm length": "the palm 3.5 % longer: 3.2 mm from wrist to middle knuckle",
    "palm thickness": "the palm 6 % thicker: 1.7 mm",
    "thumb length": "the thumb 5 % longer: 4.5 mm",
    "wrist width": "wrist and forearm 6 % wider and thicker: 3.2 mm in width",
    "finger taper": "end phalanges 5.5 % thicker, first phalanges 1.5 % thinner: 0.8 mm at the tip",
    "flesh": "fuller pads and balls of thumb and little finger: 0.9 mm",
}
"""The ten shape numbers, in order, and what one unit (one standard deviation) of each does."""

_OVERLAP = 0.0035  # metres that the soft flesh of two parts may share in a sampled pose
_ATTEMPTS = 24

# Flexion axes in the rest pose (MANO's right-hand axes: fingers -x, palm -y, thumb +z).
_FLEXION_AXES = {
    "index": (-0.03, -0.03, 1.0),
    "middle": (-0.12, 0.04, 0.99),
    "ring": (-0.25, 0.13, 0.96),
    "little": (-0.28, 0.26, 0.92),
    "thumb": (0.49, -0.87, -0.03),
}

_FINGER = (
    ((-25, 90), (-18, 18), (-8, 8)),
    ((-4, 110), (-3, 3), (-4, 4)),
    ((-8, 80), (-3, 3), (-4, 4)),
)
_INDEX = (((-25, 90), (-15, 22), (-8, 8)), *_FINGER[1:])
_LITTLE = (((-30, 92), (-28, 15), (-12, 8)), *_FINGER[1:])
_THUMB = (
    ((-25, 45), (-20, 50), (-45, 20)),
    ((-10, 60), (-12, 12), (-8, 8)),
    ((-20, 80), (-4, 4), (-4, 4)),
)
LIMITS: Array = np.array([*_INDEX, *_FINGER, *_LITTLE, *_FINGER, *_THUMB], dtype=np.float64)
"""(15, 3, 2): lowest and highest flexion, abduction and twist of each finger joint, degrees.

Ranges of a healthy adult as found in clinical goniometry (finger knuckle 0-90 with 20-30 of passive
extension, middle joint 0-110, end joint 0-80; thumb knuckle 0-60, its end joint 0-80 with up to 20
of extension), with a few degrees of twist that soft tissue allows.
"""


def anatomical_frames(joints: ArrayLike, tips: ArrayLike) -> Array:
    """Each joint's anatomical axes in the rest pose of a right hand with MANO's axes.

    Args:
        joints: (16, 3) rest joints in MANO's order.
        tips: (5, 3) ends of thumb, index, middle, ring and little finger.

    Returns:
        (16, 3, 3); the columns of each are the flexion axis, the back-of-hand direction and the
        bone's direction (away from the wrist).  The root's frame belongs to the palm.
    """
    joint = np.asarray(joints, dtype=np.float64)
    tip = np.asarray(tips, dtype=np.float64)
    if joint.shape != (16, 3) or tip.shape != (5, 3):
        raise InputError(
            f"joints and tips: found shapes {joint.shape} and {tip.shape}, expected (16, 3), (5, 3)"
        )
    frames = np.zeros((16, 3, 3))
    frames[0] = _frame(joint[4] - joint[0], np.array([0.0, 0.0, 1.0]))
    for digit, name in enumerate(("thumb", "index", "middle", "ring", "little")):
        first = DIGITS[name]
        chain = [*joint[first : first + 3], tip[digit]]
        for k in range(3):
            frames[first + k] = _frame(chain[k + 1] - chain[k], np.array(_FLEXION_AXES[name]))
    return frames


def _frame(along: Array, flexion: Array) -> Array:
    along = along / np.linalg.norm(along)
    flexion = flexion - along * (flexion @ along)
    flexion = flexion / np.linalg.norm(flexion)
    return np.stack([flexion, np.cross(along, flexion), along], axis=1)


@cache
def _free_hand() -> tuple[Array, Capsules]:
    """The free hand's anatomical frames and capsules."""
    with (
        resources.files("handhold.hand").joinpath("assets/free_hand.npz").open("rb") as file,
        np.load(file) as data,
    ):
        vertices = data["v_template"].astype(np.float64)
        joints, tips = data["J_regressor"] @ vertices, vertices[data["tips"]]
        return (
            anatomical_frames(joints, tips),
            Capsules.from_mesh(vertices, data["part"], joints, tips),
        )


def pose_from_angles(angles: ArrayLike, frames: Array | None = None) -> Array:
    """Axis-angle poses (..., 16, 3) from anatomical angles (..., 15, 3) in degrees.

    ``frames`` are those of ``anatomical_frames``; without them, the free hand's.
    """
    values = np.asarray(angles, dtype=np.float64)
    if values.shape[-2:] != (15, 3):
        raise InputError(f"angles: found shape {values.shape}, expected (..., 15, 3)")
    frame = (_free_hand()[0] if frames is None else frames)[1:]
    local = Rotation.from_euler("XYZ", values.reshape(-1, 3), degrees=True).as_rotvec()
    local = local.reshape(*values.shape[:-2], 15, 3)
    out = np.zeros((*values.shape[:-2], 16, 3))
    out[..., 1:, :] = np.einsum("jab,...jb->...ja", frame, local)
    return out


def angles_from_pose(pose: ArrayLike, frames: Array | None = None) -> Array:
    """Anatomical angles (..., 15, 3) in degrees of axis-angle poses (..., 16, 3)."""
    values = np.asarray(pose, dtype=np.float64)
    if values.shape[-2:] != (16, 3):
        raise InputError(f"pose: found shape {values.shape}, expected (..., 16, 3)")
    frame = (_free_hand()[0] if frames is None else frames)[1:]
    local = np.einsum("jab,...ja->...jb", frame, values[..., 1:, :])
    euler = Rotation.from_rotvec(local.reshape(-1, 3)).as_euler("XYZ", degrees=True)
    return euler.reshape(local.shape)


def clamp_pose(pose: ArrayLike, frames: Array | None = None) -> Array:
    """The pose (..., 16, 3) with every joint angle moved inside ``LIMITS``; the root is kept."""
    angles = np.clip(angles_from_pose(pose, frames), LIMITS[..., 0], LIMITS[..., 1])
    out = pose_from_angles(angles, frames)
    out[..., 0, :] = np.asarray(pose, dtype=np.float64)[..., 0, :]
    return out


def sample_betas(rng: np.random.Generator, n: int) -> Array:
    """Random adult shapes (n, 10): standard normal, clipped at 2.5."""
    return np.clip(rng.standard_normal((n, 10)), -2.5, 2.5)


def sample_angles(rng: np.random.Generator, n: int, *, spread: float = 1.0) -> Array:
    """Random natural joint angles (n, 15, 3), degrees, inside ``LIMITS``; see ``sample_pose``."""
    if n < 0 or spread < 0:
        raise InputError(f"n and spread: found {n} and {spread}, expected not negative")
    out = np.zeros((n, 15, 3))
    todo = np.arange(n)
    for attempt in range(_ATTEMPTS):
        if not len(todo):
            break
        calm = spread * (1 - attempt / _ATTEMPTS)
        drawn = np.stack([shapes.random_shape(rng, calm) for _ in todo])
        out[todo] = np.clip(drawn, LIMITS[..., 0], LIMITS[..., 1])
        overlap = _free_hand()[1].penetration(pose_from_angles(out[todo]))
        todo = todo[overlap > _OVERLAP]
    if len(todo):  # hardly ever: an open hand touches nothing
        out[todo] = shapes.angles(shapes.SHAPES["relaxed"])
    return out


def sample_pose(
    rng: np.random.Generator, n: int, *, spread: float = 1.0, frames: Array | None = None
) -> Array:
    """Random natural poses (n, 16, 3), axis-angle, flat convention, root row zero.

    A mixture of named hand shapes and blends of two of them, plus noise in which
    neighbouring fingers move together and the end joints follow the middle ones.  ``spread`` scales
    the noise; 0 gives the shapes and blends alone.
    """
    return pose_from_angles(sample_angles(rng, n, spread=spread), frames)


def named_pose(name: str, frames: Array | None = None) -> Array:
    """The pose (16, 3) of one of ``handhold.hand.shapes.SHAPES``."""
    if name not in shapes.SHAPES:
        raise InputError(f"shape name: found {name!r}, expected one of {sorted(shapes.SHAPES)}")
    return pose_from_angles(shapes.angles(shapes.SHAPES[name]), frames)


def pose_penalty(pose: Tensor, frames: Array | None = None) -> Tensor:
    """Mean squared excess over ``LIMITS`` (radians squared) of poses (..., 16, 3); shape (...).

    Zero inside the limits and differentiable everywhere but at half turns.
    """
    import torch

    if pose.shape[-2:] != (16, 3):
        raise InputError(f"pose: found shape {tuple(pose.shape)}, expected (..., 16, 3)")
    frame = torch.as_tensor((_free_hand()[0] if frames is None else frames)[1:]).to(pose)
    local = torch.einsum("jab,...ja->...jb", frame, pose[..., 1:, :])
    square = (local * local).sum(-1).clamp_min(1e-12)
    angle = square.sqrt()
    s, c = torch.sin(angle / 2) / angle, torch.cos(angle / 2)
    x, y, z = (local * s[..., None]).unbind(-1)
    w = c
    # intrinsic XYZ: R02 = sin(b), R01 = -cos(b) sin(c), R12 = -sin(a) cos(b)
    sine = (2 * (x * z + w * y)).clamp(-1 + 1e-6, 1 - 1e-6)
    flexion = torch.atan2(2 * (w * x - y * z), 1 - 2 * (x * x + y * y))
    twist = torch.atan2(2 * (w * z - x * y), 1 - 2 * (y * y + z * z))
    angles = torch.stack([flexion, torch.asin(sine), twist], -1)
    limit = torch.deg2rad(torch.as_tensor(LIMITS).to(pose))
    excess = (limit[..., 0] - angles).clamp_min(0) + (angles - limit[..., 1]).clamp_min(0)
    return (excess * excess).mean((-2, -1))


__all__ = [
    "BETA_NAMES",
    "DIGITS",
    "LIMITS",
    "PARENTS",
    "anatomical_frames",
    "angles_from_pose",
    "clamp_pose",
    "named_pose",
    "pose_from_angles",
    "pose_penalty",
    "sample_angles",
    "sample_betas",
    "sample_pose",
]
