"""Pieces of the HOPE processor: one hand in working coordinates, its targets, and the stacking.

Working coordinates are those of the photo, mirrored for left hands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.geometry import boxes
from handhold.geometry.camera import project
from handhold.models.nn import hope_decoding
from handhold.scene import Batch, Hand

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One hand in working coordinates, and what is known of its object."""

    image: NDArray[np.uint8]
    intrinsics: Array
    mirrored: bool
    hand_points: Array  # (N, 2): the joints, or the corners of a given box
    object_points: Array | None  # (M, 2): the control points, or the corners of a given box
    with_object: bool  # the crop is made around both
    wrist: Array | None = None  # (3,) metres, where it is given in use


@dataclass(frozen=True, kw_only=True)
class View:
    """Where the crop lies: `affine` from working to crop pixels (of a virtual camera: a
    homography), `angle` in radians in the image plane. turn (3, 3): how 3D points turn. intrinsics
    (3, 3): of the crop.
    """

    affine: Array
    angle: float
    turn: Array
    intrinsics: Array
    scale: float
    hand_box: Array
    object_box: Array


def checked_box(box: Any) -> Array:
    found = np.asarray(box, np.float64)
    if found.shape != (4,) or not np.isfinite(found).all() or (found[2:] <= found[:2]).any():
        raise InputError(f"box: expected finite x0 < x1, y0 < y1, found {found.tolist()}")
    return found


def mirror(points: Array, width: int, mirrored: bool) -> Array:
    return points * (-1.0, 1.0) + (width - 1.0, 0.0) if mirrored else points


def joints_in_photo(hand: Hand, intrinsics: Array) -> tuple[Array, NDArray[np.bool_]]:
    if hand.joints2d is not None:
        points = np.asarray(hand.joints2d, np.float64)
        valid: NDArray[np.bool_] = np.asarray(np.isfinite(points).all(axis=-1))
        if hand.joints2d_valid is not None:
            valid = valid & hand.joints2d_valid
        return np.where(valid[:, None], points, 0.0), valid
    if hand.joints is not None and hand.joints[:, 2].min() > 1e-3:
        return project(np.asarray(hand.joints, np.float64), intrinsics), np.ones(21, np.bool_)
    return np.zeros((21, 2)), np.zeros(21, np.bool_)


def extent(hand: Hand, joints2d: Array, valid: NDArray[np.bool_], key: str) -> Array:
    """The points whose box is the hand's: all joints, else the given box, else the known joints."""
    if valid.all():
        return joints2d
    if hand.box is not None:
        return boxes.corners(checked_box(hand.box))
    if valid.sum() >= 2:
        return joints2d[valid]
    raise InputError(f"{key}: the {hand.side} hand has neither 2D joints, 3D joints nor a box")


def hand_targets(
    hand: Hand,
    joints2d: Array,
    valid: NDArray[np.bool_],
    view: View,
    mirrored: bool,
    width: int,
) -> dict[str, Any]:
    pose, betas, root = np.zeros((16, 3)), np.zeros(10), np.zeros(3)
    known = hand.pose is not None and hand.betas is not None
    turn = view.turn
    if hand.pose is not None and hand.betas is not None:
        pose = np.array(hand.pose, np.float64)
        if mirrored:
            pose[:, 1:] *= -1
        if not np.array_equal(turn, np.eye(3)):
            pose[0] = hope_decoding.axis_angle(turn @ hope_decoding.matrix(pose[0]))
        betas = hand.betas
    if hand.joints is not None:
        root = turn @ (hand.joints[0] * (-1.0, 1.0, 1.0) if mirrored else hand.joints[0])
    moved = boxes.apply_map(view.affine, mirror(joints2d, width, mirrored))
    return {
        "pose": pose,
        "betas": betas,
        "root": root,
        "joints2d": np.where(valid[:, None], moved, 0.0),
        "joints2d_valid": valid,
        "has_pose": known,
        "grasping": bool(hand.grasping),
        "has_grasping": hand.grasping is not None,
        "visibility": np.nan if hand.visibility is None else hand.visibility,
    }


def mask_at(
    mask: NDArray[np.bool_], affine: Array, pixels: Array, mirrored: bool
) -> NDArray[np.bool_]:
    """The photo's mask (H, W) at crop pixels (..., 2) -> (...), the nearest pixel; outside False.

    affine: from working to crop pixels."""
    height, width = mask.shape
    where = boxes.apply_map(np.linalg.inv(affine), pixels.reshape(-1, 2))
    columns, rows = np.rint(mirror(where, width, mirrored)).astype(np.int64).T
    inside = (columns >= 0) & (rows >= 0) & (columns < width) & (rows < height)
    found = mask[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
    return (found & inside).reshape(pixels.shape[:-1])


def stack(rows: list[dict[str, Any]], kind: type[Batch] = Batch) -> Batch:
    """Tensors of float32 (numbers), bool (flags) and int64 (classes) from one dict per hand, as a
    batch of that `kind`."""
    if not rows:
        raise InputError("encode: expected at least one hand, found none")
    tensors: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name == "key":
            tensors["keys"] = tuple(values)
        elif name in ("image", "paired_image"):
            pixels = torch.from_numpy(np.stack(values)).permute(0, 3, 1, 2).contiguous()
            tensors[name] = pixels.to(torch.float32).div_(255)
        else:
            array = np.stack([np.asarray(value) for value in values])
            if array.dtype == np.float64:
                array = array.astype(np.float32)
            tensors[name] = torch.from_numpy(array)
    return kind(**tensors)
