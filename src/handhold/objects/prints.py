"""Pictures for the surfaces of procedural objects: labels, metal, wood, speckles, plain plastic."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Colour: TypeAlias = tuple[int, int, int]
Picture: TypeAlias = NDArray[np.uint8]

RED, BLUE, WHITE, BLACK = (190, 30, 35), (25, 50, 160), (235, 235, 230), (25, 25, 28)
YELLOW, ORANGE, GREY, GREEN = (240, 190, 20), (225, 85, 20), (150, 152, 155), (120, 135, 60)
BROWN = (70, 30, 22)

SYLLABLES = ("CRUN", "CHO", "MEL", "LO", "TA", "RI", "ZA", "PO", "NU", "VI", "SO", "BE", "KA", "DO")
FONTS = (
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
)


def vary(colour: Colour, rng: np.random.Generator, amount: float = 1.0) -> Colour:
    """A colour near the given one; one time in eight, any hue."""
    h, s, v = colorsys.rgb_to_hsv(*(c / 255.0 for c in colour))
    h = rng.uniform() if rng.uniform() < 0.125 * amount else h + 0.02 * amount * rng.normal()
    s = float(np.clip(s * (1 + 0.15 * amount * rng.normal()), 0, 1))
    v = float(np.clip(v * (1 + 0.15 * amount * rng.normal()), 0.03, 1))
    r, g, b = colorsys.hsv_to_rgb(h % 1.0, s, v)
    return int(255 * r), int(255 * g), int(255 * b)


def random_colour(rng: np.random.Generator) -> Colour:
    """Often grey, white, black or brown as things are; else any hue."""
    kind = rng.uniform()
    if kind < 0.3:
        grey = int(rng.choice([25, 50, 120, 190, 235])) + int(rng.integers(-15, 16))
        return grey, grey, grey
    s, v = rng.uniform(0.25, 1.0), rng.uniform(0.25, 1.0)
    r, g, b = colorsys.hsv_to_rgb(rng.uniform(), s, v)
    return int(255 * r), int(255 * g), int(255 * b)


def word(rng: np.random.Generator, syllables: int = 2) -> str:
    """An invented brand."""
    return "".join(str(s) for s in rng.choice(SYLLABLES, size=syllables, replace=False))


def plain(size: tuple[int, int], colour: Colour, rng: np.random.Generator) -> Picture:
    """(height, width): one colour with faint unevenness and a few scratches."""
    height, width = size
    low = rng.normal(size=(max(height // 16, 2), max(width // 16, 2))).astype(np.float32)
    uneven = cv2.resize(low, (width, height), interpolation=cv2.INTER_CUBIC)
    fine = rng.normal(size=(height, width)).astype(np.float32)
    shade = 1.0 + 0.035 * uneven + 0.02 * fine
    picture = (np.asarray(colour, dtype=np.float32) * shade[..., None]).clip(0, 255)
    return picture.astype(np.uint8)


def speckled(
    size: tuple[int, int], colour: Colour, dots: Colour, rng: np.random.Generator
) -> Picture:
    """Enamel: fine dots of another colour."""
    picture = plain(size, colour, rng)
    mask = rng.uniform(size=size) < 0.04
    picture[mask] = dots
    return picture


def metal(size: tuple[int, int], colour: Colour, rng: np.random.Generator) -> Picture:
    """The end of a can: rings around the middle and a ring pull."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    radius = np.hypot((x + 0.5) / width - 0.5, (y + 0.5) / height - 0.5) * 2.0
    shade = 0.85 + 0.12 * np.sin(radius * rng.uniform(25, 45)) * (radius > 0.6)
    shade += 0.05 * rng.normal(size=size)
    picture = (np.asarray(colour, dtype=np.float32) * shade[..., None]).clip(0, 255)
    picture = picture.astype(np.uint8)
    if rng.uniform() < 0.6:
        dark = tuple(int(c * 0.55) for c in colour)
        middle = (width // 2, int(height * 0.6))
        cv2.ellipse(picture, middle, (width // 9, height // 5), 0, 0, 360, dark, 2)
    return picture


def wood(size: tuple[int, int], rng: np.random.Generator, *, end_grain: bool = False) -> Picture:
    """Wood grain along v, or the rings of an end."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    wave = cv2.resize(rng.normal(size=(5, 5)).astype(np.float32), (width, height))
    if end_grain:
        field = np.hypot(x - width * rng.uniform(-0.5, 1.5), y + height * rng.uniform(0.1, 0.6))
    else:
        field = x * rng.uniform(1.0, 2.0)
    grain = np.sin(field * 0.55 + 2.2 * wave) * 0.5 + np.sin(field * 1.7 + 4 * wave) * 0.2
    fibre = rng.normal(size=(max(height // 12, 1), width)).astype(np.float32)
    fibre = cv2.resize(fibre, (width, height), interpolation=cv2.INTER_LINEAR)
    base = np.asarray(vary((205, 165, 115), rng, 0.6), dtype=np.float32)
    shade = 1.0 + 0.10 * grain + 0.04 * fibre
    return (base * shade[..., None]).clip(0, 255).astype(np.uint8)


def text(
    picture: Picture,
    line: str,
    centre: tuple[float, float],
    width: float,
    colour: Colour,
    rng: np.random.Generator,
    *,
    outline: Colour | None = None,
) -> None:
    """Write a line so that it is `width` wide (fractions of the picture) about `centre` (x, y)."""
    font = int(rng.choice(FONTS))
    full = picture.shape[1] * width
    (w, _), _ = cv2.getTextSize(line, font, 1.0, 1)
    scale = min(full / max(w, 1), picture.shape[0] * 0.28 / 22.0)
    weight = 1 if scale < 0.55 else 2
    (w, h), _ = cv2.getTextSize(line, font, scale, weight)
    place = (int(picture.shape[1] * centre[0] - w / 2), int(picture.shape[0] * centre[1] + h / 2))
    if outline is not None:
        cv2.putText(picture, line, place, font, scale, outline, weight + 2, cv2.LINE_AA)
    cv2.putText(picture, line, place, font, scale, colour, weight, cv2.LINE_AA)


def barcode(picture: Picture, box: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    """A bar code in pixels (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = box
    if x1 - x0 < 4 or y1 - y0 < 3:
        return
    picture[y0:y1, x0:x1] = 245
    bars = rng.uniform(size=x1 - x0 - 2) < 0.5
    picture[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1][:, bars] = 15


def small_print(
    picture: Picture, box: tuple[int, int, int, int], colour: Colour, rng: np.random.Generator
) -> None:
    """Lines too small to read."""
    x0, y0, x1, y1 = box
    for y in range(y0, y1, 3):
        x = x0
        while x < x1 - 2:
            step = int(rng.integers(2, 8))
            cv2.line(picture, (x, y), (min(x + step, x1), y), colour, 1)
            x += step + int(rng.integers(1, 4))


def label(
    size: tuple[int, int],
    base: Colour,
    accents: Sequence[Colour],
    rng: np.random.Generator,
    *,
    title: str | None = None,
    front: bool = True,
    repeat: int = 1,
) -> Picture:
    """A printed face: background, bands, a logo with its title, a picture, small print, bar code.

    front: the show side; otherwise mostly small print. repeat: the print again around a can.
    """
    height, total = size
    width = max(total // repeat, 8)
    one = plain((height, width), base, rng)
    ink = accents[0]
    for _ in range(int(rng.integers(1, 3))):
        y = int(rng.uniform(0, height))
        band = accents[int(rng.integers(len(accents)))]
        thick = int(rng.uniform(0.04, 0.3) * height)
        slope = int(rng.normal() * 0.08 * height)
        corners = [(0, y), (width, y + slope), (width, y + slope + thick), (0, y + thick)]
        cv2.fillPoly(one, [np.asarray(corners, dtype=np.int32)], band)
    if front:
        if rng.uniform() < 0.75:
            for _ in range(int(rng.integers(1, 7))):  # the picture: blobs of the content
                centre = (int(rng.uniform(0.1, 0.9) * width), int(rng.uniform(0.5, 0.9) * height))
                axes = (int(rng.uniform(0.06, 0.2) * width), int(rng.uniform(0.04, 0.12) * height))
                tone = vary(accents[int(rng.integers(len(accents)))], rng)
                cv2.ellipse(one, centre, axes, rng.uniform(0, 180), 0, 360, tone, -1, cv2.LINE_AA)
                edge = tuple(int(c * 0.7) for c in tone)
                cv2.ellipse(one, centre, axes, rng.uniform(0, 180), 0, 360, edge, 1, cv2.LINE_AA)
        if rng.uniform() < 0.6:
            centre = (width // 2, int(0.28 * height))
            axes = (int(0.45 * width), int(0.16 * height))
            cv2.ellipse(one, centre, axes, 0, 0, 360, accents[-1], -1, cv2.LINE_AA)
        line = title or word(rng)
        text(one, line, (0.5, 0.28), rng.uniform(0.65, 0.92), ink, rng, outline=base)
        second = word(rng, 3)
        text(one, second, (0.5, 0.48), rng.uniform(0.4, 0.7), ink, rng)
    else:
        margin = max(width // 10, 2)
        half = int(height * rng.uniform(0.4, 0.7))
        small_print(one, (margin, height // 8, width - margin, half), ink, rng)
        if rng.uniform() < 0.8:
            barcode(
                one, (margin, half + 4, width - margin, min(half + 4 + height // 5, height)), rng
            )
    picture = np.tile(one, (1, repeat, 1))
    if picture.shape[1] < total:
        picture = np.concatenate([picture, picture[:, : total - picture.shape[1]]], axis=1)
    return np.ascontiguousarray(picture[:, :total])
