"""The signed distance fields of hand and object (paper section 3.2).

"Normalised" points and distances are metres from the own origin times `scale` (3.1). Distances are
positive outside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handhold.models.nn.detr import Perceptron
from handhold.models.nn.unet import point_features

FREQUENCIES = (1.0, 2.0, 4.0, 8.0, 16.0)
CODE = 6 * len(FREQUENCIES)
_CHUNK = 4096  # points that go through the decoder at a time where no gradient is needed
_ROWS = 64  # they come in multiples of this


def project(points: Tensor, intrinsics: Tensor) -> Tensor:
    """Camera points (B, N, 3), intrinsics (B, 3, 3) -> pixels (B, N, 2)."""
    flat = points @ intrinsics.transpose(1, 2)
    return flat[..., :2] / flat[..., 2:]


def positional_code(points: Tensor) -> Tensor:
    """Normalised points (..., 3) -> (..., 30): sine and cosine of 1, 2, 4, 8 and 16 times x, y, z;
    no pi, and without the points themselves."""
    parts = [part for f in FREQUENCIES for part in (torch.sin(f * points), torch.cos(f * points))]
    return torch.cat(parts, dim=-1)


def read_pixels(pyramid: Sequence[Tensor], pixels: Tensor, size: int) -> Tensor:
    """All maps' features (B, N, C) at pixels (B, N, 2) of the crop of side `size`.

    Bilinear, the outermost pixels' centres at the outermost cells' centres on every map, beyond the
    border as at it. (The crop maps with `size`, this with size - 1: half a pixel, as the original.)
    """
    half = (size - 1) / 2
    grid = (pixels - half) / half
    return point_features(pyramid, grid.to(pyramid[0].dtype), "border")


class PixelTable:
    """What an MLP makes of the pyramid's features, ready to be read at many pixels of one image.

    Bilinear reading and a linear layer commute, so the first layer runs once on the maps' cells
    instead of once a point. pyramid: maps (C, H, W) of one image; mlp: from all their channels,
    with ReLU after every layer; size: of the crop. Without gradient.
    """

    @torch.no_grad()
    def __init__(self, pyramid: Sequence[Tensor], mlp: Perceptron, size: int) -> None:
        layer, self.layers = mlp.layers[0], list(mlp.layers)[1:]
        if not isinstance(layer, nn.Linear) or not mlp.last_relu:
            raise TypeError("PixelTable: expected linear layers with ReLU after every one")
        self.half = (size - 1) / 2
        self.shapes = [(m.shape[1], m.shape[2]) for m in pyramid]
        weights = layer.weight.split([m.shape[0] for m in pyramid], dim=1)
        cells = [m.flatten(1).t() for m in pyramid]
        self.bias = layer.bias
        counts = [len(cell) for cell in cells]
        # (cells of all maps, out), written in place: it is large
        self.rows = cells[0].new_zeros((sum(counts), len(layer.weight)))
        for rows, own, weight in zip(self.rows.split(counts), cells, weights, strict=True):
            torch.mm(own, weight.t(), out=rows)

    def read(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 2) -> features (N, C)."""
        place = (pixels - self.half) / self.half
        index, weight, start = [], [], 0
        for height, width in self.shapes:
            x = ((place[:, 0] + 1) / 2 * (width - 1)).clamp(0, width - 1)
            y = ((place[:, 1] + 1) / 2 * (height - 1)).clamp(0, height - 1)
            left, top = x.floor().clamp(max=width - 2), y.floor().clamp(max=height - 2)
            dx, dy = x - left, y - top
            corner = (start + top * width + left).long()
            index += [corner, corner + 1, corner + width, corner + width + 1]
            weight += [(1 - dx) * (1 - dy), dx * (1 - dy), (1 - dx) * dy, dx * dy]
            start += height * width
        found = F.embedding_bag(
            torch.stack(index, dim=1),
            self.rows,
            mode="sum",
            per_sample_weights=torch.stack(weight, dim=1).to(self.rows.dtype),
        )
        features = F.relu(found + self.bias)
        for layer in self.layers:
            features = F.relu(layer(features))
        return features


class PixelTables:
    """The tables of a batch's images, made when first asked for; hand and object share them.

    pyramid: maps (B, C, H, W)."""

    def __init__(self, pyramid: Sequence[Tensor], mlp: Perceptron, size: int) -> None:
        self.pyramid = list(pyramid)
        self.mlp, self.size = mlp, size
        self._made: dict[int, PixelTable] = {}

    def of(self, index: int) -> PixelTable:
        """The table of image `index`."""
        if index not in self._made:
            maps = [level[index] for level in self.pyramid]
            self._made[index] = PixelTable(maps, self.mlp, self.size)
        return self._made[index]


class WeightNormLinear(nn.Module):
    """Linear layer whose rows are gain * direction / |direction| (Salimans and Kingma, 2016)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_uniform_(self.direction, a=math.sqrt(5))
        nn.init.uniform_(self.bias, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))
        self.gain = nn.Parameter(self.direction.detach().norm(dim=1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        length = self.direction.norm(dim=1, keepdim=True)
        return F.linear(x, self.direction * (self.gain / length), self.bias)


class SDFDecoder(nn.Module):
    """Five layers with a skip after the second, tanh at the end: the signed distance of a point.

    features: of a pixel, `hidden`: width; the second layer is narrower by the input's width, which
    is concatenated to its output.
    """

    def __init__(self, features: int, hidden: int, dropout: float) -> None:
        super().__init__()
        inputs = features + CODE + 3
        widths = ((inputs, hidden), (hidden, hidden - inputs), (hidden, hidden), (hidden, hidden))
        self.hidden = nn.ModuleList(WeightNormLinear(a, b) for a, b in widths)
        self.out = nn.Linear(hidden, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, points: Tensor) -> Tensor:
        """features (..., C), normalised points (..., 3) -> distances (...) in -1..1, normalised,
        not clamped."""
        given = decoder_input(features, points)
        x = given
        for index, layer in enumerate(self.hidden):
            if index == 2:
                x = torch.cat((x, given), dim=-1)
            x = self.dropout(F.relu(layer(x)))
        return torch.tanh(self.out(x))[..., 0]


def decoder_input(features: Tensor, points: Tensor) -> Tensor:
    """What the decoder reads: features (..., C), code (..., 30), normalised points (..., 3)."""
    return torch.cat((features, positional_code(points), points), dim=-1)


def dense_distances(
    decoder: SDFDecoder, table: PixelTable, points: Tensor, pixels: Tensor
) -> Tensor:
    """Distances (N,) of many normalised points (N, 3) of one image, read at pixels (N, 2).

    Matrix products round the odd rows at the end differently; filled up to whole blocks of rows, a
    point's distance is the same to the bit, whichever others it is asked with.
    """
    spare = -len(points) % _ROWS
    filled = (torch.cat((x, x[:1].expand(spare, -1))) for x in (points, pixels))
    both = zip(*(x.split(_CHUNK) for x in filled), strict=True)
    found = [decoder(table.read(at), chosen) for chosen, at in both]
    return torch.cat(found)[: len(points)]


def density(distances: Tensor, width: Tensor, sign: float) -> Tensor:
    """sigmoid(sign * d / width) / width of distances (...); without gradient to the distances.

    Paper equation 3 has sign -1: dense inside. The released code has +1: dense outside."""
    return torch.sigmoid(sign * distances.detach() / width) / width
