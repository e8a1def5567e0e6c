"""Positions as expectations over a grid."""

from __future__ import annotations

import torch
from torch import Tensor


def cell_centres(size: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x and y (size, size) of the cells of a unit square: ((column, row) + 0.5) / size."""
    line = (torch.arange(size, device=device, dtype=dtype) + 0.5) / size
    return line[None, :].expand(size, size), line[:, None].expand(size, size)


def soft_argmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, J, R, R) -> heatmaps (B, J, R, R) that sum to 1, and their means (B, J, 2) x, y in
    0..1 of the map. Computed in float32."""
    heatmaps = logits.float().flatten(2).softmax(dim=-1).unflatten(2, logits.shape[-2:])
    x, y = cell_centres(logits.shape[-1], logits.device, torch.float32)
    points = torch.stack(((heatmaps * x).sum((2, 3)), (heatmaps * y).sum((2, 3))), dim=-1)
    return heatmaps, points
