"""The forearm that a hand ends in: a bent, tapering tube grown from the ring at the wrist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Limb:
    """One person's forearm: the way it bends (3,), how far, and how much it widens."""

    side: Array
    bend: float
    growth: float

    @classmethod
    def draw(cls, rng: np.random.Generator, axis: Array) -> Limb:
        """A random limb along `axis` (3,)."""
        side = np.cross(axis, rng.standard_normal(3))
        side = side / np.linalg.norm(side)
        return cls(side=side, bend=rng.normal(0, 0.3), growth=rng.uniform(0.25, 0.55))


def forearm(
    ring: Array,
    axis: Array,
    limb: Limb,
    *,
    start: float = -0.008,
    fit: float = 0.99,
    length: float = 0.26,
) -> tuple[Array, Array]:
    """Vertices (V, 3) and faces (F, 3) of an arm or sleeve, in the frame of `ring`.

    ring (R, 3): ordered loop at the wrist, metres. axis (3,): unit, towards the elbow. start: where
    the tube begins along the axis (inside the hand when negative). fit: width relative to the ring
    (1 skin, above 1 a sleeve).
    """
    centre = ring.mean(0)
    spoke = ring - centre
    spoke = spoke - (spoke @ axis)[:, None] * axis
    along = np.array([0.0, 0.008, 0.025, 0.06, 0.1, 0.16, 0.22]) * length / 0.22
    place = np.maximum(along + start, 0)
    bend = limb.bend * place**2 / length
    growth = 1 + limb.growth * np.sqrt(place / length)
    round_off = np.sqrt((spoke**2).sum(1)).mean() * spoke / np.linalg.norm(spoke, axis=1)[:, None]
    rings = []
    for step, offset, scale in zip(along, bend, growth, strict=True):
        mix = min(1.0, 4 * step / length) * 0.7
        section = (spoke * (1 - mix) + round_off * mix) * scale * fit
        rings.append(centre + axis * (start + step) + limb.side * offset + section)
    vertices = np.concatenate([*rings, rings[-1].mean(0, keepdims=True)])
    count, levels = len(ring), len(rings)
    index = np.arange(count)
    after = (index + 1) % count
    faces = []
    for level in range(levels - 1):
        a, b = level * count + index, level * count + after
        c, d = a + count, b + count
        faces += [np.stack([a, b, d], 1), np.stack([a, d, c], 1)]
    last = (levels - 1) * count
    faces.append(np.stack([last + index, last + after, np.full(count, len(vertices) - 1)], 1))
    return vertices, _outward(vertices, np.concatenate(faces))


def _outward(vertices: Array, faces: Array) -> Array:
    """Faces turned so that the enclosed volume is positive."""
    a, b, c = np.moveaxis(vertices[faces] - vertices.mean(0), 1, 0)
    volume = np.einsum("nc,nc->", a, np.cross(b, c))
    return faces if volume > 0 else faces[:, ::-1]
