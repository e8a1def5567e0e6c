"""A turned camera's image is a homography of the photo: checked against projected points."""

from __future__ import annotations

import numpy as np
import pytest

from handhold.errors import InputError
from handhold.geometry import boxes, crop
from handhold.geometry.camera import project
from handhold.geometry.virtual_camera import look_at, virtual_camera

INTRINSICS = np.array([[580.0, 0, 330], [0, 610, 250], [0, 0, 1]])
CASES = [((100.0, 80.0), (60.0, 90.0)), ((600.0, 430.0), (120.0, 70.0)), ((320.0, 20.0), (50, 50))]


@pytest.mark.parametrize("direction", [(0, 0, 1), (0.4, -0.3, 1), (-2, 0.1, 0.5)])
def test_look_at_has_no_roll(direction: tuple[float, ...]) -> None:
    turn = look_at(direction)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)
    length = float(np.linalg.norm(direction))
    np.testing.assert_allclose(turn @ direction, (0, 0, length), atol=1e-12)
    assert turn[0, 1] == 0  # the new x axis lies in the old horizontal plane
    assert turn[1, 1] > 0  # and down stays down


@pytest.mark.parametrize(("centre", "sides"), CASES)
@pytest.mark.parametrize("rotation", [0.0, 0.7, -2.5])
def test_points_of_any_depth_fall_where_the_homography_says(
    centre: tuple[float, float], sides: tuple[float, float], rotation: float
) -> None:
    eye = virtual_camera(centre, sides, 224, INTRINSICS, rotation)
    draw = np.random.default_rng(0)
    pixels = np.asarray(centre) + draw.uniform(-1, 1, (50, 2)) * sides
    rays = np.concatenate([pixels, np.ones((50, 1))], 1) @ np.linalg.inv(INTRINSICS).T
    points = rays * draw.uniform(0.2, 3, (50, 1))
    np.testing.assert_allclose(project(points, INTRINSICS), pixels, atol=1e-9)
    seen = project(points @ eye.rotation.T, eye.intrinsics)
    np.testing.assert_allclose(boxes.apply_map(eye.homography, pixels), seen, atol=1e-8)
    middle = boxes.apply_map(eye.homography, np.asarray(centre)[None])[0]
    np.testing.assert_allclose(middle, (112, 112), atol=1e-9)
    # a roll turns the image about its middle
    still = virtual_camera(centre, sides, 224, INTRINSICS)
    before = boxes.apply_map(still.homography, pixels) - 112
    np.testing.assert_allclose(seen - 112, before @ crop.turn(rotation)[:2, :2].T, atol=1e-8)


@pytest.mark.parametrize(("centre", "sides"), CASES)
def test_larger_side_fills_the_crop(
    centre: tuple[float, float], sides: tuple[float, float]
) -> None:
    eye = virtual_camera(centre, sides, 224, INTRINSICS)
    (x, y), (w, h) = centre, sides
    ends = np.array([[x - w / 2, y], [x + w / 2, y], [x, y - h / 2], [x, y + h / 2]])
    moved = boxes.apply_map(eye.homography, ends)
    lengths = [np.linalg.norm(moved[1] - moved[0]), np.linalg.norm(moved[3] - moved[2])]
    assert max(lengths) == pytest.approx(224)
    areas = [np.ptp(moved, axis=0).prod(), np.ptp(ends, axis=0).prod()]
    assert eye.scale**2 == pytest.approx(areas[0] / areas[1], rel=0.02)
    assert eye.intrinsics[0, 0] == eye.intrinsics[1, 1]


def test_on_the_axis_it_is_the_affine_crop() -> None:
    square = np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]])
    eye = virtual_camera((320, 240), (80, 100), 128, square, 0.4)
    expected = crop.crop_affine((320.0, 240.0), 100.0, 128, 0.4)
    np.testing.assert_allclose(eye.homography / eye.homography[2, 2], expected, atol=1e-9)
    np.testing.assert_allclose(eye.rotation, crop.turn(0.4), atol=1e-12)
    assert eye.scale == pytest.approx(1.28)


def test_pixels_follow_the_homography() -> None:
    """A photo whose colours say where they are; also where the crop has less resolution."""
    y, x = np.mgrid[:480, :640]
    photo = np.stack([x / 3, y / 2, np.zeros_like(x)], -1).astype(np.float32)
    for sides, size in (((90.0, 120.0), 96), ((300.0, 260.0), 64)):
        eye = virtual_camera((380.0, 230.0), sides, size, INTRINSICS, 0.3)
        seen = crop.warp(photo, eye.homography, size)
        grid = np.stack(np.meshgrid(*[np.arange(12, size - 12)] * 2), -1).astype(float)
        where = boxes.apply_map(np.linalg.inv(eye.homography), grid.reshape(-1, 2))
        found = seen[12 : size - 12, 12 : size - 12, :2].reshape(-1, 2) * (3, 2)
        np.testing.assert_allclose(found, where, atol=0.15)
    with pytest.raises(InputError, match="nearest, found a homography"):
        crop.warp(photo, eye.homography, 64, "nearest")


def test_what_no_camera_sees() -> None:
    with pytest.raises(InputError, match="no camera without roll"):
        look_at((0, 2, 0))
    with pytest.raises(InputError, match="sides must be finite"):
        virtual_camera((0, 0), (10, 0), 64, INTRINSICS)
    with pytest.raises(InputError, match="behind the camera"):
        virtual_camera((3000, 250), (9000, 10), 64, INTRINSICS)
