"""The photo without its object, made without any downloaded model (`--free`).

The hand's mesh is drawn again where the object hid it, in the light and the skin that its visible
pixels show; the background is carried on behind the object (OpenCV); what is nearer hides what is
farther. Everything that the object did not touch stays as it is in the photo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.spatial import KDTree

from handhold.hand.model import HandModel
from handhold.render.lights import DirectionalLight, Lighting
from handhold.render.material import to_bytes, to_linear
from handhold.render.raycast import Hits, RenderMesh, Scene3D, cast
from handhold.render.shade import shade
from handhold.render.skin import SkinMaterial
from handhold.scene import Camera, Sample
from handhold.synthesis.deoccluder.background import filled, grain
from handhold.synthesis.deoccluder.removal import Removal, feathered, grown
from handhold.synthesis.wardrobe import Wardrobe

Array = NDArray[Any]
Image = NDArray[np.uint8]
SEEN = 60  # visible pixels from which on light and skin are estimated
MOST = 2500  # pixels that are looked at
NEAR = 0.012  # metres on the hand within which skin is alike
TURNED = 0.02  # metres that opposite directions of the surface count as
DARK = 0.01  # linear light below which ratios mean nothing
LARGEST = 0.7  # of the logarithm of a ratio
BLURS = (0.0, 0.5, 0.8, 1.2, 1.8, 2.5)  # pixels
PRIOR = 0.02  # weight of even light against that of the pixels


def _lamps() -> tuple[Lighting, ...]:
    """What light is made of: from above, from below, the viewer's lamp and eight around it."""
    none = (0.0, 0.0, 0.0)
    white, up = (1.0, 1.0, 1.0), (0.0, -1.0, 0.0)
    found = [
        Lighting(lights=(), sky=white, ground=none, up=up),
        Lighting(lights=(), sky=none, ground=white, up=up),
    ]
    turns = np.arange(8) * np.pi / 4
    around = [(0.9 * float(np.cos(a)), 0.9 * float(np.sin(a)), -0.45) for a in turns]
    for towards in [(0.0, 0.0, -1.0), *around]:
        lamp = DirectionalLight(towards=towards, color=white, size=0.25)
        found.append(Lighting(lights=(lamp,), sky=none, ground=none, up=up))
    return tuple(found)


LAMPS = _lamps()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Window:
    """A part of the photo, as numbers of rows and columns, and its camera."""

    rows: slice
    columns: slice
    camera: Camera

    @classmethod
    def around(cls, mask: NDArray[np.bool_], camera: Camera, margin: float) -> _Window:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        more = int(margin * max(np.ptp(rows), np.ptp(columns))) + 4
        top, bottom = max(0, rows[0] - more), min(camera.height, rows[-1] + 1 + more)
        left, right = max(0, columns[0] - more), min(camera.width, columns[-1] + 1 + more)
        intrinsics = np.array(camera.intrinsics, np.float64)
        intrinsics[:2, 2] -= (left, top)
        part = Camera(intrinsics=intrinsics, width=int(right - left), height=int(bottom - top))
        return cls(rows=slice(top, bottom), columns=slice(left, right), camera=part)

    def of(self, picture: Array) -> Array:
        return picture[self.rows, self.columns]


class BareHands:
    """Makes the second images. models: hand models by side."""

    def __init__(self, models: Mapping[str, HandModel]) -> None:
        self._wardrobes = {side: Wardrobe.of(model) for side, model in models.items()}

    def __call__(self, sample: Sample, removal: Removal, rng: np.random.Generator) -> Image:
        """The photo (H, W, 3) without the object."""
        touched = removal.object_mask | removal.amodal
        if not removal.object_mask.any():
            return sample.image
        window = _Window.around(touched, sample.camera, 0.5)
        photo = window.of(sample.image)
        thing, seen = window.of(removal.object_mask), window.of(removal.hand_mask)
        side = max(np.ptp(np.flatnonzero(touched.any(axis))) for axis in (0, 1))
        reach = max(3.0, 0.015 * float(side))
        hidden = feathered(thing, 0, reach) > 0
        light, coverage = self._hands(sample, removal, window, photo, hidden, reach)
        outline = grown(seen, 3) & grown(~seen, 3) & ~grown(thing, 2 * reach)

        def composed(blur: float) -> tuple[Array, Image]:
            """Opacity (H, W) of what is drawn, and that, where the photo has such a blur."""
            opacity = feathered(thing, reach / 3 + blur, reach + 2.5 * blur)
            # neither the object nor the hand says what is behind them
            background = filled(photo, (opacity > 0) | grown(seen, reach), rng)
            behind = to_linear(background).astype(np.float32)
            return opacity, to_bytes(
                (light + (1 - coverage)[..., None] * behind).astype(np.float32)
            )

        opacity, clean = composed(0.0)
        blur = _blur_of(photo, clean, outline)
        if blur:
            opacity, clean = composed(blur)
        drawn = _blurred(clean, blur).astype(np.float32)
        if seen.sum() >= SEEN:
            drawn += grain(photo, seen & (opacity == 0), rng) * coverage[..., None]
        # the object's shadow on the hand goes with it
        darker = (drawn - photo).mean(2) / 255
        shadow = feathered(thing, reach, 5 * reach) * np.clip(8 * darker, 0, 1) * (coverage > 0)
        opacity = np.maximum(opacity, shadow * seen)
        mixed = photo + (drawn - photo) * opacity[..., None]
        result = sample.image.copy()
        result[window.rows, window.columns] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
        return result

    def _hands(
        self,
        sample: Sample,
        removal: Removal,
        window: _Window,
        photo: Image,
        hidden: Array,
        reach: float,
    ) -> tuple[Array, Array]:
        """Linear light (H, W, 3) of the hands in the window, and the share (H, W) they cover."""
        order = [removal.number]
        order += [
            i
            for i, hand in enumerate(sample.hands)
            if i != removal.number and hand.vertices is not None and hand.side is not None
        ]
        scene = Scene3D([self._mesh(sample, number) for number in order])
        hits = cast(scene, window.camera)
        shape = hits.mesh.shape
        basis, coverage = [], np.zeros(hits.mesh.size, np.float32)
        for lamp in LAMPS:
            shaded = shade(hits, scene, lamp, window.camera)
            one = np.zeros((3, hits.mesh.size), np.float32)
            one[:, shaded.pixels] = shaded.light
            coverage[shaded.pixels] = shaded.coverage
            basis.append(one)
        lit = np.stack(basis, -1)  # 3, pixels, lamps
        sure = ~grown(hidden | ~window.of(removal.hand_mask), 1.5)
        sure &= (hits.mesh == 0) & (coverage.reshape(shape) >= 1)
        lit_freely = sure & ~grown(hidden, 4 * reach)  # the object throws no shadow there
        chosen = np.flatnonzero(lit_freely if lit_freely.sum() > 0.5 * sure.sum() else sure)
        colour = to_linear(photo).reshape(-1, 3).T.astype(np.float64)
        if len(chosen) > MOST:
            chosen = chosen[np.linspace(0, len(chosen) - 1, MOST).astype(int)]
        if len(chosen) < SEEN:  # hardly anything to see of the hand: even light on common skin
            weights = np.full((3, len(LAMPS)), 0.9 / len(LAMPS))
            light = np.einsum("cnk,ck->cn", lit, weights)
        else:
            weights = np.stack([_fit(lit[c][chosen], colour[c][chosen]) for c in range(3)])
            light = np.einsum("cnk,ck->cn", lit, weights)
            light *= _skin(scene, hits, chosen, colour, light)
        return light.T.reshape(*shape, 3), coverage.reshape(shape)

    def _mesh(self, sample: Sample, number: int) -> RenderMesh:
        hand = sample.hands[number]
        form = self._wardrobes["left" if hand.side == "left" else "right"].fine
        return RenderMesh(
            vertices=form.subdivision(np.asarray(hand.vertices, np.float32)),
            faces=form.faces,
            material=SkinMaterial(pattern=form.pattern, hair=0.0, blotches=0.8),
            rest=form.rest,
            labels=form.labels,
            name="hand",
        )


def _fit(lit: Array, colour: Array) -> Array:
    """Strengths (K,) >= 0 of K lamps that explain N pixels of one colour channel, few pixels that
    they cannot explain (rings, nails, shadows of the object) left aside; even light where the
    pixels do not tell."""
    lit = lit.astype(np.float64)
    even = np.full(
        lit.shape[1], max(float(colour.mean()), 1e-4) / max(float(lit.sum(1).mean()), 1e-6)
    )
    strength = np.sqrt(PRIOR * (lit**2).sum() / lit.shape[1])
    found, trust = even, np.ones(len(colour))
    for _ in range(4):
        rows = np.concatenate([lit * trust[:, None], strength * np.eye(lit.shape[1])])
        found, _ = nnls(rows, np.concatenate([colour * trust, strength * even]))
        off = np.abs(lit @ found - colour)
        scale = max(2 * float(np.median(off)), 1e-4)
        trust = np.sqrt(1 / (1 + (off / scale) ** 2))
    return found


def _skin(scene: Scene3D, hits: Hits, chosen: Array, colour: Array, light: Array) -> Array:
    """By how much (3, N) the skin there is brighter or darker than drawn, judged by what is seen
    nearby on the hand; 1 far from all that is seen."""
    places = np.flatnonzero(hits.mesh.ravel() >= 0)
    where = np.zeros((hits.mesh.size, 6), np.float32)
    normals = hits.normals(scene).reshape(-1, 3)
    for number, mesh in enumerate(scene.meshes):
        own = places[hits.mesh.ravel()[places] == number]
        corners = mesh.faces[hits.face.ravel()[own]]
        u, v = hits.u.ravel()[own, None], hits.v.ravel()[own, None]
        rest = np.asarray(mesh.rest)[corners]
        where[own, :3] = rest[:, 0] * (1 - u - v) + rest[:, 1] * u + rest[:, 2] * v
        where[own, 0] += number  # metres: hands do not speak for each other
    where[:, 3:] = normals * (TURNED / 2)
    drawn = light[:, chosen]
    ratio = np.log((colour[:, chosen] + DARK) / (drawn + DARK))
    ratio = np.clip(ratio, -LARGEST, LARGEST)
    count = min(32, len(chosen))
    distance, neighbour = KDTree(where[chosen]).query(where[places], k=count)
    weight = np.exp(-((distance / NEAR) ** 2) / 2)
    total = weight.sum(1) + 0.5
    result = np.ones((3, hits.mesh.size), np.float32)
    result[:, places] = np.exp((ratio[:, neighbour] * weight).sum(2) / total)
    # pixels that only touch the hand take what their neighbours on it have
    missing = (hits.mesh < 0).astype(np.uint8)
    if len(places):
        _, nearest = cv2.distanceTransformWithLabels(
            missing, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
        )
        label = np.asarray(nearest, np.int64).ravel()
        owner = np.zeros(int(label.max()) + 1, np.int64)
        owner[label[places]] = places
        result = result[:, owner[label]]
    return result


def _blurred(image: Image, sigma: float) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8) if sigma else image


def _blur_of(photo: Image, drawn: Image, outline: NDArray[np.bool_]) -> float:
    """The blur of BLURS with which the drawn picture looks most like the photo at the outline."""
    if outline.sum() < SEEN:
        return 0.0
    there = photo[outline].astype(np.float32)
    off = [np.abs(_blurred(drawn, sigma)[outline] - there).mean() for sigma in BLURS]
    return BLURS[int(np.argmin(off))]
