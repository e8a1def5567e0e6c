"""The processor's promise: decoding undoes encoding."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from tests.models.hope_sample import (
    FLIP,
    NAME,
    TURNED,
    hand_in_crop,
    made_sample,
    make_processor,
)
from tests.models.posed_sample import STILL

from handhold.errors import InputError
from handhold.geometry.camera import project
from handhold.hand.model import HandModel
from handhold.scene import Prediction


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["left", "right"]), st.booleans())
def test_decode_undoes_encode(seed: int, side, turned: bool) -> None:
    sample = made_sample(seed, side)
    processor = make_processor(TURNED if turned else STILL, pnp="sound")
    batch = processor.encode([(sample, 0)], np.random.default_rng(seed))
    joints, _ = hand_in_crop(sample, batch)
    rest = np.array([0.09, 0.01, -0.005])  # where the hand model holds its wrist
    own = torch.from_numpy(joints - joints[0] + rest).float()[None]
    pose = Rotation.from_rotvec(batch.pose[0].double().numpy()).as_matrix()
    logits = torch.full((1, 3), -9.0)
    logits[0, 2] = 9.0
    prediction = Prediction(
        joints=own,
        vertices=own[:, torch.arange(778) % 21],
        joints2d=batch.joints2d,
        rotations=torch.from_numpy(pose).float()[None],
        betas=batch.betas,
        grasp_logits=torch.tensor([[-3.0, 3.0]]),
        object_points2d=batch.object_points2d[:, None],
        object_confidence=torch.ones(1, 1, 21),
        object_class_logits=logits,
    )
    ((hand, thing),) = processor.decode(prediction, batch, [sample.camera])
    truth = sample.hands[0]
    assert hand.side == side
    assert hand.joints2d == pytest.approx(
        project(np.array(truth.joints), sample.camera.intrinsics), abs=0.01
    )
    place = truth.joints[0] - (rest * FLIP if side == "left" else rest)
    assert np.linalg.norm(hand.translation - place) < 1e-3
    relative, known = hand.joints - hand.joints[0], truth.joints - truth.joints[0]
    assert np.abs(relative - known).max() < 1e-4
    assert np.abs(hand.joints - truth.joints).max() < 1e-3
    assert hand.vertices == pytest.approx(hand.joints[np.arange(778) % 21])
    turns = [Rotation.from_rotvec(np.array(p)) for p in (hand.pose, truth.pose)]
    assert (turns[0].inv() * turns[1]).magnitude().max() < 1e-3
    assert hand.betas == pytest.approx(truth.betas, abs=1e-5)
    assert hand.grasping and hand.grasp_score == pytest.approx(1 / (1 + np.exp(-6)))
    assert thing is not None and thing.name == NAME and thing.held
    error = Rotation.from_matrix(thing.rotation.T @ sample.object.rotation).magnitude()
    assert np.degrees(error) < 0.2
    assert np.linalg.norm(thing.translation - sample.object.translation) < 2e-3


def test_a_given_name_is_posed_whatever_the_network_says_of_a_grasp() -> None:
    sample = made_sample(1)
    processor = make_processor(objects="grasped")
    batch = processor.encode([(sample, 0)])
    assert batch.object_points2d is not None and batch.joints2d is not None
    prediction = Prediction(
        joints=torch.from_numpy(np.array(sample.hands[0].joints)).float()[None],
        joints2d=batch.joints2d,
        grasp_logits=torch.tensor([[3.0, -3.0]]),
        object_points2d=batch.object_points2d[:, None],
        object_confidence=torch.ones(1, 1, 21),
    )
    ((_, nothing),) = processor.decode(prediction, batch, [sample.camera], object_names=[None])
    ((_, thing),) = processor.decode(prediction, batch, [sample.camera], object_names=[NAME])
    assert nothing is None and thing is not None and thing.name == NAME
    assert np.linalg.norm(thing.translation - sample.object.translation) < 2e-3


@pytest.mark.parametrize("side", ["left", "right"])
def test_translation_belongs_to_the_hand_model_of_that_side(side) -> None:
    """Hand.translation + the un-centred model of the true side = joints in the camera frame."""
    right, own = HandModel.free("right"), HandModel.free(side)
    sample = made_sample(3, side)
    hand = sample.hands[0]
    tensors = [torch.from_numpy(np.array(v)).float()[None] for v in (hand.pose, hand.betas)]
    shift = torch.tensor([[0.05, -0.02, 0.6]])
    joints = own(*tensors, shift).joints[0].double().numpy()
    sample = dataclasses.replace(sample, hands=(dataclasses.replace(hand, joints=joints),))
    processor = make_processor(TURNED)
    batch = processor.encode([(sample, 0)], np.random.default_rng(0))
    inside = right(batch.pose, batch.betas)
    prediction = Prediction(joints=inside.joints, vertices=inside.vertices, joints2d=batch.joints2d)
    ((found, _),) = processor.decode(prediction, batch, [sample.camera])
    assert found.translation == pytest.approx(shift[0].numpy(), abs=1e-3)
    assert found.joints == pytest.approx(joints, abs=1e-3)
    again = own(*tensors, shift).vertices[0].numpy()
    assert found.vertices == pytest.approx(again, abs=1e-3)


def test_bad_input_is_told() -> None:
    sample, processor = made_sample(20), make_processor()
    batch = processor.encode([(sample, 0)])
    prediction = Prediction(joints=torch.zeros(1, 21, 3), joints2d=batch.joints2d)
    with pytest.raises(InputError, match="1 cameras"):
        processor.decode(prediction, batch, [])
    with pytest.raises(InputError, match=r"batch\.crop"):
        processor.decode(prediction, dataclasses.replace(batch, crop=None), [sample.camera])
