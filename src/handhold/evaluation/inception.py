"""The Inception v3 that FID is usually measured with (Szegedy et al. 2016, in the form of Heusel et
al. 2017), up to its last pooling.

It differs from the Inception v3 for classification: average pooling does not count the border, the
last block pools by the maximum, and pictures are resized to 299 pixels the way its makers' program
did. No weights come with the package; `Inception.load` reads the usual file, a dictionary of
tensors named as below, with or without its classifier (`fc`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from handhold.errors import FileFormatError, WeightsError
from handhold.models.hub import local_file
from handhold.models.weights import fit, read_official

SIZE = 299
UNUSED = ("fc.", "AuxLogits.")  # entries of a file beyond the last pooling
IMAGENET = 1000


class Layer(nn.Module):
    """Convolution, normalisation, ReLU."""

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def wide(before: int, after: int, size: int = 7) -> Layer:
    """A convolution along the rows."""
    return Layer(before, after, (1, size), padding=(0, size // 2))


def tall(before: int, after: int, size: int = 7) -> Layer:
    """A convolution along the columns."""
    return Layer(before, after, (size, 1), padding=(size // 2, 0))


def mean_around(x: Tensor) -> Tensor:
    """The mean of the 3 x 3 neighbours there are."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(nn.Module):
    """35 x 35 cells."""

    def __init__(self, before: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Layer(before, 64, 1)
        self.branch5x5_1 = Layer(before, 48, 1)
        self.branch5x5_2 = Layer(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Layer(before, 64, 1)
        self.branch3x3dbl_2 = Layer(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Layer(96, 96, 3, padding=1)
        self.branch_pool = Layer(before, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        middle = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), middle, double, self.branch_pool(mean_around(x))], 1)


class BlockB(nn.Module):
    """35 x 35 -> 17 x 17."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.branch3x3 = Layer(before, 384, 3, 2)
        self.branch3x3dbl_1 = Layer(before, 64, 1)
        self.branch3x3dbl_2 = Layer(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Layer(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class BlockC(nn.Module):
    """17 x 17 cells, convolutions of 7 along one axis at a time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch1x1 = Layer(768, 192, 1)
        self.branch7x7_1 = Layer(768, width, 1)
        self.branch7x7_2 = wide(width, width)
        self.branch7x7_3 = tall(width, 192)
        self.branch7x7dbl_1 = Layer(768, width, 1)
        self.branch7x7dbl_2 = tall(width, width)
        self.branch7x7dbl_3 = wide(width, width)
        self.branch7x7dbl_4 = tall(width, width)
        self.branch7x7dbl_5 = wide(width, 192)
        self.branch_pool = Layer(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(mean_around(x))], 1)


class BlockD(nn.Module):
    """17 x 17 -> 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = Layer(768, 192, 1)
        self.branch3x3_2 = Layer(192, 320, 3, 2)
        self.branch7x7x3_1 = Layer(768, 192, 1)
        self.branch7x7x3_2 = wide(192, 192)
        self.branch7x7x3_3 = tall(192, 192)
        self.branch7x7x3_4 = Layer(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        long = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        short = self.branch3x3_2(self.branch3x3_1(x))
        return torch.cat([short, self.branch7x7x3_4(long), F.max_pool2d(x, 3, 2)], 1)


class BlockE(nn.Module):
    """8 x 8 cells. highest: its pooling takes the maximum, not the mean."""

    def __init__(self, before: int, *, highest: bool) -> None:
        super().__init__()
        self.highest = highest
        self.branch1x1 = Layer(before, 320, 1)
        self.branch3x3_1 = Layer(before, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = wide(384, 384, 3), tall(384, 384, 3)
        self.branch3x3dbl_1 = Layer(before, 448, 1)
        self.branch3x3dbl_2 = Layer(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = wide(384, 384, 3), tall(384, 384, 3)
        self.branch_pool = Layer(before, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        around = F.max_pool2d(x, 3, 1, padding=1) if self.highest else mean_around(x)
        parts = [
            self.branch1x1(x),
            self.branch3x3_2a(once),
            self.branch3x3_2b(once),
            self.branch3x3dbl_3a(twice),
            self.branch3x3dbl_3b(twice),
            self.branch_pool(around),
        ]
        return torch.cat(parts, 1)


class Inception(nn.Module):
    """(B, 3, 299, 299) in -1..1 -> (B, 2048), the mean over the last map."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Layer(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Layer(32, 32, 3)
        self.Conv2d_2b_3x3 = Layer(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Layer(64, 80, 1)
        self.Conv2d_4a_3x3 = Layer(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c = BlockA(192, 32), BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b, self.Mixed_6c = BlockC(128), BlockC(160)
        self.Mixed_6d, self.Mixed_6e = BlockC(160), BlockC(192)
        self.Mixed_7a = BlockD()
        self.Mixed_7b, self.Mixed_7c = BlockE(1280, highest=False), BlockE(2048, highest=True)

    def forward(self, image: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(image)))
        x = F.max_pool2d(x, 3, 2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))

    @torch.no_grad()
    def of(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Features (B, 2048) of pictures (H, W, 3) uint8 of any sizes."""
        device = self.Conv2d_1a_3x3.conv.weight.device
        batch = torch.stack([resized(torch.from_numpy(image).to(device)) for image in images])
        return self((batch - 128) / 128).cpu().numpy()

    @classmethod
    def load(cls, weights: str | Path) -> Inception:
        """The network with the weights of a file or of `hub:OWNER/REPOSITORY/FILE`, in eval mode.

        Raises WeightsError where they do not fit or were made for classification, FileFormatError,
        and what `local_file` and `read_official` raise.
        """
        path = local_file(weights)
        entries = _read(path)
        classes = entries.get("fc.bias")
        if classes is not None and len(classes) == IMAGENET:
            raise WeightsError(
                f"{path}: expected the Inception of FID (1008 classes or none), found the one for "
                f"classification ({IMAGENET} classes), whose features give other figures"
            )
        network = cls()
        fit(network, {k: v for k, v in entries.items() if not k.startswith(UNUSED)}, str(path))
        return network.eval()


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors" or not path.is_file():
        return dict(read_official(path).entries)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"{path}: not a readable safetensors file ({error})") from error


def resized(image: Tensor) -> Tensor:
    """(H, W, 3) -> (3, 299, 299) float: bilinear between the pixels at and after i H / 299, whose
    middles do not count, as TensorFlow 1 resized."""
    rows, columns = (_between(n).to(image.device) for n in image.shape[:2])
    return torch.einsum("hy,yxc,wx->chw", rows, image.float(), columns)


@lru_cache(maxsize=8)
def _between(count: int) -> Tensor:
    """(299, count): the shares of the old pixels in the new ones along one axis."""
    place = torch.arange(SIZE, dtype=torch.float64) * (count / SIZE)
    low = place.long()
    high, share = (low + 1).clamp(max=count - 1), place - low
    shares = torch.zeros(SIZE, count, dtype=torch.float64)
    line = torch.arange(SIZE)
    shares[line, low] += 1 - share
    shares[line, high] += share
    return shares.float()
