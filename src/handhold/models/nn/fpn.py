"""Feature pyramid (Lin et al., CVPR 2017) reduced to its finest level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Pyramid(nn.Module):
    """Top-down path from c5 to a smoothed P2; no activations.

    channels: those of c2, c3, c4, c5. norm: a BatchNorm at the end (not in the original): without
    it the map is as large as the backbone's maps and their sums happen to be, and attention on it
    can saturate. halve: means of 2 x 2 cells at the end, in evaluation as a part of the smoothing
    convolution. Output: (B, out, H, W) at the size of c2, or half of it.
    """

    def __init__(
        self, channels: Sequence[int], out: int, *, norm: bool = False, halve: bool = False
    ) -> None:
        super().__init__()
        c2, c3, c4, c5 = channels
        self.top = nn.Conv2d(c5, out, 1)
        self.lateral1 = nn.Conv2d(c4, out, 1)
        self.lateral2 = nn.Conv2d(c3, out, 1)
        self.lateral3 = nn.Conv2d(c2, out, 1)
        self.smooth = nn.Conv2d(out, out, 3, padding=1)
        self.norm = nn.BatchNorm2d(out) if norm else nn.Identity()
        self.halve = halve

    def forward(self, c2: Tensor, c3: Tensor, c4: Tensor, c5: Tensor) -> Tensor:
        p4 = _add(self.top(c5), self.lateral1(c4))
        p3 = _add(p4, self.lateral2(c3))
        p2 = _add(p3, self.lateral3(c2))
        if self.halve and not self.training:
            weight, bias = self.folded()
            return self.norm(F.conv2d(p2, weight, bias, stride=2, padding=1))
        p2 = self.norm(self.smooth(p2))
        return F.avg_pool2d(p2, 2) if self.halve else p2

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Kernel (out, out, 4, 4) and bias of the smoothing and the mean of 2 x 2 cells together,
        a convolution of stride 2 and padding 1 with less than half of the multiplications."""
        weight = self.smooth.weight
        moved = [F.pad(weight, (i, 1 - i, j, 1 - j)) for i in (0, 1) for j in (0, 1)]
        return torch.stack(moved).mean(0), self.smooth.bias


def _add(coarse: Tensor, lateral: Tensor) -> Tensor:
    size = lateral.shape[-2:]
    return F.interpolate(coarse, size=size, mode="bilinear", align_corners=False) + lateral
