"""F-scores of meshes: exact nearest neighbours of many pairs of point sets, quickly.

Only neighbours nearer than the largest threshold matter. Both sets are sorted along the truth's
longest direction, so that a tile of one needs to meet only a slab of the other. Squared distances
are one matrix product in float32; where one lies within its rounding error of a threshold, it is
measured again in float64. `tests/evaluation/test_f_scores.py` holds the plain twin.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
THRESHOLDS = (0.005, 0.015)  # metres: F@5 and F@15
CHUNK = 32  # pairs prepared together, few enough for the cache
TILE = 195  # points that meet a slab together
ROUNDING = 16 * float(np.finfo(np.float32).eps)  # of |p|^2 + |g|^2, more than the product can err
DOUBTFUL = 2048  # distances measured again together


def f_scores(
    predicted: Array,
    truth: Array,
    thresholds: tuple[float, ...] = THRESHOLDS,
    *,
    workers: int = 1,
) -> Array:
    """F, precision and recall (N, T, 3) of meshes (N, V, 3) and (N, W, 3) at distances `thresholds`
    (strict <).

    precision is the share of true vertices with a predicted one nearby and recall the reverse, as
    the FreiHAND and HO3D evaluators name them. A mesh with NaN scores 0. workers: threads.
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    starts = range(0, len(predicted), CHUNK)

    def part(start: int) -> Array:
        rows = slice(start, start + CHUNK)
        return _chunk(predicted[rows], truth[rows], thresholds)

    if workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(part, starts))
    else:
        parts = [part(start) for start in starts]
    return np.concatenate([np.zeros((0, len(thresholds), 3)), *parts])


def _chunk(predicted: Array, truth: Array, thresholds: tuple[float, ...]) -> Array:
    scores = np.zeros((len(predicted), len(thresholds), 3))
    good = np.isfinite(predicted).all((1, 2)) & np.isfinite(truth).all((1, 2))
    if not good.any():
        return scores
    ours, theirs = (np.asarray(part[good], np.float64) for part in (predicted, truth))
    centre = theirs.mean(1, keepdims=True)
    spread = theirs - centre
    longest = np.linalg.eigh(np.swapaxes(spread, 1, 2) @ spread)[1][:, :, -1:]
    our_order, our_key, left = _sorted(ours - centre, longest)
    their_order, their_key, right = _sorted(spread, longest)
    # |p - g|^2 = (p, |p|^2, 1) . (-2 g, 1, |g|^2)
    right = np.swapaxes(right, 1, 2) * np.array([[-2], [-2], [-2], [1], [1]], np.float32)
    right = np.ascontiguousarray(right[:, [0, 1, 2, 4, 3]])
    reach = max(thresholds) * (1 + 1e-6)
    to_theirs = np.full(our_key.shape, np.inf, np.float32)
    to_ours = np.full(their_key.shape, np.inf, np.float32)
    room = np.zeros(TILE * theirs.shape[1], np.float32)
    for i in range(len(ours)):
        _squared(left[i], right[i], our_key[i], their_key[i], reach, room, to_theirs[i], to_ours[i])
    sizes = left[..., 3], right[:, 4]
    for place, threshold in enumerate(thresholds):
        precision = _within(to_ours, theirs, their_order, ours, threshold, sizes[1])
        recall = _within(to_theirs, ours, our_order, theirs, threshold, sizes[0])
        total = precision + recall
        f_score = 2 * precision * recall / np.where(total > 0, total, 1)
        scores[good, place] = np.stack([f_score, precision, recall], -1)
    return scores


def _sorted(points: Array, direction: Array) -> tuple[Array, Array, Array]:
    """The order of points (n, V, 3) along a direction; in this order their places along it, and
    (x, y, z, |p|^2, 1) in float32."""
    key = (points @ direction)[..., 0]
    order = np.argsort(key, axis=1)
    flat = (order + np.arange(len(order))[:, None] * order.shape[1]).reshape(-1)
    sizes = np.einsum("nvc,nvc->nv", points, points)[..., None]
    wide = np.concatenate([points, sizes, np.ones_like(sizes)], -1).astype(np.float32)
    wide = wide.reshape(-1, 5)[flat].reshape(wide.shape)
    return order, key.reshape(-1)[flat].reshape(key.shape), wide


def _squared(
    left: Array,
    right: Array,
    our_key: Array,
    their_key: Array,
    reach: float,
    room: Array,
    to_theirs: Array,
    to_ours: Array,
) -> None:
    """Squared distances of each of our points to the nearest of theirs and the reverse, written to
    the last two arrays; what is farther away than `reach` may stay infinite."""
    starts = np.arange(0, len(our_key), TILE)
    ends = np.minimum(starts + TILE, len(our_key))
    low = np.searchsorted(their_key, our_key[starts] - reach, "left")
    high = np.searchsorted(their_key, our_key[ends - 1] + reach, "right")
    for start, end, a, b in zip(starts, ends, low, high, strict=True):
        if a == b:
            continue
        tile = room[: (end - start) * (b - a)].reshape(end - start, b - a)
        np.matmul(left[start:end], right[:, a:b], out=tile)
        tile.min(1, out=to_theirs[start:end])
        np.minimum(to_ours[a:b], tile.min(0), out=to_ours[a:b])


def _within(
    squared: Array, source: Array, order: Array, target: Array, threshold: float, sizes: Array
) -> Array:
    """Share (n,) of source points (n, V, 3) nearer than the threshold to a target point.

    squared, sizes (n, V): distances found and |p|^2, in the given order.
    """
    # a target point at the threshold is at most that much farther from the middle
    margin = ROUNDING * (sizes + (np.sqrt(sizes) + threshold) ** 2)
    limit = threshold**2
    near = squared < limit - margin
    rows, points = np.nonzero(~near & ~(squared > limit + margin))
    for start in range(0, len(rows), DOUBTFUL):
        row, point = rows[start : start + DOUBTFUL], points[start : start + DOUBTFUL]
        offset = target[row] - source[row, order[row, point]][:, None]
        exact = np.sqrt((offset * offset).sum(-1).min(1))
        near[row, point] = exact < threshold
    return near.mean(1)
