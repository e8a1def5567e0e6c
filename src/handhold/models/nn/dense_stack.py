"""DenseStack: MobRecon's light backbone (Chen et al., CVPR 2022, section 3.1), two densely linked
encoder-decoders, and the 2D joints read off the second. H2ONet adds a third encoder."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

JOINTS = 21
# what the published networks own but never call, in the first stack
UNUSED = ("none", "squeeze", "dense")
Unused = Literal["none", "squeeze", "dense"]


class ConvNorm(nn.Module):
    """Convolution without bias, BatchNorm, ReLU."""

    def __init__(
        self, channels_in: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)), inplace=True)


class MobileUnit(nn.Module):
    """`depth` depthwise 3x3 convolutions, then a 1x1; the input is added where widths agree."""

    def __init__(self, channels_in: int, channels: int, depth: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.ModuleList(
            ConvNorm(channels_in, channels_in, 3, groups=channels_in) for _ in range(depth)
        )
        self.pointwise = ConvNorm(channels_in, channels)
        self.residual = channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for unit in self.depthwise:
            y = unit(y)
        y = self.pointwise(y)
        return x + y if self.residual else y


class DenseBlock(nn.Module):
    """Units that each read everything before them. growth: their widths. keep_input: whether the
    result holds the input beside the units' outputs."""

    def __init__(self, channels: int, growth: tuple[int, ...], *, keep_input: bool = True) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            MobileUnit(channels + sum(growth[:i]), width) for i, width in enumerate(growth)
        )
        self.keep_input = keep_input

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for unit in self.units:
            parts.append(unit(torch.cat(parts, dim=1)))
        return torch.cat(parts if self.keep_input else parts[1:], dim=1)


def dense2(channels: int) -> DenseBlock:
    """Two units, output twice as wide as the input."""
    return DenseBlock(channels, (channels // 2,) * 2)


def dense4(channels: int) -> DenseBlock:
    """Four units, output twice as wide as the input."""
    return DenseBlock(channels, (channels // 4,) * 4)


def dense2_narrow(channels: int) -> DenseBlock:
    """Two units, output as wide as the input, which is left out."""
    return DenseBlock(channels, (3 * channels // 4, channels // 4), keep_input=False)


class SqueezeExcite(nn.Module):
    """Channel weights from the pooled map. Between the two linear layers the values are clamped to
    0..4. In training BatchNorm needs at least two samples."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = min(channels // 2, 256)
        self.down = nn.Linear(channels, hidden, bias=False)
        self.down_norm = nn.BatchNorm1d(hidden)
        self.up = nn.Linear(hidden, channels, bias=False)
        self.up_norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down_norm(self.down(x.mean((2, 3)))).clamp(0.0, 4.0)
        return x * torch.sigmoid(self.up_norm(self.up(y)))[:, :, None, None]


class DenseEncoder(nn.Module):
    """The way down: maps of 2, 4 and 8 times the input's width at 1/2, 1/4 and 1/8 of its size.

    weigh3: weigh the third map's channels. deep: two more blocks on the third map. unused: own
    the parts that are switched off, as the released code does ("squeeze", "dense": both kinds).
    """

    def __init__(
        self, width: int, *, weigh3: bool = True, deep: bool = True, unused: Unused = "none"
    ) -> None:
        super().__init__()
        self.weigh3, self.deep = weigh3, deep
        self.dense1, self.squeeze1 = dense2(width), SqueezeExcite(2 * width)
        self.dense2, self.squeeze2 = dense4(2 * width), SqueezeExcite(4 * width)
        self.dense3, self.squeeze3 = dense4(4 * width), None
        self.dense4 = self.dense5 = None
        if weigh3 or unused != "none":
            self.squeeze3 = SqueezeExcite(8 * width)
        if deep or unused == "dense":
            self.dense4, self.dense5 = dense2_narrow(8 * width), dense2_narrow(8 * width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, a, S, S) -> (B, 2a, S/2, S/2), (B, 4a, S/4, S/4), (B, 8a, S/8, S/8)."""
        d1 = F.avg_pool2d(self.squeeze1(self.dense1(x)), 2)
        d2 = F.avg_pool2d(self.squeeze2(self.dense2(d1)), 2)
        d3 = self.dense3(d2)
        if self.weigh3 and self.squeeze3 is not None:
            d3 = self.squeeze3(d3)
        d3 = F.avg_pool2d(d3, 2)
        if self.deep and self.dense4 is not None and self.dense5 is not None:
            d3 = self.dense5(self.dense4(d3))
        return d1, d2, d3


class DenseStack(nn.Module):
    """The way down and up again. last_step: up-sample the result once more, with the corners of
    both maps aligned. The others: see `DenseEncoder`."""

    def __init__(
        self,
        width: int,
        channels: int,
        *,
        weigh3: bool = True,
        deep: bool = True,
        last_step: bool = False,
        unused: Unused = "none",
    ) -> None:
        super().__init__()
        self.last_step = last_step
        self.encoder = DenseEncoder(width, weigh3=weigh3, deep=deep, unused=unused)

        def narrow(channels_in: int, channels: int) -> nn.Sequential:
            middle = max(channels, 2 * width)
            return nn.Sequential(MobileUnit(channels_in, middle), MobileUnit(middle, channels, 2))

        self.narrow1, self.squeeze4 = narrow(8 * width, 4 * width), SqueezeExcite(4 * width)
        self.narrow2, self.squeeze5 = narrow(4 * width, 2 * width), SqueezeExcite(2 * width)
        self.narrow3, self.squeeze6 = narrow(2 * width, channels), SqueezeExcite(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, a, S, S) -> the result (B, channels, S/2, S/2), or (.., S, S) with the last step, and
        the deepest map (B, 8a, S/8, S/8)."""
        d1, d2, d3 = self.encoder(x)
        u1 = F.interpolate(self.squeeze4(self.narrow1(d3)), scale_factor=2, mode="nearest")
        u2 = self.squeeze5(self.narrow2(d2 + u1))
        u2 = F.interpolate(u2, scale_factor=2, mode="nearest")
        u3 = self.squeeze6(self.narrow3(d1 + u2))
        if self.last_step:
            u3 = F.interpolate(u3, scale_factor=2, mode="bilinear", align_corners=True)
        return u3, d3


class JointsHead(nn.Module):
    """2D joints from one flattened map each, as shares of the crop's side (about 0..1)."""

    def __init__(self, channels_in: int, cells: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels_in, JOINTS, 1, bias=False)
        self.layers = nn.ModuleList(
            nn.Linear(a, b, bias=False) for a, b in ((cells, 128), (128, 64), (64, 2))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, R, R) -> (B, 21, 2)."""
        first, second, last = self.layers
        y = first(self.reduce(x).flatten(2)).clamp(0.0, 4.0)
        return last(second(y).clamp(0.0, 4.0))


class DenseStackBackbone(nn.Module):
    """The crop -> maps and 2D joints.

    input_size: side S of the crop. width: channels a of the maps between the stacks.
    joints_width: of the stacks' results. latent_width: of the result that the mesh is made of.
    unused: own the blocks of the first stack that are never called. rotation: a third encoder
    behind a stop-gradient (H2ONet).
    """

    def __init__(
        self,
        *,
        input_size: int = 128,
        width: int = 128,
        joints_width: int = 24,
        latent_width: int = 256,
        unused: Unused = "squeeze",
        rotation: bool = False,
    ) -> None:
        super().__init__()
        self.stem = ConvNorm(3, width // 2, 3, 2)
        self.stem_unit = MobileUnit(width // 2, width)
        self.fold = ConvNorm(4 * width, width)
        self.stack1 = DenseStack(
            width, joints_width, weigh3=False, deep=False, last_step=True, unused=unused
        )
        self.remap = ConvNorm(joints_width, joints_width)
        self.join = ConvNorm(width + joints_width, width)
        self.stack2 = DenseStack(width, joints_width)
        self.stack3 = DenseEncoder(width) if rotation else None
        self.latent = nn.Conv2d(8 * width, latent_width, 1, bias=False)
        self.joints = JointsHead(joints_width, (input_size // 8) ** 2)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S) -> latent (B, latent_width, S/32, S/32), joints_img (B, 21, 2),
        dense_stack2_mid (B, 8a, S/32, S/32), with rotation dense_stack3_mid alike, and the maps
        between."""
        stem = self.stem_unit(self.stem(image))
        folded = F.pixel_unshuffle(stem, 2)  # channel 4 c + 2 (row parity) + column parity
        x = self.fold(folded)
        first, _ = self.stack1(x)
        joined = self.join(torch.cat((self.remap(first), x), dim=1))
        second, middle = self.stack2(joined)
        result = {
            "pre_layer": stem,
            "reorg": folded,
            "thrink": x,
            "dense_stack1": first,
            "thrink2": joined,
            "dense_stack2": second,
            "dense_stack2_mid": middle,
            "latent": self.latent(middle),
            "joints_img": self.joints(second),
        }
        if self.stack3 is not None:
            result["dense_stack3_mid"] = self.stack3(joined.detach())[2]
        return result


def unused_prefixes(unused: Unused) -> tuple[str, ...]:
    """Prefixes, within the backbone, of the first stack's parameters that are never used."""
    names = {"none": (), "squeeze": ("squeeze3",), "dense": ("squeeze3", "dense4", "dense5")}
    return tuple(f"stack1.encoder.{name}." for name in names[unused])
