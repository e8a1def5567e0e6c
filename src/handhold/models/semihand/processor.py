"""What Liu et al.'s network eats: the shared HOPE processor with its settings."""

from __future__ import annotations

from typing import Literal

from handhold.models.nn.hope_config import HopeProcessorConfig


def unihope(dataset: Literal["dexycb", "ho3d"] = "dexycb") -> HopeProcessorConfig:
    """UniHOPE's retraining: 512 pixels."""
    return HopeProcessorConfig.unihope(512, dataset)
