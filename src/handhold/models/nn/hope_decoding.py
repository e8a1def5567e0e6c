"""From a HOPE network's Prediction back to the photo: true side, camera frame, metres, photo
pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handhold.errors import InputError
from handhold.geometry import boxes, crop
from handhold.geometry.camera import mirror_intrinsics, project, solve_translation
from handhold.geometry.pnp import PoseEstimate, select_points, solve_pose
from handhold.models.nn.hand_parameters import HandParameters
from handhold.scene import Batch, Camera, Hand, Prediction, RigidObject

Array = NDArray[np.floating[Any]]
_FLIP = np.array([-1.0, 1.0, 1.0])


def matrix(axis_angle: Array) -> Array:
    """Rotation matrix (3, 3) of one axis-angle vector (3,)."""
    return np.asarray(cv2.Rodrigues(np.asarray(axis_angle, np.float64))[0], np.float64)


def axis_angle(rotation: Array) -> Array:
    """Axis-angle vector (3,), length in [0, pi], of one rotation matrix (3, 3)."""
    return np.asarray(cv2.Rodrigues(np.asarray(rotation, np.float64))[0], np.float64).reshape(3)


def _numpy(tensor: Tensor) -> Array:
    return tensor.detach().cpu().double().numpy()


def decode(
    prediction: Prediction,
    batch: Batch,
    cameras: Sequence[Camera],
    *,
    object_names: Sequence[str | None] | None,
    class_names: Mapping[int, str],
    control_points: Mapping[str, Array],
    pnp: Literal["official", "sound"],
    objects: Literal["grasped", "all", "none"],
    parameters: HandParameters | None = None,
) -> list[tuple[Hand, RigidObject | None]]:
    """See `HopeProcessor.decode`.

    translation: of the right-hand model for right hands, of its mirror image for left hands.
    parameters: of the hand model that gives pose and shape where the network gives none; None:
    then there are none, and the translation is that of the network's own points.
    """
    count, size = len(batch), int(batch.image.shape[-1])
    if batch.crop is None or batch.mirrored is None or prediction.joints2d is None:
        raise InputError("decode: needs batch.crop, batch.mirrored and prediction.joints2d")
    flat = _numpy(prediction.joints2d)
    if len(cameras) != count or (object_names is not None and len(object_names) != count):
        raise InputError(f"decode: expected {count} cameras (and names), found {len(cameras)}")
    model_wrist = rest = None
    if parameters is not None:
        prediction, model_wrist, rest = parameters.complete(prediction)
    maps = _numpy(batch.crop)
    mirrored = batch.mirrored.detach().cpu().numpy()
    back = [_way_back(maps[i], bool(mirrored[i]), size) for i in range(count)]
    inside = None if batch.intrinsics is None else _numpy(batch.intrinsics)
    turns: list[Array] = []
    for i in range(count):
        if (maps[i][2] == (0, 0, 1)).all():
            turns.append(turn_of(maps[i], bool(mirrored[i])))
        elif inside is None:
            raise InputError("decode: crops of a virtual camera need batch.intrinsics")
        else:
            turns.append(virtual_turn(maps[i], bool(mirrored[i]), size, inside[i], cameras[i]))
    sides = np.where(mirrored[:, None], _FLIP, 1.0)  # (B, 3)

    def upright(points: Array) -> Array:
        """Undo the crop's in-plane rotation about the wrist, then the mirror. (B, N, 3)"""
        wrist = own_joints[:, :1]
        turned = np.stack([(p - w) @ t for p, w, t in zip(points, wrist, turns, strict=True)])
        return (turned + wrist) * sides[:, None]

    own_joints = _numpy(prediction.joints)
    joints = upright(own_joints)
    vertices = None if prediction.vertices is None else upright(_numpy(prediction.vertices))
    joints2d = np.stack([boxes.apply_map(back[i], flat[i]) for i in range(count)])
    translation = solve_translation(
        torch.from_numpy(joints),
        torch.from_numpy(joints2d),
        None,
        torch.from_numpy(np.stack([np.asarray(c.intrinsics, np.float64) for c in cameras])),
    ).numpy()
    model_place = translation
    if model_wrist is not None and rest is not None:
        model_place = upright(_numpy(model_wrist)[:, None])[:, 0] + translation
        model_place = model_place - _numpy(rest) * sides
    grasp = None
    if prediction.grasp_logits is not None:
        grasp = _numpy(prediction.grasp_logits.detach().float().softmax(-1))[:, 1]
    rotations = None if prediction.rotations is None else _numpy(prediction.rotations)
    betas = None if prediction.betas is None else _numpy(prediction.betas)
    result: list[tuple[Hand, RigidObject | None]] = []
    for i in range(count):
        hand = Hand(
            side="left" if mirrored[i] else "right",
            box=boxes.box_from_points(joints2d[i]),
            joints2d=joints2d[i],
            joints=joints[i] + translation[i],
            vertices=None if vertices is None else vertices[i] + translation[i],
            pose=None if rotations is None else _pose(rotations[i], turns[i], bool(mirrored[i])),
            betas=None if betas is None else betas[i],
            translation=model_place[i],
            grasping=None if grasp is None else bool(grasp[i] > 0.5),
            grasp_score=None if grasp is None else float(grasp[i]),
        )
        thing = None
        given = object_names is not None and object_names[i] is not None
        if objects == "all" or (objects == "grasped" and (given or hand.grasping is not False)):
            name, sure = _name(prediction, i, object_names, class_names)
            points = None if name is None else control_points.get(name)
            if name is not None and points is not None:
                thing = _object(prediction, i, back[i], cameras[i], name, points, sure, hand, pnp)
        result.append((hand, thing))
    return result


def _way_back(affine: Array, mirrored: bool, size: int) -> Array:
    """Crop pixels of the (perhaps flipped) crop -> photo pixels."""
    inverse = np.linalg.inv(affine)
    return inverse @ crop.flip_affine(size) if mirrored else inverse


def turn_of(affine: Array, mirrored: bool) -> Array:
    """The rotation (3, 3) that the crop gave to 3D points, in the mirrored frame for left hands."""
    angle = np.arctan2(affine[1, 0], affine[0, 0])
    return crop.turn(-angle if mirrored else angle)


def virtual_turn(
    homography: Array, mirrored: bool, size: int, inside: Array, camera: Camera
) -> Array:
    """The same for a crop of a virtual camera with intrinsics `inside` (3, 3)."""
    intrinsics = np.asarray(camera.intrinsics, np.float64)
    if mirrored:
        homography = crop.flip_affine(size) @ homography @ crop.flip_affine(camera.width)
        intrinsics = mirror_intrinsics(intrinsics, camera.width)
    return matrix(axis_angle(np.linalg.inv(inside) @ homography @ intrinsics))


def _pose(rotations: Array, turn: Array, mirrored: bool) -> Array:
    turned = np.concatenate([(turn.T @ rotations[0])[None], rotations[1:]])
    pose = np.stack([axis_angle(rotation) for rotation in turned])
    return pose * (1.0, -1.0, -1.0) if mirrored else pose


def _name(
    prediction: Prediction,
    i: int,
    given: Sequence[str | None] | None,
    class_names: Mapping[int, str],
) -> tuple[str | None, float]:
    if given is not None:
        return given[i], 1.0
    if prediction.object_class_logits is None:
        return None, 0.0
    chances = prediction.object_class_logits[i].detach().float().softmax(-1)
    best = int(chances.argmax())
    return class_names.get(best), float(chances[best])


def _object(
    prediction: Prediction,
    i: int,
    back: Array,
    camera: Camera,
    name: str,
    points: Array,
    sure: float,
    hand: Hand,
    pnp: Literal["official", "sound"],
) -> RigidObject | None:
    """The object's pose. A failed one is None in the sound variant, the place-holder in the
    official.
    """
    if prediction.object_points2d is None or prediction.object_confidence is None:
        return None
    pixels, index, confidence = select_points(
        _numpy(prediction.object_points2d[i]), _numpy(prediction.object_confidence[i])
    )
    depth = None if hand.joints is None else float(hand.joints[:, 2].mean())
    found: PoseEstimate = solve_pose(
        boxes.apply_map(back, pixels),
        points[index],
        camera.intrinsics,
        weights=confidence,
        variant=pnp,
        distance=depth,
    )
    if found.failed and pnp == "sound":
        return None
    placed = points @ found.rotation.T + found.translation
    box = None
    if placed[:, 2].min() > 1e-3:
        box = boxes.box_from_points(project(placed, camera.intrinsics))
    return RigidObject(
        name=name,
        rotation=found.rotation,
        translation=found.translation,
        score=found.score * sure,
        box=box,
        control_points=points,
        held=hand.grasping,
    )
