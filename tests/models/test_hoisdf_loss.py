"""HOISDF's losses: by hand, of perfect and unlabelled samples, and their gradients."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from tests.models.hoisdf_sample import TINY, labelled_batch, tiny_network

from handhold.geometry.rotation import axis_angle_to_matrix
from handhold.hand.model import HandModel
from handhold.models.hoisdf.inputs import HOISDFBatch
from handhold.models.hoisdf.loss import HOISDFLossConfig, heatmap_target, loss, terms


@pytest.fixture(scope="module")
def batch(hand: HandModel) -> HOISDFBatch:
    return labelled_batch(hand)


def test_perfect_prediction_costs_nothing(hand: HandModel, batch: Any) -> None:
    prediction = tiny_network(TINY, hand)(batch)
    rotations = axis_angle_to_matrix(batch.pose)
    joints = (batch.joints - batch.joints[:, :1])[:, 1:]
    points = prediction.features["query_points"]
    many = {
        "hand_sdf": batch.hand_sdf,
        "object_sdf": batch.object_sdf,
        "hand_pixels": 200 * batch.hand_pixels - 100,
        "object_pixels": 200 * batch.object_pixels - 100,
        "heatmap": heatmap_target(batch.joints2d / 2, torch.ones(2, 21), 32),
        "vote_offsets": (joints[:, None] - points[:, :, None])[:, None],
        "layer_voted_joints": joints[:, None],
        "layer_vertices": (batch.vertices - batch.joints[:, :1])[:, None],
        "layer_joints": (batch.joints - batch.joints[:, :1])[:, None],
        "layer_rotations": rotations[:, None],
        "layer_betas": batch.betas[:, None],
        "point_rotations": batch.object_rotation[:, None, None],
        "point_translations": batch.object_translation[:, None, None],
    }
    near = (many["vote_offsets"].norm(dim=-1) < 0.04).float()
    assert 0 < float(near.mean()) < 1
    many["vote_logits"] = 200 * near - 100
    perfect = dataclasses.replace(prediction, features=prediction.features | many)
    found = terms(perfect, batch, HOISDFLossConfig())
    assert len(found) == 15
    for name, value in found.items():
        assert name == "shape_prior" or float(value) < 1e-5, name


def test_terms_by_hand(hand: HandModel, batch: Any) -> None:
    prediction = tiny_network(TINY, hand)(batch)
    features = dict(prediction.features)
    config = HOISDFLossConfig()
    # distances: 30 mm and 100 mm (clamped to 0.15 / 3.1) against 0
    features["hand_sdf"] = torch.tensor([[0.03], [0.1]])
    # one layer, two points, all offsets 0: votes are where the points are
    joints = torch.zeros(2, 21, 3)
    joints[:, 1:] += torch.tensor([1.0, 0, 0])
    joints[:, 7] = torch.tensor([0.03, 0.0, 0.0])  # 30 mm from the points
    features["query_points"] = torch.zeros(2, 2, 3)
    features["vote_offsets"] = torch.zeros(2, 1, 2, 20, 3)
    features["vote_logits"] = torch.zeros(2, 1, 2, 20)
    features["layer_voted_joints"] = joints[:, None, 1:] + torch.tensor([0.0, 0.002, 0.0])
    labels = dataclasses.replace(
        batch, hand_sdf=torch.zeros(2, 1), vote_joints=joints, has_pose=torch.tensor([True, True])
    )
    found = terms(dataclasses.replace(prediction, features=features), labels, config)
    assert float(found["hand_sdf"]) == pytest.approx((0.093 + 0.15) / 2, rel=1e-5)
    assert float(found["votes"]) == pytest.approx((30 - 0.5) / 3, rel=1e-5)
    assert float(found["vote_class"]) == pytest.approx(math.log(2), rel=1e-5)
    assert float(found["voted_joints"]) == pytest.approx((2 - 0.5) / 3, rel=1e-4)
    nobody = dataclasses.replace(labels, vote_joints=joints + 2)
    assert (
        float(terms(dataclasses.replace(prediction, features=features), nobody, config)["votes"])
        == 0
    )
    bells = heatmap_target(torch.tensor([[[3.0, 5], [3, 5]]]), torch.tensor([[True, True]]), 8)
    assert float(bells[0, 5, 3]) == pytest.approx(510)
    assert float(bells[0, 5, 4]) == pytest.approx(510 * math.exp(-1 / (2 * 1.25**2)))


def test_unlabelled_samples_take_no_part(hand: HandModel, batch: Any) -> None:
    prediction = tiny_network(TINY, hand)(batch)
    known = torch.tensor([True, False])
    partly = dataclasses.replace(
        batch,
        has_pose=known,
        has_object=known,
        has_pixels=known,
        joints2d_valid=known[:, None].expand(2, 21),
    )
    found = loss(prediction, partly)
    spoilt = {
        name: torch.cat((getattr(batch, name)[:1], getattr(batch, name)[1:] + 7))
        for name in (
            *("pose", "betas", "joints2d", "hand_sdf", "object_sdf", "object_rotation"),
            *("object_translation", "vertices", "hand_pixels"),
        )
    }
    for name, value in loss(prediction, dataclasses.replace(partly, **spoilt)).items():
        torch.testing.assert_close(value, found[name], msg=name)
    first = loss(prediction.map(lambda t: t[:1]), batch.map(lambda t: t[:1]))
    for name, value in first.items():
        torch.testing.assert_close(value, found[name], msg=name, rtol=1e-4, atol=1e-5)
    bare = dataclasses.replace(
        batch, hand_sdf=None, object_sdf=None, joints2d=None, object_rotation=None, hand_pixels=None
    )
    assert not {"hand_sdf", "heatmap", "object_rotation", "hand_pixels"} & set(
        loss(prediction, bare)
    )


def test_gradients(hand: HandModel, batch: Any) -> None:
    """The pose stage teaches the fields nothing, hints pass no gradient; else all learn."""
    network = tiny_network(TINY, hand).train()
    prediction = network(batch)
    found = terms(prediction, batch, HOISDFLossConfig())
    (found["vertices"] + found["object_rotation"]).backward(retain_graph=True)
    assert all(p.grad is None for p in network.hand_field.parameters())
    assert network.hand_density_width.grad is not None
    network.zero_grad()
    loss(prediction, batch)["total"].backward()
    for name, parameter in network.named_parameters():
        if name.startswith(network.parameters_without_gradient()) or not parameter.requires_grad:
            assert parameter.grad is None or not parameter.grad.any(), name
        else:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
    frozen = {n for n, p in network.named_parameters() if not p.requires_grad}
    assert "backbone.stage2.0.norm1.weight" in frozen
    assert not any("shortcut" in n or not n.startswith("backbone.") for n in frozen)
