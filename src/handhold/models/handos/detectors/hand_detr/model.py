"""A small DETR-like hand detector: photo -> at most Q boxes, and the features they came from.

Design: a light pyramid with self-attention on its coarsest level (Zhao et al., CVPR 2024, RT-DETR),
the best places of the pyramid as queries, three decoder layers with deformable attention and boxes
refined from layer to layer (Zhu et al., ICLR 2021, Deformable DETR). One class: hand. Boxes are
those of the 21 joints grown by `box_growth`, as in `handhold.models.detector`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from handhold.errors import InputError
from handhold.models.detector.model import DetectorBatch
from handhold.models.handos.detectors.interface import take_rows
from handhold.models.nn.cross_stage import CrossStage, conv_norm
from handhold.models.nn.deformable_attention import DeformableAttention
from handhold.models.nn.detr import Perceptron
from handhold.models.nn.efficientnet import CHANNELS, GROUPS, LiteStem, lite_stage
from handhold.models.nn.self_attention import SelfAttention, sine_code
from handhold.scene import _Tensors  # the shared way of moving tensors

ANCHOR = 0.05  # side of an anchor on the finest level, of the input's long edge; doubles a level
PRIOR = -math.log(99.0)  # a score starts at 1 %


@dataclass(frozen=True, kw_only=True)
class HandDetrConfig:
    """input_size: long edge in pixels of the letterboxed photo, a multiple of 32. backbone:
    "cross-stage", learned from nothing, or "lite", EfficientNet-Lite0, whose ImageNet weights are
    free. stem, widths, blocks: of the cross-stage backbone, strides 4 to 32. width: channels of
    memory and queries. heads, feedforward, points: of attention. layers: of the decoder. queries:
    places taken. box_growth: boxes are learned grown by this factor. score_threshold: what counts
    as found. Raises InputError for values that cannot work.
    """

    input_size: int = 320
    backbone: Literal["cross-stage", "lite"] = "cross-stage"
    stem: tuple[int, int] = (24, 32)
    widths: tuple[int, int, int, int] = (48, 96, 160, 256)
    blocks: tuple[int, int, int, int] = (1, 2, 2, 1)
    width: int = 128
    heads: int = 4
    feedforward: int = 512
    points: int = 4
    layers: int = 3
    queries: int = 60
    box_growth: float = 1.25
    score_threshold: float = 0.3

    def __post_init__(self) -> None:
        for name in ("stem", "widths", "blocks"):  # a weights file's header holds lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.input_size < 64 or self.input_size % 32:
            raise InputError(
                f"HandDetrConfig.input_size: expected a multiple of 32, at least 64, found "
                f"{self.input_size}"
            )
        if self.backbone not in ("cross-stage", "lite"):
            raise InputError(
                f"HandDetrConfig.backbone: expected cross-stage or lite, found {self.backbone!r}"
            )
        if self.width % 4 or self.width % self.heads:
            raise InputError(
                "HandDetrConfig.width: expected a multiple of 4 and of heads "
                f"({self.heads}), found {self.width}"
            )
        places = sum((self.input_size // stride) ** 2 for stride in (8, 16, 32))
        if not 1 <= self.queries <= places:
            raise InputError(
                f"HandDetrConfig.queries: expected 1 to {places} at this input_size, found "
                f"{self.queries}"
            )
        if min(self.layers, self.points, self.box_growth) < 1 or not 0 < self.score_threshold < 1:
            raise InputError(
                "HandDetrConfig: expected layers, points and box_growth of at least 1 and "
                "score_threshold in 0..1"
            )


@dataclass(frozen=True, kw_only=True)
class HandDetrPrediction(_Tensors):
    """B images, Q queries. Index 0 of the first axis is the selection, then come the decoder's
    layers.

    logits (layers + 1, B, Q). boxes (layers + 1, B, Q, 4): cx, cy, w, h in 0..1 of the input.
    queries (layers + 1, B, Q, width). memory (B, T, width): the pyramid, strides 8, 16, 32 one
    after another. shallow: the backbone's maps, same strides. shapes: sizes of the levels.
    """

    logits: Tensor
    boxes: Tensor
    queries: Tensor
    memory: Tensor
    shallow: list[Tensor] = dataclasses.field(default_factory=list)
    shapes: list[tuple[int, int]] = dataclasses.field(default_factory=list)


class CrossStageBackbone(nn.Module):
    """Two strided convolutions, then stages of a cross-stage block at strides 4, 8, 16, 32."""

    def __init__(self, config: HandDetrConfig) -> None:
        super().__init__()
        first, second = config.stem
        self.stem = nn.Sequential(conv_norm(3, first, 3, 2), conv_norm(first, second, 3, 2))
        stages: list[nn.Module] = []
        before = second
        for number, (width, blocks) in enumerate(zip(config.widths, config.blocks, strict=True)):
            block = CrossStage(width if number else before, width, blocks)
            shrink = conv_norm(before, width, 3, 2)
            stages.append(nn.Sequential(shrink, block) if number else block)
            before = width
        self.stages = nn.ModuleList(stages)
        self.channels = config.widths[1:]

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in 0..1 -> maps at strides 8, 16, 32."""
        maps = []
        x = self.stem(image * 2 - 1)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[1:]


class LiteBackbone(nn.Module):
    """EfficientNet-Lite0 up to its sixth group of blocks, as in the first detector."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = LiteStem()
        self.stage1, self.stage2, self.stage3 = lite_stage(1), lite_stage(2), lite_stage(3)
        self.stage4 = lite_stage(4, groups=1)
        self.channels = (CHANNELS[2], CHANNELS[3], GROUPS[5][1])

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in 0..1 -> maps at strides 8, 16, 32."""
        x8 = self.stage2(self.stage1(self.stem(image)))
        x16 = self.stage3(x8)
        return [x8, x16, self.stage4(x16)]


class _Feedforward(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(functional.relu(self.widen(x)))


class Neck(nn.Module):
    """Self-attention on the coarsest level, then a way down and a way up through the levels."""

    def __init__(self, config: HandDetrConfig, channels: Sequence[int]) -> None:
        super().__init__()
        d = config.width
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, d, 1, bias=False), nn.BatchNorm2d(d))
            for width in channels
        )
        self.attention = SelfAttention(d, config.heads)
        self.feedforward = _Feedforward(d, config.feedforward)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.top_down = nn.ModuleList(CrossStage(2 * d, d, 1) for _ in range(2))
        self.shrink = nn.ModuleList(conv_norm(d, d, 3, 2) for _ in range(2))
        self.bottom_up = nn.ModuleList(CrossStage(2 * d, d, 1) for _ in range(2))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps at strides 8, 16, 32 -> (B, width, H, W) at the same strides."""
        p8, p16, p32 = (lateral(x) for lateral, x in zip(self.lateral, maps, strict=True))
        height, width = p32.shape[-2:]
        tokens = p32.flatten(2).transpose(1, 2)
        place = sine_code(height, width, tokens.shape[-1]).to(tokens)
        tokens = self.norm1(tokens + self.attention(tokens, place))
        tokens = self.norm2(tokens + self.feedforward(tokens))
        p32 = tokens.transpose(1, 2).unflatten(2, (height, width))
        p16 = self.top_down[1](torch.cat([p16, functional.interpolate(p32, scale_factor=2.0)], 1))
        p8 = self.top_down[0](torch.cat([p8, functional.interpolate(p16, scale_factor=2.0)], 1))
        p16 = self.bottom_up[0](torch.cat([self.shrink[0](p8), p16], 1))
        p32 = self.bottom_up[1](torch.cat([self.shrink[1](p16), p32], 1))
        return [p8, p16, p32]


class HandDetrLayer(nn.Module):
    """Self-attention of the queries, deformable attention to the memory, two linear layers; each
    with residual and LayerNorm after."""

    def __init__(self, config: HandDetrConfig) -> None:
        super().__init__()
        d = config.width
        self.self_attention = SelfAttention(d, config.heads)
        self.deformable = DeformableAttention(d, heads=config.heads, levels=3, points=config.points)
        self.feedforward = _Feedforward(d, config.feedforward)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(
        self,
        queries: Tensor,
        position: Tensor,
        boxes: Tensor,
        memory: Tensor,
        shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """queries, position (B, Q, width), boxes (B, Q, 4), memory (B, T, width) -> queries."""
        queries = self.norm1(queries + self.self_attention(queries, position))
        values = self.deformable.project(memory)
        read = self.deformable(queries + position, boxes, values, shapes)
        queries = self.norm2(queries + read)
        return self.norm3(queries + self.feedforward(queries))


class HandDetrNetwork(nn.Module):
    """The network, to be trained; `HandDetr` is the frozen detector made of it."""

    strides = (8, 16, 32)

    def __init__(self, config: HandDetrConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or HandDetrConfig()
        d = config.width
        lite = config.backbone == "lite"
        self.backbone = LiteBackbone() if lite else CrossStageBackbone(config)
        self.shallow_channels: tuple[int, ...] = tuple(self.backbone.channels)
        self.neck = Neck(config, self.shallow_channels)
        self.enter = nn.Sequential(nn.Linear(d, d), nn.LayerNorm(d))
        self.position = Perceptron((4, 2 * d, d))
        self.layers = nn.ModuleList(HandDetrLayer(config) for _ in range(config.layers))
        # the first of each answers for the selection
        scores = [nn.Linear(d, 1) for _ in range(config.layers + 1)]
        refiners = [Perceptron((d, d, d, 4)) for _ in range(config.layers + 1)]
        for score, refiner in zip(scores, refiners, strict=True):
            nn.init.constant_(score.bias, PRIOR)
            last = refiner.layers[-1]
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        self.score, self.box = nn.ModuleList(scores), nn.ModuleList(refiners)

    def forward(self, batch: DetectorBatch | Tensor) -> HandDetrPrediction:
        """A batch, or its images alone: (B, 3, H, W), uint8 or float in 0..1, H and W multiples of
        32.
        """
        image = batch.image if isinstance(batch, DetectorBatch) else batch
        if image.dtype == torch.uint8:
            image = image.to(next(self.parameters()).dtype) / 255
        shallow = self.backbone(image)
        levels = self.neck(shallow)
        shapes = [(int(x.shape[-2]), int(x.shape[-1])) for x in levels]
        memory = torch.cat([x.flatten(2).transpose(1, 2) for x in levels], dim=1)

        entered = self.enter(memory)
        scores = self.score[0](entered)[..., 0]
        # which places are taken, and where a layer looks, is no matter of gradients
        chosen = scores.detach().topk(self.config.queries, dim=1).indices
        queries = take_rows(entered, chosen)
        anchors = anchor_logits(shapes).to(memory).expand(len(memory), -1, -1)
        logits = [scores.gather(1, chosen)]
        boxes = [(take_rows(anchors, chosen) + self.box[0](queries)).sigmoid()]
        told = [queries]
        for layer, score, box in zip(self.layers, self.score[1:], self.box[1:], strict=True):
            place = boxes[-1].detach()
            queries = layer(queries, self.position(place), place, memory, shapes)
            logits.append(score(queries)[..., 0])
            boxes.append((place.logit(eps=1e-4) + box(queries)).sigmoid())
            told.append(queries)
        return HandDetrPrediction(
            logits=torch.stack(logits),
            boxes=torch.stack(boxes),
            queries=torch.stack(told),
            memory=memory,
            shallow=shallow,
            shapes=shapes,
        )


def anchor_logits(shapes: Sequence[tuple[int, int]]) -> Tensor:
    """(1, T, 4): cx, cy, w, h in logit space of a square around every cell's middle."""
    height, width = (max(edge) for edge in zip(*shapes, strict=True))
    longest = max(height, width)
    anchors = []
    for level, (rows, columns) in enumerate(shapes):
        y = (torch.arange(rows, dtype=torch.float32) + 0.5) / rows
        x = (torch.arange(columns, dtype=torch.float32) + 0.5) / columns
        side = ANCHOR * 2**level * longest
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
        size = grid.new_tensor([side / width, side / height]).expand(len(grid), 2)
        anchors.append(torch.cat([grid, size], dim=-1))
    return torch.cat(anchors)[None].logit(eps=1e-4)
