"""Made-up photos with a labelled hand and object, for the tests of the HOPE processor."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.spatial.transform import Rotation
from tests.models.posed_sample import STILL

from handhold.geometry.camera import project
from handhold.models.nn.hope_augmentation import Augmentation
from handhold.models.nn.hope_processor import HopeProcessor, HopeProcessorConfig
from handhold.objects.control_points import control_points_of_box
from handhold.scene import Camera, Hand, RigidObject, Sample

TURNED = dataclasses.replace(
    STILL,
    centre_jitter=0.1,
    scale_sigma=0.2,
    rotation="uniform",
    rotation_deg=180.0,
    rotation_chance=1.0,
)
NAME = "003_cracker_box"
MODEL = control_points_of_box([-0.03, -0.04, -0.06], [0.04, 0.03, 0.06])
FLIP = np.array([-1.0, 1.0, 1.0])


def made_sample(
    seed: int = 0, side="right", *, grasping=True, visibility=0.5, with_object=True
) -> Sample:
    rng = np.random.default_rng(seed)
    matrix = np.array(
        [
            [rng.uniform(500, 700), 0, rng.uniform(280, 360)],
            [0, rng.uniform(500, 700), 240],
            [0, 0, 1],
        ]
    )
    joints = rng.normal(0, 0.04, (21, 3)) + [*rng.uniform(-0.08, 0.08, 2), rng.uniform(0.5, 0.9)]
    turn = Rotation.random(random_state=seed).as_matrix()
    thing = RigidObject(
        name=NAME,
        rotation=turn,
        translation=joints.mean(0) + rng.normal(0, 0.02, 3),
        control_points=MODEL,
    )
    image = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    y, x = np.mgrid[:480, :640]
    u, v = project(joints.mean(0)[None], matrix)[0]
    hand = Hand(
        side=side,
        joints=joints,
        pose=rng.normal(0, 0.5, (16, 3)),
        betas=rng.normal(size=10),
        grasping=grasping,
        visibility=visibility,
    )
    return Sample(
        key=f"s{seed}",
        image=image,
        camera=Camera(intrinsics=matrix, width=640, height=480),
        hands=(hand,),
        object=thing if with_object else None,
        object_mask=((x - u) / 50) ** 2 + ((y - v) / 30) ** 2 < 1,
        bare_image=255 - image,
    )


def make_processor(augmentation: Augmentation = STILL, **options) -> HopeProcessor:
    config = HopeProcessorConfig(augmentation=augmentation, interpolation="bilinear", **options)
    return HopeProcessor(config, object_classes={NAME: 2}, control_points={NAME: MODEL})


def hand_in_crop(sample: Sample, batch) -> tuple[np.ndarray, np.ndarray]:
    """(joints of the crop's hand in its camera frame, turn), found from the pose label alone."""
    hand = sample.hands[0]
    joints, first = np.array(hand.joints), np.array(hand.pose[0])
    if hand.side == "left":
        joints, first = joints * FLIP, first * [1, -1, -1]
    new = Rotation.from_rotvec(batch.pose[0, 0].double().numpy())
    turn = (new * Rotation.from_rotvec(first).inv()).as_matrix()
    return joints @ turn.T, turn
