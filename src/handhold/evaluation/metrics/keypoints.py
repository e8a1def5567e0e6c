"""Errors of 2D keypoints and boxes: PCK, OKS, matching of detections to labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# COCO-WholeBody's constants of the 21 hand joints, canonical order.
# fmt: off
HAND_SIGMAS = np.array([
    0.029, 0.022, 0.035, 0.037, 0.047, 0.026, 0.025, 0.024, 0.035, 0.018, 0.024,
    0.022, 0.026, 0.017, 0.021, 0.021, 0.032, 0.020, 0.019, 0.022, 0.031,
])
# fmt: on


def pck_per_joint(
    predicted: Array, truth: Array, valid: NDArray[np.bool_], size: Array, threshold: float
) -> Array:
    """Share (21,) of labelled joints within threshold * size (HInt's rule; <= counts).

    predicted, truth (N, 21, 2) pixels; valid (N, 21); size (N,): longer side of the tight box. A
    missed hand is given as infinity. Joints that are never labelled give NaN.
    """
    distance = np.linalg.norm(predicted - truth, axis=-1)
    correct = (distance <= threshold * size[:, None]) & valid
    count = valid.sum(0)
    return np.where(count > 0, correct.sum(0) / np.maximum(count, 1), np.nan)


def pck(
    predicted: Array, truth: Array, valid: NDArray[np.bool_], size: Array, threshold: float
) -> float:
    """Mean of `pck_per_joint` over the joints that are labelled at least once."""
    shares = pck_per_joint(predicted, truth, valid, size, threshold)
    return float(np.nanmean(shares)) if np.isfinite(shares).any() else float("nan")


def oks(predicted: Array, truth: Array, valid: NDArray[np.bool_], area: float) -> float:
    """Object keypoint similarity of one hand (21, 2); area: the person's, in pixels squared."""
    squared = ((predicted - truth) ** 2).sum(-1)
    scaled = squared / ((2 * HAND_SIGMAS) ** 2 * (area + np.finfo(np.float64).eps) * 2)
    return float(np.exp(-scaled)[valid].mean()) if valid.any() else float("nan")


def match_boxes(overlaps: Array, scores: Array, least: float) -> list[tuple[int, int]]:
    """Greedy one-to-one matches (detection, label) of IoU >= least, best score first.

    overlaps (D, L): IoU of each detection with each label; scores (D,).
    """
    free = np.ones(overlaps.shape[1], bool)
    matches = []
    for detection in np.argsort(-scores, kind="stable"):
        row = np.where(free, overlaps[detection], -1.0)
        if row.size and row.max() >= least:
            label = int(row.argmax())
            free[label] = False
            matches.append((int(detection), label))
    return matches
