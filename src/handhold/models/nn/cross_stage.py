"""Convolution blocks of the detectors: cross-stage partial blocks (Wang et al., CVPRW 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv_norm(inputs: int, outputs: int, size: int = 1, stride: int = 1) -> nn.Module:
    """Convolution, BatchNorm, ReLU."""
    return with_norm(nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False))


def with_norm(conv: nn.Conv2d) -> nn.Module:
    """`conv`, drawn anew for ReLU, then BatchNorm and ReLU."""
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """Two 3x3 layers beside an identity; maps (B, width, H, W) stay what they are in shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv_norm(width, width, 3), conv_norm(width, width, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class CrossStage(nn.Module):
    """Two 1x1 halves, residual pairs on one of them, joined by a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        half = outputs // 2
        self.passed = conv_norm(inputs, half)
        self.worked = nn.Sequential(
            conv_norm(inputs, half), *(Residual(half) for _ in range(blocks))
        )
        self.join = conv_norm(2 * half, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([self.passed(x), self.worked(x)], dim=1))
