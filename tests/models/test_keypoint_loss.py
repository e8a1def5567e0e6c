"""Keypoint Transformer's losses, by hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from tests.models.keypoint_batch import TINY, VECTORS, labels_from, tiny_network
from torch import Tensor

from handhold.hand.convention import reorder
from handhold.hand.model import HandModel
from handhold.models.keypoint_transformer.batch import ORDER, KeypointBatch
from handhold.models.keypoint_transformer.loss import (
    KeypointTransformerLossConfig,
    fit_camera,
    heat_target,
    loss,
)
from handhold.models.keypoint_transformer.model import (
    KeypointTransformerConfig,
)
from handhold.scene import Batch, Prediction


@pytest.fixture
def make_labels(make_batch: Callable[..., Batch]) -> Callable[..., KeypointBatch]:
    return labels_from(make_batch)


def _perfect(config: KeypointTransformerConfig, batch: KeypointBatch) -> Prediction:
    """What the labels say, in one decoder and one encoder layer; maps and classes as labelled."""
    assert batch.joints is not None
    assert batch.joints2d is not None
    assert batch.pose is not None
    assert batch.betas is not None
    assert batch.object_map is not None
    assert batch.object_rotation is not None
    assert batch.object_translation is not None
    size, joints2d = len(batch), reorder(batch.joints2d, "canonical", ORDER) / 2
    joints = reorder(batch.joints, "canonical", ORDER)
    valid = torch.ones(size, 21, dtype=torch.bool)
    scale, shift = fit_camera(joints, joints2d, valid, 1e-4)
    logits = torch.full((size, 1, 21, config.classes), -50.0)
    logits[:, 0, torch.arange(21), torch.arange(1, 22)] = 50.0
    features = {
        "heatmap": heat_target(joints2d, valid, config.map_size, 1.25),
        "object_map": 255 * batch.object_map,
        "tokens_xy": joints2d,
        "tokens_found": valid,
        "tokens_label": torch.arange(1, 22).expand(size, 21),
        "token_logits": logits,
        "shapes": batch.betas[:, None],
        "cameras": torch.cat((scale, shift), dim=1)[:, None],
        "layer_joints": batch.joints[:, None],
        "object_rotations": batch.object_rotation[:, None],
        "object_translations": batch.object_translation[:, None],
        "object_corners2d": torch.zeros(size, 1, 8, 2),
        "hand_type_logits": torch.tensor([50.0, -50.0]).expand(size, 2),
    }
    if config.output == "angles":
        features["hand_angles"] = batch.pose[:, None]
    else:
        parent = [20 if k % 4 == 3 else k + 1 for k in range(20)]
        features["hand_vectors"] = (joints[:, :20] - joints[:, parent])[:, None]
    return Prediction(joints=batch.joints, features=features)


def _with(prediction: Prediction, **features: Tensor) -> Prediction:
    return dataclasses.replace(prediction, features=prediction.features | features)


@pytest.mark.parametrize("config", [TINY, VECTORS], ids=["angles", "vectors"])
def test_perfect_prediction_costs_nothing_but_the_flat_view(
    config: KeypointTransformerConfig, make_labels: Callable[..., KeypointBatch]
) -> None:
    batch = make_labels(config)
    # joints far from each other, so that each token has one name
    place = torch.arange(21.0)
    spread = torch.stack((4 + 12 * (place % 5), 6 + 12 * torch.floor(place / 5)), dim=-1)
    batch = dataclasses.replace(batch, joints2d=spread.expand(2, 21, 2))
    perfect = _perfect(config, batch)
    terms = loss(perfect, batch)
    weights = KeypointTransformerLossConfig()
    assert set(terms) - {"total"} <= {f.name for f in dataclasses.fields(weights)}
    assert {n for n, v in terms.items() if v > 1e-4} == {"joints2d", "total"}
    torch.testing.assert_close(terms["total"], terms["joints2d"])


def test_hand_terms_by_hand(make_labels: Callable[..., KeypointBatch]) -> None:
    """Errors put in by hand, weights 1."""
    unit = KeypointTransformerLossConfig(
        joints=1, pose=1, shape=1, camera_scale=1, camera_shift=1, heatmap=1, object_map=1,
        hand_type=1,
    )  # fmt: skip
    batch = make_labels(TINY)
    perfect = _perfect(TINY, batch)
    before, features = loss(perfect, batch, unit), perfect.features
    moved = features["layer_joints"].clone()
    moved[0, 0, 5:7] += 0.01  # two joints, 10 mm on three axes
    moved[1] += 1.0  # the whole hand: not seen from its wrist
    changed = _with(
        perfect,
        layer_joints=moved,
        hand_angles=features["hand_angles"] + 0.2 * torch.tensor([1.0, 0])[:, None, None, None],
        shapes=features["shapes"] + 0.3,
        cameras=features["cameras"] + torch.tensor([2.0, 1.0, -3.0]),
        heatmap=features["heatmap"] + 3.0,
        object_map=features["object_map"] - 2.0,
        hand_type_logits=torch.zeros(2, 2),
    )
    terms = loss(changed, batch, unit)
    expected = {
        "joints": 2 * 10.0 / 42 / 2,
        "pose": 48 * 0.2 / 32 / 2,
        "shape": 0.3,
        "camera_scale": 2.0,
        "camera_shift": 2.0,
        "heatmap": 9.0,
        "object_map": 4.0,
        "hand_type": math.log(2),
    }
    for name, value in expected.items():
        assert float(terms[name] - before[name]) == pytest.approx(value, rel=2e-4), name


def test_unlabelled_samples_take_no_part(
    hand: HandModel, make_labels: Callable[..., KeypointBatch]
) -> None:
    """Sample 1 has no 3D pose and no object: what is said of it changes only 2D terms."""
    network, batch = tiny_network(TINY, hand).eval(), make_labels(TINY)
    assert batch.object_map is not None
    partial = dataclasses.replace(
        batch,
        has_pose=torch.tensor([True, False]),
        object_number=torch.tensor([3, -1]),
        object_map=torch.stack((batch.object_map[0], torch.full_like(batch.object_map[1], -1))),
    )
    prediction = network(batch, labelled=True)
    alone = loss(
        Prediction(
            joints=prediction.joints[:1],
            features={k: v[:1] for k, v in prediction.features.items()},
        ),
        batch.map(lambda tensor: tensor[:1]),
    )
    both = loss(prediction, partial)
    shared = ("heatmap", "token_class", "joints2d", "total")
    for name in set(alone) - set(shared):
        torch.testing.assert_close(both[name], alone[name], msg=name)
    for name in shared:
        assert not torch.allclose(both[name], alone[name]), name
    plain = Batch(**{f.name: getattr(batch, f.name) for f in dataclasses.fields(Batch)})
    assert not {"object_map", "object_corners"} & set(loss(prediction, plain))


def test_symmetric_and_heavy_objects(make_labels: Callable[..., KeypointBatch]) -> None:
    """A half turn about z costs nothing for number 3, and 5 does not have it; 10 counts 4 times."""
    batch = make_labels(TINY)
    perfect = _perfect(TINY, batch)
    assert batch.object_rotation is not None
    half = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    turned = _with(perfect, object_rotations=(batch.object_rotation @ half)[:, None])

    def corners(prediction: Prediction, *numbers: int) -> float:
        told = dataclasses.replace(batch, object_number=torch.tensor(numbers))
        return float(loss(prediction, told)["object_corners"])

    assert corners(turned, 3, 10) == pytest.approx(0, abs=1e-4)
    assert corners(turned, 5, 5) > 1
    moved = _with(perfect, object_translations=perfect.features["object_translations"] + 0.01)
    assert corners(moved, 5, 5) == pytest.approx(0.1 * 10, rel=1e-4)  # 10 mm, weight 0.1
    assert corners(moved, 5, 24) == pytest.approx(0.1 * 10 * 2.5, rel=1e-4)


def test_tokens_are_named_by_the_nearest_joint_to_the_camera(
    make_labels: Callable[..., KeypointBatch],
) -> None:
    batch = make_labels(TINY, 1)
    perfect = _perfect(TINY, batch)
    assert batch.joints is not None
    assert batch.joints2d is not None
    place = torch.full((21, 2), 60.0)  # crop pixels: 30 on the map
    place[4], place[8] = torch.tensor([20.0, 20.0]), torch.tensor([24.0, 20.0])
    joints = batch.joints.clone()
    joints[0, 4, 2], joints[0, 8, 2] = 0.2, -0.2  # the index tip lies in front
    thumb, index = 1, 5  # their numbers: tips of the first and the second finger
    batch = dataclasses.replace(batch, joints2d=place[None], joints=joints)

    def cost(xy: tuple[float, float], label: int, wanted: int) -> float:
        logits = torch.zeros(1, 1, 1, TINY.classes)
        logits[..., wanted] = 30.0
        said = _with(
            perfect,
            tokens_xy=torch.tensor([[xy]]),
            tokens_found=torch.ones(1, 1, dtype=torch.bool),
            tokens_label=torch.tensor([[label]]),
            token_logits=logits,
        )
        return float(loss(said, batch)["token_class"])

    assert cost((10.0, 10.0), 1, index) < 1e-3  # both are within reach
    assert cost((8.0, 10.0), 1, thumb) < 1e-3  # only the thumb is
    assert cost((10.0, 14.0), 1, 0) < 1e-3  # none is
    last = TINY.classes - 1
    assert cost((12.0, 20.0), last, last) < 1e-3  # the middle of the disc
    assert cost((10.0, 10.0), last, 0) < 1e-3  # an object's token has no joint's name
