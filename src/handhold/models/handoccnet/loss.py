"""HandOccNet's losses (paper section 3.5; weights of the released code)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from handhold.errors import InputError
from handhold.geometry.rotation import axis_angle_to_matrix_manopth
from handhold.models.nn.hope_losses import (
    heatmap_divergence,
    known_pose,
    masked_mean,
    need,
    with_hand_targets,
)
from handhold.scene import Batch, Prediction

__all__ = ["HandOccNetLossConfig", "loss", "with_hand_targets"]


@dataclass(frozen=True, kw_only=True)
class HandOccNetLossConfig:
    """Weights of the mean squared errors; 0 leaves a term out. vertices, joints: in metres, in the
    hand model's own frame. rotations: elements of the 16 matrices as the head says them (relative
    to the mean pose where the network adds it). shape: the betas. joints2d: in 0..1 of the crop.
    heatmap (ours, off): `hope_losses.heatmap_divergence`, as a soft arg-max alone learns slowly
    without a pretrained backbone."""

    vertices: float = 1e4
    joints: float = 1e4
    rotations: float = 10.0
    shape: float = 0.1
    joints2d: float = 100.0
    heatmap: float = 0.0

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            if not getattr(self, item.name) >= 0:
                raise InputError(
                    f"{type(self).__name__}.{item.name}: expected not negative, "
                    f"found {getattr(self, item.name)}"
                )

    @classmethod
    def small(cls) -> HandOccNetLossConfig:
        """For the small network: the heat maps are heard from the start."""
        return cls(vertices=2e3, joints=2e3, rotations=3.0, shape=0.05, joints2d=100.0, heatmap=8.0)


def loss(
    prediction: Prediction, batch: Batch, config: HandOccNetLossConfig | None = None
) -> dict[str, Tensor]:
    """Named, weighted terms and their sum `total`.

    batch: with `joints` and `vertices` of the hand model (`with_hand_targets`, not centred), `pose`
    (flat convention), `betas`, `joints2d`. Samples without 3D pose and unlabelled 2D joints take no
    part. Raises InputError when a label or output is missing.
    """
    config = HandOccNetLossConfig() if config is None else config
    known = known_pose(batch)
    relative = need("prediction.features", prediction.features.get("relative_rotations")).float()
    added = need("prediction.features", prediction.features.get("added_pose")).float()
    target = axis_angle_to_matrix_manopth(need("batch.pose", batch.pose).float() - added)
    vertices = need("prediction.vertices", prediction.vertices).float()
    betas = need("prediction.betas", prediction.betas).float()
    joints2d = need("prediction.joints2d", prediction.joints2d).float()
    target2d = need("batch.joints2d", batch.joints2d).float()
    valid = batch.joints2d_valid
    valid = torch.ones_like(target2d[..., 0], dtype=torch.bool) if valid is None else valid.bool()
    in_crop = (joints2d - target2d) / batch.image.shape[-1]
    terms = {
        "vertices": masked_mean((vertices - need("batch.vertices", batch.vertices)) ** 2, known),
        "joints": masked_mean(
            (prediction.joints.float() - need("batch.joints", batch.joints)) ** 2, known
        ),
        "rotations": masked_mean((relative - target) ** 2, known),
        "shape": masked_mean((betas - need("batch.betas", batch.betas)) ** 2, known),
        "joints2d": masked_mean(in_crop**2, valid),
    }
    if config.heatmap > 0:
        scores = need("prediction.features", prediction.features.get("heatmap_scores"))
        place = target2d / batch.image.shape[-1]
        terms["heatmap"] = heatmap_divergence(scores, place, valid)
    weights = {name: float(getattr(config, name)) for name in terms}
    result = {name: weights[name] * terms[name] for name in terms if weights[name] > 0}
    return result | {"total": sum(result.values(), start=prediction.joints.new_zeros(()))}
