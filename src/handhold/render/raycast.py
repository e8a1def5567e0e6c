"""What every pixel sees: first hits of camera rays on triangle meshes, by Embree, not OpenGL.

Every mesh has its own accelerator, so a rigid object builds it once and is then moved for free, and
what a mesh would cover if nothing stood before it (the amodal mask) comes with every cast. Camera
frame, metres, pixels as in `handhold.scene`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.render.mesh import (
    FAR,
    RenderMesh,
    cross_rows,
    dot_rows,
    floats,
    unit_rows,
    vertex_normals,
)
from handhold.scene import Camera, FloatArray

__all__ = [
    "Hits",
    "Points",
    "RenderMesh",
    "Scene3D",
    "Surface",
    "boxes",
    "by_mesh",
    "cast",
    "ray_directions",
    "surfaces",
    "vertex_normals",
    "visible",
]


@dataclass(frozen=True, eq=False)
class Hits:
    """First hits of rays from the camera's centre, in any arrangement (...): (H, W) for `cast`.

    mesh (...) int32: index in the scene, -1 = nothing. face (...) int32. u, v (...): the point is
    (1 - u - v) a + u b + v c of the face's corners. depth (...): length along the direction, which
    is z in the camera frame for rays of `cast`; 0 = nothing. amodal (M, ...) bool: mesh m lies on
    this ray, hidden or not. directions (..., 3): the rays.
    """

    mesh: NDArray[np.int32]
    face: NDArray[np.int32]
    u: FloatArray
    v: FloatArray
    depth: FloatArray
    amodal: NDArray[np.bool_]
    directions: FloatArray

    def visible_mask(self, mesh: int) -> NDArray[np.bool_]:
        """Where mesh number `mesh` is what is seen."""
        return self.mesh == mesh

    def amodal_mask(self, mesh: int) -> NDArray[np.bool_]:
        """Where mesh number `mesh` would be seen if it were alone."""
        return self.amodal[mesh]

    def positions(self) -> FloatArray:
        """Points (..., 3) in the camera frame; zero where nothing was hit."""
        return self.depth[..., None] * self.directions

    def normals(self, scene: Scene3D) -> FloatArray:
        """Smooth unit normals (..., 3) in the camera frame, towards the viewer; zero where nothing
        was hit.
        """
        found = self.__dict__.get("_normals")
        if found is None:
            order, groups = by_mesh(self.mesh)
            points = Points.of(scene, self, order, groups)
            found = order, points.normals
        out = np.zeros((self.mesh.size, 3), np.float32)
        out[found[0]] = found[1].T
        return out.reshape(self.directions.shape)

    def keep_normals(self, index: NDArray[np.intp], rows: FloatArray) -> None:
        """Save `normals` the work: rows (3, N) at the flat numbers `index` of all hits."""
        self.__dict__["_normals"] = index, rows


Group = tuple[int, slice]
"""Mesh number and where its hits are."""


def by_mesh(mesh: NDArray[np.int32]) -> tuple[NDArray[np.intp], list[Group]]:
    """Flat numbers of all hits, mesh after mesh, and the groups in that order."""
    flat, start = mesh.ravel(), 0
    parts: list[NDArray[np.intp]] = []
    groups: list[Group] = []
    for number in range(int(flat.max(initial=-1)) + 1):
        part = np.flatnonzero(flat == number)
        if len(part):
            parts.append(part)
            groups.append((number, slice(start, start + len(part))))
            start += len(part)
    return np.concatenate(parts) if parts else np.zeros(0, np.intp), groups


@dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """What shading needs to know about N hits, on whatever meshes; vectors are rows (3, N), in the
    camera frame, units m or 1.

    groups: whose they are. corners (3, N) int32: vertex numbers; weights (3, N): their shares.
    edges (2, 3, N): from the first corner to the others. positions, normals (smooth), facets
    (flat), views (towards the viewer). origins: where shadow rays start: the position moved to the
    curved surface that the smooth normals pretend, which keeps coarse meshes from shadowing
    themselves in triangles. depth (N,).
    """

    groups: list[Group]
    corners: NDArray[np.int32]
    weights: FloatArray
    edges: FloatArray
    positions: FloatArray
    normals: FloatArray
    facets: FloatArray
    views: FloatArray
    origins: FloatArray
    depth: FloatArray

    @classmethod
    def of(cls, scene: Scene3D, hits: Hits, order: NDArray[np.intp], groups: list[Group]) -> Points:
        """Of the hits with the flat numbers `order` (N,), in that order."""
        count = len(order)
        face = hits.face.ravel().take(order)
        depth = hits.depth.ravel().take(order)
        directions = np.ascontiguousarray(hits.directions.reshape(-1, 3).take(order, axis=0).T)
        weights = np.zeros((3, count), np.float32)
        weights[1], weights[2] = hits.u.ravel().take(order), hits.v.ravel().take(order)
        weights[0] = 1 - weights[1] - weights[2]
        corners = np.zeros((3, count), np.int32)
        rows = np.zeros((6, 3, count), np.float32)
        for number, part in groups:
            mesh = scene.meshes[number]
            corners[:, part] = mesh.faces.take(face[part], axis=0).T
            rows[..., part] = mesh.corner_rows.take(corners[:, part], axis=1)
        vertices, uprights = rows[:3], rows[3:]
        positions = depth * directions
        edges = np.stack([vertices[:, 1] - vertices[:, 0], vertices[:, 2] - vertices[:, 0]])
        facets = unit_rows(cross_rows(edges[0], edges[1]))
        normals = unit_rows(np.einsum("ckn,kn->cn", uprights, weights))
        views = -unit_rows(directions)
        inside = np.where(dot_rows(facets, views) < 0, np.float32(-1), np.float32(1))
        facets *= inside
        normals *= inside
        # J. Hanika, Hacking the shadow terminator, Ray Tracing Gems II (2021), chapter 4.
        np.subtract(positions[:, None], vertices, out=vertices)
        below = np.einsum("ckn,ckn->kn", vertices, uprights) * inside
        below = np.minimum(below, 0) * weights * inside
        origins = positions - np.einsum("kn,ckn->cn", below, uprights)
        origins += np.float32(4e-4) * facets
        return cls(
            groups=groups,
            corners=corners,
            weights=weights,
            edges=edges,
            positions=positions,
            normals=normals,
            facets=facets,
            views=views,
            origins=origins,
            depth=depth,
        )

    def surface(
        self, scene: Scene3D, group: Group, index: NDArray[np.intp], focal: float
    ) -> Surface:
        """One group as a material sees it; `index` (N,) goes with it."""
        number, part = group
        return Surface(
            mesh=scene.meshes[number],
            number=number,
            index=index,
            corners=self.corners[:, part],
            weights=self.weights[:, part],
            edges=self.edges[..., part],
            normals=self.normals[:, part],
            pixel=float(np.median(self.depth[part])) / focal,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """What a material may ask about the N hits on one mesh; vectors are rows (3, N).

    index (N,): into the flattened hits. corners, weights, edges, normals: see `Points`. pixel:
    typical width of a pixel on the surface in metres.
    """

    mesh: RenderMesh
    number: int
    index: NDArray[np.intp]
    corners: NDArray[np.int32]
    weights: FloatArray
    edges: FloatArray
    normals: FloatArray
    pixel: float

    def at_corners(self, rows: FloatArray) -> FloatArray:
        """Vertex values (C, V) at the corners (C, 3, N)."""
        return rows.take(self.corners, axis=1)

    def blend(self, cornered: FloatArray) -> FloatArray:
        """Values at the corners (C, 3, N) mixed at the hits: (C, N)."""
        return np.einsum("ckn,kn->cn", cornered, self.weights)

    def interpolate(self, values: FloatArray) -> FloatArray:
        """Vertex values (V, C) at the hits, as rows (C, N)."""
        return self.blend(self.at_corners(np.ascontiguousarray(np.transpose(values), np.float32)))

    def resting(self) -> FloatArray:
        """The mesh's rest positions at the corners (3, 3, N). Raises InputError if it has none."""
        if self.mesh.rest is None:
            raise InputError(f"RenderMesh {self.mesh.name!r}: this material needs `rest` positions")
        return self.at_corners(np.ascontiguousarray(np.transpose(self.mesh.rest), np.float32))

    def labels(self) -> NDArray[Any]:
        """Part label (N,) of the nearest corner; -1 when the mesh has none."""
        if self.mesh.labels is None:
            return np.full(len(self.index), -1)
        first, second, third = self.weights
        nearest = np.where(second > first, self.corners[1], self.corners[0])
        nearest = np.where(third > np.maximum(first, second), self.corners[2], nearest)
        return np.asarray(self.mesh.labels).take(nearest)


class Scene3D:
    """Meshes in front of a camera. Their order gives the numbers in `Hits.mesh`."""

    def __init__(self, meshes: Sequence[RenderMesh]) -> None:
        self.meshes = tuple(meshes)

    def trace(self, directions: FloatArray, candidates: Sequence[NDArray[np.intp] | None]) -> Hits:
        """First hits of N rays (N, 3) float32 from the camera's centre; `candidates[m]`: the only
        rays to try on mesh m (None = all).
        """
        count = len(directions)
        mesh_id, face_id = np.full(count, -1, np.int32), np.full(count, -1, np.int32)
        u, v = np.zeros(count, np.float32), np.zeros(count, np.float32)
        nearest = np.full(count, FAR, np.float32)
        amodal = np.zeros((len(self.meshes), count), np.bool_)
        for number, (mesh, chosen) in enumerate(zip(self.meshes, candidates, strict=True)):
            rays = directions if chosen is None else directions.take(chosen, axis=0)
            if not len(rays):
                continue
            distance, face, hit_u, hit_v = mesh.accelerator.first_hit(*mesh.seen_from_camera(rays))
            hit = np.flatnonzero(face >= 0)
            where = hit if chosen is None else chosen.take(hit)
            amodal[number, where] = True
            distance = distance.take(hit)
            if number:
                closer = np.flatnonzero(distance < nearest.take(where))
                hit, where, distance = hit.take(closer), where.take(closer), distance.take(closer)
            mesh_id[where], nearest[where] = number, distance
            face_id[where], u[where], v[where] = face.take(hit), hit_u.take(hit), hit_v.take(hit)
        nearest[mesh_id < 0] = 0
        return Hits(mesh_id, face_id, u, v, nearest, amodal, directions)

    def blocked(
        self, origins: FloatArray, directions: FloatArray, reach: FloatArray
    ) -> NDArray[np.bool_]:
        """True (N,) where a mesh is on a ray nearer than `reach` (N,) lengths of the direction."""
        result = np.zeros(len(origins), np.bool_)
        left: NDArray[np.intp] | None = None
        for mesh in self.meshes:
            if left is not None:
                kept = np.flatnonzero(~result.take(left))
                left = left.take(kept)
                origins, directions = origins.take(kept, axis=0), directions.take(kept, axis=0)
                reach = reach.take(kept)
            if not len(origins):
                break
            found = mesh.accelerator.blocked(*mesh.to_own_frame(origins, directions), reach)
            if left is None:
                result, left = found, np.arange(len(found))
            else:
                result[left[found]] = True
        return result


@lru_cache(maxsize=8)
def _grid(width: int, height: int) -> FloatArray:
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([columns, rows], axis=-1).reshape(-1, 2).astype(np.float32)


def ray_directions(camera: Camera, pixels: FloatArray) -> FloatArray:
    """Directions (N, 3) float32 with z = 1 through pixel positions (N, 2); exact for any upper
    triangular intrinsics.
    """
    inverse = np.linalg.inv(camera.intrinsics).astype(np.float32)
    directions = np.ones((len(pixels), 3), np.float32)
    directions[:, 0] = pixels[:, 0] * inverse[0, 0] + pixels[:, 1] * inverse[0, 1] + inverse[0, 2]
    directions[:, 1] = pixels[:, 1] * inverse[1, 1] + inverse[1, 2]
    return directions


Box = tuple[int, int, int, int]


def boxes(scene: Scene3D, camera: Camera) -> list[Box]:
    """Columns and rows (left, top, right, bottom; the last two excluded) of the pixels whose rays
    can meet each mesh.
    """
    found = []
    matrix = camera.intrinsics.astype(np.float32)
    for mesh in scene.meshes:
        x, y, z = mesh.corner_rows[:3]
        if z.min() < 1e-3:
            found.append((0, 0, camera.width, camera.height))
            continue
        over = 1 / z
        column = (matrix[0, 0] * x + matrix[0, 1] * y) * over + matrix[0, 2]
        row = matrix[1, 1] * y * over + matrix[1, 2]
        low = np.floor([column.min() - 0.01, row.min() - 0.01]).clip(0)
        high = np.ceil([column.max() + 1.01, row.max() + 1.01])
        right, bottom = high.clip(0, [camera.width, camera.height])
        found.append((int(low[0]), int(low[1]), int(right), int(bottom)))
    return found


def cast(scene: Scene3D, camera: Camera) -> Hits:
    """First hits (H, W) of the rays through all pixel centres."""
    directions = ray_directions(camera, _grid(camera.width, camera.height))
    candidates = []
    for left, top, right, bottom in boxes(scene, camera):
        rows = np.arange(top, bottom) * camera.width
        candidates.append((rows[:, None] + np.arange(left, right)).ravel())
    flat = scene.trace(directions, candidates)
    shape = (camera.height, camera.width)
    return Hits(
        mesh=flat.mesh.reshape(shape),
        face=flat.face.reshape(shape),
        u=flat.u.reshape(shape),
        v=flat.v.reshape(shape),
        depth=flat.depth.reshape(shape),
        amodal=flat.amodal.reshape(-1, *shape),
        directions=flat.directions.reshape(*shape, 3),
    )


def surfaces(scene: Scene3D, hits: Hits, focal: float = 500.0) -> list[Surface]:
    """The hits sorted by mesh, as materials see them; `focal` (pixels) sets the pixel's width."""
    order, groups = by_mesh(hits.mesh)
    points = Points.of(scene, hits, order, groups)
    return [points.surface(scene, group, order[group[1]], focal) for group in groups]


def visible(
    scene: Scene3D,
    points: FloatArray,
    camera: Camera,
    *,
    own: int | None = None,
    tolerance: float | FloatArray = 0.018,
    clearance: float = 0.001,
    point_parts: NDArray[Any] | None = None,
    part_of_label: NDArray[Any] | None = None,
) -> NDArray[np.bool_]:
    """Which points (N, 3), such as the joints inside a hand, a viewer would say he sees (N,) bool.

    A point is visible when it lies in front of the camera and inside the image, and
    (a) no mesh other than number `own` is the first thing on its ray, more than `clearance` metres
    before it; and
    (b) the first hit on mesh `own` lies at most `tolerance` metres (one number or (N,)) before it:
    the point's own flesh; and
    (c) where `point_parts` (N,) and the part of the hit (`part_of_label` of the mesh's label there)
    are both >= 0, they agree: a joint of one finger seen through another finger is hidden, however
    near the two are.
    """
    points = floats(points)
    result = points[:, 2] > 1e-6
    safe = np.where(result[:, None], points, np.array([0, 0, 1], np.float32))
    pixels = camera.project(safe)
    result &= (pixels >= -0.5).all(axis=1)
    result &= (pixels < np.array([camera.width, camera.height]) - 0.5).all(axis=1)
    length = np.linalg.norm(safe, axis=1)
    own_distance = np.full(len(safe), FAR)
    if own is not None:
        mesh = scene.meshes[own]
        rays = mesh.seen_from_camera(safe)
        own_distance, face, u, v = mesh.accelerator.first_hit(*rays)
        result &= ~((own_distance < 1) & ((1 - own_distance) * length > tolerance))
        if point_parts is not None and part_of_label is not None and mesh.labels is not None:
            nearest = np.stack([1 - u - v, u, v], axis=1).argmax(axis=1)
            parts = np.asarray(part_of_label)[mesh.labels[mesh.faces[face, nearest]]]
            other = (parts >= 0) & (point_parts >= 0) & (parts != point_parts)
            result &= ~(other & (own_distance < 1 - clearance / length))
    for number, mesh in enumerate(scene.meshes):
        if number != own:
            distance, *_ = mesh.accelerator.first_hit(*mesh.seen_from_camera(safe))
            result &= ~((distance < 1 - clearance / length) & (distance < own_distance))
    return result
