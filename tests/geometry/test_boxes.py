from __future__ import annotations

import numpy as np
import pytest

from handhold.errors import InputError
from handhold.geometry import boxes

RNG = np.random.default_rng(0)


def test_box_from_points_by_hand() -> None:
    points = np.array([[1.0, 10.0], [4.0, 13.0], [2.0, 20.0]])
    assert boxes.box_from_points(points).tolist() == [1, 10, 4, 20]
    # centre (2.5, 15) truncated to (2, 15); half sizes (1.5, 5) times 2
    found = boxes.box_from_points(points, 2.0, truncate=True)
    assert found.tolist() == [-1, 5, 5, 25]
    # truncation is towards zero on the negative side as well
    moved = boxes.box_from_points(points - [6.0, 40.0], truncate=True)
    assert moved[0] + moved[2] == -6.0  # -3.5 becomes -3


def test_valid_points_only_and_batches() -> None:
    points = RNG.normal(size=(3, 2, 21, 2))
    valid = RNG.random((3, 2, 21)) > 0.5
    valid[..., 0] = True
    found = boxes.box_from_points(points, valid=valid)
    for i in np.ndindex(3, 2):
        kept = points[i][valid[i]]
        assert found[i] == pytest.approx([*kept.min(0), *kept.max(0)])
    with pytest.raises(InputError, match="at least one valid point"):
        boxes.box_from_points(points, valid=np.zeros((3, 2, 21), bool))


def test_iou_against_counted_pixels() -> None:
    low = RNG.integers(0, 15, (40, 2, 2))
    found = np.concatenate([low, low + RNG.integers(1, 12, (40, 2, 2))], -1)
    for first, second in found:
        grids = np.zeros((2, 40, 40), bool)
        for grid, (x0, y0, x1, y1) in zip(grids, (first, second), strict=True):
            grid[y0:y1, x0:x1] = True
        expected = (grids[0] & grids[1]).sum() / (grids[0] | grids[1]).sum()
        assert boxes.iou(first, second) == pytest.approx(expected)
    pairs = boxes.iou(found[:, 0][:, None], found[:, 1][None])
    assert pairs.shape == (40, 40)
    assert np.diagonal(pairs) == pytest.approx(boxes.iou(found[:, 0], found[:, 1]))
    assert boxes.iou([0, 0, 0, 0], [0, 0, 0, 0]) == 0


def test_union_intersection_and_clip() -> None:
    first, second = np.array([0.0, 0, 4, 4]), np.array([3.0, -2, 9, 2])
    assert boxes.union(first, second).tolist() == [0, -2, 9, 4]
    assert boxes.intersection(first, second).tolist() == [3, 0, 4, 2]
    assert boxes.area(boxes.intersection(first, first + 10)) == 0
    assert boxes.clip([-3.0, 2, 30, 9], 20, 5).tolist() == [0, 2, 20, 5]


def test_transform_holds_the_turned_corners() -> None:
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle), 3], [np.sin(angle), np.cos(angle), 1]])
    turn = np.vstack([turn, [0, 0, 1]])
    box = np.array([1.0, 2.0, 7.0, 5.0])
    inside = RNG.uniform(box[:2], box[2:], (2000, 2))
    moved = np.c_[inside, np.ones(2000)] @ turn.T
    tight = boxes.transform(box, turn)
    assert (moved[:, :2] >= tight[:2]).all()
    assert (moved[:, :2] <= tight[2:]).all()
    assert tight[:2] == pytest.approx(moved[:, :2].min(0), abs=0.3)


def test_square_keeps_the_centre() -> None:
    assert boxes.square([0.0, 10, 4, 12], 1.5).tolist() == [-1, 8, 5, 14]


@pytest.mark.parametrize(("width", "height"), [(640, 480), (100, 333), (7, 7)])
def test_letterbox_keeps_edges(width: int, height: int) -> None:
    affine = boxes.letterbox(width, height, (128, 96))
    edges = boxes.transform([-0.5, -0.5, width - 0.5, height - 0.5], affine)
    assert (edges[:2] >= -0.5 - 1e-9).all()
    assert (edges[2:] <= np.array([127.5, 95.5]) + 1e-9).all()
    gaps = np.array([edges[0] + 0.5, 127.5 - edges[2], edges[1] + 0.5, 95.5 - edges[3]])
    assert gaps[0] == pytest.approx(gaps[1])
    assert gaps[2] == pytest.approx(gaps[3])
    assert gaps.min() == pytest.approx(0, abs=1e-9)  # one direction is filled


def test_wrong_shapes_are_told() -> None:
    with pytest.raises(InputError, match=r"\(\.\.\., 4\)"):
        boxes.area(np.zeros((3, 5)))
    with pytest.raises(InputError, match="positive"):
        boxes.letterbox(0, 5, 10)
