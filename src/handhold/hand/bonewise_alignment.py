"""A closed-form first guess of a hand's pose, bone after bone; for `inverse_kinematics`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from handhold.hand.convention import MANO_TO_CANONICAL
from handhold.hand.model import HandModel
from handhold.hand.skinning_derivatives import Points, State

_PALM = (0, 1, 5, 9, 13, 17)  # joints (canonical order) that do not move within the palm
_OPEN = 1e-7  # square metres: spread of a bone's points below which the natural pose turns it


class BonewiseAlignment(nn.Module):
    """Turns each bone, from the wrist outwards, so that the points it carries fit best.

    Kabsch's rotation (Acta Crystallographica A 32, 1976) between the points of the mean shape at
    rest and those given; vertices count by their squared skinning weights, joints as the two ends
    of a bone (those of the palm together). What the points leave open, such as the twist of a bone
    of which only the ends are known, is taken from `natural`: rotations (16, 3, 3) relative to the
    parents. shares (16, 799): how much each point of `SkinningDerivatives` counts for each bone.
    """

    shares: Tensor
    natural: Tensor
    wrist: Tensor

    def __init__(self, hand: HandModel, natural: Tensor) -> None:
        super().__init__()
        weights = hand.weights.detach().cpu().double().numpy().T
        shares = np.concatenate((weights**2, np.zeros((16, 21))), axis=1)
        shares[0, :778] += 1e-4  # when nothing of the palm is known
        shares[0, [778 + joint for joint in _PALM]] = 1.0
        for bone in range(1, 16):
            start = 778 + MANO_TO_CANONICAL.index(bone)
            shares[bone, [start, start + 1]] = 1.0
        self.register_buffer("shares", torch.from_numpy(shares).to(hand.template), persistent=False)
        self.register_buffer("natural", natural.to(hand.template), persistent=False)
        self.register_buffer("wrist", hand.rest_joints()[0], persistent=False)

    @torch.no_grad()
    def forward(self, points: Points, shares: Tensor, target: Tensor, weight: Tensor) -> State:
        """Points (N), `shares` of these, target (B, 3, N) near the origin, weight (B, N) -> State.

        The betas of the state are zero.
        """
        size = len(target)
        template = points.template.view(3, -1)
        table = torch.cat((template, torch.ones_like(template[:1])))
        table = (shares[:, None] * table).flatten(0, 1)  # (16 * 4, N)
        rows = torch.cat((target, torch.ones_like(target[:, :1])), dim=1)
        rows = (rows * weight[:, None]).flatten(0, 1)
        sums = (rows @ table.t()).view(size, 4, 16, 4).transpose(1, 2)
        sums = sums / sums[..., 3:, 3:].clamp_min(1e-12)
        there, here = sums[..., :3, 3], sums[..., 3, :3]  # means of target and template
        spread = sums[..., :3, :3] - there[..., None] * here[..., None, :]
        turned = _nearest_rotation(spread[:, :1] + _OPEN * torch.eye(3).to(spread))
        root, levels = turned, []
        for level in (1, 2, 3):
            guess = turned @ self.natural[level::3]
            new = _nearest_rotation(spread[:, level::3] + _OPEN * guess)
            levels.append(turned.transpose(-1, -2) @ new)
            turned = new
        rotations = torch.cat((root, torch.stack(levels, dim=2).flatten(1, 2)), dim=1)
        arm = (root[:, 0] @ (here[:, 0] - self.wrist)[..., None]).squeeze(-1)
        return State(rotations, target.new_zeros(size, 10), there[:, 0] - arm - self.wrist)


def _nearest_rotation(matrix: Tensor) -> Tensor:
    """Of (..., 3, 3): the rotation R with the largest trace of R^T matrix."""
    u, _, vt = torch.linalg.svd(matrix)
    sign = torch.linalg.det(u @ vt).sign()[..., None, None]
    return u @ torch.cat((vt[..., :2, :], sign * vt[..., 2:, :]), dim=-2)
