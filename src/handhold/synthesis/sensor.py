"""From a clean render to a photo: lens, motion, exposure, colour response, noise, JPEG.

Every step is drawn from one generator, so that the two images of a pair get the same sensor.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def photograph(
    image: NDArray[np.uint8], rng: np.random.Generator, *, strength: float = 1.0
) -> NDArray[np.uint8]:
    """`image` (H, W, 3) uint8 RGB as a camera of random quality would have stored it.

    strength: 0 leaves the image alone, 1 is the training default.
    """
    if strength <= 0:
        return image
    height, width = image.shape[:2]
    out = image.astype(np.float32) / 255
    if rng.random() < 0.25 * strength:
        out = _motion_blur(
            out, rng.uniform(1.5, 1 + 0.035 * max(height, width)), rng.uniform(0, np.pi)
        )
    if rng.random() < 0.35 * strength:
        out = cv2.GaussianBlur(out, (0, 0), float(rng.uniform(0.3, 1.4)))
    out = _colour_response(out, rng, strength)
    if rng.random() < 0.2 * strength:  # a small or digitally zoomed sensor
        factor = rng.uniform(0.35, 0.8)
        small = (max(8, int(width * factor)), max(8, int(height * factor)))
        out = cv2.resize(out, small, interpolation=cv2.INTER_AREA)
        out = cv2.resize(out, (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.6 * strength:
        shot, read = 0.035 * rng.random() ** 2, 0.02 * rng.random() ** 2
        grain = rng.standard_normal(out.shape, dtype=np.float32)
        if rng.random() < 0.3:
            grain = cv2.GaussianBlur(grain, (0, 0), 0.7) * 1.8
        out = out + grain * (shot * np.sqrt(np.clip(out, 0, 1)) + read)
    result = (np.clip(out, 0, 1) * 255 + 0.5).astype(np.uint8)
    if rng.random() < 0.05 * strength:
        grey = cv2.cvtColor(result, cv2.COLOR_RGB2GRAY)
        result = np.repeat(grey[..., None], 3, 2)
    if rng.random() < 0.6 * strength:
        quality = int(rng.integers(25, 96))
        _, code = cv2.imencode(".jpg", result[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded: Any = cv2.imdecode(code, cv2.IMREAD_COLOR)
        result = np.ascontiguousarray(decoded[..., ::-1])
    return result.astype(np.uint8)


def _motion_blur(image: NDArray[Any], length: float, angle: float) -> NDArray[Any]:
    size = int(np.ceil(length)) | 1
    kernel = np.zeros((size, size), np.float32)
    half = (length - 1) / 2
    centre = size // 2
    step = np.array([np.cos(angle), np.sin(angle)]) * half
    start, end = np.round(centre - step).astype(int), np.round(centre + step).astype(int)
    cv2.line(kernel, tuple(map(int, start)), tuple(map(int, end)), 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def _colour_response(
    image: NDArray[Any], rng: np.random.Generator, strength: float
) -> NDArray[Any]:
    """White balance, exposure, contrast curve, saturation and vignetting."""
    gains = np.exp(rng.normal(0, 0.09 * strength, 3)).astype(np.float32)
    exposure = float(np.exp(rng.normal(0, 0.22 * strength)))
    out = np.clip(image * gains * exposure, 0, 1.2)
    out = np.power(out, np.float32(np.exp(rng.normal(0, 0.16 * strength))))
    grey = out.mean(2, keepdims=True)
    out = grey + (out - grey) * np.float32(rng.uniform(1 - 0.45 * strength, 1 + 0.35 * strength))
    mean = float(out.mean())
    out = mean + (out - mean) * np.float32(rng.uniform(1 - 0.35 * strength, 1 + 0.3 * strength))
    out = out + np.float32(rng.normal(0, 0.02 * strength))
    if rng.random() < 0.3 * strength:
        height, width = image.shape[:2]
        y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
        fall = 1 - rng.uniform(0.1, 0.5) * (x**2 + y**2) / 2
        out = out * fall[..., None].astype(np.float32)
    return out
