"""Grounding DINO (Liu et al., ECCV 2024) and MM Grounding DINO (Zhao et al., 2024), asked for a
hand, from the package `transformers`.

The prompt never changes, so the text encoder's output is stored once and the encoder, most of the
parameters, is left out.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn

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

# [CLS] hand . [SEP] of the uncased BERT vocabulary, so that no tokenizer is needed
PROMPT = (101, 2192, 1012, 102)
PHRASE = (1,)  # its columns
CLASSES = {
    "grounding-dino": "GroundingDinoForObjectDetection",
    "mm-grounding-dino": "MMGroundingDinoForObjectDetection",
}
PREPROCESS = Preprocess(
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize="short", size=800, longest=1333
)


class GroundingDino(HubDetector):
    """weights: a local folder or a repository's name, such as IDEA-Research/grounding-dino-tiny;
    None: fresh ones for `config`, a configuration object of the package.

    prompt: token ids; phrase: which of them mean the hand, of which the best counts as the score.
    Raises MissingExtraError without the package, InputError for neither weights nor configuration.
    """

    classes = CLASSES

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        kind: Literal["grounding-dino", "mm-grounding-dino"] = "grounding-dino",
        config: Any = None,
        prompt: Sequence[int] = PROMPT,
        phrase: Sequence[int] = PHRASE,
    ) -> None:
        super().__init__()
        if kind not in CLASSES:
            raise InputError(f"kind: expected one of {', '.join(CLASSES)}, found {kind!r}")
        if not phrase or not all(0 < column < len(prompt) - 1 for column in phrase):
            raise InputError(
                f"phrase: expected columns 1 to {len(prompt) - 2} of the prompt, found "
                f"{tuple(phrase)}"
            )
        self.kind, self.prompt, self.phrase = kind, tuple(prompt), tuple(phrase)
        self.preprocess = PREPROCESS
        self._begin(weights, config)

    def _take(self, model: Any, weights_id: str, licence: str) -> None:
        self.model, self.weights_id, self.licence = model, weights_id, licence
        config = model.config
        self.width = self.query_width = config.d_model
        self.levels, self.num_queries = config.num_feature_levels, config.num_queries
        self.strides = backbone_strides(config, self.levels)
        self.shallow_channels = tuple(model.model.backbone.conv_encoder.intermediate_channel_sizes)
        self.freeze()
        with torch.no_grad():
            model.model.text_backbone = StoredText(_text_features(model.model, self.prompt))
        self.freeze()

    def features(self, images: Tensor, valid_mask: Tensor | None = None) -> DetectorOutput:
        """`query_first` is the raw table of learned queries: the package's own first entry went
        through the decoder's last norm."""
        inner = self.model.model
        prompt = torch.tensor(self.prompt, device=images.device).expand(len(images), -1)
        projections = {f"level{i}": layer for i, layer in enumerate(inner.input_proj_vision)}
        with watched(backbone=inner.backbone, **projections) as seen:
            found = self.model(
                pixel_values=images,
                input_ids=prompt,
                pixel_mask=None if valid_mask is None else valid_mask.long(),
                output_hidden_states=True,
                return_dict=True,
            )
        shapes = [_size(seen[f"level{i}"]) for i in range(self.levels)]
        token_valid, valid_ratios = level_padding(images, valid_mask, shapes)
        maps, _ = seen["backbone"]
        return DetectorOutput(
            # the columns beyond the prompt are minus infinity: only the phrase's may be read
            scores=found.logits[..., list(self.phrase)].sigmoid().amax(dim=-1),
            boxes=found.pred_boxes,
            query_first=inner.query_position_embeddings.weight.expand(len(images), -1, -1),
            query_last=found.last_hidden_state,
            query_layers=tuple(found.intermediate_hidden_states.unbind(1)),
            memory=found.encoder_last_hidden_state_vision,
            memory_layers=tuple(found.encoder_vision_hidden_states[1:]),
            shallow=[one for one, _ in maps],
            shapes=shapes,
            token_valid=token_valid,
            valid_ratios=valid_ratios,
        )


class StoredText(nn.Module):
    """In the place of the text encoder: what it says of the one prompt (1, tokens, width)."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features: Tensor
        self.register_buffer("features", features)

    def forward(self, input_ids: Tensor, *others: Any, **named: Any) -> SimpleNamespace:
        """The stored features for every row of the batch."""
        return SimpleNamespace(last_hidden_state=self.features.expand(len(input_ids), -1, -1))


def _text_features(inner: Any, prompt: Sequence[int]) -> Tensor:
    """The text encoder's output, with the masks and positions that the model itself makes."""
    package = importlib.import_module(type(inner).__module__)
    ids = torch.tensor([list(prompt)])
    masks, positions = package.generate_masks_with_special_tokens_and_transfer_map(
        ids, special_tokens=inner.special_tokens
    )
    said = inner.text_backbone(
        ids, masks[:, None], torch.zeros_like(ids), positions, return_dict=True
    )
    return said.last_hidden_state.clone()


def _size(level: Tensor) -> tuple[int, int]:
    return int(level.shape[-2]), int(level.shape[-1])
