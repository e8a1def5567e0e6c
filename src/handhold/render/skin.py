"""Skin: tone, blood, folds, nails and the small unevenness that makes a hand look alive.

Everything is evaluated at the hits, in rest-pose coordinates, so it sticks to a moving hand and is
as sharp as the pixels. Colours are mixed in CIELAB, where published skin measurements live.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.render.hand_pattern import HandPattern
from handhold.render.material import Looks
from handhold.render.mesh import dot_rows
from handhold.render.noise import WaveNoise, mixed
from handhold.render.raycast import Surface
from handhold.scene import FloatArray

# Lightness L*, redness a*, yellowness b* along the range of human skin, dark to light: the trend of
# spectrophotometer surveys (for example Xiao et al., Skin Research and Technology 2017).
_TREND = np.array(
    [
        [26.0, 7.5, 9.0],
        [34.0, 10.0, 14.0],
        [42.0, 12.0, 18.0],
        [50.0, 12.5, 20.0],
        [57.0, 11.5, 19.0],
        [63.0, 10.5, 17.5],
        [70.0, 9.5, 15.5],
        [75.0, 8.5, 13.5],
    ]
)
_XYZ_TO_RGB = np.array(
    [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ],
    np.float32,
)
_WHITE_TO_RGB = _XYZ_TO_RGB * np.array([0.95047, 1.0, 1.08883], np.float32)


_FOLD_PLACES = np.array([[0, 0.0028, -0.0042, -0.0018, 0.0009, 0.0034]], np.float32).T
"""Two folds on the palm's side of a joint and four wrinkles on its back, metres along the bone."""
_NEXT = np.array([0, 2, 3, 0, 5, 6, 0, 8, 9, 0, 11, 12, 0, 14, 15, 0])
_IS_ROOT = np.isin(np.arange(16), [1, 4, 7, 10]).astype(np.float32)


def lab_to_linear(lab: FloatArray) -> FloatArray:
    """Linear sRGB (N, 3), not clipped, of CIELAB (N, 3) under D65 (CIE 15)."""
    return _linear_rows(*np.asarray(lab, np.float32).T).T


def _linear_rows(lightness: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    f = np.zeros((3, len(lightness)), np.float32)
    np.multiply(lightness + 16, np.float32(1 / 116), out=f[1])
    np.add(f[1], a * np.float32(1 / 500), out=f[0])
    np.subtract(f[1], b * np.float32(1 / 200), out=f[2])
    xyz = np.where(f > 6 / 29, f * f * f, (f - 4 / 29) * (3 * (6 / 29) ** 2))
    return _WHITE_TO_RGB @ xyz


def skin_lab(lightness: float) -> tuple[float, float, float]:
    """Typical L*, a*, b* of the back of a hand for a lightness of 26 (darkest) to 75."""
    a = np.interp(lightness, _TREND[:, 0], _TREND[:, 1])
    b = np.interp(lightness, _TREND[:, 0], _TREND[:, 2])
    return float(lightness), float(a), float(b)


@dataclass(frozen=True, kw_only=True)
class SkinMaterial:
    """The skin of one person.

    tone: L*, a*, b* of the back of the hand. pattern: the hand's landmarks, None for bare arms.
    palm_lift: how much of the way to a light palm (L* 66) the palm's colour goes.
    blood: scale of the redness of tips and knuckles. blotches: their spread in L*.
    folds: depth of creases and palm lines. slope: roughness of the fine relief. hair: 0..1.
    nail_color: linear RGB of nail polish or None. glove: linear RGB of a plain glove or None.
    roughness, reflectance: of the skin's oily film. seed: of blotches, moles and relief.
    The mesh's `rest` must be the right hand's rest pose, for left hands too.
    """

    tone: tuple[float, float, float] = (63.0, 10.5, 17.5)
    pattern: HandPattern | None = field(default=None, compare=False)
    palm_lift: float = 0.45
    blood: float = 1.0
    blotches: float = 1.3
    folds: float = 1.0
    slope: float = 0.06
    hair: float = 0.3
    nail_color: tuple[float, float, float] | None = None
    glove: tuple[float, float, float] | None = None
    roughness: float = 0.5
    reflectance: float = 0.028
    seed: int = 0

    def __post_init__(self) -> None:
        if not 10 <= self.tone[0] <= 95:
            raise InputError(f"SkinMaterial.tone: expected L* in 10..95, found {self.tone[0]}")
        if not (0 < self.roughness <= 1):
            raise InputError(
                f"SkinMaterial.roughness: expected a number in (0, 1], found {self.roughness}"
            )

    def evaluate(self, surface: Surface) -> Looks:
        """What the hits look like. Raises InputError when the mesh has no rest positions."""
        if self.glove is not None:
            return self._gloved(surface)
        pixel, pattern = surface.pixel, self.pattern
        cornered = surface.resting() if pattern is None else surface.at_corners(pattern.rows)
        fields = surface.blend(cornered)
        rest = fields[:3]
        noise = _noise(self.seed)
        terms = [noise.relief.slopes(pixel), noise.blotches.values(pixel)]
        terms += [noise.flush.values(pixel), noise.veins.values(pixel)]
        hairy = pattern is not None and self.hair > 0 and noise.hair.kept(pixel) > 0
        if hairy:
            terms.append(noise.hair.values(pixel, np.array([0.25, 1, 1], np.float32)))
        waves = mixed(terms, rest)
        lightness = self.tone[0] + self.blotches * waves[3]
        red = self.tone[1] + 0.8 * self.blotches * waves[4]
        yellow = np.full(len(lightness), self.tone[2], np.float32)
        roughness = np.full(len(lightness), self.roughness, np.float32)
        reflectance = np.full(len(lightness), self.reflectance, np.float32)
        labels = None
        if pattern is not None:
            palm, flow = fields[6], self.blood * fields[7]
            lightness += palm * (self.palm_lift * (68 - lightness)) - 3 * flow
            lightness -= (1 - palm) * np.maximum(waves[5] - 0.7, 0) * 1.2
            red += 3 * palm + 8.5 * flow
            yellow -= 1.5 * palm
            if hairy:
                lightness -= (5 * self.hair) * fields[8] * np.maximum(waves[6], 0)
        if pattern is not None and surface.mesh.labels is not None:
            labels = surface.labels()
            if self.folds > 0:
                depth = self._fold(pattern, rest, fields[6], labels, pixel)
                lightness -= depth * 7.5
                red += depth * 2.5
        bent = surface.normals - _to_camera(waves[:3] * self.slope, cornered[:3], surface)
        albedo = _linear_rows(lightness, red, yellow)
        if pattern is not None and labels is not None:
            self._nails(pattern, albedo, roughness, reflectance, bent, fields, labels, surface)
        return Looks(
            albedo=np.minimum(np.maximum(albedo, 0.004), 0.95).T,
            normals=_unit(bent).T,
            roughness=roughness,
            reflectance=reflectance,
            softness=np.array([0.32, 0.13, 0.09], np.float32),
        )

    def _fold(
        self,
        pattern: HandPattern,
        rest: FloatArray,
        palm: FloatArray,
        labels: NDArray[Any],
        pixel: float,
    ) -> FloatArray:
        """Depth (N,) of the lines where fingers bend (both sides) and across the palm."""
        sigma = np.float32(max(0.0005, 0.45 * pixel))
        strength = np.float32(self.folds * min(1.0, (0.0009 / sigma)) ** 0.7)
        points = np.ascontiguousarray(pattern.features.joints.T, np.float32)
        bones = np.ascontiguousarray(pattern.features.crease_normals.T, np.float32)
        # Every place can show two folds: at the near and at the far end of its bone.
        palmar = np.flatnonzero(labels == 0)
        roots = np.array([1, 4, 7, 10, 13])
        joint = np.concatenate([labels, _NEXT.take(labels)])
        if len(palmar):
            apart = rest.take(palmar, axis=1)[:, None] - points[:, roots, None]
            joint[palmar] = roots[np.einsum("ckn,ckn->kn", apart, apart).argmin(axis=0)]
        here = np.flatnonzero(joint)
        joint = joint.take(here)
        place = here % len(labels)
        offset = rest.take(place, axis=1) - points.take(joint, axis=1)
        along = dot_rows(offset, bones.take(joint - 1, axis=1))
        # A finger's root folds well in front of the joint, at the web.
        root = _IS_ROOT.take(joint)
        along -= root * np.float32(0.014)
        within = np.flatnonzero(np.abs(along) < 0.005 + 2 * sigma)
        here, place = here.take(within), place.take(within)
        along, root = along.take(within), root.take(within)
        offset = offset.take(within, axis=1)
        wave = np.sin(300 * rest[1].take(place) + 700 * rest[2].take(place))
        along = (along + np.float32(0.0006) * wave) / (np.float32(np.sqrt(2)) * sigma)
        lines = along - _FOLD_PLACES / (np.float32(np.sqrt(2)) * sigma)
        lines = np.exp(-lines * lines)
        close = np.exp(-dot_rows(offset, offset) / np.float32(2 * 0.012**2))
        side = palm.take(place)
        folds = side * (lines[0] + np.float32(0.4) * lines[1])
        wrinkles = (1 - side) * (1 - root) * np.float32(0.42)
        wrinkles *= lines[2] + lines[3] + lines[4] + lines[5]
        both = np.zeros((2, len(labels)), np.float32)
        both.ravel()[here] = close * (folds + wrinkles)
        depth = both[0] + both[1]
        inner = np.flatnonzero(((labels == 0) | (labels == 13)) & (palm > 0.4))
        if len(inner):
            distance = pattern.line_distance(rest[0].take(inner), rest[2].take(inner))
            line = np.exp(-((distance / (1.2 * sigma)) ** 2) / 2)
            depth[inner] += np.float32(0.75) * line * palm.take(inner)
        return np.minimum(depth, np.float32(1.2)) * strength

    def _nails(
        self,
        pattern: HandPattern,
        albedo: FloatArray,
        roughness: FloatArray,
        reflectance: FloatArray,
        normals: FloatArray,
        fields: FloatArray,
        labels: NDArray[Any],
        surface: Surface,
    ) -> None:
        """Plates on the last bones: smooth, glossy, pale moon and rim, a dark line round them."""
        frames, digits = pattern.nail_rows, pattern.nail_of_label.take(labels)
        near = np.flatnonzero(digits >= 0)
        digit = digits.take(near)
        frame = frames.take(digit, axis=1)
        facing = dot_rows(fields[3:6].take(near, axis=1), frame[3:6])
        shown = np.flatnonzero(facing > np.float32(0.15))
        near, frame, facing = near.take(shown), frame.take(shown, axis=1), facing.take(shown)
        offset = fields[:3].take(near, axis=1) - frame[:3]
        x, y = dot_rows(offset, frame[6:9]), dot_rows(offset, frame[9:12])
        soft = np.float32(max(0.10, 0.35 * surface.pixel / 0.005))
        inside = np.flatnonzero(np.maximum(np.abs(x), np.abs(y)) < 1 + soft / 2)
        if not len(inside):
            return
        near, x, y, facing = near.take(inside), x.take(inside), y.take(inside), facing.take(inside)
        # Straight sides, rounded base, flatter free edge: a superellipse.
        powers = np.where(y > 0, np.float32(4), np.float32(2.4))
        radius = (np.abs(x) ** np.float32(3) + np.abs(y) ** powers) ** np.float32(1 / 3)
        plate = np.clip((1 - radius) / soft + np.float32(0.5), 0, 1)
        plate *= np.clip((facing - np.float32(0.15)) / np.float32(0.25), 0, 1)
        lightness = self.tone[0]
        if self.nail_color is None:
            bed = np.array([max(lightness, 48) + 3, self.tone[1] + 5, self.tone[2] - 4])
            pale = np.array([max(lightness, 55) + 12, self.tone[1] - 2, self.tone[2] - 3])
            bed_rgb, pale_rgb = lab_to_linear(np.stack([bed, pale]))
            moon = np.clip((np.float32(-0.45) - y - np.float32(0.35) * x * x) / soft + 0.5, 0, 1)
            rim = np.clip((y - np.float32(0.80)) / soft + np.float32(0.5), 0, 1)
            white = np.maximum(np.float32(0.45) * moon, np.float32(0.75) * rim)
            color = bed_rgb[:, None] + (pale_rgb - bed_rgb)[:, None] * white
        else:
            color = np.asarray(self.nail_color, np.float32)[:, None]
        line = np.exp(-(((radius - 1) / (soft + np.float32(0.05))) ** 2))
        plate[plate <= np.float32(0.01)] = 0
        line[plate == 0] = 0
        old = albedo.take(near, axis=1)
        albedo[:, near] = (old + (color - old) * plate) * (1 - np.float32(0.22) * line)
        gloss = np.float32(0.22 if self.nail_color is not None else 0.33)
        roughness[near] += (gloss - roughness[near]) * plate
        reflectance[near] += (np.float32(0.045) - reflectance[near]) * plate
        old = normals.take(near, axis=1)
        smooth = surface.normals.take(near, axis=1)
        normals[:, near] = old + (smooth - old) * (plate * np.float32(0.9))

    def _gloved(self, surface: Surface) -> Looks:
        cornered, pixel = surface.resting(), surface.pixel
        noise = _noise(self.seed)
        terms = [noise.cloth.slopes(pixel), noise.blotches.values(pixel)]
        waves = mixed(terms, surface.blend(cornered))
        folds = waves[:3] * np.float32(0.22)
        albedo = np.asarray(self.glove, np.float32)[:, None] * (1 + np.float32(0.05) * waves[3])
        count = albedo.shape[1]
        return Looks(
            albedo=np.clip(albedo, 0.004, 0.95).T,
            normals=_unit(surface.normals - _to_camera(folds, cornered, surface)).T,
            roughness=np.full(count, 0.75, np.float32),
            reflectance=np.full(count, 0.035, np.float32),
            softness=np.zeros(3, np.float32),
        )


@dataclass(frozen=True, kw_only=True)
class ClothMaterial:
    """A sleeve: two linear colours in stripes of `stripe` metres along rest axis 0, folds, weave.

    stripe 0 makes it plain. ribs: slope of the folds. The mesh needs `rest` positions.
    """

    color: tuple[float, float, float] = (0.12, 0.16, 0.25)
    second: tuple[float, float, float] = (0.6, 0.6, 0.58)
    stripe: float = 0.0
    ribs: float = 0.35
    seed: int = 0

    def evaluate(self, surface: Surface) -> Looks:
        """What the hits look like. Raises InputError when the mesh has no rest positions."""
        cornered, pixel = surface.resting(), surface.pixel
        rest, noise = surface.blend(cornered), _noise(self.seed)
        waves = mixed([noise.cloth.slopes(pixel), noise.relief.values(pixel)], rest)
        albedo = np.asarray(self.color, np.float32)[:, None]
        if self.stripe > 0:
            phase = np.sin(rest[0] * np.float32(2 * np.pi / self.stripe))
            share = np.clip(phase * np.float32(self.stripe / (4 * pixel + 1e-6)) + 0.5, 0, 1)
            albedo = albedo + share * (np.asarray(self.second, np.float32)[:, None] - albedo)
        albedo = albedo * np.clip(1 + np.float32(0.08) * waves[3], 0.6, 1.4)
        folds = waves[:3] * np.float32(self.ribs)
        count = albedo.shape[1]
        return Looks(
            albedo=np.clip(albedo, 0.004, 0.95).T,
            normals=_unit(surface.normals - _to_camera(folds, cornered, surface)).T,
            roughness=np.full(count, 0.85, np.float32),
            reflectance=np.full(count, 0.03, np.float32),
            softness=np.zeros(3, np.float32),
        )


def random_skin(rng: np.random.Generator, pattern: HandPattern | None) -> SkinMaterial:
    """A person: tone over the whole human range, everything else around its usual value."""
    lightness = float(np.clip(rng.choice([rng.uniform(26, 75), rng.normal(60, 8)]), 26, 76))
    base = skin_lab(lightness)
    tone = (
        lightness,
        float(base[1] + rng.normal(0, 1.3)),
        float(base[2] + rng.normal(0, 1.8)),
    )
    polish = None
    if rng.random() < 0.08:
        picked = rng.uniform(0.02, 0.8, 3)
        polish = (float(picked[0]), float(picked[1] * 0.6), float(picked[2] * 0.7))
    return SkinMaterial(
        tone=tone,
        pattern=pattern,
        palm_lift=float(np.clip(0.25 + (66 - lightness) / 66 + rng.normal(0, 0.08), 0.1, 0.9)),
        blood=float(np.clip(rng.normal(1, 0.4), 0.1, 2.2)),
        blotches=float(rng.uniform(0.6, 2.2)),
        folds=float(rng.uniform(0.5, 1.4)),
        slope=float(rng.uniform(0.03, 0.10)),
        hair=float(max(0.0, rng.normal(0.15, 0.3))),
        nail_color=polish,
        roughness=float(rng.uniform(0.4, 0.62)),
        reflectance=float(rng.uniform(0.022, 0.034)),
        seed=int(rng.integers(0, 64)),
    )


class _Noises:
    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.blotches = WaveNoise(rng, (0.004, 0.05), 14)
        self.flush = WaveNoise(rng, (0.008, 0.06), 8)
        self.veins = WaveNoise(rng, (0.012, 0.03), 6)
        self.hair = WaveNoise(rng, (0.0006, 0.004), 24)
        self.relief = WaveNoise(rng, (0.0009, 0.012), 22)
        self.cloth = WaveNoise(rng, (0.006, 0.06), 14)


@lru_cache(maxsize=64)
def _noise(seed: int) -> _Noises:
    return _Noises(seed)


def _unit(rows: FloatArray) -> FloatArray:
    return rows / np.maximum(np.sqrt(dot_rows(rows, rows)), np.float32(1e-6))


def _to_camera(gradient: FloatArray, resting: FloatArray, surface: Surface) -> FloatArray:
    """Surface gradients (3, N) given in the rest pose, carried over to the posed triangles.

    resting (3, 3, N): axis and corner of the rest pose's triangles.
    """
    first, second = surface.edges
    along = dot_rows(gradient, resting[:, 1] - resting[:, 0])
    other = dot_rows(gradient, resting[:, 2] - resting[:, 0])
    # The plane's vector whose products with the two edges are `along` and `other`.
    ff, ss, fs = dot_rows(first, first), dot_rows(second, second), dot_rows(first, second)
    size = np.maximum(ff * ss - fs * fs, np.float32(1e-20))
    return first * ((ss * along - fs * other) / size) + second * ((ff * other - fs * along) / size)
