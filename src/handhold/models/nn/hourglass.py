"""One stacked-hourglass module (Newell et al., ECCV 2016) of pre-activation units."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from handhold.models.nn.resnet import PreActivationUnit


class Hourglass(nn.Module):
    """(B, C, H, W) to the same shape; H and W must be multiples of 2 ** depth.

    levels[0] is the innermost. Units of a level: 0 skip, 1 after pooling, 2 before enlarging, and
    at the innermost 3 between them.
    """

    def __init__(self, channels: int, depth: int, slope: float) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.ModuleList(PreActivationUnit(channels, slope) for _ in range(4 if level == 0 else 3))
            for level in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self._level(len(self.levels) - 1, x)

    def _level(self, level: int, x: Tensor) -> Tensor:
        units = cast(nn.ModuleList, self.levels[level])
        low = units[1](F.max_pool2d(x, 2))
        low = self._level(level - 1, low) if level else units[3](low)
        return units[0](x) + F.interpolate(units[2](low), scale_factor=2.0, mode="nearest")
