"""The denoiser of HandBooster (Xu et al., CVPR 2024, section 3.2): a U-Net in pixel space.

It is given a noisy crop, the rendered texture and normal maps of the same crop, the time step and
the hand's orientation, and answers with the clean crop. The two maps are concatenated with the
noisy crop (equation 1; the released code's order: crop, texture, normal); the orientation modulates
every residual block and can be dropped, which classifier-free guidance needs (`guided`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from handhold.errors import InputError

Found = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class HandBoosterConfig:
    """Sizes of the denoiser; the defaults are those of the released code.

    input_size: side of the crops, pixels. width: channels of the first level. multipliers: channels
    of the levels, times width; every level but the last halves the resolution. embedding: numbers
    in the embeddings of time and of orientation, each. groups: of the GroupNorms. heads,
    head_width: of all attentions. timesteps, first_beta, last_beta: the linear noise schedule
    (DDPM, Ho et al. 2020, section 4). Raises InputError for sizes that do not fit each other.
    """

    input_size: int = 128
    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    embedding: int = 256
    groups: int = 8
    heads: int = 4
    head_width: int = 32
    timesteps: int = 1000
    first_beta: float = 1e-4
    last_beta: float = 2e-2

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        if not self.multipliers or min(self.multipliers) < 1 or self.width % self.groups:
            raise InputError(
                f"HandBoosterConfig: expected multipliers of 1 or more and a width divisible by "
                f"groups, found {self.multipliers}, {self.width}, {self.groups}"
            )
        step = 2 ** (len(self.multipliers) - 1)
        if self.width % 2 or self.width < 4 or self.input_size < step or self.input_size % step:
            raise InputError(
                f"HandBoosterConfig: expected an even width of 4 or more and an input_size "
                f"divisible by {step}, found {self.width} and {self.input_size}"
            )
        if not (self.timesteps >= 1 and 0 < self.first_beta <= self.last_beta < 1):
            raise InputError(
                "HandBoosterConfig: expected 1 timestep or more and 0 < first_beta <= last_beta < "
                f"1, found {self.timesteps}, {self.first_beta}, {self.last_beta}"
            )

    @classmethod
    def small(cls) -> HandBoosterConfig:
        """For a processor: crops of 64 pixels, three levels, a quarter of the channels."""
        return cls(input_size=64, width=16, multipliers=(1, 2, 4), embedding=64, head_width=16)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the levels."""
        return tuple(self.width * factor for factor in self.multipliers)


class StandardisedConv(nn.Conv2d):
    """A convolution whose every filter has mean 0 and variance 1 (Qiao et al. 2019)."""

    def forward(self, input: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        weight = (self.weight - mean) * (variance + 1e-5).rsqrt()
        return functional.conv2d(input, weight, self.bias, padding=self.padding)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of every pixel, with a learned gain."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
        return (x - mean) * (variance + 1e-5).rsqrt() * self.gain


class ResidualBlock(nn.Module):
    """Two standardised convolutions; the embedding scales and shifts between them."""

    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.conv1 = StandardisedConv(inputs, outputs, 3, padding=1)
        self.norm1 = nn.GroupNorm(groups, outputs)
        self.conv2 = StandardisedConv(outputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        told = self.modulation(functional.silu(embedding))[:, :, None, None]
        scale, shift = told.chunk(2, dim=1)
        inner = functional.silu(self.norm1(self.conv1(x)) * (scale + 1) + shift)
        inner = functional.silu(self.norm2(self.conv2(inner)))
        return inner + self.shortcut(x)


class LinearAttention(nn.Module):
    """x + attention with cost linear in the pixels (Shen et al. 2021): values are summed over the
    positions with keys as weights, then read out by every position's query."""

    def __init__(self, channels: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, head_width**-0.5
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * heads * head_width, 1, bias=False)
        self.out = nn.Conv2d(heads * head_width, channels, 1)
        self.out_norm = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = _split_heads(self.qkv(self.norm(x)), self.heads)  # (B, heads, d, HW)
        query = query.softmax(dim=2) * self.scale
        key = key.softmax(dim=3)
        value = value / (x.shape[2] * x.shape[3])
        context = key @ value.transpose(2, 3)  # (B, heads, d, e)
        read = context.transpose(2, 3) @ query
        return x + self.out_norm(self.out(read.reshape(len(x), -1, *x.shape[2:])))


class Attention(nn.Module):
    """x + softmax attention between all pixels."""

    def __init__(self, channels: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * heads * head_width, 1, bias=False)
        self.out = nn.Conv2d(heads * head_width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = _split_heads(self.qkv(self.norm(x)), self.heads)
        query, key, value = (part.transpose(2, 3) for part in parts)  # (B, heads, HW, d)
        read = functional.scaled_dot_product_attention(query, key, value).transpose(2, 3)
        return x + self.out(read.reshape(len(x), -1, *x.shape[2:]))


def _split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    """(B, 3 heads d, H, W) -> query, key, value, each (B, heads, d, H W)."""
    return tuple(part.flatten(2).unflatten(1, (heads, -1)) for part in qkv.chunk(3, dim=1))


class Level(nn.Module):
    """Two residual blocks, linear attention, and the way to the next level (`resample`)."""

    def __init__(self, config: HandBoosterConfig, inputs: int, width: int, skip: int) -> None:
        super().__init__()
        embedding = 2 * config.embedding
        self.block1 = ResidualBlock(inputs + skip, width, embedding, config.groups)
        self.block2 = ResidualBlock(width + skip, width, embedding, config.groups)
        self.attention = LinearAttention(width, config.heads, config.head_width)
        self.resample: nn.Module = nn.Identity()


class HandBoosterUNet(nn.Module):
    """The denoiser. `forward` gives the clean crop for one choice of conditions, `guided` with
    classifier-free guidance on the orientation."""

    def __init__(self, config: HandBoosterConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or HandBoosterConfig()
        first, embedding = config.width, config.embedding
        self.time_in, self.time_out = nn.Linear(first, embedding), nn.Linear(embedding, embedding)
        self.orientation = nn.Linear(4, first)
        self.no_orientation = nn.Parameter(torch.randn(first))
        self.orientation_in = nn.Linear(first, embedding)
        self.orientation_out = nn.Linear(embedding, embedding)

        self.stem = nn.Conv2d(9, first, 7, padding=3)
        widths = (first, *config.channels)
        last = len(config.channels) - 1
        self.down = nn.ModuleList()
        for number, (inner, outer) in enumerate(pairwise(widths)):
            level = Level(config, inner, inner, skip=0)
            level.resample = (
                nn.Conv2d(inner, outer, 4, stride=2, padding=1)
                if number < last
                else nn.Conv2d(inner, outer, 3, padding=1)
            )
            self.down.append(level)
        middle = widths[-1]
        self.middle1 = ResidualBlock(middle, middle, 2 * embedding, config.groups)
        self.middle_attention = Attention(middle, config.heads, config.head_width)
        self.middle2 = ResidualBlock(middle, middle, 2 * embedding, config.groups)
        self.up = nn.ModuleList()
        for number in range(last, -1, -1):
            inner, outer = widths[number], widths[number + 1]
            level = Level(config, outer, outer, skip=inner)
            level.resample = nn.Conv2d(outer, inner, 3, padding=1)
            self.up.append(level)
        self.last_block = ResidualBlock(2 * first, first, 2 * embedding, config.groups)
        self.out = nn.Conv2d(first, 3, 1)

    def forward(
        self,
        noisy: Tensor,
        texture: Tensor,
        normal: Tensor,
        time: Tensor,
        quaternion: Tensor,
        keep: Tensor | None = None,
        found: Found | None = None,
    ) -> Tensor:
        """The clean crop (B, 3, S, S), nominally -1..1, for a noisy one.

        noisy, texture, normal: (B, 3, S, S), the maps in -1..1. time (B,) whole numbers from 0.
        quaternion (B, 4) w, x, y, z of the hand's global rotation, signed as `conditions.
        orientation` does. keep (B,) bool: False drops the orientation; None keeps all. found: is
        filled with the activations by name. Raises InputError for other sizes.
        """
        self._check(noisy, texture, normal, time, quaternion)
        found = {} if found is None else found
        told = self._embedding(time, quaternion, keep, found)
        x = found["stem"] = self.stem(torch.cat((noisy, texture, normal), dim=1))
        beginning, skips = x, []
        last = len(self.down) - 1
        for number, level in enumerate(self.down):
            part: Any = level
            x = found[f"down.{number}.block1"] = part.block1(x, told)
            skips.append(x)
            x = found[f"down.{number}.attention"] = part.attention(part.block2(x, told))
            skips.append(x)
            x = found[f"down.{number}.resample"] = part.resample(x)
        x = found["middle1"] = self.middle1(x, told)
        x = found["middle_attention"] = self.middle_attention(x)
        x = found["middle2"] = self.middle2(x, told)
        for number, level in enumerate(self.up):
            part = level
            x = part.block1(torch.cat((x, skips.pop()), dim=1), told)
            found[f"up.{number}.block1"] = x
            x = part.attention(part.block2(torch.cat((x, skips.pop()), dim=1), told))
            found[f"up.{number}.attention"] = x
            if number < last:
                x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = found[f"up.{number}.resample"] = part.resample(x)
        x = found["last_block"] = self.last_block(torch.cat((x, beginning), dim=1), told)
        return self.out(x)

    def guided(
        self,
        noisy: Tensor,
        texture: Tensor,
        normal: Tensor,
        time: Tensor,
        quaternion: Tensor,
        scale: float = 3.0,
    ) -> Tensor:
        """Classifier-free guidance (Ho and Salimans 2022): dropped + scale * (kept - dropped).

        Only the orientation is guided; both answers come from one doubled batch.
        """
        if scale == 1:
            return self(noisy, texture, normal, time, quaternion)
        given = (noisy, texture, normal, time, quaternion)
        keep = torch.arange(2 * len(noisy), device=noisy.device) < len(noisy)
        kept, dropped = self(*(torch.cat((part, part)) for part in given), keep).chunk(2)
        return dropped + scale * (kept - dropped)

    def _embedding(
        self, time: Tensor, quaternion: Tensor, keep: Tensor | None, found: Found
    ) -> Tensor:
        half = self.config.width // 2
        rates = torch.arange(half, device=time.device) * (-math.log(10_000) / (half - 1))
        angles = time[:, None].float() * rates.exp()
        waves = torch.cat((angles.sin(), angles.cos()), dim=1).to(self.time_in.weight.dtype)
        when = found["time"] = self.time_out(functional.gelu(self.time_in(waves)))
        turned = found["orientation"] = functional.gelu(self.orientation(quaternion))
        if keep is not None:
            turned = torch.where(keep[:, None], turned, self.no_orientation.to(turned.dtype))
        where = self.orientation_out(functional.gelu(self.orientation_in(turned)))
        found["orientation_embedding"] = where
        return torch.cat((when, where), dim=1)

    def _check(
        self, noisy: Tensor, texture: Tensor, normal: Tensor, time: Tensor, quaternion: Tensor
    ) -> None:
        step = 2 ** (len(self.config.multipliers) - 1)
        count, sides = len(noisy), tuple(noisy.shape[2:])
        if noisy.ndim != 4 or noisy.shape[1] != 3 or any(side % step for side in sides):
            raise InputError(
                f"noisy: expected (B, 3, H, W) with sides divisible by {step}, "
                f"found {tuple(noisy.shape)}"
            )
        wanted = {
            "texture": (texture, tuple(noisy.shape)),
            "normal": (normal, tuple(noisy.shape)),
            "time": (time, (count,)),
            "quaternion": (quaternion, (count, 4)),
        }
        for name, (value, shape) in wanted.items():
            if tuple(value.shape) != shape:
                raise InputError(f"{name}: expected {shape}, found {tuple(value.shape)}")
