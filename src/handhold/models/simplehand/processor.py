"""What SimpleHand eats: the shared HOPE processor with its settings."""

from __future__ import annotations

import dataclasses

from handhold.models.nn.hope_augmentation import Augmentation
from handhold.models.nn.hope_config import HopeProcessorConfig
from handhold.models.simplehand.model import SimpleHandConfig


def unihope() -> HopeProcessorConfig:
    """UniHOPE's retraining: 224 pixels, around hand and object where the hand grasps."""
    return HopeProcessorConfig.unihope(224, hand=True)


def original() -> HopeProcessorConfig:
    """The authors' repository: a virtual camera that looks at the hand, its box times 1.25 (in
    training 1 to 1.5), 224 pixels, any rotation.

    Their colours change by a brightness of -0.4 to 0.1 and a contrast of +-0.2; the brightness here
    is a factor of 1 +- 0.25.
    """
    augmentation = Augmentation(
        centre_jitter=0.1,
        scale_sigma=0.2,
        scale="uniform",
        rotation="uniform",
        rotation_deg=180.0,
        rotation_chance=1.0,
        blur_px=0.0,
        brightness=0.25,
        contrast=0.2,
        saturation=0.0,
        hue=0.0,
        channel_gain=0.4,
    )
    return dataclasses.replace(
        HopeProcessorConfig.deployable_hand(224),
        crop_factor=1.25,
        camera="virtual",
        augmentation=augmentation,
    )


def of_weights(config: SimpleHandConfig) -> HopeProcessorConfig:
    """What imported weights were trained with, as their configuration tells their origin."""
    chosen = original() if config.channels == "bgr" else unihope()
    return dataclasses.replace(chosen, input_size=config.input_size)
