"""Results as files: `<stem>.png` (overlay and side view), `<stem>.glb`, `<stem>.json`, whole or not
at all.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from handhold.atomic import write_bytes
from handhold.errors import InputError
from handhold.geometry.camera import resize_intrinsics
from handhold.inference.results import scene_text
from handhold.scene import Camera, FloatArray, RigidObject, Scene

FORMATS = ("png", "glb", "json")
PICTURE_SIDE = 1600  # pictures of larger photos are drawn at this size


def parse_formats(text: str) -> tuple[str, ...]:
    """ "all", or names of FORMATS with commas between them. Raises InputError for others."""
    if text == "all":
        return FORMATS
    names = tuple(part.strip() for part in text.split(","))
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise InputError(f"format: expected all or some of {', '.join(FORMATS)}; found {text!r}")
    return names


def prepare_folder(folder: Path) -> None:
    """Make the folder and prove that it can be written to. Raises InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder}: cannot write here ({error.strerror or error})") from error


def plan_names(paths: Sequence[Path], folder: Path, formats: Sequence[str]) -> list[str]:
    """A name for each photo's results: its stem, or stem and suffix (`a_jpg`) where stems
    meet, numbered where even these meet (letter case does not make names different).

    Raises InputError when a result would replace one of the photos.
    """
    stems = Counter(path.stem.lower() for path in paths)
    taken: set[str] = set()
    names = []
    for path in paths:
        name = path.stem
        if stems[name.lower()] > 1:
            name = f"{path.stem}_{path.suffix[1:]}"
        unique, number = name, 2
        while unique.lower() in taken:
            unique, number = f"{name}_{number}", number + 1
        taken.add(unique.lower())
        names.append(unique)
    photos = {path.resolve() for path in paths}
    for name in names:
        for suffix in formats:
            if (folder / f"{name}.{suffix}").resolve() in photos:
                raise InputError(
                    f"{folder}: the result {name}.{suffix} would replace a photo of this name; "
                    "choose another output folder"
                )
    return names


def write_results(
    folder: Path,
    name: str,
    scene: Scene,
    image: NDArray[np.uint8],
    hand_faces: Mapping[str, NDArray[Any]],
    formats: Sequence[str] = FORMATS,
) -> list[Path]:
    """Write the formats asked for and return their paths; JSON last, so that it says "complete".
    There is no GLB where there are no hands. Raises OSError when the disk refuses.
    """
    written: list[Path] = []
    meshes = object_meshes(scene) if {"png", "glb"} & set(formats) else {}
    if "png" in formats:
        picture = draw(scene, image, hand_faces, meshes)
        coded = cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 2])[1]
        written.append(folder / f"{name}.png")
        write_bytes(written[-1], coded.tobytes())
    if "glb" in formats:
        path = folder / f"{name}.glb"
        if any(hand.vertices is not None for hand in scene.hands):
            from handhold.render.gltf import write_glb

            written.append(write_glb(path, scene, hand_faces, meshes))
        else:
            path.unlink(missing_ok=True)  # of an earlier run: it would contradict the JSON
    if "json" in formats:
        written.append(folder / f"{name}.json")
        write_bytes(written[-1], scene_text(scene).encode())
    return written


def draw(
    scene: Scene,
    image: NDArray[np.uint8],
    hand_faces: Mapping[str, NDArray[Any]],
    meshes: Mapping[str, tuple[FloatArray, NDArray[Any]]] | None = None,
) -> NDArray[np.uint8]:
    """Overlay and, where there are hands, the side view beside it: (h, w, 3) uint8 RGB."""
    from handhold.render.overlay import draw_overlay, side_view

    small, scene = reduce(scene, image, PICTURE_SIDE)
    overlay = draw_overlay(small, scene, hand_faces, meshes)
    if not any(hand.vertices is not None for hand in scene.hands):
        return overlay
    height = overlay.shape[0]
    edge = int(np.clip(height, 240, 640))
    aside = side_view(scene, hand_faces, meshes, size=(edge, edge))
    size = (max(1, round(edge * height / aside.shape[0])), height)
    aside = np.asarray(cv2.resize(aside, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return np.concatenate([overlay, aside], axis=1)


def reduce(scene: Scene, image: NDArray[np.uint8], longest: int) -> tuple[NDArray[np.uint8], Scene]:
    """Photo and scene with the photo's longer side at most `longest` pixels."""
    height, width = image.shape[:2]
    if max(height, width) <= longest:
        return image, scene
    scale = longest / max(height, width)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    sx, sy = new_width / width, new_height / height
    small = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA)
    factor = np.array([sx, sy])
    camera = Camera(
        intrinsics=resize_intrinsics(scene.camera.intrinsics, sx, sy),
        width=new_width,
        height=new_height,
        source=scene.camera.source,
    )

    def points(value: FloatArray | None) -> FloatArray | None:
        if value is None:
            return None
        return ((value.reshape(-1, 2) + 0.5) * factor - 0.5).reshape(value.shape)

    def thing(value: RigidObject | None) -> RigidObject | None:
        return None if value is None else replace(value, box=points(value.box))

    hands = tuple(
        replace(hand, box=points(hand.box), joints2d=points(hand.joints2d)) for hand in scene.hands
    )
    objects = tuple(thing(value) for value in scene.objects)
    return np.asarray(small, np.uint8), replace(scene, camera=camera, hands=hands, objects=objects)


def object_meshes(scene: Scene) -> dict[str, tuple[FloatArray, NDArray[Any]]]:
    """Vertices (V, 3) and faces (F, 3) of the catalogue objects that occur in the scene."""
    names = {thing.name for thing in scene.objects if thing is not None}
    found = {name: _catalogue_mesh(name) for name in names if name is not None}
    return {name: mesh for name, mesh in found.items() if mesh is not None}


@cache
def _catalogue_mesh(name: str) -> tuple[FloatArray, NDArray[Any]] | None:
    from handhold.objects.procedural import make_object

    try:
        mesh = make_object(name, np.random.default_rng(0))
    except InputError:
        return None  # not in the catalogue
    return mesh.vertices, mesh.faces
