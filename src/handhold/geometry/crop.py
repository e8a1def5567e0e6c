"""Crops: from boxes to an affine map, from the map to pixels and to the crop's own camera.

Two families. The hand-object crop of HFL-Net, UniHOPE and HOISDF (`hope_region`, `crop_affine`),
and the hand crop of HandOccNet, HandBooster, H2ONet and MobRecon (`sanitise_xywh`, `square_xywh`,
`shift_inside_xywh`, `patch_affine`).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handhold.errors import InputError
from handhold.geometry import boxes

Array = NDArray[np.floating[Any]]
Interpolation = Literal["nearest", "bilinear"]


def hope_region(
    box: ArrayLike, width: int, height: int, *, truncate: bool = True
) -> tuple[Array, Array]:
    """Return centre (..., 2) and side (...,) of the square that a HOPE model crops around `box`.

    The box (hand, or union of hand and object, each already enlarged) is clipped to the image, its
    low edges at 0 and its high edges at width and height only, so that a box outside keeps a place
    (and, right of or below the image, a shorter or even negative side). The centre is the middle,
    rounded towards zero (`truncate`), the side the longer side. The originals compute in float32,
    and as the middle is nearly whole already, only float32 boxes round as theirs do.
    """
    box = np.asarray(box)
    box = box if box.dtype == np.float32 else box.astype(np.float64)
    low = np.maximum(box[..., :2], 0)
    high = np.minimum(box[..., 2:], np.asarray([width, height], box.dtype))
    clipped = np.concatenate([low, high], axis=-1)
    centre = (clipped[..., :2] + clipped[..., 2:]) / 2
    if truncate:
        centre = np.trunc(centre)
    return centre, (clipped[..., 2:] - clipped[..., :2]).max(axis=-1)


def turn(angle: ArrayLike) -> Array:
    """Return [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]] (..., 3, 3) for angles (...,) in radians.

    The same matrix turns pixels about the image origin and 3D points about the optical axis.
    """
    angle = np.asarray(angle, np.float64)
    matrix = np.zeros((*angle.shape, 3, 3))
    matrix[..., 0, 0] = matrix[..., 1, 1] = np.cos(angle)
    matrix[..., 1, 0] = np.sin(angle)
    matrix[..., 0, 1] = -matrix[..., 1, 0]
    matrix[..., 2, 2] = 1
    return matrix


def _scale_to(centre: Array, side: Array, size: int) -> Array:
    scale = size / side
    matrix = np.zeros((*side.shape, 3, 3))
    matrix[..., 0, 0] = matrix[..., 1, 1] = scale
    matrix[..., :2, 2] = size / 2 - centre * scale[..., None]
    matrix[..., 2, 2] = 1
    return matrix


def crop_affine(centre: ArrayLike, side: ArrayLike, size: int, rotation: ArrayLike = 0.0) -> Array:
    """Return the affine (..., 3, 3) from photo to crop pixels: p' = size/side (M p - M centre) +
    size/2.

    M is `turn(rotation)`, radians. Raises InputError unless every side is positive and finite.
    """
    centre, side = np.asarray(centre, np.float64), np.asarray(side, np.float64)
    if not (np.isfinite(centre).all() and np.isfinite(side).all() and (side > 0).all()):
        raise InputError(f"crop: centre and side must be finite, side positive: {centre}, {side}")
    matrix = turn(rotation)
    turned = (matrix[..., :2, :2] @ centre[..., None])[..., 0]
    return _scale_to(turned, side, size) @ matrix


def crop_affine_for_intrinsics(
    centre: ArrayLike, side: ArrayLike, size: int, rotation: ArrayLike, principal: ArrayLike
) -> Array:
    """Return A (..., 3, 3) such that A @ K are the crop's intrinsics for 3D points turned by
    `rotation`.

    The crop's centre is turned about the principal point (..., 2). Exact for square pixels
    (fx = fy) only; `turned_intrinsics` has no such limit.
    """
    centre, principal = np.asarray(centre, np.float64), np.asarray(principal, np.float64)
    moved = (turn(rotation)[..., :2, :2] @ (centre - principal)[..., None])[..., 0]
    return _scale_to(principal + moved, np.asarray(side, np.float64), size)


def turned_intrinsics(intrinsics: ArrayLike, affine: ArrayLike, rotation: ArrayLike) -> Array:
    """Return K' = affine K turn(rotation)^T: projecting turned 3D points with K' gives crop pixels.

    Exact for every camera. Where fx differs from fy and the crop is turned, K' has small entries
    beside the usual ones, so project with the whole matrix.
    """
    inverse = np.swapaxes(turn(rotation), -1, -2)
    return np.asarray(affine, np.float64) @ np.asarray(intrinsics, np.float64) @ inverse


def flip_affine(width: float) -> Array:
    """Return the map (3, 3) x -> width - 1 - x between a photo or crop and its mirror image."""
    return np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]])


def warp(
    image: NDArray[Any],
    affine: ArrayLike,
    size: int | tuple[int, int],
    interpolation: Interpolation = "bilinear",
) -> NDArray[Any]:
    """Return the crop (h, w[, C]) of `image` (H, W[, C]) under `affine` (3, 3); black outside.

    affine: for "bilinear" also a homography. size: side, or (width, height). "bilinear" maps pixel
    centres to pixel centres and averages the photo first where the crop has less than half its
    resolution; mirror images are allowed. "nearest" is Pillow's rule (pixel corners, 16.16 fixed
    point), which the official HOPE loaders use, bit for bit. Raises InputError for "nearest" with a
    homography.
    """
    width, height = (size, size) if isinstance(size, int) else size
    matrix = np.asarray(affine, np.float64)
    projective = bool((matrix[2] != (0, 0, 1)).any())
    if interpolation == "nearest":
        if projective:
            raise InputError("warp: expected an affine map for nearest, found a homography")
        return _warp_pillow(image, matrix, width, height)
    import cv2

    image, matrix = _shrink(image, matrix, width, height)
    if projective:
        return cv2.warpPerspective(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
    return cv2.warpAffine(image, matrix[:2], (width, height), flags=cv2.INTER_LINEAR)


def _warp_pillow(image: NDArray[Any], matrix: Array, width: int, height: int) -> NDArray[Any]:
    from PIL import Image

    coefficients = np.linalg.inv(matrix)[:2].reshape(-1).tolist()
    flag = image.dtype == np.bool_
    picture = Image.fromarray(image.astype(np.uint8) if flag else image)
    picture = picture.transform(
        (width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.NEAREST
    )
    return np.asarray(picture).astype(image.dtype)


def _shrink(
    image: NDArray[Any], matrix: Array, width: int, height: int
) -> tuple[NDArray[Any], Array]:
    """Cut out what the crop shows and average k x k pixels where the map shrinks by k >= 2."""
    import cv2

    area = abs(np.linalg.det(matrix[:2, :2]))
    if (matrix[2] != (0, 0, 1)).any():  # of a homography, in the crop's middle
        there = boxes.apply_map(np.linalg.inv(matrix), np.array([[width / 2, height / 2]]))[0]
        area = abs(np.linalg.det(matrix) / (matrix[2] @ (*there, 1.0)) ** 3)
    factor = int(1 / max(np.sqrt(area), 1e-9))
    if factor < 2:
        return image, matrix
    seen = boxes.transform([0, 0, width - 1, height - 1], np.linalg.inv(matrix))
    limit = image.shape[1::-1]
    x0, y0 = (int(np.clip(np.floor(seen[i]) - factor, 0, limit[i] - 1)) for i in (0, 1))
    x1, y1 = (int(np.clip(np.ceil(seen[i + 2]) + factor, 1, limit[i])) for i in (0, 1))
    part = image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    columns, rows = part.shape[1] // factor, part.shape[0] // factor
    if columns < 1 or rows < 1:
        return image, matrix
    part = np.ascontiguousarray(part[: rows * factor, : columns * factor])
    small = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)
    shift = (factor - 1) / 2
    to_photo = np.array([[factor, 0, x0 + shift], [0, factor, y0 + shift], [0, 0, 1]])
    return small, matrix @ to_photo


def sanitise_xywh(box: ArrayLike, width: int, height: int) -> tuple[Array, NDArray[np.bool_]]:
    """Return boxes (..., 4) as x, y, w, h moved into the image, and which of them (...,) are
    usable.

    The rule of the HandOccNet family, asymmetry included: the left and top edges move without
    shortening the box, so a hand left of or above the image keeps a shifted box.
    Unusable boxes are returned as NaN.
    """
    box = np.asarray(box, np.float64)
    low = np.maximum(box[..., :2], 0)
    limit = np.asarray([width - 1, height - 1], np.float64)
    high = np.minimum(limit, low + np.maximum(box[..., 2:] - 1, 0))
    usable = (box[..., 2] * box[..., 3] > 0) & (high >= low).all(axis=-1)
    moved = np.concatenate([low, high - low], axis=-1)
    return np.where(usable[..., None], moved, np.nan), usable


def square_xywh(box: ArrayLike, factor: float = 1.0) -> Array:
    """Return the square x, y, w, h of the longer side times `factor` about the same centre."""
    box = np.asarray(box, np.float64)
    side = box[..., 2:].max(axis=-1, keepdims=True)
    centre = box[..., :2] + box[..., 2:] / 2
    side = np.concatenate([side, side], axis=-1) * factor
    return np.concatenate([centre - side / 2, side], axis=-1)


def shift_inside_xywh(box: ArrayLike, width: int, height: int) -> Array:
    """Return boxes x, y, w, h shifted (not shrunk) so that x, y >= 0, else x + w <= width - 1 (y
    alike).
    """
    box = np.array(box, np.float64)
    for axis, limit in enumerate((width - 1, height - 1)):
        low, length = box[..., axis], box[..., axis + 2]
        over = low + length > limit
        box[..., axis] = np.where(low < 0, 0, np.where(over, limit - length, low))
    return box


def patch_affine(box: ArrayLike, size: int, rotation: float = 0.0, scale: float = 1.0) -> Array:
    """Return the affine (..., 3, 3) from the photo to a patch of `size`, box centre to size / 2.

    box: (..., 4) x, y, w, h, enlarged by `scale`; rotation in radians (HandOccNet family).
    """
    box = np.asarray(box, np.float64)
    centre = box[..., :2] + box[..., 2:] / 2
    stretch = np.zeros((*box.shape[:-1], 3, 3))
    stretch[..., 0, 0] = size / (box[..., 2] * scale)
    stretch[..., 1, 1] = size / (box[..., 3] * scale)
    stretch[..., 2, 2] = 1
    matrix = stretch @ np.swapaxes(turn(rotation), -1, -2)
    matrix[..., :2, 2] = size / 2 - (matrix[..., :2, :2] @ centre[..., None])[..., 0]
    return matrix
