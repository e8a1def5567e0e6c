"""The six energies of a grasp, as DexGraspNet's MANO variant defines them, differentiable.

Wang et al., "DexGraspNet", ICRA 2023, section IV, in the form that HandBooster (Xu et al., CVPR
2024, section 3.1) uses. This is the plain form, read like the paper; `fast` gives the same numbers
and their slopes several times as fast. B grasps, K contacts, P points of the object's surface.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from handhold.errors import InputError

# points (..., 3) -> signed distance (...), positive outside, and outward unit direction (..., 3)
Field: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class EnergyConfig:
    """Weights of the terms in the total, and which form two of them take.

    `inside` weighs a term of our own: the summed depth of the hand's vertices in the object.
    `penetration` takes the plane of the nearest vertex for the hand's surface and therefore hardly
    separates thin parts that are deep in each other; `inside` does. self_distance: key points
    nearer than this repel each other, metres. released_self_form: minus the summed distances of
    those pairs, as the released code has it, instead of the paper's max(self_distance - d, 0): the
    released value jumps where a pair separates; the slope is the same.
    Raises InputError for negative weights.
    """

    force_closure: float = 1.0
    distance: float = 100.0
    penetration: float = 100.0
    prior: float = 0.5
    self_penetration: float = 10.0
    table: float = 0.0
    inside: float = 0.0
    self_distance: float = 0.018
    released_self_form: bool = False

    def __post_init__(self) -> None:
        for name in (*Energies._fields, "self_distance"):
            if not getattr(self, name) >= 0:
                raise InputError(
                    f"EnergyConfig.{name}: expected 0 or more, found {getattr(self, name)}"
                )


class Energies(NamedTuple):
    """One number a grasp, each (B,)."""

    force_closure: Tensor
    distance: Tensor
    penetration: Tensor
    prior: Tensor
    self_penetration: Tensor
    table: Tensor
    inside: Tensor

    def total(self, config: EnergyConfig) -> Tensor:
        """The weighted sum (B,)."""
        parts = [getattr(config, name) * getattr(self, name) for name in self._fields]
        return torch.stack(parts).sum(dim=0)


class PosePrior(NamedTuple):
    """Normal distribution of the 45 finger angles: mean (45,), whitening (45, 45).

    whitening @ (angles - mean) has unit covariance. A diagonal one is the published form.
    """

    mean: Tensor
    whitening: Tensor

    @classmethod
    def diagonal(cls, mean: Tensor, deviation: Tensor) -> PosePrior:
        """Independent angles with these means and standard deviations, both (45,) radians."""
        return cls(mean, torch.diag(1.0 / deviation))


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals (B, V, 3): the sum of the cross products of each vertex's faces (F, 3)."""
    corners = vertices[:, faces]
    cross = torch.cross(
        corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0], dim=-1
    )
    normals = torch.zeros_like(vertices)
    for corner in range(3):
        normals = normals.index_add(1, faces[:, corner], cross)
    return torch.nn.functional.normalize(normals, dim=-1, eps=1e-12)


def depth_in_hand(points: Tensor, vertices: Tensor, faces: Tensor) -> Tensor:
    """How deep (B, P) points (P, 3) lie in hands (B, V, 3), metres; negative outside.

    Measured to the plane through the nearest vertex across its normal, which counts as constant.
    """
    normals = vertex_normals(vertices, faces).detach()
    rows = []
    for hand, normal in zip(vertices, normals, strict=True):
        nearest = torch.cdist(
            points, hand.detach(), compute_mode="donot_use_mm_for_euclid_dist"
        ).argmin(dim=1)
        rows.append(-((points - hand[nearest]) * normal[nearest]).sum(dim=-1))
    return torch.stack(rows)


def force_closure(points: Tensor, normals: Tensor) -> Tensor:
    """|sum n|^2 + |sum p x n|^2 of contacts (B, K, 3); torques about the object's origin."""
    force = normals.sum(dim=1)
    torque = torch.cross(points, normals, dim=-1).sum(dim=1)
    return (force * force).sum(dim=-1) + (torque * torque).sum(dim=-1)


def contact_distance(distance: Tensor) -> Tensor:
    """Summed distance of the contacts (B, K) from the surface; each counts at least 0.1 mm."""
    return (distance * distance + 1e-8).sqrt().sum(dim=1)


def prior_energy(angles: Tensor, prior: PosePrior) -> Tensor:
    """Distance (B,) of finger angles (B, 45) from the mean, in standard deviations."""
    return ((angles - prior.mean) @ prior.whitening.T).norm(dim=-1)


def self_penetration(joints: Tensor, config: EnergyConfig) -> Tensor:
    """Energy (B,) of key points (B, 21, 3) that come too near each other; every pair counts
    twice."""
    apart = joints[:, :, None] - joints[:, None] + 1e-13
    distance = (apart * apart).sum(dim=-1).sqrt()
    near = (distance > 1e-6) & (distance < config.self_distance)
    start = 0.0 if config.released_self_form else config.self_distance
    return torch.where(near, start - distance, 0.0).sum(dim=(1, 2))


def below_table(vertices: Tensor, planes: Tensor) -> Tensor:
    """Summed depth (B,) of hand vertices below planes (B, 4): A x + B y + C z + D >= 0 above."""
    height = (vertices * planes[:, None, :3]).sum(dim=-1) + planes[:, None, 3]
    return (-height).clamp_min(0).sum(dim=1)


def energies(
    vertices: Tensor,
    joints: Tensor,
    faces: Tensor,
    angles: Tensor,
    contacts: Tensor,
    field: Field,
    points: Tensor,
    prior: PosePrior,
    config: EnergyConfig,
    planes: Tensor | None = None,
) -> Energies:
    """All energies of hands in the object's frame, metres.

    vertices (B, V, 3), joints (B, 21, 3), faces (F, 3), angles (B, 45) axis-angles of the fingers;
    contacts (B, K) vertex ids; field: the object's signed distance; points (P, 3) of its surface;
    planes (B, 4): tables, None for none.
    """
    rows = torch.arange(len(vertices), device=vertices.device)[:, None]
    touching = vertices[rows, contacts]
    distance, normal = _attached(field, touching)
    zero = vertices.new_zeros(len(vertices))
    inside = zero
    if config.inside > 0:
        inside = (-_attached(field, vertices)[0]).clamp_min(0).sum(dim=1)
    return Energies(
        force_closure=force_closure(touching, normal),
        distance=contact_distance(distance),
        penetration=depth_in_hand(points, vertices, faces).clamp_min(0).sum(dim=1),
        prior=prior_energy(angles, prior),
        self_penetration=self_penetration(joints, config),
        table=zero if planes is None else below_table(vertices, planes),
        inside=inside,
    )


def _attached(field: Field, points: Tensor) -> tuple[Tensor, Tensor]:
    """The field at points, the distance with its slope along the constant normal."""
    with torch.no_grad():
        distance, normal = field(points)
    return distance + ((points - points.detach()) * normal).sum(dim=-1), normal
