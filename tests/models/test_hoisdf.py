"""HOISDF's network: fields, densities, heads, variants, what it is given and predicts."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from tests.models.hoisdf_sample import TINY, labelled_batch, tiny_network
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.geometry.rotation import axis_angle_to_matrix
from handhold.hand.model import HandModel
from handhold.models.hoisdf.field import (
    WeightNormLinear,
    density,
)
from handhold.models.hoisdf.heads import mean_rotation, query_masks
from handhold.models.hoisdf.inputs import HOISDFBatch
from handhold.models.hoisdf.kinematics import align, pose_from_joints, shortest_rotation
from handhold.models.hoisdf.loss import HOISDFLossConfig, loss
from handhold.models.hoisdf.model import HOISDFConfig


@pytest.fixture(scope="module")
def batch(hand: HandModel) -> HOISDFBatch:
    return labelled_batch(hand)


# -------------------------------------------------------------------------------- fields, densities


def test_weight_norm_against_pytorchs() -> None:
    torch.manual_seed(0)
    ours, plain = WeightNormLinear(5, 3), nn.Linear(5, 3)
    with torch.no_grad():
        ours.gain.mul_(torch.tensor([[2.0], [0.5], [1.5]]))
        plain.weight.copy_(ours.direction)
        plain.bias.copy_(ours.bias)
    theirs: Any = nn.utils.parametrizations.weight_norm(plain)
    with torch.no_grad():
        theirs.parametrizations.weight.original0.copy_(ours.gain)
    x = torch.randn(4, 5)
    torch.testing.assert_close(ours(x), theirs(x))


def test_sign_of_the_density(hand: HandModel, batch: Any) -> None:
    """The released code is dense outside, the paper inside; at the surface they agree."""
    distances, width = torch.tensor([-0.1, 0.0, 0.1]), torch.tensor([0.05])
    code, paper = density(distances, width, 1), density(distances, width, -1)
    assert code[2] > code[1] > code[0]
    torch.testing.assert_close(paper, code.flip(0))
    assert float(code[1]) == pytest.approx(0.5 / 0.05)
    assert float(paper[0]) == pytest.approx(1 / (1 + math.exp(-2)) / 0.05)
    tokens = {}
    for sign in (1, -1):
        seen: dict[str, Tensor] = {}
        tiny_network(dataclasses.replace(TINY, density_sign=sign), hand)(batch, seen)
        tokens[sign] = seen
    own, other = (tokens[s]["hand_tokens"] for s in (1, -1))
    torch.testing.assert_close(own[..., :33], other[..., :33])
    away = torch.sigmoid(2 * tokens[1]["hand_distances"] / 0.1)[..., None]
    assert bool((away != 0.5).all())
    ratio = torch.sigmoid(tokens[1]["hand_distances"] / 0.1)[..., None]
    expected = own[:, :12, 33:] * (1 - ratio) / ratio
    torch.testing.assert_close(other[:, :12, 33:], expected, atol=1e-5, rtol=1e-4)


def test_each_transformer_takes_its_own_density(hand: HandModel, batch: Any) -> None:
    """Hints of the object's points for the hand ask the hand's field and take the hand's width,
    which never falls below 0.002."""
    network, before = tiny_network(TINY, hand), {}
    network(batch, before)
    with torch.no_grad():
        network.hand_density_width.fill_(0.03)
    after: dict[str, Tensor] = {}
    network(batch, after)
    assert bool((before["hand_tokens"] != after["hand_tokens"])[:, :12, 33:].any())
    assert bool((before["hand_tokens"] != after["hand_tokens"])[:, 12:, 33:].any())
    torch.testing.assert_close(before["object_tokens"], after["object_tokens"], rtol=0, atol=0)
    crossed = after["hand_crossed"].clamp(-0.15, 0.15)
    expected = after["object_features"] * density(crossed, torch.tensor([0.03]), 1)[..., None]
    torch.testing.assert_close(after["hand_tokens"][:, 12:, 33:], expected)
    # positions: the object's points seen from the wrist
    shift = (batch.object_center - batch.root)[:, None]
    torch.testing.assert_close(
        after["hand_tokens"][:, 12:, :3], batch.object_query_points + shift, atol=1e-6, rtol=0
    )
    floors = []
    for value in (0.002, 0.0005):
        with torch.no_grad():
            network.hand_density_width.fill_(value)
        network(batch, seen := {})
        floors.append(seen["hand_tokens"])
    torch.testing.assert_close(floors[0], floors[1], rtol=0, atol=0)
    network.train()(batch)
    assert network.hand_density_width.item() == pytest.approx(0.002)


# ---------------------------------------------------------------------------------------- the heads


def test_masks() -> None:
    own, memory = query_masks(TINY)
    assert (~own[0]).nonzero()[:, 0].tolist() == [0]
    assert (~own[5]).nonzero()[:, 0].tolist() == [4, 5, 6]
    assert (~own[15]).nonzero()[:, 0].tolist() == [13, 14, 15]
    assert (~own[16]).nonzero()[:, 0].tolist() == [16]
    assert not memory[:, :12].any()
    assert bool(memory[:, 12:].all())
    own, memory = query_masks(dataclasses.replace(TINY, hand_head="kinematics"))
    assert own.tolist() == [[False]]


def test_mean_of_rotations_near_a_half_turn() -> None:
    """Axis-angles pi - e and -(pi - e) are nearly the same rotation; their mean vector is none."""
    near = math.pi - 0.05
    vectors = torch.tensor([[[0.0, 0, near], [0, 0, -near]]])
    half = torch.diag(torch.tensor([-1.0, -1, 1]))
    torch.testing.assert_close(mean_rotation(vectors)[0], half, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        axis_angle_to_matrix(vectors.mean(dim=1))[0], torch.eye(3), atol=1e-6, rtol=0
    )


def test_rotation_mean_of_the_network(hand: HandModel, batch: Any) -> None:
    plain = tiny_network(TINY, hand)(batch).features
    sound = tiny_network(dataclasses.replace(TINY, rotation_mean="matrices"), hand)(batch).features
    vectors = plain["point_rotations"][:, -1]
    expected = axis_angle_to_matrix(vectors.mean(dim=1))
    torch.testing.assert_close(plain["object_rotation"], expected)
    torch.testing.assert_close(sound["object_rotation"], mean_rotation(vectors))
    moved = plain["point_translations"][:, -1].mean(dim=1) + batch.object_center
    torch.testing.assert_close(plain["object_translation"], moved)


def test_kinematics_finds_the_pose_of_joints(hand: HandModel) -> None:
    """The joints of any pose come back: bones keep their lengths, twist moves no joint."""
    draw = torch.Generator().manual_seed(1)
    pose, betas = 0.4 * torch.randn(3, 16, 3, generator=draw), torch.randn(3, 10, generator=draw)
    given = hand(pose, betas, center=0)
    rest = hand(torch.zeros(16, 3), betas, center=0).joints
    rotations = pose_from_joints(given.joints[:, 1:], rest)
    found = hand(rotations, betas, rotation_type="matrix", center=0)
    torch.testing.assert_close(found.joints16, given.joints16, atol=1e-5, rtol=0)
    torch.testing.assert_close(rotations[:, 0], axis_angle_to_matrix(pose[:, 0]), atol=1e-4, rtol=0)


def test_kinematics_of_a_mirrored_hand() -> None:
    source = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    mirrored = source * torch.tensor([-1.0, 1, 1])
    torch.testing.assert_close(align(source, mirrored, "identity"), torch.eye(3))
    proper = align(source, mirrored, "rotation")
    assert float(torch.linalg.det(proper)) == pytest.approx(1, abs=1e-5)
    assert not torch.allclose(proper, torch.eye(3), atol=1e-3)
    turn = shortest_rotation(torch.tensor([2.0, 0, 0]), torch.tensor([0.0, 0, 3]))
    torch.testing.assert_close(turn @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 1]))


def test_kinematics_head(hand: HandModel, batch: Any) -> None:
    config = dataclasses.replace(TINY, hand_head="kinematics")
    network = tiny_network(config, hand)
    assert network.hand_head.queries.weight.shape == (1, 40)
    prediction = network(batch)
    rest = hand(torch.zeros(16, 3), prediction.betas, center=0).joints
    expected = pose_from_joints(prediction.features["voted_joints"], rest)
    torch.testing.assert_close(prediction.rotations, expected, atol=1e-5, rtol=0)
    found = loss(prediction, batch, HOISDFLossConfig.kinematics())
    assert "rotations" not in found
    assert "shape_prior" in found
    found["total"].backward()


# ------------------------------------------------------------------------ errors and predictions


def test_prediction_is_in_the_crop(hand: HandModel, batch: Any) -> None:
    prediction = tiny_network(TINY, hand)(batch)
    # the hand stands where its joints have the votes' mean
    voted = prediction.features["voted_joints"]
    place = batch.root[:, None] + voted.mean(1, keepdim=True)
    camera = prediction.joints - prediction.joints[:, 1:].mean(1, keepdim=True) + place
    expected = 100 * camera[..., :2] / camera[..., 2:] + 31.5
    torch.testing.assert_close(prediction.joints2d, expected)
    assert not prediction.joints[:, 0].any()
    posed = hand(prediction.rotations, prediction.betas, rotation_type="matrix", center=0)
    torch.testing.assert_close(posed.vertices, prediction.vertices)


@pytest.mark.parametrize("missing", ["intrinsics", "root", "object_center"])
def test_what_is_missing_is_named(hand: HandModel, batch: Any, missing: str) -> None:
    network = tiny_network(TINY, hand)
    with pytest.raises(InputError, match=missing):
        network(dataclasses.replace(batch, **{missing: None}))
    with pytest.raises(InputError, match="image"):
        network(dataclasses.replace(batch, image=batch.image[..., :32]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("input_size", 100), ("decoder", "huge"), ("density_sign", 0), ("dim", 30)),
        *(("sdf_hidden", 40), ("grid", 2), ("depths", (1, 2)), ("dropout", 1.5), ("heads", 3)),
        *(("rotation_mean", "median"), ("search", "lazy"), ("hand_points", 0)),
    ],
)
def test_bad_configuration(field: str, value: object) -> None:
    with pytest.raises(InputError, match="dim" if field == "heads" else field):
        dataclasses.replace(TINY, **{field: value})


def test_sound_configuration_differs() -> None:
    sound = HOISDFConfig.sound()
    assert (sound.grid_kind, sound.density_sign, sound.rotation_mean) == ("regular", -1, "matrices")
    assert HOISDFConfig.ho3d().decoder == "big"
