from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from handhold.errors import InputError
from handhold.geometry import camera

RNG = np.random.default_rng(4)
K = np.array([[613.0, 0, 313], [0, 607.0, 245], [0, 0, 1]])


def test_focal_lengths_by_hand() -> None:
    # a 50 mm lens on a 36 x 24 mm frame of 3000 x 2000 pixels
    assert camera.intrinsics_from_35mm(50, 3000, 2000)[0, 0] == pytest.approx(50 / 36 * 3000)
    found = camera.intrinsics_from_fov(90, 640, 480)
    assert found.tolist() == [
        [pytest.approx(320), 0, 319.5],
        [0, pytest.approx(320), 239.5],
        [0, 0, 1],
    ]
    assert camera.intrinsics_from_fov(90, 640, 480, across="height")[0, 0] == pytest.approx(240)
    assert camera.intrinsics_from_fov(90, 480, 640)[0, 0] == pytest.approx(320)
    wide, high = camera.fov_from_intrinsics(found, 640, 480)
    assert wide == pytest.approx(90)
    assert high == pytest.approx(np.degrees(2 * np.arctan(240 / 320)))
    # 4 mm lens, 500 pixels per mm, picture shrunk to a half
    half = camera.intrinsics_from_focal_plane(4.0, 500, 2000, 1500, exif_width=4000)
    assert half[0, 0] == pytest.approx(1000)


@pytest.mark.parametrize("bad", [0.0, -3.0, 180.0, float("nan")])
def test_bad_fov_is_told(bad: float) -> None:
    with pytest.raises(InputError, match="field of view"):
        camera.intrinsics_from_fov(bad, 640, 480)


def test_changed_images_change_the_camera() -> None:
    points = RNG.normal(0, 0.1, (30, 3)) + [0, 0, 0.7]
    pixels = camera.project(points, K)
    cut = camera.project(points, camera.crop_intrinsics(K, 20, -7))
    assert cut == pytest.approx(pixels - [20, -7])
    small = camera.project(points, camera.resize_intrinsics(K, 0.5, 0.25))
    assert small == pytest.approx((pixels + 0.5) * [0.5, 0.25] - 0.5)
    mirrored = camera.project(points * [-1, 1, 1], camera.mirror_intrinsics(K, 640))
    assert mirrored == pytest.approx([639, 0] + pixels * [-1, 1])
    back = camera.backproject(pixels, points[:, 2], K)
    assert back == pytest.approx(points)


def _hands(count: int, depth=(0.25, 2.0)) -> tuple[np.ndarray, np.ndarray]:
    joints = RNG.normal(0, 0.045, (count, 21, 3))
    z = RNG.uniform(*depth, count)
    shift = np.stack([RNG.uniform(-0.3, 0.3, count) * z, RNG.uniform(-0.3, 0.3, count) * z, z], -1)
    return joints, shift


def _solve(joints, pixels, weights=None, k=K, **options) -> np.ndarray:
    matrix = torch.from_numpy(np.broadcast_to(k, (len(joints), 3, 3)).copy())
    weights = None if weights is None else torch.from_numpy(weights)
    found = camera.solve_translation(
        torch.from_numpy(joints), torch.from_numpy(pixels), weights, matrix, **options
    )
    return found.numpy()


def test_exact_translation() -> None:
    joints, shift = _hands(200)
    found = _solve(joints, camera.project(joints + shift[:, None], K))
    assert np.abs(found - shift).max() < 1e-7


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(-3, 3))
def test_any_camera_matrix(seed: int, angle: float) -> None:
    """A turned crop's camera is no upright one; the whole matrix must be used."""
    rng = np.random.default_rng(seed)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]])
    k = np.vstack([0.3 * turn, [0, 0, 1]]) @ K @ np.vstack([turn, [0, 0, 1]]).T
    joints, shift = rng.normal(0, 0.05, (1, 21, 3)), np.array([[0.1, -0.05, 0.6]])
    found = _solve(joints, camera.project(joints + shift[:, None], k), k=k)
    assert np.abs(found - shift).max() < 1e-6


def test_float32_and_gradient() -> None:
    joints, shift = _hands(8)
    pixels = torch.tensor(camera.project(joints + shift[:, None], K), dtype=torch.float32)
    moving = torch.tensor(joints, dtype=torch.float32, requires_grad=True)
    matrix = torch.tensor(K, dtype=torch.float32).expand(8, 3, 3)
    found = camera.solve_translation(moving, pixels, None, matrix)
    assert found.dtype == torch.float32
    assert (found.detach() - torch.from_numpy(shift)).abs().max() < 1e-4
    found.sum().backward()
    assert moving.grad is not None and torch.isfinite(moving.grad).all()
    # moving the whole hand by d must move the answer by -d
    assert moving.grad.sum(1) == pytest.approx(-torch.ones(8, 3).numpy(), abs=1e-3)


def test_noise_gives_the_least_squares_answer() -> None:
    joints, shift = _hands(5)
    pixels = camera.project(joints + shift[:, None], K) + RNG.normal(0, 1.5, (5, 21, 2))
    found = _solve(joints, pixels, robust_px=1e6)
    for i in range(5):
        best = least_squares(
            lambda t, i=i: (camera.project(joints[i] + t, K) - pixels[i]).ravel(), shift[i]
        )
        assert found[i] == pytest.approx(best.x, abs=1e-5)


def test_outliers_and_weights() -> None:
    joints, shift = _hands(50, (0.4, 0.8))
    pixels = camera.project(joints + shift[:, None], K) + RNG.normal(0, 0.3, (50, 21, 2))
    wrong = pixels.copy()
    wrong[:, [3, 7, 8, 20]] += RNG.normal(0, 60, (50, 4, 2))
    plain = np.abs(_solve(joints, wrong, robust_px=1e6) - shift).mean()
    robust = np.abs(_solve(joints, wrong, steps=10) - shift).mean()
    assert robust < 0.005 < plain
    weights = np.ones((50, 21))
    weights[:, [3, 7, 8, 20]] = 0
    told = _solve(joints, wrong, weights)
    assert np.abs(told - _solve(joints, pixels, weights)).max() < 1e-9
    wrong[:, 3] = np.nan  # a joint without position counts as weight 0
    assert np.isfinite(_solve(joints, wrong, weights)).all()


def test_nonsense_stays_finite_and_in_front() -> None:
    joints, shift = _hands(20)
    pixels = camera.project(joints + shift[:, None], K)
    turned = 2 * pixels.mean(1, keepdims=True) - pixels  # upside down: algebra puts it behind
    for shown in (turned, np.zeros_like(pixels), RNG.uniform(0, 640, pixels.shape)):
        found = _solve(joints, shown)
        assert np.isfinite(found).all()
        assert ((joints + found[:, None])[..., 2] >= 0.05 - 1e-9).all()
