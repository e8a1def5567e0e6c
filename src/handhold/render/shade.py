"""From hits to a picture: light, shadow, gloss, and edges without stairs.

Shadows and sky occlusion are traced once a pixel with a 3x3 pattern of directions and smoothed over
the same 3x3 pixels of the same mesh; only pixels at outlines are looked at again with several rays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.render.lights import Light, Lighting
from handhold.render.material import Looks, to_linear, to_srgb
from handhold.render.raycast import Hits, Scene3D, Surface, cast, ray_directions, surfaces
from handhold.scene import Camera, FloatArray

_GRID4 = np.array([[-0.375, -0.125], [0.125, -0.375], [0.375, 0.125], [-0.125, 0.375]], np.float32)
_GRID2 = np.array([[-0.25, -0.25], [0.25, 0.25]], np.float32)
_OFFSETS = {1: np.zeros((1, 2), np.float32), 2: _GRID2, 4: _GRID4}


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """image (H, W, 3) uint8 sRGB and the hits (H, W) of its pixel centres, from which all labels
    follow.
    """

    image: NDArray[np.uint8]
    hits: Hits


def render(
    scene: Scene3D,
    camera: Camera,
    lighting: Lighting | None = None,
    background: NDArray[np.uint8] | None = None,
    *,
    samples: int = 4,
    exposure: float = 1.0,
) -> Picture:
    """Cast and shade a scene over a background.

    background: (H, W, 3) uint8 sRGB of the camera's size, or None for mid grey; pixels that meet no
    mesh keep its bytes. samples: rays for a pixel at an outline, 1, 2 or 4. exposure multiplies the
    light on the meshes. Raises InputError for a background of another size.
    """
    if samples not in _OFFSETS:
        raise InputError(f"render.samples: expected one of {sorted(_OFFSETS)}, found {samples}")
    shape = (camera.height, camera.width, 3)
    if background is None:
        background = np.full(shape, 128, np.uint8)
    if background.shape != shape or background.dtype != np.uint8:
        raise InputError(
            f"render.background: expected {shape} uint8, "
            f"found {background.shape} {background.dtype}"
        )
    hits = cast(scene, camera)
    light = shade(hits, scene, lighting or Lighting(), camera, background, samples=samples)
    return Picture(image=_finish(light, background, hits, samples, exposure), hits=hits)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Light:
    """Shaded pixels: flat pixel numbers, their linear light (N, 3) and the share (N,) of the pixel
    that meshes cover.
    """

    pixels: NDArray[np.intp]
    light: FloatArray
    coverage: FloatArray


def shade(
    hits: Hits,
    scene: Scene3D,
    lighting: Lighting,
    camera: Camera,
    background: NDArray[np.uint8] | None = None,
    *,
    samples: int = 4,
) -> _Light:
    """Linear light of the pixels that meshes cover, wholly or in part (see `_Light`). `hits` come
    from `cast`.
    """
    focal = float(camera.intrinsics[0, 0])
    base = surfaces(scene, hits, focal)
    count = hits.mesh.size
    edges = _outlines(hits) if samples > 1 else np.zeros(0, np.intp)
    shadows = {s.number: _Shadows(scene, s, lighting, hits.mesh.shape, edges) for s in base}
    is_edge = np.zeros(count, np.bool_)
    is_edge[edges] = True
    light, coverage = np.zeros((count, 3), np.float32), np.zeros(count, np.float32)
    for surface in base:
        inner = ~is_edge[surface.index]
        if not inner.any():
            continue
        kept = _take(surface, inner)
        shares = shadows[surface.number].inside(kept.index)
        light[kept.index] = _radiance(kept, shares, lighting)
        coverage[kept.index] = 1
    if len(edges):
        offsets = _OFFSETS[samples]
        columns, rows = edges % camera.width, edges // camera.width
        centres = np.stack([columns, rows], axis=1).astype(np.float32)
        pixels = (centres[:, None] + offsets[None]).reshape(-1, 2)
        directions = ray_directions(camera, pixels)
        fine = scene.trace(np.zeros_like(directions), directions)
        owner = np.repeat(edges, samples)
        share = np.float32(1 / samples)
        for surface in surfaces(scene, fine, focal):
            pixel = owner[surface.index]
            shadow = shadows.get(surface.number)
            if shadow is None:
                shadow = _Shadows(scene, surface, lighting, None, edges)
            shares = shadow.at_outline(pixel, surface.positions[:, 2])
            color = _radiance(surface, shares, lighting) * share
            for channel in range(3):
                light[:, channel] += np.bincount(pixel, color[:, channel], minlength=count)
            coverage += np.bincount(pixel, minlength=count).astype(np.float32) * share
    covered = np.flatnonzero(coverage > 0)
    return _Light(pixels=covered, light=light[covered], coverage=coverage[covered])


def _finish(
    shaded: _Light, background: NDArray[np.uint8], hits: Hits, samples: int, exposure: float
) -> NDArray[np.uint8]:
    image = background.reshape(-1, 3).copy()
    behind = to_linear(image[shaded.pixels]) * (1 - shaded.coverage[:, None])
    total = _roll_off(shaded.light * np.float32(exposure)) + behind
    image[shaded.pixels] = (to_srgb(total) * 255 + 0.5).astype(np.uint8)
    return image.reshape(background.shape)


def _roll_off(light: FloatArray) -> FloatArray:
    """Highlights bend towards white from 0.7 on, as a camera's do, instead of being cut."""
    over = np.maximum(light - np.float32(0.7), 0)
    return np.minimum(light, np.float32(0.7)) + np.float32(0.3) * over / (over + np.float32(0.45))


def _take(surface: Surface, chosen: NDArray[Any]) -> Surface:
    names = (
        "index",
        "corners",
        "weights",
        "positions",
        "normals",
        "facets",
        "views",
        "origins",
        "footprint",
    )
    parts = {name: getattr(surface, name)[chosen] for name in names}
    return Surface(mesh=surface.mesh, number=surface.number, **parts)


def _outlines(hits: Hits) -> NDArray[np.intp]:
    """Flat numbers of pixels whose neighbour is on another mesh or on a clearly nearer or farther
    part of the same one.
    """
    mesh, depth = hits.mesh, hits.depth
    found = np.zeros(mesh.shape, np.bool_)
    limit = np.float32(0.012)
    across = (mesh[:, 1:] != mesh[:, :-1]) | (np.abs(depth[:, 1:] - depth[:, :-1]) > limit)
    down = (mesh[1:] != mesh[:-1]) | (np.abs(depth[1:] - depth[:-1]) > limit)
    found[:, 1:] |= across
    found[:, :-1] |= across
    found[1:] |= down
    found[:-1] |= down
    return np.flatnonzero(found)


class _Shadows:
    """How much of each light, and of the sky, reaches the pixels of one mesh.

    Inside, the one ray a pixel is averaged over 3x3 pixels; at outlines over those of the 3x3
    pixels that show the same mesh at the same depth, so that nothing leaks round a finger.
    """

    def __init__(
        self,
        scene: Scene3D,
        surface: Surface,
        lighting: Lighting,
        shape: tuple[int, ...] | None,
        edges: NDArray[np.intp],
    ) -> None:
        channels = len(lighting.lights) + 1
        self._width = 0
        self._whole = np.ones((channels, 1), np.float32)
        if shape is None:  # a mesh seen only between pixel centres: too small for shadows
            return
        self._width = width = shape[1]
        tile = (surface.index // width % 3) * 3 + surface.index % width % 3
        raw = np.zeros((channels, *shape), np.float32)
        flat = raw.reshape(channels, -1)
        flat[:, surface.index] = _shares(scene, surface, lighting, tile)
        filled = np.zeros(shape, np.float32)
        filled.ravel()[surface.index] = 1
        depth = np.zeros(shape, np.float32)
        depth.ravel()[surface.index] = surface.positions[:, 2]
        weight = np.maximum(_blurred(filled), np.float32(1e-4))
        self._smooth = np.stack([_blurred(image) / weight for image in raw]).reshape(channels, -1)
        self._filled, self._depth = filled.ravel(), depth.ravel()
        own = edges[self._filled[edges] > 0]
        # Too few neighbours to average over: two more rays.
        where = np.searchsorted(surface.index, own)
        rim = _take(surface, where)
        for turn in (4, 8):  # other rows and other columns of the pattern
            flat[:, own] += _shares(scene, rim, lighting, (tile[where] + turn) % 9)
        flat[:, own] /= 3
        block = [row * width + column for row in (-1, 0, 1) for column in (-1, 0, 1)]
        self._smooth[:, own] = self._mixed(flat, own, self._depth[own], block, 1.0, 0.008)

    def inside(self, pixels: NDArray[np.intp]) -> FloatArray:
        """Shares (lights + sky, N) at pixels that one surface fills."""
        return self._smooth[:, pixels]

    def at_outline(self, pixels: NDArray[np.intp], depth: FloatArray) -> FloatArray:
        """Shares (lights + sky, N) for points at `depth` (N,) somewhere in outline pixels."""
        if not self._width:
            return np.broadcast_to(self._whole, (len(self._whole), len(pixels)))
        cross = [0, -1, 1, -self._width, self._width]
        return self._mixed(self._smooth, pixels, depth, cross, 0.01, 0.004)

    def _mixed(
        self,
        values: FloatArray,
        pixels: NDArray[np.intp],
        depth: FloatArray,
        steps: list[int],
        floor: float,
        scale: float,
    ) -> FloatArray:
        """Values (C, H W) at `steps` from the pixels, weighted 1 / (floor + (dz / scale)^4)."""
        total = np.full(len(pixels), 1e-12, np.float32)
        result = np.zeros((len(values), len(pixels)), np.float32)
        last = len(self._filled) - 1
        for step in steps:
            near = np.clip(pixels + step, 0, last)
            apart = ((self._depth[near] - depth) * np.float32(1 / scale)) ** 2
            weight = self._filled[near] / (np.float32(floor) + apart * apart)
            total += weight
            result += weight * values[:, near]
        result /= total
        result[:, total < 1e-9] = 1
        return result


def _blurred(image: FloatArray) -> FloatArray:
    return np.asarray(cv2.blur(image, (3, 3), borderType=cv2.BORDER_REFLECT), np.float32)


def _disc9() -> FloatArray:
    """Nine points (9, 2) spread over the unit disc, centre first (Vogel's spiral)."""
    number = np.arange(9)
    radius, angle = np.sqrt(number / 8.5), number * np.pi * (3 - np.sqrt(5))
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return points[[4, 1, 7, 3, 0, 5, 8, 2, 6]].astype(np.float32)


_DISC = _disc9()


def _frame(axes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Two unit vectors (N, 3) at right angles to unit axes (N, 3) and to each other.

    T. Duff et al., Building an orthonormal basis, revisited, JCGT 6 (2017).
    """
    x, y, z = axes[:, 0], axes[:, 1], axes[:, 2]
    sign = np.where(z >= 0, np.float32(1), np.float32(-1))
    a = -1 / (sign + z)
    b = x * y * a
    first = np.stack([1 + sign * x * x * a, sign * b, -sign * x], axis=1)
    return first, np.stack([b, sign + y * y * a, -y], axis=1)


def _shares(
    scene: Scene3D, surface: Surface, lighting: Lighting, tile: NDArray[np.intp]
) -> FloatArray:
    """One ray to every light and one to the sky: free or not (lights + sky, N)."""
    result = [_light_share(scene, surface, light, tile) for light in lighting.lights]
    if lighting.occlusion_reach > 0:
        result.append(_sky_share(scene, surface, lighting.occlusion_reach, tile))
    else:
        result.append(np.ones(len(tile), np.float32))
    return np.stack(result)


def _light_share(
    scene: Scene3D, surface: Surface, light: Light, tile: NDArray[np.intp]
) -> FloatArray:
    """1 where one ray to a point of the light is free, 0 where blocked; 1 for surfaces turned away
    (they are dark anyway).
    """
    towards, distance, _ = light.reaching(surface.origins)
    result = np.ones(len(tile), np.float32)
    facing = np.flatnonzero(np.einsum("nc,nc->n", surface.normals, towards) > 0)
    if not len(facing):
        return result
    axis = np.ascontiguousarray(towards[facing])
    first, second = _frame(axis)
    spot = _DISC[tile[facing]] * np.float32(light.size)
    rays = axis + first * spot[:, :1] + second * spot[:, 1:]
    blocked = scene.blocked(surface.origins[facing], rays.astype(np.float32), distance[facing])
    result[facing[blocked]] = 0
    return result


def _sky_share(
    scene: Scene3D, surface: Surface, reach: float, tile: NDArray[np.intp]
) -> FloatArray:
    """1 where one cosine-distributed ray is free for `reach` metres, else 0."""
    first, second = _frame(surface.normals)
    # A little turn from pixel to pixel keeps nine directions from showing as bands.
    angle = np.sin(surface.index * np.float32(12.9898)).astype(np.float32) * np.float32(0.3)
    cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
    spot = _DISC[tile] * np.float32(0.96)
    spot = spot * cosine + spot[:, ::-1] * sine * np.array([-1, 1], np.float32)
    rise = np.sqrt(np.maximum(1 - (spot**2).sum(axis=1, keepdims=True), np.float32(0)))
    rays = surface.normals * rise + first * spot[:, :1] + second * spot[:, 1:]
    # Rays that would start below the flat triangle are mirrored up.
    above = np.einsum("nc,nc->n", rays, surface.facets) - np.float32(0.03)
    rays -= np.minimum(2 * above, 0)[:, None] * surface.facets
    # Reaches from a third to the whole: what is far hides less of the sky.
    limit = np.float32(reach) * (np.float32(0.35) + np.float32(0.65 / 8) * (tile * 5 % 9))
    return 1 - scene.blocked(surface.origins, rays.astype(np.float32), limit).astype(np.float32)


def _radiance(surface: Surface, shares: FloatArray, lighting: Lighting) -> FloatArray:
    """Linear light (N, 3) leaving the hits towards the viewer; `shares` (lights + sky, N)."""
    looks = surface.mesh.material.evaluate(surface)
    normals, views = looks.normals, surface.views
    facing = np.maximum(np.einsum("nc,nc->n", normals, views), np.float32(0.05))
    open_sky = shares[-1]
    fill = lighting.ambient(normals)
    # Light bounced between bright neighbours colours the corners (A. Jimenez et al., Practical
    # real-time strategies for accurate indirect occlusion, 2016, eq. 10 in spirit): a dark corner
    # of a bright surface is less dark.
    share = open_sky[:, None]
    bounced = share / (1 - looks.albedo * (1 - share) * np.float32(0.8))
    diffuse = fill * bounced
    rim = (1 - looks.reflectance) * (1 - facing) ** 5 * (1 - looks.roughness) ** 2
    fresnel = looks.reflectance + rim
    mirrored = 2 * facing[:, None] * normals - views
    gloss = lighting.ambient(mirrored) * (fresnel * open_sky)[:, None]
    for number, light in enumerate(lighting.lights):
        towards, _, power = light.reaching(surface.positions)
        cosine = np.einsum("nc,nc->n", normals, towards)
        free = shares[number]
        diffuse = diffuse + power * _soft_cosine(cosine, free, looks)
        lit = np.maximum(cosine, 0) * free
        gloss = gloss + power * (_highlight(looks, towards, views, cosine, facing) * lit)[:, None]
    return looks.albedo * diffuse + gloss


def _soft_cosine(cosine: FloatArray, free: FloatArray, looks: Looks) -> FloatArray:
    """Diffuse share (N, 3): Lambert, or for soft skin light that wraps past the terminator, red
    farthest.

    Wrap lighting, S. Green, GPU Gems (2004), chapter 16; squared so that it ends smoothly and keeps
    the total energy near 1. Penumbrae are tinted likewise: red light reaches farther into the
    shadow.
    """
    if not looks.softness.any():
        return (np.maximum(cosine, 0) * free)[:, None]
    wrap = looks.softness
    # Where light only grazes, what comes through the flesh hides the edge of a shadow.
    free = 1 - (1 - free) * np.clip(cosine * np.float32(4), 0, 1)
    wrapped = np.maximum((cosine[:, None] + wrap) / (1 + wrap), 0) ** (1 + wrap)
    return wrapped * free[:, None] ** (1 - np.minimum(wrap, np.float32(0.8)))


def _highlight(
    looks: Looks, towards: FloatArray, views: FloatArray, cosine: FloatArray, facing: FloatArray
) -> FloatArray:
    """GGX highlight (N,) times pi (irradiance is given in units where white paper is 1); B. Walter
    et al. (2007).
    """
    half = towards + views
    half = half / np.maximum(np.linalg.norm(half, axis=1, keepdims=True), np.float32(1e-6))
    alpha = looks.roughness**2
    along = np.clip(np.einsum("nc,nc->n", looks.normals, half), 0, 1)
    spread = alpha**2 / (along**2 * (alpha**2 - 1) + 1) ** 2
    reach = alpha / 2
    masking = 0.25 / (
        (np.maximum(cosine, 0) * (1 - reach) + reach) * (facing * (1 - reach) + reach)
    )
    grazing = 1 - np.clip(np.einsum("nc,nc->n", views, half), 0, 1)
    fresnel = looks.reflectance + (1 - looks.reflectance) * grazing**5
    return spread * masking * fresnel
