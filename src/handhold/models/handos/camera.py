"""Pixels, directions and the translation of a hand, for cameras of any intrinsics."""

from __future__ import annotations

import torch
from torch import Tensor

NEAR_M = 0.05  # points nearer than this are projected as if they lay there


def to_pixels(shares: Tensor, valid_size: Tensor) -> Tensor:
    """Shares (K, ..., 2) of the valid area, whose outer edges are 0 and 1 -> pixels; valid_size (K,
    2)."""
    size = valid_size.reshape(-1, *[1] * (shares.ndim - 2), 2)
    return shares * size - 0.5


def to_shares(pixels: Tensor, valid_size: Tensor) -> Tensor:
    """Back from `to_pixels`."""
    size = valid_size.reshape(-1, *[1] * (pixels.ndim - 2), 2)
    return (pixels + 0.5) / size


def project(points: Tensor, intrinsics: Tensor) -> Tensor:
    """Pixels (K, ..., 2) of camera-frame points (K, ..., 3), intrinsics (K, 3, 3)."""
    shape = points.shape
    seen = points.reshape(shape[0], -1, 3) @ intrinsics.transpose(1, 2)
    seen = seen.reshape(shape)
    return seen[..., :2] / seen[..., 2:].clamp(min=NEAR_M)


def directions(pixels: Tensor, intrinsics: Tensor) -> Tensor:
    """x / z and y / z (K, n, 2) of the rays through pixels (K, n, 2)."""
    matrix = intrinsics[:, None]
    off = (pixels - matrix[..., :2, 2])[..., None, :]
    a, b, c, d = (matrix[..., i, j] for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)))
    adjugate = torch.stack((torch.stack((d, -b), -1), torch.stack((-c, a), -1)), -2)
    return (adjugate * off).sum(3) / (a * d - b * c)[..., None]


def translations(
    raw: Tensor, boxes: Tensor, valid_size: Tensor, intrinsics: Tensor, hand_width_m: float
) -> Tensor:
    """Camera translations (K, m, 3) in metres from what a head says: raw (K, m, 3) = (a, bx, by).

    With the box's centre c and longer side s in pixels and focal length f: depth = f *
    hand_width_m / s * exp(a), and the wrist is seen at c + s * b. So zeros put it on the box's
    centre at a plausible depth whatever the camera. boxes (K, 4) in 0..1 of the valid area.
    """
    centre = to_pixels(boxes[:, None, :2], valid_size)
    side = (boxes[:, 2:] * valid_size).amax(1)[:, None, None].clamp(min=1.0)
    focal = intrinsics[:, 0, 0] * intrinsics[:, 1, 1] - intrinsics[:, 0, 1] * intrinsics[:, 1, 0]
    focal = focal.clamp(min=1e-6).sqrt()[:, None, None]
    depth = focal * hand_width_m / side * raw[..., :1].clamp(-4, 4).exp()
    ray = directions(centre + side * raw[..., 1:], intrinsics)
    return torch.cat((ray * depth, depth), dim=-1)
