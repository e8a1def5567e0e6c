"""The denoiser's loss (HandBooster, equation 2): what the network's clean crop lacks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from handhold.errors import InputError
from handhold.scene import _Tensors  # the shared way of moving tensors


@dataclass(frozen=True, kw_only=True)
class HandBoosterLossConfig:
    """distance: "l1" as in the released code, or the paper's "l2". background: weight of pixels
    that show neither hand nor object; those that do weigh 1. inert: the released behaviour, the
    background's weight everywhere, because its test for the foreground can never be true.
    largest_snr: no step weighs more than this (Hang et al., ICCV 2023); both originals have no
    limit, so that the step with the least noise weighs 9,999 and that with the most 4e-5.
    Raises InputError for anything else.
    """

    distance: Literal["l1", "l2"] = "l1"
    background: float = 0.1
    inert: bool = False
    largest_snr: float = math.inf

    def __post_init__(self) -> None:
        if self.distance not in ("l1", "l2"):
            raise InputError(
                f"HandBoosterLossConfig.distance: expected l1 or l2, found {self.distance!r}"
            )
        if not self.background >= 0 or not self.largest_snr > 0:
            raise InputError(
                "HandBoosterLossConfig: expected background of 0 or more and a positive "
                f"largest_snr, found {self.background} and {self.largest_snr}"
            )

    @classmethod
    def paper(cls) -> HandBoosterLossConfig:
        """As printed: squares, and a foreground that is told apart."""
        return cls(distance="l2")

    @classmethod
    def released(cls) -> HandBoosterLossConfig:
        """As the released code runs."""
        return cls(inert=True)


@dataclass(frozen=True, kw_only=True)
class DiffusionBatch(_Tensors):
    """B crops with their conditions. image, texture, normal (B, 3, S, S) in 0..1; quaternion (B, 4)
    of the hand's global rotation; foreground (B, 1, S, S), 1 where hand or object is rendered.
    """

    image: Tensor
    texture: Tensor
    normal: Tensor
    quaternion: Tensor
    foreground: Tensor
    keys: Any = ()

    def __len__(self) -> int:
        return int(self.image.shape[0])


def loss(
    clean: Tensor,
    target: Tensor,
    snr: Tensor,
    foreground: Tensor | None = None,
    config: HandBoosterLossConfig | None = None,
) -> dict[str, Tensor]:
    """The term `denoise` and `total`, the same number.

    clean, target: (B, 3, S, S), both in -1..1. snr (B,): abar / (1 - abar) of each sample's step.
    foreground (B, 1, S, S): 1 inside, 0 outside; not needed where the weight is inert. Raises
    InputError for shapes that do not agree and for a missing foreground.
    """
    config = config or HandBoosterLossConfig()
    if clean.shape != target.shape or snr.shape != clean.shape[:1]:
        raise InputError(
            f"loss: expected clean and target of one shape and an snr for each, found "
            f"{tuple(clean.shape)}, {tuple(target.shape)}, {tuple(snr.shape)}"
        )
    error = (clean - target).abs() if config.distance == "l1" else (clean - target).square()
    if config.inert:
        error = error * config.background
    elif foreground is None or foreground.shape[2:] != clean.shape[2:]:
        found = None if foreground is None else tuple(foreground.shape)
        raise InputError(f"loss: expected foreground (B, 1, H, W) as the crops, found {found}")
    else:
        error = error * (config.background + (1 - config.background) * foreground)
    weight = snr.clamp_max(config.largest_snr) if math.isfinite(config.largest_snr) else snr
    term = (error.flatten(1).mean(1) * weight).mean()
    return {"denoise": term, "total": term}
