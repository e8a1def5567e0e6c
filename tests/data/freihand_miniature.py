"""FreiHAND in its official layout: three training photos in four versions, two of the evaluation.
The hands are those of the free hand model."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from tests.data.miniature import KnownHand, flat, known_hand, write_image

from handhold.hand.model import HandModel

TRAINING, EVALUATION = 3, 2


@functools.cache
def hand(part: str, entry: int) -> KnownHand:
    """The hand of an entry of the label files."""
    place = (0.01 * entry, -0.03, 0.6 + 0.05 * entry)
    return known_hand("right", entry + (10 if part == "evaluation" else 0), place)


def camera(entry: int) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy: no two alike, the principal point off the middle."""
    return 480.0 + entry, 476.0, 108.0 + 2 * entry, 115.5


def matrix(entry: int) -> list[list[float]]:
    """The same as 3x3."""
    fx, fy, cx, cy = camera(entry)
    return [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]


def mano(part: str, entry: int) -> list[list[float]]:
    """1x61: pose without the mean, shape, and joint 9 as u, v, scale."""
    known = hand(part, entry)
    fx, fy, cx, cy = camera(entry)
    focal = (fx + fy) / 2
    x, y, z = known.joints[9]
    scale = focal / z
    fingers = known.pose[1:].reshape(45) - HandModel.free().hands_mean.numpy()
    end = [cx + x * scale, cy + y * scale, scale]
    return [[*known.pose[0], *fingers, *known.betas, *end]]


def labels(part: str) -> dict[str, list[Any]]:
    """The label files' contents by their endings."""
    count = TRAINING if part == "training" else EVALUATION
    hands = [hand(part, entry) for entry in range(count)]
    bones = [float(np.linalg.norm(known.joints[10] - known.joints[9])) for known in hands]
    found: dict[str, list[Any]] = {
        "K": [matrix(entry) for entry in range(count)],
        "xyz": [known.joints.tolist() for known in hands],
        "verts": [known.vertices.tolist() for known in hands],
        "scale": bones,
    }
    if part == "training":
        found["mano"] = [mano(part, entry) for entry in range(count)]
    return found


def write(root: Path) -> Path:
    """Write it and return root."""
    for part, images in (("training", 4 * TRAINING), ("evaluation", EVALUATION)):
        for number in range(images):
            write_image(root / f"{part}/rgb/{number:08d}.jpg", flat(40 + 5 * number, 224, 224))
        for ending, values in labels(part).items():
            (root / f"{part}_{ending}.json").write_text(json.dumps(values))
    mask = np.zeros((224, 224, 3), np.uint8)
    mask[60:160, 70:150] = 255
    for number in range(TRAINING):
        write_image(root / f"training/mask/{number:08d}.jpg", mask)
    return root
