"""Errors over time: does a hand tremble where the true one does not?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.errors import InputError

Array = NDArray[Any]


def accelerations(points: Array) -> Array:
    """Second differences (T - 2, ..., J, 3) of points (T, ..., J, 3), metres a frame squared."""
    return points[2:] - 2 * points[1:-1] + points[:-2]


def acceleration_error(predicted: Array, truth: Array, *, fps: float | None = None) -> Array:
    """Mean distance (T - 2,) of found and true accelerations of J points (T, J, 3) over the points
    (the usual measure of video methods, after Kanazawa et al. 2019).

    Metres a frame squared; with fps metres a second squared. Raises InputError for other shapes or
    fewer than three frames.
    """
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if predicted.shape != truth.shape or predicted.ndim != 3 or len(predicted) < 3:
        raise InputError(
            "acceleration_error: expected two arrays (T, J, 3) with T >= 3, found "
            f"{predicted.shape} and {truth.shape}"
        )
    off = np.linalg.norm(accelerations(predicted) - accelerations(truth), axis=-1).mean(-1)
    return off if fps is None else off * fps**2
