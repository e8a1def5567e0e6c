"""How far a pose is from a natural one, with derivatives; for `inverse_kinematics`."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from handhold.geometry.rotation import axis_angle_to_matrix
from handhold.hand import shapes
from handhold.hand.anatomy import LIMITS, anatomical_frames, pose_from_angles
from handhold.hand.model import HandModel

_EXCESS = math.radians(5.0)


class AnglePrior(nn.Module):
    """Half the squared distance of the 45 anatomical angles (see `anatomy`) from the relaxed hand,
    in units of half the range of each (`LIMITS`), and half the squared excess over that range, in
    units of 5 degrees; weights `relaxed` and `limits`.

    hand: a right one. The frames of its joints come from its rest joints by the rule of
    `anatomical_frames`, which expects MANO's axes. rotations: (16, 3, 3), the relaxed hand's.
    """

    frames: Tensor
    rotations: Tensor
    angles: Tensor
    bounds: Tensor

    def __init__(self, hand: HandModel, *, relaxed: float, limits: float) -> None:
        super().__init__()
        self.weights = (relaxed, limits)
        template = hand.template.detach().cpu().double().numpy()
        rest = hand.rest_joints().detach().cpu().double().numpy()
        frames = anatomical_frames(rest, template[hand.tips.cpu().numpy()])
        angles = shapes.angles(shapes.SHAPES["relaxed"])
        pose = torch.from_numpy(pose_from_angles(angles, frames))
        constants = {
            "frames": torch.from_numpy(frames[1:]),
            "rotations": axis_angle_to_matrix(pose),
            "angles": torch.from_numpy(np.deg2rad(angles)),
            "bounds": torch.from_numpy(np.deg2rad(LIMITS)),
        }
        for name, value in constants.items():
            self.register_buffer(name, value.to(hand.template), persistent=False)

    def forward(self, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 16, 3, 3), relative to the parents -> energy (B,), its slope (B, 15, 3) by turns of
        the 15 finger joints about their own axes, and (Gauss-Newton) rise (B, 15, 3, 3).

        With a joint's rotation F Rx(a) Ry(b) Rz(c) F^T, the turn t changes the angles by the
        inverse of [Rz(-c) Ry(-b) ex, Rz(-c) ey, ez], times F^T t. That grows without bound
        towards b = 90 degrees, far outside the limits; it is cut where cos(b) falls below 0.05.
        """
        frames = self.frames
        local = frames.transpose(-1, -2) @ rotations[:, 1:] @ frames
        cos_b = (local[..., 0, 0] ** 2 + local[..., 0, 1] ** 2 + 1e-12).sqrt()
        sin_b = local[..., 0, 2]
        a = torch.atan2(-local[..., 1, 2], local[..., 2, 2])
        b = torch.atan2(sin_b, cos_b)
        c = torch.atan2(-local[..., 0, 1], local[..., 0, 0])
        angles = torch.stack((a, b, c), dim=-1)
        cos, sin, zero, one = torch.cos(c), torch.sin(c), torch.zeros_like(c), torch.ones_like(c)
        by_a = torch.stack((cos, -sin, zero), dim=-1) / cos_b.clamp_min(0.05)[..., None]
        by_b = torch.stack((sin, cos, zero), dim=-1)
        by_c = torch.stack((zero, zero, one), dim=-1) - sin_b[..., None] * by_a
        rates = torch.stack((by_a, by_b, by_c), dim=-2) @ frames.transpose(-1, -2)
        low, high = self.bounds.unbind(-1)
        soft = self.weights[0] / (0.5 * (high - low)) ** 2
        hard = self.weights[1] / _EXCESS**2
        away = angles - self.angles
        excess = angles - torch.maximum(torch.minimum(angles, high), low)
        energy = 0.5 * (soft * away**2 + hard * excess**2).sum((-2, -1))
        slope = (rates * (soft * away + hard * excess)[..., None]).sum(-2)
        rise = soft + hard * (excess != 0).to(angles)
        return energy, slope, rates.transpose(-1, -2) @ (rise[..., None] * rates)
