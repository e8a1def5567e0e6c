"""ResNet with all its maps, and the U-Net decoder above it (HOISDF, Keypoint Transformer).

Levels are named by their stride; a dictionary of maps always runs from stride 2 to stride 32.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handhold.models.nn.resnet import BLOCKS, stage

STRIDES = (2, 4, 8, 16, 32)


class ResNetMaps(nn.Module):
    """A ResNet (He et al., CVPR 2016) that keeps a map at every stride.

    frozen_norms: scale and shift of the norms are not trained, those of the shortcuts are; the
    running statistics go on.
    """

    def __init__(
        self,
        block: Literal["bottleneck", "basic"] = "bottleneck",
        depths: Sequence[int] = (3, 4, 6, 3),
        widths: Sequence[int] = (64, 128, 256, 512),
        stem_width: int = 64,
        *,
        frozen_norms: bool = False,
    ) -> None:
        super().__init__()
        out = [width * BLOCKS[block].expansion for width in widths]
        self.channels = (stem_width, *out)
        self.conv = nn.Conv2d(3, stem_width, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(stem_width)
        self.stage1 = stage(block, stem_width, widths[0], depths[0], 1, 0.0)
        self.stage2 = stage(block, out[0], widths[1], depths[1], 2, 0.0)
        self.stage3 = stage(block, out[1], widths[2], depths[2], 2, 0.0)
        self.stage4 = stage(block, out[2], widths[3], depths[3], 2, 0.0)
        if frozen_norms:
            for name, module in self.named_modules():
                if isinstance(module, nn.BatchNorm2d) and "shortcut" not in name:
                    module.requires_grad_(False)

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """(B, 3, S, S) -> by stride s, (B, C, S / s, S / s)."""
        x2 = F.relu(self.norm(self.conv(image)))
        x4 = self.stage1(F.max_pool2d(x2, 3, 2, 1))
        x8 = self.stage2(x4)
        x16 = self.stage3(x8)
        return {2: x2, 4: x4, 8: x8, 16: x16, 32: self.stage4(x16)}


def conv_block(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    """Convolution with bias, BatchNorm, ReLU; the size stays."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def upsample_block(channels_in: int, channels_out: int) -> nn.Sequential:
    """Transposed convolution that doubles the size, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.ConvTranspose2d(channels_in, channels_out, 4, 2, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def map_head(widths: Sequence[int]) -> nn.Sequential:
    """1x1 convolutions through `widths`, BatchNorm and ReLU between them."""
    layers: list[nn.Module] = []
    for inside, out in itertools.pairwise(widths[:-1]):
        layers += conv_block(inside, out, 1)
    return nn.Sequential(*layers, nn.Conv2d(widths[-2], widths[-1], 1))


class UNetDecoder(nn.Module):
    """From the ResNet's maps to a pyramid of the same strides (skip first, then the up-sampled).

    Small (width w): every skip goes through a 1x1 convolution; w, 2w, 4w, 8w, 16w channels from
    stride 2 to 32. Big (width None): raw skips; half of c2, then as many channels as the ResNet.
    heads: names of maps read from stride 2, each of one channel.
    """

    def __init__(
        self, channels: Sequence[int], width: int | None = 32, heads: Sequence[str] = ()
    ) -> None:
        super().__init__()
        c2, c4, c8, c16, c32 = channels  # of the ResNet, by stride
        self.small = width is not None
        if width is None:
            out = (c4 // 2, c4, c8, c16, c32)
            skips, ups = (c2, c4, c8, c16), out[:4]
        else:
            out = tuple(width * 2**k for k in range(5))
            # the last up-sampling keeps its channels
            skips, ups = out[:4], (out[1], *out[1:4])
            self.lateral = nn.ModuleDict(
                {
                    str(stride): conv_block(inside, outside, 1)
                    for stride, inside, outside in zip(STRIDES, channels, out, strict=True)
                }
            )
        self.channels = out
        below = (out[1], out[2], out[3], c32)  # what is up-sampled: at stride 32 the raw map
        self.up = nn.ModuleDict()
        self.join = nn.ModuleDict()
        for k, stride in enumerate(STRIDES[:4]):
            self.up[str(stride)] = upsample_block(below[k], ups[k])
            self.join[str(stride)] = conv_block(skips[k] + ups[k], out[k], 3)
        first = out[0]
        widths = (first, first, 1) if self.small else (first, first, first // 2, 1)
        self.heads = nn.ModuleDict({name: map_head(widths) for name in heads})

    def _skip(self, stride: int, x: Tensor) -> Tensor:
        return self.lateral[str(stride)](x) if self.small else x

    def forward(self, maps: dict[int, Tensor]) -> tuple[dict[int, Tensor], dict[str, Tensor]]:
        """The ResNet's maps -> the pyramid by stride, and each head's map (B, S / 2, S / 2)."""
        pyramid = {32: self._skip(32, maps[32])}
        x = maps[32]
        for stride in (16, 8, 4, 2):
            both = (self._skip(stride, maps[stride]), self.up[str(stride)](x))
            x = self.join[str(stride)](torch.cat(both, dim=1))
            pyramid[stride] = x
        pyramid = {stride: pyramid[stride] for stride in STRIDES}
        return pyramid, {name: head(x).squeeze(1) for name, head in self.heads.items()}


def point_features(maps: Sequence[Tensor], grid: Tensor, padding: str = "zeros") -> Tensor:
    """Features of maps (B, C_i, H_i, W_i) at points grid (B, N, 2) -> (B, N, sum of C_i).

    grid: x, y, -1 and 1 are the centres of a map's first and last pixels. Bilinear.
    """
    found = [F.grid_sample(x, grid[:, None], "bilinear", padding, align_corners=True) for x in maps]
    return torch.cat([x.squeeze(2) for x in found], dim=1).transpose(1, 2)
