"""Residual stages (He et al., CVPR 2016) with LeakyReLU, and the pre-activation unit of the heads.

Inputs and outputs are maps (B, C, H, W).
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to 4 * width channels; convolutions without bias."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int, slope: float) -> None:
        super().__init__()
        out = width * self.expansion
        self.slope = slope
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out)
        self.shortcut = _shortcut(channels_in, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.norm1(self.conv1(x)), self.slope)
        h = F.leaky_relu(self.norm2(self.conv2(h)), self.slope)
        return F.leaky_relu(self.norm3(self.conv3(h)) + self.shortcut(x), self.slope)


class BasicBlock(nn.Module):
    """3x3 (with the stride), 3x3; convolutions without bias."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(channels_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.norm1(self.conv1(x)), self.slope)
        return F.leaky_relu(self.norm2(self.conv2(h)) + self.shortcut(x), self.slope)


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    if stride == 1 and channels_in == channels_out:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
    )


BLOCKS: dict[str, type[Bottleneck] | type[BasicBlock]] = {
    "bottleneck": Bottleneck,
    "basic": BasicBlock,
}


def stage(
    block: Literal["bottleneck", "basic"],
    channels_in: int,
    width: int,
    depth: int,
    stride: int,
    slope: float,
) -> nn.Sequential:
    """`depth` blocks, the first with `stride`; gives width * expansion channels."""
    kind = BLOCKS[block]
    out = width * kind.expansion
    first = kind(channels_in, width, stride, slope)
    return nn.Sequential(first, *(kind(out, width, 1, slope) for _ in range(depth - 1)))


class Stem(nn.Module):
    """Convolution of stride 2, BatchNorm, LeakyReLU, max-pool of stride 2: (B, 3, S, S) to S/4."""

    def __init__(self, channels: int, kernel: int, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.conv = nn.Conv2d(3, channels, kernel, 2, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, image: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm(self.conv(image)), self.slope)
        return F.max_pool2d(x, 3, 2, 1)


class PreActivationUnit(nn.Module):
    """BatchNorm, LeakyReLU, convolution, three times (1x1, 3x3, 1x1 through half the channels),
    plus the input; convolutions with bias (He et al., ECCV 2016; hourglass and encoder)."""

    def __init__(self, channels: int, slope: float) -> None:
        super().__init__()
        half = channels // 2
        self.slope = slope
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, half, 1)
        self.norm2 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.leaky_relu(self.norm1(x), self.slope))
        h = self.conv2(F.leaky_relu(self.norm2(h), self.slope))
        return x + self.conv3(F.leaky_relu(self.norm3(h), self.slope))
