"""A photo with a hand of the hand model and a catalogue object, and where things are in its crop,
found by other ways than the processors'."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from handhold.geometry import boxes
from handhold.geometry.camera import project
from handhold.hand.model import HandModel
from handhold.models.nn.hope_augmentation import Augmentation
from handhold.objects.catalogue import info
from handhold.objects.control_points import control_points_of_box
from handhold.scene import Batch, Camera, Hand, RigidObject, Sample

NAME = "035_power_drill"
BOX = info(NAME)
MODEL = control_points_of_box(BOX.box_centre - BOX.extent / 2, BOX.box_centre + BOX.extent / 2)
FLIP = np.array([-1.0, 1.0, 1.0])
STILL = Augmentation(
    centre_jitter=0.0,
    scale_sigma=0.0,
    rotation="none",
    blur_px=0.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
)
TURNED = Augmentation(
    rotation="uniform",
    rotation_deg=180.0,
    rotation_chance=1.0,
    blur_px=0.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
)


def posed_sample(seed: int, side: Any) -> Sample:
    """A hand with known pose, shape and place, 50 to 80 cm away, and a drill beside it."""
    draw = np.random.default_rng(seed)
    pose, betas = draw.normal(0, 0.25, (16, 3)), draw.normal(0, 1, 10)
    pose[0] = Rotation.random(random_state=seed).as_rotvec()
    place = np.array([*draw.uniform(-0.08, 0.08, 2), draw.uniform(0.5, 0.8)])
    posed = HandModel.free(side)(*(torch.from_numpy(v).float() for v in (pose, betas, place)))
    joints = posed.joints.double().numpy()
    intrinsics = np.array(
        [[draw.uniform(500, 700), 0, draw.uniform(280, 360)], [0, draw.uniform(500, 700), 240]]
        + [[0, 0, 1]]
    )
    u, v = project(joints.mean(0)[None], intrinsics)[0]
    y, x = np.mgrid[:480, :640]
    hand = Hand(
        side=side,
        joints=joints,
        vertices=posed.vertices.double().numpy(),
        pose=pose,
        betas=betas,
        translation=place,
        grasping=True,
    )
    thing = RigidObject(
        name=NAME,
        rotation=Rotation.random(random_state=seed + 1).as_matrix(),
        translation=joints.mean(0) + draw.normal(0, 0.03, 3),
        control_points=MODEL,
    )
    return Sample(
        key=f"s{seed}",
        image=draw.integers(0, 256, (480, 640, 3), dtype=np.uint8),
        camera=Camera(intrinsics=intrinsics, width=640, height=480),
        hands=(hand,),
        object=thing,
        hand_mask=((x - u) / 30) ** 2 + ((y - v) / 50) ** 2 < 1,
        object_mask=((x - u + 20) / 50) ** 2 + ((y - v) / 30) ** 2 < 1,
    )


def in_crop(points: np.ndarray, sample: Sample, batch: Batch) -> np.ndarray:
    """Camera points (N, 3) of the photo -> pixels (N, 2) of the crop: projected, moved, flipped."""
    photo = project(points, sample.camera.intrinsics)
    pixels = boxes.apply_affine(batch.crop[0].double().numpy(), photo)
    size = batch.image.shape[-1]
    return pixels * [-1, 1] + [size - 1, 0] if batch.mirrored[0] else pixels


def placed_points(sample: Sample) -> np.ndarray:
    """The object's control points (21, 3) in the photo's camera frame."""
    thing = sample.object
    return MODEL @ thing.rotation.T + thing.translation
