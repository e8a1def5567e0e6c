"""What HandOccNet eats: the shared HOPE processor with its settings."""

from __future__ import annotations

from handhold.models.handoccnet.model import HandOccNetConfig
from handhold.models.nn.hope_config import HopeProcessorConfig


def original() -> HopeProcessorConfig:
    """The authors' repository: the hand alone, 256 pixels."""
    return HopeProcessorConfig.hand_alone(256)


def of_weights(config: HandOccNetConfig) -> HopeProcessorConfig:
    """What imported weights were trained with, as their configuration tells their origin."""
    size = config.input_size
    if config.mean_pose:
        return HopeProcessorConfig.hand_alone(size)
    return HopeProcessorConfig.unihope(size, hand=True)
