"""Objects by their pose instead of by control points in the picture: labels of a crop, and the way
back to the photo.

A crop mirrors left hands and turns about the optical axis, and what it shows of an object follows.
A mirrored pose alone would be no rotation, so the object's own frame is mirrored with it (its x):
rotation F R F and translation F t with F = diag(-1, 1, 1), for the object whose points are F x.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.geometry import boxes, crop
from handhold.geometry.camera import project
from handhold.models.nn.hope_targets import Item, View, mask_at
from handhold.objects.catalogue import is_known
from handhold.scene import Camera, Hand, RigidObject, Sample

Array = NDArray[np.floating[Any]]
FLIP = np.array([-1.0, 1.0, 1.0])


def into_crop(
    rotation: Array, translation: Array, angle: float, mirrored: bool
) -> tuple[Array, Array]:
    """Pose in the photo's camera frame -> rotation (3, 3), translation (3,) in the crop's camera
    frame, turned by `angle` (radians) after mirroring."""
    if mirrored:
        rotation, translation = FLIP[:, None] * rotation * FLIP, FLIP * translation
    turn = crop.turn(angle)
    return turn @ rotation, turn @ translation


def out_of_crop(
    rotation: Array, translation: Array, turn: Array, mirrored: bool
) -> tuple[Array, Array]:
    """The inverse of `into_crop`. turn (3, 3): the crop's."""
    rotation, translation = turn.T @ rotation, turn.T @ translation
    if mirrored:
        rotation, translation = FLIP[:, None] * rotation * FLIP, FLIP * translation
    return rotation, translation


def nearest_rotation(matrix: Array) -> Array:
    """The rotation (3, 3) with the smallest squared difference from `matrix` (3, 3)."""
    left, _, right = np.linalg.svd(matrix)
    left[:, -1] *= np.sign(np.linalg.det(left @ right)) or 1.0
    return left @ right


def own_frame(thing: RigidObject | None) -> bool:
    """Whether the object's frame means something: that of a catalogue name does."""
    return thing is not None and is_known(thing.name)


def pixel_maps(sample: Sample, item: Item, view: View, size: int) -> dict[str, Array]:
    """Visible hand and object in every second pixel of the crop of side `size`: hand, object
    (size / 2, size / 2) float32, 1 or 0, -1 where nobody knows.

    Where the hands are labelled pixel by pixel, an object that is not labelled is not there.
    """
    cells = np.arange(size // 2) * 2.0
    pixels = np.stack(np.meshgrid(cells, cells), -1)
    blank = np.zeros(pixels.shape[:2], np.float32)
    found = {}
    for name, mask in (("hand", sample.hand_mask), ("object", sample.object_mask)):
        if mask is not None:
            seen = mask_at(mask, view.affine, pixels, item.mirrored)
            found[name] = seen.astype(np.float32)
        else:
            absent = name == "object" and sample.object is None and sample.hand_mask is not None
            found[name] = blank if absent else blank - 1
    return found


def placed_object(
    rotation: Array,
    translation: Array,
    camera: Camera,
    name: str | None,
    points: Array | None,
    hand: Hand,
) -> RigidObject:
    """The object of that pose (photo's camera frame), with its control points and box where the
    name is known."""
    box = None
    if points is not None:
        posed = points @ rotation.T + translation
        if posed[:, 2].min() > 1e-3:
            box = boxes.box_from_points(project(posed, camera.intrinsics))
    return RigidObject(
        name=name,
        rotation=rotation,
        translation=translation,
        box=box,
        control_points=points,
        held=hand.grasping,
    )
