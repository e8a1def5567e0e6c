"""Errors of joints and meshes in 3D: means, PCK curves with AUC.

All functions are vectorised over samples. Arrays are metres unless a name ends in `_mm`; alignment
is done before (see `handhold.geometry.alignment`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    missed: NDArray[np.bool_] | None = None,
    low: float = 0.0,
    high: float = 0.05,
    steps: int = 100,
) -> Curve:
    """The FreiHAND/HO3D/DexYCB rule: each point keeps its own list, then points are averaged.

    errors (N, J); valid (N, J): False leaves an error out; a point without any is left out of all
    means. missed (N,): samples that lie within no threshold, while their errors still count in mean
    and median (HandOS). An error equal to a threshold counts as correct. All NaN when nothing is
    valid.
    """
    thresholds = np.linspace(low, high, steps)
    means, medians, curves = [], [], []
    for j in range(errors.shape[1]):
        chosen = slice(None) if valid is None else valid[:, j]
        column = np.sort(errors[chosen, j])
        if not len(column):
            continue
        means.append(column.mean())
        medians.append((column[(len(column) - 1) // 2] + column[len(column) // 2]) / 2)
        hits = column if missed is None else np.sort(errors[chosen, j][~missed[chosen]])
        curves.append(np.searchsorted(hits, thresholds, "right") / len(column))
    if not curves:
        nothing = np.full(steps, np.nan)
        return Curve(mean=np.nan, median=np.nan, auc=np.nan, thresholds=thresholds, pck=nothing)
    pck = np.mean(curves, axis=0)
    return Curve(
        mean=float(np.mean(means)),
        median=float(np.mean(medians)),
        auc=float(np.trapezoid(pck, thresholds) / (high - low)),
        thresholds=thresholds,
        pck=pck,
    )


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
