"""A sample with everything its labels say drawn on it, to see at once whether they are right."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from handhold.hand.convention import SKELETON
from handhold.scene import Hand, Sample

FINGERS = ((255, 120, 90), (255, 200, 60), (110, 220, 90), (80, 190, 255), (190, 120, 255))
_OBJECT = (255, 255, 255)


def draw_labels(sample: Sample, *, scale: int = 1) -> NDArray[np.uint8]:
    """The image (H, W, 3) uint8, `scale` times enlarged, with joints, boxes, masks and flags.

    Joints that something hides are drawn hollow; the object's mask is tinted, its control points
    are white; the text names side, grasp and visible share.
    """
    image = sample.image.copy()
    if sample.object_mask is not None:
        tint = np.array([60, 60, 255], np.float32)
        mixed = image[sample.object_mask] * 0.7 + tint * 0.3
        image[sample.object_mask] = mixed.astype(np.uint8)
    size = (image.shape[1] * scale, image.shape[0] * scale)
    image = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
    for hand in sample.hands:
        _hand(image, hand, scale)
    held = sample.object
    if held is not None and held.control_points is not None:
        points = held.control_points @ held.rotation.T + held.translation
        if (points[:, 2] > 0).all():
            for point in sample.camera.project(points):
                cv2.circle(image, _pixel(point, scale), scale, _OBJECT, -1, cv2.LINE_AA)
    return image.astype(np.uint8)


def _pixel(point: Any, scale: int) -> tuple[int, int]:
    place = np.clip((np.asarray(point) + 0.5) * scale, -(2**15), 2**15)
    return int(place[0]), int(place[1])


def _hand(image: NDArray[Any], hand: Hand, scale: int) -> None:
    if hand.joints2d is not None:
        valid = np.ones(21, bool) if hand.joints2d_valid is None else hand.joints2d_valid
        seen = valid if hand.joints_visible is None else hand.joints_visible
        for parent, child in SKELETON:
            if valid[parent] and valid[child]:
                ends = _pixel(hand.joints2d[parent], scale), _pixel(hand.joints2d[child], scale)
                cv2.line(image, *ends, FINGERS[(child - 1) // 4], scale, cv2.LINE_AA)
        for joint in np.flatnonzero(valid):
            colour = FINGERS[max(joint - 1, 0) // 4]
            thick = -1 if seen[joint] else 1
            centre = _pixel(hand.joints2d[joint], scale)
            cv2.circle(image, centre, 2 * scale, colour, thick, cv2.LINE_AA)
    if hand.box is not None:
        corners = _pixel(hand.box[:2], scale), _pixel(hand.box[2:], scale)
        cv2.rectangle(image, *corners, (255, 255, 255), 1)
        words = [hand.side]
        if hand.grasping is not None:
            words.append("holds" if hand.grasping else "free")
        if hand.visibility is not None:
            words.append(f"{hand.visibility:.0%}")
        place = (max(corners[0][0], 0) + 2, max(corners[0][1], 10) - 2)
        for colour, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            font = cv2.FONT_HERSHEY_SIMPLEX
            cv2.putText(image, " ".join(words), place, font, 0.35, colour, thick, cv2.LINE_AA)
