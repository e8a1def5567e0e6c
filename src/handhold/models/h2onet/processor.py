"""What H2ONet eats: the shared HOPE processor with its settings."""

from __future__ import annotations

from handhold.models.nn.hope_config import HopeProcessorConfig


def original() -> HopeProcessorConfig:
    """The authors' repository: the hand alone, 128 pixels."""
    return HopeProcessorConfig.hand_alone(128)


def unihope() -> HopeProcessorConfig:
    """UniHOPE's retraining: around hand and object where the hand grasps."""
    return HopeProcessorConfig.unihope(128, hand=True)
