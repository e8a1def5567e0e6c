"""What may be behind an object: its surroundings carried on by OpenCV, with their own grain."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
HOLE = 48  # pixels that the widest part of a hole has when it is filled
RADIUS = 4  # of OpenCV's neighbourhood


def filled(image: Image, hole: Mask, rng: np.random.Generator) -> Image:
    """The image (H, W, 3) with its hole (H, W) filled from what surrounds it.

    Telea's fast marching on an image so small that the hole is narrow, smoothed where it is deep,
    and over it grain as strong as that around it, drawn by `rng`.
    """
    if not hole.any():
        return image
    if hole.all():
        return image
    depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    factor = max(1, int(np.ceil(2 * float(depth.max()) / HOLE)))
    smooth = _smooth(image, hole, factor, np.asarray(depth, np.float32))
    fine = grain(image, ~hole, rng)
    result = image.astype(np.float32)
    result[hole] = smooth[hole] + fine[hole]
    return np.clip(np.rint(result), 0, 255).astype(np.uint8)


def _smooth(image: Image, hole: Mask, factor: int, depth: NDArray[Any]) -> NDArray[Any]:
    height, width = hole.shape
    small = (max(2, width // factor), max(2, height // factor))
    share = cv2.resize((~hole).astype(np.float32), small, interpolation=cv2.INTER_AREA)
    known = image * (~hole)[..., None].astype(np.float32)
    known = cv2.resize(known, small, interpolation=cv2.INTER_AREA)
    mean = np.clip(known / np.maximum(share, 1e-6)[..., None], 0, 255).astype(np.uint8)
    missing = (share < 0.25).astype(np.uint8)
    if missing.all():
        return np.broadcast_to(image[~hole].mean(0), image.shape).astype(np.float32)
    coarse = cv2.inpaint(mean, missing, RADIUS, cv2.INPAINT_TELEA).astype(np.float32)
    # marching leaves streaks: the deeper in the hole, the less they are believed
    wide = np.asarray(depth, np.float32)
    coarse = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    blurred = cv2.GaussianBlur(coarse, (0, 0), max(1.0, float(wide.max()) / 4))
    trust = np.clip(wide / max(float(wide.max()), 1.0), 0, 1)[..., None]
    return coarse * (1 - trust) + blurred * trust


def grain(image: Image, known: Mask, rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise (H, W, 3) in units of the image, as strong as that of its known pixels (H, W)."""
    fine = (image.astype(np.float32) - cv2.GaussianBlur(image, (0, 0), 1.0))[known]
    spread = 1.48 * np.median(np.abs(fine), axis=0)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return noise * spread.astype(np.float32)
