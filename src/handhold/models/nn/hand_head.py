"""The 2D hand head and the encoder behind it, as HandOccNet introduced them (Park et al., CVPR
2022, section 3.4) and HFL-Net and UniHOPE kept them. Maps are (B, C, R, R).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handhold.models.nn.hourglass import Hourglass
from handhold.models.nn.resnet import PreActivationUnit
from handhold.models.nn.soft_argmax import soft_argmax

JOINTS = 21


class HandHead(nn.Module):
    """Hourglass, then one heat map a joint with a learned sharpness."""

    def __init__(self, width: int, depth: int, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.hourglass = Hourglass(width, depth, slope)
        self.unit = PreActivationUnit(width, slope)
        self.conv = nn.Conv2d(width, width, 1)
        self.norm = nn.BatchNorm2d(width)
        self.score = nn.Conv2d(width, JOINTS, 1)
        self.sharpness = nn.Parameter(torch.ones(JOINTS, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x (B, C, R, R), R a multiple of 2 ** depth -> hourglass and hand_encoding (B, C, R, R);
        heatmap_logits, heatmap_scores (logits times sharpness) and heatmaps (B, 21, R, R), the last
        summing to 1; joints2d (B, 21, 2) in 0..1 of the map."""
        hourglass = self.hourglass(x)
        encoding = F.leaky_relu(self.norm(self.conv(self.unit(hourglass))), self.slope)
        logits = self.score(encoding)
        scores = logits * self.sharpness[:, :, None]
        heatmaps, joints2d = soft_argmax(scores)
        return {
            "hourglass": hourglass,
            "hand_encoding": encoding,
            "heatmap_logits": logits,
            "heatmap_scores": scores,
            "heatmaps": heatmaps,
            "joints2d": joints2d,
        }


class HandEncoder(nn.Module):
    """Heat maps and encoding of `size` x `size` cells (a power of two from 4) -> 4 C numbers."""

    def __init__(self, width: int, size: int, slope: float) -> None:
        super().__init__()
        levels = size.bit_length() - 2  # from size down to 2 x 2
        self.heatmap_conv = nn.Conv2d(JOINTS, width, 1)
        self.encoding_conv = nn.Conv2d(width, width, 1)
        self.units = nn.ModuleList(PreActivationUnit(width, slope) for _ in range(2 * levels))

    def forward(self, heatmaps: Tensor, encoding: Tensor) -> Tensor:
        """heatmaps (B, 21, R, R), encoding (B, C, R, R) -> (B, 4 C)."""
        x = self.heatmap_conv(heatmaps.to(encoding.dtype)) + self.encoding_conv(encoding)
        for index, unit in enumerate(self.units):
            x = unit(x)
            if index % 2:
                x = F.max_pool2d(x, 2)
        return x.flatten(1)
