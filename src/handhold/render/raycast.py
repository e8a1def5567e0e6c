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

from handhold.render.mesh import FAR, RenderMesh, blend, floats, unit, vertex_normals
from handhold.scene import Camera, FloatArray

__all__ = [
    "Hits",
    "RenderMesh",
    "Scene3D",
    "Surface",
    "cast",
    "ray_directions",
    "surfaces",
    "vertex_normals",
    "visible",
]


@dataclass(frozen=True, eq=False)
class Hits:
    """First hits of rays arranged in any shape (...): (H, W) for a camera, (N,) for a list.

    mesh (...) int32: index in the scene, -1 = nothing. face (...) int32. u, v (...): the point is
    (1 - u - v) a + u b + v c of the face's corners. depth (...): length along the direction, which
    is z in the camera frame for rays of `cast`; 0 = nothing. amodal (M, ...) bool: mesh m lies on
    this ray, hidden or not. origins, directions (..., 3): the rays.
    """

    mesh: NDArray[np.int32]
    face: NDArray[np.int32]
    u: FloatArray
    v: FloatArray
    depth: FloatArray
    amodal: NDArray[np.bool_]
    origins: FloatArray
    directions: FloatArray

    def visible_mask(self, mesh: int) -> NDArray[np.bool_]:
        """Where mesh number `mesh` is what is seen."""
        return self.mesh == mesh

    def amodal_mask(self, mesh: int) -> NDArray[np.bool_]:
        """Where mesh number `mesh` would be seen if it were alone."""
        return self.amodal[mesh]

    def positions(self) -> FloatArray:
        """Points (..., 3) in the camera frame; zero where nothing was hit."""
        points = self.origins + self.depth[..., None] * self.directions
        return points * (self.mesh >= 0)[..., None]

    def normals(self, scene: Scene3D) -> FloatArray:
        """Smooth unit normals (..., 3) in the camera frame, towards the viewer; zero where nothing
        was hit.
        """
        out = np.zeros((self.mesh.size, 3), np.float32)
        for number, mesh in enumerate(scene.meshes):
            index = np.flatnonzero(self.mesh.ravel() == number)
            face = self.face.ravel()[index]
            u, v = self.u.ravel()[index], self.v.ravel()[index]
            weights = np.stack([1 - u - v, u, v], axis=1)
            normals = unit(blend(weights, mesh.faces[face], mesh.camera_normals))
            seen = self.directions.reshape(-1, 3)[index]
            away = np.einsum("nc,nc->n", mesh.camera_facets[face], seen) > 0
            out[index] = np.where(away[:, None], -normals, normals)
        return out.reshape(self.directions.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """What a material may ask about the N hits on one mesh.

    index (N,): into the flattened hits. corners (N, 3) int32: vertex numbers; weights (N, 3): their
    shares. positions, normals (smooth), facets (flat), views (towards the viewer) (N, 3): camera
    frame, units m or 1. origins (N, 3): where shadow rays start: the position moved to the curved
    surface that the smooth normals pretend, which keeps coarse meshes from shadowing themselves in
    triangles. footprint (N,): width of a pixel on the surface in metres.
    """

    mesh: RenderMesh
    number: int
    index: NDArray[np.intp]
    corners: NDArray[np.int32]
    weights: FloatArray
    positions: FloatArray
    normals: FloatArray
    facets: FloatArray
    views: FloatArray
    origins: FloatArray
    footprint: FloatArray

    def interpolate(self, values: FloatArray) -> FloatArray:
        """Vertex values (V, C) at the hits (N, C)."""
        return blend(self.weights, self.corners, values)

    def labels(self) -> NDArray[Any]:
        """Part label (N,) of the nearest corner; -1 when the mesh has none."""
        if self.mesh.labels is None:
            return np.full(len(self.index), -1)
        nearest = self.corners[np.arange(len(self.index)), self.weights.argmax(axis=1)]
        return self.mesh.labels[nearest]


class Scene3D:
    """Meshes in front of a camera. Their order gives the numbers in `Hits.mesh`."""

    def __init__(self, meshes: Sequence[RenderMesh]) -> None:
        self.meshes = tuple(meshes)

    def trace(
        self,
        origins: FloatArray,
        directions: FloatArray,
        candidates: Sequence[NDArray[Any] | slice] | None = None,
    ) -> Hits:
        """First hits of N rays (N, 3) float32; `candidates[m]`: the only rays to try on mesh m."""
        count = len(directions)
        mesh_id, face_id = np.full(count, -1, np.int32), np.full(count, -1, np.int32)
        u, v = np.zeros(count, np.float32), np.zeros(count, np.float32)
        nearest = np.full(count, FAR, np.float32)
        amodal = np.zeros((len(self.meshes), count), np.bool_)
        for number, mesh in enumerate(self.meshes):
            chosen = slice(None) if candidates is None else candidates[number]
            rays = mesh.to_own_frame(origins[chosen], directions[chosen])
            if not len(rays[0]):
                continue
            distance, face, hit_u, hit_v = mesh.accelerator.first_hit(*rays)
            amodal[number, chosen] = face >= 0
            closer = distance < nearest[chosen]
            where = np.arange(count)[chosen][closer]
            mesh_id[where] = number
            face_id[where], nearest[where] = face[closer], distance[closer]
            u[where], v[where] = hit_u[closer], hit_v[closer]
        depth = np.where(mesh_id >= 0, nearest, np.float32(0))
        return Hits(mesh_id, face_id, u, v, depth, amodal, origins, directions)

    def blocked(
        self, origins: FloatArray, directions: FloatArray, reach: FloatArray
    ) -> NDArray[np.bool_]:
        """True (N,) where a mesh is on a ray nearer than `reach` (N,) lengths of the direction."""
        result = np.zeros(len(origins), np.bool_)
        for mesh in self.meshes:
            left = np.flatnonzero(~result)
            if not len(left):
                break
            rays = mesh.to_own_frame(origins[left], directions[left])
            result[left] = mesh.accelerator.blocked(*rays, reach[left])
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


def _pixels_of(mesh: RenderMesh, camera: Camera) -> NDArray[Any] | slice:
    """Flat numbers of the pixels in the mesh's projected bounding box: the only ones that can see
    it.
    """
    vertices = mesh.camera_vertices
    if vertices[:, 2].min() < 1e-3:
        return slice(None)
    projected = camera.project(vertices)
    low = np.maximum(np.floor(projected.min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(projected.max(axis=0)).astype(int) + 1, (camera.width, camera.height))
    rows, columns = np.arange(low[1], high[1]), np.arange(low[0], high[0])
    return (rows[:, None] * camera.width + columns[None]).ravel()


def cast(scene: Scene3D, camera: Camera) -> Hits:
    """First hits (H, W) of the rays through all pixel centres."""
    directions = ray_directions(camera, _grid(camera.width, camera.height))
    candidates = [_pixels_of(mesh, camera) for mesh in scene.meshes]
    flat = scene.trace(np.zeros_like(directions), directions, candidates)
    shape = (camera.height, camera.width)
    return Hits(
        mesh=flat.mesh.reshape(shape),
        face=flat.face.reshape(shape),
        u=flat.u.reshape(shape),
        v=flat.v.reshape(shape),
        depth=flat.depth.reshape(shape),
        amodal=flat.amodal.reshape(-1, *shape),
        origins=flat.origins.reshape(*shape, 3),
        directions=flat.directions.reshape(*shape, 3),
    )


def surfaces(scene: Scene3D, hits: Hits, focal: float = 500.0) -> list[Surface]:
    """The hits sorted by mesh, with all that shading needs; `focal` (pixels) sets the footprint."""
    found = []
    mesh_id = hits.mesh.ravel()
    for number, mesh in enumerate(scene.meshes):
        index = np.flatnonzero(mesh_id == number)
        if not len(index):
            continue
        u, v = hits.u.ravel()[index], hits.v.ravel()[index]
        corners = mesh.faces[hits.face.ravel()[index]]
        weights = np.stack([1 - u - v, u, v], axis=1)
        directions = hits.directions.reshape(-1, 3)[index]
        positions = (
            hits.origins.reshape(-1, 3)[index] + hits.depth.ravel()[index, None] * directions
        )
        normals = unit(blend(weights, corners, mesh.camera_normals))
        facets = mesh.camera_facets[hits.face.ravel()[index]]
        views = -unit(directions)
        inside = np.where(np.einsum("nc,nc->n", facets, views) < 0, np.float32(-1), np.float32(1))
        facets = facets * inside[:, None]
        normals *= inside[:, None]
        # J. Hanika, Hacking the shadow terminator, Ray Tracing Gems II (2021), chapter 4.
        lift = np.zeros_like(positions)
        for corner in range(3):
            number_of = corners[:, corner]
            upright = mesh.camera_normals[number_of] * inside[:, None]
            away = positions - mesh.camera_vertices[number_of]
            below = np.minimum(np.einsum("nc,nc->n", away, upright), 0) * weights[:, corner]
            lift -= below[:, None] * upright
        found.append(
            Surface(
                mesh=mesh,
                number=number,
                index=index,
                corners=corners,
                weights=weights,
                positions=positions,
                normals=normals,
                facets=facets,
                views=views,
                origins=positions + lift + np.float32(4e-4) * facets,
                footprint=hits.depth.ravel()[index] / np.float32(focal),
            )
        )
    return found


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
    origins = np.zeros_like(safe)
    own_distance = np.full(len(safe), FAR)
    if own is not None:
        mesh = scene.meshes[own]
        rays = mesh.to_own_frame(origins, safe)
        own_distance, face, u, v = mesh.accelerator.first_hit(*rays)
        result &= ~((own_distance < 1) & ((1 - own_distance) * length > tolerance))
        if point_parts is not None and part_of_label is not None and mesh.labels is not None:
            nearest = np.stack([1 - u - v, u, v], axis=1).argmax(axis=1)
            parts = np.asarray(part_of_label)[mesh.labels[mesh.faces[face, nearest]]]
            other = (parts >= 0) & (point_parts >= 0) & (parts != point_parts)
            result &= ~(other & (own_distance < 1 - clearance / length))
    for number, mesh in enumerate(scene.meshes):
        if number != own:
            distance, *_ = mesh.accelerator.first_hit(*mesh.to_own_frame(origins, safe))
            result &= ~((distance < 1 - clearance / length) & (distance < own_distance))
    return result
