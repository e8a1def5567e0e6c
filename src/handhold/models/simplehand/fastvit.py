"""FastViT (Vasu et al., "FastViT: A Fast Hybrid Vision Transformer using Structural
Reparameterization", ICCV 2023): SimpleHand's backbone, read from the top.

Where training sums several linear branches, evaluation folds their weights into one convolution on
the fly (`fold`), so that one set of weights serves both. Maps are (B, C, H, W); BatchNorm's eps is
1e-5 and GELU is exact throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD = 32  # channels of an attention head
EXPANSION = 4  # of the networks inside the blocks
SQUEEZE = 16  # channels of the final convolution per channel of its squeeze


class FastViT(nn.Module):
    """(B, 3, S, S) -> (B, 2 * widths[-1], S / 32, S / 32).

    depths, widths: blocks and channels of the four stages; the last stage attends, those before it
    mix by convolutions. drop_path: chance to skip the deepest block's branch, linear in depth.
    fold: see above; off, every branch runs as a layer of its own, in evaluation, too.
    """

    def __init__(
        self, depths: Sequence[int], widths: Sequence[int], drop_path: float, fold: bool = True
    ) -> None:
        super().__init__()
        first = widths[0]
        self.stem = nn.Sequential(
            MultiBranch(3, first, 3, stride=2, fold=fold),
            MultiBranch(first, first, 3, stride=2, groups=first, fold=fold),
            MultiBranch(first, first, 1, fold=fold),
        )
        last = max(sum(depths) - 1, 1)
        chances = [drop_path * index / last for index in range(sum(depths))]
        stages: list[nn.Module] = []
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            narrower = widths[index - 1] if index else None
            attends = index == len(depths) - 1
            stages.append(Stage(narrower, width, chances[:depth], attends, fold))
            chances = chances[depth:]
        self.stages = nn.ModuleList(stages)
        deepest = widths[-1]
        self.final = MultiBranch(deepest, 2 * deepest, 3, groups=deepest, squeeze=True, fold=fold)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """The normalised image -> stem, stage_0 ... stage_3, final_conv."""
        x = self.stem(image)
        found = {"stem": x}
        for index, stage in enumerate(self.stages):
            x = found[f"stage_{index}"] = stage(x)
        return found | {"final_conv": self.final(x)}


class Stage(nn.Module):
    """Halve the map and change its width (but not in the first stage), then blocks."""

    def __init__(
        self, narrower: int | None, width: int, chances: Sequence[float], attends: bool, fold: bool
    ) -> None:
        super().__init__()
        self.down: nn.Module = nn.Identity()
        if narrower is not None:
            self.down = nn.Sequential(
                LargeKernel(narrower, width, fold), MultiBranch(width, width, 1, fold=fold)
            )
        self.position = nn.Conv2d(width, width, 7, padding=3, groups=width) if attends else None
        self.blocks = nn.Sequential(
            *(
                AttentionBlock(width, chance, fold) if attends else MixerBlock(width, chance, fold)
                for chance in chances
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        if self.position is not None:
            x = x + self.position(x)
        return self.blocks(x)


class MixerBlock(nn.Module):
    """RepMixer, then a convolutional network (paper section 3.2.1)."""

    def __init__(self, width: int, drop_path: float, fold: bool) -> None:
        super().__init__()
        self.mixer = RepMixer(width, fold)
        self.mlp = ConvNetwork(width, fold)
        self.scale = LayerScale(width)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = self.mixer(x)
        return x + drop_path(self.scale(self.mlp(x)), self.drop_path, self.training)


class RepMixer(nn.Module):
    """x + scale * (branches(x) - norm(x)): depthwise, without activation."""

    def __init__(self, width: int, fold: bool) -> None:
        super().__init__()
        self.branches = MultiBranch(width, width, 3, groups=width, active=False, fold=fold)
        self.norm = nn.BatchNorm2d(width)
        self.scale = LayerScale(width)
        self.fold = fold

    def forward(self, x: Tensor) -> Tensor:
        if self.training or not self.fold:
            return x + self.scale(self.branches(x) - self.norm(x))
        weight, bias = self.folded()
        return F.conv2d(x, weight, bias, padding=1, groups=len(bias))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Kernel (C, 1, 3, 3) and bias (C,) of the one convolution that it is in evaluation."""
        weight, bias = self.branches.folded()
        gain, shift = folded_norm(self.norm)
        gamma = self.scale.gamma[:, 0, 0]
        weight = gamma[:, None, None, None] * (weight - centred(gain[:, None, None, None], 3))
        weight = weight + centred(torch.ones_like(weight[:, :, :1, :1]), 3)
        return weight, gamma * (bias - shift)


class AttentionBlock(nn.Module):
    """Self-attention over all cells, then a convolutional network."""

    def __init__(self, width: int, drop_path: float, fold: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.mlp = ConvNetwork(width, fold)
        self.scale1 = LayerScale(width)
        self.scale2 = LayerScale(width)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + drop_path(self.scale1(self._attend(self.norm(x))), self.drop_path, self.training)
        return x + drop_path(self.scale2(self.mlp(x)), self.drop_path, self.training)

    def _attend(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, C), row by row
        split = self.qkv(tokens).unflatten(2, (3, -1, HEAD))  # (B, N, 3, heads, 32)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value)  # (B, heads, N, 32)
        tokens = self.out(attended.transpose(1, 2).flatten(2))
        return tokens.transpose(1, 2).unflatten(2, x.shape[-2:])


class ConvNetwork(nn.Module):
    """Depthwise 7x7 with norm, 1x1 to four times the width, GELU, 1x1 back."""

    def __init__(self, width: int, fold: bool) -> None:
        super().__init__()
        self.spatial = ConvNorm(width, width, 7, groups=width)
        self.widen = nn.Conv2d(width, EXPANSION * width, 1)
        self.narrow = nn.Conv2d(EXPANSION * width, width, 1)
        self.fold = fold

    def forward(self, x: Tensor) -> Tensor:
        if self.training or not self.fold:
            x = self.spatial(x)
        else:
            weight, bias = self.spatial.folded()
            x = F.conv2d(x, weight, bias, padding=3, groups=len(bias))
        return self.narrow(F.gelu(self.widen(x)))


class LargeKernel(nn.Module):
    """Sum of a 7x7 and a 3x3 convolution of stride 2 with norms, grouped by input channel."""

    def __init__(self, channels_in: int, channels: int, fold: bool) -> None:
        super().__init__()
        self.large = ConvNorm(channels_in, channels, 7, stride=2, groups=channels_in)
        self.small = ConvNorm(channels_in, channels, 3, stride=2, groups=channels_in)
        self.fold = fold

    def forward(self, x: Tensor) -> Tensor:
        if self.training or not self.fold:
            return self.large(x) + self.small(x)
        weight, bias = self.folded()
        return F.conv2d(x, weight, bias, stride=2, padding=3, groups=x.shape[1])

    def folded(self) -> tuple[Tensor, Tensor]:
        """Kernel and bias of both convolutions together."""
        (large, bias), (small, more) = self.large.folded(), self.small.folded()
        return large + centred(small, 7), bias + more


class MultiBranch(nn.Module):
    """Sum of a convolution with norm, a 1x1 one with norm (kernels larger than 1 only) and a norm
    of the input (same channels and stride 1 only); then squeeze and excitation and GELU.

    squeeze: with squeeze and excitation. active: with GELU.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        squeeze: bool = False,
        active: bool = True,
        fold: bool = True,
    ) -> None:
        super().__init__()
        self.main = ConvNorm(channels_in, channels, kernel, stride=stride, groups=groups)
        self.point = None
        if kernel > 1:
            self.point = ConvNorm(channels_in, channels, 1, groups=groups)
        same = channels_in == channels and stride == 1
        self.identity = nn.BatchNorm2d(channels) if same else None
        self.squeeze = SqueezeExcite(channels) if squeeze else None
        self.stride, self.active, self.fold = stride, active, fold

    def forward(self, x: Tensor) -> Tensor:
        if self.training or not self.fold:
            y = self.main(x)
            if self.point is not None:
                # Not by the convolution's own stride: backwards, with channels last and up to four
                # channels, PyTorch 2.13 then writes beyond its memory on processors.
                y = y + self.point(x[..., :: self.stride, :: self.stride])
            if self.identity is not None:
                y = y + self.identity(x)
        else:
            weight, bias = self.folded()
            conv = self.main.conv
            edge = conv.kernel_size[0] // 2
            y = F.conv2d(x, weight, bias, conv.stride, edge, groups=conv.groups)
        if self.squeeze is not None:
            y = self.squeeze(y)
        return F.gelu(y) if self.active else y

    def folded(self) -> tuple[Tensor, Tensor]:
        """Kernel (O, I / groups, k, k) and bias (O,) of the one convolution that all branches make
        with the norms' running statistics."""
        weight, bias = self.main.folded()
        kernel = weight.shape[-1]
        if self.point is not None:
            small, more = self.point.folded()
            weight, bias = weight + centred(small, kernel), bias + more
        if self.identity is not None:
            gain, shift = folded_norm(self.identity)
            count, share = weight.shape[
                :2
            ]  # output o reads input o: the (o mod share)th of its own
            place = torch.arange(count, device=weight.device) % share
            unit = F.one_hot(place, share).to(weight.dtype) * gain[:, None]
            weight, bias = weight + centred(unit[:, :, None, None], kernel), bias + shift
        return weight, bias


class ConvNorm(nn.Module):
    """Convolution without bias, then BatchNorm."""

    def __init__(
        self, channels_in: int, channels: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Kernel and bias of the convolution with the norm's running statistics."""
        gain, shift = folded_norm(self.norm)
        return self.conv.weight * gain[:, None, None, None], shift


class SqueezeExcite(nn.Module):
    """Every channel times a sigmoid of all channels' means (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels // SQUEEZE, 1)
        self.up = nn.Conv2d(channels // SQUEEZE, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class LayerScale(nn.Module):
    """A learned factor per channel, almost zero at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width, 1, 1), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def drop_path(x: Tensor, chance: float, training: bool) -> Tensor:
    """In training, x (B, ...) with whole samples zeroed by `chance` and the others enlarged so that
    the mean stays (stochastic depth, Huang et al., ECCV 2016)."""
    if not training or chance == 0:
        return x
    kept = torch.rand(len(x), *([1] * (x.ndim - 1)), device=x.device) >= chance
    return x * (kept / (1 - chance)).to(x.dtype)


def folded_norm(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The factor (C,) and the summand (C,) that the norm is in evaluation."""
    variance, mean = cast(Tensor, norm.running_var), cast(Tensor, norm.running_mean)
    gain = norm.weight * torch.rsqrt(variance + norm.eps)
    return gain, norm.bias - mean * gain


def centred(weight: Tensor, kernel: int) -> Tensor:
    """A small kernel (O, I, k, k) in the middle of a larger one of zeros."""
    return F.pad(weight, [(kernel - weight.shape[-1]) // 2] * 4)
