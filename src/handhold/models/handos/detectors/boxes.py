"""No detector: boxes that the caller gives (labels, or another program's)."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from handhold.errors import InputError, WeightsError
from handhold.models.handos.detectors.interface import (
    DetectorOutput,
    FrozenDetector,
    Preprocess,
    level_padding,
)


class ColourPyramid(FrozenDetector):
    """Features without learning: mean colours around each cell through fixed random mixtures. It
    finds nothing (all scores are 0). For tests, and where side tuning alone is to see the image.
    """

    licence = "Apache-2.0"
    weights_id = "none"

    def __init__(
        self, width: int = 32, strides: tuple[int, ...] = (8, 16, 32), seed: int = 0
    ) -> None:
        super().__init__()
        self.width = self.query_width = width
        self.strides, self.levels = strides, len(strides)
        self.shallow_channels = (12,) * len(strides)
        self.num_queries = 1
        self.preprocess = Preprocess(
            mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), multiple=max(strides)
        )
        generator = torch.Generator().manual_seed(seed)
        mixture = torch.randn(12, width, generator=generator) / 12**0.5
        self.register_buffer("mixture", mixture)
        self.freeze()

    def load(self, weights: str | Path) -> Self:
        """There are none: raises WeightsError."""
        raise WeightsError(f"ColourPyramid has no weights; found {weights}")

    def features(self, images: Tensor, valid_mask: Tensor | None = None) -> DetectorOutput:
        """One query that found nothing; `shallow` (B, 12, H/s, W/s): the colours of each quarter
        of a cell."""
        shallow = [
            functional.pixel_unshuffle(functional.avg_pool2d(images, stride // 2), 2)
            for stride in self.strides
        ]
        shapes = [(int(x.shape[-2]), int(x.shape[-1])) for x in shallow]
        mixture = self.get_buffer("mixture")
        memory = torch.cat([x.flatten(2).transpose(1, 2) for x in shallow], dim=1) @ mixture
        token_valid, valid_ratios = level_padding(images, valid_mask, shapes)
        query = memory.new_zeros(len(images), 1, self.width)
        return DetectorOutput(
            scores=memory.new_zeros(len(images), 1),
            boxes=memory.new_full((len(images), 1, 4), 0.5),
            query_first=query,
            query_last=query,
            memory=memory,
            shallow=shallow,
            shapes=shapes,
            token_valid=token_valid,
            valid_ratios=valid_ratios,
        )


class GivenBoxes(FrozenDetector):
    """Boxes given with `give`, features of `inner`, queries from a learned table.

    inner: any other detector; None for a `ColourPyramid`. The table (num_queries rows for the
    first, as many for the last query) is the only part that learns: row i belongs to the i-th box.
    """

    def __init__(
        self,
        inner: FrozenDetector | None = None,
        *,
        num_queries: int = 20,
        query_width: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.inner = inner = ColourPyramid(seed=seed) if inner is None else inner
        self.width, self.strides, self.levels = inner.width, inner.strides, inner.levels
        self.shallow_channels, self.preprocess = inner.shallow_channels, inner.preprocess
        self.licence, self.weights_id = inner.licence, inner.weights_id
        self.num_queries = num_queries
        self.query_width = inner.query_width if query_width is None else query_width
        generator = torch.Generator().manual_seed(seed)
        table = torch.randn(2, num_queries, self.query_width, generator=generator)
        self.table = nn.Parameter(table)
        self._boxes: Tensor | None = None
        self._scores: Tensor | None = None
        self.freeze()

    def freeze(self) -> Self:
        """As always, but for the table of queries."""
        super().freeze()
        self.table.requires_grad_(True)
        return self

    def load(self, weights: str | Path) -> Self:
        """Weights of the inner detector."""
        self.inner.load(weights)
        self.licence, self.weights_id = self.inner.licence, self.inner.weights_id
        return self

    def give(self, boxes: Tensor, scores: Tensor | None = None) -> Self:
        """Boxes (B, N, 4) cx, cy, w, h in 0..1 of the valid area for the calls that follow, N at
        most `num_queries`; scores (B, N), 1 if None, 0 for rows that only fill up.

        Raises InputError for other shapes.
        """
        if boxes.ndim != 3 or boxes.shape[-1] != 4 or boxes.shape[1] > self.num_queries:
            raise InputError(
                f"GivenBoxes.give: expected boxes (B, up to {self.num_queries}, 4), found "
                f"{tuple(boxes.shape)}"
            )
        if scores is not None and scores.shape != boxes.shape[:2]:
            raise InputError(
                f"GivenBoxes.give: expected scores {tuple(boxes.shape[:2])}, found "
                f"{tuple(scores.shape)}"
            )
        self._boxes = boxes
        self._scores = boxes.new_ones(boxes.shape[:2]) if scores is None else scores
        return self

    def features(self, images: Tensor, valid_mask: Tensor | None = None) -> DetectorOutput:
        """The inner detector's, with the boxes given and the table's queries."""
        return self._answer(self.inner.features(images, valid_mask))

    def forward(self, images: Tensor, valid_mask: Tensor | None = None) -> DetectorOutput:
        """As `FrozenDetector.forward`; only the table has a gradient."""
        return self._answer(self.inner(images, valid_mask))

    def _answer(self, found: DetectorOutput) -> DetectorOutput:
        boxes, scores = self._boxes, self._scores
        count = found.memory.shape[0]
        if boxes is None or scores is None or boxes.shape[0] != count:
            given = "none" if boxes is None else str(boxes.shape[0])
            raise InputError(
                f"GivenBoxes: expected boxes of {count} images from `give`, found {given}"
            )
        table = self.table[:, : boxes.shape[1]]
        return DetectorOutput(
            scores=scores.to(found.memory),
            boxes=boxes.to(found.memory),
            query_first=table[0].expand(count, -1, -1),
            query_last=table[1].expand(count, -1, -1),
            memory=found.memory,
            memory_layers=found.memory_layers,
            shallow=found.shallow,
            shapes=found.shapes,
            token_valid=found.token_valid,
            valid_ratios=found.valid_ratios,
        )
