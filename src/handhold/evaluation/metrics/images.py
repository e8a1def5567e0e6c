"""FID: how far generated images are from real ones, as the Frechet distance of two Gaussians
(Heusel et al. 2017)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.errors import FileFormatError, InputError, MissingFileError

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """mean (D,) and covariance (D, D) of features."""

    mean: Array
    covariance: Array


def gaussian_of(features: Array) -> Gaussian:
    """Mean and unbiased covariance of features (N, D); raises InputError unless N >= 2 and all are
    finite."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2 or not np.isfinite(features).all():
        raise InputError(
            f"features: expected finite numbers (N, D) with N >= 2, found shape {features.shape}"
        )
    covariance = np.atleast_2d(np.cov(features, rowvar=False))
    return Gaussian(mean=features.mean(0), covariance=covariance)


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), exact, also for singular covariances, and never
    below 0 by rounding.

    The trace of the root is that of (R C2 R)^(1/2) with R = C1^(1/2), which is symmetric.
    """
    if one.mean.shape != other.mean.shape:
        raise InputError(
            f"features: expected as many in both, found {one.mean.shape} and {other.mean.shape}"
        )
    values, vectors = np.linalg.eigh(one.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ other.covariance @ root)
    shared = np.sqrt(np.maximum(inner, 0)).sum()
    spread = np.trace(one.covariance) + np.trace(other.covariance) - 2 * shared
    return max(float(((one.mean - other.mean) ** 2).sum() + spread), 0.0)


def fid(generated: Array, real: Array) -> float:
    """The distance of two sets of features (N, D) and (M, D)."""
    return frechet_distance(gaussian_of(generated), gaussian_of(real))


def features_of(
    images: Iterable[NDArray[np.uint8]],
    network: Callable[[Sequence[NDArray[np.uint8]]], Array],
    *,
    batch: int = 32,
) -> Array:
    """Features (N, D) of images (H, W, 3) uint8 of any sizes; network: B of them -> (B, D), with
    its own resizing and normalisation."""
    rest = iter(images)
    found: list[Array] = []
    while some := list(itertools.islice(rest, batch)):
        found.append(np.asarray(network(some)))
    if not found:
        raise InputError("images: expected at least one")
    return np.concatenate(found)


def read_features(folder: str | Path) -> Array:
    """Features (N, D) of all .npy files of a folder, by name; a file holds (D,) or (n, D).

    Raises MissingFileError without files, FileFormatError for another shape and for what are no
    finite numbers.
    """
    folder = Path(folder)
    paths = sorted(folder.glob("*.npy"))
    if not paths:
        raise MissingFileError(f"{folder}: no .npy files with features")
    parts: list[Array] = []
    for path in paths:
        try:
            part = np.atleast_2d(np.load(path, allow_pickle=False))
        except (ValueError, OSError, EOFError) as error:
            raise FileFormatError(f"{path}: not an array of numbers: {error}") from error
        if part.ndim != 2 or (parts and part.shape[1] != parts[0].shape[1]):
            wanted = f"(n, {parts[0].shape[1]})" if parts else "(n, D)"
            raise FileFormatError(f"{path}: expected shape {wanted}, found {part.shape}")
        if part.dtype.kind not in "fiu" or not np.isfinite(part).all():
            raise FileFormatError(f"{path}: expected finite numbers, found others ({part.dtype})")
        parts.append(part)
    return np.concatenate(parts)
