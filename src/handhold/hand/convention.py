"""Every convention of hands in one place: joint orders, tips, sides, frames, parameters.

Functions take NumPy arrays or torch tensors of any batch shape and return the same kind. Metres,
radians, pixels; a pose is axis-angle (..., 16, 3) in MANO's joint order, row 0 the global rotation.

Sources: MANO (Romero, Tzionas, Black, SIGGRAPH Asia 2017) and the toolkits of DexYCB, HO3D,
FreiHAND, RHD and Keypoint Transformer, as read from their documentation and data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handhold.errors import InputError
from handhold.scene import Side

if TYPE_CHECKING:
    from torch import Tensor

    Array = TypeVar("Array", NDArray[Any], Tensor)
else:
    Array = TypeVar("Array")

FINGER_NAMES = ("thumb", "index", "middle", "ring", "little")
JOINT_NAMES = (
    "wrist",
    *(f"{finger}_{part}" for finger in FINGER_NAMES for part in ("1", "2", "3", "tip")),
)
MANO_JOINT_NAMES = (
    "wrist",
    *(f"{f}_{k}" for f in ("index", "middle", "little", "ring", "thumb") for k in (1, 2, 3)),
)
PARENTS_MANO = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
SKELETON = tuple((0 if k % 4 == 1 else k - 1, k) for k in range(1, 21))
TIP_JOINTS = (4, 8, 12, 16, 20)

# canonical[k] = (16 MANO joints + tips thumb, index, middle, ring, little)[MANO_TO_CANONICAL[k]]
MANO_TO_CANONICAL = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]

# other[k] = canonical[ORDERS["other"][k]]
_MANO_ORDER = (0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3, 4, 8, 12, 16, 20)
_KT_FROM_MANO = (16, 15, 14, 13, 17, 3, 2, 1, 18, 6, 5, 4, 19, 12, 11, 10, 20, 9, 8, 7, 0)
_RHD_ORDER = (0, 4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13, 20, 19, 18, 17)
_SAME = tuple(range(21))
ORDERS: dict[str, tuple[int, ...]] = {
    "canonical": _SAME,
    "manopth": _SAME,
    "freihand": _SAME,
    "dexycb": _SAME,
    "openpose": _SAME,
    "coco_wholebody": _SAME,
    "hint": _SAME,
    "onehand10k": _SAME,
    "obman": _SAME,
    "mano": _MANO_ORDER,
    "ho3d": _MANO_ORDER,
    "h2o3d": _MANO_ORDER,
    "keypoint_transformer": tuple(_MANO_ORDER[k] for k in _KT_FROM_MANO),
    "rhd": _RHD_ORDER,
}

# thumb, index, middle, ring, little; the tips of two conventions lie millimetres apart
TIP_VERTICES: dict[str, tuple[int, int, int, int, int]] = {
    "manopth_right": (745, 317, 444, 556, 673),
    "manopth_left": (745, 317, 445, 556, 673),
    "unihope_helper": (745, 317, 445, 556, 673),
    "freihand": (744, 320, 443, 555, 672),
    "smplx": (744, 320, 443, 554, 671),
    "ho3d": (728, 353, 442, 576, 694),
    "handmesh": (744, 333, 444, 555, 672),
}

OPENGL_OPENCV = (1.0, -1.0, -1.0)  # its own inverse
FREIHAND_ROOT = 9  # FreiHAND's root: the first joint of the middle finger


def _signs(like: Array, signs: tuple[float, ...]) -> Array:
    """`signs` as an array of the kind, type and device of `like`."""
    value: Any = like
    if hasattr(value, "new_tensor"):
        return value.new_tensor(signs)
    return np.asarray(signs, dtype=value.dtype)  # pyright: ignore[reportReturnType]


def _last(name: str, value: Any, *tail: int) -> None:
    if tuple(value.shape[-len(tail) :]) != tail:
        shape = ", ".join(str(n) for n in tail)
        raise InputError(f"{name}: expected shape (..., {shape}), found {tuple(value.shape)}")


def reorder(points: Array, from_: str, to: str) -> Array:
    """Joints (..., 21, C) of the order `from_` in the order `to` (names of `ORDERS`).

    Raises InputError for unknown orders and for another number of joints.
    """
    for name in (from_, to):
        if name not in ORDERS:
            raise InputError(f"joint order: expected one of {', '.join(ORDERS)}, found {name!r}")
    if points.ndim < 2 or points.shape[-2] != 21:
        raise InputError(f"points: expected (..., 21, C), found {tuple(points.shape)}")
    to_canonical = np.argsort(np.asarray(ORDERS[from_]))
    return points[..., to_canonical[np.asarray(ORDERS[to])].tolist(), :]


def tip_vertices(convention: str, side: Side = "right") -> tuple[int, int, int, int, int]:
    """The tips of `convention`: a key of `TIP_VERTICES`, or "manopth", which looks at `side`.

    Raises InputError for an unknown convention.
    """
    name = f"manopth_{side}" if convention == "manopth" else convention
    if name not in TIP_VERTICES:
        known = ", ".join(("manopth", *TIP_VERTICES))
        raise InputError(f"tips: expected one of {known}, found {convention!r}")
    return TIP_VERTICES[name]


# ------------------------------------------------------------------------------------- mirroring


def mirror_pose(pose: Array) -> Array:
    """The other side's axis-angles (..., 3): y and z negated, for the global rotation too."""
    _last("pose", pose, 3)
    return pose * _signs(pose, (1.0, -1.0, -1.0))


def mirror_rotation(rotation: Array) -> Array:
    """The other side's matrices (..., 3, 3): M R M with M = diag(-1, 1, 1)."""
    _last("rotation", rotation, 3, 3)
    signs = _signs(rotation, (-1.0, 1.0, 1.0))
    return rotation * signs * signs[:, None]


def mirror_points(points: Array) -> Array:
    """Camera-frame points (..., 3) of the flipped image: x negated. Joints keep their order."""
    _last("points", points, 3)
    return points * _signs(points, (-1.0, 1.0, 1.0))


def mirror_points2d(points: Array, width: int) -> Array:
    """Pixels (..., 2) in an image of `width` that was flipped: x -> width - 1 - x."""
    _last("points", points, 2)
    return points * _signs(points, (-1.0, 1.0)) + _signs(points, (width - 1.0, 0.0))


def mirror_box(box: Array, width: int) -> Array:
    """Boxes (..., 4) x0, y0, x1, y1 in the flipped image: the two sides swap places."""
    _last("box", box, 4)
    swapped = box[..., [2, 1, 0, 3]]
    flipped = swapped * _signs(box, (-1.0, 1.0, -1.0, 1.0))
    return flipped + _signs(box, (width - 1.0, 0.0, width - 1.0, 0.0))


def mirror_intrinsics(intrinsics: Array, width: int) -> Array:
    """Intrinsics (..., 3, 3) of the flipped image: cx -> width - 1 - cx, skew negated."""
    _last("intrinsics", intrinsics, 3, 3)
    top = _signs(intrinsics, (1.0, -1.0, -1.0))
    keep = _signs(intrinsics, (1.0, 1.0, 1.0))
    shift = _signs(intrinsics, (0.0, 0.0, width - 1.0))
    first = intrinsics[..., :1, :] * top + shift
    result: Any = intrinsics * keep  # a copy of either kind
    result[..., :1, :] = first
    return result


# ------------------------------------------------------------------------------------ mean pose


def mean_to_flat(pose: Array, hands_mean: Array) -> Array:
    """Add the mean (45,) to the 15 finger joints: `flat_hand_mean=False` pose -> flat pose."""
    return _add_mean(pose, hands_mean, 1.0)


def flat_to_mean(pose: Array, hands_mean: Array) -> Array:
    """Take the mean (45,) off the 15 finger joints: flat pose -> `flat_hand_mean=False` pose."""
    return _add_mean(pose, hands_mean, -1.0)


def _add_mean(pose: Array, hands_mean: Array, sign: float) -> Array:
    _last("pose", pose, 16, 3)
    _last("hands_mean", hands_mean, 45)
    result: Any = pose * 1.0  # a copy of either kind
    result[..., 1:, :] += sign * hands_mean.reshape(15, 3)
    return result


# --------------------------------------------------------------------------------------- frames


def opengl_to_opencv(points: Array) -> Array:
    """Points (..., 3) with x right, y up, z backward in x right, y down, z forward."""
    _last("points", points, 3)
    return points * _signs(points, OPENGL_OPENCV)


def opencv_to_opengl(points: Array) -> Array:
    """The inverse of `opengl_to_opencv` (the same signs)."""
    return opengl_to_opencv(points)


def change_frame(
    pose: NDArray[Any],
    translation: NDArray[Any],
    root: NDArray[Any],
    frame: NDArray[Any],
    shift: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Hand parameters after x' = frame @ x + shift. NumPy only.

    pose (..., 16, 3), translation (..., 3), root (..., 3) = J0(betas), frame (..., 3, 3): a
    rotation. MANO turns about its root joint, hence R' = F R and t' = F (J0 + t) + c - J0.
    Returns the new pose and translation. Raises InputError for wrong shapes.
    """
    _last("pose", pose, 16, 3)
    _last("translation", translation, 3)
    _last("root", root, 3)
    _last("frame", frame, 3, 3)
    turned = frame @ _rotation_matrix(pose[..., 0, :])
    result = np.array(np.broadcast_to(pose, (*turned.shape[:-2], 16, 3)))
    result[..., 0, :] = _rotation_vector(turned)
    moved = np.einsum("...ij,...j->...i", frame, root + translation) - root
    return result, (moved if shift is None else moved + shift)


def _rotation_matrix(axis_angle: NDArray[Any]) -> NDArray[Any]:
    flat = np.asarray(axis_angle, np.float64).reshape(-1, 3)
    return Rotation.from_rotvec(flat).as_matrix().reshape(*axis_angle.shape[:-1], 3, 3)


def _rotation_vector(matrix: NDArray[Any]) -> NDArray[Any]:
    flat = Rotation.from_matrix(matrix.reshape(-1, 3, 3)).as_rotvec()
    return flat.reshape(matrix.shape[:-1])


# ----------------------------------------------------------------------- parameters of data sets


def dexycb_parameters(
    pose_m: NDArray[Any], hands_components: NDArray[Any], hands_mean: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """DexYCB's 51 numbers (..., 51) -> flat pose (..., 16, 3) and translation (..., 3).

    3 global axis-angle, 45 PCA coefficients, 3 translation. hands_components (45, 45) and
    hands_mean (45,) are those of the hand's own side; so is the result. OpenCV camera, metres.
    """
    _last("pose_m", pose_m, 51)
    _last("hands_components", hands_components, 45, 45)
    _last("hands_mean", hands_mean, 45)
    fingers = pose_m[..., 3:48] @ hands_components + hands_mean
    pose = np.concatenate((pose_m[..., :3], fingers), axis=-1)
    return pose.reshape(*pose_m.shape[:-1], 16, 3), pose_m[..., 48:51]


def dexycb_right_pose(
    pose_m: NDArray[Any],
    side: Side,
    hands_components: NDArray[Any],
    right_hands_mean: NDArray[Any],
) -> NDArray[Any]:
    """DexYCB's numbers as the flat right-hand pose (..., 16, 3) that the published methods learn.

    hands_components of the hand's own `side`; a left hand is mirrored; then the right file's mean
    is added for either side.
    """
    pose, _ = dexycb_parameters(pose_m, hands_components, np.zeros(45, pose_m.dtype))
    return mean_to_flat(mirror_pose(pose) if side == "left" else pose, right_hands_mean)


def ho3d_parameters(
    hand_pose: NDArray[Any], hand_translation: NDArray[Any], root: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """HO3D's handPose (..., 48), handTrans (..., 3) -> pose (..., 16, 3), translation, OpenCV.

    The pose is flat (its mean already added) and OpenGL; root (..., 3) = J0(handBeta).
    """
    _last("hand_pose", hand_pose, 48)
    pose = hand_pose.reshape(*hand_pose.shape[:-1], 16, 3)
    return change_frame(pose, hand_translation, root, np.diag(OPENGL_OPENCV))


@dataclass(frozen=True, kw_only=True)
class FreihandParameters:
    """pose (..., 16, 3) without the mean, betas (..., 10), root (..., 3): where joint 9 lies, in
    metres, OpenCV camera."""

    pose: NDArray[Any]
    betas: NDArray[Any]
    root: NDArray[Any]


def freihand_parameters(values: NDArray[Any], intrinsics: NDArray[Any]) -> FreihandParameters:
    """FreiHAND's 61 numbers (..., 61): 48 pose, 10 betas, u, v of the root, scale.

    The pose wants `flat=False` (or `mean_to_flat`). root = ((uv - pp), f) / scale with f the mean
    focal length; the mesh is moved so that canonical joint 9 falls there.
    """
    _last("values", values, 61)
    _last("intrinsics", intrinsics, 3, 3)
    focal = 0.5 * (intrinsics[..., 0, 0] + intrinsics[..., 1, 1])
    offset = values[..., 58:60] - intrinsics[..., :2, 2]
    focal = np.broadcast_to(focal, offset.shape[:-1])
    root = np.concatenate((offset, focal[..., None]), axis=-1) / values[..., 60:61]
    pose = values[..., :48].reshape(*values.shape[:-1], 16, 3)
    return FreihandParameters(pose=pose, betas=values[..., 48:58], root=root)


# ------------------------------------------------------------------------------------ left shapes


def fix_left_shapedirs(shapedirs: NDArray[Any]) -> NDArray[Any]:
    """The left file's shape basis (778, 3, 10) with its x component negated.

    The official left file was released with the right hand's sign there. Data sets were annotated
    with either version, so this is a switch, never a default.
    """
    _last("shapedirs", shapedirs, 3, 10)
    return shapedirs * np.asarray((-1.0, 1.0, 1.0), shapedirs.dtype)[:, None]


def has_left_shape_bug(left: NDArray[Any], right: NDArray[Any]) -> bool:
    """True when the left basis (778, 3, 10) moves x as the right one does, not mirrored."""
    _last("left", left, 3, 10)
    _last("right", right, 3, 10)
    same = np.abs(left[:, 0] - right[:, 0]).sum()
    mirrored = np.abs(left[:, 0] + right[:, 0]).sum()
    return bool(same < mirrored)
