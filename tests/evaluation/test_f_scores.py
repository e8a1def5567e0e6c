"""The quick F-scores against all pairs of distances in float64."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from handhold.evaluation.metrics import f_scores as module
from handhold.evaluation.metrics.f_scores import f_scores
from handhold.hand.model import HandModel


def plain(ours: np.ndarray, theirs: np.ndarray, limits: tuple[float, ...]) -> np.ndarray:
    """The definition, one pair of meshes at a time."""
    rows = []
    for p, g in zip(ours, theirs, strict=True):
        apart = cdist(g, p)
        for limit in limits:
            precision, recall = (apart.min(1) < limit).mean(), (apart.min(0) < limit).mean()
            total = precision + recall
            rows.append([2 * precision * recall / total if total else 0.0, precision, recall])
    return np.reshape(rows, (len(ours), len(limits), 3))


@pytest.fixture(scope="module")
def meshes() -> tuple[np.ndarray, np.ndarray]:
    """Posed hands, and hands that are off by fractions of a millimetre up to metres."""
    import torch

    draw = np.random.default_rng(3)
    parts = [0.3 * draw.standard_normal((48, 16, 3)), 0.5 * draw.standard_normal((48, 10))]
    parts.append(draw.standard_normal((48, 3)) * 0.2 + [0, 0, 0.7])
    posed = HandModel.free()(*(torch.from_numpy(part) for part in parts))
    theirs = posed.vertices.double().numpy()
    size = np.geomspace(1e-4, 0.05, 48)[:, None, None]
    ours = theirs + size * draw.standard_normal(theirs.shape)
    ours[::7] += draw.standard_normal((7, 1, 3)) * 0.5
    return ours, theirs


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equal_to_the_definition(meshes: tuple[np.ndarray, np.ndarray], dtype: type) -> None:
    ours, theirs = (part.astype(dtype) for part in meshes)
    limits = (0.003, 0.005, 0.015)
    expected = plain(ours.astype(float), theirs.astype(float), limits)
    assert 0.05 < expected[..., 0].mean() < 0.95
    np.testing.assert_array_equal(f_scores(ours, theirs, limits), expected)
    np.testing.assert_array_equal(f_scores(ours, theirs, limits, workers=3), expected)


def test_distances_next_to_a_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points on a coarse grid, each moved by 5 mm more or less a nanometre: float32 cannot tell."""
    ends = [np.arange(9) * 0.05, np.arange(9) * 0.05, np.arange(9) * 0.05]
    grid = np.stack(np.meshgrid(*ends), -1).reshape(1, -1, 3) + 0.4321
    draw = np.random.default_rng(0)
    way = draw.standard_normal(grid.shape)
    way /= np.linalg.norm(way, axis=-1, keepdims=True)
    off = np.where(draw.random(grid.shape[:2]) < 0.3, 0.005 - 1e-9, 0.005 + 1e-9)
    moved = grid + way * off[..., None]
    expected = plain(moved, grid, (0.005,))
    assert expected[0, 0, 0] == pytest.approx((off < 0.005).mean())
    np.testing.assert_array_equal(f_scores(moved, grid, (0.005,)), expected)
    monkeypatch.setattr(module, "ROUNDING", 0.0)  # the second look is what makes it exact
    assert not np.array_equal(f_scores(moved, grid, (0.005,)), expected)


def test_a_threshold_itself_is_too_far() -> None:
    """Strictly nearer counts: a quarter is exact in binary."""
    truth = np.array([[[0.0, 0, 0], [8.0, 0, 0]]])
    assert f_scores(truth + [0.25, 0, 0], truth, (0.25,))[0, 0].tolist() == [0, 0, 0]
    assert f_scores(truth + [0.25, 0, 0], truth, (0.2500001,))[0, 0].tolist() == [1, 1, 1]


def test_other_topologies_units_and_damage(meshes: tuple[np.ndarray, np.ndarray]) -> None:
    ours, theirs = meshes
    fewer = ours[:5, ::3]
    limits = (0.005, 0.015)
    np.testing.assert_array_equal(f_scores(fewer, theirs[:5]), plain(fewer, theirs[:5], limits))
    large = 1000 * ours[:3], 1000 * theirs[:3]  # millimetres by mistake: slow, still right
    np.testing.assert_array_equal(f_scores(*large), plain(*large, limits))
    damaged = ours[:2].copy()
    damaged[0, 5, 1] = np.nan
    assert (f_scores(damaged, theirs[:2])[0] == 0).all()
    assert f_scores(damaged, theirs[:2])[1, 1, 0] > 0
    assert (f_scores(0 * ours[:2], theirs[:2]) == 0).all()
    assert f_scores(ours[:0], theirs[:0]).shape == (0, 2, 3)
