"""Show a result to a person: mesh and skeleton over the photo, the same from the side, sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from handhold.atomic import write_bytes
from handhold.errors import InputError
from handhold.hand.convention import SKELETON
from handhold.render.colors import HAND_COLORS, OBJECT_COLOR, Color, joint_color
from handhold.render.lights import DirectionalLight, Lighting
from handhold.render.material import Material, to_linear
from handhold.render.raycast import RenderMesh, Scene3D
from handhold.render.shade import render
from handhold.scene import Camera, FloatArray, Hand, Scene

Image = NDArray[np.uint8]
Faces = Mapping[str, NDArray[Any]]
ObjectMeshes = Mapping[str, tuple[FloatArray, NDArray[Any]]]

_LIGHTING = Lighting(
    lights=(DirectionalLight(towards=(-0.5, -0.8, -0.9), color=(0.75, 0.75, 0.75), size=0.15),),
    sky=(0.5, 0.5, 0.52),
    ground=(0.28, 0.27, 0.26),
    occlusion_reach=0.03,
)


def scene_meshes(
    scene: Scene, hand_faces: Faces, object_meshes: ObjectMeshes | None = None
) -> list[RenderMesh]:
    """The hands and held objects of a result as meshes in the camera frame, in friendly colours.

    Hands without vertices and objects without a mesh are left out.
    Raises InputError when `hand_faces` lacks a side that occurs.
    """
    meshes = []
    for hand in scene.hands:
        if hand.vertices is None:
            continue
        if hand.side is None or hand.side not in hand_faces:
            raise InputError(f"hand_faces: no entry for {hand.side!r}")
        meshes.append(
            RenderMesh(
                vertices=hand.vertices,
                faces=hand_faces[hand.side],
                material=_plain(HAND_COLORS[hand.side]),
                name=hand.side,
            )
        )
    for item in scene.objects:
        if item is None or item.name is None or item.name not in (object_meshes or {}):
            continue
        vertices, faces = (object_meshes or {})[item.name]
        mesh = RenderMesh(vertices=vertices, faces=faces, material=_plain(OBJECT_COLOR))
        meshes.append(replace(mesh, rotation=item.rotation, translation=item.translation))
    return meshes


def draw_overlay(
    image: Image,
    scene: Scene,
    hand_faces: Faces,
    object_meshes: ObjectMeshes | None = None,
    *,
    opacity: float = 0.72,
    skeleton: bool = True,
    boxes: bool = True,
) -> Image:
    """The photo (H, W, 3) uint8 RGB with shaded meshes, 2D skeletons, boxes and labels drawn over
    it.

    Pixels that no mesh, line or text touches keep their value. Without hands a note is written.
    Raises InputError when the photo's size is not the camera's.
    """
    expected = (scene.camera.height, scene.camera.width, 3)
    if image.shape != expected or image.dtype != np.uint8:
        raise InputError(
            f"draw_overlay.image: expected {expected} uint8, found {image.shape} {image.dtype}"
        )
    if not 0 <= opacity <= 1:
        raise InputError(f"draw_overlay.opacity: expected 0..1, found {opacity}")
    out = image.copy()
    meshes = scene_meshes(scene, hand_faces, object_meshes)
    if meshes and opacity > 0:
        drawn = render(Scene3D(meshes), scene.camera, _LIGHTING, image).image
        touched = (drawn != image).any(axis=2)
        mixed = image[touched] * (1 - opacity) + drawn[touched] * opacity
        out[touched] = np.round(mixed).astype(np.uint8)
    unit = max(image.shape[:2]) / 640
    for hand in scene.hands:
        if skeleton:
            _draw_skeleton(out, hand, scene.camera, unit)
        if boxes:
            _draw_box(out, hand, unit)
    for item in scene.objects:
        if boxes and item is not None and item.box is not None:
            _rectangle(out, item.box, OBJECT_COLOR, unit)
            _label(out, item.name or "object", item.box[0], item.box[3], OBJECT_COLOR, unit)
    if not scene.hands:
        _label(out, "no hand found", 4 * unit, 22 * unit, (235, 235, 235), unit)
    return out


def side_view(
    scene: Scene,
    hand_faces: Faces,
    object_meshes: ObjectMeshes | None = None,
    *,
    size: tuple[int, int] = (480, 480),
    turn_deg: float = 70.0,
) -> Image:
    """The same hands seen from the side (turned about the vertical) over a plain ground with a
    grid.

    size: width, height in pixels. Grid lines are 5 cm apart, bold every metre; the label says so.
    """
    width, height = size
    out = np.full((height, width, 3), 244, np.uint8)
    unit = max(size) / 640
    meshes = scene_meshes(scene, hand_faces, object_meshes)
    if not meshes:
        _label(out, "nothing to show", 4 * unit, 22 * unit, (90, 90, 90), unit)
        return out
    points = np.concatenate([mesh.camera_vertices for mesh in meshes])
    low, high = points.min(axis=0), points.max(axis=0)
    centre = (low + high) / 2
    radius = max(float(np.linalg.norm(high - low)) / 2, 0.05)
    turn = np.radians(turn_deg)
    about = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    tilt = np.radians(16.0)
    nod = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    rotation = nod @ about
    distance = radius * 4.2
    shift = np.array([0.0, 0.0, distance]) - rotation @ centre
    focal = 0.42 * min(size) * distance / radius
    camera = Camera(
        intrinsics=np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]]),
        width=width,
        height=height,
    )
    _draw_grid(out, camera, rotation, shift, centre, float(high[1]) + 0.02, radius)
    moved = [
        RenderMesh(
            vertices=mesh.camera_vertices @ rotation.T + shift,
            faces=mesh.faces,
            material=mesh.material,
        )
        for mesh in meshes
    ]
    out = render(Scene3D(moved), camera, _LIGHTING, out).image
    _label(out, "side view, grid 5 cm", 4 * unit, height - 6 * unit, (90, 90, 90), unit)
    return out


def make_panel(
    image: Image,
    scene: Scene,
    hand_faces: Faces,
    object_meshes: ObjectMeshes | None = None,
    *,
    height: int | None = None,
) -> Image:
    """Photo, overlay and side view side by side, `height` pixels high (default: the photo's)."""
    height = int(image.shape[0]) if height is None else height
    overlay = draw_overlay(image, scene, hand_faces, object_meshes)
    aside = side_view(scene, hand_faces, object_meshes, size=(height, height))
    parts = [_scaled(image, height), _scaled(overlay, height), aside]
    gap = np.full((height, 4, 3), 255, np.uint8)
    return np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1)


def contact_sheet(
    images: Sequence[Image], columns: int = 6, *, cell: int | None = None, gap: int = 2
) -> Image:
    """Images (any sizes) on one white sheet, `columns` a row; each is fitted into a square cell.

    cell: pixels of a cell, default the largest side of the first image.
    Raises InputError without images or with columns < 1.
    """
    if not len(images) or columns < 1:
        raise InputError(
            f"contact_sheet: expected images and columns >= 1, found {len(images)} and {columns}"
        )
    cell = int(max(images[0].shape[:2])) if cell is None else cell
    rows = -(-len(images) // columns)
    columns = min(columns, len(images))
    step = cell + gap
    sheet = np.full((rows * step - gap, columns * step - gap, 3), 255, np.uint8)
    for number, image in enumerate(images):
        scale = cell / max(image.shape[:2])
        if scale != 1:
            size = (
                max(1, round(image.shape[1] * scale)),
                max(1, round(image.shape[0] * scale)),
            )
            smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            image = np.asarray(cv2.resize(image, size, interpolation=smooth), np.uint8)
        top = number // columns * step + (cell - image.shape[0]) // 2
        left = number % columns * step + (cell - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def write_picture(path: str | Path, image: Image) -> None:
    """An RGB image (H, W, 3) as the file's ending says, whole or not at all. Raises WriteError."""
    # imwrite would not say that the disk is full
    done, data = cv2.imencode(Path(path).suffix, image[..., ::-1])
    if not done:
        raise InputError(f"{path}: a picture of {image.shape} cannot be encoded")
    write_bytes(path, data.tobytes())


def _plain(color: Color) -> Material:
    red, green, blue = to_linear(np.array(color, np.uint8))
    return Material(color=(float(red), float(green), float(blue)), roughness=0.55)


def _scaled(image: Image, height: int) -> Image:
    if image.shape[0] == height:
        return image
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    smooth = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=smooth), np.uint8)


def _points2d(hand: Hand, camera: Camera) -> FloatArray | None:
    if hand.joints2d is not None:
        return hand.joints2d
    if hand.joints is not None and (hand.joints[:, 2] > 1e-3).all():
        return camera.project(hand.joints)
    return None


def _draw_skeleton(out: Image, hand: Hand, camera: Camera, unit: float) -> None:
    """Bones and joints on a thin dark edge so they read on any ground."""
    points = _points2d(hand, camera)
    if points is None:
        return
    # OpenCV draws wrongly where coordinates leave 16 bits.
    valid = np.array((np.abs(np.nan_to_num(points, nan=1e9)) < 16000).all(axis=1))
    if hand.joints2d_valid is not None:
        valid &= hand.joints2d_valid
    fixed = np.round(np.nan_to_num(points) * 4).astype(int)
    thick = max(1, round(2 * unit))
    bones = [(a, b) for a, b in SKELETON if valid[a] and valid[b]]
    for extra, shade in ((2, True), (0, False)):
        for a, b in bones:
            color = (25, 25, 25) if shade else joint_color(b)
            start, end = tuple(map(int, fixed[a])), tuple(map(int, fixed[b]))
            cv2.line(out, start, end, color, thick + extra, cv2.LINE_AA, shift=2)
    for joint in np.flatnonzero(valid):
        radius = max(1, round(2.6 * unit)) * 4
        centre = tuple(map(int, fixed[joint]))
        cv2.circle(out, centre, radius, joint_color(int(joint)), -1, cv2.LINE_AA, shift=2)


def _draw_box(out: Image, hand: Hand, unit: float) -> None:
    if hand.box is None:
        return
    color = HAND_COLORS[hand.side or "right"]
    _rectangle(out, hand.box, color, unit)
    words = f"{hand.side or 'hand'} {hand.score:.2f}"
    if hand.hand_id is not None:
        words = f"#{hand.hand_id} {words}"
    if hand.grasping is not None:
        words += " holding" if hand.grasping else " free"
    _label(out, words, hand.box[0], hand.box[1], color, unit)


def _rectangle(out: Image, box: FloatArray, color: Color, unit: float) -> None:
    x0, y0, x1, y1 = (int(v) for v in np.round(np.clip(box, -16000, 16000)))
    cv2.rectangle(out, (x0, y0), (x1, y1), color, max(1, round(1.4 * unit)), cv2.LINE_AA)


def _label(out: Image, words: str, x: float, y: float, color: Color, unit: float) -> None:
    """Dark or light text on a patch of `color`, its lower left corner near (x, y), kept inside."""
    scale, thick = max(0.32, 0.5 * unit), max(1, round(unit))
    (width, height), base = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    left = int(np.clip(x, 0, max(0, out.shape[1] - width - 4)))
    bottom = int(np.clip(y, height + base + 2, out.shape[0] - 1))
    top = bottom - height - base - 2
    cv2.rectangle(out, (left, top), (left + width + 4, bottom), color, -1)
    ink = (20, 20, 20) if sum(color) > 330 else (245, 245, 245)
    place = (left + 2, bottom - base)
    cv2.putText(out, words, place, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, thick, cv2.LINE_AA)


def _draw_grid(
    out: Image,
    camera: Camera,
    rotation: FloatArray,
    shift: FloatArray,
    centre: FloatArray,
    floor: float,
    radius: float,
) -> None:
    """Lines every 5 cm on the horizontal plane y = floor of the photo's camera frame."""
    reach = np.ceil(radius * 3 / 0.05)
    middle = np.round(centre[[0, 2]] / 0.05)
    for axis in (0, 1):
        for step in np.arange(-reach, reach + 1):
            at = (middle[axis] + step) * 0.05
            ends = np.zeros((2, 3))
            ends[:, 1] = floor
            ends[:, 2 * axis] = at
            other = 2 - 2 * axis
            ends[:, other] = (middle[1 - axis] + np.array([-reach, reach])) * 0.05
            seen = ends @ rotation.T + shift
            if (seen[:, 2] < 0.02).any():
                near = int(seen[:, 2].argmin())
                if seen[1 - near, 2] < 0.03:
                    continue
                share = (0.02 - seen[near, 2]) / (seen[1 - near, 2] - seen[near, 2])
                seen[near] += share * (seen[1 - near] - seen[near])
            start, end = np.round(np.clip(camera.project(seen), -16000, 16000) * 4).astype(int)
            whole = abs(at - round(at)) < 1e-6
            color = (150, 150, 150) if whole else (214, 214, 214)
            place = (tuple(map(int, start)), tuple(map(int, end)))
            cv2.line(out, *place, color, 2 if whole else 1, cv2.LINE_AA, shift=2)
