"""SimpleHand's perspective crop in the processor: labels, pixels and the way back."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from tests.models.posed_sample import STILL, posed_sample

from handhold.errors import InputError
from handhold.geometry import boxes
from handhold.geometry.camera import project
from handhold.hand.model import HandModel
from handhold.models.keypoint_transformer.processor import KeypointProcessor
from handhold.models.nn.hope_augmentation import Augmentation
from handhold.models.nn.hope_config import HopeProcessorConfig
from handhold.models.nn.hope_processor import HopeProcessor
from handhold.models.simplehand import processor as simplehand
from handhold.scene import Prediction, Sample

FAR = np.array([0.2, 0.14, 0.0])  # towards the photo's corner
CASES = [(side, turned) for side in ("right", "left") for turned in (False, True)]


def _sample(seed: int, side: Any) -> Sample:
    sample = posed_sample(seed, side)
    truth = sample.hands[0]
    moved = {name: getattr(truth, name) + FAR for name in ("joints", "vertices", "translation")}
    return dataclasses.replace(
        sample, hands=(dataclasses.replace(truth, **moved),), object=None, object_mask=None
    )


def _processor(turned: bool) -> HopeProcessor:
    config = simplehand.original()
    geometry = {
        name: getattr(config.augmentation, name)
        for name in ("centre_jitter", "scale_sigma", "scale")
    }
    turning: dict[str, Any] = {"rotation": "uniform", "rotation_deg": 180.0, "rotation_chance": 1.0}
    augmentation = dataclasses.replace(STILL, **geometry, **turning) if turned else STILL
    return HopeProcessor(
        dataclasses.replace(config, augmentation=augmentation), hand=HandModel.free()
    )


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("side", "turned"), CASES)
def test_labels_agree_in_the_virtual_camera(seed: int, side: Any, turned: bool) -> None:
    """The posed hand model, placed at the root and projected, is where the photo's joints went."""
    sample = _sample(seed, side)
    rng = np.random.default_rng(seed) if turned else None
    batch = _processor(turned).encode([(sample, 0)], rng)
    assert batch.pose is not None and batch.betas is not None and batch.root is not None
    posed = HandModel.free()(batch.pose, batch.betas, center=0).joints[0] + batch.root[0]
    seen = project(posed.double().numpy(), batch.intrinsics[0].double().numpy())
    joints2d = batch.joints2d[0].double().numpy()
    np.testing.assert_allclose(seen, joints2d, atol=0.02)
    # and where the homography of the photo says, mirrored for left hands
    photo = project(np.asarray(sample.hands[0].joints), sample.camera.intrinsics)
    homography = batch.crop[0].double().numpy()
    there = boxes.apply_map(homography, photo)
    if side == "left":
        there = there * (-1, 1) + (223, 0)
    np.testing.assert_allclose(joints2d, there, atol=0.02)
    assert abs(batch.crop[0, 2, :2]).max() > 1e-5  # no affine map
    if not turned:  # 1.25 times the joints' box fills the crop, about its middle
        x0, y0, x1, y1 = boxes.box_from_points(photo, 1.25)
        ends = np.array([[x0, y0 + y1], [x1, y0 + y1], [x0 + x1, y0], [x0 + x1, y1]])
        ends[:2, 1] /= 2
        ends[2:, 0] /= 2
        moved = boxes.apply_map(homography, ends)
        lengths = [np.linalg.norm(moved[1] - moved[0]), np.linalg.norm(moved[3] - moved[2])]
        assert max(lengths) == pytest.approx(224, abs=0.02)
        middle = boxes.apply_map(homography, np.array([[x0 + x1, y0 + y1]]) / 2)[0]
        np.testing.assert_allclose(middle, (111 if side == "left" else 112, 112), atol=0.02)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("side", "turned"), CASES)
def test_decode_undoes_encode(seed: int, side: Any, turned: bool) -> None:
    sample, processor = _sample(seed, side), _processor(turned)
    rng = np.random.default_rng(seed) if turned else None
    batch = processor.encode([(sample, 0)], rng)
    posed = HandModel.free()(batch.pose, batch.betas, center=0)
    angles = batch.pose[0].double().numpy()
    rotations = torch.from_numpy(Rotation.from_rotvec(angles).as_matrix()).float()[None]
    prediction = Prediction(
        joints=posed.joints,
        vertices=posed.vertices,
        joints2d=batch.joints2d,
        rotations=rotations,
        betas=batch.betas,
    )
    ((hand, _),) = processor.decode(prediction, batch, [sample.camera])
    truth = sample.hands[0]
    assert hand.side == side
    expected = project(np.asarray(truth.joints), sample.camera.intrinsics)
    np.testing.assert_allclose(hand.joints2d, expected, atol=0.02)
    np.testing.assert_allclose(
        hand.joints - hand.joints[0], truth.joints - truth.joints[0], atol=2e-5
    )
    np.testing.assert_allclose(hand.joints, truth.joints, atol=1e-3)
    np.testing.assert_allclose(hand.vertices, truth.vertices, atol=1e-3)
    turns = [Rotation.from_rotvec(np.asarray(p)) for p in (hand.pose, truth.pose)]
    assert (turns[0].inv() * turns[1]).magnitude().max() < 1e-3
    # without pose and shape the hand model is fitted to the turned points
    bare = dataclasses.replace(prediction, rotations=None, betas=None)
    ((fitted, _),) = processor.decode(bare, batch, [sample.camera])
    turned_by = Rotation.from_rotvec(np.asarray(fitted.pose)[0]).inv() * turns[1][0]
    assert turned_by.magnitude() < 0.05


def test_boxes_in_use_give_the_same_crop() -> None:
    """`encode_boxes` with the joints' box looks at what `encode` looks at."""
    sample, processor = _sample(2, "left"), _processor(False)
    expected = processor.encode([(sample, 0)])
    truth = project(np.asarray(sample.hands[0].joints), sample.camera.intrinsics)
    found = processor.encode_boxes(
        sample.image, [boxes.box_from_points(truth)], ["left"], None, sample.camera
    )
    torch.testing.assert_close(found.crop, expected.crop)
    assert torch.equal(found.image, expected.image)


def test_training_draws_what_the_original_draws() -> None:
    """The box grows by 1 to 1.5 and moves by a tenth of its width; then all rotations."""
    config = simplehand.original()
    draw, still = np.random.default_rng(0), Augmentation(scale="uniform", scale_sigma=0.2)
    factors = np.array([1.25 * still.draw_scale(draw) for _ in range(2000)])
    assert 1.0 <= factors.min() < 1.01 and 1.49 < factors.max() <= 1.5
    assert np.mean(factors) == pytest.approx(1.25, abs=0.01)
    assert config.augmentation.scale == "uniform" and config.augmentation.scale_sigma == 0.2
    sample, processor = _sample(3, "right"), _processor(True)
    truth = project(np.asarray(sample.hands[0].joints), sample.camera.intrinsics)
    box = boxes.box_from_points(truth)
    middles = []
    for seed in range(60):
        batch = processor.encode([(sample, 0)], np.random.default_rng(seed))
        back = np.linalg.inv(batch.crop[0].double().numpy())
        middles.append(boxes.apply_map(back, np.array([[112.0, 112.0]]))[0])
    shares = (np.array(middles) - (box[:2] + box[2:]) / 2) / (box[2] - box[0])
    assert 0.085 < abs(shares).max() <= 0.1 + 1e-3


def test_other_settings_are_refused() -> None:
    config = simplehand.original()
    for change in ({"crop_rule": "label"}, {"interpolation": "nearest"}, {"clip_to_image": True}):
        with pytest.raises(InputError, match="virtual needs"):
            dataclasses.replace(config, **change)
    with pytest.raises(InputError, match="affine crops only"):
        KeypointProcessor(
            dataclasses.replace(KeypointProcessor.defaults.deployable_hand(), camera="virtual")
        )
    assert HopeProcessorConfig().camera == "affine"
