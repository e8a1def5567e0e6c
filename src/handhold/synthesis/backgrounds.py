"""What stands behind the hand: a photo of the user's folder, or a made-up wall, room or blur.

Made-up backgrounds carry skin-coloured shapes on purpose: a detector that has never seen a face or
a wooden table behind a hand takes them for hands.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from handhold.errors import FileFormatError, MissingFileError

Image = NDArray[np.uint8]
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
SKIN_HUES = ((241, 205, 180), (224, 178, 142), (198, 140, 100), (150, 98, 66), (96, 60, 42))


@lru_cache(maxsize=8)
def list_photos(folder: Path) -> tuple[Path, ...]:
    """The image files of a folder, sorted. Raises MissingFileError when there is none."""
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise MissingFileError(f"{folder}: expected a folder of background photos, found none")
    return tuple(found)


@lru_cache(maxsize=256)
def _read(path: Path) -> Image:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FileFormatError(f"{path}: not an image that can be read")
    return np.ascontiguousarray(image[..., ::-1]).astype(np.uint8)


def photo_background(
    rng: np.random.Generator, width: int, height: int, folder: Path, *, keep: tuple[float, float]
) -> Image:
    """A random window of a random photo of `folder`, perhaps flipped and blurred.

    keep: only the files between these two fractions of a fixed shuffled order are used, so that
    training and held-out scenes can have different photos.
    """
    photos = list_photos(folder)
    order = np.random.default_rng(0).permutation(len(photos))
    first = int(keep[0] * len(photos))
    chosen = order[first : max(first + 1, int(keep[1] * len(photos)))]
    image = _read(photos[int(rng.choice(chosen))])
    scale = max(width / image.shape[1], height / image.shape[0])
    zoom = scale * rng.uniform(1.0, max(1.05, min(2.5, 2.0 / scale)))
    size = (int(np.ceil(image.shape[1] * zoom)), int(np.ceil(image.shape[0] * zoom)))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)
    x = int(rng.integers(0, image.shape[1] - width + 1))
    y = int(rng.integers(0, image.shape[0] - height + 1))
    image = image[y : y + height, x : x + width]
    if rng.random() < 0.5:
        image = image[:, ::-1]
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.5, 4.0)))
    gain = rng.uniform(0.6, 1.25)
    return np.clip(image.astype(np.float32) * gain, 0, 255).astype(np.uint8)


def made_up_background(rng: np.random.Generator, width: int, height: int) -> Image:
    """A procedural background: plain wall, gradient, texture, clutter or room, sometimes people."""
    kind = rng.choice(5, p=[0.2, 0.15, 0.15, 0.25, 0.25])
    image = _gradient(rng, width, height)
    if kind == 0:
        image += _noise(rng, width, height, 3) * rng.uniform(1, 6)
    elif kind == 2:
        image += _texture(rng, width, height)
    elif kind == 3:
        _clutter(rng, image, int(rng.integers(4, 30)))
    elif kind == 4:
        _room(rng, image)
    if rng.random() < 0.45:
        _people(rng, image)
    if rng.random() < 0.6:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 4.0)))
    image += _noise(rng, width, height, int(rng.integers(4, 40))) * rng.uniform(0, 10)
    return np.clip(image, 0, 255).astype(np.uint8)


def _colour(rng: np.random.Generator) -> NDArray[Any]:
    """Any colour, mostly greyish as in rooms, sometimes skin or wood."""
    if rng.random() < 0.25:
        base = np.array(SKIN_HUES[rng.integers(len(SKIN_HUES))]) * rng.uniform(0.7, 1.1)
        return (base + rng.normal(0, 8, 3)).astype(np.float32)
    grey = rng.uniform(20, 245)
    return np.clip(grey + rng.normal(0, rng.uniform(4, 60), 3), 0, 255).astype(np.float32)


def _gradient(rng: np.random.Generator, width: int, height: int) -> NDArray[Any]:
    corners = np.stack([_colour(rng) for _ in range(4)])
    corners = corners.mean(0) + (corners - corners.mean(0)) * rng.uniform(0, 0.6)
    corners = corners.reshape(2, 2, 3).astype(np.float32)
    return cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)


def _noise(rng: np.random.Generator, width: int, height: int, cell: int) -> NDArray[Any]:
    """Smooth grey noise (H, W, 1) of unit spread with features of about `cell` pixels."""
    small = rng.standard_normal((height // cell + 3, width // cell + 3)).astype(np.float32)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]


def _texture(rng: np.random.Generator, width: int, height: int) -> NDArray[Any]:
    """Stripes, checks, wood grain or fabric, added to the base colour."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 60)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    along = (np.cos(angle) * x + np.sin(angle) * y) / period
    across = (-np.sin(angle) * x + np.cos(angle) * y) / period
    warp = _noise(rng, width, height, 24)[..., 0] * rng.uniform(0, 0.6)
    wave = np.sin(2 * np.pi * (along + warp))
    style = rng.integers(3)
    if style == 0:
        wave = np.sign(wave) * np.sign(np.sin(2 * np.pi * across))
    elif style == 1:
        wave = np.abs(wave) * 2 - 1
    tint = (_colour(rng) - 128) * rng.uniform(0.05, 0.4)
    return (wave[..., None] * tint).astype(np.float32)


def _clutter(rng: np.random.Generator, image: NDArray[Any], count: int) -> None:
    """Flat and shaded polygons, ellipses and strokes of every size, drawn in place."""
    height, width = image.shape[:2]
    for _ in range(count):
        centre = rng.uniform(0, 1, 2) * (width, height)
        size = rng.uniform(0.03, 0.45) * min(width, height)
        colour = tuple(float(c) for c in _colour(rng))
        style = rng.integers(4)
        if style == 0:
            corners = rng.uniform(-1, 1, (int(rng.integers(3, 7)), 2)) * size + centre
            hull = cv2.convexHull(corners.astype(np.float32)).astype(np.int32)
            cv2.fillConvexPoly(image, hull, colour, cv2.LINE_AA)
        elif style == 1:
            axes = (int(size), int(size * rng.uniform(0.2, 1)) + 1)
            place = (int(centre[0]), int(centre[1]))
            cv2.ellipse(image, place, axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)
        elif style == 2:
            box = cv2.boxPoints(
                ((*centre,), (size, size * rng.uniform(0.2, 3)), rng.uniform(0, 90))
            )
            cv2.fillConvexPoly(image, box.astype(np.int32), colour, cv2.LINE_AA)
        else:
            turns = np.cumsum(rng.normal(0, 0.5, 12)) + rng.uniform(0, 6.3)
            steps = np.stack([np.cos(turns), np.sin(turns)], 1) * size / 4
            line = (centre + np.cumsum(steps, 0)).astype(np.int32)
            thick = max(1, int(size * rng.uniform(0.02, 0.2)))
            cv2.polylines(image, [line], False, colour, thick, cv2.LINE_AA)


def _room(rng: np.random.Generator, image: NDArray[Any]) -> None:
    """A floor or table below a wall, with a few upright boxes (shelves, screens, windows)."""
    height, width = image.shape[:2]
    line = int(height * rng.uniform(0.4, 0.9))
    tilt = int(height * rng.normal(0, 0.05))
    floor = np.array([[0, line - tilt], [width, line + tilt], [width, height], [0, height]])
    cv2.fillConvexPoly(image, floor.astype(np.int32), tuple(map(float, _colour(rng))), cv2.LINE_AA)
    for _ in range(int(rng.integers(1, 9))):
        w, h = rng.uniform(0.05, 0.5) * width, rng.uniform(0.1, 0.6) * height
        x, y = rng.uniform(-0.2, 1) * width, line - h + rng.uniform(-0.5, 0.2) * h
        corner, other = (int(x), int(y)), (int(x + w), int(y + h))
        cv2.rectangle(image, corner, other, tuple(map(float, _colour(rng))), -1)
        if rng.random() < 0.5:
            edge = max(1, int(w / 30))
            cv2.rectangle(image, corner, other, tuple(map(float, _colour(rng))), edge)


def _people(rng: np.random.Generator, image: NDArray[Any]) -> None:
    """Heads with hair, eyes and shoulders in skin colours: things that are no hands."""
    for _ in range(int(rng.integers(1, 3))):
        _person(rng, image)


def _person(rng: np.random.Generator, image: NDArray[Any]) -> None:
    height, width = image.shape[:2]
    skin = np.array(SKIN_HUES[rng.integers(len(SKIN_HUES))]) * rng.uniform(0.6, 1.1)
    size = rng.uniform(0.06, 0.3) * height
    x, y = rng.uniform(0.1, 0.9) * width, rng.uniform(0.15, 0.7) * height
    shirt, hair = tuple(map(float, _colour(rng))), tuple(map(float, _colour(rng) * 0.4))
    tone, shade = tuple(map(float, skin)), tuple(map(float, skin * 0.85))

    def ellipse(dx: float, dy: float, rx: float, ry: float, colour: tuple[float, ...]) -> None:
        centre = (int(x + dx * size), int(y + dy * size))
        axes = (max(1, int(rx * size)), max(1, int(ry * size)))
        cv2.ellipse(image, centre, axes, 0, 0, 360, colour, -1, cv2.LINE_AA)

    ellipse(0, 2.6, 2.0, 1.5, shirt)
    ellipse(0, 1.1, 0.4, 0.6, shade)
    ellipse(0, -0.2, 0.85, 1.05, hair)
    ellipse(0, 0, 0.72, 0.95, tone)
    for eye in (-0.3, 0.3):
        ellipse(eye, -0.1, 0.12, 0.07, (235.0, 235.0, 235.0))
        ellipse(eye, -0.1, 0.06, 0.07, (40.0, 30.0, 25.0))
    ellipse(0, 0.22, 0.1, 0.14, shade)
    ellipse(0, 0.5, 0.22, 0.06, (150.0, 80.0, 80.0))
