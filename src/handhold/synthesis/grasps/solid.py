"""An object made ready for grasping, once: repaired surface, distance grid, surface points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from torch import Tensor

from handhold.errors import InputError
from handhold.geometry.farthest import farthest_points
from handhold.geometry.signed_distance import GridDistance
from handhold.objects.mesh import ObjectMesh
from handhold.synthesis.grips import sites_of

LARGEST = 0.6  # metres; anything longer is no object for one hand, or not in metres
SMALLEST = 0.008
_CELL = 0.002  # metres
_OVERSAMPLING = 10


class DistanceGrid:
    """Signed distance by trilinear interpolation in a grid, for tensors on any device.

    Outside positive, metres. Outside the grid: the distance at its border and the way to it.
    """

    def __init__(self, grid: GridDistance, device: torch.device | str = "cpu") -> None:
        size = torch.tensor(grid.values.shape)
        self.origin = torch.tensor(grid.origin, dtype=torch.float32, device=device)
        self.spacing = grid.spacing
        self.values = torch.from_numpy(grid.values.reshape(-1).copy()).to(device)
        self.last = (size - 1).to(device, torch.float32)
        stride = torch.stack((size[1] * size[2], size[2], torch.tensor(1))).to(device)
        self.stride = stride
        self.scale = stride.to(torch.float32)
        corner = torch.cartesian_prod(*(torch.tensor((0, 1), device=device),) * 3)
        self.corner = corner @ stride

    def rough(self, points: Tensor) -> Tensor:
        """Distance (...) at the nearest node of points (..., 3): off by at most `roughness`."""
        node = ((points - self.origin) / self.spacing).round_().clamp_min_(0)
        node = torch.minimum(node, self.last)
        return self.values[(node @ self.scale).long()]

    @property
    def roughness(self) -> float:
        """Half the diagonal of a cell, metres."""
        return 0.87 * self.spacing

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Distance (...) and unit outward direction (..., 3) of points (..., 3).

        The direction is the interpolant's own slope, so it is exact for the distances given.
        """
        scaled = (points - self.origin) / self.spacing
        clipped = torch.minimum(scaled.clamp_min(0), self.last)
        beyond = scaled - clipped
        outside = beyond.norm(dim=-1)
        cell = torch.minimum(clipped.floor(), self.last - 1)
        part = clipped - cell
        base = (cell @ self.scale).long()
        value = self.values[base[..., None] + self.corner].unflatten(-1, (2, 2, 2))
        x, y, z = (p[..., None, None] for p in part.unbind(-1))
        along = value[..., 1, :, :] - value[..., 0, :, :]  # (..., y, z)
        plane = value[..., 0, :, :] + x * along
        slope_x = _blend(along, y[..., 0, 0], z[..., 0, 0])
        across = plane[..., 1, :] - plane[..., 0, :]
        line = plane[..., 0, :] + y[..., 0] * across
        slope_y = across[..., 0] + z[..., 0, 0] * (across[..., 1] - across[..., 0])
        slope_z = line[..., 1] - line[..., 0]
        distance = line[..., 0] + z[..., 0, 0] * slope_z
        slope = torch.stack((slope_x, slope_y, slope_z), dim=-1)
        away = (outside > 0)[..., None]
        slope = torch.where(away, beyond, slope)
        normal = torch.nn.functional.normalize(slope, dim=-1, eps=1e-12)
        return distance + outside * self.spacing, normal


def _blend(corners: Tensor, y: Tensor, z: Tensor) -> Tensor:
    rows = corners[..., 0, :] + y[..., None] * (corners[..., 1, :] - corners[..., 0, :])
    return rows[..., 0] + z * (rows[..., 1] - rows[..., 0])


@dataclass(frozen=True, kw_only=True, eq=False)
class Solid:
    """What the optimiser, the checks and the pictures know of an object, metres, its own frame.

    grid: signed distances (`grid.exact` the exact ones). field: the same as tensors. points (P, 3):
    evenly spread over the surface. mass_centre (3,). repairs: what was wrong with the mesh and what
    was done, in words; empty for a closed mesh.
    """

    mesh: ObjectMesh
    grid: GridDistance
    field: DistanceGrid
    points: Tensor
    mass_centre: NDArray[np.float64]
    repairs: tuple[str, ...]


def prepare(
    mesh: ObjectMesh,
    *,
    points: int = 2000,
    seed: int = 0,
    resolution: int | None = None,
    device: torch.device | str = "cpu",
) -> Solid:
    """Repair an object's surface, fill its distance grid and spread `points` on it.

    resolution: cells of the grid along the longest side; None: cells of about 2 mm, for walls.
    Raises InputError, naming the object, for a surface that encloses nothing, for a size that no
    hand can hold, and where no two opposite sides are less than 105 mm apart.
    """
    vertices, faces, repairs = repaired(mesh)
    size = float((vertices.max(axis=0) - vertices.min(axis=0)).max())
    if not SMALLEST <= size <= LARGEST:
        raise InputError(
            f"{mesh.name}: {size:.3g} m long; expected {SMALLEST} to {LARGEST} m"
            " (is the mesh in metres?)"
        )
    if resolution is None:
        resolution = int(np.clip((size + 0.04) / _CELL, 48, 128))
    grid = GridDistance(vertices, faces, resolution=resolution, margin=0.02)
    if not (grid.values < 0).any():
        raise InputError(f"{mesh.name}: the surface encloses no volume; expected a closed mesh")
    sites = sites_of(grid)
    if not len(sites.width):
        raise InputError(
            f"{mesh.name}: larger than a hand: expected two opposite sides less than 105 mm apart,"
            f" found none ({size:.2f} m long)"
        )
    inside = np.argwhere(grid.values < 0) * grid.spacing + grid.origin
    spread = _surface_points(vertices, faces, points, np.random.default_rng(seed))
    return Solid(
        mesh=mesh,
        grid=grid,
        field=DistanceGrid(grid, device),
        points=torch.tensor(spread, dtype=torch.float32, device=device),
        mass_centre=inside.mean(axis=0),
        repairs=repairs,
    )


def repaired(
    mesh: ObjectMesh,
) -> tuple[NDArray[np.float64], NDArray[np.int64], tuple[str, ...]]:
    """Vertices, faces and what was done: flipped winding turned, holes filled.

    What cannot be filled stays open: the winding number still tells inside from outside there.
    Raises InputError for a mesh whose faces have no area or enclose nothing.
    """
    vertices, faces = mesh.surface
    shape: Any = trimesh.Trimesh(vertices, faces, process=False, validate=False)
    if not np.isfinite(shape.area) or shape.area < 1e-7:
        raise InputError(f"{mesh.name}: broken mesh: its faces have no area")
    notes: list[str] = []
    if not shape.is_winding_consistent:
        trimesh.repair.fix_winding(shape)
        notes.append("faces wound both ways: made consistent")
    if not shape.is_watertight:
        before = len(shape.faces)
        shape.fill_holes()
        added = len(shape.faces) - before
        state = "closed" if shape.is_watertight else "still open; its winding number is used"
        notes.append(f"holes in the surface: {added} triangles added, {state}")
    if shape.volume < 0:
        shape.invert()
        notes.append("wound inside out: turned")
    box = float(np.prod(np.maximum(shape.extents, 1e-4)))
    if abs(shape.volume) < 1e-5 * box:
        raise InputError(f"{mesh.name}: broken mesh: it encloses no volume")
    out = np.asarray(shape.vertices, dtype=np.float64), np.asarray(shape.faces, dtype=np.int64)
    return (*out, tuple(notes))


def _surface_points(
    vertices: NDArray[np.float64],
    faces: NDArray[np.int64],
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Points (count, 3), evenly spread."""
    drawn = points_on(vertices[faces], _OVERSAMPLING * count, rng)
    return drawn[farthest_points(drawn.astype(np.float32), count)]


def points_on(
    corners: NDArray[np.float64], count: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Random points (count, 3) on triangles (F, 3, 3), uniform by area."""
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1)
    face = rng.choice(len(area), size=count, p=area / area.sum())
    mix = rng.dirichlet((1.0, 1.0, 1.0), size=count)
    return (corners[face] * mix[..., None]).sum(axis=1)
