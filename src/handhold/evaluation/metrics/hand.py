"""Errors of joints and meshes in 3D: means, PCK curves with AUC, F-scores.

All functions are vectorised over samples. Arrays are metres unless a name ends in `_mm`; alignment
is done before (see `handhold.geometry.alignment`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

Array = NDArray[Any]


def root_relative(points: Array, root: Array) -> Array:
    """points (N, J, 3) minus its own root (N, 3), usually the wrist joint of the same set."""
    return points - root[:, None]


def point_errors(predicted: Array, truth: Array) -> Array:
    """Euclidean distances (N, J) between corresponding points (N, J, 3)."""
    return np.linalg.norm(predicted - truth, axis=-1)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The share of points within each threshold, averaged over the points, and its summary.

    mean, median: means over points of each point's mean and median error over samples.
    thresholds (T,), pck (T,). auc: trapezoid area divided by the range.
    """

    mean: float
    median: float
    auc: float
    thresholds: Array
    pck: Array


def pck_curve(
    errors: Array,
    valid: NDArray[np.bool_] | None = None,
    *,
    low: float = 0.0,
    high: float = 0.05,
    steps: int = 100,
) -> Curve:
    """The FreiHAND/HO3D/DexYCB rule: each point keeps its own list, then points are averaged.

    errors (N, J); valid (N, J): False leaves an error out; a point without any is left out of all
    means. An error equal to a threshold counts as correct. All NaN when nothing is valid.
    """
    thresholds = np.linspace(low, high, steps)
    usable = np.ones(errors.shape, bool) if valid is None else valid
    columns = [errors[usable[:, j], j] for j in range(errors.shape[1])]
    columns = [np.sort(column) for column in columns if len(column)]
    if not columns:
        nothing = np.full(steps, np.nan)
        return Curve(mean=np.nan, median=np.nan, auc=np.nan, thresholds=thresholds, pck=nothing)
    curves = np.stack([np.searchsorted(c, thresholds, "right") / len(c) for c in columns])
    areas = np.trapezoid(curves, thresholds, axis=1) / (high - low)
    return Curve(
        mean=float(np.mean([column.mean() for column in columns])),
        median=float(np.mean([np.median(column) for column in columns])),
        auc=float(areas.mean()),
        thresholds=thresholds,
        pck=curves.mean(0),
    )


def f_scores(
    predicted: Array, truth: Array, thresholds: tuple[float, ...] = (0.005, 0.015)
) -> Array:
    """F, precision and recall (N, T, 3) of meshes (N, V, 3) at distances `thresholds` (strict <).

    precision is the share of true vertices with a predicted one nearby and recall the reverse, as
    the FreiHAND and HO3D evaluators name them. A mesh with NaN scores 0.
    """
    scores = np.zeros((len(predicted), len(thresholds), 3))
    for index, (ours, theirs) in enumerate(zip(predicted, truth, strict=True)):
        if not np.isfinite(ours).all():
            continue
        to_ours = KDTree(ours).query(theirs)[0]
        to_theirs = KDTree(theirs).query(ours)[0]
        for place, threshold in enumerate(thresholds):
            precision = float((to_ours < threshold).mean())
            recall = float((to_theirs < threshold).mean())
            total = precision + recall
            f_score = 2 * precision * recall / total if total > 0 else 0.0
            scores[index, place] = f_score, precision, recall
    return scores


VISIBILITY_EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)


def visibility_group(visibility: Array) -> NDArray[np.int64]:
    """The quartile 0..3 of the visible share (N,): 0 is most hidden; above 1 gives 4, NaN gives -1.

    Intervals are closed at both ends and the first match wins (UniHOPE, table 6: its
    "75-100 % occluded" is group 0).
    """
    groups = np.full(len(visibility), 4, np.int64)
    for group in reversed(range(4)):
        low, high = VISIBILITY_EDGES[group], VISIBILITY_EDGES[group + 1]
        groups[(visibility >= low) & (visibility <= high)] = group
    groups[np.isnan(visibility)] = -1
    return groups
