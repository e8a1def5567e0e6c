"""Loss terms of the HOPE networks (HFL-Net, UniHOPE), each a scalar without its weight.

Every term is the mean over what is labelled: a sample without 3D pose (`has_pose` False) or an
unlabelled 2D joint takes no part. Nothing labelled: 0, with a gradient path. Float32.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from handhold.errors import InputError
from handhold.geometry.rotation import axis_angle_to_matrix_manopth, matrix_to_axis_angle
from handhold.hand.anatomy import pose_penalty
from handhold.hand.model import HandModel
from handhold.scene import Batch, Prediction


def with_hand_targets(batch: Batch, hand: HandModel, center: int | None = None) -> Batch:
    """The batch with `joints` and `vertices` that the hand model gives for its pose and betas.

    center: as in the network's configuration. Raises InputError when pose or betas are missing.
    """
    pose, betas = need("pose", batch.pose), need("betas", batch.betas)
    with torch.no_grad():
        posed = hand(pose, betas, center=center)
    return dataclasses.replace(batch, joints=posed.joints, vertices=posed.vertices)


def need(name: str, value: Tensor | None) -> Tensor:
    """The value; InputError names the field of the batch or the prediction when it is None."""
    if value is None:
        raise InputError(f"loss: needs {name}, found None")
    return value


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values (B, ...) over the items where mask (B, ...) is True; 0 for none.

    mask: of the leading axes of values."""
    mask = mask.bool().reshape(*mask.shape, *([1] * (values.ndim - mask.ndim)))
    count = mask.expand_as(values).sum()
    return torch.where(mask, values, 0.0).sum() / count.clamp_min(1)


def mapped_pixels(bells: Tensor, valid: Tensor) -> Tensor:
    """(B, H, W) bool: where a heat map of all joints at once is known.

    bells (B, H, W): those of the labelled joints, valid (B, J), 255 high. Everywhere if all joints
    are labelled; else only on the bells, as an unlabelled joint may be anywhere beside them.
    """
    return valid.all(dim=1)[:, None, None] | (bells > 1.0)


def known_pose(batch: Batch) -> Tensor:
    """(B,) bool: the 3D pose is labelled; all when the batch does not say."""
    if batch.has_pose is None:
        return torch.ones(len(batch), dtype=torch.bool, device=batch.image.device)
    return batch.has_pose.bool()


def hand_terms(prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
    """Mean squared errors: vertices, joints (metres), rotations (matrices), shape, joints2d
    (relative to the hand box)."""
    known = known_pose(batch)
    target = axis_angle_to_matrix_manopth(need("batch.pose", batch.pose).float())
    vertices = need("prediction.vertices", prediction.vertices).float()
    rotations = need("prediction.rotations", prediction.rotations).float()
    betas = need("prediction.betas", prediction.betas).float()
    found2d, target2d, valid = joints_in_box(prediction, batch)
    return {
        "vertices": masked_mean((vertices - need("batch.vertices", batch.vertices)) ** 2, known),
        "joints": masked_mean(
            (prediction.joints.float() - need("batch.joints", batch.joints)) ** 2, known
        ),
        "rotations": masked_mean((rotations - target) ** 2, known),
        "shape": masked_mean((betas - need("batch.betas", batch.betas)) ** 2, known),
        "joints2d": masked_mean((found2d - target2d) ** 2, valid),
    }


def joints_in_box(prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted and labelled 2D joints (B, 21, 2) relative to the hand box, and valid (B, 21)."""
    target = need("batch.joints2d", batch.joints2d).float()
    valid = batch.joints2d_valid
    valid = torch.ones_like(target[..., 0], dtype=torch.bool) if valid is None else valid.bool()
    found = prediction.features["joints2d_box"].float()
    return found, in_box(target, batch.hand_box), valid


def in_box(points: Tensor, box: Tensor) -> Tensor:
    """Points (B, N, 2) in crop pixels -> relative to boxes (B, 4)."""
    low, size = box[:, None, :2], (box[:, 2:] - box[:, :2])[:, None]
    return (points - low) / size.clamp_min(1e-6)


def labelled_object(batch: Batch) -> Tensor:
    """(B,) bool: the control points are labelled (the processor leaves zeros otherwise), and so is
    where the object is visible (-1 otherwise)."""
    points = need("batch.object_points2d", batch.object_points2d)
    mask = need("batch.object_mask", batch.object_mask)
    return (points != 0).flatten(1).any(dim=1) & (mask >= 0).flatten(1).all(dim=1)


def object_terms(prediction: Prediction, batch: Batch, chosen: Tensor) -> dict[str, Tensor]:
    """object_points: mean absolute error of x plus that of y, in object boxes, over all cells, the
    masked ones as zeros. object_confidence: mean |c - target|, target = mask * exp(-distance), no
    gradient. Over the samples chosen (B,), 0 for none."""
    found = prediction.features["object_box_points"].float()  # (B, N, 21, 2)
    confidence = need("prediction.object_confidence", prediction.object_confidence).float()
    cells = found.shape[1]
    mask = object_mask(batch, cells)[:, :, None]  # (B, N, 1)
    points = need("batch.object_points2d", batch.object_points2d)
    target = in_box(points.float(), batch.object_box)[:, None] * mask[..., None]
    error = found * mask[..., None] - target
    with torch.no_grad():
        sure = mask * torch.exp(-torch.linalg.vector_norm(error, dim=-1))
    chosen = chosen.bool()
    return {
        "object_points": 2 * masked_mean(error.abs(), chosen),
        "object_confidence": masked_mean((confidence - sure).abs(), chosen),
    }


def object_mask(batch: Batch, cells: int) -> Tensor:
    """The visible object in a network's cells: (B, R', R') of the batch -> (B, cells) of 0 and 1,
    each cell by the majority of what it covers."""
    mask = need("batch.object_mask", batch.object_mask).float()
    side = round(cells**0.5)
    if mask.shape[-1] != side:
        mask = (F.interpolate(mask[:, None], (side, side), mode="area")[:, 0] >= 0.5).float()
    return mask.flatten(1)


# ----------------------------------------------------------------------- terms of our own


def extra_terms(prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
    """relative_joints, relative_vertices: mean absolute error with both wrists at the origin
    (metres). rotation_l1, joints2d_l1: mean absolute errors. reprojection: see the function.
    heatmap: see the function. pose_prior: see `pose_penalty`. shape_prior: mean squared betas
    where no pose is labelled. object_class: cross-entropy where the class is known."""
    known = known_pose(batch)
    joints, vertices = prediction.joints.float(), need("vertices", prediction.vertices).float()
    true_joints = need("batch.joints", batch.joints)
    true_vertices = need("batch.vertices", batch.vertices)
    rotations = need("prediction.rotations", prediction.rotations).float()
    target = axis_angle_to_matrix_manopth(need("batch.pose", batch.pose).float())
    found2d, target2d, valid = joints_in_box(prediction, batch)
    wrist, true_wrist = joints[:, :1], true_joints[:, :1]
    betas = need("prediction.betas", prediction.betas).float()
    terms = {
        "relative_joints": masked_mean(
            ((joints - wrist) - (true_joints - true_wrist)).abs(), known
        ),
        "relative_vertices": masked_mean(
            ((vertices - wrist) - (true_vertices - true_wrist)).abs(), known
        ),
        "rotation_l1": masked_mean((rotations - target).abs(), known),
        "joints2d_l1": masked_mean((found2d - target2d).abs(), valid),
        "heatmap": heatmap_divergence(prediction.features["heatmap_scores"], target2d, valid),
        "reprojection": reprojection(joints, target2d, valid),
        "pose_prior": pose_penalty(matrix_to_axis_angle(rotations)).mean(),
        "shape_prior": masked_mean(betas**2, ~known),
    }
    if prediction.object_class_logits is not None:
        logits = prediction.object_class_logits.float()
        label = need("batch.object_class", batch.object_class)
        safe = label.clamp_min(0)
        terms["object_class"] = masked_mean(
            F.cross_entropy(logits, safe, reduction="none"), label >= 0
        )
    return terms


def heatmap_divergence(scores: Tensor, points: Tensor, valid: Tensor) -> Tensor:
    """Kullback-Leibler divergence of heat maps from a bell of one cell's width at each joint.

    scores (B, 21, R, R): before the soft-max. points (B, 21, 2) relative to the hand box; valid (B,
    21). A soft arg-max alone learns slowly from nothing, as a flat map hardly says where to go.
    """
    size = scores.shape[-1]
    centre = (torch.arange(size, device=points.device) + 0.5) / size
    place = points.clamp(0.0, 1.0)[..., None] - centre  # (B, 21, 2, R)
    column, row = torch.exp(-0.5 * (place * size) ** 2).unbind(dim=2)
    bell = row[..., :, None] * column[..., None, :]
    bell = (bell / bell.sum(dim=(-2, -1), keepdim=True)).flatten(2)
    likelihood = scores.float().flatten(2).log_softmax(dim=-1)
    divergence = F.kl_div(likelihood, bell, reduction="none").sum(dim=-1)
    return masked_mean(divergence, valid)


def reprojection(joints: Tensor, points: Tensor, valid: Tensor) -> Tensor:
    """Do the 3D joints, seen from afar, fall on the labelled 2D joints?

    joints (B, 21, 3) metres, camera axes; points (B, 21, 2) in the hand box's units; valid (B, 21).
    Scale (positive) and shift of the weak perspective are solved in closed form per hand and take
    part in the gradient. Mean absolute error in box units over the valid joints of hands that have
    at least 6. In this way photos with only 2D labels teach the pose.
    """
    weight = valid.float()[..., None]
    enough = weight.sum(dim=(1, 2)) >= 6
    count = weight.sum(dim=1, keepdim=True).clamp_min(1.0)
    flat = joints[..., :2]
    flat_mean = (flat * weight).sum(1, keepdim=True) / count
    mean = (points * weight).sum(1, keepdim=True) / count
    flat, centred = (flat - flat_mean) * weight, (points - mean) * weight
    scale = (flat * centred).sum((1, 2)) / (flat**2).sum((1, 2)).clamp_min(1e-6)
    scale = scale.clamp_min(0.5)  # box sides a metre; a real hand has about 3 to 10
    error = (flat * scale[:, None, None] - centred).abs()
    return masked_mean(error, valid.bool() & enough[:, None])
