"""Deformable DETR (Zhu et al., ICLR 2021), RT-DETRv2 (Lv et al., 2024) and D-FINE (Peng et al.,
ICLR 2025) from the package `transformers`.

Their public weights know COCO's classes, of which none is a hand: they are where a training begins,
and `label` says which class of the trained one is the hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from handhold.errors import InputError
from handhold.models.handos.detectors.hub_model import (
    HubDetector,
    backbone_strides,
    watched,
)
from handhold.models.handos.detectors.interface import (
    DetectorOutput,
    Preprocess,
    level_padding,
)

CLASSES = {
    "deformable-detr": "DeformableDetrForObjectDetection",
    "rt-detr-v2": "RTDetrV2ForObjectDetection",
    "d-fine": "DFineForObjectDetection",
}
# RT-DETR and its kin are trained on 640 x 640 without mean and deviation
PREPROCESS = {
    "deformable-detr": Preprocess(
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        resize="short",
        size=800,
        longest=1333,
    ),
    "rt-detr-v2": Preprocess(resize="stretch", size=640),
    "d-fine": Preprocess(resize="stretch", size=640),
}


class DetrFamily(HubDetector):
    """weights: a local folder or a repository's name; None: fresh ones for `config`, a
    configuration object of the package. label: the class that is the hand.

    RT-DETRv2 and D-FINE know no padding: with a mask they see what `preprocess` puts there, and the
    boxes are converted. Raises MissingExtraError without the package, InputError for neither
    weights nor configuration, and for a label that the weights lack.
    """

    classes = CLASSES

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        kind: Literal["deformable-detr", "rt-detr-v2", "d-fine"],
        config: Any = None,
        label: int = 0,
    ) -> None:
        super().__init__()
        if kind not in CLASSES:
            raise InputError(f"kind: expected one of {', '.join(CLASSES)}, found {kind!r}")
        self.kind, self.label = kind, label
        self.preprocess = PREPROCESS[kind]
        self._begin(weights, config)

    def _take(self, model: Any, weights_id: str, licence: str) -> None:
        config = model.config
        if not 0 <= self.label < config.num_labels:
            raise InputError(
                f"label: expected 0 to {config.num_labels - 1}, the classes of the weights, found "
                f"{self.label}"
            )
        self.model, self.weights_id, self.licence = model, weights_id, licence
        self.query_width = config.d_model
        two_stage = self.kind == "deformable-detr" and config.two_stage
        self.num_queries = config.two_stage_num_proposals if two_stage else config.num_queries
        self.shallow_channels = tuple(model.model.backbone.intermediate_channel_sizes)
        if self.kind == "deformable-detr":
            self.width, self.levels = config.d_model, config.num_feature_levels
        else:  # the memory is the encoder's, before the decoder's own projections
            self.width, self.levels = config.encoder_hidden_dim, len(config.encoder_in_channels)
        self.strides = backbone_strides(config, self.levels)
        self.freeze()

    def features(self, images: Tensor, valid_mask: Tensor | None = None) -> DetectorOutput:
        """Deformable DETR takes the mask itself."""
        inner = self.model.model
        named = {"pixel_values": images, "output_hidden_states": True, "return_dict": True}
        flat = self.kind == "deformable-detr"
        watched_ones = {"backbone": inner.backbone}
        if flat:
            named["pixel_mask"] = None if valid_mask is None else valid_mask.long()
            watched_ones |= {f"level{i}": layer for i, layer in enumerate(inner.input_proj)}
        with watched(**watched_ones) as seen:
            found = self.model(**named)
        if flat:
            levels = [seen[f"level{i}"] for i in range(self.levels)]
            memory = found.encoder_last_hidden_state
            layers = tuple(found.encoder_hidden_states[1:])
        else:
            levels = list(found.encoder_last_hidden_state)
            memory = torch.cat([x.flatten(2).transpose(1, 2) for x in levels], dim=1)
            layers = None
        shapes = [(int(x.shape[-2]), int(x.shape[-1])) for x in levels]
        token_valid, valid_ratios = level_padding(images, valid_mask, shapes)
        boxes = found.pred_boxes
        if not flat and valid_mask is not None:
            share = torch.stack(
                [valid_mask[:, 0].float().mean(-1), valid_mask[:, :, 0].float().mean(-1)], dim=-1
            )
            boxes = boxes / share.repeat(1, 2)[:, None]
        told = found.intermediate_hidden_states
        return DetectorOutput(
            scores=found.logits[..., self.label].sigmoid(),
            boxes=boxes,
            query_first=found.decoder_hidden_states[0],
            query_last=found.last_hidden_state,
            # D-FINE stacks layers first
            query_layers=tuple(told.unbind(0 if self.kind == "d-fine" else 1)),
            memory=memory,
            memory_layers=layers,
            shallow=[one[0] for one in _maps(seen["backbone"])],
            shapes=shapes,
            token_valid=token_valid,
            valid_ratios=valid_ratios,
        )


def _maps(output: Any) -> Any:
    """The pairs of map and mask of a backbone, which may return positions beside them."""
    return output[0] if isinstance(output, tuple) else output
