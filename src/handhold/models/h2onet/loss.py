"""H2ONet's losses (paper section 3.4; weights of the released code)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from handhold.errors import InputError
from handhold.geometry.rotation import axis_angle_to_matrix_manopth
from handhold.models.nn.hope_losses import known_pose, masked_mean, need, with_hand_targets
from handhold.models.nn.mesh_losses import edge_term, joints2d_term, normal_term
from handhold.scene import Batch, Prediction

__all__ = ["H2ONetLossConfig", "canonical", "loss", "with_hand_targets"]


@dataclass(frozen=True, kw_only=True)
class H2ONetLossConfig:
    """Weights of the terms. Of the hand without global rotation: vertices, joints (mean absolute
    errors, metres), normal, edge. joints2d: mean absolute error as share of the crop. Of the final
    hand: turned_vertices, turned_joints (mean absolute), rotation (mean squared error of the 3x3
    matrices). Defaults: the second training stage."""

    vertices: float = 1.0
    joints: float = 1.0
    normal: float = 0.1
    edge: float = 1.0
    joints2d: float = 1.0
    turned_vertices: float = 1.0
    turned_joints: float = 1.0
    rotation: float = 1.0

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if not value >= 0:
                raise InputError(
                    f"{type(self).__name__}.{item.name}: expected not negative, found {value}"
                )

    @classmethod
    def first_stage(cls) -> H2ONetLossConfig:
        """Without the orientation losses; with them from the start the loss may become NaN."""
        return cls(turned_vertices=0.0, turned_joints=0.0, rotation=0.0)

    @classmethod
    def small(cls) -> H2ONetLossConfig:
        """For the small network: metres count ten times as much."""
        return cls(vertices=10.0, joints=10.0, edge=10.0, turned_vertices=10.0, turned_joints=10.0)


def canonical(points: Tensor, joints: Tensor, rotation: Tensor) -> Tensor:
    """Points (B, N, 3) of a posed hand as they are without its global rotation (B, 3, 3).

    joints (B, 21, 3): of the same hand in the same frame; the hand model turns about joint 0."""
    root = joints[:, :1]
    return (points - root) @ rotation + root  # rows times R = R^T times columns


def loss(
    prediction: Prediction, batch: Batch, config: H2ONetLossConfig | None = None
) -> dict[str, Tensor]:
    """Named, weighted terms and their sum `total`; terms of weight 0 are left out.

    batch: with `pose`, `joints`, `vertices` (of the hand model, un-centred) and `joints2d`. Samples
    without 3D pose (`has_pose` False) take part in joints2d only, unlabelled 2D joints in none.
    Raises InputError when a label or output is missing.
    """
    config = H2ONetLossConfig() if config is None else config
    known, features = known_pose(batch), prediction.features
    faces = need("features['faces']", features.get("faces"))
    found = need("features['canonical_vertices']", features.get("canonical_vertices")).float()
    found_joints = need("features['canonical_joints']", features.get("canonical_joints")).float()
    true_vertices = need("batch.vertices", batch.vertices).float()
    true_joints = need("batch.joints", batch.joints).float()
    rotation = axis_angle_to_matrix_manopth(need("batch.pose", batch.pose)[:, 0].float())
    target = canonical(true_vertices, true_joints, rotation)
    target_joints = canonical(true_joints, true_joints, rotation)
    vertices = need("prediction.vertices", prediction.vertices).float()
    turn = need("features['rotation']", features.get("rotation")).float()
    terms = {
        "vertices": masked_mean((found - target).abs(), known),
        "joints": masked_mean((found_joints - target_joints).abs(), known),
        "normal": normal_term(found, target, faces, known),
        "edge": edge_term(found, target, faces, known),
        "joints2d": joints2d_term(prediction, batch),
        "turned_vertices": masked_mean((vertices - true_vertices).abs(), known),
        "turned_joints": masked_mean((prediction.joints.float() - true_joints).abs(), known),
        "rotation": masked_mean((turn - rotation) ** 2, known),
    }
    weights = dataclasses.asdict(config)
    weighted = {name: weights[name] * value for name, value in terms.items() if weights[name] > 0}
    return weighted | {"total": sum(weighted.values(), start=found.new_zeros(()))}
