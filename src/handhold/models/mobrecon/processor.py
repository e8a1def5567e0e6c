"""What MobRecon eats: the shared HOPE processor with its settings."""

from __future__ import annotations

import dataclasses

from handhold.models.mobrecon.model import MobReconConfig
from handhold.models.nn.hope_config import HopeProcessorConfig


def unihope() -> HopeProcessorConfig:
    """UniHOPE's retraining: 128 pixels, around hand and object where the hand grasps."""
    return HopeProcessorConfig.unihope(128, hand=True)


def handbooster() -> HopeProcessorConfig:
    """HandBooster's retraining: the hand alone, 128 pixels."""
    return HopeProcessorConfig.hand_alone(128)


def of_weights(config: MobReconConfig) -> HopeProcessorConfig:
    """What imported weights were trained with, as their configuration tells their origin.

    HandMesh's own crop is not described; its weights get HandBooster's.
    """
    plain = config.mesh_conv == "spiral" or config.image_range == "symmetric"
    chosen = handbooster() if plain else unihope()
    return dataclasses.replace(chosen, input_size=config.input_size)
