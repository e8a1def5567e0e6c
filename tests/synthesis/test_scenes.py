"""Scenes are repeatable, and every label agrees with the hand model, the camera and the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from handhold.errors import InputError
from handhold.hand.model import HandModel
from handhold.objects.control_points import control_points
from handhold.scene import Sample
from handhold.synthesis.scenes import SceneConfig, make_scene

SMALL = SceneConfig(width=96, height=80, occluder=0.3)
HOLDING = SceneConfig(width=96, height=96, holding=1.0, near=0.0, paired=True, occluder=0.0)


def _scenes(config: SceneConfig, count: int) -> list[Sample]:
    return [make_scene(7, index, config) for index in range(count)]


@pytest.fixture(scope="module")
def mixed() -> list[Sample]:
    return _scenes(SMALL, 12)


@pytest.fixture(scope="module")
def holding() -> list[Sample]:
    return _scenes(HOLDING, 8)


def test_the_same_scene_twice(mixed: list[Sample]) -> None:
    again = make_scene(7, 5, SMALL)
    assert np.array_equal(again.image, mixed[5].image)
    assert again.key == mixed[5].key
    assert np.array_equal(again.hands[0].joints, mixed[5].hands[0].joints)
    assert not np.array_equal(make_scene(8, 5, SMALL).image, mixed[5].image)


def test_labels_are_the_hand_models(mixed: list[Sample]) -> None:
    sides = set()
    for sample in mixed:
        for hand in sample.hands:
            model = HandModel.free(hand.side)
            parts = (np.float32(part) for part in (hand.pose, hand.betas, hand.translation))
            out = model(*(torch.from_numpy(part) for part in parts))
            assert np.abs(out.vertices.numpy() - hand.vertices).max() < 2e-5
            assert np.abs(out.joints.numpy() - hand.joints).max() < 2e-5
            assert np.abs(sample.camera.project(hand.joints) - hand.joints2d).max() < 1e-6
            sides.add(hand.side)
    assert sides == {"left", "right"}


def test_masks_cover_the_projected_hand(mixed: list[Sample]) -> None:
    for sample in mixed:
        hand = sample.hands[0]
        pixels = np.round(sample.camera.project(hand.vertices)).astype(int)
        inside = (pixels >= 0).all(1) & (pixels < [96, 80]).all(1)
        x, y = pixels[inside].T
        assert sample.hand_mask_amodal[y, x].mean() > 0.7  # the silhouette is a little rounder
        assert not (sample.hand_mask & ~sample.hand_mask_amodal).any()
        share = sample.hand_mask.sum() / sample.hand_mask_amodal.sum()
        assert hand.visibility == pytest.approx(share)
        depth = sample.depth[sample.hand_mask]
        assert depth.min() > hand.vertices[:, 2].min() - 0.01
        assert depth.max() < hand.vertices[:, 2].max() + 0.01


def test_held_objects_touch_the_hand(holding: list[Sample]) -> None:
    held = [sample for sample in holding if sample.hands[0].grasping]
    assert len(held) >= 5
    for sample in held:
        thing = sample.object
        points = (sample.hands[0].vertices - thing.translation) @ thing.rotation
        low, high = thing.control_points.min(0), thing.control_points.max(0)
        gap = np.linalg.norm(np.maximum(np.maximum(low - points, points - high), 0), axis=1)
        assert gap.min() < 0.005
        assert np.allclose(control_points(thing.control_points), thing.control_points, atol=1e-6)
        assert sample.object.held


def test_the_pair_differs_only_near_the_object() -> None:
    config = SceneConfig(
        width=96, height=96, holding=1.0, near=0.0, paired=True, occluder=0.0, sensor=0.0
    )
    pairs = [s for s in _scenes(config, 4) if s.bare_image is not None]
    assert pairs
    for sample in pairs:
        changed = (sample.image != sample.bare_image).any(2)
        assert changed[sample.object_mask].mean() > 0.8
        everything = (sample.depth > 0) | sample.object_mask
        grown = np.pad(everything, 2)
        near = np.zeros_like(everything)
        for dy in range(5):
            for dx in range(5):
                near |= grown[dy : dy + 96, dx : dx + 96]
        assert not (changed & ~near).any()


def test_empty_and_crowded_scenes() -> None:
    assert make_scene(1, 0, SceneConfig(width=64, height=64, empty=1.0)).hands == ()
    crowded = SceneConfig(width=128, height=96, second_hand=1.0, hand_size=(0.2, 0.3))
    counts = [len(make_scene(1, index, crowded).hands) for index in range(6)]
    assert max(counts) == 2


@pytest.mark.parametrize(
    "wrong", [{"holding": 0.8, "near": 0.4}, {"left": 1.5}, {"hand_size": (0.5, 0.2)}]
)
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        SceneConfig(**wrong)
