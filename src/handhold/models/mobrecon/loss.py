"""MobRecon's losses (paper section 3.4; weights of the released code)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from handhold.errors import InputError
from handhold.models.nn.hope_losses import known_pose, masked_mean, need, with_hand_targets
from handhold.models.nn.mesh_losses import edge_term, joints2d_term, normal_term
from handhold.scene import Batch, Prediction

__all__ = ["MobReconLossConfig", "loss", "with_hand_targets"]


@dataclass(frozen=True, kw_only=True)
class MobReconLossConfig:
    """Weights of the terms: vertices and joints2d (mean absolute errors; joints2d as shares of the
    crop), normal, edge; and unit: metres in one unit of the vertex and edge terms.

    joints: of ours, off by default: mean absolute error of the joints, in the same unit.
    """

    vertices: float = 1.0
    joints2d: float = 1.0
    normal: float = 0.1
    edge: float = 1.0
    joints: float = 0.0
    unit: float = 1.0

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if not value >= 0 or (item.name == "unit" and value == 0):
                raise InputError(
                    f"{type(self).__name__}.{item.name}: expected not negative, found {value}"
                )

    @classmethod
    def handmesh(cls) -> MobReconLossConfig:
        """HandMesh: vertices in units of 0.2 m, so that they count five times as much."""
        return cls(unit=0.2)

    @classmethod
    def handmesh_two_views(cls) -> MobReconLossConfig:
        """HandMesh with two augmented views of each photo: per view; the terms between the views
        are not part of this function."""
        return cls(unit=0.2, normal=0.05, edge=0.5)

    @classmethod
    def small(cls) -> MobReconLossConfig:
        """For the small network: errors in decimetres, and the joints as well."""
        return cls(unit=0.1, joints=1.0)


def loss(
    prediction: Prediction, batch: Batch, config: MobReconLossConfig | None = None
) -> dict[str, Tensor]:
    """Named, weighted terms and their sum `total`.

    batch: with `vertices` (B, 778, 3) and `joints2d` (B, 21, 2), and `joints` where that weight is
    on. prediction: of a network that gives the mesh's `faces` in features. Samples without 3D pose
    (`has_pose` False) take part in joints2d only, unlabelled 2D joints in none. Raises InputError
    when a label or output is missing.
    """
    config = MobReconLossConfig() if config is None else config
    known, faces = known_pose(batch), need("features['faces']", prediction.features.get("faces"))
    found = need("prediction.vertices", prediction.vertices).float() / config.unit
    target = need("batch.vertices", batch.vertices).float() / config.unit
    terms = {
        "vertices": masked_mean((found - target).abs(), known),
        "joints2d": joints2d_term(prediction, batch),
        "normal": normal_term(found, target, faces, known),
        "edge": edge_term(found, target, faces, known),
    }
    if config.joints > 0:
        true_joints = need("batch.joints", batch.joints).float()
        error = (prediction.joints.float() - true_joints).abs() / config.unit
        terms["joints"] = masked_mean(error, known)
    weighted = {name: getattr(config, name) * value for name, value in terms.items()}
    return weighted | {"total": sum(weighted.values(), start=found.new_zeros(()))}
