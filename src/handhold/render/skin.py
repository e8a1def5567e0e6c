"""Skin: tone, blood, folds, nails and the small unevenness that makes a hand look alive.

Everything is evaluated at the hits, in rest-pose coordinates, so it sticks to a moving hand and is
as sharp as the pixels. Colours are mixed in CIELAB, where published skin measurements live.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from handhold.errors import InputError
from handhold.render.hand_pattern import HandPattern
from handhold.render.material import Looks
from handhold.render.mesh import cross
from handhold.render.noise import WaveNoise
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
_WHITE = np.array([0.95047, 1.0, 1.08883], np.float32)


def lab_to_linear(lab: FloatArray) -> FloatArray:
    """Linear sRGB (N, 3), not clipped, of CIELAB (N, 3) under D65 (CIE 15)."""
    middle = (lab[:, 0] + 16) / 116
    f = np.stack([middle + lab[:, 1] / 500, middle, middle - lab[:, 2] / 200], axis=1)
    xyz = np.where(f > 6 / 29, f**3, (f - 4 / 29) * (3 * (6 / 29) ** 2)) * _WHITE
    return xyz @ _XYZ_TO_RGB.T


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
        if surface.mesh.rest is None:
            raise InputError("SkinMaterial: the RenderMesh needs `rest` positions")
        if self.glove is not None:
            return self._gloved(surface)
        noise = _noise(self.seed)
        pixel = float(np.median(surface.footprint))
        if self.pattern is None:
            fields = surface.interpolate(np.asarray(surface.mesh.rest, np.float32))
        else:
            fields = surface.interpolate(self.pattern.fields)
        rest = fields[:, :3]
        lab = np.tile(np.asarray(self.tone, np.float32), (len(rest), 1))
        blotch = noise.blotches.value(rest, pixel)
        veins = noise.veins.value(rest, pixel)
        lab[:, 0] += self.blotches * blotch
        lab[:, 1] += np.float32(0.8) * self.blotches * noise.flush.value(rest, pixel)
        gradient = noise.relief.gradient(rest, pixel) * np.float32(self.slope)
        roughness = np.full(len(rest), self.roughness, np.float32)
        reflectance = np.full(len(rest), self.reflectance, np.float32)
        softness = np.array([0.32, 0.13, 0.09], np.float32)
        if self.pattern is not None:
            palm, red, hairy = fields[:, 6], fields[:, 7], fields[:, 8]
            back = 1 - palm
            lab[:, 0] += palm * (np.float32(self.palm_lift) * (68 - lab[:, 0]))
            lab[:, 1] += palm * np.float32(3.0)
            lab[:, 2] -= palm * np.float32(1.5)
            flow = np.float32(self.blood) * red
            lab[:, 0] -= flow * np.float32(3.0)
            lab[:, 1] += flow * np.float32(8.5)
            lab[:, 0] -= back * np.maximum(veins - np.float32(0.7), 0) * np.float32(1.2)
            if self.hair > 0:
                lines = noise.hair.value(rest * np.array([0.25, 1, 1], np.float32), pixel)
                lab[:, 0] -= self.hair * hairy * np.maximum(lines, 0) * np.float32(5)
            self._fold(lab, rest, palm, surface, pixel)
        bent = surface.normals - _to_camera(gradient, rest, surface)
        albedo = lab_to_linear(lab).astype(np.float32)
        if self.pattern is not None:
            self._nails(albedo, roughness, reflectance, bent, fields, surface, pixel)
        length = np.sqrt(np.einsum("nc,nc->n", bent, bent))
        bent = bent / np.maximum(length, np.float32(1e-6))[:, None]
        return Looks(
            albedo=np.clip(albedo, 0.004, 0.95),
            normals=bent.astype(np.float32),
            roughness=roughness,
            reflectance=reflectance,
            softness=softness,
        )

    def _fold(
        self, lab: FloatArray, rest: FloatArray, palm: FloatArray, surface: Surface, pixel: float
    ) -> None:
        """Dark, reddish lines where fingers bend (both sides) and across the palm."""
        pattern = self.pattern
        if pattern is None or self.folds <= 0:
            return
        features, labels = pattern.features, surface.labels()
        sigma = np.float32(max(0.0005, 0.45 * pixel))
        strength = np.float32(self.folds * min(1.0, (0.0009 / sigma)) ** 0.7)
        depth = np.zeros(len(rest), np.float32)
        points = features.joints.astype(np.float32)
        bones = features.crease_normals.astype(np.float32)
        # Every place can show two folds: at the near and at the far end of its bone.
        nearer, farther = labels.copy(), np.where(labels % 3 == 0, 0, labels + 1)
        palmar = np.flatnonzero(labels == 0)
        roots = np.array([1, 4, 7, 10, 13])
        apart = ((rest[palmar, None] - points[roots][None]) ** 2).sum(axis=2)
        nearer[palmar] = roots[apart.argmin(axis=1)]
        for joint in (nearer, farther):
            here = np.flatnonzero(joint)
            number = joint[here] - 1
            offset = rest[here] - points[joint[here]]
            along = np.einsum("nc,nc->n", offset, bones[number])
            # A finger's root folds well in front of the joint, at the web.
            root = (number % 3 == 0) & (number < 12)
            along -= np.where(root, np.float32(0.014), np.float32(0))
            within = np.abs(along) < np.float32(0.005) + 2 * sigma
            here, along, offset, root = here[within], along[within], offset[within], root[within]
            wave = np.sin(rest[here] @ np.array([0, 300, 700], np.float32))
            along += np.float32(0.0006) * wave
            close = np.exp(-np.einsum("nc,nc->n", offset, offset) / np.float32(2 * 0.012**2))

            def fold(at: float, along: FloatArray = along) -> FloatArray:
                return np.exp(-(((along - np.float32(at)) / sigma) ** 2) / 2)

            side = palm[here]
            folds = fold(0) + np.float32(0.4) * fold(0.0028)
            wrinkles = fold(-0.0042) + fold(-0.0018) + fold(0.0009) + fold(0.0034)
            wrinkles *= np.where(root, np.float32(0), np.float32(0.42))
            depth[here] += close * (side * folds + (1 - side) * wrinkles)
        inner = np.flatnonzero(((labels == 0) | (labels == 13)) & (palm > 0.4))
        if len(inner):
            distance = pattern.line_distance(rest[inner])
            line = np.exp(-((distance / (1.2 * sigma)) ** 2) / 2)
            depth[inner] += np.float32(0.75) * line * palm[inner]
        depth = np.minimum(depth, 1.2) * strength
        lab[:, 0] -= depth * np.float32(7.5)
        lab[:, 1] += depth * np.float32(2.5)

    def _nails(
        self,
        albedo: FloatArray,
        roughness: FloatArray,
        reflectance: FloatArray,
        normals: FloatArray,
        fields: FloatArray,
        surface: Surface,
        pixel: float,
    ) -> None:
        """Plates on the last bones: smooth, glossy, pale moon and rim, a dark line round them."""
        pattern = self.pattern
        if pattern is None:
            return
        features, labels = pattern.features, surface.labels()
        lightness = self.tone[0]
        bed = np.array([max(lightness, 48) + 3, self.tone[1] + 5, self.tone[2] - 4])
        pale = np.array([max(lightness, 55) + 12, self.tone[1] - 2, self.tone[2] - 3])
        bed_rgb, pale_rgb = lab_to_linear(np.stack([bed, pale])).astype(np.float32)
        soft = np.float32(max(0.10, 0.35 * pixel / 0.005))
        for digit in range(5):
            near = np.flatnonzero(labels == features.nail_joints[digit])
            if not len(near):
                continue
            offset = fields[near, :3] - features.nail_centres[digit].astype(np.float32)
            up = features.nail_normals[digit].astype(np.float32)
            ahead = features.nail_axes[digit].astype(np.float32)
            across = np.cross(up, ahead)
            half = features.nail_half_sizes[digit].astype(np.float32)
            x, y = (offset @ across) / half[0], (offset @ ahead) / half[1]
            facing = fields[near, 3:6] @ up
            # Straight sides, rounded base, flatter free edge: a superellipse.
            radius = (np.abs(x) ** 3 + np.abs(y) ** np.where(y > 0, 4, 2.4)) ** np.float32(1 / 3)
            plate = np.clip((1 - radius) / soft + np.float32(0.5), 0, 1)
            plate *= np.clip((facing - np.float32(0.15)) / np.float32(0.25), 0, 1)
            chosen = plate > 0.01
            if not chosen.any():
                continue
            near, x, y, plate, radius = (a[chosen] for a in (near, x, y, plate, radius))
            moon = np.clip((np.float32(-0.45) - y - 0.35 * x**2) / soft + 0.5, 0, 1)
            rim = np.clip((y - np.float32(0.80)) / soft + 0.5, 0, 1)
            if self.nail_color is None:
                white = np.maximum(np.float32(0.45) * moon, np.float32(0.75) * rim)[:, None]
                color = bed_rgb * (1 - white) + pale_rgb * white
            else:
                color = np.broadcast_to(np.asarray(self.nail_color, np.float32), (len(near), 3))
            line = np.exp(-(((radius - 1) / (soft + np.float32(0.05))) ** 2))[:, None]
            share = plate[:, None]
            albedo[near] = (albedo[near] * (1 - share) + color * share) * (
                1 - np.float32(0.22) * line
            )
            gloss = np.float32(0.22 if self.nail_color is not None else 0.33)
            roughness[near] = roughness[near] * (1 - plate) + gloss * plate
            reflectance[near] = reflectance[near] * (1 - plate) + np.float32(0.045) * plate
            normals[near] += (surface.normals[near] - normals[near]) * (share * np.float32(0.9))

    def _gloved(self, surface: Surface) -> Looks:
        rest = surface.interpolate(np.asarray(surface.mesh.rest, np.float32))
        pixel = float(np.median(surface.footprint))
        noise = _noise(self.seed)
        folds = noise.cloth.gradient(rest, pixel) * np.float32(0.22)
        bent = surface.normals - _to_camera(folds, rest, surface)
        bent /= np.maximum(np.linalg.norm(bent, axis=1, keepdims=True), np.float32(1e-6))
        shade = 1 + np.float32(0.05) * noise.blotches.value(rest, pixel)
        count = len(rest)
        return Looks(
            albedo=np.clip(np.asarray(self.glove, np.float32) * shade[:, None], 0.004, 0.95),
            normals=bent.astype(np.float32),
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
        if surface.mesh.rest is None:
            raise InputError("ClothMaterial: the RenderMesh needs `rest` positions")
        rest = surface.interpolate(np.asarray(surface.mesh.rest, np.float32))
        noise, pixel = _noise(self.seed), float(np.median(surface.footprint))
        count = len(rest)
        albedo = np.tile(np.asarray(self.color, np.float32), (count, 1))
        if self.stripe > 0:
            phase = np.sin(rest[:, 0] * np.float32(2 * np.pi / self.stripe))
            share = np.clip(phase * np.float32(self.stripe / (4 * pixel + 1e-6)) + 0.5, 0, 1)
            albedo += share[:, None] * (np.asarray(self.second, np.float32) - albedo)
        weave = np.float32(0.08) * noise.relief.value(rest, pixel)
        albedo *= np.clip(1 + weave, 0.6, 1.4)[:, None]
        folds = noise.cloth.gradient(rest, pixel) * np.float32(self.ribs)
        bent = surface.normals - _to_camera(folds, rest, surface)
        bent /= np.maximum(np.linalg.norm(bent, axis=1, keepdims=True), np.float32(1e-6))
        return Looks(
            albedo=np.clip(albedo, 0.004, 0.95),
            normals=bent.astype(np.float32),
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


def _to_camera(gradient: FloatArray, rest: FloatArray, surface: Surface) -> FloatArray:
    """Surface gradients (N, 3) given in the rest pose, carried over to the posed triangles."""
    mesh = surface.mesh
    resting = np.asarray(mesh.rest, np.float32)
    a, b, c = surface.corners.T
    start, posed = resting[a], mesh.camera_vertices[a]
    first, second = mesh.camera_vertices[b] - posed, mesh.camera_vertices[c] - posed
    normal = cross(first, second)
    size = np.maximum(np.einsum("nc,nc->n", normal, normal), np.float32(1e-20))
    along = np.einsum("nc,nc->n", gradient, resting[b] - start) / size
    other = np.einsum("nc,nc->n", gradient, resting[c] - start) / size
    return cross(second, normal) * along[:, None] + cross(normal, first) * other[:, None]
