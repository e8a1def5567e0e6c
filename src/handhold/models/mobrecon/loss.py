"""MobRecon's losses (paper section 3.4; weights of the released code)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from handhold.errors import InputError
from handhold.models.nn.hope_losses import known_pose, masked_mean, need, with_hand_targets
from handhold.models.nn.mesh_losses import edge_term, joints2d_term, normal_term
from handhold.scene import Batch, Prediction

__all__ = ["MobReconLossConfig", "consistency", "loss", "with_hand_targets"]


@dataclass(frozen=True, kw_only=True)
class MobReconLossConfig:
    """Weights of the terms: vertices and joints2d (mean absolute errors; joints2d as shares of the
    crop), normal, edge; and unit: metres in one unit of the vertex and edge terms.

    joints: of ours, off by default: mean absolute error of the joints, in the same unit.
    views_vertices, views_joints2d: of what two views of each photo say (`consistency`); with either
    on, a batch holds the photos twice, cropped anew, in the same order.
    """

    vertices: float = 1.0
    joints2d: float = 1.0
    normal: float = 0.1
    edge: float = 1.0
    joints: float = 0.0
    unit: float = 1.0
    views_vertices: float = 0.0
    views_joints2d: float = 0.0

    @property
    def two_views(self) -> bool:
        """Whether a batch must hold every photo twice."""
        return self.views_vertices > 0 or self.views_joints2d > 0

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
        """HandMesh with two augmented views of each photo. Its 0.05 and 0.5 per view for normal and
        edge are 0.1 and 1 of the mean over both. The terms between views begin after five epochs:
        train these with `handmesh()`, then start from the result.
        """
        return cls(unit=0.2, views_vertices=1.0, views_joints2d=1.0)

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
    when a label or output is missing, and for `two_views` where the batch's halves differ.
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
    if config.two_views:
        terms |= consistency(prediction, batch, config.unit)
    weighted = {name: getattr(config, name) * value for name, value in terms.items()}
    return weighted | {"total": sum(weighted.values(), start=found.new_zeros(()))}


def consistency(prediction: Prediction, batch: Batch, unit: float = 1.0) -> dict[str, Tensor]:
    """How far two views of the same photos contradict each other, with or without labels.

    The first half of the batch and the second are the same hands, each cropped (and turned in the
    image plane) by its own `crop` (B, 3, 3). views_vertices: mean absolute difference between the
    first view's vertices, turned about the origin by the difference of the angles, and the second's
    (units of `unit` metres; for vertices from the wrist, `mano_center=0`). views_joints2d: that of
    the 2D joints in the photo, over the crop's side in pixels. Raises InputError where the halves
    differ.
    """
    count, size = len(batch) // 2, batch.image.shape[-1]
    maps = need("batch.crop", batch.crop).float()
    mirrored = need("batch.mirrored", batch.mirrored).bool()
    keys = batch.keys
    same = torch.equal(mirrored[:count], mirrored[count:]) and keys[:count] == keys[count:]
    if len(batch) != 2 * count or not same:
        raise InputError("Batch: expected two views of each photo, all first ones, then all second")
    sign = torch.where(mirrored, -1.0, 1.0)
    angle = sign * torch.atan2(maps[:, 1, 0], maps[:, 0, 0])
    between = angle[count:] - angle[:count]
    cos, sin, zero = between.cos(), between.sin(), torch.zeros_like(between)
    flat = torch.stack((cos, -sin, zero, sin, cos, zero, zero, zero, zero + 1), dim=-1)
    turn = flat.unflatten(-1, (3, 3))
    vertices = need("prediction.vertices", prediction.vertices).float() / unit
    turned = vertices[:count] @ turn.transpose(1, 2)

    joints = need("prediction.joints2d", prediction.joints2d).float()
    upright = torch.where(mirrored[:, None], size - 1 - joints[..., 0], joints[..., 0])
    crop = torch.stack((upright, joints[..., 1], torch.ones_like(upright)), dim=-1)
    photo = (crop @ torch.linalg.inv(maps).transpose(1, 2))[..., :2]
    return {
        "views_vertices": (turned - vertices[count:]).abs().mean(),
        "views_joints2d": (photo[:count] - photo[count:]).abs().mean() / size,
    }
