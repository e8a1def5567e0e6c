"""Objects of no particular name, for diversity: see `procedural.random_object`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from handhold.objects import prints
from handhold.objects.mesh import ObjectMesh
from handhold.objects.shapes import ATLAS, Array, Block, Builder, about, box, sweep

FULL = (0, 0, ATLAS, ATLAS)
UPPER, LOWER = (0, 0, 256, 128), (0, 128, 256, 256)
Rng = np.random.Generator


def _upright(levels: Array) -> Array:
    return np.stack([np.zeros_like(levels), np.zeros_like(levels), levels], axis=-1)


def picture(size: tuple[int, int], rng: Rng) -> np.ndarray:
    """Any surface: plain, speckled, printed or wooden."""
    kind = rng.uniform()
    colour = prints.random_colour(rng)
    if kind < 0.35:
        return prints.plain(size, colour, rng)
    if kind < 0.45:
        return prints.speckled(size, colour, prints.random_colour(rng), rng)
    if kind < 0.55:
        return prints.wood(size, rng)
    accents = [prints.random_colour(rng) for _ in range(3)]
    front = bool(rng.uniform() < 0.7)
    return prints.label(size, colour, accents, rng, front=front, repeat=int(rng.integers(1, 4)))


def _superquadric(build: Builder, rng: Rng) -> None:
    half = np.exp(rng.uniform(np.log(0.012), np.log(0.09), 3)) * np.array([0.7, 0.7, 1.0])
    half[:2] = np.minimum(half[:2], 0.055)
    power_up, power_round = rng.uniform(1.7, 5.0, 2)
    angle = np.linspace(-np.pi / 2, np.pi / 2, 22)
    z = np.sign(angle) * np.abs(np.sin(angle)) ** (2 / power_up) * half[2]
    scale = np.abs(np.cos(angle)) ** (2 / power_up)
    scale[[0, -1]] = 0.0
    build.add(sweep(_upright(z), scale[:, None] * half[:2], exponent=power_round), FULL)


def _turned(build: Builder, rng: Rng) -> None:
    """A lathe shape: bottle, vase, jar, chess piece."""
    height = rng.uniform(0.05, 0.25)
    count = int(rng.integers(3, 7))
    radius = rng.uniform(0.25, 1.0, count)
    radius /= radius.max()
    radius *= rng.uniform(0.015, min(0.05, 0.35 * height + 0.01))
    radius = np.maximum(radius, 0.006)
    levels = np.linspace(0, 1, 26)
    smooth = np.interp(levels, np.linspace(0, 1, count), radius)
    if rng.uniform() < 0.7:
        smooth = np.convolve(np.pad(smooth, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    flat = rng.uniform(0.6, 1.0) if rng.uniform() < 0.4 else 1.0
    half = np.stack([smooth, smooth * flat], -1)
    build.add(sweep(_upright(levels * height), half, exponent=rng.uniform(2, 3)), FULL)


def _carton(build: Builder, rng: Rng) -> None:
    extent = np.sort(np.exp(rng.uniform(np.log(0.02), np.log(0.2), 3)))
    extent[0] = min(extent[0], 0.09)
    patches = ((0, 0, 128, 128), (128, 0, 256, 128), (0, 128, 64, 256), (64, 128, 128, 256))
    patches = (*patches, (128, 128, 192, 256), (192, 128, 256, 256))
    base = prints.random_colour(rng)
    accents = [prints.random_colour(rng) for _ in range(3)]
    wooden = rng.uniform() < 0.2
    for block, (x0, y0, x1, y1) in zip(box(extent, cells=6), patches, strict=True):
        build.add(block, (x0, y0, x1, y1))
        size = (y1 - y0, x1 - x0)
        front = bool(rng.uniform() < 0.6)
        made = prints.wood(size, rng) if wooden else None
        made = prints.label(size, base, accents, rng, front=front) if made is None else made
        build.paint((x0, y0, x1, y1), made)


def _capsule(build: Builder, rng: Rng) -> None:
    radius = rng.uniform(0.008, 0.04)
    length = rng.uniform(0.0, 0.18)
    angle = np.linspace(0, np.pi / 2, 8)
    z = np.concatenate([-np.cos(angle) * radius, length + np.sin(angle) * radius])
    r = np.concatenate([np.sin(angle), np.cos(angle)]) * radius
    r[[0, -1]] = 0.0
    z = np.concatenate([z[:8], np.linspace(0, length, 8)[1:-1], z[8:]]) if length else z
    r = np.concatenate([r[:8], np.full(6, radius), r[8:]]) if length else r
    build.add(sweep(_upright(z), r), FULL)


def _bent(build: Builder, rng: Rng) -> None:
    """A bent tube: hose, banana, handle, pipe."""
    length, radius = rng.uniform(0.08, 0.25), rng.uniform(0.006, 0.022)
    turn = rng.uniform(0.2, 2.2)
    t = np.linspace(0, 1, 26)
    heading = turn * (t - 0.5) + rng.uniform(-0.5, 0.5) * np.sin(2 * np.pi * t)
    step = length / 25
    path = np.cumsum(np.stack([np.cos(heading), np.sin(heading), 0 * t], -1) * step, axis=0)
    taper = 1 - rng.uniform(0, 0.6) * np.abs(2 * t - 1) ** rng.uniform(2, 6)
    build.add(sweep(path, taper * radius, side=(0, 0, 1), segments=20), FULL)


def _phone(build: Builder, rng: Rng) -> None:
    """A rounded slab: phone, remote control, soap, wallet."""
    width, height = rng.uniform(0.035, 0.08), rng.uniform(0.08, 0.17)
    thick = rng.uniform(0.007, 0.025)
    levels = np.array([0, 0.12, 0.5, 0.88, 1.0]) * thick
    inset = np.array([1.5e-3, 0, 0, 0, 1.5e-3])
    half = np.stack([width / 2 - inset, height / 2 - inset], -1)
    power = rng.uniform(5, 12)
    body = sweep(_upright(levels), half, exponent=power, segments=48, planar=True)
    build.add(body, FULL)
    colour = prints.random_colour(rng)
    made = prints.plain((256, 256), colour, rng)
    dark = (18, 18, 22) if rng.uniform() < 0.6 else prints.random_colour(rng)
    prints.cv2.rectangle(made, (22, 14), (233, 241), dark, -1)
    for _ in range(int(rng.integers(0, 14))):
        x, y = (int(v) for v in rng.integers(40, 200, 2))
        tone = prints.random_colour(rng)
        prints.cv2.rectangle(made, (x, y), (x + 18, y + 12), tone, -1)
    build.paint(FULL, made)


def _cup(build: Builder, rng: Rng) -> None:
    """An open vessel with or without a handle: cup, glass, bowl, pot."""
    height, top = rng.uniform(0.05, 0.14), rng.uniform(0.028, 0.055)
    bottom, wall = top * rng.uniform(0.6, 1.0), rng.uniform(0.0018, 0.004)
    levels = np.linspace(0, height, 8)
    outer = bottom + (top - bottom) * (levels / height) ** rng.uniform(0.4, 1.6)
    inner = levels[:0:-1]
    z = np.concatenate([levels, inner[:-1], [2 * wall]])
    r = np.concatenate([outer, outer[:0:-1][:-1] - wall, [bottom - wall]])
    build.add(sweep(_upright(z), r, segments=40), FULL)
    if rng.uniform() < 0.6:
        reach, span = rng.uniform(0.018, 0.035), height * rng.uniform(0.25, 0.38)
        angle = np.linspace(-np.pi / 2, np.pi / 2, 18)
        start = min(bottom, top) - wall * 0.2
        path = np.stack(
            [start + reach * np.cos(angle), 0 * angle, height / 2 - span * np.sin(angle)], -1
        )
        half = np.tile([[rng.uniform(0.003, 0.008), rng.uniform(0.002, 0.004)]], (18, 1))
        build.add(sweep(path, half, side=(0, 1, 0), segments=12, exponent=2.5), FULL)
    build.paint(FULL, picture((256, 256), rng))


def _pen(build: Builder, rng: Rng) -> None:
    """Pen, brush, candle, stick, spoon's handle."""
    length, radius = rng.uniform(0.09, 0.22), rng.uniform(0.004, 0.012)
    t = np.array([0, 0.01, 0.08, 0.5, 0.75, 0.76, 0.98, 1.0])
    shape = np.array([0.35, 0.5, 1.0, 1.0, 1.0, 1.15, 1.1, 0.7])
    build.add(sweep(_upright(t * length), shape * radius, segments=20), FULL)


def _tool(build: Builder, rng: Rng) -> None:
    """A handle with a head: hammer, brush, screwdriver, spatula."""
    length, radius = rng.uniform(0.1, 0.16), rng.uniform(0.009, 0.018)
    levels = np.linspace(0, length, 12)
    wave = 1 + 0.15 * np.sin(levels / length * rng.uniform(3, 9))
    grip = sweep(_upright(levels), wave * radius, segments=22, exponent=rng.uniform(2, 3.5))
    build.add(grip, UPPER)
    blocks: list[Block] = []
    kind = rng.uniform()
    if kind < 0.4:  # hammer
        head = rng.uniform(0.05, 0.11)
        z = np.linspace(-head / 2, head / 2, 8)
        cross = sweep(_upright(z), np.full(8, rng.uniform(0.01, 0.02)), exponent=3.0, segments=20)
        blocks.append(cross.moved(about("y", 90), (0, 0, length)))
    elif kind < 0.7:  # screwdriver
        z = np.linspace(length * 0.95, length + rng.uniform(0.05, 0.1), 6)
        blocks.append(sweep(_upright(z), np.full(6, radius * 0.3), segments=12))
    else:  # blade, brush or scoop
        z = np.linspace(length * 0.95, length + rng.uniform(0.04, 0.1), 8)
        width = rng.uniform(0.012, 0.035) * np.sin(np.linspace(0.5, 2.4, 8))
        half = np.stack([width, np.full(8, rng.uniform(0.002, 0.009))], -1)
        blocks.append(sweep(_upright(z), half, exponent=3.0, segments=20))
    for block in blocks:
        build.add(block, LOWER)
    build.paint(UPPER, picture((128, 256), rng))
    build.paint(LOWER, prints.plain((128, 256), prints.random_colour(rng), rng))


_MAKERS: tuple[tuple[Callable[[Builder, Rng], None], float, bool], ...] = (
    (_superquadric, 0.16, True),  # maker, share, gets one picture over all
    (_turned, 0.18, True),
    (_carton, 0.16, False),
    (_capsule, 0.08, True),
    (_bent, 0.08, True),
    (_phone, 0.12, False),
    (_cup, 0.1, False),
    (_pen, 0.05, True),
    (_tool, 0.07, False),
)


def random_object(rng: Rng) -> ObjectMesh:
    """One object, centred on its bounding box, axes at random turns of 90 degrees."""
    build = Builder(f"random_{int(rng.integers(1_000_000)):06d}")
    shares = np.array([share for _, share, _ in _MAKERS])
    maker, _, one_picture = _MAKERS[int(rng.choice(len(_MAKERS), p=shares / shares.sum()))]
    maker(build, rng)
    if one_picture:
        build.paint(FULL, picture((256, 256), rng))
    return build.mesh()
