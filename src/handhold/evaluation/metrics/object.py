"""Errors of rigid object poses: ADD and its relatives, reprojection, boxes, grasp motion.

Poses are (3, 4) or (4, 4) [R | t] in the camera frame, points (P, 3) in the object's frame, metres.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

Array = NDArray[Any]


def transform(pose: Array, points: Array) -> Array:
    """points (P, 3) moved by `pose`."""
    return points @ pose[:3, :3].T + pose[:3, 3]


def diameter(points: Array) -> float:
    """Diagonal of the axis-aligned box: the papers' diameter, larger than the widest distance."""
    return float(np.linalg.norm(points.max(0) - points.min(0)))


def add(predicted: Array, truth: Array, points: Array) -> float:
    """ADD: mean distance of corresponding points (HOISDF's OME)."""
    difference = transform(predicted, points) - transform(truth, points)
    return float(np.linalg.norm(difference, axis=1).mean())


def add_s(predicted: Array, truth: Array, points: Array, *, from_truth: bool = False) -> float:
    """ADD-S: mean distance to the nearest point.

    from_truth False: from each predicted point to the true ones, as HFL-Net, UniHOPE and HOISDF
    code it; True: from each true point to the predicted ones, the usual definition (BOP's ADI).
    """
    ours, theirs = transform(predicted, points), transform(truth, points)
    source, target = (theirs, ours) if from_truth else (ours, theirs)
    return float(np.mean(KDTree(target).query(source)[0]))


def reprojection_error(predicted: Array, truth: Array, points: Array, intrinsics: Array) -> float:
    """REP: mean pixel distance of projected points (the depth grows by 1e-5 as in the original)."""

    def project(pose: Array) -> Array:
        seen = transform(pose, points) @ intrinsics.T
        return seen[:, :2] / (seen[:, 2:] + 1e-5)

    return float(np.linalg.norm(project(predicted) - project(truth), axis=1).mean())


def object_centre_error(predicted: Array, truth: Array) -> float:
    """OCE (HOISDF): distance of the translations."""
    return float(np.linalg.norm(predicted[:3, 3] - truth[:3, 3]))


def mean_corner_error(predicted: Array, truth: Array, points: Array) -> float:
    """MCE (HOISDF): mean distance of the corners of the two camera-axis-aligned boxes."""

    def corners(pose: Array) -> Array:
        moved = transform(pose, points)
        bounds = np.stack([moved.min(0), moved.max(0)])
        picks = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(-1, 3)
        return bounds[picks, np.arange(3)]

    return float(np.linalg.norm(corners(predicted) - corners(truth), axis=1).mean())


def success_shares(
    errors: Array, limits: Array, classes: NDArray[np.int64]
) -> tuple[dict[int, float], float]:
    """Share of samples with error <= limit for each class, and over all samples (micro average)."""
    hits = errors <= limits
    shares = {int(c): float(hits[classes == c].mean()) for c in np.unique(classes)}
    return shares, float(hits.mean()) if len(hits) else float("nan")
