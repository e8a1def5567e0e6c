"""Where the camera comes from, and that the numbers mean what they say."""

import math

import numpy as np
import pytest
from PIL import Image

from handhold.errors import InputError
from handhold.inference.camera_source import DEFAULT_FOV_DEG, camera_of, parse_intrinsics
from handhold.inference.images import Lens, Photo, read_photo


def photo(width=300, height=400, lens=None):
    return Photo(name="a.jpg", image=np.zeros((height, width, 3), np.uint8), lens=lens)


def test_given_intrinsics_are_kept():
    camera = camera_of(photo(), (500.0, 510.0, 140.0, 210.0))
    assert camera.source == "given"
    assert np.array_equal(camera.intrinsics, [[500, 0, 140], [0, 510, 210], [0, 0, 1]])
    again = camera_of(photo(), camera.intrinsics)
    assert np.array_equal(again.intrinsics, camera.intrinsics)


@pytest.mark.parametrize(("width", "height"), [(300, 400), (400, 300)])
def test_field_of_view_is_across_the_longer_side(width, height):
    camera = camera_of(photo(width, height), fov_deg=90.0)
    assert camera.source == "fov"
    assert camera.intrinsics[0, 0] == pytest.approx(200.0)
    default = camera_of(photo(width, height))
    assert default.source == "default"
    half = math.atan(200 / default.intrinsics[0, 0])
    assert math.degrees(2 * half) == pytest.approx(DEFAULT_FOV_DEG)


def test_exif_of_a_file(tmp_path):
    """50 mm on full frame: the picture's diagonal is seen as 43.27 mm at 50 mm."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 50
    path = tmp_path / "a.jpg"
    Image.new("RGB", (400, 300)).save(path, exif=exif)
    camera = camera_of(read_photo(path))
    assert camera.source == "exif"
    assert camera.intrinsics[0, 0] == pytest.approx(500 * 50 / math.hypot(36, 24))
    assert camera_of(read_photo(path), fov_deg=60.0).source == "fov"


def test_exif_of_the_sensor_counts_resizing():
    """A 4000 pixel wide sensor of 200 px/mm behind a 5 mm lens, resized to 400: f = 1000 / 10."""
    lens = Lens(focal_mm=5.0, pixels_per_mm=200.0, taken_longer_side=4000)
    camera = camera_of(photo(300, 400, lens))
    assert camera.source == "exif"
    assert camera.intrinsics[0, 0] == pytest.approx(100.0)


def test_implausible_exif_is_not_believed():
    lens = Lens(focal_35mm=9000.0)
    assert camera_of(photo(lens=lens)).source == "default"
    assert camera_of(photo(lens=Lens(focal_mm=4.0))).source == "default"


@pytest.mark.parametrize(
    "text", ["nan,500,1,1", "500,inf,1,1", "0,500,1,1", "1,2,3", "a,b,c,d", ""]
)
def test_bad_intrinsics(text):
    with pytest.raises(InputError, match=r"intrinsics"):
        parse_intrinsics(text)


def test_bad_choices():
    for fov in (0.0, 180.0, -5.0, math.nan):
        with pytest.raises(InputError, match="fov"):
            camera_of(photo(), fov_deg=fov)
    with pytest.raises(InputError, match="not both"):
        camera_of(photo(), (1.0, 1.0, 0.0, 0.0), 60.0)
    with pytest.raises(InputError, match="finite"):
        camera_of(photo(), np.array([[np.nan, 0, 1], [0, 1, 1], [0, 0, 1]]))
    with pytest.raises(InputError, match="last row"):
        camera_of(photo(), np.ones((3, 3)))
