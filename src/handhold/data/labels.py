"""Labels that the published sets lack, made from those they have."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

GRASP_DEGREES = 5.0
GRASP_METRES = {"10mm": 0.010, "50mm": 0.050}  # the papers' rule, the released script's


def relative_motion(
    first: ArrayLike, now: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far an object has moved since the first frame: (RRE in degrees, RTE in metres).

    first, now: poses (..., 3, 4) or (..., 4, 4) in a camera that stands still (UniHOPE, section
    3.2; RRE = arccos((trace(now^T first) - 1) / 2))."""
    before, after = np.asarray(first, np.float64), np.asarray(now, np.float64)
    trace = (after[..., :3, :3] * before[..., :3, :3]).sum(axis=(-2, -1))
    angle = np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
    return angle, np.linalg.norm(before[..., :3, 3] - after[..., :3, 3], axis=-1)


def is_grasped(first: ArrayLike, now: ArrayLike, rule: str = "50mm") -> NDArray[Any]:
    """The grasp label from the object's motion: turned by more than 5 degrees or moved by more than
    10 mm ("10mm": printed in the papers of UniHOPE and HandBooster) or 50 mm ("50mm": released
    script)."""
    angle, distance = relative_motion(first, now)
    return (angle > GRASP_DEGREES) | (distance > GRASP_METRES[rule])
