"""Liu et al.'s network: "Semi-Supervised 3D Hand-Object Poses Estimation with Interactions in Time"
(Liu, Jiang, Xu, Liu, Wang, CVPR 2021), read from the top: configuration, parts, network.

One ResNet with a feature pyramid; the hand's crop of it goes straight into the hand's heads, the
object's crop first attends to the part of the hand's map that both boxes share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.hand.convention import tip_vertices
from handhold.hand.model import HandModel
from handhold.models.hflnet.model import HFLNetConfig, assemble, check_batch, intersection
from handhold.models.nn.attention import MapAttention
from handhold.models.nn.fpn import Pyramid
from handhold.models.nn.hand_head import HandEncoder, HandHead
from handhold.models.nn.mano_head import ManoHead
from handhold.models.nn.object_heads import CropClassifier, ObjectHead
from handhold.models.nn.resnet import BLOCKS, Stem, stage
from handhold.models.nn.roi_align import roi_align, smoothed_roi_align
from handhold.models.nn.starting_weights import start_weights
from handhold.scene import Batch, Prediction


@dataclass(frozen=True, kw_only=True)
class SemiHandConfig(HFLNetConfig):
    """HFLNetConfig's fields. Defaults: Liu et al.'s network as UniHOPE's authors retrained it.

    input_size: 512. heads: 1 (the original's command line; its class says 8, the keys do not tell).
    detach: off; on, the object's attention reads the hand's map without gradient. global_context:
    the pooled c5 also goes to the hand model's head.
    And besides:
    spare_smoothing: the original smooths P4 and P3 too, which nothing reads. "kept": these layers
    exist, so that its keys fit, but do not run; "run": they run, as the papers' operation counts
    have it; "none": left out. Predictions are the same. tips: a table of fingertip vertices for
    MANO's own hand (`hand.convention`), "model": those the hand model brings along.
    """

    input_size: int = 512
    heads: int = 1
    detach: bool = False
    spare_smoothing: Literal["kept", "run", "none"] = "kept"
    tips: str = "model"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block not in BLOCKS:
            known = ", ".join(BLOCKS)
            raise InputError(f"SemiHandConfig.block: expected one of {known}, found {self.block!r}")
        if self.spare_smoothing not in ("kept", "run", "none"):
            raise InputError(
                "SemiHandConfig.spare_smoothing: expected kept, run or none, "
                f"found {self.spare_smoothing!r}"
            )
        if self.tips != "model":
            tip_vertices(self.tips)

    @classmethod
    def original(cls) -> SemiHandConfig:
        """As in the authors' repository: wrist-centred hand with HO3D's fingertips."""
        return cls(mano_center=0, tips="ho3d")

    @classmethod
    def counted(cls) -> SemiHandConfig:
        """The default with all the operations that the papers count."""
        return cls(spare_smoothing="run")

    @classmethod
    def small(cls) -> SemiHandConfig:
        """The same structure for processors."""
        return cls(
            input_size=128,
            block="basic",
            depths=(1, 1, 2, 2),
            widths=(32, 64, 128, 192),
            stem_width=32,
            stem_kernel=3,
            pyramid_width=64,
            roi_size=16,
            sampling_ratio=2,
            mlp_ratio=2,
            hourglass_depth=3,
            mano_widths=(512, 256),
            mano_center=0,
            init="kaiming",
            global_context=True,
            object_classes=21,
            spare_smoothing="none",
        )


class SmoothedPyramid(Pyramid):
    """A pyramid that may hold smoothing layers for P4 and P3 as well. Only P2 leaves it."""

    def __init__(self, channels: tuple[int, ...], out: int, spare: str) -> None:
        super().__init__(channels, out)
        self.spare = spare
        self.smooth_p4 = self.smooth_p3 = None
        if spare != "none":
            self.smooth_p4 = nn.Conv2d(out, out, 3, padding=1)
            self.smooth_p3 = nn.Conv2d(out, out, 3, padding=1)

    def forward(
        self, c2: Tensor, c3: Tensor, c4: Tensor, c5: Tensor, *, smoothed: bool = True
    ) -> Tensor:
        """P2 (B, C, H, W), before its smoothing unless `smoothed`."""
        p4 = _enlarged(self.top(c5), c4) + self.lateral1(c4)
        p3 = _enlarged(p4, c3) + self.lateral2(c3)
        if self.spare == "run" and self.smooth_p4 is not None and self.smooth_p3 is not None:
            self.smooth_p4(p4)
            self.smooth_p3(p3)
        p2 = _enlarged(p3, c2) + self.lateral3(c2)
        return self.smooth(p2) if smoothed else p2


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class Backbone(nn.Module):
    """ResNet and pyramid."""

    def __init__(self, config: SemiHandConfig) -> None:
        super().__init__()
        out = tuple(width * BLOCKS[config.block].expansion for width in config.widths)

        def make(index: int, channels_in: int) -> nn.Sequential:
            depth, width = config.depths[index], config.widths[index]
            stride = 1 if index == 0 else 2
            return stage(_kind(config), channels_in, width, depth, stride, config.slope)

        self.stem = Stem(config.stem_width, config.stem_kernel, config.slope)
        self.stage1 = make(0, config.stem_width)
        self.stage2 = make(1, out[0])
        self.stage3 = make(2, out[1])
        self.stage4 = make(3, out[2])
        self.pyramid = SmoothedPyramid(out, config.pyramid_width, config.spare_smoothing)

    def forward(self, image: Tensor, *, smoothed: bool = True) -> dict[str, Tensor]:
        """(B, 3, S, S) -> stem, c2 (stride 4), c3, c4, c5 (stride 32) and P2 (stride 4), the last
        before its smoothing unless `smoothed`."""
        stem = self.stem(image)
        c2 = self.stage1(stem)
        c3 = self.stage2(c2)
        c4 = self.stage3(c3)
        c5 = self.stage4(c4)
        p2 = self.pyramid(c2, c3, c4, c5, smoothed=smoothed)
        return {"stem": stem, "c2": c2, "c3": c3, "c4": c4, "c5": c5, "P2": p2}


def _kind(config: SemiHandConfig) -> Literal["bottleneck", "basic"]:
    return "basic" if config.block == "basic" else "bottleneck"


class SemiHand(nn.Module):
    """The network. hand: the right hand model, None: the free hand of the package."""

    def __init__(self, config: SemiHandConfig | None = None, hand: HandModel | None = None) -> None:
        super().__init__()
        config = SemiHandConfig() if config is None else config
        self.config = config
        width = config.pyramid_width
        context = config.widths[3] * BLOCKS[config.block].expansion if config.global_context else 0
        hand = HandModel.free() if hand is None else hand
        if config.tips != "model" and not hand.is_free:  # the free hand's mesh is another
            hand = hand.with_tips(config.tips)
        self.hand = hand
        self.backbone = Backbone(config)
        self.object_attention = MapAttention(width, config.heads, config.mlp_ratio)
        self.hand_head = HandHead(width, config.hourglass_depth, config.slope)
        self.hand_encoder = HandEncoder(width, config.roi_size, config.slope)
        self.mano_head = ManoHead(4 * width + context, config.mano_widths, config.slope)
        self.object_head = ObjectHead(width, config.object_slope, config.coord_factor)
        self.classifier = None
        if config.object_classes:
            self.classifier = CropClassifier(width, config.object_classes, config.object_slope)
        start_weights(self, config.init)

    def forward(self, batch: Batch, capture: dict[str, Tensor] | None = None) -> Prediction:
        """Predict B right hands; needs `image`, `hand_box`, `object_box` of the batch.

        capture: receives every named activation. Raises InputError for images of another size.
        """
        config = self.config
        check_batch(batch, config)
        cells = (config.input_size // 4) ** 2
        # where the three crops are small, P2 is smoothed in them only; same numbers, less work
        late = not self.training and capture is None and 6 * config.roi_size**2 <= cells
        late = late and config.spare_smoothing != "run"
        maps = self.backbone(batch.image, smoothed=not late)

        def crop(box: Tensor) -> Tensor:
            how = (box, config.roi_size, 0.25, config.sampling_ratio)
            if late:
                return smoothed_roi_align(maps["P2"], self.backbone.pyramid.smooth, *how)
            return roi_align(maps["P2"], *how)

        shared_box, exists = intersection(batch.hand_box, batch.object_box)
        x, y, inter = crop(batch.hand_box), crop(batch.object_box), crop(shared_box)
        z = inter * exists.to(inter.dtype)[:, None, None, None]

        hand = self._predict_hand(x, maps["c5"])
        fused = self.object_attention(y, z.detach() if config.detach else z)
        thing = self.object_head(fused)
        classes = None if self.classifier is None else self.classifier(y)

        if capture is not None:
            capture.update(maps | hand | thing)
            capture.update(roi_hand=x, roi_obj=y, roi_inter=inter, fused_obj=fused)
        return assemble(batch, hand, thing, object_class_logits=classes)

    def _predict_hand(self, x: Tensor, c5: Tensor) -> dict[str, Tensor]:
        """Crop (B, C, R, R) -> activations and results of hand head, encoder and hand model."""
        found = self.hand_head(x)
        encoding = self.hand_encoder(found["heatmaps"], found["hand_encoding"])
        context = (c5.mean((2, 3)),) if self.config.global_context else ()
        found |= {"mano_encoding": encoding}
        found |= self.mano_head(torch.cat((encoding, *context), dim=1))
        posed = self.hand(
            found["rotations"],
            found["shape"],
            rotation_type="matrix",
            center=self.config.mano_center,
        )
        return found | {"joints3d": posed.joints, "verts3d": posed.vertices}

    def parameters_without_gradient(self) -> tuple[str, ...]:
        """Prefixes of the parameters that no loss reaches."""
        return ("backbone.pyramid.smooth_p4.", "backbone.pyramid.smooth_p3.")
