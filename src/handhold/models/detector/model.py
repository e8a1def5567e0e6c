"""A small one-stage hand detector: photo -> boxes, sides, "holds something", box of the held
object.

Design: one location per cell at strides 8, 16 and 32 (anchor-free, Tian et al. 2019, FCOS), soft
dynamic assignment of locations to hands (Lyu et al. 2022, RTMDet; see `loss`), EfficientNet-Lite0
up to its sixth group of blocks with a two-way pyramid. A box is that of the 21 joints: `joint_box`.
The network learns it grown by `box_growth`, so that it covers the outline too, and
`HandDetector.detect` shrinks it back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from handhold.errors import InputError
from handhold.models.nn.cross_stage import CrossStage, conv_norm, with_norm
from handhold.models.nn.efficientnet import CHANNELS, GROUPS, DepthwiseConv, LiteStem, lite_stage
from handhold.scene import _Tensors  # the shared way of moving tensors


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """input_size: long edge in pixels of the letterboxed photo, a multiple of 32. width: channels
    of the pyramid. box_growth: boxes are learned grown by this factor.
    score_threshold, max_hands: what `detect` returns. overlap: of two boxes of the same side
    with a larger IoU the weaker one goes; overlap_other_side: for two sides; containment: so
    does one of the same side with a larger share of its own area inside, a part of a hand taken
    for a hand. Raises InputError for values that cannot work.
    """

    input_size: int = 320
    width: int = 64
    box_growth: float = 1.25
    score_threshold: float = 0.35
    max_hands: int = 20
    overlap: float = 0.5
    overlap_other_side: float = 0.7
    containment: float = 0.7

    def __post_init__(self) -> None:
        if self.input_size < 32 or self.input_size % 32:
            raise InputError(
                f"DetectorConfig.input_size: expected a multiple of 32, found {self.input_size}"
            )
        for name in ("score_threshold", "overlap", "overlap_other_side", "containment"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(
                    f"DetectorConfig.{name}: expected 0..1, found {getattr(self, name)}"
                )
        if self.max_hands < 1 or self.box_growth < 1:
            raise InputError("DetectorConfig: max_hands and box_growth must be at least 1")


@dataclass(frozen=True, kw_only=True)
class DetectorPrediction(_Tensors):
    """What the network says at L locations (all levels, fine to coarse, row-major) of B letterboxed
    images.

    score, side, holding (B, L): logits (side > 0: right). boxes, object_boxes (B, L, 4): x0, y0,
    x1, y1 in input pixels, hand boxes grown by `box_growth`. centers (L, 2): input pixels. strides
    (L,). features: maps (B, channels, H, W) at stride s: "s<s>" of the backbone, "p<s>" of the
    pyramid, "c<s>" and "r<s>" the last before score and boxes.
    """

    score: Tensor
    boxes: Tensor
    side: Tensor
    holding: Tensor
    object_boxes: Tensor
    centers: Tensor
    strides: Tensor
    features: dict[str, Tensor] = dataclasses.field(default_factory=dict)


class _Context(nn.Module):
    """Pooling over 5, 9 and 13 cells, so that the coarsest level sees the whole photo."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.enter = conv_norm(width, half)
        self.leave = conv_norm(4 * half, width)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.enter(x)]
        for _ in range(3):
            maps.append(functional.max_pool2d(maps[-1], 5, stride=1, padding=2))
        return self.leave(torch.cat(maps, dim=1))


class _Branch(nn.Module):
    """Two depthwise separable layers and the outputs of one head, which start at `start`."""

    def __init__(self, width: int, start: Sequence[float]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            with_norm(DepthwiseConv(width, 5)),
            conv_norm(width, width),
            with_norm(DepthwiseConv(width, 5)),
            conv_norm(width, width),
        )
        self.out = nn.Conv2d(width, len(start), 1)
        nn.init.normal_(self.out.weight, std=0.01)
        self.out.bias = nn.Parameter(torch.tensor(start))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A level -> outputs, and the features (B, width, H, W) that they are read from."""
        inner = self.layers(x)
        return self.out(inner), inner


class HandDetectorNetwork(nn.Module):
    """The network; see the module's first lines. `strides`, `levels` and `shallow_channels`
    describe `features`.
    """

    strides = (8, 16, 32)
    levels = 3

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__()
        self.config = config or DetectorConfig()
        d = self.config.width
        self.shallow_channels = (CHANNELS[2], CHANNELS[3], GROUPS[5][1])
        self.stem = LiteStem()
        self.stage1, self.stage2, self.stage3 = lite_stage(1), lite_stage(2), lite_stage(3)
        self.stage4 = lite_stage(4, groups=1)
        self.context = _Context(GROUPS[5][1])
        self.lateral = nn.ModuleList(conv_norm(width, d) for width in self.shallow_channels)
        self.top_down = nn.ModuleList(CrossStage(2 * d, d, 1) for _ in range(2))
        self.shrink = nn.ModuleList(conv_norm(d, d, 3, 2) for _ in range(2))
        self.bottom_up = nn.ModuleList(CrossStage(2 * d, d, 1) for _ in range(2))
        # hand (rare: about 2 % of the locations), side, holding; boxes start six strides wide
        self.classify = nn.ModuleList(_Branch(d, (-4.0, 0.0, 0.0)) for _ in range(3))
        self.regress = nn.ModuleList(_Branch(d, (3.0,) * 4 + (0.0,) * 4) for _ in range(3))

    def backbone(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps before the pyramid at strides 8, 16, 32 of (B, 3, H, W) images in 0..1."""
        x8 = self.stage2(self.stage1(self.stem(image)))
        x16 = self.stage3(x8)
        return x8, x16, self.context(self.stage4(x16))

    def pyramid(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Three levels (B, width, H, W), strides 8, 16, 32."""
        p8, p16, p32 = (lateral(x) for lateral, x in zip(self.lateral, maps, strict=True))
        p16 = self.top_down[1](torch.cat([p16, functional.interpolate(p32, scale_factor=2.0)], 1))
        p8 = self.top_down[0](torch.cat([p8, functional.interpolate(p16, scale_factor=2.0)], 1))
        p16 = self.bottom_up[0](torch.cat([self.shrink[0](p8), p16], 1))
        p32 = self.bottom_up[1](torch.cat([self.shrink[1](p16), p32], 1))
        return [p8, p16, p32]

    def forward(self, batch: DetectorBatch | Tensor) -> DetectorPrediction:
        """A batch, or its images alone: (B, 3, H, W), uint8 or float in 0..1, H and W multiples of
        32.
        """
        image = batch.image if isinstance(batch, DetectorBatch) else batch
        if image.dtype == torch.uint8:
            image = image.to(next(self.parameters()).dtype) / 255
        image = image.contiguous(memory_format=torch.channels_last)
        shallow = self.backbone(image)
        levels = self.pyramid(shallow)
        classes, distances, centers, strides = [], [], [], []
        features = {f"s{stride}": x for stride, x in zip(self.strides, shallow, strict=True)}
        for level, stride, classify, regress in zip(
            levels, self.strides, self.classify, self.regress, strict=True
        ):
            height, width = level.shape[-2:]
            (says, seen), (reaches, measured) = classify(level), regress(level)
            classes.append(says.flatten(2))
            distances.append(reaches.flatten(2))
            features |= {f"p{stride}": level, f"c{stride}": seen, f"r{stride}": measured}
            rows = torch.arange(height, device=level.device, dtype=torch.float32)
            columns = torch.arange(width, device=level.device, dtype=torch.float32)
            grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
            # pixel (0, 0) is the centre of the first pixel: a cell's middle is half a pixel earlier
            centers.append(((grid + 0.5) * stride - 0.5).reshape(-1, 2))
            strides.append(torch.full((height * width,), float(stride), device=level.device))
        score, side, holding = torch.cat(classes, 2).float().unbind(1)
        center, stride = torch.cat(centers), torch.cat(strides)
        raw = torch.cat(distances, 2).float().transpose(1, 2)  # (B, L, 8)
        reach = functional.softplus(raw[..., :4]) * stride[:, None]
        boxes = torch.cat([center - reach[..., :2], center + reach[..., 2:]], dim=-1)
        return DetectorPrediction(
            score=score,
            boxes=boxes,
            side=side,
            holding=holding,
            object_boxes=decode_object_boxes(raw[..., 4:], boxes.detach()),
            centers=center,
            strides=stride,
            features=features,
        )


@dataclass(frozen=True, kw_only=True)
class DetectorBatch(_Tensors):
    """B letterboxed images and, in training, up to N labelled hands each.

    image (B, 3, S, S) uint8. boxes (B, N, 4): input pixels, the visible part of joint boxes, then
    grown by `box_growth`. valid (B, N): False for padding. ignored (B, N): a hand is there,
    but neither its detection nor its absence counts. side (B, N): 1 right, 0 left, -1 for unknown.
    holding (B, N): 1, 0, or -1 for unknown. object_boxes (B, N, 4) where has_object (B, N).
    negative_weight (B,): weight of "no hand here" where the photo's labels may be incomplete.
    """

    image: Tensor
    boxes: Tensor
    valid: Tensor
    ignored: Tensor
    side: Tensor
    holding: Tensor
    object_boxes: Tensor
    has_object: Tensor
    negative_weight: Tensor
    keys: Sequence[str] = ()

    def __len__(self) -> int:
        return int(self.image.shape[0])


def encode_object_boxes(objects: Tensor, hands: Tensor) -> Tensor:
    """The four numbers (..., 4) that `decode_object_boxes` turns into `objects` (..., 4) beside
    `hands` (..., 4).
    """
    center, unit = _frame(hands)
    object_center = (objects[..., :2] + objects[..., 2:]) / 2
    object_size = (objects[..., 2:] - objects[..., :2]).clamp(min=1.0)
    return torch.cat([(object_center - center) / unit, (object_size / unit).log()], dim=-1)


def decode_object_boxes(code: Tensor, hands: Tensor) -> Tensor:
    """Object boxes (..., 4) in pixels: offset of the centre and log of the size in units of the
    hand's size.
    """
    center, unit = _frame(hands)
    middle = center + code[..., :2] * unit
    half = code[..., 2:].clamp(-4, 3).exp() * unit / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def _frame(hands: Tensor) -> tuple[Tensor, Tensor]:
    size = (hands[..., 2:] - hands[..., :2]).clamp(min=1.0)
    unit = size.prod(dim=-1, keepdim=True).sqrt()
    return (hands[..., :2] + hands[..., 2:]) / 2, unit
