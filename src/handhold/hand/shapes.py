"""Named hand shapes and random blends of them, as anatomical angles (see ``anatomy``)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Finger(NamedTuple):
    """Flexion of knuckle, middle and end joint, and the knuckle's abduction, degrees.

    ``spread`` is positive away from the middle finger (for the middle finger: to the thumb).
    """

    knuckle: float = 12.0
    middle: float = 18.0
    end: float = 10.0
    spread: float = 0.0


class Thumb(NamedTuple):
    """Root joint's flexion, abduction (off the palm), twist; knuckle's and end's flexion."""

    flexion: float = 8.0
    abduction: float = 6.0
    twist: float = 4.0
    knuckle: float = 12.0
    end: float = 12.0


@dataclass(frozen=True)
class Shape:
    """A whole hand."""

    thumb: Thumb
    index: Finger
    middle: Finger
    ring: Finger
    little: Finger


OPEN = Finger(0, 2, 2)
WIDE = Finger(-5, 0, 0, 12)
EASY = Finger(8, 12, 8, 3)
FIST = Finger(78, 99, 52)
TUCK = Finger(77, 101, 56)

SIDE = Thumb(13, -13, -40, 28, 12)  # along the index finger
OUT = Thumb(-18, 0, 0, -2, -4)
REST = Thumb(14, 12, -14, 14, 16)
OVER_FIST = Thumb(17, 50, -44, 57, 44)  # across the backs of the bent fingers
OVER_TWO = Thumb(30, 44, -44, 59, 26)  # on the bent middle finger
OVER_THREE = Thumb(44, 43, -44, 59, 17)  # on the bent ring finger
ACROSS = Thumb(44, 1, -13, 58, 60)  # in the palm
HOLD = Thumb(14, 34, -22, 18, 24)


def _all(thumb: Thumb, finger: Finger) -> Shape:
    return Shape(thumb, finger, finger._replace(spread=0), finger, finger)


def _digits(thumb: Thumb, pattern: str, up: Finger = OPEN, down: Finger = TUCK) -> Shape:
    """A finger up where the pattern (index to little) has ``|``, down where it has ``.``."""
    index, middle, ring, little = (up if mark == "|" else down for mark in pattern)
    apart = -0.6 * up.spread if pattern.startswith("||.") else 0.0
    return Shape(thumb, index, middle._replace(spread=apart), ring, little)


SHAPES: dict[str, Shape] = {
    "flat": _all(SIDE, OPEN),
    "open": _all(Thumb(0, 2, -8, 4, 4), EASY),
    "relaxed": Shape(
        REST, Finger(16, 24, 12, 3), Finger(22, 28, 14), Finger(26, 32, 16), Finger(28, 32, 16, 4)
    ),
    "curled": Shape(
        REST, Finger(28, 40, 22, 2), Finger(34, 44, 24), Finger(38, 48, 26), Finger(40, 46, 26, 2)
    ),
    "spread": Shape(OUT, WIDE, Finger(-5, 0, 0), WIDE, Finger(-6, 0, 0, 20)),
    "fist": Shape(OVER_FIST, Finger(76, 106, 52), Finger(86, 80, 52), FIST, FIST),
    "thumb beside fist": _all(Thumb(0, 0, -20, 40, 15), FIST),
    "thumbs up": _all(OUT, FIST),
    "hook": _all(REST, Finger(5, 85, 50)),
    "claw": _all(Thumb(8, 20, -10, 20, 35), Finger(-4, 58, 36, 8)),
    "point": _digits(OVER_TWO, "|..."),
    "point and thumb": _digits(OUT, "|..."),
    "two": _digits(OVER_THREE, "||..", Finger(0, 2, 2, 9)),
    "two together": _digits(OVER_THREE, "||.."),
    "thumb and two": _digits(OUT, "||..", Finger(0, 2, 2, 8)),
    "three": _digits(OVER_THREE._replace(flexion=45, knuckle=50), "|||.", Finger(0, 3, 2, 8)),
    "four": _digits(ACROSS, "||||", Finger(0, 3, 2, 8)),
    "shaka": _digits(OUT, "...|", Finger(-4, 2, 2, 18)),
    "horns": _digits(OVER_TWO, "|..|", Finger(0, 3, 2, 8)),
    "little up": Shape(
        Thumb(30, 49, -44, 58, 40),
        Finger(70, 108, 56),
        Finger(85, 92, 56),
        TUCK,
        Finger(0, 3, 2, 12),
    ),
    "pinch": Shape(
        Thumb(43, 26, -31, 1, 5),
        Finger(51, 48, 18),
        Finger(30, 30, 18),
        Finger(25, 28, 16),
        Finger(22, 25, 14, 3),
    ),
    "nine": Shape(Thumb(42, 23, -23, 1, 5), Finger(46, 52, 23), EASY, EASY, Finger(4, 6, 4, 8)),
    "eight": Shape(
        Thumb(45, 38, -44, 13, 5), EASY, Finger(64, 41, 8, 4), EASY, Finger(6, 10, 6, 6)
    ),
    "seven": Shape(
        Thumb(45, 22, 3, 26, 5), EASY, Finger(8, 12, 8), Finger(50, 52, 24), Finger(22, 28, 16)
    ),
    "six": Shape(
        Thumb(45, 18, 7, 46, 5), EASY, Finger(8, 12, 8), Finger(24, 24, 14), Finger(50, 54, 22)
    ),
    "five-finger pinch": Shape(
        Thumb(45, 43, -44, 17, 6),
        Finger(70, 30, 6, -2),
        Finger(66, 34, 10),
        Finger(67, 34, 10),
        Finger(64, 36, 12, -4),
    ),
    "key grip": Shape(
        Thumb(-6, -4, -18, 55, 16),
        Finger(50, 70, 35),
        Finger(60, 80, 40),
        Finger(65, 85, 45),
        Finger(68, 85, 45),
    ),
    "wide grip": _all(Thumb(4, 30, -10, 8, 10), Finger(18, 26, 16, 7)),
    "large grip": _all(Thumb(10, 34, -18, 12, 16), Finger(32, 38, 24, 4)),
    "grip": _all(HOLD, Finger(46, 50, 30, 2)),
    "small grip": _all(Thumb(26, 16, -10, 10, 25), Finger(62, 72, 40)),
    "platform": _all(Thumb(-8, 4, -4, 4, 4), Finger(10, 14, 10, 5)),
    "edge grip": _all(Thumb(34, 36, -34, 8, 8), Finger(56, 20, 12)),
}
"""Everyday shapes.  ``fist``, ``point``, ``two``, ``three`` (or ``thumb and two``), ``four``,
``spread`` and ``six`` to ``nine`` (thumb on little ... index finger) count from 0 to 9; the
touching ones were fitted to contact on the free hand."""


def angles(shape: Shape) -> Array:
    """Anatomical angles (15, 3) in MANO's joint order, degrees."""
    out = np.zeros((15, 3))
    toward_thumb = {"index": 1.0, "middle": 1.0, "ring": -1.0, "little": -1.0}
    for name, first in (("index", 0), ("middle", 3), ("little", 6), ("ring", 9)):
        finger: Finger = getattr(shape, name)
        out[first : first + 3, 0] = finger.knuckle, finger.middle, finger.end
        out[first, 1] = toward_thumb[name] * finger.spread
    thumb = shape.thumb
    out[12] = thumb.flexion, thumb.abduction, thumb.twist
    out[13:, 0] = thumb.knuckle, thumb.end
    return out


def random_shape(rng: np.random.Generator, spread: float) -> Array:
    """One random hand (15, 3), degrees, before limits."""
    names = list(SHAPES)
    first, second = rng.integers(len(names), size=2)
    share = float(rng.beta(0.5, 0.5))
    base = share * angles(SHAPES[names[first]]) + (1 - share) * angles(SHAPES[names[second]])
    return base + spread * _noise(rng, base)


def _noise(rng: np.random.Generator, base: Array) -> Array:
    out = np.zeros((15, 3))
    common = rng.normal(0, 5)
    drift = common
    for first in (0, 3, 9, 6):  # index, middle, ring, little
        drift = 0.7 * drift + 0.3 * common + rng.normal(0, 4)
        knuckle, middle = drift, 0.8 * drift + rng.normal(0, 5)
        freedom = np.clip(1 - base[first, 0] / 90, 0.15, 1)  # a bent knuckle cannot spread
        out[first, :2] = knuckle, rng.normal(0, 3) * freedom
        out[first + 1, 0] = middle
        out[first + 2, 0] = 0.66 * middle + rng.normal(0, 3)
        out[first, 2] = rng.normal(0, 1.5)
    out[12] = rng.normal(0, (4, 4, 3))
    out[13, :2] = rng.normal(0, (6, 2))
    out[14, 0] = rng.normal(0, 8)
    return out
