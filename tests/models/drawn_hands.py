"""Photos with drawn hands whose joints are known, for the tests of the detectors."""

import cv2
import numpy as np

from handhold.scene import Camera, Hand, Sample


def camera(width, height):
    focal = float(max(width, height))
    matrix = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return Camera(intrinsics=matrix, width=width, height=height, source="synthetic")


def drawn_hand(image, center, length, side, rng):
    """A thumb on one side and four fingers, in joints and in pixels."""
    turn = 1 if side == "right" else -1
    joints = np.zeros((21, 2))
    joints[0] = (0.0, 0.5)
    for finger, (x, top) in enumerate(
        [(-0.4, 0.0), (-0.2, -0.4), (0, -0.5), (0.2, -0.4), (0.4, -0.2)]
    ):
        base = np.array([x * 0.6, 0.3 if finger == 0 else 0.1])
        for k in range(4):
            joints[1 + 4 * finger + k] = base + (np.array([x, top]) - base) * k / 3
    joints[:, 0] *= turn
    joints = joints * length + center
    for finger in range(5):
        chain = [0, *range(1 + 4 * finger, 5 + 4 * finger)]
        line = joints[chain].round().astype(np.int32)[:, None]
        color = (250, 60, 60) if finger == 0 else (230, 180, 150)
        cv2.polylines(image, [line], False, color, max(2, int(length * 0.09)))
    return joints


def made_samples():
    rng = np.random.default_rng(3)
    samples = []
    for i, (width, height) in enumerate([(160, 120), (160, 160), (120, 160), (200, 150)]):
        image = rng.integers(20, 90, (height, width, 3)).astype(np.uint8)
        hands = []
        for n in range(1 + i % 2):
            side = ("left", "right")[(i // 2 + n) % 2]
            length = height * (0.55 - 0.15 * n)
            center = (width * (0.3 + 0.42 * n), height * 0.5)
            joints = drawn_hand(image, center, length, side, rng)
            hands.append(Hand(side=side, joints2d=joints, grasping=n == 1))
        samples.append(
            Sample(key=str(i), image=image, camera=camera(width, height), hands=tuple(hands))
        )
    return samples
