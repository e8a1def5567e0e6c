"""HandOS's processor: photos and labels in, scenes out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tests.models.handos_parts import network_of, perfect, processor_of, wrists
from tests.models.photo_sample import photo

from handhold.geometry.camera import solve_translation
from handhold.hand.model import HandModel
from handhold.hand.regressor import joint_regressor
from handhold.models.handos.camera import project, to_pixels, to_shares
from handhold.models.handos.processor import (
    HandOSAugmentation,
)
from handhold.models.handos.sides import normalised_volume


def test_augmented_labels_fit_the_augmented_camera(hand: HandModel) -> None:
    """Whatever the view, one translation explains all 2D joints; mirrored hands change side."""
    processor = processor_of(hand, augmentation=HandOSAugmentation(rotation_deg=60))
    rng = np.random.default_rng(0)
    batch = processor.encode([(photo(hand, 0, width=160), 0)] * 8, rng)
    assert batch.joints is not None and batch.joints2d is not None and batch.right is not None
    assert batch.owner is not None and bool(batch.flipped.any()) and not bool(batch.flipped.all())
    camera = batch.intrinsics[batch.owner].double()
    joints, pixels = batch.joints.double(), batch.joints2d.double()
    place = solve_translation(joints, pixels, None, camera)
    seen = project(joints + place[:, None], camera)
    # regressed joints of a posed hand are some millimetres off those that skinning turns about
    assert float((seen - pixels).norm(dim=-1).mean()) < 1.5
    volume = normalised_volume(batch.vertices, hand.faces)
    assert torch.equal(volume > 0, batch.right > 0.5)
    height, width = batch.image.shape[-2:]
    inside = (pixels >= -0.5) & (pixels <= torch.tensor([width, height]) - 0.5)
    assert batch.joints2d_valid is not None
    assert not bool((batch.joints2d_valid & ~inside.all(-1)).any())


def test_scenes_are_in_the_photos_pixels_and_camera(hand: HandModel) -> None:
    """Labels as predictions come back as they were, from a photo of another size and shape."""
    sample = photo(hand, 3, width=200, height=150)
    processor = processor_of(hand)
    batch = processor.encode([(sample, 0)])
    regressor = joint_regressor(hand).astype(np.float64)
    true = [regressor @ one.vertices for one in sample.hands]
    found = perfect(batch, hand, [torch.from_numpy(joints[0]) for joints in true])
    (scene,) = processor.decode(found, batch, [sample.camera], names=["a.jpg"], model="m")
    assert (scene.image, scene.model, [one.side for one in scene.hands]) == (
        "a.jpg",
        "m",
        ["right", "left"],
    )
    for one, label, joints in zip(scene.hands, sample.hands, true, strict=True):
        np.testing.assert_allclose(one.vertices, label.vertices, atol=1e-5)
        np.testing.assert_allclose(one.joints, joints, atol=1e-5)
        np.testing.assert_allclose(one.joints2d, label.joints2d, atol=0.01)
        np.testing.assert_allclose(one.box, label.box, atol=0.01)
        model = hand if one.side == "right" else hand.mirrored()
        pose, betas, place = (
            torch.from_numpy(np.asarray(value)).float()[None]
            for value in (one.pose, one.betas, one.translation)
        )
        fitted = model(pose, betas, place).vertices[0].numpy()
        assert np.linalg.norm(fitted - label.vertices, axis=-1).mean() < 0.001


def test_the_better_of_two_overlapping_hands_stays(hand: HandModel) -> None:
    processor = processor_of(hand, fit=False)
    batch = processor.encode([(photo(hand, 0), 0)])
    found = perfect(batch, hand, wrists(hand, 0))
    twice = found.map(lambda t: torch.cat((t, t)) if t.ndim and len(t) == 2 else t)
    twice = dataclasses.replace(twice, scores=torch.tensor([0.2, 0.3, 0.9, 0.8]))
    (scene,) = processor.decode(twice, batch, [photo(hand, 0).camera])
    assert [one.score for one in scene.hands] == pytest.approx([0.9, 0.8])


def test_given_boxes_reach_the_network(hand: HandModel) -> None:
    sample = photo(hand, 0, width=256, height=160)
    processor = processor_of(hand)
    boxes = np.stack([one.box for one in sample.hands])
    given = processor.encode_photos([sample.image], [sample.camera], [boxes])
    labelled = processor.encode([(sample, 0)])
    assert labelled.boxes is not None
    torch.testing.assert_close(given.given_boxes[0], labelled.boxes, atol=1e-4, rtol=0)
    torch.testing.assert_close(given.image, labelled.image)
    with torch.no_grad():
        found = network_of(hand).eval()(given)
    torch.testing.assert_close(found.boxes, given.given_boxes[0])


def test_pixels_and_shares() -> None:
    size = torch.tensor([[200.0, 100.0]])
    edges = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    pixels = to_pixels(edges, size)
    assert pixels.tolist() == [[[-0.5, -0.5], [199.5, 99.5]]]
    torch.testing.assert_close(to_shares(pixels, size), edges)
