"""The trained network as a frozen detector, and its weights file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from handhold.errors import WeightsError
from handhold.models.detector.processor import PADDING
from handhold.models.handos.detectors.hand_detr.model import HandDetrConfig, HandDetrNetwork
from handhold.models.handos.detectors.interface import (
    DetectorOutput,
    FrozenDetector,
    Preprocess,
    in_valid_area,
    level_padding,
)
from handhold.models.weights import WeightsFile, fit, make_config, read_weights, save_weights

NAME = "hand-detr"


class HandDetr(FrozenDetector):
    """network: a `HandDetrNetwork`, taken as it is; None for one of `config` with fresh weights.

    Boxes are those of the joints grown by `box_growth`.
    """

    levels = 3
    licence = "Apache-2.0"
    weights_id = "none"

    def __init__(
        self, network: HandDetrNetwork | None = None, config: HandDetrConfig | None = None
    ) -> None:
        super().__init__()
        self._take(HandDetrNetwork(config) if network is None else network)

    def _take(self, network: HandDetrNetwork) -> None:
        self.network = network
        self.config = config = network.config
        self.width = self.query_width = config.width
        self.strides = network.strides
        self.shallow_channels = network.shallow_channels
        self.num_queries, self.box_growth = config.queries, config.box_growth
        self.preprocess = Preprocess(size=config.input_size, padding=PADDING / 255)
        self.freeze()

    def load(self, weights: str | Path) -> Self:
        """A file of `handhold train hand-detr`, whose configuration replaces the present one.

        Raises MissingFileError and WeightsError.
        """
        self._take(load_hand_detr(weights))
        self.weights_id = Path(weights).name
        return self

    def features(self, images: Tensor, valid_mask: Tensor | None = None) -> DetectorOutput:
        """The network sees the whole input, padding included, as in its training; only the boxes
        are told in shares of the valid area."""
        found = self.network(images)
        token_valid, valid_ratios = level_padding(images, valid_mask, found.shapes)
        return DetectorOutput(
            scores=found.logits[-1].sigmoid(),
            boxes=in_valid_area(found.boxes[-1], valid_mask),
            query_first=found.queries[0],
            query_last=found.queries[-1],
            query_layers=tuple(found.queries[1:]),
            memory=found.memory,
            shallow=found.shallow,
            shapes=found.shapes,
            token_valid=token_valid,
            valid_ratios=valid_ratios,
        )


def save_hand_detr(
    path: str | Path, network: HandDetrNetwork, extra: Mapping[str, Any] | None = None
) -> Path:
    """Write network and configuration, matrices as float16. Raises WeightsError for NaN."""
    return save_weights(path, network, model=NAME, extra=extra, precision="fp16")


def load_hand_detr(weights: str | Path) -> HandDetrNetwork:
    """The network of a weights file, float32, in eval mode. Raises WeightsError where the file is
    no such file or does not fit, MissingFileError where there is none.
    """
    file: WeightsFile = read_weights(weights)
    if file.model != NAME:
        raise WeightsError(f"{weights}: expected the weights of {NAME!r}, found {file.model!r}")
    network = HandDetrNetwork(make_config(HandDetrConfig, file.config, str(weights)))
    fit(network, file.entries, str(weights))
    return network.eval()
