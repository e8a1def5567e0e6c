"""From hits to a picture: light, shadow, gloss, and edges without stairs.

Shadows and sky occlusion are traced once a pixel with a 3x3 pattern of directions and smoothed over
the same 3x3 pixels of the same mesh; only pixels at outlines are looked at again with several rays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.render.lights import Lighting
from handhold.render.material import to_bytes, to_linear
from handhold.render.mesh import dot_rows
from handhold.render.raycast import (
    Group,
    Hits,
    Points,
    Scene3D,
    Surface,
    boxes,
    cast,
    ray_directions,
)
from handhold.render.shadows import Shadows
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
    light = shade(hits, scene, lighting or Lighting(), camera, samples=samples)
    return Picture(image=_finish(light, background, exposure), hits=hits)


@dataclass(frozen=True, kw_only=True, eq=False)
class ShadedPixels:
    """Flat pixel numbers (N,), their linear light (3, N) and the share (N,) of each that meshes
    cover.
    """

    pixels: NDArray[np.intp]
    light: FloatArray
    coverage: FloatArray


def shade(
    hits: Hits, scene: Scene3D, lighting: Lighting, camera: Camera, *, samples: int = 4
) -> ShadedPixels:
    """Linear light of the pixels that meshes cover, wholly or in part. `hits` come from `cast`."""
    seen = hits.mesh.ravel()
    edges = _outlines(hits) if samples > 1 else np.zeros(0, np.intp)
    is_edge = np.zeros(seen.shape, np.bool_)
    is_edge[edges] = True
    offsets = _OFFSETS[samples]
    fine = _trace_between(scene, camera, edges, offsets)
    both = _joined(hits, fine)
    # First what is shaded, mesh after mesh: pixels away from outlines and the rays at outlines;
    # then the pixels at outlines, which only carry shadows.
    count, meshes = seen.size, len(scene.meshes)
    key = np.where(both.mesh < 0, 2 * meshes, both.mesh)
    key[edges] += np.where(seen[edges] < 0, 0, meshes).astype(np.int32)
    order, groups = _sorted(key, 2 * meshes)
    shaded_groups = [group for group in groups if group[0] < meshes]
    shaded = slice(0, shaded_groups[-1][1].stop if shaded_groups else 0)
    groups = [(number % meshes, part) for number, part in groups]
    points = Points.of(scene, both, order, groups)
    pixel = np.concatenate([np.arange(count), np.repeat(edges, samples)]).take(order)
    is_fine = order >= count
    centres = np.flatnonzero(~is_fine)
    hits.keep_normals(order.take(centres), points.normals.take(centres, axis=1))

    shadows = Shadows(scene, lighting, points, centres, pixel, hits, is_edge)
    inner = np.flatnonzero(~is_fine[shaded])
    outer = np.flatnonzero(is_fine[shaded])
    shares = np.zeros((len(lighting.lights) + 1, shaded.stop), np.float32)
    shares[:, inner] = shadows.inside(pixel.take(inner))
    shares[:, outer] = shadows.at_outline(
        pixel.take(outer), both.mesh.take(order.take(outer)), points.depth.take(outer)
    )
    focal = float(camera.intrinsics[0, 0])
    surfaces = [points.surface(scene, g, pixel[g[1]], focal) for g in shaded_groups]
    color = _radiance(surfaces, points, shaded, shares, lighting)
    light, coverage = np.zeros((3, count), np.float32), np.zeros(count, np.float32)
    light[:, pixel.take(inner)] = color.take(inner, axis=1)
    coverage[pixel.take(inner)] = 1
    if len(outer):
        where, color = pixel.take(outer), color.take(outer, axis=1) * np.float32(1 / samples)
        for channel in range(3):
            light[channel] += np.bincount(where, color[channel], minlength=count)
        coverage += np.bincount(where, minlength=count).astype(np.float32) * np.float32(1 / samples)
    covered = np.flatnonzero(coverage)
    return ShadedPixels(
        pixels=covered, light=light.take(covered, axis=1), coverage=coverage.take(covered)
    )


def _trace_between(
    scene: Scene3D, camera: Camera, edges: NDArray[np.intp], offsets: FloatArray
) -> Hits:
    """First hits of several rays through each of the pixels `edges`, pixel after pixel."""
    rows, columns = np.divmod(edges, camera.width)
    centres = np.stack([columns, rows], axis=1).astype(np.float32)
    directions = ray_directions(camera, (centres[:, None] + offsets[None]).reshape(-1, 2))
    candidates = []
    for left, top, right, bottom in boxes(scene, camera):
        near = (columns >= left - 1) & (columns <= right) & (rows >= top - 1) & (rows <= bottom)
        each = np.flatnonzero(near)[:, None] * len(offsets) + np.arange(len(offsets))
        candidates.append(each.ravel())
    return scene.trace(directions, candidates)


def _joined(first: Hits, second: Hits) -> Hits:
    names = ("mesh", "face", "u", "v", "depth")
    parts = {n: np.concatenate([getattr(first, n).ravel(), getattr(second, n)]) for n in names}
    directions = np.concatenate([first.directions.reshape(-1, 3), second.directions])
    amodal = np.zeros((0, len(directions)), np.bool_)
    return Hits(**parts, amodal=amodal, directions=directions)


def _sorted(key: NDArray[np.int32], limit: int) -> tuple[NDArray[np.intp], list[Group]]:
    """Numbers of the keys below `limit`, in their order, and the groups of equal ones."""
    order = np.argsort(key.astype(np.int16), kind="stable")
    sizes = np.bincount(key, minlength=limit + 1)[:limit]
    ends = np.cumsum(sizes)
    groups = [
        (number, slice(int(end - size), int(end)))
        for number, (end, size) in enumerate(zip(ends, sizes, strict=True))
        if size
    ]
    return order[: int(sizes.sum())], groups


def _finish(
    shaded: ShadedPixels, background: NDArray[np.uint8], exposure: float
) -> NDArray[np.uint8]:
    image = background.reshape(-1, 3).copy()
    total = _roll_off(shaded.light * np.float32(exposure))
    partly = np.flatnonzero(shaded.coverage < 1)
    behind = to_linear(image.take(shaded.pixels.take(partly), axis=0).T)
    total[:, partly] += behind * (1 - shaded.coverage.take(partly))
    image[shaded.pixels] = to_bytes(total).T
    return image.reshape(background.shape)


def _roll_off(light: FloatArray) -> FloatArray:
    """Highlights bend towards white from 0.7 on, as a camera's do, instead of being cut."""
    over = np.maximum(light - np.float32(0.7), 0)
    return np.minimum(light, np.float32(0.7)) + np.float32(0.3) * over / (over + np.float32(0.45))


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


def _radiance(
    surfaces: list[Surface],
    points: Points,
    shaded: slice,
    shares: FloatArray,
    lighting: Lighting,
) -> FloatArray:
    """Linear light (3, N) leaving the shaded hits towards the viewer; `shares` (lights + sky, N).

    `surfaces` are the shaded hits mesh after mesh.
    """
    count = shaded.stop
    albedo, normals = np.zeros((3, count), np.float32), np.zeros((3, count), np.float32)
    roughness, reflectance = np.zeros(count, np.float32), np.zeros(count, np.float32)
    parts = []
    start = 0
    for surface in surfaces:
        looks, part = (
            surface.mesh.material.evaluate(surface),
            slice(start, start := start + len(surface.index)),
        )
        albedo[:, part], normals[:, part] = looks.albedo.T, looks.normals.T
        roughness[part], reflectance[part] = looks.roughness, looks.reflectance
        parts.append((part, looks.softness))
    views, positions = points.views[:, shaded], points.positions[:, shaded]
    facing = np.maximum(dot_rows(normals, views), np.float32(0.05))
    open_sky = shares[-1]
    # Light bounced between bright neighbours colours the corners (A. Jimenez et al., Practical
    # real-time strategies for accurate indirect occlusion, 2016, eq. 10 in spirit): a dark corner
    # of a bright surface is less dark.
    diffuse = lighting.ambient(normals)
    diffuse *= open_sky / (1 - albedo * ((1 - open_sky) * np.float32(0.8)))
    rim = (1 - reflectance) * _fifth(1 - facing) * (1 - roughness) ** 2
    fresnel = reflectance + rim
    gloss = lighting.ambient((2 * facing) * normals - views)
    gloss *= fresnel * open_sky
    for number, light in enumerate(lighting.lights):
        towards, _, power = light.reaching(positions)
        cosine = dot_rows(normals, towards)
        free = shares[number]
        for part, softness in parts:
            here = power if power.shape[1] == 1 else power[:, part]
            diffuse[:, part] += here * _soft_cosine(cosine[part], free[part], softness)
        lit = np.maximum(cosine, 0) * free
        lit *= _highlight(normals, roughness, reflectance, towards, views, cosine, facing)
        gloss += power * lit
    return albedo * diffuse + gloss


def _soft_cosine(cosine: FloatArray, free: FloatArray, softness: FloatArray) -> FloatArray:
    """Diffuse share (3, N): Lambert, or for soft skin light that wraps past the terminator, red
    farthest.

    Wrap lighting, S. Green, GPU Gems (2004), chapter 16; squared so that it ends smoothly and keeps
    the total energy near 1. Penumbrae are tinted likewise: red light reaches farther into the
    shadow.
    """
    if not softness.any():
        return (np.maximum(cosine, 0) * free)[None]
    wrap = softness[:, None]
    # Where light only grazes, what comes through the flesh hides the edge of a shadow.
    free = 1 - (1 - free) * np.clip(cosine * np.float32(4), 0, 1)
    wrapped = np.maximum((cosine + wrap) / (1 + wrap), 0) ** (1 + wrap)
    dim = np.flatnonzero(free < 1)
    wrapped[:, dim] *= free.take(dim) ** (1 - np.minimum(wrap, np.float32(0.8)))
    return wrapped


def _highlight(
    normals: FloatArray,
    roughness: FloatArray,
    reflectance: FloatArray,
    towards: FloatArray,
    views: FloatArray,
    cosine: FloatArray,
    facing: FloatArray,
) -> FloatArray:
    """GGX highlight (N,) times pi (irradiance is given in units where white paper is 1); B. Walter
    et al. (2007).
    """
    half = towards + views
    over = 1 / np.maximum(np.sqrt(dot_rows(half, half)), np.float32(1e-6))
    alpha = roughness * roughness
    along = np.clip(dot_rows(normals, half) * over, 0, 1)
    square = alpha * alpha
    base = along * along * (square - 1) + 1
    reach = alpha / 2
    masking = (np.maximum(cosine, 0) * (1 - reach) + reach) * (facing * (1 - reach) + reach)
    grazing = 1 - np.clip(dot_rows(views, half) * over, 0, 1)
    fresnel = reflectance + (1 - reflectance) * _fifth(grazing)
    return square * fresnel * np.float32(0.25) / (base * base * masking)


def _fifth(values: FloatArray) -> FloatArray:
    square = values * values
    return square * square * values
