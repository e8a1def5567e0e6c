"""HOISDF's losses (paper section 3.4; forms and weights of the released code).

A sample without a label takes no part in that term, a term nobody has a label for is 0.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from handhold.errors import InputError
from handhold.geometry.rotation import axis_angle_to_matrix_manopth
from handhold.models.nn.hope_losses import known_pose, mapped_pixels, masked_mean, need
from handhold.scene import Batch, Prediction

MM = 1000.0
HEATMAP_PEAK, HEATMAP_SIGMA = 255.0, 1.25  # the latter in cells of the map


@dataclass(frozen=True, kw_only=True)
class HOISDFLossConfig:
    """Weights of the terms and their settings. A weight of 0 leaves a term out.

    hand_sdf, object_sdf: mean absolute error of the normalised distances (metres times `scale`),
    both clamped to +-`clamp`. heatmap: squared error, peak 255. hand_pixels, object_pixels: binary
    cross-entropy. votes, voted_joints: SmoothL1 in millimetres; vote_class: binary cross-entropy of
    "nearer to the joint than `vote_reach`" (metres). vertices, joints (metres), rotations
    (matrices), betas: squared errors over all decoder layers. shape_prior: mean squared betas (the
    original has it with the kinematics head only, 1e-6). object_rotation (axis-angle),
    object_translation (metres): SmoothL1 over all layers and points. spare_unlabelled: the map
    teaches nothing beside the labelled bells where a joint has no label; the original teaches "no
    joint" there, which is right where joints lack labels for being outside the photo.
    """

    hand_sdf: float = 50.0
    object_sdf: float = 25.0
    heatmap: float = 1e-3
    hand_pixels: float = 1.0
    object_pixels: float = 1.0
    votes: float = 0.1
    vote_class: float = 1.0
    voted_joints: float = 0.1
    vertices: float = 1e4
    joints: float = 1e4
    rotations: float = 10.0
    betas: float = 0.1
    shape_prior: float = 0.0
    object_rotation: float = 0.7
    object_translation: float = 100.0
    scale: float = 3.1
    clamp: float = 0.15
    vote_reach: float = 0.04
    spare_unlabelled: bool = False

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if not value >= 0:
                raise InputError(
                    f"HOISDFLossConfig.{item.name}: expected not negative, found {value}"
                )

    @classmethod
    def small(cls) -> HOISDFLossConfig:
        """For training from nothing: maps, fields and votes weigh less, the hand more."""
        return cls(
            hand_sdf=10.0,
            object_sdf=5.0,
            heatmap=1e-4,
            votes=0.03,
            voted_joints=0.03,
            vertices=1e5,
            joints=1e5,
            spare_unlabelled=True,
        )

    @classmethod
    def kinematics(cls) -> HOISDFLossConfig:
        """For `hand_head="kinematics"`: the pose is no output of its own."""
        return cls(rotations=0.0, shape_prior=1e-6)


def loss(
    prediction: Prediction, batch: Batch, config: HOISDFLossConfig | None = None
) -> dict[str, Tensor]:
    """Named, weighted terms and their sum `total`.

    batch: a HOISDFBatch with the targets, `joints` and `vertices` those of the hand model (their
    wrists are taken as origin here). Targets that are None leave their terms out; raises InputError
    where the hand's are missing.
    """
    config = HOISDFLossConfig() if config is None else config
    found = terms(prediction, batch, config)
    weights = {name: float(getattr(config, name)) for name in found}
    kept = {name: weights[name] * value for name, value in found.items() if weights[name] > 0}
    return kept | {"total": sum(kept.values(), start=prediction.joints.new_zeros(()))}


def terms(prediction: Prediction, batch: Batch, config: HOISDFLossConfig) -> dict[str, Tensor]:
    """All terms that the batch has targets for, each a scalar without its weight."""
    return (
        distance_terms(prediction, batch, config)
        | map_terms(prediction, batch, spare_unlabelled=config.spare_unlabelled)
        | vote_terms(prediction, batch, config)
        | hand_terms(prediction, batch)
        | object_terms(prediction, batch)
    )


def distance_terms(
    prediction: Prediction, batch: Batch, config: HOISDFLossConfig
) -> dict[str, Tensor]:
    """hand_sdf, object_sdf. A hand without pose or place, an image without object has none, nor
    has an object beside such a hand."""
    known = {"hand": known_pose(batch), "object": known_object(batch)}
    drawn = getattr(batch, "has_sdf", None)
    if drawn is not None:
        known = {target: rows & drawn.bool() for target, rows in known.items()}
    result = {}
    for target in ("hand", "object"):
        truth = getattr(batch, f"{target}_sdf", None)
        found = prediction.features.get(f"{target}_sdf")
        if truth is None or found is None:
            continue
        limits = (-config.clamp, config.clamp)
        error = (config.scale * found.float()).clamp(*limits)
        error = error - (config.scale * truth.float()).clamp(*limits)
        result[f"{target}_sdf"] = masked_mean(error.abs(), known[target])
    return result


def map_terms(
    prediction: Prediction, batch: Batch, *, spare_unlabelled: bool = False
) -> dict[str, Tensor]:
    """heatmap, hand_pixels, object_pixels."""
    features, result = prediction.features, {}
    if batch.joints2d is not None:
        found = features["heatmap"].float()
        valid = batch.joints2d_valid
        if valid is None:
            valid = torch.ones_like(batch.joints2d[..., 0], dtype=torch.bool)
        ratio = found.shape[-1] / batch.image.shape[-1]
        target = heatmap_target(batch.joints2d.float() * ratio, valid, found.shape[-1])
        valid = valid.bool()
        sure = mapped_pixels(target, valid) if spare_unlabelled else valid.any(dim=1)
        result["heatmap"] = masked_mean((found - target) ** 2, sure)
    known = getattr(batch, "has_pixels", None)
    if known is None:
        known = torch.ones(len(batch), dtype=torch.bool, device=batch.image.device)
    for name in ("hand_pixels", "object_pixels"):
        truth = getattr(batch, name, None)
        if truth is not None:
            error = F.binary_cross_entropy_with_logits(
                features[name].float(), truth.float(), reduction="none"
            )
            result[name] = masked_mean(error, known)
    return result


def heatmap_target(points: Tensor, valid: Tensor, size: int) -> Tensor:
    """points (B, J, 2) in cells, valid (B, J) -> (B, size, size): the sum of the joints' bells."""
    line = torch.arange(size, device=points.device, dtype=points.dtype)
    away = (line - torch.where(valid.bool()[..., None], points, 0.0)[..., None]) ** 2
    column, row = torch.exp(-away / (2 * HEATMAP_SIGMA**2)).unbind(dim=2)  # (B, J, size)
    return HEATMAP_PEAK * torch.einsum("bjy,bjx,bj->byx", row, column, valid.to(points.dtype))


def vote_terms(prediction: Prediction, batch: Batch, config: HOISDFLossConfig) -> dict[str, Tensor]:
    """votes: of the points nearer to a joint than `vote_reach`, the sum over the samples divided by
    their number (the original divides 0 by 0 where there are none), then the mean over layers and
    axes; vote_class; voted_joints: the joints the points agree on."""
    features, known = prediction.features, known_pose(batch)
    joints = getattr(batch, "vote_joints", None)
    if joints is None:
        joints = need("batch.joints", batch.joints)
        joints = joints - joints[:, :1]
    joints = torch.where(known[:, None, None], joints.float(), 0.0)[:, 1:]
    points = features["query_points"].float()
    way = joints[:, None] - points[:, :, None]  # (B, N, 20, 3)
    near = (way.norm(dim=-1) < config.vote_reach) & known[:, None, None]  # (B, N, 20)
    offsets = features["vote_offsets"].float()  # (B, layers, N, 20, 3)
    error = F.smooth_l1_loss(MM * offsets, MM * way[:, None].expand_as(offsets), reduction="none")
    layers = offsets.shape[1]
    near = near[:, None, :, :, None]
    votes = torch.where(near, error, 0.0).sum() / (near.sum().clamp_min(1) * layers * 3)
    logits = features["vote_logits"].float()
    target = near[..., 0].expand_as(logits).to(logits.dtype)
    voted = features["layer_voted_joints"].float()
    return {
        "votes": votes,
        "vote_class": masked_mean(
            F.binary_cross_entropy_with_logits(logits, target, reduction="none"), known
        ),
        "voted_joints": masked_mean(
            F.smooth_l1_loss(MM * voted, MM * joints[:, None].expand_as(voted), reduction="none"),
            known,
        ),
    }


def hand_terms(prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
    """vertices, joints, rotations, betas over all decoder layers; shape_prior."""
    features, known = prediction.features, known_pose(batch)
    joints = need("batch.joints", batch.joints).float()
    vertices = need("batch.vertices", batch.vertices).float() - joints[:, :1]
    pose = need("batch.pose", batch.pose).float()
    targets = {
        "vertices": vertices,
        "joints": joints - joints[:, :1],
        "rotations": axis_angle_to_matrix_manopth(pose),
        "betas": need("batch.betas", batch.betas).float(),
    }
    result = {}
    for name, truth in targets.items():
        found = features[f"layer_{name}"].float()
        result[name] = masked_mean((found - truth[:, None]) ** 2, known)
    result["shape_prior"] = (features["layer_betas"].float() ** 2).mean()
    return result


def known_object(batch: Batch) -> Tensor:
    """(B,) bool: the object's pose is labelled; all when the batch does not say."""
    known = getattr(batch, "has_object", None)
    if known is None:
        return torch.ones(len(batch), dtype=torch.bool, device=batch.image.device)
    return known.bool()


def object_terms(prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
    """object_rotation, object_translation: of every point in every layer."""
    known, result = known_object(batch), {}
    for name, found in (
        ("object_rotation", prediction.features["point_rotations"]),
        ("object_translation", prediction.features["point_translations"]),
    ):
        truth = getattr(batch, name, None)
        if truth is not None:
            wanted = truth.float()[:, None, None].expand_as(found)
            error = F.smooth_l1_loss(found.float(), wanted, reduction="none")
            result[name] = masked_mean(error, known)
    return result
