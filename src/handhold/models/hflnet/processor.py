"""What HFL-Net eats: the shared HOPE processor with its settings (as in its repository)."""

from __future__ import annotations

from handhold.models.nn.hope_augmentation import Augmentation
from handhold.models.nn.hope_processor import HopeProcessor, HopeProcessorConfig

Processor = HopeProcessor


def original(dataset: str = "dexycb") -> HopeProcessorConfig:
    """HFL-Net's own repository: 256 x 256 crops on "dexycb" and "ho3d"."""
    ho3d = dataset == "ho3d"
    return HopeProcessorConfig(
        input_size=256, augmentation=Augmentation.ho3d() if ho3d else Augmentation.dexycb()
    )
