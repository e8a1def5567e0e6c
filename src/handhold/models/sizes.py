"""How large the methods are, beside what their papers say."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from handhold.models.loading import build_model
from handhold.models.nn.flops import Size, measure
from handhold.models.processors import Processor
from handhold.models.registry import entry
from handhold.models.unihope.model import UniHOPEConfig
from handhold.scene import Batch, Camera


@dataclass(frozen=True, kw_only=True)
class SizeRow:
    """One configuration's counted size and, where it is the paper's, the paper's figures."""

    label: str
    size: Size
    input_size: int
    paper_parameters: int | None = None
    paper_gmacs: float | None = None
    note: str = ""

    def agrees(self, tolerance: float) -> bool:
        """Both figures within the relative tolerance; True where the paper gives none."""
        parameters, gmacs = self.paper_parameters, self.paper_gmacs
        counted = self.size.counted_parameters
        near = parameters is None or abs(counted / parameters - 1) <= tolerance
        return near and (gmacs is None or abs(self.size.counted / 1e9 / gmacs - 1) <= tolerance)


def compare(name: str) -> list[SizeRow]:
    """The default configuration, and before it the paper's where that is another."""
    told = entry(name)
    rows: list[SizeRow] = []
    if told.paper_config is not None:
        size, pixels = _measure(name, told.paper_config())
        rows.append(
            SizeRow(
                label=f"{name} paper",
                size=size,
                input_size=pixels,
                paper_parameters=told.paper_parameters,
                paper_gmacs=told.paper_gmacs,
                note=told.size_note,
            )
        )
    if told.paper_config is None or told.paper_config() != told.config():
        size, pixels = _measure(name, told.config())
        rows.append(SizeRow(label=name, size=size, input_size=pixels))
    return rows


def one_crop(processor: Processor) -> Batch:
    """Overlapping boxes of hand and object in a grey photo, by the method's processor."""
    side = 256
    camera = Camera(
        intrinsics=np.array([[300.0, 0, 127.5], [0, 300.0, 127.5], [0, 0, 1]]),
        width=side,
        height=side,
    )
    box = np.array([0.3, 0.3, 0.6, 0.62]) * side
    grey = np.full((side, side, 3), 128, np.uint8)
    return processor.encode_boxes(grey, [box], ["right"], [box + 0.1 * side], camera)


def _measure(name: str, config: object) -> tuple[Size, int]:
    if isinstance(config, UniHOPEConfig):  # the full work, whatever the switch says
        config = dataclasses.replace(config, skip_object=False)
    model = build_model(name, config=config)
    # a batch with labels: without, Keypoint Transformer leaves out the heads of earlier layers
    batch = dataclasses.replace(one_crop(model.processor), pose=torch.zeros(1, 16, 3))
    return measure(model.network, lambda: model.network(batch)), model.config.input_size
