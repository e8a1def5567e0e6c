"""Boxes x0, y0, x1, y1 in pixels, as NumPy arrays of any batch shape (..., 4)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handhold.errors import InputError

Array = NDArray[np.floating[Any]]


def _float(values: ArrayLike, last: int, name: str) -> Array:
    array = np.asarray(values)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    if array.ndim < 1 or array.shape[-1] != last:
        raise InputError(f"{name}: expected an array (..., {last}), found shape {array.shape}")
    return array


def box_from_points(
    points: ArrayLike,
    factor: float = 1.0,
    *,
    valid: ArrayLike | None = None,
    truncate: bool = False,
) -> Array:
    """Return the box (..., 4) around points (..., N, 2), enlarged by `factor` about its centre.

    truncate: round the centre towards zero, as the HOPE models do (UniHOPE's and HFL-Net's
    loaders).
    valid: (..., N) bool; the others are ignored. Raises InputError if a set has no valid point.
    """
    points = _float(points, 2, "points")
    low, high = points, points
    if valid is not None:
        mask = np.asarray(valid, bool)[..., None]
        if not mask.any(axis=(-2, -1)).all():
            raise InputError("points: at least one valid point is needed to make a box, found none")
        low = np.where(mask, points, np.inf)
        high = np.where(mask, points, -np.inf)
    low, high = low.min(axis=-2), high.max(axis=-2)
    centre = (low + high) / 2
    if truncate:
        centre = np.trunc(centre)
    half = (high - low) * (factor / 2)
    return np.concatenate([centre - half, centre + half], axis=-1)


def corners(box: ArrayLike) -> Array:
    """Return the four corners (..., 4, 2): top left, top right, bottom left, bottom right."""
    box = _float(box, 4, "box")
    return box[..., [0, 1, 2, 1, 0, 3, 2, 3]].reshape(*box.shape[:-1], 4, 2)


def union(first: ArrayLike, second: ArrayLike) -> Array:
    """Return the smallest box (..., 4) around both boxes."""
    first, second = _float(first, 4, "first"), _float(second, 4, "second")
    low = np.minimum(first[..., :2], second[..., :2])
    return np.concatenate([low, np.maximum(first[..., 2:], second[..., 2:])], axis=-1)


def intersection(first: ArrayLike, second: ArrayLike) -> Array:
    """Return the common box (..., 4); its width or height is negative where there is none."""
    first, second = _float(first, 4, "first"), _float(second, 4, "second")
    low = np.maximum(first[..., :2], second[..., :2])
    return np.concatenate([low, np.minimum(first[..., 2:], second[..., 2:])], axis=-1)


def clip(box: ArrayLike, width: float, height: float) -> Array:
    """Return the box limited to 0..width, 0..height."""
    box = _float(box, 4, "box")
    limit = np.asarray([width, height, width, height], box.dtype)
    return np.clip(box, np.zeros_like(limit), limit)


def area(box: ArrayLike) -> Array:
    """Return the area (...,) in square pixels, 0 for boxes turned inside out."""
    box = _float(box, 4, "box")
    size = np.maximum(box[..., 2:] - box[..., :2], 0)
    return size[..., 0] * size[..., 1]


def iou(first: ArrayLike, second: ArrayLike) -> Array:
    """Return intersection over union of boxes that broadcast; 0 where both are empty.

    All pairs of (N, 4) and (M, 4): `iou(first[:, None], second[None])` -> (N, M).
    """
    common = area(intersection(first, second))
    total = area(first) + area(second) - common
    return common / np.where(total > 0, total, 1)


def transform(box: ArrayLike, matrix: ArrayLike) -> Array:
    """Return the axis-aligned box (..., 4) around the corners moved by `matrix` (..., 3, 3), an
    affine map or a homography."""
    return box_from_points(apply_map(matrix, corners(box)))


def apply_affine(affine: ArrayLike, points: ArrayLike) -> Array:
    """Return points (..., N, 2) moved by `affine` (..., 3, 3) with last row 0, 0, 1."""
    points, affine = _float(points, 2, "points"), _float(affine, 3, "affine")
    return points @ np.swapaxes(affine[..., :2, :2], -1, -2) + affine[..., None, :2, 2]


def apply_map(matrix: ArrayLike, points: ArrayLike) -> Array:
    """Return points (..., N, 2) moved by `matrix` (..., 3, 3), an affine map or a homography."""
    matrix = _float(matrix, 3, "matrix")
    if not (matrix[..., 2, :] != (0, 0, 1)).any():
        return apply_affine(matrix, points)
    points = _float(points, 2, "points")
    moved = points @ np.swapaxes(matrix[..., :, :2], -1, -2) + matrix[..., None, :, 2]
    return moved[..., :2] / moved[..., 2:]


def square(box: ArrayLike, factor: float = 1.0) -> Array:
    """Return the square box of the longer side times `factor` about the same centre."""
    box = _float(box, 4, "box")
    centre = (box[..., :2] + box[..., 2:]) / 2
    side = (box[..., 2:] - box[..., :2]).max(axis=-1, keepdims=True)
    half = side * (factor / 2)
    return np.concatenate([centre - half, centre + half], axis=-1)


def letterbox(width: int, height: int, size: int | tuple[int, int]) -> Array:
    """Return the affine (3, 3) that fits an image into `size` (width, height), centred and
    undistorted.

    It maps pixel centres to pixel centres: the image's outer edge at -0.5 lands on the edge of its
    area in the target. Raises InputError for empty images.
    """
    target = (size, size) if isinstance(size, int) else size
    if min(width, height, *target) < 1:
        raise InputError(f"letterbox: sizes must be positive: {width}x{height} into {target}")
    scale = min(target[0] / width, target[1] / height)
    matrix = np.diag([scale, scale, 1.0])
    for axis, (old, new) in enumerate(zip((width, height), target, strict=True)):
        matrix[axis, 2] = (new - scale * old) / 2 + 0.5 * scale - 0.5
    return matrix
