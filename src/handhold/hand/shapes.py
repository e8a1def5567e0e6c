"""Named hand shapes and random blends of them, as anatomical angles (see ``anatomy``)."""

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
    """Root joint's flexion, abduction (off the palm) and twist; knuckle and end flexion, degrees."""

    flexion: float = 8.0
    abduction: float = 6.0
    twist: float = 4.0
    knuckle: float = 12.0
    end: float = 12.0


class Shape(NamedTuple):
    """A whole hand."""

    thumb: Thumb
    index: Finger
    middle: Finger
    ring: Finger
    little: Finger


OPEN = Finger(0, 2, 2)
WIDE = Finger(-5, 0, 0, 12)
SOFT = Finger(18, 28, 15)
HALF = Finger(45, 55, 32)
HOOK = Finger(5, 85, 50)
FIST = Finger(78, 98, 58, -2)
TUCK = Finger(68, 98, 55)
SIDE = Thumb(-6, 0, 0, 0, 0)
OUT = Thumb(-22, 0, 0, -4, -8)
OVER = Thumb(26, 30, 18, 38, 42)
ACROSS = Thumb(36, 20, 10, 42, 25)
REST = Thumb(6, 8, 4, 14, 14)


def _all(thumb: Thumb, finger: Finger) -> Shape:
    return Shape(thumb, finger, finger._replace(spread=0), finger, finger)


def _digits(thumb: Thumb, pattern: str, up: Finger = OPEN, down: Finger = TUCK) -> Shape:
    """A finger up where the pattern (index to little) has ``|``, down where it has ``.``."""
    return Shape(thumb, *(up if mark == "|" else down for mark in pattern))


SHAPES: dict[str, Shape] = {
    "flat": _all(SIDE, OPEN),
    "relaxed": Shape(
        REST, Finger(16, 24, 12, 3), Finger(22, 28, 14), Finger(26, 32, 16), Finger(28, 32, 16, 4)
    ),
    "curled": Shape(
        REST, Finger(28, 40, 22, 2), Finger(34, 44, 24), Finger(38, 48, 26), Finger(40, 46, 26, 2)
    ),
    "spread": Shape(OUT, WIDE, Finger(-5, 0, 0), WIDE, Finger(-6, 0, 0, 20)),
    "fist": _all(OVER, FIST),
    "hook": _all(REST, HOOK),
    "point": _digits(OVER, "|..."),
    "point thumb out": _digits(OUT, "|..."),
    "victory": _digits(OVER, "||..", Finger(0, 2, 2, 9)),
    "three": _digits(ACROSS, "|||.", Finger(0, 3, 2, 8)),
    "four": _digits(ACROSS, "||||", Finger(0, 3, 2, 8)),
    "thumbs up": _all(OUT, FIST),
    "gun": _digits(OUT, "||.."),
    "shaka": _digits(OUT, "...|", Finger(-4, 2, 2, 18)),
    "horns": _digits(OVER, "|..|", Finger(0, 3, 2, 8)),
    "little up": _digits(OVER, "...|", Finger(0, 3, 2, 12)),
    "large grip": _all(Thumb(4, 32, 8, 10, 14), Finger(24, 32, 20, 5)),
    "grip": _all(Thumb(10, 36, 12, 18, 22), Finger(44, 48, 30, 2)),
    "small grip": _all(Thumb(20, 36, 16, 30, 30), Finger(62, 74, 42)),
    "platform": _all(OUT, Finger(8, 12, 8, 5)),
}


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
