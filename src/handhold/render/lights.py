"""Lights: lamps that throw shadows, and the sky that fills them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.render.material import to_linear
from handhold.render.mesh import dot_rows
from handhold.scene import FloatArray

Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class DirectionalLight:
    """Light from very far: `towards` points from the scene to the light (camera frame), `color` is
    linear irradiance on a surface that faces it (1 makes white paper white), `size` the tangent of
    its half angle (0.005 sun, 0.3 window).
    """

    towards: Triple
    color: Triple = (1.0, 1.0, 1.0)
    size: float = 0.05

    def __post_init__(self) -> None:
        if not (np.isfinite(self.towards).all() and np.linalg.norm(self.towards) > 0):
            raise InputError(
                f"DirectionalLight.towards: expected a direction, found {self.towards}"
            )
        if self.size < 0:
            raise InputError(f"DirectionalLight.size: expected 0 or more, found {self.size}")

    def reaching(self, points: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """For points (3, N): unit directions to the light (3, 1), one for all, distances (N,),
        irradiance (3, 1).
        """
        direction = np.asarray(self.towards, np.float32) / np.float32(np.linalg.norm(self.towards))
        distance = np.full(points.shape[1], 100, np.float32)
        return direction[:, None], distance, np.asarray(self.color, np.float32)[:, None]


@dataclass(frozen=True, kw_only=True)
class PointLight:
    """A lamp at `position` (metres, camera frame); `color`: linear irradiance at `reference`
    metres; falls off with the square. `radius` metres of the glowing ball makes its shadows soft.
    """

    position: Triple
    color: Triple = (1.0, 1.0, 1.0)
    radius: float = 0.03
    reference: float = 1.0

    def __post_init__(self) -> None:
        if self.radius < 0 or self.reference <= 0:
            raise InputError(
                "PointLight: expected radius >= 0 and reference > 0, "
                f"found {self.radius} and {self.reference}"
            )

    @property
    def size(self) -> float:
        """Tangent of the half angle seen from the reference distance."""
        return self.radius / self.reference

    def reaching(self, points: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """For points (3, N): unit directions to the light (3, N), distances (N,), irradiance
        (3, N).
        """
        away = np.asarray(self.position, np.float32)[:, None] - points
        distance = np.maximum(np.sqrt(dot_rows(away, away)), np.float32(1e-4))
        over = np.float32(1) / distance
        fall = (np.float32(self.reference) * over) ** 2
        return away * over, distance, np.asarray(self.color, np.float32)[:, None] * fall


Light = DirectionalLight | PointLight


@dataclass(frozen=True, kw_only=True)
class Lighting:
    """All light of a scene. sky and ground: linear light from above and below (`up`: unit-ish,
    camera frame: up is -y), blended by the direction of the normal. occlusion_reach: metres within
    which neighbours hide the sky (0 turns it off).
    """

    lights: tuple[Light, ...] = (
        DirectionalLight(towards=(-0.4, -0.8, -0.6), color=(1.0, 0.97, 0.92)),
    )
    sky: Triple = (0.36, 0.38, 0.42)
    ground: Triple = (0.18, 0.16, 0.14)
    up: Triple = (0.0, -1.0, -0.2)
    occlusion_reach: float = 0.05

    def ambient(self, normals: FloatArray) -> FloatArray:
        """Linear light (3, N) from the half space above each normal (3, N)."""
        up = np.asarray(self.up, np.float32) / np.float32(2 * np.linalg.norm(self.up))
        sky, ground = (np.asarray(c, np.float32)[:, None] for c in (self.sky, self.ground))
        # ground + (sky - ground) (1 + up . normal) / 2, as one product of matrices
        return ((sky - ground) * up) @ normals + (sky + ground) / 2


def _tinted(warmth: float, power: float) -> Triple:
    """Lamp colour from cold (-1) to warm (1)."""
    return (
        float(power * (1 + 0.16 * warmth)),
        float(power),
        float(power * (1 - 0.26 * warmth)),
    )


def random_lighting(
    rng: np.random.Generator, background: NDArray[np.uint8] | None = None
) -> Lighting:
    """A plausible room or outdoor light: one key lamp or window, often a weaker second, fill from
    all sides.

    background (H, W, 3) uint8: its upper and lower colours tint the fill, so that hand and photo
    belong together.
    """
    warmth = float(np.clip(rng.normal(0.15, 0.45), -1, 1))
    key = float(rng.uniform(0.6, 1.5))
    fill = float(rng.uniform(0.22, 0.6))
    sky = np.array(_tinted(-0.4 * warmth, fill))
    ground = np.array(_tinted(0.5 * warmth, 0.5 * fill))
    if background is not None:
        rows = background.shape[0] // 2
        share = rng.uniform(0.3, 0.8)
        for side, part in ((sky, background[:rows]), (ground, background[rows:])):
            seen = to_linear(part[::4, ::4]).reshape(-1, 3).mean(axis=0)
            tint = seen / max(float(seen.mean()), 1e-3)
            side *= 1 + share * (np.clip(tint, 0.4, 1.8) - 1)
        brightness = float(to_linear(background[::4, ::4]).mean())
        exposure = np.clip((0.25 + brightness) / 0.5, 0.55, 1.3)
        key, sky, ground = key * exposure, sky * exposure, ground * exposure
    lights: list[Light] = []
    towards = (
        float(rng.normal(0, 0.8)),
        float(-abs(rng.normal(0.8, 0.5)) if rng.random() < 0.85 else rng.normal(0, 0.6)),
        float(-abs(rng.normal(0.6, 0.5))),
    )
    lights.append(
        DirectionalLight(
            towards=towards, color=_tinted(warmth, key), size=float(rng.choice([0.01, 0.08, 0.25]))
        )
    )
    if rng.random() < 0.5:
        where = rng.normal(0, 0.6, 3) + [0, -0.3, 0]
        lights.append(
            PointLight(
                position=(float(where[0]), float(where[1]), float(where[2])),
                color=_tinted(float(rng.uniform(-1, 1)), float(rng.uniform(0.05, 0.3))),
                reference=0.8,
            )
        )
    up = rng.normal(0, 0.2, 3) + [0, -1, -0.2]
    return Lighting(
        lights=tuple(lights),
        sky=(float(sky[0]), float(sky[1]), float(sky[2])),
        ground=(float(ground[0]), float(ground[1]), float(ground[2])),
        up=(float(up[0]), float(up[1]), float(up[2])),
    )
