"""One picture of an object's grasps, for a person to judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from handhold.render.lights import DirectionalLight, Lighting
from handhold.render.material import Material
from handhold.render.mesh import RenderMesh
from handhold.render.overlay import contact_sheet
from handhold.render.raycast import Scene3D
from handhold.render.shade import render
from handhold.render.subdivision import loop_subdivision
from handhold.scene import Camera
from handhold.synthesis.grasps.hand import GraspHand
from handhold.synthesis.grasps.solid import Solid

Image = NDArray[np.uint8]
_LIGHT = Lighting(
    lights=(DirectionalLight(towards=(-0.5, -0.7, -0.7), color=(1.1, 1.05, 1.0)),),
    sky=(0.55, 0.57, 0.6),
    ground=(0.3, 0.28, 0.26),
)
_SKIN = Material(color=(0.70, 0.42, 0.31), roughness=0.6)
_GREY = Material(color=(0.32, 0.42, 0.55), roughness=0.5)


def draw_sheet(
    hand: GraspHand,
    solid: Solid,
    vectors: NDArray[Any],
    *,
    columns: int = 8,
    cell: int = 200,
    views: int = 2,
) -> Image:
    """A row of grasps (N, 51) for each view, RGB: first past the thumb into the grip, then from
    the side of the palm and the finger tips."""
    count = min(len(vectors), columns)
    if not count:
        return np.full((cell, cell, 3), 244, np.uint8)
    poses = torch.tensor(np.asarray(vectors[:count]), dtype=torch.float32)
    with torch.no_grad():
        vertices, joints = (x.numpy().astype(np.float64) for x in hand.posed(poses))
    pictures: list[Image] = []
    for view in range(views):
        pictures += [_draw(hand, solid, vertices[k], joints[k], view, cell) for k in range(count)]
    return contact_sheet(pictures, columns=count, cell=cell)


def _draw(
    hand: GraspHand,
    solid: Solid,
    vertices: NDArray[np.float64],
    joints: NDArray[np.float64],
    view: int,
    cell: int,
) -> Image:
    along = _unit(joints[9] - joints[0])
    across = _unit(joints[5] - joints[17])  # little to index finger
    out = _unit(np.cross(across, along))
    if out @ (joints[2] - joints[9]) < 0:  # to the palm's side, where the thumb is
        out = -out
    toward = (across + 0.35 * out + 0.25 * along, 0.9 * out + 0.55 * along - 0.35 * across)[
        view % 2
    ]
    toward = _unit(toward)
    down = -along if view == 0 else -_unit(across - 0.3 * along)
    down = _unit(down - toward * (down @ toward))
    rotation = np.stack([np.cross(down, -toward), down, -toward])
    fine = loop_subdivision(hand.faces.numpy(), len(vertices), 1)
    mesh = solid.mesh
    seen = np.concatenate([vertices, mesh.vertices[:: max(1, len(mesh.vertices) // 500)]])
    flat = seen @ rotation.T
    low, high = flat.min(axis=0), flat.max(axis=0)
    middle = (low + high) / 2
    distance = 1.0
    focal = 0.94 * cell * (distance - (high[2] - low[2]) / 2) / max(high[:2] - low[:2])
    shift = np.array([0.0, 0.0, distance]) - middle
    camera = Camera(
        intrinsics=np.array([[focal, 0, cell / 2], [0, focal, cell / 2], [0, 0, 1.0]]),
        width=cell,
        height=cell,
    )
    plain = mesh.texture is None and mesh.vertex_colors is None
    meshes: Sequence[RenderMesh] = (
        RenderMesh(
            vertices=fine(vertices.astype(np.float32)) @ rotation.T + shift,
            faces=fine.faces,
            material=_SKIN,
        ),
        RenderMesh(
            vertices=mesh.vertices @ rotation.T + shift,
            faces=mesh.faces,
            uv=mesh.uv,
            texture=mesh.texture,
            vertex_colors=mesh.vertex_colors,
            material=_GREY if plain else Material(),
        ),
    )
    ground = np.full((cell, cell, 3), 244, np.uint8)
    return render(Scene3D(list(meshes)), camera, _LIGHT, ground).image


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / np.linalg.norm(vector)
