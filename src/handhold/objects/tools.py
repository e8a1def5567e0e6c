"""The tools among the YCB look-alikes: drill, scissors, marker, clamps (see `procedural`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from handhold.objects import prints
from handhold.objects.catalogue import ObjectInfo
from handhold.objects.prints import BLACK, ORANGE, WHITE, YELLOW
from handhold.objects.shapes import ATLAS, Builder, about, smooth, sweep

FULL = (0, 0, ATLAS, ATLAS)
MM = 1e-3
Rng = np.random.Generator


def drill(item: ObjectInfo, rng: Rng) -> Builder:
    build = Builder(item.name)
    orange, black = prints.vary(ORANGE, rng), prints.vary(BLACK, rng, 0.5)
    first, second = (0, 0, 256, 128), (0, 128, 256, 256)

    def bar(
        points: Sequence[Sequence[float]], patch: tuple[int, int, int, int], power: float
    ) -> None:
        rows = np.asarray(points) * MM  # x, y, half across in the plane, half along z
        path = np.concatenate([rows[:, :2], np.zeros((len(rows), 1))], axis=-1)
        build.add(sweep(path, rows[:, 2:], side=_across(path), exponent=power, segments=24), patch)

    bar([(-92, 67, 12, 12), (-88, 67, 18, 18), (-60, 67, 20, 20), (-45, 67, 22, 23)], second, 2.0)
    bar(
        [
            (-46, 66, 23, 24),
            (-38, 65, 26, 28),
            (10, 64, 28, 28),
            (60, 64, 27, 26),
            (84, 64, 26, 24),
            (91, 64, 20, 18),
        ],
        first,
        2.6,
    )
    bar([(10, 50, 12, 13), (-6, 25, 6, 11), (-3, 14, 4, 9)], second, 2.4)
    bar(
        [
            (30, 50, 26, 20),
            (36, 25, 23, 15),
            (40, -5, 21, 15),
            (42, -35, 21, 15),
            (42, -62, 24, 18),
        ],
        second,
        2.6,
    )
    bar(
        [(15, -58, 47, 25), (14, -66, 52, 28.5), (14, -86, 54, 28.5), (14, -93, 50, 26)], first, 4.0
    )
    accents = [black, WHITE, black]
    build.paint(first, prints.label((128, 256), orange, accents, rng, title="TOOLS", repeat=2))
    build.paint(second, prints.plain((128, 256), black, rng))
    return build


def _across(path: np.ndarray) -> np.ndarray:
    """The direction in the xy plane across the path's start."""
    step = path[1] - path[0]
    return np.array([-step[1], step[0], 0.0])


def _arm(
    build: Builder,
    points: Sequence[Sequence[float]],
    patch: tuple[int, int, int, int],
    *,
    power: float = 3.0,
    count: int = 12,
) -> None:
    """A flat arm in the xy plane: rows x, y, half in the plane, half along z (millimetres)."""
    rows = smooth(np.asarray(points, dtype=np.float64), count) * MM
    path = np.concatenate([rows[:, :2], np.zeros((count, 1))], axis=-1)
    half = np.maximum(rows[:, 2:], 3e-4)
    build.add(sweep(path, half, side=_across(path), exponent=power, segments=16), patch)


def scissors(item: ObjectInfo, rng: Rng) -> Builder:
    build = Builder(item.name)
    first, second = (0, 0, 256, 128), (0, 128, 256, 256)
    _arm(build, [(6, -10, 8, 2), (16, 26, 8, 1.6), (30, 62, 6, 1.4), (44, 100, 1.5, 0.8)], first)
    _arm(build, [(24, -6, 7, 1.8), (15, 26, 7, 1.6), (32, 64, 5.5, 1.2), (46, 99, 1.5, 0.8)], first)
    _arm(build, [(17, 24, 8, 5), (8, 0, 8, 6.5), (-4, -24, 7, 7), (-14, -34, 6, 7)], second)
    _arm(build, [(15, 24, 8, 5), (20, 0, 7, 6.5), (17, -18, 6, 7), (16, -30, 5, 7)], second)
    angle = np.linspace(0, 2 * np.pi, 27)[:-1]
    for cx, cy, a, b, tilt in ((-28, -56, 17, 23, 30), (20, -61, 14, 34, -4)):
        t = np.radians(tilt)
        x, y = a * np.cos(angle), b * np.sin(angle)
        loop = np.stack(
            [cx + x * np.cos(t) + y * np.sin(t), cy - x * np.sin(t) + y * np.cos(t)], -1
        )
        path = np.concatenate([loop, np.zeros((len(loop), 1))], -1) * MM
        half = np.tile([[7.8e-3, 4e-3]], (len(loop), 1))
        build.add(sweep(path, half, side=(0, 0, 1), ring=True, segments=14, exponent=2.5), second)
    build.paint(first, prints.plain((128, 256), prints.vary((180, 182, 185), rng, 0.3), rng))
    grip = prints.label(
        (128, 256), prints.vary((85, 95, 110), rng), [prints.vary(YELLOW, rng)], rng, front=False
    )
    build.paint(second, grip)
    return build


def marker(item: ObjectInfo, rng: Rng) -> Builder:
    build = Builder(item.name)
    turn = about("x", -90)  # the profile's z becomes y
    table = [(-60, 9.3), (-59, 9.5), (20, 9.5), (21, 9.0), (26, 9.0), (27, 10.3), (55, 9.8)]
    table += [(55.5, 6), (60, 6)]
    rows = np.asarray(table) * MM
    path = np.stack([np.zeros(len(rows)), np.zeros(len(rows)), rows[:, 0]], -1)
    levels = np.unique(np.concatenate([rows[:, 0], np.linspace(-0.06, 0.06, 16)]))
    path = np.stack([np.zeros(len(levels)), np.zeros(len(levels)), levels], -1)
    radius = np.interp(levels, rows[:, 0], rows[:, 1])
    build.add(sweep(path, radius, segments=28).moved(turn), FULL)
    ink = prints.vary(BLACK, rng) if rng.uniform() < 0.5 else prints.random_colour(rng)
    body = prints.vary(WHITE, rng, 0.4)
    side = prints.label((256, 256), body, [ink, ink], rng, title="MARKER", repeat=2)
    side = np.ascontiguousarray(np.rot90(side))
    side[:76] = prints.plain((76, 256), ink, rng)
    build.paint(FULL, side)
    return build


def _clamp(item: ObjectInfo, rng: Rng, arms: list[Sequence[Sequence[float]]], tip: int) -> Builder:
    build = Builder(item.name)
    first, second = (0, 0, 256, 200), (0, 200, 256, 256)
    for arm in arms[:tip]:
        _arm(build, arm, first, count=18)
    for arm in arms[tip:]:
        _arm(build, arm, second, count=5)
    build.paint(first, prints.plain((200, 256), prints.vary(BLACK, rng), rng))
    build.paint(second, prints.plain((56, 256), prints.vary(ORANGE, rng), rng))
    return build


def large_clamp(item: ObjectInfo, rng: Rng) -> Builder:
    left = [(-56, 65, 7, 10), (-28, 30, 9, 12), (0, 0, 11, 14), (-20, -28, 8, 11)]
    left += [(-12, -58, 8, 9), (18, -76, 6, 7)]
    right = [(51, 79, 8, 10), (38, 42, 9, 12), (27, 10, 11, 14), (44, -22, 8, 11)]
    right += [(42, -54, 8, 9), (28, -76, 6, 7)]
    hub = [(-2, 4, 9, 19), (14, 4, 10, 19.5), (30, 6, 9, 19)]
    tips = [(14, -70, 6, 8), (24, -79, 6, 8), (29, -84, 5, 7)]
    return _clamp(item, rng, [left, right, hub, tips], 3)


def extra_large_clamp(item: ObjectInfo, rng: Rng) -> Builder:
    upper = [(78, 75, 8, 10), (40, 44, 10, 12), (2, 12, 11, 14), (-35, 24, 9, 11)]
    upper += [(-72, 8, 8, 9), (-97, -14, 6, 7)]
    lower = [(96, -76, 8, 10), (50, -55, 10, 12), (2, -36, 11, 14), (-32, -52, 9, 11)]
    lower += [(-72, -40, 8, 9), (-97, -22, 6, 7)]
    hub = [(-2, 16, 8, 17), (0, -10, 9, 18), (0, -38, 8, 17)]
    tips = [(-88, -16, 8, 8), (-98, -18, 7, 8), (-104, -19, 5, 7)]
    return _clamp(item, rng, [upper, lower, hub, tips], 3)
