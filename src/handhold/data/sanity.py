"""What no labelled hand or object can be: damage that has the right shape."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from handhold.errors import FileFormatError

LARGEST_HAND = 1.0  # metres across; a larger one is given in other units
ROTATION_TOLERANCE = 1e-2


def check_hand(joints: NDArray[np.floating], where: str) -> None:
    """Raise FileFormatError unless joints (21, 3), metres in OpenCV's camera frame, lie before the
    camera and fit into a metre."""
    if (joints[:, 2] <= 0).any():
        raise FileFormatError(f"{where}: expected joints before the camera, z > 0")
    across = float(np.ptp(joints, axis=0).max())
    if across > LARGEST_HAND:
        raise FileFormatError(
            f"{where}: expected metres, found a hand {across:.3g} across (millimetres?)"
        )


def check_rotation(matrix: NDArray[np.floating], where: str) -> None:
    """Raise FileFormatError unless the matrix (3, 3) is a rotation."""
    off = np.abs(matrix @ matrix.T - np.eye(3)).max()
    if off > ROTATION_TOLERANCE or np.linalg.det(matrix) < 0:
        raise FileFormatError(f"{where}: expected a rotation, found {matrix.round(4).tolist()}")
