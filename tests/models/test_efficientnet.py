"""EfficientNet-Lite0: published sizes, the ImageNet file's names, convolution and norm in one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handhold.errors import MissingFileError, WeightsError
from handhold.models.nn.efficientnet import (
    ConvNorm,
    DepthwiseConv,
    LiteStem,
    lite_stage,
    load_lite,
    read_lite,
)
from handhold.models.nn.flops import measure

LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
# (kernel, stride, expansion, in, out) of the 16 blocks, as published
BLOCKS = (
    [(3, 1, 1, 32, 16)]
    + [(3, 2, 6, 16, 24), (3, 1, 6, 24, 24)]
    + [(5, 2, 6, 24, 40), (5, 1, 6, 40, 40)]
    + [(3, 2, 6, 40, 80)] + [(3, 1, 6, 80, 80)] * 2
    + [(5, 1, 6, 80, 112)] + [(5, 1, 6, 112, 112)] * 2
    + [(5, 2, 6, 112, 192)] + [(5, 1, 6, 192, 192)] * 3
    + [(3, 1, 6, 192, 320)]
)  # fmt: skip


class Lite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = LiteStem()
        for index in range(1, 5):
            setattr(self, f"stage{index}", lite_stage(index))


def official(seed: int = 0) -> dict[str, Tensor]:
    """Made-up numbers under the names and shapes of the published file."""
    generator = torch.Generator().manual_seed(seed)
    entries: dict[str, Tensor] = {}

    def conv(name: str, *shape: int) -> None:
        fan = shape[1] * shape[2] * shape[3]  # He's scale: the activations stay tame
        entries[f"{name}.weight"] = torch.randn(shape, generator=generator) * (2 / fan) ** 0.5

    def norm(name: str, channels: int) -> None:
        for leaf in LEAVES[:4]:
            entries[f"{name}.{leaf}"] = torch.rand(channels, generator=generator) + 0.5
        entries[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("_conv_stem", 32, 3, 3, 3)
    norm("_bn0", 32)
    for number, (kernel, _, expansion, inputs, outputs) in enumerate(BLOCKS):
        name, inner = f"_blocks.{number}", inputs * expansion
        if expansion > 1:
            conv(f"{name}._expand_conv", inner, inputs, 1, 1)
            norm(f"{name}._bn0", inner)
        conv(f"{name}._depthwise_conv", inner, 1, kernel, kernel)
        norm(f"{name}._bn1", inner)
        conv(f"{name}._project_conv", outputs, inner, 1, 1)
        norm(f"{name}._bn2", outputs)
    conv("_conv_head", 1280, 320, 1, 1)
    norm("_bn1", 1280)
    entries["_fc.weight"], entries["_fc.bias"] = torch.zeros(1000, 1280), torch.zeros(1000)
    return entries


def reference(entries: dict[str, Tensor], image: Tensor) -> Tensor:
    """The published network up to its last block, written straight from its definition."""

    def norm(x: Tensor, name: str) -> Tensor:
        weight, bias, mean, var = (entries[f"{name}.{leaf}"] for leaf in LEAVES[:4])
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, 1e-3)

    def conv(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        kernel = entries[f"{name}.weight"]
        return F.conv2d(x, kernel, None, stride, kernel.shape[-1] // 2, 1, groups)

    x = F.relu6(norm(conv(image * 2 - 1, "_conv_stem", 2), "_bn0"))
    for number, (_, stride, expansion, inputs, outputs) in enumerate(BLOCKS):
        name, before = f"_blocks.{number}", x
        if expansion > 1:
            x = F.relu6(norm(conv(x, f"{name}._expand_conv"), f"{name}._bn0"))
        x = conv(x, f"{name}._depthwise_conv", stride, x.shape[1])
        x = F.relu6(norm(x, f"{name}._bn1"))
        x = norm(conv(x, f"{name}._project_conv"), f"{name}._bn2")
        if stride == 1 and inputs == outputs:
            x = x + before
    return x


def test_the_published_number_of_parameters() -> None:
    own = sum(p.numel() for p in Lite().parameters())
    head = 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert own + head == 4_652_008


def test_imagenet_weights_give_the_published_network(tmp_path: Path) -> None:
    entries = official()
    torch.save(entries, tmp_path / "lite.pth")
    network = Lite().eval()
    own = network.state_dict()
    assert load_lite(network, tmp_path / "lite.pth", ("",)) == len(own)
    image = torch.rand(2, 3, 64, 64)
    x = network.stem(image)
    for index in range(1, 5):
        x = getattr(network, f"stage{index}")(x)
    expected = reference(entries, image)
    error = (x - expected).abs().max() / expected.abs().max()
    assert error < 1e-4


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_lite(tmp_path / "none.pth")
    entries = official()
    torch.save(entries | {"extra.weight": torch.zeros(1)}, tmp_path / "extra.pth")
    with pytest.raises(WeightsError, match=r"extra\.weight"):
        read_lite(tmp_path / "extra.pth")
    fewer = {k: v for k, v in entries.items() if not k.startswith("_blocks.15.")}
    torch.save(fewer, tmp_path / "fewer.pth")
    with pytest.raises(WeightsError, match="16 blocks"):
        read_lite(tmp_path / "fewer.pth")
    torch.save(entries, tmp_path / "lite.pth")
    with pytest.raises(WeightsError, match="no such stages"):
        load_lite(nn.Linear(2, 2), tmp_path / "lite.pth", ("",))


@pytest.mark.parametrize("depthwise", [False, True])
def test_eval_mode_is_convolution_then_norm(depthwise: bool) -> None:
    torch.manual_seed(0)
    layer = ConvNorm(6, 6, 3, 2, True, depthwise)
    layer.train()
    for _ in range(3):
        layer(torch.randn(4, 6, 9, 9) * 2 + 1)  # statistics of their own
    layer.eval()
    x = torch.randn(2, 6, 9, 9)
    torch.testing.assert_close(layer(x), F.relu6(layer.norm(layer.conv(x))), atol=1e-5, rtol=1e-5)


def test_depthwise_gradients_stay_exact_under_autocast() -> None:
    torch.manual_seed(0)
    layer = DepthwiseConv(4, 5)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    (plain,) = torch.autograd.grad(layer(x).square().sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x)
    (mixed,) = torch.autograd.grad(found.square().sum(), x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(mixed, plain)


def test_counted_as_convolution_and_norm() -> None:
    layer = ConvNorm(6, 8, 3, 2, True, False).eval()
    size = measure(layer, lambda: layer(torch.zeros(1, 6, 10, 10)))
    cells = 5 * 5 * 8
    assert (size.macs, size.norm_operations) == (cells * 6 * 9, 4 * cells)
    assert size.counted_parameters == size.parameters == 6 * 8 * 9 + 2 * 8
