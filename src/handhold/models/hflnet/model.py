"""HFL-Net: "Harmonious Feature Learning for Interactive Hand-Object Pose Estimation" (Lin et al.,
CVPR 2023), read from the top: configuration, parts, network.

Two streams that share the stem, stage 1 and stage 4 of a ResNet; the hand's and the object's
features are cropped in each other's boxes and attend to each other; heads for the 2D joints, the
hand model's parameters and the object's control points.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.hand.model import HandModel
from handhold.models.nn.attention import MapAttention
from handhold.models.nn.efficientnet import CHANNELS, LiteStem, lite_stage
from handhold.models.nn.fpn import Pyramid
from handhold.models.nn.hand_head import HandEncoder, HandHead
from handhold.models.nn.mano_head import ManoHead
from handhold.models.nn.object_heads import CropClassifier, ObjectHead
from handhold.models.nn.resnet import BLOCKS, Stem, stage
from handhold.models.nn.roi_align import roi_align
from handhold.models.nn.starting_weights import start_weights
from handhold.scene import Batch, Prediction


@dataclass(frozen=True, kw_only=True)
class HFLNetConfig:
    """The network's make. Defaults: HFL-Net as UniHOPE's authors retrained it (8 heads, 128).

    input_size: side of the crop. block, depths, widths: the ResNet's stages ("lite": those of
    EfficientNet-Lite0, which has its own). stem_width, stem_kernel. slope, object_slope: of the
    LeakyReLU, the latter in the object head.
    pyramid_width: channels of the pyramid and of everything after it. roi_size: cells of a RoI
    crop. sampling_ratio: samples per cell and axis, 0: as many as the box needs (legacy).
    heads: of the attention; 4 in the original repository, 8 in UniHOPE's copy: the same weights
    fit both, so it has to be known where a checkpoint comes from. mlp_ratio: width of the
    attention's network. hourglass_depth; mano_widths: hidden layers before pose and shape.
    mano_center: joint that becomes the origin, None: the wrist rests at J0(betas) (UniHOPE's copy);
    0 in the original repository. coord_factor: divides the object head's offsets.
    detach: stop-gradients on what each stream reads of the other (code of the original).
    init: "official" starts heads almost at zero (convolutions N(0, 0.001), linear N(0, 0.01));
    "kaiming" suits training without a pretrained backbone.
    The following are ours and off by default. global_context: the pooled c5 of the hand also goes
    to the hand model's head, that of the object to the object classifier (and UniHOPE's switch).
    object_classes: a classifier of the object's RoI crop, 0 for none. pyramid_norm: a BatchNorm
    behind each pyramid, so that what follows starts at unit scale.
    """

    input_size: int = 256
    block: Literal["bottleneck", "basic", "lite"] = "bottleneck"
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    stem_width: int = 64
    stem_kernel: int = 7
    slope: float = 0.01
    object_slope: float = 0.1
    pyramid_width: int = 256
    roi_size: int = 32
    sampling_ratio: int = 0
    heads: int = 8
    mlp_ratio: int = 4
    hourglass_depth: int = 4
    mano_widths: tuple[int, int] = (1024, 512)
    mano_center: int | None = None
    coord_factor: float = 10.0
    detach: bool = True
    init: Literal["official", "kaiming"] = "official"
    global_context: bool = False
    object_classes: int = 0
    pyramid_norm: bool = False

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field, length in (("depths", 4), ("widths", 4), ("mano_widths", 2)):
            values = tuple(int(v) for v in getattr(self, field))
            object.__setattr__(self, field, values)  # lists come from JSON
            if len(values) != length or min(values) < 1:
                raise InputError(f"{name}.{field}: expected {length} positive, found {values}")
        if self.block not in (*BLOCKS, "lite"):
            known = ", ".join((*BLOCKS, "lite"))
            raise InputError(f"{name}.block: expected one of {known}, found {self.block!r}")
        if self.input_size < 32 or self.input_size % 32:
            raise InputError(
                f"{name}.input_size: expected a multiple of 32, found {self.input_size}"
            )
        if self.heads < 1 or self.pyramid_width % self.heads or self.pyramid_width % 2:
            raise InputError(
                f"{name}.heads: pyramid_width {self.pyramid_width} must be even and a multiple of "
                f"heads, found {self.heads}"
            )
        smallest = max(self.hourglass_depth, 1)
        if self.roi_size < 4 or self.roi_size & (self.roi_size - 1):
            raise InputError(
                f"{name}.roi_size: expected a power of two from 4, found {self.roi_size}"
            )
        if 2**smallest > self.roi_size:
            raise InputError(
                f"{name}.hourglass_depth: {smallest} halvings do not fit roi_size {self.roi_size}"
            )
        if self.init not in ("official", "kaiming"):
            raise InputError(f"{name}.init: expected official or kaiming, found {self.init!r}")
        if self.sampling_ratio < 0 or self.object_classes < 0 or self.coord_factor <= 0:
            raise InputError(
                f"{name}: sampling_ratio and object_classes must not be negative, coord_factor "
                "must be positive"
            )

    @property
    def channels(self) -> tuple[int, ...]:
        """Of c2, c3, c4, c5."""
        if self.block == "lite":
            return CHANNELS[1:]
        return tuple(width * BLOCKS[self.block].expansion for width in self.widths)

    @classmethod
    def original(cls) -> HFLNetConfig:
        """As in the authors' repository: 256 pixels, 4 heads, wrist-centred hand."""
        return cls(heads=4, mano_center=0)

    @classmethod
    def small(cls) -> HFLNetConfig:
        """The same structure for processors."""
        return cls(**SMALL)


SMALL = {
    "input_size": 128,
    "block": "lite",
    "pyramid_width": 64,
    "roi_size": 16,
    "sampling_ratio": 2,
    "heads": 4,
    "mlp_ratio": 2,
    "hourglass_depth": 3,
    "mano_widths": (512, 256),
    "mano_center": 0,
    "coord_factor": 1.0,
    "init": "kaiming",
    "global_context": True,
    "object_classes": 21,
    "pyramid_norm": True,
}


class TwoStreamBackbone(nn.Module):
    """ResNet whose middle stages exist twice (paper section 3.2). Stem, stage 1 and stage 4 are
    shared; stage 4 runs on the hand's stream first, so its running statistics see both."""

    def __init__(self, config: HFLNetConfig) -> None:
        super().__init__()
        out = config.channels

        def make(index: int, channels_in: int) -> nn.Sequential:
            if config.block == "lite":
                return lite_stage(index + 1)
            depth, width = config.depths[index], config.widths[index]
            stride = 1 if index == 0 else 2
            return stage(config.block, channels_in, width, depth, stride, config.slope)

        if config.block == "lite":
            self.stem = LiteStem()
        else:
            self.stem = Stem(config.stem_width, config.stem_kernel, config.slope)
        self.stage1 = make(0, config.stem_width)
        self.hand_stage2 = make(1, out[0])
        self.object_stage2 = make(1, out[0])
        self.hand_stage3 = make(2, out[1])
        self.object_stage3 = make(2, out[1])
        self.stage4 = make(3, out[2])
        self.hand_pyramid = Pyramid(out, config.pyramid_width, norm=config.pyramid_norm)
        self.object_pyramid = Pyramid(out, config.pyramid_width, norm=config.pyramid_norm)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S) -> stem, c2 (shared), c3, c4, c5 and P2 of both streams."""
        stem = self.stem(image)
        c2 = self.stage1(stem)
        c3_hand, c3_object = self.hand_stage2(c2), self.object_stage2(c2)
        c4_hand, c4_object = self.hand_stage3(c3_hand), self.object_stage3(c3_object)
        if any(part.training for part in self.stage4.modules()):
            c5_hand = self.stage4(c4_hand)
            c5_object = self.stage4(c4_object)
        else:  # the norms do not mix samples: both in one pass
            both = self.stage4(torch.cat((c4_hand, c4_object)))
            c5_hand, c5_object = both[: image.shape[0]], both[image.shape[0] :]
        return {
            "stem": stem,
            "c2": c2,
            "c3_hand": c3_hand,
            "c3_obj": c3_object,
            "c4_hand": c4_hand,
            "c4_obj": c4_object,
            "c5_hand": c5_hand,
            "c5_obj": c5_object,
            "P2_hand": self.hand_pyramid(c2, c3_hand, c4_hand, c5_hand),
            "P2_obj": self.object_pyramid(c2, c3_object, c4_object, c5_object),
        }


def intersection(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (B, 4), (B, 4) -> their intersection (B, 4) and 1 where it has an area, else 0 (B,)."""
    low = torch.maximum(first[:, :2], second[:, :2])
    high = torch.minimum(first[:, 2:], second[:, 2:])
    exists = ((high - low) > 0).all(dim=1)  # in x and in y
    return torch.cat((low, high), dim=1), exists.to(first.dtype)


def in_pixels(points: Tensor, box: Tensor) -> Tensor:
    """Points (B, ..., 2) relative to boxes (B, 4) -> crop pixels."""
    shape = (box.shape[0], *([1] * (points.ndim - 2)), 2)
    low, size = box[:, :2].reshape(shape), (box[:, 2:] - box[:, :2]).reshape(shape)
    return low + points * size


class HandObjectNetwork(nn.Module):
    """The parts of HFL-Net under their names; UniHOPE has them as well."""

    def __init__(self, config: HFLNetConfig, hand: HandModel | None) -> None:
        super().__init__()
        width = config.pyramid_width
        context = config.channels[3] if config.global_context else 0
        self.hand = HandModel.free() if hand is None else hand
        self.backbone = TwoStreamBackbone(config)
        self.hand_attention = MapAttention(2 * width, config.heads, config.mlp_ratio)
        self.object_attention = MapAttention(width, config.heads, config.mlp_ratio)
        self.hand_head = HandHead(width, config.hourglass_depth, config.slope)
        self.hand_encoder = HandEncoder(width, config.roi_size, config.slope)
        self.mano_head = ManoHead(4 * width + context, config.mano_widths, config.slope)
        self.object_head = ObjectHead(width, config.object_slope, config.coord_factor)
        self.classifier = None
        if config.object_classes:
            self.classifier = CropClassifier(
                width, config.object_classes, config.object_slope, context
            )


class HFLNet(HandObjectNetwork):
    """The network. hand: the right hand model, None: the free hand of the package."""

    def __init__(self, config: HFLNetConfig | None = None, hand: HandModel | None = None) -> None:
        config = HFLNetConfig() if config is None else config
        super().__init__(config, hand)
        self.config = config
        initialise(self, config)

    def forward(self, batch: Batch, capture: dict[str, Tensor] | None = None) -> Prediction:
        """Predict B right hands; needs `image`, `hand_box`, `object_box` of the batch.

        capture: receives every named activation.
        """
        check_batch(batch, self.config)
        maps = self.backbone(batch.image)
        crops = roi_crops(maps, batch, self.config)
        x, x_object, y, z = crops["x"], crops["x_object"], crops["y"], crops["z"]
        if self.config.detach:
            x_object, z = x_object.detach(), z.detach()

        both = torch.cat((x, x_object), dim=1)
        fused = self.hand_attention(both, both, x.shape[1])
        hand = predict_hand(self, self.config, fused[:, : x.shape[1]], maps["c5_hand"])

        fused_object = self.object_attention(y, z)
        thing = self.object_head(fused_object)
        context = pooled(maps["c5_obj"], self.config)
        classes = None if self.classifier is None else self.classifier(y, context)

        if capture is not None:
            capture.update(maps | hand | thing)
            capture.update(roi_hand=x, roi_hand_from_obj=x_object, roi_obj=y)
            capture.update(roi_inter=crops["inter"], fused_hand=fused, fused_obj=fused_object)
        return assemble(batch, hand, thing, object_class_logits=classes)


# ------------------------------------------------------------- pieces that UniHOPE uses as well


def initialise(network: HandObjectNetwork, config: HFLNetConfig) -> None:
    """Starting weights; the backbone's come from ImageNet in the original (see official.py)."""
    start_weights(network, config.init)
    backbone = network.backbone
    for index in (2, 3):  # both streams start alike
        twin = copy.deepcopy(getattr(backbone, f"hand_stage{index}"))
        setattr(backbone, f"object_stage{index}", twin)


def check_batch(batch: Batch, config: HFLNetConfig) -> None:
    """Raise InputError unless the images have the size the network was built for."""
    expected = (3, config.input_size, config.input_size)
    if tuple(batch.image.shape[1:]) != expected:
        raise InputError(
            f"Batch.image: expected (B, {', '.join(map(str, expected))}), "
            f"found {tuple(batch.image.shape)}"
        )


def roi_crops(maps: dict[str, Tensor], batch: Batch, config: HFLNetConfig) -> dict[str, Tensor]:
    """x: hand map in the hand box; x_object: object map in the hand box; y: object map in the
    object box; inter: hand map in both boxes' intersection; z: the same, 0 without intersection."""
    hand, thing = maps["P2_hand"], maps["P2_obj"]
    shared, exists = intersection(batch.hand_box, batch.object_box)

    def crop(source: Tensor, box: Tensor) -> Tensor:
        return roi_align(source, box, config.roi_size, 0.25, config.sampling_ratio)

    inter = crop(hand, shared)
    return {
        "x": crop(hand, batch.hand_box),
        "x_object": crop(thing, batch.hand_box),
        "y": crop(thing, batch.object_box),
        "inter": inter,
        "z": inter * exists.to(inter.dtype)[:, None, None, None],
    }


def pooled(c5: Tensor, config: HFLNetConfig) -> Tensor | None:
    """The mean (B, C) of a stream's c5, where heads look at it."""
    return c5.mean((2, 3)) if config.global_context else None


def predict_hand(
    network: HandObjectNetwork, config: HFLNetConfig, feature: Tensor, c5: Tensor
) -> dict[str, Tensor]:
    """Fused feature (B, C, R, R) -> activations and results of hand head, encoder, hand model."""
    found = network.hand_head(feature)
    encoding = network.hand_encoder(found["heatmaps"], found["hand_encoding"])
    context = pooled(c5, config)
    found |= {"mano_encoding": encoding}
    found |= network.mano_head(
        encoding if context is None else torch.cat((encoding, context), dim=1)
    )
    posed = network.hand(
        found["rotations"], found["shape"], rotation_type="matrix", center=config.mano_center
    )
    found |= {"joints3d": posed.joints, "verts3d": posed.vertices}
    return found


def assemble(
    batch: Batch,
    hand: dict[str, Tensor],
    thing: dict[str, Tensor],
    *,
    grasp_logits: Tensor | None = None,
    object_class_logits: Tensor | None = None,
    features: dict[str, Tensor] | None = None,
) -> Prediction:
    """Box-relative results -> Prediction in crop pixels. features always hold joints2d_box (B, 21,
    2) and object_box_points (B, R * R, 21, 2), relative to their boxes."""
    points = torch.stack((thing["obj_x"], thing["obj_y"]), dim=-1).flatten(1, 2)
    kept = {
        "joints2d_box": hand["joints2d"],
        "heatmap_scores": hand["heatmap_scores"],
        "object_box_points": points,
    }
    return Prediction(
        joints=hand["joints3d"],
        vertices=hand["verts3d"],
        joints2d=in_pixels(hand["joints2d"], batch.hand_box),
        rotations=hand["rotations"],
        betas=hand["shape"],
        grasp_logits=grasp_logits,
        object_points2d=in_pixels(points, batch.object_box),
        object_confidence=thing["obj_conf"].flatten(1, 2),
        object_class_logits=object_class_logits,
        features=kept | (features or {}),
    )
