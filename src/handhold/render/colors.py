"""The colours of every drawing: RGB bytes."""

from __future__ import annotations

Color = tuple[int, int, int]

HAND_COLORS: dict[str, Color] = {"left": (94, 160, 232), "right": (240, 168, 96)}
OBJECT_COLOR: Color = (128, 196, 148)
WRIST_COLOR: Color = (235, 235, 235)
FINGER_COLORS: tuple[Color, ...] = (
    (232, 94, 94),
    (240, 190, 70),
    (110, 200, 110),
    (90, 165, 235),
    (180, 120, 225),
)
"""Thumb, index, middle, ring, little."""


def joint_color(joint: int) -> Color:
    """Colour of a joint of the canonical order."""
    return WRIST_COLOR if joint == 0 else FINGER_COLORS[(joint - 1) // 4]
