"""The points of a regular grid that lie nearest to a surface: the pose stage's tokens in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from handhold.models.hoisdf.field import (
    PixelTable,
    SDFDecoder,
    decoder_input,
    dense_distances,
    project,
)

if TYPE_CHECKING:
    from handhold.models.hoisdf.model import HOISDFConfig


def grid_points(size: int, kind: Literal["sheared", "regular"], device: torch.device) -> Tensor:
    """size^3 normalised points (size^3, 3) in [-1, 1], z fastest.

    "sheared": the original divides its integer indices as real numbers, so y grows with z (up to
    one cell) and x with y and z; y and x reach 1 + 2 / (size - 1). "regular": the grid that was
    meant, and that the paper describes.
    """
    index = torch.arange(size**3, device=device)
    if kind == "sheared":
        flat = index.float()
        steps = torch.stack(((flat / size / size) % size, (flat / size) % size, flat % size), -1)
    else:
        steps = torch.stack(
            (index // size**2, (index // size) % size, index % size), dim=-1
        ).float()
    spacing = torch.tensor(2.0 / (size - 1), dtype=torch.float32, device=device)
    return steps * spacing - 1


def inside_box(pixels: Tensor, box: Tensor) -> Tensor:
    """(N,) bool: pixels (N, 2) strictly inside a box (4,)."""
    return ((pixels > box[:2]) & (pixels < box[2:])).all(dim=-1)


def candidates(pixels: Tensor, box: Tensor, count: int) -> Tensor:
    """Indices, ascending, of the pixels (N, 2) inside the box (4,).

    The original fails where these are fewer than `count`; here the pixels nearest to the box fill
    up, so that a small or far box still gives tokens.
    """
    chosen = inside_box(pixels, box).nonzero()[:, 0]
    if len(chosen) >= count:
        return chosen
    away = (torch.maximum(box[:2] - pixels, pixels - box[2:])).clamp_min(0).square().sum(dim=-1)
    away[chosen] = -1.0
    return torch.argsort(away, stable=True)[:count].sort().values


@torch.no_grad()
def nearest_points(
    config: HOISDFConfig,
    decoder: SDFDecoder,
    table: PixelTable,
    origin: Tensor,
    intrinsics: Tensor,
    box: Tensor,
    count: int,
) -> dict[str, Tensor]:
    """The `count` grid points of one image with the smallest distances, nearest first.

    table: of its pixels; origin (3,) metres, camera frame; intrinsics (3, 3); box (4,) crop
    pixels. Returns points (count, 3), normalised, distances (count,), not clamped; for comparison
    all_distances (M,) of the points in the box, in the grid's order, and first_inputs (8, C) of the
    decoder.
    """
    grid = grid_points(config.grid, config.grid_kind, origin.device)
    pixels = project((grid / config.scale + origin)[None], intrinsics[None])[0]
    inside = candidates(pixels, box, count)
    points, pixels = grid[inside], pixels[inside]
    distances = dense_distances(decoder, table, points, pixels)
    order = torch.sort(distances.abs(), stable=True).indices[:count]
    return {
        "points": points[order],
        "distances": distances[order],
        "all_distances": distances,
        "first_inputs": decoder_input(table.read(pixels[:8]), points[:8]),
    }
