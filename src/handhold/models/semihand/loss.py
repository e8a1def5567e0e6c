"""Liu et al.'s losses (weights of the released code) and optional ones of ours.

The terms of the hand and the object are those of HFL-Net, weights included; two regularisers come
on top.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from handhold.errors import InputError
from handhold.geometry.rotation import matrix_to_axis_angle
from handhold.models.hflnet.loss import SMALL, HFLNetLossConfig, hand_losses, weighted
from handhold.models.nn.hope_losses import (
    known_pose,
    labelled_object,
    masked_mean,
    need,
    object_terms,
    with_hand_targets,
)
from handhold.scene import Batch, Prediction

__all__ = ["SemiHandLossConfig", "loss", "with_hand_targets"]


@dataclass(frozen=True, kw_only=True)
class SemiHandLossConfig(HFLNetLossConfig):
    """HFLNetLossConfig's weights, and:

    shape_regulariser: mean squared shape number. pose_regulariser: mean squared entry of what
    regularised_pose names: "matrices", the rotation matrices of MANO's last 13 joints (the code),
    which is 1/3 for every rotation and so teaches nothing; "angles", the axis-angles of the 15
    finger joints, which is what the code's slice would be of a vector of 48 angles.
    regularised_samples: "all" (UniHOPE's copy), or "unlabelled": only samples without 3D pose (the
    original's loss for such samples).
    """

    shape_regulariser: float = 100.0
    pose_regulariser: float = 1.0
    regularised_pose: Literal["matrices", "angles"] = "matrices"
    regularised_samples: Literal["all", "unlabelled"] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {
            "regularised_pose": ("matrices", "angles"),
            "regularised_samples": ("all", "unlabelled"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"SemiHandLossConfig.{name}: expected one of {', '.join(allowed)}, "
                    f"found {getattr(self, name)!r}"
                )

    @classmethod
    def sound(cls) -> SemiHandLossConfig:
        """Regularisers that act, and only where nothing better is known."""
        return cls(regularised_pose="angles", regularised_samples="unlabelled")

    @classmethod
    def small(cls) -> SemiHandLossConfig:
        """For the small network and mixed data (synthetic scenes and photos with 2D labels)."""
        # `shape_prior` regularises
        return dataclasses.replace(cls(shape_regulariser=0.0, pose_regulariser=0.0), **SMALL)


def regularisers(
    prediction: Prediction, batch: Batch, config: SemiHandLossConfig
) -> dict[str, Tensor]:
    """The two regularisers without their weights; 0 where no sample takes part."""
    known = known_pose(batch)
    chosen = torch.ones_like(known) if config.regularised_samples == "all" else ~known
    betas = need("prediction.betas", prediction.betas).float()
    rotations = need("prediction.rotations", prediction.rotations).float()
    if config.regularised_pose == "matrices":
        pose = rotations[:, 3:]
    else:
        pose = matrix_to_axis_angle(rotations[:, 1:])
    return {
        "shape_regulariser": masked_mean(betas**2, chosen),
        "pose_regulariser": masked_mean(pose**2, chosen),
    }


def loss(
    prediction: Prediction, batch: Batch, config: SemiHandLossConfig | None = None
) -> dict[str, Tensor]:
    """Named, weighted terms and their sum `total`.

    batch: with `joints` and `vertices` of the hand model (`with_hand_targets`). Samples without 3D
    pose get the 2D terms and the regularisers only, samples without labelled object no object
    terms. Raises InputError when a label or output is missing.
    """
    config = SemiHandLossConfig() if config is None else config
    terms = hand_losses(prediction, batch, config)
    terms |= weighted(object_terms(prediction, batch, labelled_object(batch)), config)
    terms |= weighted(regularisers(prediction, batch, config), config)
    return terms | {"total": sum(terms.values(), start=prediction.joints.new_zeros(()))}
