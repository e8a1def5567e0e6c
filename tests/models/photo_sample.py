"""Made-up photos with a right and a left hand, and all their labels."""

from __future__ import annotations

import numpy as np
import torch

from handhold.hand.model import HandModel
from handhold.scene import Camera, Hand, Sample, Side

SIDES: tuple[Side, Side] = ("right", "left")


def photo(
    hand: HandModel, seed: int = 0, *, width: int = 128, height: int = 128, hands: int = 2
) -> Sample:
    """A smooth pattern; the hands, right and left by turns, only exist in the labels."""
    draw = np.random.default_rng(seed)
    focal = 1.2 * width
    middle = [(width - 1) / 2, (height - 1) / 2]
    intrinsics = np.array([[focal, 0, middle[0]], [0, focal, middle[1]], [0, 0, 1]])
    camera = Camera(intrinsics=intrinsics, width=width, height=height, source="synthetic")
    coarse = torch.from_numpy(draw.random((1, 3, 8, 8))).float()
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    models = {"right": hand, "left": hand.mirrored()}
    found = []
    for number in range(hands):
        side = SIDES[number % 2]
        pose = torch.from_numpy((0.3 * draw.standard_normal((1, 16, 3))).astype(np.float32))
        betas = torch.from_numpy((0.5 * draw.standard_normal((1, 10))).astype(np.float32))
        posed = models[side](pose, betas)
        place = np.array([0.12 * (2 * number - 1), draw.uniform(-0.05, 0.05), 0.6])
        shift = place - posed.joints[0, 9].numpy()
        joints = posed.joints[0].numpy() + shift
        pixels = camera.project(joints)
        found.append(
            Hand(
                side=side,
                box=np.concatenate([pixels.min(0), pixels.max(0)]),
                joints2d=pixels,
                joints2d_valid=np.ones(21, np.bool_),
                joints=joints,
                vertices=posed.vertices[0].numpy() + shift,
                pose=pose[0].numpy(),
                betas=betas[0].numpy(),
                translation=shift,
            )
        )
    image = (smooth.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    return Sample(key=f"photo/{seed}", image=image, camera=camera, hands=tuple(found))
