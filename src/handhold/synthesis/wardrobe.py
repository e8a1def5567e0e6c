"""A posed hand becomes something to render: fine mesh, skin or glove, forearm, sleeve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.hand.model import HandModel
from handhold.hand.topology import boundary_loops
from handhold.render.hand_pattern import HandPattern, SkinFeatures, free_hand_features
from handhold.render.material import Shader
from handhold.render.raycast import RenderMesh
from handhold.render.skin import ClothMaterial, random_skin
from handhold.render.subdivision import Subdivision, loop_subdivision
from handhold.synthesis.arms import Limb, forearm

Array = NDArray[Any]
MIRROR = np.array([-1.0, 1.0, 1.0], np.float32)
FOREARM_AXIS = np.array([1.0, 0.0, 0.0])  # MANO's right hand: fingers along -x


COARSE_PIXEL = 0.0018
"""Metres on the hand that a pixel covers from which on the model's own triangles look round."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Flesh:
    """A hand model's surface at one level of detail; rest (V, 3) is the right hand's rest pose."""

    subdivision: Subdivision
    faces: Array
    rest: Array
    labels: Array
    pattern: HandPattern

    @classmethod
    def of(cls, model: HandModel, features: SkinFeatures, *, coarse: bool) -> Flesh:
        """Subdivided once, or (coarse) with the triangles of the model at the places where
        subdivision moves their corners, so that both meet the forearm alike.
        """
        left = model.side == "left"
        template = model.template.numpy() * (MIRROR if left else 1)
        faces = np.asarray(model.faces.numpy(), np.int32)
        outward = np.ascontiguousarray(faces[:, ::-1]) if left else faces
        fine = loop_subdivision(outward, len(template))
        if coarse:
            fine = Subdivision(matrix=fine.matrix[: len(template)], faces=outward)
        owner = model.extras.get("part", model.weights.numpy().argmax(1))
        labels, rest = fine.labels(np.asarray(owner)), fine(template)
        return cls(
            subdivision=fine,
            faces=np.ascontiguousarray(fine.faces[:, ::-1]) if left else fine.faces,
            rest=rest,
            labels=labels,
            pattern=HandPattern.build(features, rest, fine.faces, labels),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Wardrobe:
    """What all renders of one hand model share."""

    fine: Flesh
    coarse: Flesh
    wrist_ring: Array
    forearm_axis: Array

    @classmethod
    def of(cls, model: HandModel) -> Wardrobe:
        """For a hand model of either side, the free hand or MANO's."""
        sign = MIRROR if model.side == "left" else np.ones(3, np.float32)
        template = model.template.numpy() * sign
        ring = model.extras.get("wrist_ring")
        if ring is None:
            loops = boundary_loops(model.faces.numpy())
            ring = loops[0] if loops else np.argsort(-template[:, 0])[:16]
        features = free_hand_features()
        if not model.is_free:
            features = _moved(features, model, sign)
        return cls(
            fine=Flesh.of(model, features, coarse=False),
            coarse=Flesh.of(model, features, coarse=True),
            wrist_ring=np.asarray(ring),
            forearm_axis=np.asarray(model.extras.get("forearm_axis", FOREARM_AXIS)) * sign,
        )

    def dress(
        self,
        rng: np.random.Generator,
        flesh: Array,
        place: Callable[[Array], Array],
        *,
        pixel: float = 0.0,
    ) -> list[RenderMesh]:
        """Meshes of a person's hand (first), arm and sleeve in the camera frame.

        flesh (778, 3): posed vertices with the root unturned; place: moves such points into the
        camera frame. pixel: metres on the hand that a pixel covers; small hands get fewer
        triangles.
        """
        form = self.coarse if pixel > COARSE_PIXEL else self.fine
        skin = random_skin(rng, form.pattern)
        if rng.random() < 0.05:
            skin = replace(skin, glove=_colour(rng))
        meshes = [
            RenderMesh(
                vertices=place(form.subdivision(flesh)),
                faces=form.faces,
                material=skin,
                rest=form.rest,
                labels=form.labels,
                name="hand",
            )
        ]
        if rng.random() < 0.1:
            return meshes
        ring = np.asarray(flesh[self.wrist_ring], np.float64)
        arm = replace(skin, pattern=None, glove=None)
        limb = Limb.draw(rng, self.forearm_axis)
        pieces: list[tuple[Shader, dict[str, float], str]] = [(arm, {}, "arm")]
        if rng.random() < 0.45:
            stripe = float(rng.uniform(0.006, 0.03)) if rng.random() < 0.3 else 0.0
            cloth = ClothMaterial(
                color=_colour(rng),
                second=_colour(rng),
                stripe=stripe,
                ribs=float(rng.uniform(0.1, 0.5)),
                seed=int(rng.integers(64)),
            )
            shape = {"start": rng.uniform(-0.012, 0.06), "fit": rng.uniform(1.15, 1.6)}
            pieces.append((cloth, shape, "sleeve"))
        for material, shape, name in pieces:
            tube, faces = forearm(ring, self.forearm_axis, limb, **shape)
            meshes.append(
                RenderMesh(
                    vertices=place(tube), faces=faces, material=material, rest=tube, name=name
                )
            )
        return meshes


def _colour(rng: np.random.Generator) -> tuple[float, float, float]:
    grey = rng.uniform(0.02, 0.7)
    red, green, blue = np.clip(grey + rng.normal(0, rng.uniform(0, 0.25), 3), 0.01, 0.9)
    return float(red), float(green), float(blue)


def _moved(features: SkinFeatures, model: HandModel, sign: Array) -> SkinFeatures:
    """The free hand's landmarks carried over to another hand by its joints and finger tips."""
    joints = model.rest_joints().numpy() * sign
    tips = model.template.numpy()[model.tips.numpy()] * sign
    return replace(
        features,
        joints=joints,
        tips=tips,
        nail_centres=features.nail_centres + tips - features.tips,
        crease_points=features.crease_points + (joints - features.joints)[1:],
    )
