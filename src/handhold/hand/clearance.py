"""Does a pose push fingers through each other or through the palm?  Bones as capsules."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handhold.errors import InputError

Array = NDArray[np.float64]
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
_ENDS = (2, 3, 16 + 1, 5, 6, 16 + 2, 8, 9, 16 + 4, 11, 12, 16 + 3, 14, 15, 16)  # of joints 1..15
_DIGIT = np.repeat(np.arange(5), 3)  # of joints 1..15: index, middle, little, ring, thumb

_PALM_DEPTH = 0.012, 0.004  # metres from the bone line to the palm's middle: at wrist, at knuckle


@dataclass(frozen=True, kw_only=True)
class Capsules:
    """A right or left hand as 15 finger capsules and 4 palm capsules.

    Attributes:
        joints: (16, 3) rest joints, metres.
        tips: (5, 3) centres of the finger ends (thumb, index, middle, ring, little), metres.
        radii: (15,) of the finger bones, joints 1 to 15, metres.
        palm_radius: of the bones from wrist to the four knuckles, metres.
        palm_sign: 1 for a right hand, -1 for a left one.
    """

    joints: Array
    tips: Array
    radii: Array
    palm_radius: float
    palm_sign: float = 1.0

    def __post_init__(self) -> None:
        shapes = self.joints.shape, self.tips.shape, self.radii.shape
        if shapes != ((16, 3), (5, 3), (15,)):
            raise InputError(f"capsules: found shapes {shapes}, expected (16, 3), (5, 3), (15,)")

    @staticmethod
    def from_mesh(
        vertices: Array, part: NDArray[np.int32], joints: Array, tips: Array
    ) -> "Capsules":
        """Capsules that fit a rest mesh (V, 3); ``part`` (V,) is the joint owning a vertex."""
        radii = np.zeros(15)
        for joint in range(1, 16):
            end = _ENDS[joint - 1]
            stop = joints[end] if end < 16 else tips[end - 16]
            along = stop - joints[joint]
            length = np.linalg.norm(along)
            along = along / length
            mine = vertices[part == joint] - joints[joint]
            height = mine @ along
            inner = (height > 0.2 * length) & (height < (0.8 if end < 16 else 0.7) * length)
            across = mine - height[:, None] * along
            radii[joint - 1] = np.linalg.norm(across[inner], axis=1).mean()
        radii[12] = min(radii[12], 1.35 * radii[13])  # the ball of the thumb is soft and wide
        centres = tips.copy()
        for joint in (3, 6, 9, 12, 15):  # the last capsule's round end is the finger's end
            digit = _ENDS[joint - 1] - 16
            along = tips[digit] - joints[joint]
            centres[digit] -= along / np.linalg.norm(along) * radii[joint - 1]
        return Capsules(joints=joints, tips=centres, radii=radii, palm_radius=0.0125)

    def penetration(self, poses: Array) -> Array:
        """Deepest overlap (n,) in metres of parts that should not touch, for poses (n, 16, 3).

        Bones of one digit are not compared with each other, nor a digit's first bone with the palm
        or with the first bone of its neighbour.
        """
        start, stop = self.bones(poses)
        a, b, clearance = _pairs(self.radii, self.palm_radius)
        gap = segment_distance(start[:, a], stop[:, a], start[:, b], stop[:, b]) - clearance
        return np.maximum(0.0, -gap.min(axis=1))

    def bones(self, poses: Array) -> tuple[Array, Array]:
        """Both ends (n, 19, 3) of the 15 finger and 4 palm bones in poses (n, 16, 3)."""
        n = len(poses)
        local = Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().reshape(n, 16, 3, 3)
        turn = np.zeros((n, 16, 3, 3))
        place = np.zeros((n, 21, 3))
        for joint, parent in enumerate(PARENTS):
            if parent < 0:
                turn[:, 0], place[:, 0] = local[:, 0], self.joints[0]
                continue
            turn[:, joint] = turn[:, parent] @ local[:, joint]
            offset = self.joints[joint] - self.joints[parent]
            place[:, joint] = place[:, parent] + turn[:, parent] @ offset
        for digit, joint in enumerate((15, 3, 6, 12, 9)):
            offset = self.tips[digit] - self.joints[joint]
            place[:, 16 + digit] = place[:, joint] + turn[:, joint] @ offset
        knuckles = [1, 4, 10, 7]
        start = np.concatenate([place[:, 1:16], np.repeat(place[:, :1], 4, axis=1)], axis=1)
        stop = np.concatenate([place[:, list(_ENDS)], place[:, knuckles]], axis=1)
        palmar = np.cross(place[:, 1] - place[:, 0], place[:, 7] - place[:, 0])
        palmar *= self.palm_sign / np.linalg.norm(palmar, axis=1, keepdims=True)
        start[:, 15:] += _PALM_DEPTH[0] * palmar[:, None]  # flesh lies on the palm's side of bone
        stop[:, 15:] += _PALM_DEPTH[1] * palmar[:, None]
        return start, stop


def _pairs(radii: Array, palm: float) -> tuple[list[int], list[int], Array]:
    first: list[int] = []
    second: list[int] = []
    clearance: list[float] = []
    for a in range(15):
        for b in range(a + 1, 15):
            if _DIGIT[a] == _DIGIT[b] or (a % 3 == 0 and b % 3 == 0):
                continue
            first.append(a)
            second.append(b)
            clearance.append(radii[a] + radii[b])
        if a % 3:
            for b in range(4):
                if a == 13 and b == 0:  # the thumb's second bone lies beside the first palm bone
                    continue
                first.append(a)
                second.append(15 + b)
                clearance.append(radii[a] + palm)
    return first, second, np.array(clearance)


def segment_distance(a0: Array, a1: Array, b0: Array, b1: Array) -> Array:
    """Distance (...) between the segments a0-a1 and b0-b1, all (..., 3)."""
    u, v, w = a1 - a0, b1 - b0, a0 - b0
    uu, vv, uv = (u * u).sum(-1), (v * v).sum(-1), (u * v).sum(-1)
    uw, vw = (u * w).sum(-1), (v * w).sum(-1)
    denominator = np.maximum(uu * vv - uv * uv, 1e-18)
    s = np.clip((uv * vw - vv * uw) / denominator, 0, 1)
    t = np.clip((uv * s + vw) / np.maximum(vv, 1e-18), 0, 1)
    s = np.clip((uv * t - uw) / np.maximum(uu, 1e-18), 0, 1)
    return np.linalg.norm(w + s[..., None] * u - t[..., None] * v, axis=-1)
