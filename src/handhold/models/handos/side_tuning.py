"""A light branch beside the frozen detector: from its backbone's maps to features of our own
(HandOS, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from handhold.errors import InputError


class SideTuning(nn.Module):
    """One branch of three convolutions for each level, fed by the maps before the encoder.

    channels: of these maps, fine to coarse. Levels beyond them start from the last map with a 3x3
    convolution of stride 2 (4, ...), as the detectors' own do. GroupNorm of 32 groups after each
    convolution, ReLU between them.
    """

    def __init__(
        self,
        channels: Sequence[int],
        levels: int,
        *,
        width: int,
        hidden: int,
        kernels: tuple[int, int, int],
    ) -> None:
        super().__init__()
        branches = []
        for level in range(levels):
            extra = max(0, level - len(channels) + 1)
            first, second, third = kernels if not extra else (3, *kernels[1:])
            source = channels[min(level, len(channels) - 1)]
            branches.append(
                nn.Sequential(
                    *_conv(source, hidden, first, 2**extra),
                    nn.ReLU(),
                    *_conv(hidden, hidden, second),
                    nn.ReLU(),
                    *_conv(hidden, width, third),
                )
            )
        self.branches = nn.ModuleList(branches)

    def forward(self, shallow: Sequence[Tensor], shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Maps (B, C_l, H_l, W_l) -> (B, T, width), in the order of a memory of levels `shapes`.
        Raises InputError where a map has not the size of its level."""
        tokens = []
        for level, (branch, shape) in enumerate(zip(self.branches, shapes, strict=True)):
            found = branch(shallow[min(level, len(shallow) - 1)])
            if tuple(found.shape[-2:]) != tuple(shape):
                raise InputError(
                    f"side tuning, level {level}: expected a map of {tuple(shape)} from the "
                    f"detector's backbone, found {tuple(found.shape[-2:])}"
                )
            tokens.append(found.flatten(2).transpose(1, 2))
        return torch.cat(tokens, dim=1)


def _conv(inside: int, out: int, kernel: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    layer = nn.Conv2d(inside, out, kernel, stride, kernel // 2, bias=False)
    return layer, nn.GroupNorm(math.gcd(32, out), out)
