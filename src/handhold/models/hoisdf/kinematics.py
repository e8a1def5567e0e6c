"""The hand model's pose from joints, in closed form: HOISDF's head for HO3D with synthetic images.

The global rotation brings the five first joints of the fingers nearest to the given ones; then
every finger joint, from its base on, turns its next bone into the given direction (no twist).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from handhold.geometry.rotation import axis_angle_to_matrix

BASES = (1, 5, 9, 13, 17)
# canonical joint of a finger's base -> the same joint in the hand model's order
_MODEL_JOINT = {5: 1, 9: 4, 17: 7, 13: 10, 1: 13}


def pose_from_joints(
    joints: Tensor, rest: Tensor, reflection: Literal["identity", "rotation"] = "identity"
) -> Tensor:
    """joints (..., 20, 3) from the wrist, canonical order without it; rest (..., 21, 3): the hand
    model's joints at rest, wrist at the origin -> rotations (..., 16, 3, 3) of the hand model.

    reflection: what becomes of a global "rotation" that is a mirror image: "identity" leaves the
    hand unturned (the original), "rotation" takes the nearest true rotation.
    """
    target = torch.cat((torch.zeros_like(joints[..., :1, :]), joints), dim=-2)
    bases = list(BASES)
    rotations = torch.eye(3, dtype=rest.dtype, device=rest.device)
    rotations = rotations.repeat(*joints.shape[:-2], 16, 1, 1)
    glob = align(rest[..., bases, :], target[..., bases, :], reflection)
    rotations[..., 0, :, :] = glob
    for base, first in _MODEL_JOINT.items():
        turned = glob
        for step in range(3):
            here = base + step
            template = rest[..., here + 1, :] - rest[..., here, :]
            bone = target[..., here + 1, :] - target[..., here, :]
            local = shortest_rotation(template, (turned.mT @ bone[..., None])[..., 0])
            rotations[..., first + step, :, :] = local
            turned = turned @ local
    return rotations


def align(source: Tensor, target: Tensor, reflection: Literal["identity", "rotation"]) -> Tensor:
    """The rotation (..., 3, 3) that brings vectors (..., N, 3) nearest to others, about the origin;
    `reflection` as in `pose_from_joints`."""
    u, _, vh = torch.linalg.svd(target.mT @ source)
    rotation = u @ vh
    mirrored = torch.linalg.det(rotation) < 0
    if reflection == "identity":
        other = torch.eye(3, dtype=u.dtype, device=u.device).expand_as(rotation)
    else:
        other = (u * u.new_tensor([1.0, 1.0, -1.0])) @ vh
    return torch.where(mirrored[..., None, None], other, rotation)


def shortest_rotation(source: Tensor, target: Tensor) -> Tensor:
    """The smallest rotation (..., 3, 3) that turns directions (..., 3) into others; the identity
    where that is not defined (opposite or no direction)."""
    axis = torch.linalg.cross(source, target)
    sine = axis.norm(dim=-1, keepdim=True)
    angle = torch.atan2(sine, (source * target).sum(dim=-1, keepdim=True))
    return axis_angle_to_matrix(angle * axis / sine.clamp_min(1e-12))
