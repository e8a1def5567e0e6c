"""A sample with everything its labels say drawn on it, to see at once whether they are right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from handhold.hand.convention import SKELETON
from handhold.objects.control_points import PLACES
from handhold.scene import Camera, Hand, RigidObject, Sample

FINGERS = ((255, 120, 90), (255, 200, 60), (110, 220, 90), (80, 190, 255), (190, 120, 255))
_OBJECT = (255, 255, 255)
_SKIN = np.array([235, 205, 185], np.float64)
_MESH_OPACITY = 0.6
# pairs of the box's corners (the first 8 control points) that differ in one coordinate
BOX_EDGES = tuple(
    (a, b) for a in range(8) for b in range(a) if np.abs(PLACES[a] - PLACES[b]).sum() == 1
)


def draw_labels(
    sample: Sample,
    *,
    scale: int = 1,
    faces: Mapping[str, NDArray[Any]] | None = None,
    caption: str = "",
) -> NDArray[np.uint8]:
    """The image (H, W, 3) uint8, `scale` times enlarged, with joints, boxes, masks and flags.

    Joints that something hides are drawn hollow; the object's mask is tinted, its control points
    and the edges of their box are white; the text names side, grasp and visible share. faces: side
    -> triangles (F, 3) of the hands' vertices, which are then drawn as a shaded mesh, else as dots.
    caption: words for the lower left corner.
    """
    image = sample.image.copy()
    if sample.object_mask is not None:
        tint = np.array([60, 60, 255], np.float32)
        mixed = image[sample.object_mask] * 0.7 + tint * 0.3
        image[sample.object_mask] = mixed.astype(np.uint8)
    size = (image.shape[1] * scale, image.shape[0] * scale)
    image = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
    for hand in sample.hands:
        _mesh(image, hand, sample.camera, scale, faces or {})
    for hand in sample.hands:
        _hand(image, hand, scale)
    if sample.object is not None:
        _object(image, sample.object, sample.camera, scale)
    if caption:
        _words(image, caption, (2, image.shape[0] - 6))
    return image.astype(np.uint8)


def _pixel(point: Any, scale: int) -> tuple[int, int]:
    place = np.clip((np.asarray(point) + 0.5) * scale, -(2**15), 2**15)
    return int(place[0]), int(place[1])


def _mesh(
    image: NDArray[Any], hand: Hand, camera: Camera, scale: int, faces: Mapping[str, NDArray[Any]]
) -> None:
    """The hand's triangles from far to near, brighter the more they face the camera."""
    if hand.vertices is None or (hand.vertices[:, 2] <= 0).any():
        return
    points = np.asarray(hand.vertices, np.float64)
    pixels = np.array([_pixel(point, scale) for point in camera.project(points)])
    if hand.side is None or hand.side not in faces:
        for x, y in pixels:
            cv2.circle(image, (int(x), int(y)), _unit(image) - 1, _SKIN.tolist(), -1)
        return
    corners = points[np.asarray(faces[hand.side])]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.maximum(np.linalg.norm(normals, axis=1), 1e-12)
    bright = 0.35 + 0.65 * np.abs(normals[:, 2]) / length
    drawn = image.copy()
    for face in np.argsort(-corners[..., 2].mean(1)):
        triangle = pixels[faces[hand.side][face]].astype(np.int32)
        cv2.fillConvexPoly(drawn, triangle, (bright[face] * _SKIN).tolist())
    cv2.addWeighted(drawn, _MESH_OPACITY, image, 1 - _MESH_OPACITY, 0, dst=image)


def _object(image: NDArray[Any], thing: RigidObject, camera: Camera, scale: int) -> None:
    if thing.control_points is None:
        return
    points = thing.control_points @ thing.rotation.T + thing.translation
    if not (points[:, 2] > 0).all():
        return
    pixels = [_pixel(point, scale) for point in camera.project(points)]
    for a, b in BOX_EDGES:
        cv2.line(image, pixels[a], pixels[b], _OBJECT, 1, cv2.LINE_AA)
    for pixel in pixels:
        cv2.circle(image, pixel, _unit(image), _OBJECT, -1, cv2.LINE_AA)


def _words(image: NDArray[Any], words: str, place: tuple[int, int]) -> None:
    """White on black, not wider than the image; place: the lower left corner."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.35 * max(1.0, max(image.shape[:2]) / 360)
    width = cv2.getTextSize(words, font, size, 1)[0][0]
    size *= min(1.0, (image.shape[1] - 4) / max(width, 1))
    (width, height), base = cv2.getTextSize(words, font, size, 1)
    x, y = place
    cv2.rectangle(image, (x - 1, y - height - 1), (x + width, y + base), (0, 0, 0), -1)
    cv2.putText(image, words, place, font, size, (255, 255, 255), 1, cv2.LINE_AA)


def _unit(image: NDArray[Any]) -> int:
    """Pixels of a thin line."""
    return max(1, round(max(image.shape[:2]) / 360))


def _hand(image: NDArray[Any], hand: Hand, scale: int) -> None:
    unit = _unit(image)
    if hand.joints2d is not None:
        valid = np.ones(21, bool) if hand.joints2d_valid is None else hand.joints2d_valid
        seen = valid if hand.joints_visible is None else hand.joints_visible
        for parent, child in SKELETON:
            if valid[parent] and valid[child]:
                ends = _pixel(hand.joints2d[parent], scale), _pixel(hand.joints2d[child], scale)
                cv2.line(image, *ends, FINGERS[(child - 1) // 4], unit, cv2.LINE_AA)
        for joint in np.flatnonzero(valid):
            colour = FINGERS[max(joint - 1, 0) // 4]
            thick = -1 if seen[joint] else 1
            centre = _pixel(hand.joints2d[joint], scale)
            cv2.circle(image, centre, 2 * unit, colour, thick, cv2.LINE_AA)
    if hand.box is not None:
        corners = _pixel(hand.box[:2], scale), _pixel(hand.box[2:], scale)
        cv2.rectangle(image, *corners, (255, 255, 255), 1)
        words = [hand.side or "side unknown"]
        if hand.grasping is not None:
            words.append("holds" if hand.grasping else "free")
        if hand.visibility is not None:
            words.append(f"{hand.visibility:.0%}")
        place = (max(corners[0][0], 0) + 2, max(corners[0][1], 10) - 2)
        _words(image, " ".join(words), place)
