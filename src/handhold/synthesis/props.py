"""The objects of synthetic scenes: a fixed library, each with its distance field, made when used.

The library is the same for everyone: 21 look-alikes of the YCB objects in several prints, and a
hundred other shapes. Meshes of the user's folder join it and replace look-alikes of their name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.geometry.signed_distance import GridDistance
from handhold.objects.catalogue import YCB
from handhold.objects.mesh import ObjectMesh, load_objects
from handhold.objects.procedural import make_object, random_object
from handhold.render.material import Material
from handhold.render.raycast import RenderMesh, vertex_normals

Array = NDArray[Any]
PRINTS = 4
OTHERS = 100
_MIRROR = np.array([-1.0, 1.0, 1.0], np.float32)


@dataclass(frozen=True, eq=False)
class Body:
    """An object as it is handled: its mesh, and what is computed from it on first use."""

    mesh: ObjectMesh
    gloss: float = 0.5
    scanned: bool = False

    @cached_property
    def distance(self) -> GridDistance:
        """The signed distance field of the closed surface."""
        return GridDistance(*self.mesh.surface, resolution=48)

    @cached_property
    def render_mesh(self) -> RenderMesh:
        """The mesh to draw, with its search tree."""
        mesh = self.mesh
        drawn = RenderMesh(
            vertices=mesh.vertices,
            faces=mesh.faces,
            uv=mesh.uv,
            texture=mesh.texture,
            vertex_colors=mesh.vertex_colors,
            normals=_seamless_normals(mesh) if self.scanned else None,
            material=Material(roughness=self.gloss),
            name=mesh.name,
        )
        return drawn.placed(np.eye(3), np.zeros(3))


@dataclass(frozen=True, eq=False)
class Prop:
    """An object of the library. `mirrored` is what a left hand's mirror image holds."""

    plain: Body

    @property
    def mesh(self) -> ObjectMesh:
        return self.plain.mesh

    @property
    def size(self) -> float:
        """Longest side of the bounding box, metres."""
        return float(np.ptp(self.mesh.vertices, axis=0).max())

    @cached_property
    def mirrored(self) -> Body:
        mesh = self.mesh
        closed_vertices, closed_faces = mesh.surface
        flipped = replace(
            mesh,
            vertices=mesh.vertices * _MIRROR,
            faces=np.ascontiguousarray(mesh.faces[:, ::-1]),
            closed_vertices=closed_vertices * _MIRROR,
            closed_faces=np.ascontiguousarray(closed_faces[:, ::-1]),
        )
        return Body(flipped, self.plain.gloss, self.plain.scanned)


def _seamless_normals(mesh: ObjectMesh) -> Array:
    """Normals (V, 3) of a scan, smooth across the seams of its texture."""
    _, first, member = np.unique(
        np.round(mesh.vertices, 6), axis=0, return_index=True, return_inverse=True
    )
    member = member.ravel()
    return vertex_normals(mesh.vertices[first], member[mesh.faces])[member]


@lru_cache(maxsize=4)
def _own(folder: Path) -> dict[str, ObjectMesh]:
    return load_objects(folder)


@cache
def _named(name: str, print_number: int, folder: Path | None) -> Prop:
    rng = np.random.default_rng([sum(map(ord, name)), print_number])
    gloss = float(rng.uniform(0.25, 0.7))
    own = {} if folder is None else _own(folder)
    mesh = own[name] if name in own else make_object(name, rng)
    return Prop(Body(mesh, gloss, scanned=name in own))


@cache
def _other(number: int) -> Prop:
    rng = np.random.default_rng([77, number])
    return Prop(Body(random_object(rng), float(rng.uniform(0.25, 0.7))))


def pick_prop(rng: np.random.Generator, folder: Path | None = None) -> Prop:
    """A random object: a named one (in a random print) for 70 %, another shape for the rest."""
    if rng.random() < 0.3:
        return _other(int(rng.integers(OTHERS)))
    names = [info.name for info in YCB]
    if folder is not None:
        names = sorted({*names, *_own(folder)})
    name = names[int(rng.integers(len(names)))]
    own = folder is not None and name in _own(folder) and rng.random() < 0.7
    return _named(name, 0 if own else int(rng.integers(PRINTS)), folder if own else None)


def named_points(folder: Path | None = None) -> dict[str, Array]:
    """Model points (P, 3), metres, of every named object, for the errors of object poses."""
    return {item.name: _named(item.name, 0, folder).mesh.vertices for item in YCB}
