"""Write what was found as a GLB file that any 3D viewer opens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from trimesh.visual.material import PBRMaterial
from trimesh.visual.texture import TextureVisuals

from handhold.atomic import write_bytes
from handhold.errors import InputError
from handhold.render.colors import HAND_COLORS, OBJECT_COLOR
from handhold.scene import FloatArray, Scene

FLIP = np.array([1.0, -1.0, -1.0])
"""Camera axes (x right, y down, z forward) to glTF's (y up, z towards the viewer)."""

ObjectMeshes = Mapping[str, tuple[FloatArray, NDArray[Any]]]


def write_glb(
    path: str | Path,
    scene: Scene,
    hand_faces: Mapping[str, NDArray[Any]],
    object_meshes: ObjectMeshes | None = None,
) -> Path:
    """Write hands and held objects in metres, seen from the camera at the origin.

    hand_faces: faces (F, 3) of "left" and "right". object_meshes: name -> (vertices (V, 3) in the
    object's frame, faces); objects without an entry are left out. Nodes are named `hand_0_right`,
    `object_0_003_cracker_box`. The file appears whole or not at all.
    Raises InputError for a hand without vertices or faces, or when there is nothing to write.
    """
    path = Path(path)
    out = trimesh.Scene()
    for number, hand in enumerate(scene.hands):
        if hand.vertices is None:
            raise InputError(f"Scene.hands[{number}].vertices: expected (778, 3), found None")
        if hand.side is None or hand.side not in hand_faces:
            raise InputError(f"write_glb.hand_faces: no entry for {hand.side!r}")
        name = f"hand_{number}_{hand.side}"
        _add(out, name, hand.vertices, hand_faces[hand.side], HAND_COLORS[hand.side])
    for number, item in enumerate(scene.objects):
        if item is None or item.name is None or item.name not in (object_meshes or {}):
            continue
        vertices, faces = (object_meshes or {})[item.name]
        placed = np.asarray(vertices) @ item.rotation.T + item.translation
        _add(out, f"object_{number}_{item.name}", placed, faces, OBJECT_COLOR)
    if not out.geometry:
        raise InputError(f"write_glb: {scene.image} has no hand and no object to write to {path}")
    data = out.export(file_type="glb")
    if not isinstance(data, bytes):
        raise InputError(f"write_glb: trimesh returned {type(data).__name__}, expected bytes")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data)
    return path


def _add(
    out: trimesh.Scene,
    name: str,
    vertices: FloatArray,
    faces: NDArray[Any],
    color: tuple[int, int, int],
) -> None:
    material = PBRMaterial(
        name=name,
        baseColorFactor=[*color, 255],
        metallicFactor=0.0,
        roughnessFactor=0.6,
    )
    # FLIP is a rotation (half a turn about x), so the faces keep their winding.
    mesh = trimesh.Trimesh(
        np.asarray(vertices) * FLIP,
        np.asarray(faces),
        process=False,
        visual=TextureVisuals(material=material),
    )
    out.add_geometry(mesh, node_name=name, geom_name=name)
