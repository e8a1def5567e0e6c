"""Attention to a few sampled places of several feature levels (Zhu et al., ICLR 2021, Deformable
DETR, equation 3), around the reference box of each query.

Everything is plain PyTorch, so that it trains on any device and exports (ONNX GridSample). Where
neither is asked for, on a processor, the same sum is taken from rows of the values, several times
as fast.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from handhold.errors import InputError

Shapes = Sequence[tuple[int, int]]


class DeformableAttention(nn.Module):
    """dim: width of queries and output. heads, levels, points: points is a number for each level.
    memory_dim: width of the memory, `dim` if None.

    The memory is projected by `project`, once an image; `forward` may then read the values for any
    number of sets of queries.
    """

    def __init__(
        self, dim: int, *, heads: int, levels: int, points: int, memory_dim: int | None = None
    ) -> None:
        super().__init__()
        if min(heads, levels, points) < 1 or dim % heads:
            raise InputError(
                "DeformableAttention: expected dim to be a multiple of heads and all numbers "
                f"positive, found dim {dim}, heads {heads}, levels {levels}, points {points}"
            )
        self.heads, self.levels, self.points = heads, levels, points
        self.value = nn.Linear(memory_dim or dim, dim)
        self.offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention = nn.Linear(dim, heads * levels * points)
        self.output = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Head h looks in the h-th of equally spaced directions, point i is i steps away (1 ...);
        all points weigh the same. Deformable DETR, supplement A.4.
        """
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        way = torch.stack([angle.cos(), angle.sin()], dim=-1)
        way = way / way.abs().amax(dim=-1, keepdim=True)  # onto the square around the origin
        steps = torch.arange(1, self.points + 1)
        bias = way[:, None, None] * steps[None, None, :, None]
        bias = bias.expand(self.heads, self.levels, self.points, 2)
        with torch.no_grad():
            nn.init.zeros_(self.offsets.weight)
            self.offsets.bias.copy_(bias.reshape(-1))
            nn.init.zeros_(self.attention.weight)
            nn.init.zeros_(self.attention.bias)
            for layer in (self.value, self.output):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def project(self, memory: Tensor, valid: Tensor | None = None) -> Tensor:
        """Values (B, T, dim) of a memory (B, T, memory_dim); zero where valid (B, T) is False."""
        values = self.value(memory)
        return values if valid is None else values * valid[..., None].to(values.dtype)

    def weights(self, query: Tensor) -> Tensor:
        """(N, Q, heads, levels, points): sums to one over levels and points together."""
        shape = (*query.shape[:2], self.heads, self.levels, self.points)
        logits = self.attention(query).unflatten(2, (self.heads, -1))
        return logits.softmax(dim=-1).reshape(shape)

    def forward(
        self,
        query: Tensor,
        boxes: Tensor,
        values: Tensor,
        shapes: Shapes,
        valid_ratios: Tensor | None = None,
        image: Tensor | None = None,
    ) -> Tensor:
        """query (N, Q, dim), boxes (N, Q, 4) cx, cy, w, h in 0..1 of the valid area -> (N, Q, dim).

        values: (B, T, dim) of `project`, the levels of sizes `shapes` (height, width) one after
        another, row-major. valid_ratios (B, levels, 2): share of each level's width and height that
        is image. image (N,): which of the B images a set of queries belongs to; None where N == B.
        Raises InputError where shapes and values disagree.
        """
        sets, queries = query.shape[:2]
        _check(values, shapes, self.levels)
        if image is not None:
            if values.shape[0] == 1:  # all sets look at one image: nothing has to be copied
                query, boxes = query.flatten(0, 1)[None], boxes.flatten(0, 1)[None]
            else:
                values = values[image]
                valid_ratios = None if valid_ratios is None else valid_ratios[image]
        n, q = query.shape[:2]
        each = self.levels * self.points  # told, as without queries it could not be found
        # (n, q, heads, levels * points, 2): steps of half a box size divided by the points
        offsets = self.offsets(query).reshape(n, q, self.heads, each, 2)
        centre, size = boxes[:, :, None, None, :2], boxes[:, :, None, None, 2:]
        places = centre + offsets * size * (0.5 / self.points)
        attention = self.attention(query).reshape(n, q, self.heads, each).softmax(dim=-1)
        plain = values.device.type == "cpu" and values.dtype == torch.float32
        plain = plain and not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        read = _gather if plain else _sample
        sampled = read(places, attention, values, shapes, valid_ratios)
        return self.output(sampled).reshape(sets, queries, self.output.out_features)


def _sample(
    places: Tensor, attention: Tensor, values: Tensor, shapes: Shapes, ratios: Tensor | None
) -> Tensor:
    """places (n, q, heads, levels * points, 2) in 0..1 of the valid area, attention without the
    last axis, values (n, T, dim), ratios (n, levels, 2) -> (n, q, dim)."""
    n, q, heads, each = attention.shape
    dim, points = values.shape[-1], each // len(shapes)
    places = places.transpose(1, 2).reshape(n * heads, q, each, 2)
    attention = attention.transpose(1, 2).reshape(n * heads, 1, q, each)
    taken: list[Tensor] = []
    for level, (part, (height, width)) in enumerate(
        zip(values.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
    ):
        picture = part.transpose(1, 2).reshape(n * heads, dim // heads, height, width)
        grid = places[:, :, level * points : (level + 1) * points]
        if ratios is not None:
            ratio = ratios[:, None, level].expand(-1, heads, -1)
            grid = grid * ratio.reshape(n * heads, 1, 1, 2)
        taken.append(
            functional.grid_sample(picture, 2 * grid - 1, padding_mode="zeros", align_corners=False)
        )
    mixed = (torch.cat(taken, dim=-1) * attention).sum(dim=3)  # (n * heads, channels, q)
    return mixed.reshape(n, dim, q).transpose(1, 2)


def _gather(
    places: Tensor, attention: Tensor, values: Tensor, shapes: Shapes, ratios: Tensor | None
) -> Tensor:
    """`_sample` as one weighted sum of rows of the values for each query and head: the four tokens
    around every place, by bilinear weight times attention. Float32, no gradient, on the CPU."""
    n, q, heads, each = attention.shape
    tokens, dim = values.shape[1:]
    points = each // len(shapes)
    sizes = values.new_tensor([(width, height) for height, width in shapes])
    begins = [0, *itertools.accumulate(height * width for height, width in shapes)][:-1]
    size = sizes.repeat_interleave(points, 0)  # (levels * points, 2)
    scale = size if ratios is None else (ratios * sizes).repeat_interleave(points, 1)[:, None, None]
    pixels = places * scale - 0.5
    low = pixels.floor()
    part = pixels - low
    corners = torch.stack((low, low + 1), dim=-1)  # (n, q, heads, each, 2 axes, 2 corners)
    inside = torch.minimum(corners.clamp(min=0), size[..., None] - 1)
    weight = torch.stack((1 - part, part), dim=-1) * (inside == corners)
    across, down = weight.unbind(-2)
    weight = (down * attention[..., None])[..., :, None] * across[..., None, :]
    columns, rows = inside.int().unbind(-2)
    start = torch.tensor(begins, dtype=torch.int32).repeat_interleave(points)[:, None]
    rows = start + rows * size[:, :1].int()
    index = rows[..., :, None] + columns[..., None, :]
    images = torch.arange(n, dtype=torch.int32)[:, None, None, None, None, None] * tokens
    head = torch.arange(heads, dtype=torch.int32)[:, None, None, None]
    index = (index + images) * heads + head
    mixed = functional.embedding_bag(
        index.reshape(n * q * heads, each * 4),
        values.reshape(n * tokens * heads, dim // heads),
        per_sample_weights=weight.reshape(n * q * heads, each * 4),
        mode="sum",
    )
    return mixed.reshape(n, q, dim)


def _check(values: Tensor, shapes: Shapes, levels: int) -> None:
    tokens = sum(height * width for height, width in shapes)
    if len(shapes) != levels or values.shape[1] != tokens:
        raise InputError(
            f"DeformableAttention: expected {levels} levels that hold the {values.shape[1]} tokens "
            f"of the memory, found the sizes {list(shapes)}, {tokens} tokens"
        )
