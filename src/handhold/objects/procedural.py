"""Textured look-alikes of the 21 YCB objects, in their frames and sizes, and endless other objects.

Shapes were drawn after the real objects' silhouettes; prints are invented and differ from call to
call. A named object's geometry is always the same, so its distance field can be kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from handhold.objects import prints, various
from handhold.objects.catalogue import ObjectInfo, info
from handhold.objects.mesh import ObjectMesh
from handhold.objects.prints import Colour
from handhold.objects.shapes import ATLAS, Builder, about, box, sweep

Rng: TypeAlias = np.random.Generator
FULL = (0, 0, ATLAS, ATLAS)
SIDE = (0, 0, 256, 160)
ENDS = ((0, 160, 96, 256), (96, 160, 192, 256))
REST = (192, 160, 256, 256)
MM = 1e-3
RED, BLUE, WHITE, BLACK = (190, 30, 35), (25, 50, 160), (235, 235, 230), (25, 25, 28)
YELLOW, ORANGE, GREY, GREEN = (240, 190, 20), (225, 85, 20), (150, 152, 155), (120, 135, 60)
BROWN = (70, 30, 22)


def _can(item: ObjectInfo, rng: Rng, base: Colour, accents: list[Colour], title: str) -> Builder:
    build = Builder(item.name)
    radius, height = item.extent[0] / 2, item.extent[2]
    rim, depth = radius * 0.965, 0.0025
    z = np.array([0.0, 0.0, 0.02, 0.06, 0.3, 0.7, 0.94, 0.98, 1.0, 1.0]) * height - height / 2
    r = np.array([rim, radius, radius, rim, rim, rim, rim, radius, radius, rim])
    up = np.array([0.0, 0.0, 1.0])
    side = sweep(z[:, None] * up, r, segments=40)
    # the sweep's own flat caps are cut off: the ends have their own print
    wall = side.vertices[side.faces][..., :2]
    keep = np.linalg.norm(wall, axis=-1).min(axis=1) > 1e-6
    build.add(side._replace(faces=side.faces[keep]), SIDE)
    for sign, patch in ((1.0, ENDS[0]), (-1.0, ENDS[1])):
        path = np.array([height / 2, height / 2 - depth, height / 2 - depth])
        cap = sweep(
            path[:, None] * up, [rim, rim * 0.94, 0.0], segments=40, planar=True, side=(1, 0, 0)
        )
        flat = cap.vertices[cap.faces][..., 2].min(axis=1) < height / 2 - 1e-9
        faces = cap.faces[flat]
        # the path runs down: its frame is upside down, so the faces look down already
        vertices = cap.vertices * np.array([1.0, 1.0, sign])
        normal = np.cross(
            vertices[faces[:, 1]] - vertices[faces[:, 0]],
            vertices[faces[:, 2]] - vertices[faces[:, 0]],
        )[:, 2].sum()
        faces = faces if normal * sign > 0 else faces[:, ::-1]
        build.add(cap._replace(vertices=vertices, faces=faces), patch)
        build.paint(patch, prints.metal((96, 96), prints.vary(GREY, rng, 0.4), rng))
    colours = [prints.vary(c, rng) for c in accents]
    build.paint(
        SIDE,
        prints.label((160, 256), prints.vary(base, rng), colours, rng, title=title, repeat=2),
    )
    return build


def _carton(
    item: ObjectInfo,
    rng: Rng,
    base: Colour,
    accents: list[Colour],
    title: str,
    *,
    size_mm: tuple[float, float, float] | None = None,
    bulge: float = 0.0,
) -> Builder:
    """A printed box; the two biggest faces are its fronts."""
    build = Builder(item.name)
    extent = item.extent if size_mm is None else np.asarray(size_mm) * MM
    base = prints.vary(base, rng)
    colours = [prints.vary(c, rng) for c in accents]
    order = np.argsort(extent)  # the thinnest axis carries the fronts
    patches = ((0, 0, 96, 144), (96, 0, 192, 144), (192, 0, 256, 144), (0, 144, 64, 256))
    patches = (*patches, (64, 144, 160, 256), (160, 144, 256, 256))
    front_axis = int(order[0])
    free = iter(patches[2:])
    for number, block in enumerate(box(extent, cells=6, bulge=bulge)):
        is_front = number // 2 == front_axis
        patch = patches[number % 2] if is_front else next(free)
        build.add(block, patch)
        size = (patch[3] - patch[1], patch[2] - patch[0])
        front = is_front or rng.uniform() < 0.4
        build.paint(patch, prints.label(size, base, colours, rng, title=title, front=front))
    return build


def _profile(
    build: Builder,
    rows: list[tuple[float, float, float, float, float]],
    patch: tuple[int, int, int, int],
    *,
    exponent: float = 2.6,
    turn: float = 0.0,
) -> None:
    """A body from rows (z, half x, half y, centre x, centre y) in millimetres."""
    table = np.asarray(rows) * MM
    levels = np.concatenate(
        [np.linspace(a, b, 4)[:-1] for a, b in zip(table[:-1, 0], table[1:, 0], strict=True)]
        + [table[-1:, 0]]
    )
    columns = [np.interp(levels, table[:, 0], table[:, k]) for k in range(1, 5)]
    path = np.stack([np.zeros_like(levels), np.zeros_like(levels), levels], axis=-1)
    half = np.stack(columns[:2], axis=-1)
    block = sweep(path, half, segments=32, exponent=exponent)
    width = 33
    shift = np.stack(columns[2:], axis=-1)
    shift = np.concatenate([shift[:1], shift, shift[-1:]])
    vertices = block.vertices.copy()
    vertices[:, :2] += np.repeat(shift, width, axis=0)
    build.add(block._replace(vertices=vertices).moved(about("z", turn)), patch)


def _mustard(item: ObjectInfo, rng: Rng) -> Builder:
    build = Builder(item.name)
    base, cap = prints.vary(YELLOW, rng), prints.vary((225, 190, 30), rng, 0.5)
    rows = [(-95, 43, 25), (-90, 47, 28), (-60, 47, 29), (-10, 41, 29), (20, 44, 29)]
    rows += [(42, 46, 27), (58, 38, 24), (70, 24, 20)]
    _profile(build, [(*r, 0, 0) for r in rows], SIDE, turn=-23.5)
    neck = [(69, 20, 20), (79, 20, 20), (80, 11, 11), (94, 8, 8), (95.6, 6, 6)]
    _profile(build, [(*r, 0, 0) for r in neck], REST, exponent=2.0)
    accents = [prints.vary(c, rng) for c in (BLUE, WHITE, (60, 140, 200))]
    build.paint(SIDE, prints.label((160, 256), base, accents, rng, title="MUSTARD", repeat=2))
    build.paint(REST, prints.plain((96, 64), cap, rng))
    return build


def _bleach(item: ObjectInfo, rng: Rng) -> Builder:
    build = Builder(item.name)
    rows = [(-125, 47, 30, 0, 0), (-121, 51, 33, 0, 0), (-100, 50.5, 33.5, 0.5, 0)]
    rows += [(-40, 48, 31, 3, 0), (10, 44, 28, 7, 0), (60, 39, 25, 11, 0), (78, 38, 23, 12, 0)]
    rows += [(90, 34, 18, 11, 0), (102, 17, 14, 9, 0)]
    _profile(build, rows, SIDE)
    neck = [(100, 13, 13, 9, 0), (104, 13.5, 13.5, 9, 0), (125, 12, 12, 9, 0)]
    _profile(build, neck, REST, exponent=2.0)
    accents = [prints.vary(c, rng) for c in (BLUE, RED, (40, 150, 60))]
    white = prints.vary(WHITE, rng, 0.5)
    build.paint(SIDE, prints.label((160, 256), white, accents, rng, title="CLEANSER", repeat=2))
    build.paint(REST, prints.plain((96, 64), prints.vary(WHITE, rng, 0.7), rng))
    return build


def _potted_meat(item: ObjectInfo, rng: Rng) -> Builder:
    build = Builder(item.name)
    rows = [(-41.7, 47, 26), (-40, 48.5, 28), (-36, 48.5, 27.5), (34, 48.5, 27.5), (38, 51, 30)]
    rows += [(41.7, 51, 30)]
    _profile(build, [(*r, 0, 0) for r in rows], SIDE, exponent=4.0, turn=2.5)
    lid = [(38.5, 47, 26.5), (41.9, 47, 26.5)]
    _profile(build, [(*r, 0, 0) for r in lid], REST, exponent=4.0, turn=2.5)
    accents = [prints.vary(c, rng) for c in (YELLOW, WHITE, (200, 120, 110))]
    build.paint(
        SIDE,
        prints.label((160, 256), prints.vary(BLUE, rng), accents, rng, title="PORK", repeat=2),
    )
    build.paint(REST, prints.metal((96, 64), prints.vary(GREEN, rng, 0.6), rng))
    return build


def _banana(item: ObjectInfo, rng: Rng) -> Builder:
    build = Builder(item.name)
    table = np.array(
        [
            (54, 84, -11, 4.0, 4.5),
            (38, 84, -9, 5.0, 5.0),
            (22, 81, -4, 8.0, 9.0),
            (6, 71, 0, 14.0, 15.0),
            (-14, 45, 0, 17.5, 17.5),
            (-29, 8, 0, 18.0, 18.3),
            (-36, -35, 0, 17.0, 17.5),
            (-33, -70, 0, 12.5, 13.5),
            (-30, -85, 0, 7.0, 7.0),
            (-29, -89.2, 0, 4.5, 4.5),
        ]
    )
    fine = np.linspace(0, len(table) - 1, 28)
    rows = np.stack([np.interp(fine, np.arange(len(table)), c) for c in table.T], -1) * MM
    build.add(sweep(rows[:, :3], rows[:, 3:], segments=24, exponent=2.3, side=(1, 0, 0)), FULL)
    ripe = prints.vary(YELLOW, rng, 0.6)
    picture = prints.plain((256, 256), ripe, rng)
    picture[214:] = prints.plain((42, 256), prints.vary((130, 140, 40), rng, 0.4), rng)
    picture[:10] = prints.plain((10, 256), (75, 60, 35), rng)
    for _ in range(int(rng.integers(0, 60))):
        x, y = rng.integers(0, 256, 2)
        picture[y : y + int(rng.integers(1, 6)), x : x + int(rng.integers(1, 4))] = (110, 75, 30)
    build.paint(FULL, picture)
    return build


def _shell(build: Builder, outer: list[tuple[float, float]], wall: float, floor: float) -> None:
    """An open vessel: outer profile (radius, z) in millimetres from the bottom up; wall, floor."""
    profile = np.asarray(outer)
    inner = profile[1:][::-1] - np.array([wall, 0.0])
    bottom = profile[0, 1] + floor
    inner = inner[inner[:, 1] > bottom + 0.5]
    reach = float(np.interp(bottom, profile[:, 1], profile[:, 0])) - wall
    inner = np.concatenate([inner, [[min(reach, inner[-1, 0] - 1.0), bottom]]])
    # a thin closed solid: up the outside, down the inside
    full = np.concatenate([profile, inner])
    path = np.stack([np.zeros(len(full)), np.zeros(len(full)), full[:, 1]], axis=-1) * MM
    build.add(sweep(path, full[:, 0] * MM, segments=44), FULL)


def _bowl(item: ObjectInfo, rng: Rng) -> Builder:
    build = Builder(item.name)
    outer = [(44, -27.5), (48, -26.5), (56, -17), (64, -5), (70, 8), (74.5, 24), (80.5, 25)]
    outer += [(80.7, 26.5), (79, 27.5)]
    _shell(build, outer, 2.5, 2.5)
    colour = prints.vary((150, 12, 22), rng)
    build.paint(FULL, prints.speckled((256, 256), colour, prints.vary(WHITE, rng), rng))
    return build


def _mug(item: ObjectInfo, rng: Rng) -> Builder:
    build = Builder(item.name)
    outer = [
        (35, -40.6),
        (40, -38.5),
        (41.3, -34),
        (41.3, 20),
        (41.6, 36),
        (46, 38.5),
        (46.5, 39.6),
    ]
    outer += [(45, 40.6)]
    _shell(build, outer, 2.6, 3.0)
    handle = np.array([(40, 27), (52, 29), (63, 24), (69, 10), (69, -6), (63, -18), (52, -25)])
    handle = np.concatenate([handle, [[40, -29]]])
    path = np.stack([handle[:, 0], np.zeros(len(handle)), handle[:, 1]], -1) * MM
    build.add(
        sweep(
            _smooth(path, 22),
            np.tile([[6.5e-3, 2.6e-3]], (22, 1)),
            side=(0, 1, 0),
            exponent=3.0,
            segments=16,
        ),
        FULL,
    )
    colour = prints.vary((150, 12, 22), rng)
    if rng.uniform() < 0.6:
        picture = prints.speckled((256, 256), colour, prints.vary(WHITE, rng), rng)
    else:
        accents = [prints.random_colour(rng), prints.random_colour(rng)]
        picture = prints.label((256, 256), colour, accents, rng, repeat=2)
    build.paint(FULL, picture)
    return build


def _smooth(points: np.ndarray, count: int) -> np.ndarray:
    """`count` points on a spline through the given ones."""
    from scipy.interpolate import make_interp_spline

    at = np.arange(len(points))
    curve = make_interp_spline(at, points, k=min(3, len(points) - 1))
    return curve(np.linspace(0, len(points) - 1, count))


def _pitcher(item: ObjectInfo, rng: Rng) -> Builder:
    build = Builder(item.name)
    rows = [(-121, 50, 50), (-117, 53, 53), (112, 65, 65), (113, 67, 67), (116, 67, 67)]
    rows += [(117, 55, 55), (121, 50, 50)]
    _profile(build, [(*r, -8, -4) for r in rows], SIDE, exponent=2.0)
    lid = [(115, 14, 14), (116, 50, 50)]
    _profile(build, [(*r, -8, -4) for r in lid], REST, exponent=2.0)
    diagonal = np.array([np.cos(np.radians(44)), np.sin(np.radians(44))])
    out = np.array([60, 78, 95, 101, 101, 95, 80, 56])
    z = np.array([98, 101, 95, 75, 20, -10, -28, -36])
    middle = np.array([-8.0, -4.0])
    path = np.concatenate([middle + out[:, None] * diagonal, z[:, None]], axis=-1) * MM
    across = (-diagonal[1], diagonal[0], 0.0)
    half = np.tile([[10e-3, 6e-3]], (26, 1))
    build.add(sweep(_smooth(path, 26), half, side=across, exponent=3.0, segments=16), SIDE)
    spout = np.array([(40, 60), (62, 90), (78, 113), (80, 117)])
    path = np.concatenate([middle - spout[:, :1] * diagonal, spout[:, 1:]], axis=-1) * MM
    half = np.array([(4, 4), (14, 8), (19, 10), (19, 9)]) * MM
    build.add(sweep(path, half, side=across, segments=20), SIDE)
    colour = prints.vary((50, 90, 180), rng)
    build.paint(SIDE, prints.plain((160, 256), colour, rng))
    build.paint(REST, prints.plain((96, 64), prints.vary(colour, rng, 0.3), rng))
    return build


def _drill(item: ObjectInfo, rng: Rng) -> Builder:
    build = Builder(item.name)
    orange, black = prints.vary(ORANGE, rng), prints.vary(BLACK, rng, 0.5)
    first, second = (0, 0, 256, 128), (0, 128, 256, 256)

    def bar(
        points: list[tuple[float, ...]], patch: tuple[int, int, int, int], power: float
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
    points: list[tuple[float, ...]],
    patch: tuple[int, int, int, int],
    *,
    power: float = 3.0,
    count: int = 12,
) -> None:
    """A flat arm in the xy plane: rows x, y, half in the plane, half along z (millimetres)."""
    rows = _smooth(np.asarray(points, dtype=np.float64), count) * MM
    path = np.concatenate([rows[:, :2], np.zeros((count, 1))], axis=-1)
    half = np.maximum(rows[:, 2:], 3e-4)
    build.add(sweep(path, half, side=_across(path), exponent=power, segments=16), patch)


def _scissors(item: ObjectInfo, rng: Rng) -> Builder:
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


def _marker(item: ObjectInfo, rng: Rng) -> Builder:
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


def _clamp(item: ObjectInfo, rng: Rng, arms: list[list[tuple[float, ...]]], tip: int) -> Builder:
    build = Builder(item.name)
    first, second = (0, 0, 256, 200), (0, 200, 256, 256)
    for arm in arms[:tip]:
        _arm(build, arm, first, count=18)
    for arm in arms[tip:]:
        _arm(build, arm, second, count=5)
    build.paint(first, prints.plain((200, 256), prints.vary(BLACK, rng), rng))
    build.paint(second, prints.plain((56, 256), prints.vary(ORANGE, rng), rng))
    return build


def _large_clamp(item: ObjectInfo, rng: Rng) -> Builder:
    left = [(-56, 65, 7, 10), (-28, 30, 9, 12), (0, 0, 11, 14), (-20, -28, 8, 11)]
    left += [(-12, -58, 8, 9), (18, -76, 6, 7)]
    right = [(51, 79, 8, 10), (38, 42, 9, 12), (27, 10, 11, 14), (44, -22, 8, 11)]
    right += [(42, -54, 8, 9), (28, -76, 6, 7)]
    hub = [(-2, 4, 9, 19), (14, 4, 10, 19.5), (30, 6, 9, 19)]
    tips = [(14, -70, 6, 8), (24, -79, 6, 8), (29, -84, 5, 7)]
    return _clamp(item, rng, [left, right, hub, tips], 3)


def _extra_large_clamp(item: ObjectInfo, rng: Rng) -> Builder:
    upper = [(78, 75, 8, 10), (40, 44, 10, 12), (2, 12, 11, 14), (-35, 24, 9, 11)]
    upper += [(-72, 8, 8, 9), (-97, -14, 6, 7)]
    lower = [(96, -76, 8, 10), (50, -55, 10, 12), (2, -36, 11, 14), (-32, -52, 9, 11)]
    lower += [(-72, -40, 8, 9), (-97, -22, 6, 7)]
    hub = [(-2, 16, 8, 17), (0, -10, 9, 18), (0, -38, 8, 17)]
    tips = [(-88, -16, 8, 8), (-98, -18, 7, 8), (-104, -19, 5, 7)]
    return _clamp(item, rng, [upper, lower, hub, tips], 3)


def _wood_block(item: ObjectInfo, rng: Rng) -> Builder:
    build = Builder(item.name)
    patches = ((0, 0, 64, 160), (64, 0, 128, 160), (128, 0, 192, 160), (192, 0, 256, 160))
    patches = (*patches, *ENDS)
    for number, block in enumerate(box(np.array([90.0, 90.6, 206.0]) * MM, cells=6)):
        x0, y0, x1, y1 = patches[number]
        build.add(block.moved(about("z", -12)), patches[number])
        build.paint(patches[number], prints.wood((y1 - y0, x1 - x0), rng, end_grain=number > 3))
    return build


def _foam_brick(item: ObjectInfo, rng: Rng) -> Builder:
    build = Builder(item.name)
    colour = prints.vary((105, 35, 28), rng)
    patches = ((0, 0, 100, 80), (100, 0, 200, 80), (0, 80, 100, 160), (100, 80, 200, 160))
    patches = (*patches, (0, 160, 80, 256), (80, 160, 160, 256))
    for number, block in enumerate(box(item.extent, cells=6)):
        x0, y0, x1, y1 = patches[number]
        build.add(block, patches[number])
        picture = prints.plain((y1 - y0, x1 - x0), colour, rng)
        if number >= 4:
            for k in (1, 2, 3):
                centre = ((x1 - x0) // 2, int((y1 - y0) * k / 4))
                dark = tuple(int(c * 0.3) for c in colour)
                prints.cv2.circle(picture, centre, 9, dark, -1)
        build.paint(patches[number], picture)
    return build


_MAKERS: dict[str, Callable[[ObjectInfo, Rng], Builder]] = {
    "002_master_chef_can": lambda i, r: _can(i, r, BLUE, [WHITE, BLACK, YELLOW], "COFFEE"),
    "003_cracker_box": lambda i, r: _carton(
        i, r, RED, [WHITE, YELLOW, ORANGE], "CRACKERS", bulge=-0.002
    ),
    "004_sugar_box": lambda i, r: _carton(i, r, YELLOW, [BLUE, WHITE, BLUE], "SUGAR"),
    "005_tomato_soup_can": lambda i, r: _can(i, r, RED, [WHITE, WHITE, YELLOW], "TOMATO"),
    "006_mustard_bottle": _mustard,
    "007_tuna_fish_can": lambda i, r: _can(i, r, BLUE, [WHITE, (70, 150, 200), RED], "TUNA"),
    "008_pudding_box": lambda i, r: _carton(
        i, r, BROWN, [WHITE, RED, (150, 100, 70)], "PUDDING", size_mm=(112.7, 89.8, 38.9)
    ),
    "009_gelatin_box": lambda i, r: _carton(
        i, r, RED, [WHITE, WHITE, (220, 90, 100)], "GELATIN", size_mm=(73.0, 89.2, 30.1)
    ),
    "010_potted_meat_can": _potted_meat,
    "011_banana": _banana,
    "019_pitcher_base": _pitcher,
    "021_bleach_cleanser": _bleach,
    "024_bowl": _bowl,
    "025_mug": _mug,
    "035_power_drill": _drill,
    "036_wood_block": _wood_block,
    "037_scissors": _scissors,
    "040_large_marker": _marker,
    "051_large_clamp": _large_clamp,
    "052_extra_large_clamp": _extra_large_clamp,
    "061_foam_brick": _foam_brick,
}
_TURNS = {"008_pudding_box": 27.5, "009_gelatin_box": 13.0}


def make_object(name: str | int, rng: np.random.Generator) -> ObjectMesh:
    """A look-alike of a YCB object (see `catalogue.info` for names): same frame and bounding box.

    Colours and print are drawn from `rng`, the geometry is fixed. InputError for other names.
    """
    item = info(name)
    turn = about("z", _TURNS[item.name]) if item.name in _TURNS else None
    build = _MAKERS[item.name](item, rng)
    return build.mesh(extent=item.extent, centre=item.box_centre, turn=turn)


def random_object(rng: np.random.Generator) -> ObjectMesh:
    """An object of none of the names: superquadric, turned shape, box, capsule, tube, phone, cup,
    pen or tool, 2 to 25 cm long, with its own print; named `random_<number>`."""
    return various.random_object(rng)
