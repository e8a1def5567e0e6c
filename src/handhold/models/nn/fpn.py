"""Feature pyramid (Lin et al., CVPR 2017) reduced to its finest level."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class Pyramid(nn.Module):
    """Top-down path from c5 to a smoothed P2; no activations.

    channels: those of c2, c3, c4, c5. norm: a BatchNorm at the end (not in the original): without
    it the map is as large as the backbone's maps and their sums happen to be, and attention on it
    can saturate. Output: (B, out, H, W) at the size of c2.
    """

    def __init__(self, channels: Sequence[int], out: int, *, norm: bool = False) -> None:
        super().__init__()
        c2, c3, c4, c5 = channels
        self.top = nn.Conv2d(c5, out, 1)
        self.lateral1 = nn.Conv2d(c4, out, 1)
        self.lateral2 = nn.Conv2d(c3, out, 1)
        self.lateral3 = nn.Conv2d(c2, out, 1)
        self.smooth = nn.Conv2d(out, out, 3, padding=1)
        self.norm = nn.BatchNorm2d(out) if norm else nn.Identity()

    def forward(self, c2: Tensor, c3: Tensor, c4: Tensor, c5: Tensor) -> Tensor:
        p4 = _add(self.top(c5), self.lateral1(c4))
        p3 = _add(p4, self.lateral2(c3))
        return self.norm(self.smooth(_add(p3, self.lateral3(c2))))


def _add(coarse: Tensor, lateral: Tensor) -> Tensor:
    size = lateral.shape[-2:]
    return F.interpolate(coarse, size=size, mode="bilinear", align_corners=False) + lateral
