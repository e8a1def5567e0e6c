"""Where a hand is pink, folded, lined and nailed: fixed in the rest pose of the right hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.render.mesh import vertex_normals
from handhold.scene import FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class SkinFeatures:
    """Landmarks of the right hand's rest pose, metres.

    joints (16, 3) in MANO's order, tips (5, 3). Nails (thumb, index, middle, ring, little):
    nail_joints (5,) the joint that owns each, nail_centres, nail_normals, nail_axes (towards the
    tip) (5, 3), nail_half_sizes (5, 2) across and along. Folds of the 15 finger joints:
    crease_points on the palm side, crease_normals along the bone, crease_axes across (15, 3).
    palm_direction (3,): the way the palm looks.
    """

    joints: FloatArray
    tips: FloatArray
    nail_joints: NDArray[Any]
    nail_centres: FloatArray
    nail_normals: FloatArray
    nail_axes: FloatArray
    nail_half_sizes: FloatArray
    crease_points: FloatArray
    crease_normals: FloatArray
    crease_axes: FloatArray
    palm_direction: FloatArray

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> SkinFeatures:
        """From arrays named as in the free hand's file."""
        missing = [
            name
            for name in (*list(cls.__dataclass_fields__)[2:], "v_template", "J_regressor", "tips")
            if name not in arrays
        ]
        if missing:
            raise InputError(f"SkinFeatures: arrays lack {', '.join(missing)}")
        template = np.asarray(arrays["v_template"], np.float32)
        named = {name: np.asarray(arrays[name]) for name in list(cls.__dataclass_fields__)[2:]}
        return cls(
            joints=np.asarray(arrays["J_regressor"], np.float32) @ template,
            tips=template[arrays["tips"]],
            **named,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class HandPattern:
    """Vertex fields and lookup tables that a skin material interpolates.

    fields (V, 9): rest position, rest normal, palmness 0..1, redness 0..1 (tips, knuckles, heel of
    the hand), hairiness 0..1. labels (V,): owning joint. lines (512, 512): distance in metres to
    the palm's lines, over the square of `corner` and `width` in the rest pose's x and z.
    """

    features: SkinFeatures
    fields: FloatArray
    lines: FloatArray
    corner: tuple[float, float]
    width: float

    @classmethod
    def build(
        cls,
        features: SkinFeatures,
        rest: FloatArray,
        faces: NDArray[Any],
        labels: NDArray[Any],
        line_points: FloatArray | None = None,
    ) -> HandPattern:
        """From the rest pose (V, 3) of the right hand (whatever its detail) and its part labels."""
        rest = np.asarray(rest, np.float32)
        normals = vertex_normals(rest, faces)
        dorsal = np.zeros((16, 3))
        dorsal[0] = -np.asarray(features.palm_direction)
        dorsal[1:] = np.cross(features.crease_normals, features.crease_axes)
        dorsal /= np.linalg.norm(dorsal, axis=1, keepdims=True)
        backness = np.einsum("vc,vc->v", normals, dorsal[labels])
        # The palm's skin reaches up the sides; its border is soft.
        palmness = _smoothstep(-0.25, 0.45, -backness)
        palmness *= _smoothstep(0.0, 0.035, features.joints[0, 0] + 0.012 - rest[:, 0]) ** 0.5
        palmness = _spread(palmness, faces, 2)
        redness = np.zeros(len(rest))
        for tip in features.tips:
            redness += _bell(rest - tip, 0.012)
        for number, joint in enumerate(features.joints[1:], start=1):
            strength = 0.45 if number % 3 == 1 else 0.6
            redness += strength * _bell(rest - joint, 0.011) * np.clip(backness, 0, 1)
        heads = features.joints[[1, 4, 7, 10]] + 0.012 * features.palm_direction
        for point in heads:
            redness += 0.35 * _bell(rest - point, 0.014) * palmness
        wrist, thumb, little = features.joints[[0, 13, 7]]
        for base, reach in ((thumb, 0.3), (little, 0.45)):
            mound = base + (wrist - base) * reach + 0.015 * features.palm_direction
            redness += 0.4 * _bell(rest - mound, 0.02) * palmness
        hairiness = np.clip(backness, 0, 1) * _smoothstep(0.0, 0.05, rest[:, 0])
        hairiness[labels % 3 == 1] += 0.35 * np.clip(backness, 0, 1)[labels % 3 == 1]
        fields = np.concatenate(
            [
                rest,
                normals,
                palmness[:, None],
                np.clip(redness, 0, 1)[:, None],
                np.clip(hairiness, 0, 1)[:, None],
            ],
            axis=1,
        ).astype(np.float32)
        corner, width, lines = _palm_lines(features)
        return cls(features=features, fields=fields, lines=lines, corner=corner, width=width)

    @cached_property
    def rows(self) -> FloatArray:
        """`fields` as rows (9, V)."""
        return np.ascontiguousarray(self.fields.T, np.float32)

    @cached_property
    def nail_of_label(self) -> NDArray[np.int8]:
        """Which digit's nail (0..4) the part of a label carries (16,); -1 = none."""
        found = np.full(16, -1, np.int8)
        found[np.asarray(self.features.nail_joints)] = np.arange(5)
        return found

    @cached_property
    def nail_rows(self) -> FloatArray:
        """Rows (12, 5): the nails' centres, normals, and axes across and along in half sizes."""
        features = self.features
        across = np.cross(features.nail_normals, features.nail_axes)
        half = np.asarray(features.nail_half_sizes)
        parts = (
            features.nail_centres,
            features.nail_normals,
            across / half[:, :1],
            features.nail_axes / half[:, 1:],
        )
        return np.ascontiguousarray(np.concatenate(parts, axis=1).T, np.float32)

    def line_distance(self, x: FloatArray, z: FloatArray) -> FloatArray:
        """Distance (N,) in metres from rest positions, seen from the palm, to its lines."""
        size = self.lines.shape[0]
        scale = np.float32(size / self.width)
        column = np.clip((x - np.float32(self.corner[0])) * scale, 0, size - 1).astype(np.intp)
        row = np.clip((z - np.float32(self.corner[1])) * scale, 0, size - 1).astype(np.intp)
        return self.lines.take(row * size + column)


@lru_cache(maxsize=1)
def free_hand_features() -> SkinFeatures:
    """Landmarks of the free hand that ships with the package."""
    asset = resources.files("handhold.hand").joinpath("assets/free_hand.npz")
    with resources.as_file(asset) as path, np.load(path, allow_pickle=False) as arrays:
        return SkinFeatures.from_arrays(dict(arrays))


def _bell(offset: FloatArray, radius: float) -> FloatArray:
    return np.exp(-np.einsum("vc,vc->v", offset, offset) / (2 * radius**2))


def _smoothstep(low: float, high: float, values: FloatArray) -> FloatArray:
    share = np.clip((values - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


def _spread(values: FloatArray, faces: NDArray[Any], rounds: int) -> FloatArray:
    """Means over the corners of the faces round every vertex, `rounds` times."""
    flat = faces.ravel()
    uses = np.maximum(np.bincount(flat, minlength=len(values)), 1)
    for _ in range(rounds):
        mean = values[faces].mean(axis=1)
        values = np.bincount(flat, np.repeat(mean, 3), minlength=len(values)) / uses
    return values


def _palm_lines(features: SkinFeatures) -> tuple[tuple[float, float], float, FloatArray]:
    """The three large lines of the palm, placed between wrist and knuckles, as a distance map."""
    wrist, index, middle, little, ring = (
        features.joints[number][[0, 2]] for number in (0, 1, 4, 7, 10)
    )
    thumb = features.joints[13][[0, 2]]

    def at(knuckle: FloatArray, share: float, side: float = 0.0) -> FloatArray:
        across = (index - little) / np.linalg.norm(index - little)
        return knuckle + (wrist - knuckle) * share + side * across

    curves = [
        [at(little, 0.16, -0.012), at(ring, 0.22), at(middle, 0.18), at(index, 0.0, -0.010)],
        [at(index, 0.22, 0.012), at(index, 0.27), at(middle, 0.36), at(ring, 0.52, -0.006)],
        [
            at(index, 0.24, 0.012),
            at(index, 0.34, -0.004),
            (at(middle, 0.62) + thumb) / 2 + (at(middle, 0.62) - thumb) * 0.35,
            at(middle, 0.97, 0.006),
        ],
    ]
    centre, width, size = (wrist + middle) / 2, 0.16, 512
    corner = centre - width / 2
    drawn = np.full((size, size), 255, np.uint8)
    for curve in curves:
        # A cubic through the four points (Catmull-Rom would leave the ends out).
        times = np.array([0.0, 0.33, 0.67, 1.0])
        fit = np.linalg.solve(np.vander(times), np.array(curve))
        points = np.vander(np.linspace(0, 1, 40), 4) @ fit
        pixels = np.round((points - corner) / width * size).astype(np.int32)
        cv2.polylines(drawn, [pixels.reshape(-1, 1, 2)], False, 0, 1)
    distance = cv2.distanceTransform(drawn, cv2.DIST_L2, 5) * (width / size)
    return (float(corner[0]), float(corner[1])), width, distance.astype(np.float32)
