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


def pck_over(
    predicted: Array,
    truth: Array,
    valid: NDArray[np.bool_],
    size: Array,
    thresholds: Array,
) -> Array:
    """`pck` at each of the thresholds (T,), for plots; NaN where nothing is labelled."""
    ratio = np.linalg.norm(predicted - truth, axis=-1) / size[:, None]
    columns = [np.sort(ratio[valid[:, j], j]) for j in range(ratio.shape[1])]
    shares = [np.searchsorted(c, thresholds, "right") / len(c) for c in columns if len(c)]
    return np.mean(shares, axis=0) if shares else np.full(len(thresholds), np.nan)


def oks(
    predicted: Array,
    truth: Array,
    valid: NDArray[np.bool_],
    area: float,
    person_box: Array | None = None,
) -> float:
    """Object keypoint similarity of one hand (21, 2); area: the person's, in pixels squared.

    Mean over the labelled joints. Where none is, over all joints by their distance from the
    person's box (4,) grown to twice its reach on every side (COCO's rule); NaN without a box.
    """
    if valid.any():
        squared = ((predicted - truth) ** 2).sum(-1)
    elif person_box is None:
        return float("nan")
    else:
        low, high = np.asarray(person_box[:2]), np.asarray(person_box[2:])
        grown = low - (high - low), high + (high - low)
        outside = np.maximum(0, grown[0] - predicted) + np.maximum(0, predicted - grown[1])
        squared = (outside**2).sum(-1)
    scaled = squared / ((2 * HAND_SIGMAS) ** 2 * (area + np.finfo(np.float64).eps) * 2)
    return float(np.exp(-scaled)[valid if valid.any() else slice(None)].mean())


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
