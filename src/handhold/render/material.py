"""What a surface looks like at its hits: colour, gloss and softness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.scene import FloatArray

if TYPE_CHECKING:
    from handhold.render.mesh import RenderMesh
    from handhold.render.raycast import Surface

_VALUES = np.arange(256) / 255
SRGB_TO_LINEAR = np.where(
    _VALUES <= 0.04045, _VALUES / 12.92, ((_VALUES + 0.055) / 1.055) ** 2.4
).astype(np.float32)
"""(256,): linear light of an 8-bit sRGB value (IEC 61966-2-1)."""

_CODES = np.linspace(0, 1, 4097)
_LINEAR_TO_SRGB = np.where(
    _CODES <= 0.0031308, _CODES * 12.92, 1.055 * _CODES ** (1 / 2.4) - 0.055
).astype(np.float32)


_LINEAR_TO_BYTE = (_LINEAR_TO_SRGB * 255 + 0.5).astype(np.uint8)


def to_linear(image: NDArray[np.uint8]) -> FloatArray:
    """Linear light 0..1 float32 of sRGB bytes, any shape."""
    return SRGB_TO_LINEAR.take(image)


def to_srgb(light: FloatArray) -> FloatArray:
    """sRGB 0..1 float32 of linear light, any shape; clipped; exact to 1/1000 at the dark end,
    better elsewhere.
    """
    return _LINEAR_TO_SRGB.take(_codes(light))


def to_bytes(light: FloatArray) -> NDArray[np.uint8]:
    """`to_srgb` as rounded bytes."""
    return _LINEAR_TO_BYTE.take(_codes(light))


def _codes(light: FloatArray) -> NDArray[np.intp]:
    return (np.minimum(np.maximum(light, 0), 1) * 4096 + 0.5).astype(np.intp)


@dataclass(kw_only=True, eq=False)
class Looks:
    """Shading inputs of N hits.

    albedo (N, 3): linear diffuse colour; normals (N, 3): after bumps; both views of rows.
    roughness (N,): GGX, 0..1. reflectance (N,): mirror reflectance at normal incidence. softness
    (3,): how far light wraps round the edge of shadow in each colour (skin).
    """

    albedo: FloatArray
    normals: FloatArray
    roughness: FloatArray
    reflectance: FloatArray
    softness: FloatArray


class Shader(Protocol):
    """Anything that says what a surface looks like."""

    def evaluate(self, surface: Surface) -> Looks: ...


@dataclass(frozen=True, kw_only=True)
class Material:
    """A plain material: texture, else vertex colours, times `color`.

    color: linear RGB 0..1 (multiplies texture or vertex colours). roughness 0..1, reflectance 0..1
    (plastic 0.04).
    """

    color: tuple[float, float, float] = (1.0, 1.0, 1.0)
    roughness: float = 0.5
    reflectance: float = 0.04

    def __post_init__(self) -> None:
        if not (0 < self.roughness <= 1 and 0 <= self.reflectance <= 1):
            raise InputError(
                "Material: expected roughness in (0, 1] and reflectance in [0, 1], found "
                f"{self.roughness} and {self.reflectance}"
            )

    def evaluate(self, surface: Surface) -> Looks:
        """What the hits look like."""
        count = len(surface.index)
        mesh = surface.mesh
        color = np.asarray(self.color, np.float32)[:, None]
        if mesh.texture is not None and mesh.uv is not None:
            albedo = sample_texture(surface) * color
        elif mesh.vertex_colors is not None:
            albedo = surface.interpolate(to_linear(mesh.vertex_colors)) * color
        else:
            albedo = np.tile(color, (1, count))
        return Looks(
            albedo=albedo.T,
            normals=surface.normals.T,
            roughness=np.full(count, self.roughness, np.float32),
            reflectance=np.full(count, self.reflectance, np.float32),
            softness=np.zeros(3, np.float32),
        )


def texture_levels(mesh: RenderMesh) -> tuple[list[FloatArray], float]:
    """The texture in linear light (3, h, w) at full, half, quarter ... size, and texels a metre of
    the full one; kept with the mesh.
    """
    if "texture" not in mesh.looks:
        if mesh.texture is None or mesh.uv is None:
            raise InputError("RenderMesh: a texture needs uv")
        levels = [np.ascontiguousarray(to_linear(mesh.texture).transpose(2, 0, 1))]
        while min(levels[-1].shape[1:]) >= 8:
            height, width = levels[-1].shape[1:]
            last = levels[-1][:, : height // 2 * 2, : width // 2 * 2]
            total = last[:, ::2, ::2] + last[:, 1::2, ::2] + last[:, ::2, 1::2]
            levels.append((total + last[:, 1::2, 1::2]) / 4)
        corners, uv = mesh.vertices[mesh.faces], mesh.uv[mesh.faces]
        area = np.linalg.norm(
            np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
        ).sum()
        edge0, edge1 = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
        share = np.abs(edge0[:, 0] * edge1[:, 1] - edge0[:, 1] * edge1[:, 0]).sum()
        texels = share * mesh.texture.shape[0] * mesh.texture.shape[1]
        mesh.looks["texture"] = levels, float(np.sqrt(texels / max(area, 1e-12)))
    return mesh.looks["texture"]


def sample_texture(surface: Surface) -> FloatArray:
    """Linear colour (3, N) of the mesh's texture at the hits: bilinear, at the level that fits the
    pixel size.
    """
    levels, density = texture_levels(surface.mesh)
    texels_a_pixel = density * surface.pixel
    level = int(np.clip(np.round(np.log2(max(texels_a_pixel, 1e-6))), 0, len(levels) - 1))
    image = levels[level]
    height, width = image.shape[1:]
    u, v = surface.interpolate(np.asarray(surface.mesh.uv, np.float32))
    # Clamped, not wrapped: an atlas has unrelated pictures at its opposite edges.
    x = np.minimum(np.maximum(u * width - 0.5, 0), width - 1)
    y = np.minimum(np.maximum((1 - v) * height - 0.5, 0), height - 1)
    column, row = x.astype(np.intp), y.astype(np.intp)
    along, down = x - column, y - row
    right = np.minimum(column + 1, width - 1)
    top, bottom = row * width, np.minimum(row + 1, height - 1) * width
    flat = image.reshape(3, -1)
    texels = flat.take(np.stack([top + column, top + right, bottom + column, bottom + right]), 1)
    upper, lower = 1 - down, down
    shares = np.stack([upper * (1 - along), upper * along, lower * (1 - along), lower * along])
    return np.einsum("ckn,kn->cn", texels, shares.astype(np.float32))
