"""The door for photos: any file Pillow or OpenCV reads becomes (H, W, 3) uint8 RGB, upright."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from handhold.errors import FileFormatError, HandholdError, InputError, MissingFileError

MAX_PIXELS = 200_000_000  # about 2 GB while it is decoded
MAX_SIDE = 32_000  # OpenCV cannot warp larger ones
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".jp2")
    + (".ppm", ".pgm", ".pnm")
)
_EXIF_UNITS_MM = {2: 25.4, 3: 10.0, 4: 1.0}  # FocalPlaneResolutionUnit: inch, cm, mm
_opening = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Lens:
    """What EXIF says. focal_35mm: FocalLengthIn35mmFilm. focal_mm, pixels_per_mm: focal length and
    resolution of the sensor. taken_width: pixels across the photo when it was taken, along
    the sensor's longer side.
    """

    focal_35mm: float | None = None
    focal_mm: float | None = None
    pixels_per_mm: float | None = None
    taken_longer_side: int | None = None


@dataclass(frozen=True, kw_only=True)
class Photo:
    """An upright picture. image: (H, W, 3) uint8 RGB. name: for messages and results."""

    name: str
    image: NDArray[np.uint8]
    lens: Lens | None = None


def read_photo(path: str | Path) -> Photo:
    """Read a photo: EXIF orientation applied, greyscale, palette, CMYK and others turned to RGB,
    transparency laid over white, 16 bits divided by 257. Embedded colour profiles are not applied;
    of animations the first frame is read.

    Raises MissingFileError, or FileFormatError for what is no image, truncated, larger than
    MAX_PIXELS or MAX_SIDE, or of floating-point numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file")
    try:
        with _open(path) as picture:
            _check_size(path, picture.width, picture.height)
            picture.load()
            lens = _lens(picture)
            picture = ImageOps.exif_transpose(picture)
            image = _rgb(picture, path)
    except UnidentifiedImageError:
        image, lens = _read_with_opencv(path), None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        if isinstance(error, HandholdError):
            raise
        raise FileFormatError(f"{path}: not a complete, readable image ({error})") from error
    return Photo(name=path.name, image=image, lens=lens)


def as_photo(image: str | Path | NDArray[np.uint8], name: str | None = None) -> Photo:
    """A path, or an array (H, W, 3) uint8 RGB. Raises InputError for other arrays."""
    if isinstance(image, (str, Path)):
        return read_photo(image)
    found = getattr(image, "shape", None), getattr(image, "dtype", type(image).__name__)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
        raise InputError(f"image: expected a path or (H, W, 3) uint8 RGB, found {found}")
    if image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"image: expected a path or (H, W, 3) uint8 RGB, found {found}")
    name = name or "array"
    _check_size(name, image.shape[1], image.shape[0])
    return Photo(name=name, image=np.ascontiguousarray(image))


def read_ahead(
    paths: Sequence[Path], *, most: int = 32, pixels: int = 60_000_000
) -> Iterator[tuple[Path, Photo | HandholdError]]:
    """Read photos in a thread of its own, in order, at most so many photos and pixels ahead (but at
    least one). What cannot be read comes as its error.
    """
    ready: deque[tuple[Path, Photo | HandholdError]] = deque()
    changed, state = threading.Condition(), {"pixels": 0, "stop": False}

    def size(item: Photo | HandholdError) -> int:
        return item.image.shape[0] * item.image.shape[1] if isinstance(item, Photo) else 0

    def work() -> None:
        for path in paths:
            try:
                item: Photo | HandholdError = read_photo(path)
            except HandholdError as error:
                item = error
            except MemoryError:
                item = FileFormatError(f"{path}: too large for this machine's memory")
            with changed:
                changed.wait_for(
                    lambda: (
                        state["stop"]
                        or not ready
                        or (len(ready) < most and state["pixels"] < pixels)
                    )
                )
                if state["stop"]:
                    return
                ready.append((path, item))
                state["pixels"] += size(item)
                changed.notify_all()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        for _ in range(len(paths)):
            with changed:
                changed.wait_for(lambda: ready or not thread.is_alive())
                if not ready:
                    return
                path, item = ready.popleft()
                state["pixels"] -= size(item)
                changed.notify_all()
            yield path, item
    finally:
        with changed:
            state["stop"] = True
            changed.notify_all()
        thread.join()


def _check_size(name: object, width: int, height: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise FileFormatError(
            f"{name}: {width}x{height} pixels, expected at most {MAX_PIXELS // 10**6} million "
            f"and no side above {MAX_SIDE}"
        )


def _open(path: Path) -> Image.Image:
    """Open without Pillow's own size limit, which is lower than ours (`_check_size` follows)."""
    with _opening:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _rgb(picture: Image.Image, path: Path) -> NDArray[np.uint8]:
    mode = picture.mode
    if mode.startswith("I;16") or mode == "I":
        levels = np.asarray(picture).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise FileFormatError(f"{path}: expected 8 or 16 bits a channel, found 32-bit integers")
        grey = ((levels + 128) // 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if mode == "F":
        raise FileFormatError(
            f"{path}: expected 8 or 16 bits a channel, found floating-point numbers"
        )
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    return np.array(picture, dtype=np.uint8)


def _read_with_opencv(path: Path) -> NDArray[np.uint8]:
    """Formats that only OpenCV knows (16-bit colour TIFF, EXR is not among them)."""
    if not cv2.haveImageReader(str(path)):
        raise FileFormatError(f"{path}: not an image that can be read")
    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise FileFormatError(f"{path}: not a readable image ({error.err})") from error
    if image is None:
        raise FileFormatError(f"{path}: not a complete, readable image")
    _check_size(path, image.shape[1], image.shape[0])
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _lens(picture: Image.Image) -> Lens | None:
    """The numbers of EXIF's camera block that are usable; None without any."""
    try:
        tags = picture.getexif().get_ifd(ExifTags.IFD.Exif)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, AttributeError):
        return None  # damaged EXIF is no reason to refuse the picture

    def number(tag: ExifTags.Base) -> float | None:
        value: Any = tags.get(tag)
        try:
            value = float(value)
        except (TypeError, ValueError, ZeroDivisionError):
            return None
        return value if np.isfinite(value) and value > 0 else None

    resolution = number(ExifTags.Base.FocalPlaneXResolution)
    unit = _EXIF_UNITS_MM.get(int(number(ExifTags.Base.FocalPlaneResolutionUnit) or 2))
    sides = [number(ExifTags.Base.ExifImageWidth), number(ExifTags.Base.ExifImageHeight)]
    lens = Lens(
        focal_35mm=number(ExifTags.Base.FocalLengthIn35mmFilm),
        focal_mm=number(ExifTags.Base.FocalLength),
        pixels_per_mm=resolution / unit if resolution and unit else None,
        taken_longer_side=int(max(s for s in sides if s)) if any(sides) else None,
    )
    return lens if lens != Lens() else None
