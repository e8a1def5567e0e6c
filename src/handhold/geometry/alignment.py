"""Aligning predicted points to the truth before an error is measured. NumPy, any batch shape.

Three rules are in use (FreiHAND and HO3D; HandOccNet, HFL-Net, HOISDF; HO3D's second one), and they
differ where it matters: see `procrustes`, `umeyama` and `scale_translation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handhold.errors import InputError

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Procrustes:
    """Result of `procrustes` in the terms of FreiHAND's evaluator.

    aligned: (..., N, 3). rotation: (..., 3, 3), perhaps a reflection. s: (...,) sum of singular
    values.
    s1: (...,) size of the truth. shift: (..., 3) mean of the truth minus mean of the prediction.
    """

    aligned: Array
    rotation: Array
    s: Array
    s1: Array
    shift: Array

    def apply_about_mean(self, points: ArrayLike) -> Array:
        """Move other points (..., M, 3) by this transform about their own mean (`align_by_trafo`).

        The official rule: the size of the prediction is not divided out, so the result has the
        scale of the prediction times s s1. Used only for F-scores of other topologies.
        """
        points = np.asarray(points)
        mean = points.mean(axis=-2, keepdims=True)
        turned = (points - mean) @ np.swapaxes(self.rotation, -1, -2)
        return turned * (self.s * self.s1)[..., None, None] + self.shift[..., None, :] + mean


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """aligned = scale * rotation @ point + translation: (...,), (..., 3, 3), (..., 3)."""

    scale: Array
    rotation: Array
    translation: Array

    def apply(self, points: ArrayLike) -> Array:
        """Return points (..., N, 3) moved by the transform."""
        turned = np.asarray(points) @ np.swapaxes(self.rotation, -1, -2)
        return turned * self.scale[..., None, None] + self.translation[..., None, :]


def _pair(prediction: ArrayLike, truth: ArrayLike) -> tuple[Array, Array]:
    p, g = np.asarray(prediction, np.float64), np.asarray(truth, np.float64)
    if p.shape != g.shape or p.ndim < 2 or p.shape[-1] != 3:
        raise InputError(f"alignment: expected two arrays (..., N, 3), found {p.shape}, {g.shape}")
    return p, g


def procrustes(prediction: ArrayLike, truth: ArrayLike) -> Procrustes:
    """Align (..., N, 3) to the truth by similarity, reflections allowed.

    The rule of FreiHAND's and HO3D's evaluators, DexYCB, UniHOPE, HandBooster and H2ONet. A
    collapsed prediction (all points equal) becomes the truth's mean repeated, so the result is
    always finite.
    """
    p, g = _pair(prediction, truth)
    mean_p, mean_g = p.mean(axis=-2, keepdims=True), g.mean(axis=-2, keepdims=True)
    p, g = p - mean_p, g - mean_g
    s1 = np.linalg.norm(g, axis=(-2, -1)) + 1e-8
    s2 = np.linalg.norm(p, axis=(-2, -1)) + 1e-8
    p, g = p / s2[..., None, None], g / s1[..., None, None]
    u, singular, vt = np.linalg.svd(np.swapaxes(np.swapaxes(p, -1, -2) @ g, -1, -2))
    rotation, s = u @ vt, singular.sum(axis=-1)
    aligned = (p @ np.swapaxes(rotation, -1, -2)) * (s * s1)[..., None, None] + mean_g
    return Procrustes(
        aligned=aligned, rotation=rotation, s=s, s1=s1, shift=(mean_g - mean_p)[..., 0, :]
    )


def umeyama(
    prediction: ArrayLike, truth: ArrayLike, *, weights: ArrayLike | None = None
) -> Similarity:
    """Find the similarity with a proper rotation that brings (..., N, 3) to the truth.

    Umeyama 1991, as HandOccNet, HFL-Net, HOISDF and HaMeR use it. weights: (..., N) >= 0.
    A collapsed prediction gives scale and translation NaN (0 / 0), as in the originals.
    """
    p, g = _pair(prediction, truth)
    if weights is None:
        share = np.full(p.shape[:-1], 1 / p.shape[-2])[..., None]
    else:
        share = np.asarray(weights, np.float64)[..., None]
        share = share / share.sum(axis=-2, keepdims=True)
    mean_p, mean_g = (p * share).sum(axis=-2), (g * share).sum(axis=-2)
    p, g = p - mean_p[..., None, :], g - mean_g[..., None, :]
    u, singular, vt = np.linalg.svd(np.swapaxes(p * share, -1, -2) @ g)
    sign = np.where(np.linalg.det(u) * np.linalg.det(vt) < 0, -1.0, 1.0)
    vt = np.concatenate([vt[..., :2, :], vt[..., 2:, :] * sign[..., None, None]], axis=-2)
    rotation = np.swapaxes(u @ vt, -1, -2)
    total = singular[..., 0] + singular[..., 1] + sign * singular[..., 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = total / (share * p * p).sum(axis=(-2, -1))
        moved = (rotation @ mean_p[..., None])[..., 0]
        translation = mean_g - scale[..., None] * moved
    return Similarity(scale=scale, rotation=rotation, translation=translation)


def scale_translation(
    prediction: ArrayLike, truth: ArrayLike, *, root: int = 0, reference: int = 9
) -> Array:
    """Return (..., N, 3) with the truth's root position and bone length; no rotation (HO3D).

    The bone runs from joint `root` to joint `reference`: the middle finger's first joint, 9 in
    canonical order (4 in HO3D's). A prediction without length is only shifted and scaled by the
    truth's length, as in the official script.
    """
    p, g = _pair(prediction, truth)
    length_p = np.linalg.norm(p[..., reference, :] - p[..., root, :], axis=-1)
    length_g = np.linalg.norm(g[..., reference, :] - g[..., root, :], axis=-1)
    scale = length_g / np.where(length_p > 0, length_p, 1)
    return (p - p[..., root, None, :]) * scale[..., None, None] + g[..., root, None, :]
