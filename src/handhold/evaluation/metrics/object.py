"""Errors of rigid object poses: ADD and its relatives, reprojection, boxes, grasp motion.

Poses are (..., 3, 4) or (..., 4, 4) [R | t] in the camera frame, points (P, 3) in the object's
frame, metres; one error a pose.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

Array = NDArray[Any]


def transform(pose: Array, points: Array) -> Array:
    """points (P, 3) moved by the poses: (..., P, 3)."""
    return points @ np.swapaxes(pose[..., :3, :3], -1, -2) + pose[..., None, :3, 3]


def diameter(points: Array) -> float:
    """Diagonal of the axis-aligned box: the papers' diameter, larger than the widest distance."""
    return float(np.linalg.norm(points.max(0) - points.min(0)))


def add(predicted: Array, truth: Array, points: Array) -> Array:
    """ADD (...): mean distance of corresponding points (HOISDF's OME)."""
    difference = transform(predicted, points) - transform(truth, points)
    return np.linalg.norm(difference, axis=-1).mean(-1)


def add_s(predicted: Array, truth: Array, points: Array, *, from_truth: bool = False) -> Array:
    """ADD-S (...): mean distance to the nearest point.

    from_truth False: from each predicted point to the true ones, as HFL-Net, UniHOPE and HOISDF
    code it; True: from each true point to the predicted ones, the usual definition (BOP's ADI).
    """
    ours, theirs = transform(predicted, points), transform(truth, points)
    source, target = (theirs, ours) if from_truth else (ours, theirs)
    flat = zip(source.reshape(-1, *points.shape), target.reshape(-1, *points.shape), strict=True)
    means = [KDTree(there).query(here)[0].mean() for here, there in flat]
    return np.reshape(np.array(means, np.float64), source.shape[:-2])


def mssd(predicted: Array, truth: Array, points: Array, symmetries: Array) -> Array:
    """MSSD (...): the largest distance of corresponding points, for the best of the object's
    symmetries (S, 3, 3), rotations in its own frame, the identity among them (Keypoint
    Transformer's object error)."""
    found = transform(predicted, points)
    worst = [
        np.linalg.norm(found - transform(truth, points @ turn.T), axis=-1).max(-1)
        for turn in symmetries
    ]
    return np.min(worst, axis=0)


def turns_about_z(count: int) -> Array:
    """Rotations (count, 3, 3) by equal parts of a full turn about z, the identity first."""
    angles = 2 * np.pi * np.arange(count) / count
    zero, one = np.zeros(count), np.ones(count)
    rows = [
        [np.cos(angles), -np.sin(angles), zero],
        [np.sin(angles), np.cos(angles), zero],
        [zero, zero, one],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def reprojection_error(predicted: Array, truth: Array, points: Array, intrinsics: Array) -> Array:
    """REP (...): mean pixel distance of projected points (depth grows by 1e-5 as in the original).

    intrinsics (..., 3, 3)."""

    def project(pose: Array) -> Array:
        seen = transform(pose, points) @ np.swapaxes(intrinsics, -1, -2)
        return seen[..., :2] / (seen[..., 2:] + 1e-5)

    return np.linalg.norm(project(predicted) - project(truth), axis=-1).mean(-1)


def object_centre_error(predicted: Array, truth: Array) -> Array:
    """OCE (...) (HOISDF): distance of the translations."""
    return np.linalg.norm(predicted[..., :3, 3] - truth[..., :3, 3], axis=-1)


def mean_corner_error(predicted: Array, truth: Array, points: Array) -> Array:
    """MCE (...) (HOISDF): mean distance of the corners of the two camera-axis-aligned boxes."""

    def corners(pose: Array) -> Array:
        moved = transform(pose, points)
        bounds = np.stack([moved.min(-2), moved.max(-2)], -2)
        picks = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(-1, 3)
        return bounds[..., picks, np.arange(3)]

    return np.linalg.norm(corners(predicted) - corners(truth), axis=-1).mean(-1)


def success_shares(
    errors: Array, limits: Array, classes: NDArray[np.int64]
) -> tuple[dict[int, float], float]:
    """Share of samples with error <= limit for each class, and over all samples (micro average)."""
    hits = errors <= limits
    shares = {int(c): float(hits[classes == c].mean()) for c in np.unique(classes)}
    return shares, float(hits.mean()) if len(hits) else float("nan")
