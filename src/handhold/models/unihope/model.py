"""UniHOPE: "UniHOPE: A Unified Approach for Hand-Only and Hand-Object Pose Estimation" (CVPR 2025),
read from the top: configuration, parts, network.

HFL-Net plus an object switcher that decides whether the object's features reach the hand, and
adaptation layers that pull features of occluded hands towards those of the same hand without
object (paper sections 3.2 to 3.4).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.hand.model import HandModel
from handhold.models.hflnet.model import (
    SMALL,
    HandObjectNetwork,
    HFLNetConfig,
    assemble,
    check_batch,
    initialise,
    pooled,
    predict_hand,
    roi_crops,
)
from handhold.models.nn.attention import TokenMapper
from handhold.models.nn.object_heads import CropClassifier
from handhold.scene import Batch, Prediction


@dataclass(frozen=True, kw_only=True)
class UniHOPEConfig(HFLNetConfig):
    """HFLNetConfig's fields, and:

    switch_width: channels that the switch and the occlusion classifier look at.
    switch_cells: that map is first averaged to so many cells a side, 0: left as it is (code).
    switch_legacy: a hidden linear layer of 1024 in the switch (the DexYCB checkpoints have it).
    fusion_gate: "official" fuses the object's feature where the switch says grasping AND the
    occlusion classifier says not occluded (released code); "paper" where the switch says grasping.
    occlusion: build the occlusion classifier, which the paper does not mention.
    adaptation: "official" three layers, of which two reach no loss; "mano" the one that does;
    "none". adaptation_heads, adaptation_head_dim: their attention.
    contact: the switch also looks at what both maps show in the hand's box, so that an object
    beside the hand is told from one in it (ours).
    skip_object: in eval mode the object's results are suppressed (confidence 0) where the switch
    says not grasping, and not computed when nobody grasps (paper); off: always given (code).
    """

    input_size: int = 128
    switch_width: int = 64
    switch_cells: int = 0
    switch_legacy: bool = False
    fusion_gate: Literal["official", "paper"] = "official"
    occlusion: bool = True
    adaptation: Literal["official", "mano", "none"] = "official"
    adaptation_heads: int = 8
    adaptation_head_dim: int = 256
    contact: bool = False
    skip_object: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fusion_gate not in ("official", "paper"):
            raise InputError(
                f"UniHOPEConfig.fusion_gate: expected official or paper, found {self.fusion_gate!r}"
            )
        if self.fusion_gate == "official" and not self.occlusion:
            raise InputError("UniHOPEConfig.fusion_gate: official needs occlusion=True")
        if self.adaptation not in ("official", "mano", "none"):
            raise InputError(
                "UniHOPEConfig.adaptation: expected official, mano or none, "
                f"found {self.adaptation!r}"
            )
        if self.switch_cells < 0 or self.switch_cells > self.input_size // 4:
            raise InputError(
                f"UniHOPEConfig.switch_cells: expected 0..{self.input_size // 4}, "
                f"found {self.switch_cells}"
            )
        if min(self.switch_width, self.adaptation_heads, self.adaptation_head_dim) < 1:
            raise InputError("UniHOPEConfig: switch and adaptation sizes must be positive")

    @classmethod
    def original(cls) -> UniHOPEConfig:
        """The released configuration for DexYCB: 128 pixels, the legacy switch."""
        return cls(switch_legacy=True)

    @classmethod
    def small(cls) -> UniHOPEConfig:
        """The same structure for processors, with the paper's gate and an object classifier."""
        values = SMALL | {
            "switch_width": 16,
            "switch_cells": 8,
            "fusion_gate": "paper",
            "occlusion": False,
            "adaptation": "mano",
            "adaptation_heads": 4,
            "adaptation_head_dim": 32,
            "contact": True,
            "skip_object": True,
        }
        return cls(**values)


class WholeCropClassifier(nn.Module):
    """1x1 convolution, then linear layers on the flattened map, without non-linearity: 2 logits."""

    def __init__(self, config: UniHOPEConfig, *, legacy: bool) -> None:
        super().__init__()
        self.cells = config.switch_cells
        inputs = config.switch_width * (self.cells or config.input_size // 4) ** 2
        self.reduce = nn.Conv2d(config.pyramid_width, config.switch_width, 1)
        self.hidden = nn.Linear(inputs, 1024) if legacy else None
        self.out = nn.Linear(1024 if legacy else inputs, 2)
        self.context = None
        if config.global_context:
            self.context = nn.Sequential(
                nn.Linear(config.channels[3], 128), nn.LeakyReLU(config.slope), nn.Linear(128, 2)
            )

    def forward(self, feature: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, S/4, S/4), pooled c5 (B, C5) -> logits (B, 2) float32 and the reduced map."""
        reduced = self.reduce(feature)
        if self.cells:
            reduced = F.adaptive_avg_pool2d(reduced, self.cells)
        flat = reduced.flatten(1)
        logits = self.out(flat if self.hidden is None else self.hidden(flat)).float()
        if self.context is not None and context is not None:
            logits = logits + self.context(context).float()
        return logits, reduced


class PointMapper(nn.Module):
    """Linear layer over points with BatchNorm and LeakyReLU: (B, C, N) -> (B, C, N)."""

    def __init__(self, channels: int, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.conv = nn.Conv1d(channels, channels, 1)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, points: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(points)), self.slope)


class UniHOPE(HandObjectNetwork):
    """The network. hand: the right hand model, None: the free hand of the package."""

    def __init__(self, config: UniHOPEConfig | None = None, hand: HandModel | None = None) -> None:
        config = UniHOPEConfig() if config is None else config
        super().__init__(config, hand)
        self.config = config
        self.switch = WholeCropClassifier(config, legacy=config.switch_legacy)
        self.occlusion = WholeCropClassifier(config, legacy=False) if config.occlusion else None
        width = config.pyramid_width
        self.contact = CropClassifier(2 * width, 2, config.slope) if config.contact else None
        heads, head_dim = config.adaptation_heads, config.adaptation_head_dim
        self.mano_mapper = self.roi_mapper = self.fpn_mapper = None
        if config.adaptation != "none":
            self.mano_mapper = TokenMapper(4 * width, heads, head_dim)
        if config.adaptation == "official":
            c3 = config.channels[1]
            self.roi_mapper = TokenMapper(width, heads, head_dim)
            self.fpn_mapper = PointMapper(c3, config.slope)
        initialise(self, config)

    def forward(
        self, batch: Batch, capture: dict[str, Tensor] | None = None, *, enhance: bool = False
    ) -> Prediction:
        """Predict B right hands; needs `image`, `hand_box`, `object_box` of the batch.

        enhance: keep in `features` what the second training stage compares (c3_hand, roi_hand,
        mano_encoding, mano_mapped). capture: receives every named activation.
        """
        config = self.config
        check_batch(batch, config)
        maps = self.backbone(batch.image)
        crops = roi_crops(maps, batch, config)
        x, x_object, y, z = crops["x"], crops["x_object"], crops["y"], crops["z"]
        if config.detach:
            x_object, z = x_object.detach(), z.detach()

        context = pooled(maps["c5_obj"], config)
        # object switcher and grasp-aware feature fusion (section 3.2); a hard choice per hand
        grasp_logits, switch_reduced = self.switch(maps["P2_obj"], context)
        if self.contact is not None:
            touching = torch.cat((x.detach(), crops["x_object"]), dim=1)
            grasp_logits = grasp_logits + self.contact(touching)
        features = {}
        grasping = grasp_logits.argmax(dim=1) == 1
        gate, occlusion = grasping, None
        if self.occlusion is not None:
            occlusion = self.occlusion(maps["P2_hand"], pooled(maps["c5_hand"], config))
            features["occlusion_logits"] = occlusion[0]
            if config.fusion_gate == "official":
                gate = grasping & (occlusion[0].argmax(dim=1) == 0)
        features["fused"] = gate
        both = torch.cat((x, torch.where(gate[:, None, None, None], x_object, x)), dim=1)
        fused = self.hand_attention(both, both, x.shape[1])
        hand = predict_hand(self, config, fused[:, : x.shape[1]], maps["c5_hand"])

        thing = self._object(y, z, grasping, context)
        if enhance or capture is not None:
            features |= {
                "c3_hand": maps["c3_hand"],
                "roi_hand": x,
                "mano_encoding": hand["mano_encoding"],
            }
            if self.mano_mapper is not None:
                features["mano_mapped"] = self.mano_mapper(hand["mano_encoding"][:, None])
        if capture is not None:
            capture.update(maps | hand | thing | features)
            capture.update(roi_hand_from_obj=x_object, roi_obj=y, roi_inter=crops["inter"])
            capture.update(fused_hand=fused, switch_reduced=switch_reduced, grasping=grasping)
            if occlusion is not None:
                capture.update(occ_reduced=occlusion[1])
            capture.update(self._unused_features(batch, maps["c3_hand"], x, hand["joints2d"]))
        return assemble(
            batch,
            hand,
            thing,
            grasp_logits=grasp_logits,
            object_class_logits=thing.get("classes"),
            features=features,
        )

    def forward_pair(
        self, batch: Batch, second: Batch | None = None
    ) -> tuple[Prediction, Prediction]:
        """Both images of UniHOPE's pairs, in two passes, so that BatchNorm never mixes them.

        batch: the photos, with `paired_image` unless `second` is given: the bare hands, whose boxes
        and labels are otherwise the photos'. Raises InputError when there is no second image.
        """
        second = second_of(batch) if second is None else second
        return self(batch, enhance=True), self(second, enhance=True)

    def _object(
        self, y: Tensor, z: Tensor, grasping: Tensor, context: Tensor | None
    ) -> dict[str, Tensor]:
        config = self.config
        skip = config.skip_object and not self.training
        if skip and not torch.compiler.is_compiling() and not bool(grasping.any()):
            return self._no_object(y)
        fused = self.object_attention(y, z)
        thing = self.object_head(fused) | {"fused_obj": fused}
        if self.classifier is not None:
            thing["classes"] = self.classifier(y, context)
        if skip:
            thing["obj_conf"] = thing["obj_conf"] * grasping[:, None, None, None]
        return thing

    def _no_object(self, y: Tensor) -> dict[str, Tensor]:
        size = (len(y), self.config.roi_size, self.config.roi_size, 21)
        thing = {name: y.new_zeros(size, dtype=torch.float32) for name in _OBJECT_NAMES}
        if self.classifier is not None:
            thing["classes"] = y.new_zeros(
                (len(y), self.config.object_classes), dtype=torch.float32
            )
        return thing

    def _unused_features(
        self, batch: Batch, c3: Tensor, x: Tensor, joints2d: Tensor
    ) -> dict[str, Tensor]:
        """The two adaptation layers that no loss of the original reads; only for comparison."""
        if self.roi_mapper is None or self.fpn_mapper is None:
            return {}
        low, size = batch.hand_box[:, None, :2], batch.hand_box[:, 2:] - batch.hand_box[:, :2]
        place = (low + joints2d * size[:, None]) * 2 / self.config.input_size - 1
        tokens = _sample(x, 2 * joints2d - 1)  # (B, C, 21)
        return {
            "roi_joint_feature_mapped": self.roi_mapper(tokens.transpose(1, 2)),
            "fpn_joint_feature_mapped": self.fpn_mapper(_sample(c3, place.clamp(-1.0, 1.0))),
        }

    def parameters_without_gradient(self, *, paired: bool) -> tuple[str, ...]:
        """Prefixes of the parameters that no loss reaches. paired: with the second stage's terms.

        The mano mapper sees one token, so its attention is 1 whatever query and key say.
        """
        names = ["roi_mapper.", "fpn_mapper."]
        names += ["mano_mapper.query.", "mano_mapper.key."] if paired else ["mano_mapper."]
        return tuple(names)


_OBJECT_NAMES = ("obj_conf", "obj_x", "obj_y")


def second_of(batch: Batch) -> Batch:
    """The batch of the second images of the pairs; boxes and labels stay those of the photos.

    Raises InputError when the batch has none."""
    if batch.paired_image is None:
        raise InputError("Batch.paired_image: pairs need a second image, found None")
    return dataclasses.replace(batch, image=batch.paired_image, paired_image=None)


def _sample(features: Tensor, places: Tensor) -> Tensor:
    """Bilinear samples (B, C, N) of (B, C, H, W) at places (B, N, 2) in -1..1, ends = centres of
    the outermost cells."""
    grid = places[:, :, None].to(features.dtype)
    return F.grid_sample(features, grid, mode="bilinear", align_corners=True)[..., 0]
