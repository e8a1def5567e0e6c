"""Pinhole cameras: intrinsics from what is known, how they change with the image, projection and
back.

Pixel (0, 0) is the centre of the top-left pixel, so an image spans -0.5 .. width - 0.5.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handhold.errors import InputError
from handhold.geometry.crop import flip_affine

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.floating[Any]]
FULL_FRAME_DIAGONAL_MM = math.hypot(36.0, 24.0)


def intrinsics_from_focal(focal_px: float, width: int, height: int) -> Array:
    """Return (3, 3) with one focal length in pixels and the principal point in the image's
    middle.
    """
    if not (math.isfinite(focal_px) and focal_px > 0):
        raise InputError(f"focal length: expected a positive number of pixels, found {focal_px}")
    return np.array(
        [[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1]], np.float64
    )


def intrinsics_from_fov(
    fov_deg: float,
    width: int,
    height: int,
    *,
    across: Literal["width", "height", "longer", "diagonal"] = "longer",
) -> Array:
    """Return (3, 3) for a field of view in degrees `across` the image's longer side (or another).

    Raises InputError unless 0 < fov_deg < 180.
    """
    if not 0 < fov_deg < 180:
        raise InputError(f"field of view: expected between 0 and 180 degrees, found {fov_deg}")
    length = {
        "width": width,
        "height": height,
        "longer": max(width, height),
        "diagonal": math.hypot(width, height),
    }[across]
    return intrinsics_from_focal(length / 2 / math.tan(math.radians(fov_deg) / 2), width, height)


def fov_from_intrinsics(intrinsics: ArrayLike, width: int, height: int) -> tuple[float, float]:
    """Return the fields of view (horizontal, vertical) in degrees, assuming a centred camera."""
    matrix = np.asarray(intrinsics, np.float64)
    sizes = ((width, matrix[0, 0]), (height, matrix[1, 1]))
    across, down = (math.degrees(2 * math.atan(size / 2 / focal)) for size, focal in sizes)
    return across, down


def intrinsics_from_35mm(focal_35mm: float, width: int, height: int) -> Array:
    """Return (3, 3) from EXIF's FocalLengthIn35mmFilm (mm): equal diagonals, as CIPA DCG-001
    defines it.
    """
    if not (math.isfinite(focal_35mm) and focal_35mm > 0):
        raise InputError(f"FocalLengthIn35mmFilm: expected positive millimetres: {focal_35mm}")
    focal = focal_35mm / FULL_FRAME_DIAGONAL_MM * math.hypot(width, height)
    return intrinsics_from_focal(focal, width, height)


def intrinsics_from_focal_plane(
    focal_mm: float, pixels_per_mm: float, width: int, height: int, *, exif_width: int | None = None
) -> Array:
    """Return (3, 3) from EXIF's FocalLength and FocalPlaneXResolution (converted to pixels per mm).

    exif_width: width of the picture as taken, when the image was resized since.
    """
    scale = width / exif_width if exif_width else 1.0
    return intrinsics_from_focal(focal_mm * pixels_per_mm * scale, width, height)


def transform_intrinsics(intrinsics: ArrayLike, affine: ArrayLike) -> Array:
    """Return affine @ intrinsics: the camera of an image whose pixels were moved by `affine` (...,
    3, 3).
    """
    return np.asarray(affine, np.float64) @ np.asarray(intrinsics, np.float64)


def crop_intrinsics(intrinsics: ArrayLike, x0: float, y0: float) -> Array:
    """Return the intrinsics after cutting so that pixel (x0, y0) becomes (0, 0)."""
    return transform_intrinsics(intrinsics, [[1, 0, -x0], [0, 1, -y0], [0, 0, 1]])


def resize_intrinsics(intrinsics: ArrayLike, scale_x: float, scale_y: float | None = None) -> Array:
    """Return the intrinsics after resizing by the factors; the outer edge at -0.5 stays where it
    is.
    """
    sx, sy = scale_x, scale_x if scale_y is None else scale_y
    affine = [[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]]
    return transform_intrinsics(intrinsics, affine)


def mirror_intrinsics(intrinsics: ArrayLike, width: int) -> Array:
    """Return the intrinsics that see x-negated points in the mirrored image: cx -> width - 1 -
    cx.
    """
    mirrored = transform_intrinsics(intrinsics, flip_affine(width))
    return mirrored * np.array([-1.0, 1.0, 1.0])


def project(points: ArrayLike, intrinsics: ArrayLike) -> Array:
    """Return pixels (..., N, 2) of camera-frame points (..., N, 3); intrinsics (..., 3, 3), whole
    matrix used.
    """
    moved = np.asarray(points) @ np.swapaxes(np.asarray(intrinsics), -1, -2)
    return moved[..., :2] / moved[..., 2:]


def backproject(pixels: ArrayLike, depth: ArrayLike, intrinsics: ArrayLike) -> Array:
    """Return camera-frame points (..., N, 3) of pixels (..., N, 2) at depths z (..., N) in
    metres.
    """
    pixels = np.asarray(pixels, np.float64)
    homogeneous = np.concatenate([pixels, np.ones_like(pixels[..., :1])], axis=-1)
    rays = homogeneous @ np.swapaxes(np.linalg.inv(np.asarray(intrinsics, np.float64)), -1, -2)
    return rays / rays[..., 2:] * np.asarray(depth, np.float64)[..., None]


def solve_translation(
    joints: Tensor,
    joints2d: Tensor,
    weights: Tensor | None,
    intrinsics: Tensor,
    *,
    steps: int = 5,
    robust_px: float | None = None,
    nearest: float = 0.05,
) -> Tensor:
    """Return the translation (B, 3) in metres that makes `joints` project onto `joints2d`.

    joints: (B, J, 3) metres in camera axes, any origin. joints2d: (B, J, 2) pixels. weights: (B,
    J) >= 0 or
    None. intrinsics: (B, 3, 3), any invertible matrix. The perspective equations are linear in the
    translation and give the start; `steps` Gauss-Newton steps on the pixel distances with Cauchy
    weights of scale `robust_px` (default: twice the median distance, at least 0.1 % of the hand's
    size) follow. Every joint ends at least `nearest` metres in front of the camera. Computed in
    float64 (float32 on devices that have no float64), differentiable. At least two weighted joints
    are needed; otherwise the result is the start at the mean 2D point and says nothing.
    """
    import torch

    dtype = torch.float32 if joints.device.type == "mps" else torch.float64
    x, uv, k = joints.to(dtype), joints2d.to(dtype), intrinsics.to(dtype)
    if weights is None:
        w = torch.ones(x.shape[:-1], dtype=dtype, device=x.device)
    else:
        w = weights.to(dtype)
    w = torch.where(torch.isfinite(uv).all(-1), w, 0.0)
    uv = torch.where(w[..., None] > 0, uv, 0.0)
    w = w / w.sum(-1, keepdim=True).clamp_min(1e-12)
    mean_uv = (w[..., None] * uv).sum(1, keepdim=True)
    size = (w[..., None] * (uv - mean_uv) ** 2).sum((1, 2)).sqrt().clamp_min(1e-6)  # (B,)
    shift = _linear_translation(x, uv, w, k)
    weak = _weak_perspective(x, uv, w, k, size)
    behind = (x[..., 2] + shift[:, 2:]).amin(-1) < nearest
    shift = torch.where((behind | ~torch.isfinite(shift).all(-1))[:, None], weak, shift)
    eye = torch.eye(3, dtype=dtype, device=x.device)
    for _ in range(steps):
        moved = (x + shift[:, None]) @ k.mT  # (B, J, 3)
        depth = moved[..., 2:].clamp_min(nearest)
        residual = moved[..., :2] / depth - uv
        distance = residual.norm(dim=-1).detach()
        if robust_px is None:
            counted = torch.where(w > 0, distance, torch.nan).nan_to_num(0.0)
            spread = 2 * _weighted_median(counted, w) + 1e-3 * size.detach()
        else:
            spread = torch.full_like(size, robust_px)
        trust = w / (1 + (distance / spread[:, None]) ** 2)
        slope = (k[:, None, :2] - (moved[..., :2] / depth)[..., None] * k[:, None, 2:]) / depth[
            ..., None
        ]  # (B, J, 2, 3)
        normal = torch.einsum("bj,bjic,bjid->bcd", trust, slope, slope)
        right = torch.einsum("bj,bjic,bji->bc", trust, slope, residual)
        damping = 1e-9 * normal.diagonal(dim1=-2, dim2=-1).sum(-1) + 1e-12
        step = torch.linalg.solve(normal + damping[:, None, None] * eye, right)
        shift = shift - step
        gap = (nearest - (x[..., 2] + shift[:, 2:]).amin(-1)).clamp_min(0.0)
        shift = torch.cat([shift[:, :2], shift[:, 2:] + gap[:, None]], -1)
    return shift.to(joints.dtype)


def _linear_translation(x: Tensor, uv: Tensor, w: Tensor, k: Tensor) -> Tensor:
    """Weighted least squares of (k_row - uv k_3) (x + t) = 0, damped so that it always has an
    answer.
    """
    import torch

    rows = k[:, None, :2] - uv[..., None] * k[:, None, 2:]  # (B, J, 2, 3)
    right = -(rows * x[..., None, :]).sum(-1)
    normal = torch.einsum("bj,bjic,bjid->bcd", w, rows, rows)
    side = torch.einsum("bj,bjic,bji->bc", w, rows, right)
    damping = 1e-12 * normal.diagonal(dim1=-2, dim2=-1).sum(-1) + 1e-12
    eye = torch.eye(3, dtype=x.dtype, device=x.device)
    return torch.linalg.solve(normal + damping[:, None, None] * eye, side)


def _weak_perspective(x: Tensor, uv: Tensor, w: Tensor, k: Tensor, size: Tensor) -> Tensor:
    """Depth from the ratio of sizes, place from the mean: where the linear answer lies behind the
    camera.
    """
    import torch

    mean = (w[..., None] * x).sum(1)
    spread = (w[..., None] * (x - mean[:, None])[..., :2] ** 2).sum((1, 2)).sqrt().clamp_min(1e-4)
    focal = torch.linalg.det(k[:, :2, :2]).abs().sqrt()
    depth = (focal * spread / size).clamp(0.05, 20.0)
    uv1 = torch.cat([(w[..., None] * uv).sum(1), torch.ones_like(depth)[:, None]], -1)
    ray = torch.linalg.solve(k, uv1)
    return ray / ray[:, 2:] * depth[:, None] - mean


def _weighted_median(values: Tensor, w: Tensor) -> Tensor:
    """The (lower) weighted median (B,) of values (B, J)."""
    ordered, order = values.sort(dim=-1)
    reached = w.gather(-1, order).cumsum(-1) >= 0.5 - 1e-9
    index = reached.int().argmax(dim=-1, keepdim=True)
    return ordered.gather(-1, index)[:, 0]
