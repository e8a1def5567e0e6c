"""The points of a regular grid that lie nearest to a surface: the pose stage's tokens in use."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from handhold.models.hoisdf.field import (
    FREQUENCIES,
    PixelTable,
    SDFDecoder,
    decoder_input,
    dense_distances,
    project,
)
from handhold.models.hoisdf.search import (
    guesses,
    multiplies_bfloat16,
    node_positions,
    smallest,
    worthwhile,
)

if TYPE_CHECKING:
    from handhold.models.hoisdf.model import HOISDFConfig


@functools.lru_cache(maxsize=4)
@torch.inference_mode(mode=False)  # what is kept must be of use to training too
def grid_points(size: int, kind: Literal["sheared", "regular"], device: torch.device) -> Tensor:
    """size^3 normalised points (size^3, 3) in [-1, 1], z fastest.

    "sheared": the original divides its integer indices as real numbers, so y grows with z (up to
    one cell) and x with y and z; y and x reach 1 + 2 / (size - 1). "regular": the grid that was
    meant, and that the paper describes. Kept between calls: not to be written to.
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
    *,
    dense: bool = True,
) -> dict[str, Tensor]:
    """The `count` grid points of one image with the smallest distances, nearest first.

    table: of its pixels; origin (3,) metres, camera frame; intrinsics (3, 3); box (4,) crop
    pixels. Returns points (count, 3), normalised, and distances (count,), not clamped.

    dense: ask the field at every point in the box; then also, for comparison, all_distances (M,) in
    the grid's order and first_inputs (8, C) of the decoder. Not dense: the same points, from coarse
    to fine (`search.py`), where that can pay.
    """
    grid = grid_points(config.grid, config.grid_kind, origin.device)

    def pixels_of(points: Tensor) -> Tensor:
        return project((points / config.scale + origin)[None], intrinsics[None])[0]

    pixels = pixels_of(grid)
    inside = candidates(pixels, box, count)
    points, pixels = grid[inside], pixels[inside]

    def exact(index: Tensor) -> Tensor:
        return dense_distances(decoder, table, points[index], pixels[index])

    if not dense and worthwhile(config.grid, FREQUENCIES[-1], len(inside), count):
        positions = node_positions(config.grid, config.grid_kind, origin.device)

        def ask(needed: Tensor) -> Tensor:
            nodes = positions[needed]
            places = pixels_of(nodes)
            with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16()):
                return dense_distances(decoder, table, nodes, places).float()

        guess = guesses(inside, config.grid, ask)
        order, distances = smallest(guess, exact, count)
        return {"points": points[order], "distances": distances}
    distances = dense_distances(decoder, table, points, pixels)
    order = torch.sort(distances.abs(), stable=True).indices[:count]
    return {
        "points": points[order],
        "distances": distances[order],
        "all_distances": distances,
        "first_inputs": decoder_input(table.read(pixels[:8]), points[:8]),
    }
