"""HandMesh's losses between two views of a photo."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.posed_sample import TURNED, posed_sample

from handhold.errors import InputError
from handhold.hand.model import HandModel
from handhold.models.mobrecon.loss import MobReconLossConfig, consistency, loss
from handhold.models.nn.hope_config import HopeProcessorConfig
from handhold.models.nn.hope_losses import with_hand_targets
from handhold.models.nn.hope_processor import HopeProcessor
from handhold.scene import Batch, Prediction
from handhold.training.build_hands import hand_task
from handhold.training.config import TrainConfig


def _two_views(side: Any) -> tuple[Batch, Prediction]:
    """Two hands, each cropped and turned twice, and what a perfect network says of them."""
    config = dataclasses.replace(HopeProcessorConfig.hand_alone(128), augmentation=TURNED)
    items = [(posed_sample(seed, side), 0) for seed in (0, 1)]
    batch = HopeProcessor(config).encode([*items, *items], np.random.default_rng(0))
    hand = HandModel.free()
    batch = with_hand_targets(batch, hand, 0)
    assert batch.vertices is not None and batch.joints is not None and batch.joints2d is not None
    faces = {"faces": hand.faces}
    return batch, Prediction(
        joints=batch.joints, vertices=batch.vertices, joints2d=batch.joints2d, features=faces
    )


@pytest.mark.parametrize("side", ["right", "left"])
def test_true_hands_agree_and_errors_are_measured(side: Any) -> None:
    batch, prediction = _two_views(side)
    assert batch.crop is not None and prediction.vertices is not None
    assert prediction.joints2d is not None
    apart = (prediction.vertices[:2] - prediction.vertices[2:]).abs().mean()
    assert float(apart) > 0.01  # the crops are turned
    terms = consistency(prediction, batch)
    assert float(terms["views_vertices"]) < 1e-6
    assert float(terms["views_joints2d"]) < 1e-5
    # an offset of the second views counts as it is, in the unit asked for
    offset = torch.zeros(4, 1, 3)
    offset[2:] = torch.tensor([0.01, -0.02, 0.03])
    moved = dataclasses.replace(prediction, vertices=prediction.vertices + offset)
    found = consistency(moved, batch, 0.2)["views_vertices"]
    assert float(found) == pytest.approx(0.02 / 0.2, rel=1e-4)
    # one of the first is turned with the crop: of an offset along the optical axis nothing changes
    deep = dataclasses.replace(
        prediction, vertices=prediction.vertices + offset.flip(0) * torch.tensor([0.0, 0.0, 1.0])
    )
    assert float(consistency(deep, batch)["views_vertices"]) == pytest.approx(0.01, rel=1e-4)
    # pixels of the crop become pixels of the photo
    shift = torch.zeros(4, 1, 2)
    shift[0, 0] = torch.tensor([3.0, 1.0])
    moved = dataclasses.replace(prediction, joints2d=prediction.joints2d + shift)
    sign = np.array([-1.0 if side == "left" else 1.0, 1.0])
    away = np.linalg.inv(batch.crop[0, :2, :2].double().numpy()) @ (sign * (3.0, 1.0))
    expected = np.abs(away).mean() / 2 / 128  # of two photos one
    found = consistency(moved, batch)["views_joints2d"]
    assert float(found) == pytest.approx(expected, rel=1e-3)


def test_in_the_loss() -> None:
    batch, prediction = _two_views("right")
    config = MobReconLossConfig.handmesh_two_views()
    assert config.two_views and not MobReconLossConfig.handmesh().two_views
    vertices = (prediction.vertices + 0.01).requires_grad_()
    prediction = dataclasses.replace(prediction, vertices=vertices)
    terms = loss(prediction, batch, config)
    plain = loss(prediction, batch, MobReconLossConfig.handmesh())
    own = consistency(prediction, batch, 0.2)
    total = plain["total"] + own["views_vertices"] + own["views_joints2d"]
    torch.testing.assert_close(terms["total"], total)
    terms["views_vertices"].backward()
    assert vertices.grad is not None and float(vertices.grad.abs().sum()) > 0
    with pytest.raises(InputError, match="two views of each photo"):
        consistency(prediction.map(lambda t: t[:3]), batch.map(lambda t: t[:3]))
    with pytest.raises(InputError, match="two views of each photo"):
        loss(prediction, dataclasses.replace(batch, keys=("a", "b", "c", "d")), config)


def test_training_crops_every_photo_twice() -> None:
    views = {"views_vertices": 1.0, "views_joints2d": 1.0}
    config = TrainConfig(
        model="mobrecon-small",
        preparation="hand_alone",
        network={"mano_center": 0},
        loss=views,
        steps=1,
    )
    task = hand_task(config)
    items = [(posed_sample(seed, "right"), 0) for seed in (0, 1)]
    batch = task.encode(items, np.random.default_rng(0))
    assert batch.keys == ("s0", "s1", "s0", "s1")
    assert not torch.equal(batch.crop[:2], batch.crop[2:])
    assert task.encode(items, None).keys == ("s0", "s1")
    torch.manual_seed(0)
    terms = task.losses(task.network.train(), batch)
    assert float(terms["views_vertices"].detach()) > 0
    with pytest.raises(InputError, match="mano_center 0, found None"):
        hand_task(dataclasses.replace(config, network={}))
    with pytest.raises(InputError, match="need augment"):
        hand_task(dataclasses.replace(config, augment=False))
    with pytest.raises(InputError, match="unexpected keyword argument 'view'"):
        hand_task(dataclasses.replace(config, loss={"view": 1.0}))
