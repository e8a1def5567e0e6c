"""Linear blend skinning with its derivatives; for `inverse_kinematics`.

The hand is MANO's (Romero, Tzionas, Black, SIGGRAPH Asia 2017, section 3), as in `model`. A hand
has 61 unknowns, in this order: a small turn of each of the 16 joints about its own axes (48
radians, R <- R exp([turn]x)), 10 betas, 3 of translation (metres). Coordinates come before points:
(B, 3, N). Derivatives are exact, those of the pose-blend shapes included.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from handhold.geometry.rotation import quaternion_to_matrix
from handhold.hand.convention import MANO_TO_CANONICAL, PARENTS_MANO
from handhold.hand.model import HandModel

UNKNOWNS = 61
TURNS, BETAS, PLACE = slice(0, 48), slice(48, 58), slice(58, 61)

# (axis, axis, axis): cross(u, v)_a = sum_bc LEVI_CIVITA[a, b, c] u_b v_c
LEVI_CIVITA = torch.zeros(3, 3, 3)
LEVI_CIVITA[[0, 1, 2], [1, 2, 0], [2, 0, 1]] = 1.0
LEVI_CIVITA[[0, 1, 2], [2, 0, 1], [1, 2, 0]] = -1.0


class State(NamedTuple):
    """rotations (B, 16, 3, 3) relative to the parent, betas (B, 10), translation (B, 3)."""

    rotations: Tensor
    betas: Tensor
    translation: Tensor

    def moved(self, step: Tensor) -> State:
        """The state after a step (B, 61); a turn of more than 1 radian is cut to that length."""
        turn = step[:, TURNS].unflatten(-1, (16, 3))
        turn = turn / (turn * turn).sum(-1, keepdim=True).clamp_min(1.0).sqrt()
        quaternion = torch.cat((torch.ones_like(turn[..., :1]), 0.5 * turn), dim=-1)
        return State(
            self.rotations @ quaternion_to_matrix(quaternion),
            self.betas + step[:, BETAS],
            self.translation + step[:, PLACE],
        )


class Points(NamedTuple):
    """Points that hang on the bones. template (3 N,), basis (145, 3 N): 10 shape directions, then
    135 of the pose; skin (16, N): weights of the bones; below (16, N): of the bone and all bones
    that it carries."""

    template: Tensor
    basis: Tensor
    skin: Tensor
    below: Tensor

    def take(self, index: Tensor | slice) -> Points:
        """Some of the points, by number."""
        return Points(
            self.template.unflatten(-1, (3, -1))[:, index].flatten(),
            self.basis.unflatten(-1, (3, -1))[:, :, index].flatten(1),
            self.skin[:, index].contiguous(),
            self.below[:, index].contiguous(),
        )


class Posed(NamedTuple):
    """The hand in one state: all that derivatives need.

    world (B, 16, 3, 3): rotations of the bones; places (B, 16, 3): joints; shifts (B, 16, 3, 11):
    a point x goes to world x + shift; column 0 is the shift, 1..10 how the betas change it. local
    (B, 3, N): points of the unposed hand, blend shapes added; blended (B, 3, 3, N): input
    axis, output axis; positions (B, 3, N).
    """

    world: Tensor
    places: Tensor
    shifts: Tensor
    local: Tensor
    blended: Tensor
    positions: Tensor


class SkinningDerivatives(nn.Module):
    """778 vertices and 21 joints (canonical order, as points 778..798) of a hand model."""

    template: Tensor
    basis: Tensor
    skin: Tensor
    joints: Tensor
    carries: Tensor
    levi_civita: Tensor

    def __init__(self, hand: HandModel) -> None:
        super().__init__()
        arrays = hand.arrays
        regressor = arrays.J_regressor.astype(np.float64)
        template = np.concatenate((arrays.v_template, regressor @ arrays.v_template))
        shape = np.concatenate(
            (arrays.shapedirs, np.einsum("jv,vck->jck", regressor, arrays.shapedirs))
        )
        pose = np.concatenate((arrays.posedirs, np.zeros((16, 3, 135))))  # joints are not blended
        skin = np.concatenate((arrays.weights, np.eye(16)))
        bones = np.r_[np.arange(778, 794), hand.tips.cpu().numpy()]
        order = np.r_[np.arange(778), bones[MANO_TO_CANONICAL]]
        basis = np.concatenate((shape, pose), axis=-1)[order]
        carries = np.eye(16)
        for joint in range(15, 0, -1):
            carries[PARENTS_MANO[joint]] += carries[joint]
        joints = np.concatenate((template[778:, :, None], shape[778:]), axis=-1)
        constants = {
            "template": template[order].T.reshape(-1),
            "basis": basis.transpose(2, 1, 0).reshape(145, -1),
            "skin": skin[order].T,
            "joints": joints,  # (16, 3, 11): at rest, then by each beta
            "carries": carries,  # (16, 16): 1 where the column's bone hangs on the row's
            "levi_civita": LEVI_CIVITA.numpy(),
        }
        for name, value in constants.items():
            tensor = torch.from_numpy(np.array(value, order="C")).to(hand.template)
            self.register_buffer(name, tensor, persistent=False)

    def points(self) -> Points:
        """All 799 points."""
        return Points(self.template, self.basis, self.skin, self.carries @ self.skin)

    def pose(self, state: State, points: Points) -> Posed:
        """The points in this state: what `HandModel` computes, and the parts it is made of."""
        size = len(state.betas)
        identity = torch.eye(3).to(state.betas)
        feature = (state.rotations[:, 1:] - identity).flatten(1)
        numbers = torch.cat((state.betas, feature), dim=-1)
        local = torch.addmm(points.template, numbers, points.basis).unflatten(-1, (3, -1))
        world, places, shifts = self._skeleton(state)
        # columns x, y, z of the rotations, then the shifts: (B, 4 * 3, 16)
        columns = torch.cat((world.permute(0, 3, 2, 1), shifts[..., :1].permute(0, 3, 2, 1)), dim=1)
        blended = (columns.reshape(-1, 16) @ points.skin).view(size, 4, 3, points.skin.shape[1])
        positions = blended[:, 3]
        for axis in range(3):
            positions = torch.addcmul(positions, blended[:, axis], local[:, axis : axis + 1])
        return Posed(world, places, shifts, local, blended[:, :3], positions)

    def pull_back(self, state: State, posed: Posed, points: Points, force: Tensor) -> Tensor:
        """The transposed Jacobian times forces on the points: (B, 3, N) -> (B, 61)."""
        size = len(force)
        pairs = posed.local[:, :, None] * force[:, None]
        loads = torch.cat((pairs.flatten(1, 2), force), dim=1).flatten(0, 1)
        loads = (loads @ points.skin.t()).view(size, 4, 3, 16).permute(0, 3, 1, 2)
        pull = loads[:, :, 3]  # (B, 16, 3): force on each bone
        moment = posed.world @ loads[:, :, :3] + posed.shifts[..., :1] * pull[:, :, None]
        moment = torch.einsum("jk,bkcd->bjcd", self.carries, moment)
        carried = self.carries @ pull
        torque = _axial(moment - posed.places[..., None] * carried[:, :, None])
        turns = (posed.world.transpose(-1, -2) @ torque[..., None]).squeeze(-1)
        unturned = (posed.blended * force[:, None]).sum(2)  # forces turned back: (B, 3, N)
        numbers = unturned.flatten(1) @ points.basis.t()
        by_feature = numbers[:, 10:].reshape(size, 15, 3, 3)
        blend = _axial(state.rotations[:, 1:].transpose(-1, -2) @ by_feature)
        turns = torch.cat((turns[:, :1], turns[:, 1:] - blend), dim=1)
        betas = numbers[:, :10] + torch.einsum("bjck,bjc->bk", posed.shifts[..., 1:], pull)
        return torch.cat((turns.flatten(1), betas, force.sum(-1)), dim=-1)

    @torch.no_grad()
    def jacobian(self, state: State, posed: Posed, points: Points, index: Tensor | None) -> Tensor:
        """Derivatives of points by the unknowns: (B, 61, 3, n); not recorded.

        `points` are those of `index` (numbers within the posed ones; None: all of them).
        """
        local, blended = posed.local, posed.blended
        if index is not None:
            local, blended = local[..., index], blended[..., index]
        size, _, count = local.shape
        # where each bone takes each point, times its weight, less the joint: lever arms
        shift = posed.shifts[..., 0].reshape(size, 48, 1)
        arms = torch.baddbmm(shift, posed.world.flatten(1, 2), local).view(size, 16, 3, count)
        arms *= points.skin[:, None]
        for joint in range(15, 0, -1):
            arms[:, PARENTS_MANO[joint]] += arms[:, joint]
        arms.addcmul_(posed.places[..., None], points.below[:, None], value=-1.0)
        cross = torch.einsum("obc,njba->njaoc", self.levi_civita, posed.world)
        turns = cross.reshape(-1, 9, 3) @ arms.view(-1, 3, count)
        # points moved by betas through the joints
        betas = posed.shifts[..., 1:].permute(0, 3, 2, 1).reshape(-1, 16) @ points.skin
        place = torch.eye(3).to(local)[None, :, :, None].expand(size, 3, 3, count)
        columns = (turns.view(size, 48, 3, count), betas.view(size, 10, 3, count), place)
        result = torch.cat(columns, dim=1)
        # the blend shapes: by the turns of the 15 fingers' joints, then by the betas
        by_turn = torch.einsum("njrb,bac->jnarc", state.rotations[:, 1:], self.levi_civita)
        change = by_turn.reshape(15, -1, 9) @ points.basis[10:].view(15, 9, -1)
        change = change.view(15, size, 3, 3, count).transpose(0, 1)
        fingers = result[:, 3:48].view(size, 15, 3, 3, count)
        shape = points.basis[:10].view(10, 3, count)
        for axis in range(3):
            fingers.addcmul_(blended[:, None, None, axis], change[:, :, :, axis, None])
            result[:, BETAS].addcmul_(blended[:, None, axis], shape[:, axis, None])
        return result

    def _skeleton(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """`world`, `places`, `shifts` of `Posed`; level by level as in `HandModel`."""
        size = len(state.betas)
        change = self.joints[..., 1:].expand(size, 16, 3, 10)
        rest = self.joints[..., 0] + torch.einsum("jck,bk->bjc", self.joints[..., 1:], state.betas)
        rest = torch.cat((rest[..., None], change), dim=-1)
        turned, place, before = state.rotations[:, :1], rest[:, :1], rest[:, :1]
        all_turned, all_places = [], []
        for level in (1, 2, 3):
            place = place + turned @ (rest[:, level::3] - before)
            turned = turned @ state.rotations[:, level::3]
            before = rest[:, level::3]
            all_turned.append(turned)
            all_places.append(place)
        fingers = torch.stack(all_turned, dim=2).flatten(1, 2)
        world = torch.cat((state.rotations[:, :1], fingers), dim=1)
        places = torch.cat((rest[:, :1], torch.stack(all_places, dim=2).flatten(1, 2)), dim=1)
        stay = torch.zeros(11).to(rest)
        stay[0] = 1.0
        places = places + state.translation[:, None, :, None] * stay
        return world, places[..., 0], places - world @ rest


def _axial(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 3): the cross product u x v of the outer product u v^T."""
    x = matrix[..., 1, 2] - matrix[..., 2, 1]
    y = matrix[..., 2, 0] - matrix[..., 0, 2]
    z = matrix[..., 0, 1] - matrix[..., 1, 0]
    return torch.stack((x, y, z), dim=-1)
