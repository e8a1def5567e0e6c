"""Every method of the registry in the Estimator: valid scenes for both sides, and pose, shape and
place that give the hand's own vertices back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handhold.hand.model import HandModel
from handhold.inference.estimator import Estimator
from handhold.inference.results import read_scene
from handhold.inference.writing import write_results
from handhold.models.loading import build_model
from handhold.models.registry import MODELS
from handhold.scene import Camera

NAMES = [name for name in MODELS if f"{name}-small" not in MODELS]
WIDTH, HEIGHT = 160, 120
CAMERA = Camera(
    intrinsics=np.array([[200.0, 0, (WIDTH - 1) / 2], [0, 200.0, (HEIGHT - 1) / 2], [0, 0, 1]]),
    width=WIDTH,
    height=HEIGHT,
)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    draw = np.random.default_rng(0)
    coarse = torch.from_numpy(draw.random((1, 3, 6, 8))).float()
    smooth = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear")[0]
    return (smooth.permute(1, 2, 0).numpy() * 255).astype(np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_scene_of_both_sides(name: str, photo: np.ndarray, tmp_path: Path) -> None:
    """With fresh weights, boxes given."""
    estimator = Estimator(build_model(name, seed=3), detector="none")
    box, thing = np.array([30.0, 25, 90, 95]), np.array([60.0, 50, 120, 100])

    def flip(b: np.ndarray) -> list[float]:
        return [WIDTH - 1 - b[2], b[1], WIDTH - 1 - b[0], b[3]]

    def run(image: np.ndarray, side: str, box: Any, thing: Any) -> Any:
        given = [{"box": box, "side": side, "object_box": thing}]
        scene = estimator(image, intrinsics=CAMERA.intrinsics, boxes=given)
        write_results(tmp_path, side, scene, image, estimator.hand_faces())
        read = read_scene(tmp_path / f"{side}.json")
        assert read.model == name and len(read.hands) == 1
        found, kept = scene.hands[0], read.hands[0]
        assert found.joints is not None and kept.joints is not None
        np.testing.assert_allclose(kept.joints, found.joints, atol=1e-5)
        return found

    right = run(photo, "right", box.tolist(), thing.tolist())
    left = run(np.ascontiguousarray(photo[:, ::-1]), "left", flip(box), flip(thing))
    assert (right.side, left.side) == ("right", "left")
    shape = (right.vertices - right.joints[0]) * (-1, 1, 1)
    np.testing.assert_allclose(left.vertices - left.joints[0], shape, atol=3e-3)
    np.testing.assert_allclose(left.joints2d[:, 0], WIDTH - 1 - right.joints2d[:, 0], atol=0.6)
    batch = estimator.model.processor.encode_boxes(photo, [box], ["right"], [thing], CAMERA)
    with torch.no_grad():
        told_pose = estimator.network(batch).rotations is not None
    for hand in (right, left):
        assert hand.joints[:, 2].min() > 0
        model = HandModel.free(hand.side)
        pose, betas = (
            torch.from_numpy(np.asarray(v)).float()[None] for v in (hand.pose, hand.betas)
        )
        posed = model(pose, betas)
        found = posed.vertices[0].double().numpy() + hand.translation
        off = np.linalg.norm(found - hand.vertices, axis=1)
        if told_pose:
            assert off.max() < 1e-4
        elif getattr(estimator.model.config, "template_offsets", False):
            assert off.mean() < 2e-3  # fitted to vertices near those of a hand
        else:
            assert np.isfinite(off).all()
