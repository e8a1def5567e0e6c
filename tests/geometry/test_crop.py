from __future__ import annotations

import cv2
import numpy as np
import pytest

from handhold.errors import InputError
from handhold.geometry import boxes, crop
from handhold.geometry.camera import project

RNG = np.random.default_rng(1)


def _dots(places: np.ndarray, width: int = 640, height: int = 480, radius: float = 6.0):
    y, x = np.mgrid[:height, :width]
    image = np.zeros((height, width, 3), np.uint8)
    for number, (u, v) in enumerate(places):
        image[..., number] = 255 * ((x - u) ** 2 + (y - v) ** 2 <= radius**2)
    return image


def _centroids(image: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    weight = image.astype(np.float64)
    total = weight.sum((0, 1))
    return (
        np.stack([(weight * x[..., None]).sum((0, 1)), (weight * y[..., None]).sum((0, 1))]).T
        / (total[:, None])
    )


@pytest.mark.parametrize("side", [60.0, 128.0, 300.0, 700.0])
@pytest.mark.parametrize("angle", [0.0, 0.7])
@pytest.mark.parametrize("mirrored", [False, True])
def test_bilinear_pixels_land_where_the_map_says(side: float, angle: float, mirrored: bool) -> None:
    """700 into 128 is the averaging path; the map is exact to a tenth of a pixel in all of them."""
    places = np.array([[310.0, 236.0], [330.0, 226.0], [322.0, 250.0]])
    affine = crop.crop_affine([320, 240], side, 128, angle)
    if mirrored:
        affine = crop.flip_affine(128) @ affine
    found = _centroids(crop.warp(_dots(places, radius=6), affine, 128))
    assert np.abs(found - boxes.apply_affine(affine, places)).max() < 0.1


def test_nearest_is_half_a_pixel_of_the_photo_away() -> None:
    """Pillow maps pixel corners: the same labels lie up to half a pixel beside the picture."""
    places = np.array([[310.0, 236.0], [330.0, 226.0], [322.0, 250.0]])
    affine = crop.crop_affine([320, 240], 300, 128)
    found = _centroids(crop.warp(_dots(places), affine, 128, "nearest"))
    offset = found - boxes.apply_affine(affine, places)
    assert offset.mean() == pytest.approx((128 / 300 - 1) / 2, abs=0.1)


def test_shrinking_averages_instead_of_skipping() -> None:
    """Fine noise must become grey, as a camera further away would see it."""
    noise = RNG.integers(0, 2, (480, 640, 3), dtype=np.uint8) * 255
    affine = crop.crop_affine([320, 240], 480, 48)
    assert crop.warp(noise, affine, 48)[2:-2, 2:-2].std() < 20
    assert crop.warp(noise, affine, 48, "nearest").std() > 100


def test_outside_is_black_and_far_away_works() -> None:
    image = np.full((100, 100, 3), 200, np.uint8)
    affine = crop.crop_affine([0, 50], 50, 32)
    found = crop.warp(image, affine, 32)
    assert (found[:, :15] == 0).all() and (found[:, 18:] == 200).all()
    for kind in ("nearest", "bilinear"):
        away = crop.crop_affine([5000, -5000], 900, 32)
        assert (crop.warp(image, away, 32, kind) == 0).all()
    mask = crop.warp(np.ones((100, 100), bool), affine, 32, "nearest")
    assert mask.dtype == bool and mask[:, 20:].all() and not mask[:, :10].any()


def test_nearest_is_an_exact_copy_at_full_size() -> None:
    image = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for kind in ("nearest", "bilinear"):
        assert (crop.warp(image, np.eye(3), 64, kind) == image).all()
        flipped = crop.warp(image, crop.flip_affine(64), 64, "bilinear")
        assert (flipped == image[:, ::-1]).all()


def test_affine_is_opencvs_with_rotation() -> None:
    centre, side, size, angle = np.array([200.0, 150.0]), 90.0, 128, 0.3
    ours = crop.crop_affine(centre, side, size, angle)
    theirs = cv2.getRotationMatrix2D((200.0, 150.0), -np.degrees(angle), size / side)
    theirs[:, 2] += size / 2 - centre
    assert ours[:2] == pytest.approx(theirs)


def test_post_rotation_camera() -> None:
    """With square pixels the HOPE rule and the exact rule are the same camera."""
    k = np.array([[600.0, 0, 310], [0, 600, 245], [0, 0, 1]])
    points = RNG.normal(0, 0.05, (21, 3)) + [0.05, 0.02, 0.6]
    centre, side, angle = np.array([350.0, 260.0]), 180.0, -0.9
    affine = crop.crop_affine(centre, side, 128, angle)
    pixels = boxes.apply_affine(affine, project(points, k))
    turned = points @ crop.turn(angle).T
    hope = crop.crop_affine_for_intrinsics(centre, side, 128, angle, k[:2, 2]) @ k
    exact = crop.turned_intrinsics(k, affine, angle)
    assert project(turned, hope) == pytest.approx(pixels, abs=1e-8)
    assert exact == pytest.approx(hope, abs=1e-9)
    k[1, 1] = 620  # only the exact rule follows oblong pixels
    pixels = boxes.apply_affine(affine, project(points, k))
    assert project(turned, crop.turned_intrinsics(k, affine, angle)) == pytest.approx(pixels)
    hope = crop.crop_affine_for_intrinsics(centre, side, 128, angle, k[:2, 2]) @ k
    assert np.abs(project(turned, hope) - pixels).max() > 0.05


def test_region_by_hand() -> None:
    centre, side = crop.hope_region(np.array([-20.0, 10, 101, 61]), 640, 480)
    assert centre.tolist() == [50, 35] and side == 101  # 0..101 x 10..61
    centre, side = crop.hope_region(np.array([-20.0, 10, 101, 61]), 640, 480, truncate=False)
    assert centre.tolist() == [50.5, 35.5]


def test_bad_regions_are_told() -> None:
    with pytest.raises(InputError, match="side positive"):
        crop.crop_affine([1, 2], 0.0, 128)
    with pytest.raises(InputError, match="finite"):
        crop.crop_affine([np.nan, 2], 3.0, 128)


def test_patch_affine_maps_corners() -> None:
    box = np.array([10.0, 20, 40, 40])
    corners = np.array([[10.0, 20], [50, 60], [30, 40]])
    assert boxes.apply_affine(crop.patch_affine(box, 128), corners) == pytest.approx(
        np.array([[0.0, 0], [128, 128], [64, 64]])
    )
    turned = boxes.apply_affine(crop.patch_affine(box, 128, rotation=0.5), corners)
    assert turned[2] == pytest.approx([64, 64])
    assert np.linalg.norm(turned[0] - turned[2]) == pytest.approx(64 * np.sqrt(2))
