"""The energies of `energies` and their slopes for a whole batch, several times as fast.

What is saved: only object points and hand vertices that can meet are compared; normals are made
for the nearest vertices alone; the object's distance is read from a grid; all slopes by vertices
are written down, so that only the skinning is differentiated, and that in three products.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from handhold.geometry.rotation import axis_angle_to_matrix_manopth
from handhold.hand.convention import MANO_TO_CANONICAL
from handhold.hand.model import HandModel
from handhold.synthesis.grasps.energies import Energies, EnergyConfig, PosePrior
from handhold.synthesis.grasps.hand import GraspHand
from handhold.synthesis.grasps.solid import Solid

REACH = 0.02  # metres: no point inside a hand is farther from its nearest vertex


class Evaluation(NamedTuple):
    """terms and total (B,), slope (B, 51) of the total; vertices (B, 778, 3) as posed."""

    terms: Energies
    total: Tensor
    slope: Tensor
    vertices: Tensor


class _Skinning(torch.autograd.Function):
    """vertices (B, 3, V) of pose features (B, 135) and bone transforms (B, 12, 16)."""

    @staticmethod
    def forward(ctx: Any, feature: Tensor, columns: Tensor, constants: _Constants) -> Tensor:
        size = len(feature)
        posed = torch.addmm(constants.template, feature, constants.basis).view(size, 3, -1)
        blended = (columns.reshape(-1, 16) @ constants.weights).view(size, 4, 3, -1)
        vertices = blended[:, 3]
        for axis in range(3):
            vertices.addcmul_(blended[:, axis], posed[:, axis : axis + 1])
        ctx.save_for_backward(posed, blended)
        ctx.constants = constants
        return vertices

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, None]:
        posed, blended = ctx.saved_tensors
        constants: _Constants = ctx.constants
        slope = slopes[0]
        used = torch.nonzero((slope != 0).any(dim=1).any(dim=0)).squeeze(1)
        count, size = constants.weights.shape[1], len(slope)
        basis, weights = constants.basis, constants.weights
        if len(used) < 0.7 * count:  # most vertices neither touch nor enter anything
            slope, posed = slope[..., used], posed[..., used]
            blended, weights = blended[..., used], weights[:, used]
            basis = basis.view(135, 3, count)[..., used].reshape(135, -1)
        by_posed = (blended[:, :3] * slope[:, None]).sum(dim=2)
        by_feature = by_posed.reshape(size, -1) @ basis.T
        by_columns = torch.cat((posed[:, :, None] * slope[:, None], slope[:, None]), dim=1)
        by_columns = by_columns.reshape(size * 12, -1) @ weights.T
        return by_feature, by_columns.view(size, 12, 16), None


class _Constants(NamedTuple):
    template: Tensor  # (3 V,): x of all vertices, then y, then z
    basis: Tensor  # (135, 3 V)
    weights: Tensor  # (16, V)


class FastHand:
    """A hand of one shape, posed by vectors (B, 51), with the skinning fused."""

    def __init__(self, hand: GraspHand) -> None:
        model: HandModel = hand.model
        betas = torch.tensor(hand.betas, dtype=torch.float32)
        shaped = model.template + torch.einsum(
            "vck,k->vc", torch.from_numpy(model.arrays.shapedirs), betas
        )
        basis = torch.from_numpy(model.arrays.posedirs).permute(2, 1, 0).reshape(135, -1)
        self.constants = _Constants(
            shaped.T.reshape(-1).contiguous(), basis.contiguous(), model.weights.T.contiguous()
        )
        self.rest = model.rest_joints(betas)[None]
        self.tips = model.tips
        self.order = torch.tensor(MANO_TO_CANONICAL)

    def __call__(self, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Vertices (B, 3, V) and joints (B, 3, 21), metres; differentiable."""
        size = len(pose)
        rotations = axis_angle_to_matrix_manopth(pose[:, 3:].reshape(size, 16, 3))
        feature = (rotations[:, 1:] - torch.eye(3)).reshape(size, 135)
        rest = self.rest.expand(size, 16, 3)
        turned, joints = HandModel._chain(rotations, rest)
        joints = joints + pose[:, None, :3]
        moved = joints - (turned @ rest[..., None]).squeeze(-1)
        columns = torch.cat((turned.permute(0, 3, 2, 1), moved.transpose(1, 2)[:, None]), dim=1)
        vertices = _Skinning.apply(feature, columns.reshape(size, 12, 16), self.constants)
        points = torch.cat((joints.transpose(1, 2), vertices[:, :, self.tips]), dim=2)
        return vertices, points[:, :, self.order]


class FastEnergies:
    """All energies of a batch of hands about one object.

    reach: object points farther than this from every hand vertex count as outside the hand (the
    plain form compares them with the plane of a vertex far away); infinite compares all.
    """

    def __init__(
        self,
        hand: GraspHand,
        solid: Solid,
        config: EnergyConfig,
        prior: PosePrior | None = None,
        reach: float = REACH,
    ) -> None:
        self.hand, self.solid, self.config = FastHand(hand), solid, config
        self.candidates = hand.candidates
        self.prior = hand.prior if prior is None else prior
        self.reach = reach
        points = solid.points.cpu().numpy()
        self.lifted = np.concatenate([-2.0 * points, np.ones_like(points[:, :1])], axis=1)
        self.lifted_columns = np.ascontiguousarray(self.lifted.T)
        self.square = (points * points).sum(axis=1)
        self.balls = hand.balls
        self.faces = hand.faces
        corner = hand.faces.T.reshape(-1).numpy()
        face = np.tile(np.arange(len(hand.faces)), 3)
        ones = np.ones(len(face), dtype=np.float32)
        self.incidence = csr_matrix((ones, (corner, face)), shape=(778, len(hand.faces)))

    def __call__(self, pose: Tensor, indices: Tensor, planes: Tensor | None = None) -> Evaluation:
        """Energies and slopes at poses (B, 51) with contacts (B, K), places in the candidates."""
        config = self.config
        with torch.enable_grad():
            leaf = pose.detach().requires_grad_()
            posed, key_points = self.hand(leaf)
        vertices, joints = posed.detach(), key_points.detach()
        slope = torch.zeros_like(vertices)
        contacts = self.candidates[indices]
        force, near = self._contacts(vertices, contacts, slope)
        entered, inside = self._meeting(vertices, joints, slope)
        shifted = (pose[:, 6:] - self.prior.mean) @ self.prior.whitening.T
        length = shifted.norm(dim=1)
        by_angles = (shifted / length.clamp_min(1e-9)[:, None]) @ self.prior.whitening
        crowded, by_joints = self._self_penetration(joints)
        sunk = torch.zeros_like(force)
        if planes is not None:
            height = torch.einsum("bcv,bc->bv", vertices, planes[:, :3]) + planes[:, 3:]
            sunk = (-height).clamp_min(0).sum(dim=1)
            below = (height < 0).to(slope) * config.table
            slope -= below[:, None] * planes[:, :3, None]
        terms = Energies(force, near, entered, length, crowded, sunk, inside)
        (by_pose,) = torch.autograd.grad((posed, key_points), leaf, (slope, by_joints))
        by_pose[:, 6:] += config.prior * by_angles
        return Evaluation(terms, terms.total(config), by_pose, vertices.transpose(1, 2))

    def _contacts(self, vertices: Tensor, contacts: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Force closure and distance; adds to the slopes of the vertices (B, 3, V)."""
        index = contacts[:, None].expand(-1, 3, -1)
        points = vertices.gather(2, index).transpose(1, 2)
        distance, normal = self.solid.field(points)
        force = normal.sum(dim=1)
        torque = torch.cross(points, normal, dim=-1).sum(dim=1, keepdim=True)
        closure = (force * force).sum(dim=1) + (torque * torque).sum(dim=(1, 2))
        soft = (distance * distance + 1e-8).sqrt()
        change = (
            self.config.force_closure * 2 * torch.cross(normal, torque.expand_as(normal), dim=-1)
        )
        change += self.config.distance * (distance / soft)[..., None] * normal
        slope.scatter_add_(2, index, change.transpose(1, 2))
        return closure, soft.sum(dim=1)

    def _self_penetration(self, joints: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        apart = joints[:, :, :, None] - joints[:, :, None] + 1e-13
        distance = (apart * apart).sum(dim=1).sqrt()
        near = (distance > 1e-6) & (distance < config.self_distance)
        start = 0.0 if config.released_self_form else config.self_distance
        energy = torch.where(near, start - distance, 0.0).sum(dim=(1, 2))
        push = torch.where(near, 1.0 / distance.clamp_min(1e-6), 0.0)
        slope = -2.0 * (apart * push[:, None]).sum(dim=3)
        return energy, config.self_penetration * slope

    def _meeting(self, vertices: Tensor, joints: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Object points in the hand, hand vertices in the object; adds to the slopes."""
        field = self.solid.field
        size = len(vertices)
        spread = vertices.transpose(1, 2).contiguous()
        rough = field.rough(spread)
        inside = vertices.new_zeros(size)
        if self.config.inside > 0:
            rows, which = torch.nonzero(rough < field.roughness, as_tuple=True)
            if len(rows):
                distance, normal = field(spread[rows, which])
                inside.index_add_(0, rows, (-distance).clamp_min(0))
                push = torch.where(distance < 0, -self.config.inside, 0.0)[:, None] * normal
                slope[rows, :, which] += push
        near = (rough.abs() < self.reach + field.roughness).numpy()
        hands, cover = spread.numpy(), self._cover(joints)
        found = [self._nearest(hands[row], near[row], cover[row], row) for row in range(size)]
        rows, vertex, point = (
            torch.from_numpy(np.concatenate(x)) for x in zip(*found, strict=True)
        )
        if not len(rows):
            return inside.clone(), inside
        normal = self._normals(spread)[vertex, :, rows]
        depth = ((spread[rows, vertex] - self.solid.points[point]) * normal).sum(dim=1)
        deep = depth > 0
        depth, normal, index = depth[deep], normal[deep], (rows * 778 + vertex)[deep]
        push = torch.zeros(size * 778, 3).index_add_(0, index, self.config.penetration * normal)
        slope += push.view(size, 778, 3).transpose(1, 2)
        return inside.new_zeros(size).index_add_(0, rows[deep], depth), inside

    def _cover(self, joints: Tensor) -> NDArray[np.float32]:
        """For each hand rows (C, 4) that, times a lifted point, give how far outside of each
        covering ball it is (squared distance minus squared radius)."""
        centre = torch.einsum("kj,bcj->bkc", self.balls.mix, joints)
        constant = (centre * centre).sum(dim=2) - self.balls.radius**2
        return torch.cat((centre, constant[..., None]), dim=2).numpy()

    def _nearest(
        self,
        hand: NDArray[np.float32],
        near: NDArray[np.bool_],
        cover: NDArray[np.float32],
        row: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Row, nearest vertex and number of the object points that may lie in one hand."""
        chosen = np.flatnonzero(near)
        points = np.zeros(0, dtype=np.int64)
        if len(chosen):
            limited = np.isfinite(self.reach)
            points = np.arange(len(self.lifted))
            if limited:
                points = np.flatnonzero((cover @ self.lifted_columns).min(axis=0) < -self.square)
        if not len(points):
            return points, points, points
        mine = hand[chosen]
        # |v|^2 - 2 p v, smallest at the nearest vertex; |p|^2 is the same for all of them
        right = np.concatenate([mine.T, (mine * mine).sum(axis=1)[None]])
        nearest = (self.lifted[points] @ right).argmin(axis=1)
        return np.full(len(points), row), chosen[nearest], points

    def _normals(self, vertices: Tensor) -> Tensor:
        """Unit vertex normals (V, 3, B) of hands (B, V, 3)."""
        columns = vertices.permute(1, 2, 0).contiguous()
        origin = columns[self.faces[:, 0]]
        first, second = columns[self.faces[:, 1]] - origin, columns[self.faces[:, 2]] - origin
        cross = torch.stack(
            [
                first[:, 1] * second[:, 2] - first[:, 2] * second[:, 1],
                first[:, 2] * second[:, 0] - first[:, 0] * second[:, 2],
                first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0],
            ],
            dim=1,
        )
        summed = torch.from_numpy(self.incidence @ cross.flatten(1).numpy()).view_as(columns)
        return summed / (summed * summed).sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
