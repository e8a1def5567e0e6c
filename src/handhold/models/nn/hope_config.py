"""What the HOPE processor does: the settings, and those of the papers' codes by name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from handhold.errors import InputError
from handhold.models.nn.hope_augmentation import Augmentation


@dataclass(frozen=True, kw_only=True)
class HopeProcessorConfig:
    """What a HOPE network eats. The defaults are UniHOPE's for DexYCB (as in UniHOPE's released
    code).
    """

    input_size: int = 128  # side S of the crop in pixels (HFL-Net and HO3D: 256)
    crop_factor: float = 1.5  # hand and object boxes grow by this before the crop
    hand_factor: float = 1.1  # the hand's RoI box around its joints
    object_factor: float = 1.0  # the object's RoI box around its control points
    # label: hand + object only where the label says grasping, in test as well (official protocol)
    # boxes: hand + object wherever an object box is known; hand: the hand alone
    crop_rule: Literal["label", "boxes", "hand"] = "label"
    # the hand alone is cropped where hand + object would be larger than this many hand crops
    largest_crop: float | None = None
    truncate_centres: bool = True  # box centres rounded towards zero, as in the original loaders
    clip_to_image: bool = True  # crop boxes are clipped to the photo first
    # cut: what is outside is cut off; slide: a box that leaves the photo on the left or above is
    # moved inside before the rest is cut off (HandOccNet, H2ONet, HandBooster)
    clip_rule: Literal["cut", "slide"] = "cut"
    interpolation: Literal["nearest", "bilinear"] = "nearest"  # official: nearest neighbour
    # affine: the crop is cut out of the photo; virtual: a camera that looks at the box sees it, and
    # 3D points turn with that camera (SimpleHand; the hand alone, not clipped)
    camera: Literal["affine", "virtual"] = "affine"
    augmentation: Augmentation = field(default_factory=Augmentation.dexycb)
    mask_size: int = 32  # R of the object's mask
    paired: bool = False  # fill paired_image and is_filtered (UniHOPE's training pairs)
    occlusion_threshold: float = 0.9  # a pair needs visibility <= this (HO3D: 0.8)
    pnp: Literal["official", "sound"] = "official"
    # grasped: decode an object only where the network says grasping; all: always; none: never
    objects: Literal["grasped", "all", "none"] = "all"

    def __post_init__(self) -> None:
        if self.input_size < 8 or self.mask_size < 1:
            raise InputError(
                f"HopeProcessorConfig: input_size >= 8 and mask_size >= 1 expected, found "
                f"{self.input_size}, {self.mask_size}"
            )
        for name in ("crop_factor", "hand_factor", "object_factor"):
            if not 0 < getattr(self, name) < 100:
                raise InputError(f"HopeProcessorConfig.{name}: found {getattr(self, name)}")
        choices: dict[str, tuple[str, ...]] = {
            "crop_rule": ("label", "boxes", "hand"),
            "clip_rule": ("cut", "slide"),
            "interpolation": ("nearest", "bilinear"),
            "camera": ("affine", "virtual"),
            "pnp": ("official", "sound"),
            "objects": ("grasped", "all", "none"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"HopeProcessorConfig.{name}: expected one of {allowed}, "
                    f"found {getattr(self, name)!r}"
                )

        if self.camera == "virtual" and (
            self.interpolation != "bilinear" or self.crop_rule != "hand" or self.clip_to_image
        ):
            raise InputError(
                "HopeProcessorConfig.camera: virtual needs interpolation bilinear, crop_rule hand "
                f"and clip_to_image False, found {self.interpolation}, {self.crop_rule}, "
                f"{self.clip_to_image}"
            )

    def fitted(self, config: Any) -> Self:
        """The same for what a network's configuration says: its input size."""
        return dataclasses.replace(self, input_size=config.input_size)

    @classmethod
    def deployable(cls, input_size: int = 128, *, paired: bool = False) -> Self:
        """The sound variant for our own models: nothing the photo and a detector cannot give."""
        return cls(
            input_size=input_size,
            crop_rule="boxes",
            largest_crop=2.5,
            truncate_centres=False,
            clip_to_image=False,
            interpolation="bilinear",
            augmentation=Augmentation.strong(),
            paired=paired,
            pnp="sound",
            objects="grasped",
        )

    @classmethod
    def deployable_hand(cls, input_size: int = 128) -> HopeProcessorConfig:
        """The same for methods that know no objects: the crop shows the hand alone."""
        chosen = cls.deployable(input_size)
        return dataclasses.replace(chosen, crop_rule="hand", objects="none")

    @classmethod
    def hand_alone(cls, input_size: int) -> HopeProcessorConfig:
        """The crop of HandOccNet's, H2ONet's and HandBooster's own code: the hand alone."""
        return cls(
            input_size=input_size,
            crop_rule="hand",
            truncate_centres=False,
            clip_rule="slide",
            interpolation="bilinear",
            augmentation=Augmentation.hand_alone(),
            objects="none",
        )

    @classmethod
    def unihope(
        cls, input_size: int, dataset: Literal["dexycb", "ho3d"] = "dexycb", *, hand: bool = False
    ) -> HopeProcessorConfig:
        """What UniHOPE's released code gives every method that it compares. hand: the method knows
        no objects (its crop takes them in all the same).
        """
        ho3d = dataset == "ho3d"
        return cls(
            input_size=input_size,
            augmentation=Augmentation.ho3d() if ho3d else Augmentation.dexycb(),
            occlusion_threshold=0.8 if ho3d else 0.9,
            objects="none" if hand else "all",
        )

    @classmethod
    def trained_on(cls, preparation: str) -> HopeProcessorConfig:
        """For a training's `preparation`: "deployable", or UniHOPE's for "dexycb" or "ho3d"."""
        if preparation == "deployable":
            return cls.deployable()
        if preparation not in ("dexycb", "ho3d"):
            raise InputError(
                "TrainConfig.preparation: expected deployable, dexycb or ho3d for a method that "
                f"knows objects, found {preparation!r}"
            )
        return cls.unihope(128, "ho3d" if preparation == "ho3d" else "dexycb")

    @classmethod
    def hand_trained_on(cls, preparation: str) -> HopeProcessorConfig:
        """The same for methods that know no objects; and "hand_alone"."""
        if preparation == "deployable":
            return cls.deployable_hand()
        if preparation == "hand_alone":
            return cls.hand_alone(128)
        return dataclasses.replace(cls.trained_on(preparation), objects="none")
