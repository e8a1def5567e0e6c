from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from handhold.errors import InputError
from handhold.geometry import pnp
from handhold.geometry.camera import project
from handhold.objects.control_points import control_points_of_box

K = np.array([[600.0, 0, 320], [0, 605.0, 240], [0, 0, 1]])
MODEL = control_points_of_box([-0.05, -0.03, -0.1], [0.05, 0.04, 0.1])


def _pose(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    turn = Rotation.random(random_state=seed).as_matrix()
    return turn, np.array([*rng.uniform(-0.1, 0.1, 2), rng.uniform(0.5, 1.0)])


def _angle(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.degrees(Rotation.from_matrix(first.T @ second).magnitude()))


@pytest.mark.parametrize("variant", ["official", "sound"])
@pytest.mark.parametrize("seed", range(6))
def test_exact_points_give_the_pose(variant, seed: int) -> None:
    turn, shift = _pose(seed)
    found = pnp.solve_pose(project(MODEL @ turn.T + shift, K), MODEL, K, variant=variant)
    assert not found.failed
    assert _angle(found.rotation, turn) < 0.1
    assert found.translation == pytest.approx(shift, abs=1e-3)
    assert found.error_px < 0.1


def test_sound_beats_official_on_noisy_points() -> None:
    """Weights tell which points are sure; only the sound variant listens."""
    errors: dict[str, list[float]] = {"official": [], "sound": []}
    for seed in range(12):
        rng = np.random.default_rng(100 + seed)
        turn, shift = _pose(seed)
        model = np.tile(MODEL, (8, 1))
        sigma = rng.choice([1.0, 8.0], (len(model), 1), p=[0.6, 0.4])
        pixels = project(model @ turn.T + shift, K) + rng.normal(0, 1, (len(model), 2)) * sigma
        for variant, values in errors.items():
            found = pnp.solve_pose(pixels, model, K, weights=1 / sigma[:, 0] ** 2, variant=variant)  # type: ignore[arg-type]
            values.append(float(np.linalg.norm(found.translation - shift)))
    assert np.mean(errors["sound"]) < 0.5 * np.mean(errors["official"])
    assert np.mean(errors["sound"]) < 0.01


def test_failures_are_flagged() -> None:
    turn, shift = _pose(1)
    pixels = project(MODEL @ turn.T + shift, K)
    few = pnp.solve_pose(pixels[:5], MODEL[:5], K)
    assert few.failed and few.score == 0
    assert few.rotation.tolist() == np.eye(3).tolist() and few.translation.tolist() == [0, 0, 1]
    placed = pnp.solve_pose(pixels[:5], MODEL[:5], K, variant="sound", distance=0.6)
    assert placed.failed and placed.translation[2] == pytest.approx(0.6)
    assert project(placed.translation[None], K)[0] == pytest.approx(pixels[:5].mean(0))
    none = pnp.solve_pose(np.zeros((0, 2)), np.zeros((0, 3)), K, variant="sound")
    assert none.failed and none.translation.tolist() == [0, 0, 1]
    same = pnp.solve_pose(np.zeros((21, 2)), np.zeros((21, 3)), K)  # degenerate: no exception
    assert np.isfinite(same.translation).all()


def test_a_held_object_is_near_its_hand() -> None:
    turn, shift = _pose(2)
    pixels = project(MODEL @ turn.T + shift, K)
    for factor, plausible in ((0.4, False), (0.6, True), (1.8, True), (2.3, False)):
        distance = float(shift[2]) / factor
        found = pnp.solve_pose(pixels, MODEL, K, variant="sound", distance=distance)
        assert found.failed == (not plausible), factor
        assert not pnp.solve_pose(pixels, MODEL, K, distance=distance).failed  # the official


def test_selection_is_the_ten_rounds_of_the_original() -> None:
    """Against the loop as it is written down: take the surest of each point, zero it, repeat."""
    rng = np.random.default_rng(5)
    points, confidence = rng.uniform(0, 99, (40, 21, 2)), rng.random((40, 21))
    left = confidence.copy()
    expected_points, expected_index = [], []
    for _ in range(10):
        for k in range(21):
            best = int(left[:, k].argmax())
            if left[best, k] > 0.5:
                expected_points.append(points[best, k])
                expected_index.append(k)
            left[best, k] = 0
    found, index, sure = pnp.select_points(points, confidence)
    assert found == pytest.approx(np.array(expected_points))
    assert index.tolist() == expected_index
    assert (sure > 0.5).all()
    assert len(pnp.select_points(points[:3], confidence[:3])[1]) == (confidence[:3] > 0.5).sum()


def test_wrong_shapes_are_told() -> None:
    with pytest.raises(InputError, match=r"\(N, P, 2\)"):
        pnp.select_points(np.zeros((4, 21)), np.zeros((4, 21)))
    with pytest.raises(InputError, match="M points"):
        pnp.solve_pose(np.zeros((4, 2)), np.zeros((5, 3)), K)
