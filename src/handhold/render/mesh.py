"""Triangle meshes ready to be hit by rays."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.render.material import Material, Shader
from handhold.scene import FloatArray

FAR = np.float32(1e30)


class Accelerator:
    """Embree's search tree over one mesh in the mesh's own frame."""

    def __init__(self, vertices: FloatArray, faces: NDArray[Any]) -> None:
        # Separate triangles load faster into embreex than indexed ones.
        triangles = np.ascontiguousarray(vertices.take(faces, axis=0), np.float32)
        self._scene = EmbreeScene()
        self._geometry = TriangleMesh(self._scene, triangles)

    def first_hit(
        self, origins: FloatArray, directions: FloatArray
    ) -> tuple[FloatArray, NDArray[np.int32], FloatArray, FloatArray]:
        """Distance along the ray (FAR = none), face (-1 = none), and barycentric u, v of N rays."""
        found = self._scene.run(floats(origins), floats(directions), query="INTERSECT", output=1)
        face = found["primID"]
        return np.where(face >= 0, found["tfar"], FAR), face, found["u"], found["v"]

    def blocked(
        self, origins: FloatArray, directions: FloatArray, reach: FloatArray
    ) -> NDArray[np.bool_]:
        """True where something lies on the ray nearer than `reach` lengths of the direction."""
        rays = floats(origins), floats(directions)
        return self._scene.run(*rays, floats(reach), query="OCCLUDED") >= 0


def floats(values: FloatArray) -> FloatArray:
    return np.ascontiguousarray(values, np.float32)


def vertex_normals(vertices: FloatArray, faces: NDArray[Any]) -> FloatArray:
    """Unit normals (V, 3), the area-weighted mean over the faces around a vertex."""
    a, b, c = np.ascontiguousarray(vertices.T).take(faces.T, axis=1).transpose(1, 0, 2)
    weighted = np.repeat(cross_rows(b - a, c - a), 3, axis=1)
    index = faces.ravel()
    total = np.zeros((3, len(vertices)))
    for out, axis in zip(total, weighted, strict=True):
        out += np.bincount(index, axis, minlength=len(vertices))
    length = np.sqrt(dot_rows(total, total))
    return np.ascontiguousarray((total / np.maximum(length, 1e-20)).T, np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class RenderMesh:
    """A mesh to be drawn.

    vertices (V, 3) metres and faces (F, 3), outward counter-clockwise. Without `rotation` and
    `translation` the vertices are in the camera frame; with them x_camera = rotation @ x +
    translation, and `placed` moves the mesh without a new search tree. Looks: `material` decides
    what to do with uv (V, 2) (v up), texture (h, w, 3) uint8 sRGB, vertex_colors (V, 3) uint8 sRGB,
    rest (V, 3) (rest pose positions, for patterns that stick to a deforming mesh) and labels (V,)
    int (part of a vertex). normals (V, 3): smooth normals in the vertices' frame; computed when
    None. Vertices that a texture seam repeats should come with normals of their own.
    Raises InputError for shapes that do not fit.
    """

    vertices: FloatArray
    faces: NDArray[Any]
    material: Shader = field(default_factory=Material)
    uv: FloatArray | None = None
    texture: NDArray[np.uint8] | None = None
    vertex_colors: NDArray[np.uint8] | None = None
    rest: FloatArray | None = None
    labels: NDArray[Any] | None = None
    normals: FloatArray | None = None
    rotation: FloatArray | None = None
    translation: FloatArray | None = None
    name: str = ""

    def __post_init__(self) -> None:
        vertices = np.ascontiguousarray(self.vertices, np.float32)
        faces = np.ascontiguousarray(self.faces, np.int32)
        if vertices.ndim != 2 or vertices.shape[1] != 3 or not np.isfinite(vertices).all():
            raise InputError(
                f"RenderMesh.vertices: expected finite (V, 3), found {np.shape(self.vertices)}"
            )
        if faces.ndim != 2 or faces.shape[1] != 3 or not len(faces):
            raise InputError(f"RenderMesh.faces: expected (F, 3), found {np.shape(self.faces)}")
        if faces.min() < 0 or faces.max() >= len(vertices):
            raise InputError(
                f"RenderMesh.faces: expected numbers below {len(vertices)}, "
                f"found {faces.min()}..{faces.max()}"
            )
        for name, width in (
            ("uv", 2),
            ("vertex_colors", 3),
            ("rest", 3),
            ("normals", 3),
            ("labels", None),
        ):
            value = getattr(self, name)
            wanted = (len(vertices),) if width is None else (len(vertices), width)
            if value is not None and np.shape(value) != wanted:
                raise InputError(f"RenderMesh.{name}: expected {wanted}, found {np.shape(value)}")
        object.__setattr__(self, "vertices", vertices)
        object.__setattr__(self, "faces", faces)
        if (self.rotation is None) != (self.translation is None):
            raise InputError("RenderMesh: expected rotation and translation, or neither")
        for name, shape in (("rotation", (3, 3)), ("translation", (3,))):
            value = getattr(self, name)
            if value is not None:
                if np.shape(value) != shape:
                    raise InputError(
                        f"RenderMesh.{name}: expected {shape}, found {np.shape(value)}"
                    )
                object.__setattr__(self, name, np.asarray(value, np.float32))

    def placed(self, rotation: FloatArray, translation: FloatArray) -> RenderMesh:
        """The same mesh at another pose (3, 3), (3,), sharing the search tree and the normals."""
        moved = replace(
            self, rotation=rotation, translation=translation, normals=self.smooth_normals
        )
        for shared in ("accelerator", "looks"):
            moved.__dict__[shared] = getattr(self, shared)
        return moved

    @cached_property
    def accelerator(self) -> Accelerator:
        return Accelerator(self.vertices, self.faces)

    @cached_property
    def looks(self) -> dict[str, Any]:
        """Room for what a material computes once a mesh (texture pyramids)."""
        return {}

    @cached_property
    def smooth_normals(self) -> FloatArray:
        if self.normals is not None:
            return np.asarray(self.normals, np.float32)
        return vertex_normals(self.vertices, self.faces)

    @cached_property
    def corner_rows(self) -> FloatArray:
        """Rows (6, V): x, y, z of the vertices and of their smooth normals in the camera frame."""
        rows = np.zeros((6, len(self.vertices)), np.float32)
        if self.rotation is None or self.translation is None:
            rows[:3], rows[3:] = self.vertices.T, self.smooth_normals.T
        else:
            rows[:3] = self.rotation @ self.vertices.T
            rows[:3] += self.translation[:, None]
            rows[3:] = self.rotation @ self.smooth_normals.T
        return rows

    @property
    def camera_vertices(self) -> FloatArray:
        """Vertices (V, 3) in the camera frame."""
        return self.corner_rows[:3].T

    def to_own_frame(
        self, origins: FloatArray, directions: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Rays of the camera frame in the frame of the vertices."""
        if self.rotation is None or self.translation is None:
            return origins, directions
        moved = (origins - self.translation) @ self.rotation
        return moved, directions @ self.rotation

    def seen_from_camera(self, directions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Rays from the camera's centre along directions (N, 3) in the frame of the vertices."""
        origins = np.zeros((len(directions), 3), np.float32)
        if self.rotation is None or self.translation is None:
            return origins, directions
        origins += -self.translation @ self.rotation
        return origins, directions @ self.rotation


def cross_rows(first: FloatArray, second: FloatArray) -> FloatArray:
    """Cross product of vectors given as rows (3, N): several times faster than as columns."""
    x, y, z = first
    u, v, w = second
    out = np.zeros_like(first)
    np.subtract(y * w, z * v, out=out[0])
    np.subtract(z * u, x * w, out=out[1])
    np.subtract(x * v, y * u, out=out[2])
    return out


def dot_rows(first: FloatArray, second: FloatArray) -> FloatArray:
    """Scalar products (N,) of rows (3, N)."""
    return np.einsum("cn,cn->n", first, second)


def unit_rows(vectors: FloatArray) -> FloatArray:
    """Rows (3, N) at length 1."""
    return vectors / np.maximum(np.sqrt(dot_rows(vectors, vectors)), np.float32(1e-20))
