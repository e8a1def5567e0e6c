"""The toolkit's hand detector, one location a cell, as a frozen detector with queries.

It has no decoder whose queries could be told. Its best locations stand for them: `query_first` is
what the pyramid holds there, beside the coarsest level at the same place; `query_last` are the
features that score, side and box are read from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from handhold.models.detector.model import DetectorConfig, HandDetectorNetwork
from handhold.models.detector.processor import PADDING
from handhold.models.detector.weights import load_detector
from handhold.models.handos.detectors.hand_detr.loss import to_shares
from handhold.models.handos.detectors.interface import (
    DetectorOutput,
    FrozenDetector,
    Preprocess,
    in_valid_area,
    level_padding,
    take_rows,
)

QUERIES = 60


class DenseHandDetector(FrozenDetector):
    """network: a `HandDetectorNetwork`, taken as it is; None for one of `config` with fresh
    weights. queries: how many of the best locations are told.

    Boxes are those of the joints grown by `box_growth`; neighbours tell the same hand, so that what
    stands on it needs a suppression of overlaps.
    """

    levels = 3
    licence = "Apache-2.0"
    weights_id = "none"

    def __init__(
        self,
        network: HandDetectorNetwork | None = None,
        config: DetectorConfig | None = None,
        queries: int = QUERIES,
    ) -> None:
        super().__init__()
        self.num_queries = queries
        self._take(HandDetectorNetwork(config) if network is None else network)

    def _take(self, network: HandDetectorNetwork) -> None:
        self.network = network
        self.config = config = network.config
        self.width, self.query_width = config.width, 2 * config.width
        self.strides = network.strides
        self.shallow_channels = network.shallow_channels
        self.box_growth = config.box_growth
        self.preprocess = Preprocess(size=config.input_size, padding=PADDING / 255)
        self.freeze()

    def load(self, weights: str | Path) -> Self:
        """A file of `handhold train hand-detector`, whose configuration replaces the present one.

        Raises MissingFileError and WeightsError.
        """
        self._take(load_detector(weights))
        self.weights_id = Path(weights).name
        return self

    def features(self, images: Tensor, valid_mask: Tensor | None = None) -> DetectorOutput:
        """The network sees the whole input, padding included, as in its training; only the boxes
        are told in shares of the valid area."""
        found = self.network(images)
        maps = found.features
        levels = [maps[f"p{stride}"] for stride in self.strides]
        shapes = [(int(x.shape[-2]), int(x.shape[-1])) for x in levels]
        coarse = [functional.interpolate(levels[-1], size=shape) for shape in shapes]
        first = _tokens([torch.cat(pair, 1) for pair in zip(levels, coarse, strict=True)])
        last = _tokens([torch.cat((maps[f"c{s}"], maps[f"r{s}"]), dim=1) for s in self.strides])
        chosen = found.score.topk(min(self.num_queries, found.score.shape[1]), dim=1).indices
        boxes = to_shares(take_rows(found.boxes, chosen), images.shape[-1], images.shape[-2])
        token_valid, valid_ratios = level_padding(images, valid_mask, shapes)
        return DetectorOutput(
            scores=found.score.gather(1, chosen).sigmoid(),
            boxes=in_valid_area(boxes, valid_mask),
            query_first=take_rows(first, chosen),
            query_last=take_rows(last, chosen),
            memory=_tokens(levels),
            shallow=[maps[f"s{stride}"] for stride in self.strides],
            shapes=shapes,
            token_valid=token_valid,
            valid_ratios=valid_ratios,
        )


def _tokens(levels: list[Tensor]) -> Tensor:
    """Levels (B, C, H_l, W_l) -> (B, T, C)."""
    return torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)
