"""Points that lie far apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def farthest_points(points: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
    """Indices of `count` (all, if there are fewer) of points (N, 3), each farthest from those
    before it; the first is the farthest from the middle. Computed in the points' own precision."""
    chosen = np.zeros(min(count, len(points)), dtype=np.int64)
    chosen[0] = int(((points - points.mean(axis=0)) ** 2).sum(axis=1).argmax())
    nearest = np.full(len(points), np.inf, dtype=points.dtype)
    columns = np.ascontiguousarray(points.T)
    for k in range(1, len(chosen)):
        away = columns - columns[:, chosen[k - 1], None]
        np.minimum(nearest, np.einsum("cn,cn->n", away, away), out=nearest)
        chosen[k] = int(nearest.argmax())
    return chosen
