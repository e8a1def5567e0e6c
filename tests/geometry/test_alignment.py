from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from handhold.errors import InputError
from handhold.geometry import alignment

RNG = np.random.default_rng(2)


def _pair(*batch: int, noise: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    truth = RNG.normal(0, 0.08, (*batch, 21, 3))
    turn = Rotation.random(int(np.prod(batch)), random_state=3).as_matrix()
    turn = turn.reshape(*batch, 3, 3)
    moved = 1.7 * truth @ np.swapaxes(turn, -1, -2) + RNG.normal(size=(*batch, 1, 3))
    return moved + RNG.normal(0, noise, moved.shape), truth


def test_procrustes_against_scipy() -> None:
    prediction, truth = _pair(4, 2)
    fit = alignment.procrustes(prediction, truth)
    for i in np.ndindex(4, 2):
        p, g = prediction[i] - prediction[i].mean(0), truth[i] - truth[i].mean(0)
        p, g = p / np.linalg.norm(p), g / np.linalg.norm(g)
        rotation, scale = orthogonal_procrustes(p, g)
        expected = p @ rotation * scale * np.linalg.norm(truth[i] - truth[i].mean(0))
        assert fit.aligned[i] == pytest.approx(expected + truth[i].mean(0), abs=1e-7)
        assert fit.rotation[i] == pytest.approx(rotation.T)


def test_exact_transform_is_undone() -> None:
    prediction, truth = _pair(3, noise=0.0)
    assert alignment.procrustes(prediction, truth).aligned == pytest.approx(truth, abs=1e-6)
    found = alignment.umeyama(prediction, truth)
    assert found.apply(prediction) == pytest.approx(truth, abs=1e-9)
    assert found.scale == pytest.approx(1 / 1.7)


def test_umeyama_is_the_best_proper_similarity() -> None:
    """Nothing near it is better, by a general optimiser, also for mirrored hands."""
    prediction, truth = _pair(1)
    for shown in (prediction[0], prediction[0] * [-1, 1, 1]):
        found = alignment.umeyama(shown, truth[0])
        assert np.linalg.det(found.rotation) == pytest.approx(1)

        def cost(state: np.ndarray, shown=shown) -> float:
            moved = np.exp(state[6]) * shown @ Rotation.from_rotvec(state[:3]).as_matrix().T
            return float(((moved + state[3:6] - truth[0]) ** 2).sum())

        start = [
            *Rotation.from_matrix(found.rotation).as_rotvec(),
            *found.translation,
            np.log(found.scale),
        ]
        ours = cost(np.array(start))
        assert ours == pytest.approx(((found.apply(shown) - truth[0]) ** 2).sum())
        best = min(
            minimize(cost, np.array(start) + RNG.normal(0, 0.3, 7), method="BFGS").fun
            for _ in range(4)
        )
        assert ours <= best + 1e-9


def test_only_procrustes_reflects() -> None:
    _, truth = _pair(1)
    mirrored = truth * [-1, 1, 1]
    fit = alignment.procrustes(mirrored, truth)
    assert fit.aligned == pytest.approx(truth, abs=1e-6)
    assert np.linalg.det(fit.rotation[0]) == pytest.approx(-1)
    proper = alignment.umeyama(mirrored, truth).apply(mirrored)
    assert np.linalg.norm(proper - truth, axis=-1).mean() > 0.01


def test_collapsed_predictions() -> None:
    truth = RNG.normal(size=(21, 3))
    aligned = alignment.procrustes(np.zeros((21, 3)), truth).aligned
    assert aligned == pytest.approx(np.tile(truth.mean(0), (21, 1)))
    assert np.isnan(alignment.umeyama(np.zeros((21, 3)), truth).scale)
    moved = alignment.scale_translation(np.zeros((21, 3)), truth)
    assert moved == pytest.approx(np.tile(truth[0], (21, 1)))


def test_weights_ignore_outliers() -> None:
    prediction, truth = _pair(2, noise=0.0)
    prediction[:, 5] += 3.0
    weights = np.ones((2, 21))
    weights[:, 5] = 0
    moved = alignment.umeyama(prediction, truth, weights=weights).apply(prediction)
    keep = weights[0] > 0
    assert moved[:, keep] == pytest.approx(truth[:, keep], abs=1e-9)


def test_scale_translation_by_hand() -> None:
    prediction, truth = _pair(3)
    moved = alignment.scale_translation(prediction, truth)
    assert moved[:, 0] == pytest.approx(truth[:, 0])
    bone = np.linalg.norm(moved[:, 9] - moved[:, 0], axis=-1)
    assert bone == pytest.approx(np.linalg.norm(truth[:, 9] - truth[:, 0], axis=-1))
    a, b = prediction[:, 7] - prediction[:, 3], moved[:, 7] - moved[:, 3]
    assert np.cross(a, b) == pytest.approx(np.zeros((3, 3)), abs=1e-9)  # nothing was turned


def test_different_shapes_are_told() -> None:
    with pytest.raises(InputError, match=r"two arrays \(\.\.\., N, 3\)"):
        alignment.procrustes(np.zeros((21, 3)), np.zeros((20, 3)))
