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
from handhold.render.material import Material
from handhold.scene import FloatArray

FAR = np.float32(1e30)


class Accelerator:
    """Embree's search tree over one mesh in the mesh's own frame."""

    def __init__(self, vertices: FloatArray, faces: NDArray[Any]) -> None:
        # Separate triangles load faster into embreex than indexed ones.
        triangles = np.ascontiguousarray(vertices[faces], np.float32)
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
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    weighted = cross(b - a, c - a)
    index = faces.ravel()
    total = np.stack(
        [
            np.bincount(index, np.repeat(weighted[:, axis], 3), minlength=len(vertices))
            for axis in range(3)
        ],
        axis=-1,
    )
    length = np.linalg.norm(total, axis=-1, keepdims=True)
    return (total / np.maximum(length, 1e-20)).astype(np.float32)


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
    material: Material = field(default_factory=Material)
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
    def camera_vertices(self) -> FloatArray:
        """Vertices (V, 3) in the camera frame."""
        if self.rotation is None or self.translation is None:
            return self.vertices
        return self.vertices @ self.rotation.T + self.translation

    @cached_property
    def camera_normals(self) -> FloatArray:
        """Smooth normals (V, 3) in the camera frame."""
        if self.rotation is None:
            return self.smooth_normals
        return self.smooth_normals @ self.rotation.T

    @cached_property
    def camera_facets(self) -> FloatArray:
        """Unit normals (F, 3) of the flat faces in the camera frame."""
        a, b, c = (self.camera_vertices[self.faces[:, corner]] for corner in range(3))
        return unit(cross(b - a, c - a))

    def to_own_frame(
        self, origins: FloatArray, directions: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Rays of the camera frame in the frame of the vertices."""
        if self.rotation is None or self.translation is None:
            return origins, directions
        moved = (origins - self.translation) @ self.rotation
        return moved, directions @ self.rotation


def blend(weights: FloatArray, corners: NDArray[Any], values: FloatArray) -> FloatArray:
    """Vertex values (V, C) mixed with weights (N, 3) over corner numbers (N, 3): (N, C)."""
    result = weights[:, :1] * values[corners[:, 0]]
    result += weights[:, 1:2] * values[corners[:, 1]]
    result += weights[:, 2:] * values[corners[:, 2]]
    return result


def cross(first: FloatArray, second: FloatArray) -> FloatArray:
    """Cross product (N, 3), several times faster than NumPy's general one."""
    x, y, z = first.T
    u, v, w = second.T
    return np.stack([y * w - z * v, z * u - x * w, x * v - y * u], axis=1)


def unit(vectors: FloatArray) -> FloatArray:
    """Vectors (N, 3) at length 1."""
    length = np.sqrt(np.einsum("nc,nc->n", vectors, vectors))
    return vectors / np.maximum(length, np.float32(1e-20))[:, None]
