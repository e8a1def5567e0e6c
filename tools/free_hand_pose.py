"""Pose correctives and pose statistics of the free hand, for ``build_free_hand.py``."""

import numpy as np

from handhold.hand import anatomy


def pose_correctives(
    vertices: np.ndarray, faces: np.ndarray, weights: np.ndarray, joints: np.ndarray
) -> np.ndarray:
    """posedirs (778, 3, 135)."""
    return np.zeros((len(vertices), 3, 135))


def pose_statistics() -> tuple[np.ndarray, np.ndarray]:
    """hands_mean (45,) and hands_components (45, 45), rows orthonormal."""
    mean = np.zeros(45)
    return mean, np.eye(45)
