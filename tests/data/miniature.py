"""What the miniature data sets share: flat pictures, and hands of the free hand model, whose labels
are known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from handhold.hand.model import HandModel


@dataclass(frozen=True)
class KnownHand:
    """Flat pose (16, 3), betas (10,), translation (3,), joints (21, 3), vertices (778, 3): metres,
    OpenCV camera."""

    side: str
    pose: np.ndarray
    betas: np.ndarray
    translation: np.ndarray
    joints: np.ndarray
    vertices: np.ndarray


def known_hand(side: str, seed: int, place: tuple[float, float, float]) -> KnownHand:
    """A hand of the free model in some pose, its rest wrist moved by `place`."""
    draw = np.random.default_rng(seed)
    pose = 0.2 * draw.standard_normal((16, 3))
    betas = 0.5 * draw.standard_normal(10)
    model = HandModel.free("left" if side == "left" else "right")
    posed = model(*(torch.from_numpy(np.asarray(x)) for x in (pose, betas, np.array(place))))
    return KnownHand(
        side=side,
        pose=pose,
        betas=betas,
        translation=np.array(place),
        joints=posed.joints.double().numpy(),
        vertices=posed.vertices.double().numpy(),
    )


def project(points: np.ndarray, camera: tuple[float, float, float, float]) -> np.ndarray:
    """Pixels of camera-frame points; camera: fx, fy, cx, cy."""
    fx, fy, cx, cy = camera
    return points[..., :2] / points[..., 2:] * (fx, fy) + (cx, cy)


def write_image(path: Path, image: np.ndarray, *options: int) -> None:
    """Write RGB or raw numbers; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = image[..., ::-1] if image.ndim == 3 else image
    assert cv2.imwrite(str(path), stored, list(options))


def flat(value: int, width: int, height: int) -> np.ndarray:
    """A picture of one grey."""
    return np.full((height, width, 3), value, np.uint8)


def turn_z(degrees: float) -> np.ndarray:
    """Rotation about the optical axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def same(found: Any, expected: Any, off: float = 1e-4) -> None:
    """Equal within 0.1 mm or the given tolerance, shapes included."""
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_allclose(found, expected, atol=off, rtol=0)
