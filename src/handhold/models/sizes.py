"""How large the methods are, beside what their papers say."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from handhold.models.nn.flops import Size, measure
from handhold.models.registry import build_model, entry
from handhold.models.unihope.model import UniHOPEConfig
from handhold.scene import Batch


@dataclass(frozen=True, kw_only=True)
class SizeRow:
    """One configuration's counted size and, where it is the paper's, the paper's figures."""

    label: str
    size: Size
    input_size: int
    paper_parameters: int | None = None
    paper_gmacs: float | None = None

    def agrees(self, tolerance: float) -> bool:
        """Both figures within the relative tolerance; True where the paper gives none."""
        parameters, gmacs = self.paper_parameters, self.paper_gmacs
        near = parameters is None or abs(self.size.parameters / parameters - 1) <= tolerance
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
            )
        )
    if told.paper_config is None or told.paper_config() != told.config():
        size, pixels = _measure(name, told.config())
        rows.append(SizeRow(label=name, size=size, input_size=pixels))
    return rows


def one_crop(pixels: int) -> Batch:
    """A grey crop with overlapping boxes of hand and object."""
    box = torch.tensor([[0.2, 0.2, 0.7, 0.75]]) * pixels
    return Batch(
        image=torch.full((1, 3, pixels, pixels), 0.5), hand_box=box, object_box=box + 0.1 * pixels
    )


def _measure(name: str, config: object) -> tuple[Size, int]:
    if isinstance(config, UniHOPEConfig):  # the full work, whatever the switch says
        config = dataclasses.replace(config, skip_object=False)
    network = build_model(name, config=config).network
    pixels = network.config.input_size
    return measure(network, lambda: _forward(network, one_crop(pixels))), pixels


def _forward(network: torch.nn.Module, batch: Batch) -> None:
    network(batch)
