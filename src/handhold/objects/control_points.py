"""The 21 control points whose projections the HOPE models predict for the held object."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from handhold.errors import InputError
from handhold.scene import FloatArray

# (x, y, z) places in the box: 0 = minimum, 0.5 = middle, 1 = maximum. As UniHOPE numbers them.
_CORNERS = [(x, y, z) for z in (0, 1) for y in (0, 1) for x in (0, 1)]
_FACE = [(0, 0.5), (1, 0.5), (0.5, 1), (0.5, 0)]
_EDGES = [(x, y, z) for z in (0, 1) for x, y in _FACE]
_UPRIGHT = [(0, 1, 0.5), (0, 0, 0.5), (1, 1, 0.5), (1, 0, 0.5)]
PLACES = np.asarray([*_CORNERS, *_EDGES, *_UPRIGHT, (0.5, 0.5, 0.5)], np.float64)


def control_points(vertices: ArrayLike) -> FloatArray:
    """Return the control points (21, 3) of the axis-aligned box of `vertices` (V, 3), same unit.

    Order: 8 corners (x fastest), 4 edge middles of the lower z face (x-, x+, y+, y-), the same on
    the upper face, 4 upright edges (x- y+, x- y-, x+ y+, x+ y-), centre.
    Raises InputError for other shapes and non-finite vertices.
    """
    points = np.asarray(vertices, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise InputError(f"vertices: expected an array (V, 3), found shape {points.shape}")
    if not np.isfinite(points).all():
        raise InputError("vertices: holds NaN or infinite numbers, expected finite ones")
    return control_points_of_box(points.min(axis=0), points.max(axis=0))


def control_points_of_box(low: ArrayLike, high: ArrayLike) -> FloatArray:
    """Return the control points (21, 3) of the box between the corners `low` and `high` (3,)."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    return low + PLACES * (high - low)


def diameter(vertices: ArrayLike) -> float:
    """Return the diagonal of the axis-aligned box of `vertices` (V, 3), which ADD-0.1D refers to.

    The HOPE models' rule; BOP's diameter, the largest distance between two points, is smaller.
    """
    points = control_points(vertices)
    return float(np.linalg.norm(points[7] - points[0]))
