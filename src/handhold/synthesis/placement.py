"""Where the hand is and how the camera looks at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handhold.scene import Camera

Array = NDArray[Any]

# Columns: where the rest pose's axes go when a right hand shows its palm, fingers up. In MANO's
# axes the fingers run along -x, the palm looks along -y, the thumb points along +z.
_PALM_TO_CAMERA = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
_HAND_SIZE = 0.17  # metres; sets how large the hand appears
_MIN_DEPTH = 0.12


@dataclass(frozen=True, kw_only=True)
class View:
    """camera; rotation (3, 3) of the hand about its centre; centre (3,) metres, camera frame."""

    camera: Camera
    rotation: Array
    centre: Array


def random_orientation(rng: np.random.Generator) -> Array:
    """A rotation (3, 3): anything at all for a share, else mostly upright as people show hands."""
    if rng.random() < 0.3:
        return Rotation.random(rng=rng).as_matrix()
    roll = rng.normal(0, 40) if rng.random() < 0.75 else rng.uniform(-180, 180)
    turn = rng.choice([0.0, 180.0, 90.0, -90.0], p=[0.4, 0.3, 0.15, 0.15]) + rng.normal(0, 30)
    pitch = rng.normal(0, 30)
    return (
        Rotation.from_euler("zxy", [roll, pitch, turn], degrees=True).as_matrix() @ _PALM_TO_CAMERA
    )


def random_view(
    rng: np.random.Generator,
    width: int,
    height: int,
    *,
    share: tuple[float, float],
    distance: tuple[float, float],
    margin: float = 0.2,
) -> View:
    """A camera and a place for a hand.

    share: smallest and largest size of the hand in the image's shorter side (log-uniform).
    distance: metres (log-uniform). The focal length follows, kept between 20 and 100 degrees of
    horizontal view (the distance then gives way). margin: how much of the hand may leave the image.
    """
    size = np.exp(rng.uniform(*np.log(share))) * min(width, height)
    depth = np.exp(rng.uniform(*np.log(distance)))
    focal = size * depth / _HAND_SIZE
    low, high = width / 2 / np.tan(np.radians(50)), width / 2 / np.tan(np.radians(10))
    focal = float(np.clip(focal, low, high))
    depth = max(_MIN_DEPTH, focal * _HAND_SIZE / size)
    centre = np.array([width - 1, height - 1]) / 2 + rng.normal(0, 0.01, 2) * (width, height)
    intrinsics = np.array(
        [[focal, 0, centre[0]], [0, focal * rng.uniform(0.995, 1.005), centre[1]], [0, 0, 1]]
    )
    reach = np.maximum(np.array([width, height]) - size * (1 - margin), 0) / 2
    pixel = np.array([width - 1, height - 1]) / 2 + rng.uniform(-1, 1, 2) * reach
    ray = np.linalg.solve(intrinsics, np.array([*pixel, 1.0]))
    camera = Camera(intrinsics=intrinsics, width=width, height=height, source="synthetic")
    return View(camera=camera, rotation=random_orientation(rng), centre=ray * depth)


def occluder_pose(rng: np.random.Generator, target: Array, size: float) -> tuple[Array, Array]:
    """Pose of something of `size` metres between the camera and the point `target` (3,)."""
    toward = rng.uniform(0.55, 0.85) if size > 0.08 else rng.uniform(0.7, 0.9)
    place = target * toward + rng.normal(0, 0.4 * size, 3) * (1, 1, 0.1)
    return Rotation.random(rng=rng).as_matrix(), place
