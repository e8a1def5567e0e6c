"""HFL-Net's losses (paper section 3.4; weights of the released code) and optional ones of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from handhold.errors import InputError
from handhold.models.nn.hope_losses import (
    extra_terms,
    hand_terms,
    labelled_object,
    object_terms,
    with_hand_targets,
)
from handhold.scene import Batch, Prediction

__all__ = ["HFLNetLossConfig", "loss", "weighted", "with_hand_targets"]

HAND = ("vertices", "joints", "rotations", "shape", "joints2d")
EXTRA = (
    "relative_joints",
    "relative_vertices",
    "rotation_l1",
    "joints2d_l1",
    "heatmap",
    "reprojection",
    "pose_prior",
    "shape_prior",
    "object_class",
)


@dataclass(frozen=True, kw_only=True)
class HFLNetLossConfig:
    """Weights of the terms. First the original's, then ours (`hope_losses.extra_terms`), which are
    off by default: a weight of 0 leaves a term out."""

    vertices: float = 1e4
    joints: float = 1e4
    rotations: float = 10.0
    shape: float = 0.1
    joints2d: float = 1e2
    object_points: float = 500.0
    object_confidence: float = 100.0
    relative_joints: float = 0.0
    relative_vertices: float = 0.0
    rotation_l1: float = 0.0
    joints2d_l1: float = 0.0
    heatmap: float = 0.0
    reprojection: float = 0.0
    pose_prior: float = 0.0
    shape_prior: float = 0.0
    object_class: float = 0.0

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int | float) and not value >= 0:
                raise InputError(
                    f"{type(self).__name__}.{item.name}: expected not negative, found {value}"
                )

    @classmethod
    def small(cls) -> HFLNetLossConfig:
        """For the small network and mixed data (synthetic scenes and photos with 2D labels)."""
        return cls(**SMALL)


# Balanced by the gradients that reach the backbone: with the original's proportions 3D joints and
# switch outshout the heat maps a hundredfold, and the small network learns 2D joints very slowly.
SMALL = {
    "vertices": 0.0,
    "joints": 150.0,
    "rotations": 3.0,
    "shape": 0.01,
    "joints2d": 20.0,
    "object_points": 50.0,
    "object_confidence": 5.0,
    "relative_joints": 40.0,
    "relative_vertices": 15.0,
    "joints2d_l1": 10.0,
    "heatmap": 8.0,
    "reprojection": 8.0,
    "pose_prior": 0.0,
    "shape_prior": 0.01,
    "object_class": 0.3,
}


def weighted(terms: Mapping[str, Tensor], config: HFLNetLossConfig) -> dict[str, Tensor]:
    """The terms times their weights, without those of weight 0."""
    weights = {name: float(getattr(config, name)) for name in terms}
    return {name: weights[name] * value for name, value in terms.items() if weights[name] > 0}


def hand_losses(
    prediction: Prediction, batch: Batch, config: HFLNetLossConfig
) -> dict[str, Tensor]:
    """The weighted terms of one hand: the original's, and ours if any is on."""
    terms = hand_terms(prediction, batch)
    if any(getattr(config, name) > 0 for name in EXTRA):
        terms |= extra_terms(prediction, batch)
    return weighted(terms, config)


def loss(
    prediction: Prediction, batch: Batch, config: HFLNetLossConfig | None = None
) -> dict[str, Tensor]:
    """Named, weighted terms and their sum `total`.

    batch: with `joints` and `vertices` of the hand model (`with_hand_targets`). Samples without 3D
    pose get the 2D terms only, samples without labelled object no object terms. Raises InputError
    when a label or output is missing.
    """
    config = HFLNetLossConfig() if config is None else config
    terms = hand_losses(prediction, batch, config)
    terms |= weighted(object_terms(prediction, batch, labelled_object(batch)), config)
    return terms | {"total": sum(terms.values(), start=prediction.joints.new_zeros(()))}
