"""Validation measures against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from handhold.models.detector.model import DetectorBatch, DetectorConfig, DetectorPrediction
from handhold.scene import Batch, Prediction
from handhold.training.measures import detector_measures, hand_measures


def test_hand_measures_by_hand() -> None:
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(rng.normal(size=(3, 21, 3)).astype(np.float32)) * 0.05
    turn = torch.from_numpy(Rotation.random(random_state=1).as_matrix()).float()
    found = truth.clone()
    found[0] = truth[0] * 1.3 @ turn.T + 0.2  # a similarity: nothing is left after alignment
    found[1, 1:] += torch.tensor([0.003, 0.0, 0.004])  # 5 mm at 20 of 21 joints
    points = torch.zeros(3, 21, 2)
    points[:, :, 0] = torch.arange(21) * 5.0  # a box of 100 px
    valid = torch.ones(3, 21, dtype=torch.bool)
    valid[0, 10:] = False  # the box of the labelled joints is 45 px
    valid[2, 1:] = False  # one joint makes no box: not counted
    predicted = points.clone()
    predicted[0, :4, 1] = 6.0  # between 10 % and 20 % of 45
    predicted[1, :5, 1] = 15.0  # between 10 % and 20 % of 100
    predicted[1, 5:8, 1] = 30.0
    batch = Batch(
        image=torch.zeros(3, 3, 4, 4),
        hand_box=torch.zeros(3, 4),
        object_box=torch.zeros(3, 4),
        joints=truth,
        has_pose=torch.tensor([True, True, False]),
        joints2d=points,
        joints2d_valid=valid,
        grasping=torch.tensor([True, False, True]),
        has_grasping=torch.tensor([True, True, False]),
    )
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    prediction = Prediction(joints=found, joints2d=predicted, grasp_logits=logits)
    result = hand_measures(prediction, batch)
    assert result["pck10"] == (6 + 13, 31) and result["pck20"] == (10 + 18, 31)
    assert result["grasp_accuracy"] == (1, 2)
    total, count = result["mpjpe_mm"]
    first = (found[0] - found[0, :1] - truth[0] + truth[0, :1]).norm(dim=-1).mean() * 1000
    assert count == 2 and total == pytest.approx(float(first) + 5 * 20 / 21, rel=1e-4)
    first_only = hand_measures(
        Prediction(joints=found[:1]),
        Batch(
            image=batch.image[:1],
            hand_box=batch.hand_box[:1],
            object_box=batch.object_box[:1],
            joints=truth[:1],
            has_pose=torch.tensor([True]),
        ),
    )
    assert first_only["pa_mpjpe_mm"][0] == pytest.approx(0, abs=1e-3)
    assert set(first_only) == {"mpjpe_mm", "pa_mpjpe_mm"}


class _Oracle(nn.Module):
    """Answers with given boxes; score, side and holding from logits."""

    def __init__(self, boxes: Tensor, side: Tensor, holding: Tensor) -> None:
        super().__init__()
        self.config = DetectorConfig(input_size=64, box_growth=1.0)
        self.boxes, self.side, self.holding = boxes, side, holding

    def forward(self, batch: DetectorBatch) -> DetectorPrediction:
        shape = self.side.shape
        return DetectorPrediction(
            score=torch.full(shape, 5.0),
            boxes=self.boxes,
            side=self.side,
            holding=self.holding,
            object_boxes=self.boxes,
            centers=torch.zeros(shape[1], 2),
            strides=torch.ones(shape[1]),
        )


def test_detector_measures_by_hand() -> None:
    truth = torch.tensor([[[0.0, 0, 10, 10], [30, 30, 50, 50], [0, 40, 10, 60]]] * 2)
    found = torch.tensor(
        [
            [[0.0, 0, 10, 8], [30, 30, 50, 50], [0, 40, 10, 60], [52, 0, 60, 9]],
            [[40.0, 0, 50, 10], [30, 30, 50, 50], [0, 40, 10, 60], [52, 0, 60, 9]],
        ]
    )
    side = torch.tensor([[4.0, -4.0, 4.0, 4.0], [4.0, 4.0, 4.0, 4.0]])
    holding = torch.tensor([[4.0, -4.0, 4.0, 4.0], [4.0, 4.0, 4.0, 4.0]])
    batch = DetectorBatch(
        image=torch.zeros(2, 3, 64, 64, dtype=torch.uint8),
        boxes=truth,
        valid=torch.tensor([[True, True, True], [True, True, False]]),
        ignored=torch.tensor([[False, False, True], [False, False, False]]),
        side=torch.tensor([[1, 1, 1], [1, 1, 0]]),
        holding=torch.tensor([[1, 1, 1], [1, -1, 0]]),
        object_boxes=truth,
        has_object=torch.zeros(2, 3, dtype=torch.bool),
        negative_weight=torch.tensor([1.0, 0.05]),
    )
    result = detector_measures(_Oracle(found, side, holding), batch)
    # photo 1: two hits (IoU 0.8, 1), one ignored label, one false alarm; photo 2, whose labels may
    # be incomplete: one hit, one miss, other claims do not count
    assert result["recall"] == (3, 4)
    assert result["precision"] == (3, 4)
    assert result["mean_iou"] == (pytest.approx(2.8), 3)
    assert result["side_accuracy"] == (2, 3)
    assert result["holding_accuracy"] == (1, 2)
