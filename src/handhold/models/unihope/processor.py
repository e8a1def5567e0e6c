"""What UniHOPE eats: the shared HOPE processor, with the settings of its released code."""

from __future__ import annotations

from handhold.models.nn.hope_augmentation import Augmentation
from handhold.models.nn.hope_processor import HopeProcessor, HopeProcessorConfig

Processor = HopeProcessor


def official(dataset: str = "dexycb", *, paired: bool = False) -> HopeProcessorConfig:
    """The released configurations: "dexycb" 128 x 128, visibility <= 0.9; "ho3d" 256 x 256, <= 0.8.

    paired: give the second image of every training pair.
    """
    ho3d = dataset == "ho3d"
    return HopeProcessorConfig(
        input_size=256 if ho3d else 128,
        augmentation=Augmentation.ho3d() if ho3d else Augmentation.dexycb(),
        occlusion_threshold=0.8 if ho3d else 0.9,
        paired=paired,
    )


def small(*, paired: bool = False) -> HopeProcessorConfig:
    """unihope-small: 128 x 128, bilinear, crops from boxes only, strong augmentation."""
    return HopeProcessorConfig.deployable(128, paired=paired)
