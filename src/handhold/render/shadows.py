"""How much of each light, and of the sky, reaches the pixels: one ray a pixel, smoothed.

The rays of a 3x3 block of pixels go to nine different points of a lamp or of the sky; their mean is
the soft shadow.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from handhold.render.lights import DirectionalLight, Light, Lighting
from handhold.render.mesh import dot_rows
from handhold.render.raycast import Hits, Points, Scene3D
from handhold.scene import FloatArray


class Shadows:
    """Shares of the lights and of the sky.

    Inside, the one ray a pixel is averaged over 3x3 pixels; at outlines over those of the 3x3
    pixels that show the same mesh at the same depth, so that nothing leaks round a finger.
    `centres`: which of the points are pixel centres, `pixel` the pixels of all points.
    """

    def __init__(
        self,
        scene: Scene3D,
        lighting: Lighting,
        points: Points,
        centres: NDArray[np.intp],
        pixel: NDArray[np.intp],
        hits: Hits,
        is_edge: NDArray[np.bool_],
    ) -> None:
        height, self._width = hits.mesh.shape
        self._mesh, self._depth = hits.mesh.ravel(), hits.depth.ravel()
        pixels = pixel.take(centres)
        row, column = np.divmod(pixels, self._width)
        tile = row % 3 * 3 + column % 3
        # Outlines have too few neighbours to average over: two more rays, of other rows and columns
        # of the pattern.
        at_rim = np.flatnonzero(is_edge.take(pixels))
        rim = pixels.take(at_rim)
        who = np.concatenate([centres, *2 * [centres.take(at_rim)]])
        turned = tile.take(at_rim)
        tiles = np.concatenate([tile, (turned + 4) % 9, (turned + 8) % 9])
        shares = _shares(scene, lighting, points, who, tiles, pixel.take(who))
        channels, count = len(shares), len(pixels)
        raw = np.zeros((channels, height * self._width), np.float32)
        raw[:, pixels] = shares[:, :count]
        weight = np.maximum(_blurred((self._mesh >= 0).astype(np.float32), height), 1e-4)
        self._smooth = np.zeros_like(raw)
        for image, smooth in zip(raw, self._smooth, strict=True):
            np.divide(_blurred(image, height), weight, out=smooth)
        block = [row * self._width + column for row in (-1, 0, 1) for column in (-1, 0, 1)]
        corner = _touching(hits.mesh, is_edge)
        own = self._mesh.take(corner), self._depth.take(corner)
        self._smooth[:, corner] = self._mixed(raw, corner, *own, block, 1.0, 1e3)
        raw[:, rim] = shares[:, count:].reshape(channels, 2, -1).sum(axis=1) + raw[:, rim]
        raw[:, rim] /= 3
        own = self._mesh.take(rim), self._depth.take(rim)
        self._smooth[:, rim] = self._mixed(raw, rim, *own, block, 1.0, 0.008)

    def inside(self, pixels: NDArray[np.intp]) -> FloatArray:
        """Shares (lights + sky, N) at pixels that one surface fills."""
        return self._smooth.take(pixels, axis=1)

    def at_outline(
        self, pixels: NDArray[np.intp], mesh: NDArray[np.int32], depth: FloatArray
    ) -> FloatArray:
        """Shares (lights + sky, N) for points of `mesh` (N,) at `depth` (N,) somewhere in outline
        pixels; 1 where the mesh is seen only between pixel centres.
        """
        cross = [0, -1, 1, -self._width, self._width]
        return self._mixed(self._smooth, pixels, mesh, depth, cross, 0.01, 0.004)

    def _mixed(
        self,
        values: FloatArray,
        pixels: NDArray[np.intp],
        mesh: NDArray[np.int32],
        depth: FloatArray,
        steps: list[int],
        floor: float,
        scale: float,
    ) -> FloatArray:
        """Values (C, H W) at `steps` from the pixels, weighted 1 / (floor + (dz / scale)^4)."""
        near = np.clip(pixels + np.array(steps)[:, None], 0, len(self._mesh) - 1)
        apart = (self._depth.take(near) - depth) * np.float32(1 / scale)
        apart *= apart
        apart *= apart
        apart += np.float32(floor)
        weight = (self._mesh.take(near) == mesh) / apart
        total = weight.sum(axis=0) + np.float32(1e-12)
        result = np.einsum("csn,sn->cn", values.take(near, axis=1), weight) / total
        result[:, total < 1e-9] = 1
        return result


def _blurred(image: FloatArray, height: int) -> FloatArray:
    blurred = cv2.blur(image.reshape(height, -1), (3, 3), borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, np.float32).ravel()


def _touching(mesh: NDArray[np.int32], is_edge: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Flat numbers of pixels inside that touch another mesh by a corner."""
    image, block = mesh.astype(np.int16), np.ones((3, 3), np.uint8)
    mixed = cv2.erode(image, block) != cv2.dilate(image, block)
    mixed &= mesh >= 0
    return np.flatnonzero(mixed.ravel() & ~is_edge)


def _disc9() -> FloatArray:
    """Nine points (2, 9) spread over the unit disc, centre first (Vogel's spiral)."""
    number = np.arange(9)
    radius, angle = np.sqrt(number / 8.5), number * np.pi * (3 - np.sqrt(5))
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)])
    return points[:, [4, 1, 7, 3, 0, 5, 8, 2, 6]].astype(np.float32)


_DISC = _disc9()
_SKY_DISC = _DISC * np.float32(0.96)
_RISE = np.sqrt(1 - (_SKY_DISC**2).sum(axis=0))
_REACHES = (0.35 + 0.65 / 8 * (np.arange(9) * 5 % 9)).astype(np.float32)
"""From a third to the whole: what is far hides less of the sky."""


def _frame(axes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Two unit vectors (3, N) at right angles to unit axes (3, N) and to each other.

    T. Duff et al., Building an orthonormal basis, revisited, JCGT 6 (2017).
    """
    x, y, z = axes
    sign = np.where(z >= 0, np.float32(1), np.float32(-1))
    a = -1 / (sign + z)
    b = x * y * a
    first = np.stack([1 + sign * x * x * a, sign * b, -sign * x])
    return first, np.stack([b, sign + y * y * a, -y])


def _shares(
    scene: Scene3D,
    lighting: Lighting,
    points: Points,
    who: NDArray[np.intp],
    tile: NDArray[np.intp],
    pixel: NDArray[np.intp],
) -> FloatArray:
    """One ray from points `who` (N,) to every light and one to the sky, in the directions `tile`
    (N,) of the pattern: free or not (lights + sky, N). All rays are traced at once.
    """
    origins, normals = points.origins.take(who, axis=1), points.normals.take(who, axis=1)
    starts, rays, limits, targets = [], [], [], []
    count = len(who)
    for number, light in enumerate(lighting.lights):
        facing, directions, distance = _to_light(light, origins, normals, tile)
        starts.append(origins.take(facing, axis=1))
        rays.append(directions)
        limits.append(distance)
        targets.append(facing + number * count)
    if lighting.occlusion_reach > 0:
        starts.append(origins)
        rays.append(_to_sky(normals, points.facets.take(who, axis=1), tile, pixel))
        limits.append(np.float32(lighting.occlusion_reach) * _REACHES.take(tile))
        targets.append(np.arange(count) + len(lighting.lights) * count)
    free = np.ones((len(lighting.lights) + 1, count), np.float32)
    if starts:
        blocked = scene.blocked(_columns(starts), _columns(rays), np.concatenate(limits))
        free.ravel()[np.concatenate(targets)[blocked]] = 0
    return free


def _columns(parts: list[FloatArray]) -> FloatArray:
    """Rows (3, N1), (3, N2) ... as one array (N, 3)."""
    out = np.zeros((sum(part.shape[1] for part in parts), 3), np.float32)
    start = 0
    for part in parts:
        out[start : start + part.shape[1]] = part.T
        start += part.shape[1]
    return out


def _to_light(
    light: Light, origins: FloatArray, normals: FloatArray, tile: NDArray[np.intp]
) -> tuple[NDArray[Any], FloatArray, FloatArray]:
    """Which points face the light (the others are dark anyway), the directions (3, M) from them to
    points of the light, and the distances (M,).
    """
    towards, distance, _ = light.reaching(origins)
    facing = np.flatnonzero(dot_rows(normals, towards) > 0)
    tile = tile.take(facing)
    if isinstance(light, DirectionalLight):
        first, second = _frame(towards)
        spot = _DISC * np.float32(light.size)
        nine = towards + first * spot[:1] + second * spot[1:]
        return facing, nine.take(tile, axis=1), distance.take(facing)
    axis = towards.take(facing, axis=1)
    first, second = _frame(axis)
    spot = _DISC.take(tile, axis=1) * np.float32(light.size)
    return facing, axis + first * spot[0] + second * spot[1], distance.take(facing)


def _to_sky(
    normals: FloatArray, facets: FloatArray, tile: NDArray[np.intp], pixel: NDArray[np.intp]
) -> FloatArray:
    """Cosine-distributed directions (3, N)."""
    first, second = _frame(normals)
    # A little turn from pixel to pixel keeps nine directions from showing as bands.
    angle = np.sin(pixel * np.float32(12.9898)).astype(np.float32) * np.float32(0.3)
    cosine, sine = np.cos(angle), np.sin(angle)
    x, y = _SKY_DISC.take(tile, axis=1)
    rays = normals * _RISE.take(tile)
    rays += first * (x * cosine - y * sine)
    rays += second * (y * cosine + x * sine)
    # Rays that would start below the flat triangle are mirrored up.
    above = dot_rows(rays, facets) - np.float32(0.03)
    rays -= np.minimum(2 * above, 0) * facets
    return rays
