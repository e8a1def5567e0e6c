"""Perspective crops: what a second camera at the same place sees that looks at a box.

A camera turned about its own centre sees the photo under a homography, whatever the depth, and 3D
points are turned with it, so that crop and 3D labels agree exactly. An affine crop shows a hand at
the photo's edge from aside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handhold.errors import InputError
from handhold.geometry import boxes, crop

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class VirtualCamera:
    """rotation (3, 3): from the photo's camera frame to its own. intrinsics (3, 3) pixels of the
    crop. homography (3, 3): from photo to crop pixels. scale: crop pixels per photo pixel, in the
    middle."""

    rotation: Array
    intrinsics: Array
    homography: Array
    scale: float


def look_at(direction: ArrayLike) -> Array:
    """Rotation (3, 3) into a frame whose z axis is `direction` (3,), x right, y down; without roll:
    its x axis is perpendicular to the old y axis. Raises InputError along the y axis."""
    ahead = np.asarray(direction, np.float64)
    right = np.cross((0.0, 1.0, 0.0), ahead)
    length = np.linalg.norm(right)
    if not (np.isfinite(length) and length > 1e-9 * np.linalg.norm(ahead)):
        raise InputError(f"look_at: no camera without roll looks along {ahead.tolist()}")
    right, ahead = right / length, ahead / np.linalg.norm(ahead)
    return np.stack([right, np.cross(ahead, right), ahead])


def virtual_camera(
    centre: ArrayLike, sides: ArrayLike, size: int, intrinsics: ArrayLike, rotation: float = 0.0
) -> VirtualCamera:
    """The camera whose image of `size` x `size` pixels shows the box with `centre` (2,) and `sides`
    (width, height) in photo pixels.

    It looks at the centre, which becomes the image's middle; of the distances between opposite
    sides' middles the larger one fills the image; then it is rolled by `rotation` (radians), which
    turns the image about its middle. intrinsics (3, 3): the photo's; pixels of the crop are square.
    Raises InputError for boxes without extent or beside what a camera can see.
    """
    centre, sides = np.asarray(centre, np.float64), np.asarray(sides, np.float64)
    given = np.asarray(intrinsics, np.float64)
    if not (np.isfinite(centre).all() and np.isfinite(sides).all() and (sides > 0).all()):
        raise InputError(f"virtual camera: centre and sides must be finite: {centre}, {sides}")
    to_rays = np.linalg.inv(given)
    turned = look_at(to_rays @ (*centre, 1.0))
    half = sides / 2
    offsets = np.array([[-half[0], 0], [half[0], 0], [0, -half[1]], [0, half[1]]])
    rays = np.concatenate([centre + offsets, np.ones((4, 1))], axis=1) @ (turned @ to_rays).T
    if rays[:, 2].min() <= 0:
        raise InputError(f"virtual camera: a box of {sides} pixels reaches behind the camera")
    middles = rays[:, :2] / rays[:, 2:]
    extent = max(np.linalg.norm(middles[1] - middles[0]), np.linalg.norm(middles[3] - middles[2]))
    focal = size / float(extent)
    own = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
    turned = crop.turn(rotation) @ turned
    homography = own @ turned @ to_rays
    step = boxes.apply_map(homography, centre + np.array([[0, 0], [1e-3, 0], [0, 1e-3]]))
    scale = float(np.sqrt(abs(np.linalg.det((step[1:] - step[0]) / 1e-3))))
    return VirtualCamera(rotation=turned, intrinsics=own, homography=homography, scale=scale)
