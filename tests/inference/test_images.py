"""Every kind of picture arrives as the right upright RGB pixels, or with one clear error."""

import cv2
import numpy as np
import pytest
from PIL import Image

from handhold.errors import FileFormatError, HandholdError, MissingFileError
from handhold.inference import images
from handhold.inference.images import read_ahead, read_photo


@pytest.fixture
def colors():
    """(40, 60, 3): four flat quarters, so that lossy formats keep their colours."""
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:20, :30] = (200, 30, 40)
    picture[:20, 30:] = (30, 180, 60)
    picture[20:, :30] = (20, 60, 220)
    picture[20:, 30:] = (240, 240, 10)
    return picture


def close(image, expected, tolerance=8):
    """Equal in the middle of each quarter."""
    assert image.dtype == np.uint8
    assert image.shape == expected.shape
    h, w = image.shape[:2]
    for y in (h // 4, 3 * h // 4):
        for x in (w // 4, 3 * w // 4):
            found, wanted = image[y, x].astype(int), expected[y, x].astype(int)
            assert np.abs(found - wanted).max() <= tolerance, (y, x, found, wanted)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "gif", "ppm"])
def test_formats(tmp_path, colors, suffix):
    path = tmp_path / f"a.{suffix}"
    options = {"quality": 95, "subsampling": 0} if suffix == "jpg" else {}
    Image.fromarray(colors).save(path, **options)
    photo = read_photo(path)
    close(photo.image, colors, 14)
    assert photo.name == path.name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, colors, orientation):
    stored = {
        1: colors,
        2: colors[:, ::-1],
        3: colors[::-1, ::-1],
        4: colors[::-1],
        5: colors.transpose(1, 0, 2),
        6: np.rot90(colors, 1),
        7: colors[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(colors, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    picture = Image.fromarray(np.ascontiguousarray(stored))
    picture.save(path, exif=exif, quality=95, subsampling=0)
    close(read_photo(path).image, colors)


def test_greyscale_and_bilevel(tmp_path, colors):
    grey = colors[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    found = read_photo(tmp_path / "grey.png").image
    assert np.array_equal(found, np.repeat(grey[..., None], 3, axis=2))
    Image.fromarray(grey > 100).save(tmp_path / "two.png")
    found = read_photo(tmp_path / "two.png").image
    assert np.array_equal(found[..., 1], np.where(grey > 100, 255, 0))


def test_transparency_lies_on_white(tmp_path, colors):
    alpha = np.full((40, 60, 1), 255, np.uint8)
    alpha[:20] = 0
    Image.fromarray(np.concatenate([colors, alpha], axis=2)).save(tmp_path / "a.png")
    found = read_photo(tmp_path / "a.png").image
    assert (found[:20] == 255).all()
    assert np.array_equal(found[20:], colors[20:])
    Image.fromarray(np.concatenate([colors[..., :1], alpha], axis=2)).save(tmp_path / "la.png")
    assert (read_photo(tmp_path / "la.png").image[:20] == 255).all()


def test_palette_with_and_without_transparency(tmp_path, colors):
    palette = Image.fromarray(colors).quantize(4)
    palette.save(tmp_path / "p.png")
    close(read_photo(tmp_path / "p.png").image, colors)
    clear = palette.getpixel((5, 5))
    palette.save(tmp_path / "t.png", transparency=clear)
    assert (read_photo(tmp_path / "t.png").image[5, 5] == 255).all()


def test_cmyk(tmp_path, colors):
    Image.fromarray(colors).convert("CMYK").save(tmp_path / "c.jpg", quality=95)
    close(read_photo(tmp_path / "c.jpg").image, colors, 20)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey(tmp_path, suffix):
    levels = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(levels).save(path)
    found = read_photo(path).image
    assert np.array_equal(found[..., 0], np.arange(256, dtype=np.uint8).reshape(16, 16))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_color(tmp_path, colors, suffix):
    path = tmp_path / f"deep.{suffix}"
    cv2.imwrite(str(path), colors[..., ::-1].astype(np.uint16) * 257)
    close(read_photo(path).image, colors, 1)


def test_floating_point_is_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(FileFormatError, match=r"f\.tiff.*floating"):
        read_photo(tmp_path / "f.tiff")


def test_what_is_no_picture(tmp_path, colors):
    (tmp_path / "text.jpg").write_text("once upon a time\n" * 50)
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(np.tile(colors, (5, 5, 1))).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.tile(colors, (5, 5, 1))).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "head.tiff").write_bytes(b"II*\x00\x08\x00\x00\x00")
    for name in ("text.jpg", "empty.png", "half.jpg", "half.png", "head.tiff"):
        with pytest.raises(FileFormatError, match=name):
            read_photo(tmp_path / name)
    with pytest.raises(MissingFileError, match=r"none\.jpg"):
        read_photo(tmp_path / "none.jpg")
    with pytest.raises(HandholdError):
        read_photo(tmp_path)


def test_pictures_above_the_stated_maximum_are_refused(tmp_path, monkeypatch, colors):
    Image.fromarray(colors).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    with pytest.raises(FileFormatError, match="60x40"):
        read_photo(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 10**6)
    monkeypatch.setattr(images, "MAX_SIDE", 50)
    with pytest.raises(FileFormatError, match="no side above"):
        read_photo(tmp_path / "a.png")


def test_pillows_own_limit_does_not_apply_and_is_left_alone(tmp_path, monkeypatch, colors):
    Image.fromarray(colors).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_photo(tmp_path / "a.png").image.shape == (40, 60, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_reading_ahead_keeps_order_and_errors(tmp_path, colors):
    paths = []
    for i in range(12):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(colors + i).save(paths[-1])
    paths[5].write_text("broken")
    items = list(read_ahead(paths, most=2, pixels=3000))
    assert [path for path, _ in items] == paths
    for i, (_, item) in enumerate(items):
        if i == 5:
            assert isinstance(item, FileFormatError)
        else:
            assert item.image[0, 0, 0] == colors[0, 0, 0] + i


def test_reading_ahead_can_be_abandoned(tmp_path, colors):
    path = tmp_path / "a.png"
    Image.fromarray(colors).save(path)
    reader = read_ahead([path] * 50, most=1)
    next(reader)
    reader.close()
