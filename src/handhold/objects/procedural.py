"""Textured look-alikes of the 21 YCB objects, in their frames and sizes, and endless other objects.

Shapes were drawn after the real objects' silhouettes; prints are invented and differ from call to
call. A named object's geometry is always the same, so its distance field can be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from handhold.objects import prints, tools, various
from handhold.objects.catalogue import ObjectInfo, info
from handhold.objects.mesh import ObjectMesh
from handhold.objects.prints import (
    BLACK,
    BLUE,
    BROWN,
    GREEN,
    GREY,
    ORANGE,
    RED,
    WHITE,
    YELLOW,
    Colour,
)
from handhold.objects.shapes import ATLAS, Builder, about, box, smooth, sweep

Rng: TypeAlias = np.random.Generator
FULL = (0, 0, ATLAS, ATLAS)
SIDE = (0, 0, 256, 160)
ENDS = ((0, 160, 96, 256), (96, 160, 192, 256))
REST = (192, 160, 256, 256)
MM = 1e-3


def _can(item: ObjectInfo, rng: Rng, base: Colour, accents: list[Colour], title: str) -> Builder:
    build = Builder(item.name)
    radius, height = item.extent[0] / 2, item.extent[2]
    rim, depth = radius * 0.985, 0.0025
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
    rows: Sequence[Sequence[float]],
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
            smooth(path, 22),
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
    build.add(sweep(smooth(path, 26), half, side=across, exponent=3.0, segments=16), SIDE)
    spout = np.array([(40, 60), (62, 90), (78, 113), (80, 117)])
    path = np.concatenate([middle - spout[:, :1] * diagonal, spout[:, 1:]], axis=-1) * MM
    half = np.array([(4, 4), (14, 8), (19, 10), (19, 9)]) * MM
    build.add(sweep(path, half, side=across, segments=20), SIDE)
    colour = prints.vary((50, 90, 180), rng)
    build.paint(SIDE, prints.plain((160, 256), colour, rng))
    build.paint(REST, prints.plain((96, 64), prints.vary(colour, rng, 0.3), rng))
    return build


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
    "035_power_drill": tools.drill,
    "036_wood_block": _wood_block,
    "037_scissors": tools.scissors,
    "040_large_marker": tools.marker,
    "051_large_clamp": tools.large_clamp,
    "052_extra_large_clamp": tools.extra_large_clamp,
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
