"""A model that knows the answer: it reads the true hands through the crop, as a perfect network
would.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from handhold.hand.model import HandModel
from handhold.models.detector import Detection, DetectorConfig, HandDetector, HandDetectorNetwork
from handhold.models.nn.hope_processor import HopeProcessor, HopeProcessorConfig
from handhold.scene import Camera, Prediction

FLIP = np.array([-1.0, 1.0, 1.0])


@dataclass
class Truth:
    """One hand: joints (21, 3) and vertices (778, 3) in the camera frame, joints2d (21, 2)."""

    side: str
    joints: np.ndarray
    vertices: np.ndarray
    joints2d: np.ndarray
    grasping: bool

    @property
    def box(self):
        return np.concatenate([self.joints2d.min(0), self.joints2d.max(0)])


def true_hand(side, translation, camera, rng, grasping=False):
    hand = HandModel.free(side)
    pose = rng.normal(0, 0.15, (16, 3)).astype(np.float32)
    pose[0] = rng.normal(0, 0.8, 3)
    out = hand(torch.from_numpy(pose)[None])
    joints, vertices = out.joints[0].double().numpy(), out.vertices[0].double().numpy()
    shift = np.asarray(translation) - joints[9]
    joints, vertices = joints + shift, vertices + shift
    return Truth(side, joints, vertices, camera.project(joints), grasping)


class KnowingNetwork(torch.nn.Module):
    """Finds the true hand whose 2D joints lie nearest to the crop's hand box."""

    def __init__(self):
        super().__init__()
        self.truths: list[Truth] = []
        self.calls: list[int] = []

    def forward(self, batch):
        self.calls.append(len(batch))
        size = batch.image.shape[-1]
        rows = []
        for i in range(len(batch)):
            crop, mirrored = batch.crop[i].double().numpy(), bool(batch.mirrored[i])
            best = None
            for truth in self.truths:
                flat = truth.joints2d @ crop[:2, :2].T + crop[:2, 2]
                if mirrored:
                    flat = np.stack([size - 1 - flat[:, 0], flat[:, 1]], axis=1)
                box = np.concatenate([flat.min(0), flat.max(0)])
                away = np.abs(box - batch.hand_box[i].numpy()).max()
                if best is None or away < best[0]:
                    best = (away, truth, flat)
            _, truth, flat = best
            sign = FLIP if mirrored else 1.0
            wrist = truth.joints[0]
            rows.append(
                (
                    (truth.joints - wrist) * sign,
                    (truth.vertices - wrist) * sign,
                    flat,
                    [0.0, 3.0] if truth.grasping else [3.0, 0.0],
                )
            )
        joints, vertices, flat, grasp = (
            torch.tensor(np.stack(part), dtype=torch.float64) for part in zip(*rows, strict=True)
        )
        count = len(rows)
        return Prediction(
            joints=joints,
            vertices=vertices,
            joints2d=flat,
            grasp_logits=grasp,
            rotations=torch.eye(3).expand(count, 16, 3, 3),
            betas=torch.zeros(count, 10),
        )


class ScriptedDetector(HandDetector):
    """Detects what it is told to: `found` maps an image's size (width, height) to detections."""

    def __init__(self):
        super().__init__(HandDetectorNetwork(DetectorConfig(input_size=64)))
        self.found: dict[tuple[int, int], list[Detection]] = {}

    def detect(self, images, **_):
        return [self.found.get((image.shape[1], image.shape[0]), []) for image in images]


@pytest.fixture
def model():
    """A loaded model (as `load_model` gives it) around a KnowingNetwork."""
    processor = HopeProcessor(HopeProcessorConfig.deployable(64))
    return SimpleNamespace(
        name="knowing", network=KnowingNetwork(), processor=processor, config=None
    )


@pytest.fixture
def detector():
    return ScriptedDetector()


@pytest.fixture
def make_camera():
    def make(width, height, focal=400.0, source="given"):
        matrix = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
        return Camera(intrinsics=matrix, width=width, height=height, source=source)

    return make


@pytest.fixture
def make_hand():
    return true_hand
