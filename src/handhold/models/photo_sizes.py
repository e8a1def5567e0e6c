"""How large the methods for whole photos are: what learns, work for a photo and for each hand.

Rule: 2 operations for a multiply-add of convolutions, linear layers and products inside attention
(PyTorch's `FlopCounterMode`); sampling, norms and activations are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from handhold.hand.model import HandModel
from handhold.models.handos.detectors import DetectorOutput, FrozenDetector, Preprocess
from handhold.models.handos.model import Chosen, HandOS
from handhold.models.photo_registry import photo_entry

PAPER_DETECTOR_GFLOP, PAPER_HAND_GFLOP = 301, 108  # its counting rule is not told


class Outline(FrozenDetector):
    """A detector's shapes without the detector: zeros of the sizes that it would give."""

    licence = weights_id = "none"

    def __init__(
        self,
        *,
        width: int,
        shallow_channels: tuple[int, ...],
        strides: tuple[int, ...],
        num_queries: int,
    ) -> None:
        super().__init__()
        self.width = self.query_width = width
        self.shallow_channels, self.strides = shallow_channels, strides
        self.levels, self.num_queries = len(strides), num_queries
        self.preprocess = Preprocess(multiple=1)
        self.freeze()

    def load(self, weights: str | Path) -> Self:
        """Nothing to load."""
        return self

    def features(self, images: Tensor, valid_mask: Tensor | None = None) -> DetectorOutput:
        """Zeros."""
        count, _, height, width = images.shape
        shapes = [(-(-height // s), -(-width // s)) for s in self.strides]
        tokens = sum(h * w for h, w in shapes)
        make, queries = images.new_zeros, (count, self.num_queries)
        maps = zip(self.shallow_channels, shapes, strict=False)
        return DetectorOutput(
            scores=make(queries),
            boxes=make(*queries, 4),
            query_first=make(*queries, self.width),
            query_last=make(*queries, self.width),
            memory=make(count, tokens, self.width),
            shallow=[make(count, c, *shape) for c, shape in maps],
            shapes=shapes,
            token_valid=make(count, tokens, dtype=torch.bool),
            valid_ratios=make(count, self.levels, 2),
        )


def grounding_dino_outline() -> Outline:
    """Grounding DINO with a Swin-T backbone."""
    return Outline(
        width=256,
        shallow_channels=(192, 384, 768),
        strides=(8, 16, 32, 64),
        num_queries=900,
    )


def outlined(config: Any) -> HandOS:
    """A network on the outline of Grounding DINO where its configuration names that, so that it can
    be counted without the detector."""
    outline = grounding_dino_outline() if config.detector == "grounding-dino" else None
    return HandOS(config, HandModel.free("right"), outline)


@dataclass(frozen=True, kw_only=True)
class PhotoSize:
    """parameters: of what learns. detector_parameters, detector: those of the detector and its
    operations for a photo, None where the configuration names one that this package only adapts.
    values, side_tuning: operations for a photo (the layers' value projections; the side tuning),
    hand: for each hand. pixels: width and height of the photo."""

    name: str
    pixels: tuple[int, int]
    parameters: int
    detector_parameters: int | None
    detector: int | None
    side_tuning: int
    values: int
    hand: int


def measure_photo_model(name: str) -> PhotoSize:
    """Counted without computing anything."""
    config = photo_entry(name).config()
    return measure_network(name, config)


def measure_network(name: str, config: Any) -> PhotoSize:
    """The same for another configuration."""
    pixels = (config.input_size,) * 2 if config.square else (config.input_size, 720)
    with torch.device("meta"):
        network = outlined(config).to("meta").eval()
    parts = network.detector.parameters()
    learned = sum(p.numel() for p in network.parameters() if p.requires_grad)
    with torch.no_grad(), torch.device("meta"):
        images = torch.zeros(1, 3, pixels[1], pixels[0])
        detector = None
        if not isinstance(network.detector, Outline):
            detector = _operations(lambda: network.detector(images))
        found = network.detector(images)
        side = _operations(lambda: network.memory(found))
        memory = network.memory(found)

        def decode(hands: int) -> int:
            zeros = torch.zeros(hands, dtype=torch.long)
            chosen = Chosen(
                image=zeros,
                target=zeros,
                scores=torch.zeros(hands),
                boxes=torch.zeros(hands, 4),
                queries=torch.zeros(hands, 2 * network.detector.query_width),
            )
            camera = torch.zeros(1, 3, 3)
            return _operations(lambda: network.decode(memory, chosen, torch.zeros(1, 2), camera))

        one, two = decode(1), decode(2)
    return PhotoSize(
        name=name,
        pixels=pixels,
        parameters=learned,
        detector_parameters=None if detector is None else sum(p.numel() for p in parts),
        detector=detector,
        side_tuning=side,
        values=2 * one - two,
        hand=two - one,
    )


def _operations(run: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
