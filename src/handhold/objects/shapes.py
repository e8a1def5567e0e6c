"""Closed building blocks of procedural objects: sweeps, boxes, and a builder with a texture atlas.

Lengths in metres. Every block is closed (after welding equal vertices) and wound outward; an object
is a union of such blocks, which the winding number of `MeshDistance` understands.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handhold.objects.mesh import ObjectMesh, weld

Array: TypeAlias = NDArray[np.float64]
ATLAS = 256


class Block(NamedTuple):
    """vertices (V, 3), faces (F, 3), uv (V, 2) in 0..1 of the block's own patch."""

    vertices: Array
    faces: NDArray[np.int64]
    uv: Array

    def moved(self, rotation: ArrayLike | None = None, offset: ArrayLike = (0, 0, 0)) -> Block:
        """Rotated by (3, 3), then shifted."""
        turned = self.vertices if rotation is None else self.vertices @ np.asarray(rotation).T
        return self._replace(vertices=turned + np.asarray(offset))


def about(axis: str, degrees: float) -> Array:
    """Rotation matrix about "x", "y" or "z"."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_euler(axis, degrees, degrees=True).as_matrix()


def sweep(
    path: ArrayLike,
    half: ArrayLike,
    *,
    segments: int = 28,
    exponent: ArrayLike = 2.0,
    side: ArrayLike = (1.0, 0.0, 0.0),
    ring: bool = False,
    planar: bool = False,
) -> Block:
    """A superellipse swept along a path.

    path: (N, 3) centres. half: (N,) or (N, 2) half widths along `side` and across it; zero at an
    end closes it, other ends get a flat cap. exponent: number or (N,): 2 ellipse, 8 nearly a
    rectangle. side: the first width's direction (made orthogonal to the path). ring: the last
    section joins the first. planar: uv from the section's own plane (caps of cans) instead of
    around and along.
    """
    centre = np.asarray(path, dtype=np.float64)
    size = np.asarray(half, dtype=np.float64)
    size = np.repeat(size[:, None], 2, axis=1) if size.ndim == 1 else size
    power = np.broadcast_to(np.asarray(exponent, dtype=np.float64), (len(centre),))
    if not ring:
        if size[0].max() > 0:
            centre, size = np.concatenate([centre[:1], centre]), np.concatenate([[[0, 0]], size])
            power = np.concatenate([power[:1], power])
        if size[-1].max() > 0:
            centre, size = np.concatenate([centre, centre[-1:]]), np.concatenate([size, [[0, 0]]])
            power = np.concatenate([power, power[-1:]])
    first, second = _frames(centre, np.asarray(side, dtype=np.float64), ring)
    angle = np.linspace(0.0, 2.0 * np.pi, segments + 1)
    cos, sin = np.cos(angle), np.sin(angle)
    bend = 2.0 / power[:, None]
    x = np.sign(cos) * np.abs(cos) ** bend
    y = np.sign(sin) * np.abs(sin) ** bend
    x[:, -1], y[:, -1] = x[:, 0], y[:, 0]
    points = (
        centre[:, None]
        + (size[:, :1] * x)[..., None] * first[:, None]
        + (size[:, 1:] * y)[..., None] * second[:, None]
    )
    if ring:
        points = np.concatenate([points, points[:1]])
    count = len(points)
    step = np.linalg.norm(np.diff(points[:, 0], axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(step)])
    along /= max(along[-1], 1e-12)
    if planar:
        largest = size.max(axis=0)
        u = 0.5 + 0.5 * size[:, :1] * x / largest[0]
        v = 0.5 + 0.5 * size[:, 1:] * y / largest[1]
    else:
        u = np.broadcast_to(angle / (2.0 * np.pi), (count, segments + 1))
        v = np.broadcast_to(along[:, None], (count, segments + 1))
    width = segments + 1
    i, j = np.meshgrid(np.arange(count - 1), np.arange(segments), indexing="ij")
    a, b = i * width + j, i * width + j + 1
    c, d = b + width, a + width
    quads = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], axis=2).reshape(-1, 3)
    vertices = points.reshape(-1, 3)
    return Block(vertices, _proper(vertices, quads), np.stack([u, v], -1).reshape(-1, 2))


def _proper(vertices: Array, faces: NDArray[Any]) -> NDArray[np.int64]:
    """Without triangles that have no area (at the ends of sweeps)."""
    a, b, c = vertices[faces].transpose(1, 0, 2)
    apart = 1e-9
    keep = (
        (np.abs(a - b).max(-1) > apart)
        & (np.abs(b - c).max(-1) > apart)
        & (np.abs(c - a).max(-1) > apart)
    )
    return faces[keep].astype(np.int64)


def _frames(path: Array, side: Array, ring: bool) -> tuple[Array, Array]:
    """Section axes along a path: `side` carried along without twist; fixed on straight paths."""
    if ring:
        tangent = np.roll(path, -1, axis=0) - np.roll(path, 1, axis=0)
    else:
        tangent = np.gradient(path, axis=0)
    length = np.linalg.norm(tangent, axis=1)
    spread = path - path.mean(axis=0)
    straight = np.linalg.svd(spread, full_matrices=False)[1][1] < 1e-9
    if straight and not ring:  # lathes go up outside and down inside: one fixed frame
        main = np.linalg.svd(spread, full_matrices=False)[2][0]
        steps = np.diff(path, axis=0) @ main
        # seen by the first moving step, which must go "up" for faces to point outward
        moving = steps[np.abs(steps) > 1e-9]
        main = main if len(moving) == 0 or moving[0] > 0 else -main
        tangent = np.repeat(main[None], len(path), axis=0)
    else:
        for k in range(1, len(path)):  # sections on one spot take their neighbour's direction
            if length[k] < 1e-12:
                tangent[k] = tangent[k - 1]
        tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-12)
    first = np.zeros_like(path)
    current = side
    for k, direction in enumerate(tangent):
        current = current - direction * (current @ direction)
        norm = np.linalg.norm(current)
        if norm < 1e-6:
            current = np.cross(direction, np.roll(direction, 1) + 0.1)
            norm = np.linalg.norm(current)
        current = current / norm
        first[k] = current
    return first, np.cross(tangent, first)


def smooth(points: ArrayLike, count: int) -> Array:
    """`count` points on a spline through the given ones."""
    from scipy.interpolate import make_interp_spline

    points = np.asarray(points, dtype=np.float64)
    at = np.arange(len(points))
    curve = make_interp_spline(at, points, k=min(3, len(points) - 1))
    return curve(np.linspace(0, len(points) - 1, count))


def box(extent: ArrayLike, *, cells: int = 5, bulge: float = 0.0) -> list[Block]:
    """Six faces of a box about the origin, in the order x+, x-, y+, y-, z+, z-; closed together.

    Prints stand upright (v along z; on the z faces v along y). bulge: metres by which the middle of
    each face swells (negative: sinks in).
    """
    half = np.asarray(extent, dtype=np.float64) / 2.0
    grid = np.linspace(0.0, 1.0, cells + 1)
    u, v = np.meshgrid(grid, grid, indexing="xy")
    s, t = 2 * u - 1, 2 * v - 1
    swell = bulge * (1 - s**2) * (1 - t**2)
    i, j = np.meshgrid(np.arange(cells), np.arange(cells), indexing="ij")
    a = i * (cells + 1) + j
    b, c, d = a + 1, a + cells + 2, a + cells + 1
    faces = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], 2).reshape(-1, 3)
    blocks = []
    axes = ((0, 1, 1, 2), (0, -1, 1, 2), (1, 1, 0, 2), (1, -1, 0, 2), (2, 1, 0, 1), (2, -1, 0, 1))
    for out, sign, right, up in axes:
        points = np.zeros((cells + 1, cells + 1, 3))
        # seen from outside, u runs to the right
        flip = sign * (-1.0 if out == 1 else 1.0)
        points[..., right] = flip * s * half[right]
        points[..., up] = t * half[up]
        points[..., out] = sign * (half[out] + swell)
        uv = np.stack([u, v], -1).reshape(-1, 2)
        blocks.append(Block(points.reshape(-1, 3), faces.astype(np.int64), uv))
    return blocks


class Builder:
    """Collects blocks and their prints into one mesh with one texture."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.blocks: list[Block] = []
        self.texture = np.full((ATLAS, ATLAS, 3), 128, dtype=np.uint8)

    def add(self, block: Block, patch: tuple[int, int, int, int]) -> None:
        """Add a block whose uv fill `patch`, pixel edges (x0, y0, x1, y1) of the atlas, y down."""
        x0, y0, x1, y1 = patch
        inset = 0.75  # half a texel and a bit, against bleeding from the neighbour
        u = (x0 + inset + block.uv[:, 0] * (x1 - x0 - 2 * inset)) / ATLAS
        row = y1 - inset - block.uv[:, 1] * (y1 - y0 - 2 * inset)
        self.blocks.append(block._replace(uv=np.stack([u, 1.0 - row / ATLAS], -1)))

    def paint(self, patch: tuple[int, int, int, int], picture: NDArray[np.uint8]) -> None:
        """Put a picture (of the patch's size) into the atlas."""
        x0, y0, x1, y1 = patch
        self.texture[y0:y1, x0:x1] = picture

    def mesh(
        self,
        *,
        extent: ArrayLike | None = None,
        centre: ArrayLike = (0.0, 0.0, 0.0),
        turn: ArrayLike | None = None,
    ) -> ObjectMesh:
        """The mesh, turned by (3, 3), then stretched and moved so that its axis-aligned box has
        the given extent and centre (metres)."""
        vertices = np.concatenate([b.vertices for b in self.blocks])
        uv = np.concatenate([b.uv for b in self.blocks])
        offsets = np.cumsum([0] + [len(b.vertices) for b in self.blocks[:-1]])
        faces = np.concatenate(
            [b.faces + o for b, o in zip(self.blocks, offsets, strict=True)]
        ).astype(np.int64)
        if turn is not None:
            vertices = vertices @ np.asarray(turn).T
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        scale = np.ones(3) if extent is None else np.asarray(extent) / (high - low)
        vertices = (vertices - (low + high) / 2.0) * scale + np.asarray(centre)
        closed_vertices, closed_faces = weld(vertices, faces)
        return ObjectMesh(
            name=self.name,
            vertices=vertices,
            faces=faces,
            uv=uv,
            texture=self.texture.copy(),
            closed_vertices=closed_vertices,
            closed_faces=closed_faces,
        )
