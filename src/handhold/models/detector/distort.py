"""Colour, blur, noise, compression and cut-outs: distortions that leave everything in its place."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def distort(image: Any, rng: np.random.Generator) -> Image:
    """A distorted copy of an (H, W, 3) uint8 RGB image; geometry and labels stay."""
    if rng.random() < 0.15:
        image = _cut_out(image, rng)
    if rng.random() < 0.8:
        image = _tone(image, rng)
    if rng.random() < 0.5:
        image = _hue(image, rng)
    if rng.random() < 0.1:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < 0.25:
        image = _blur(image, rng)
    if rng.random() < 0.25:
        image = _noise(image, rng)
    if rng.random() < 0.25:
        quality = int(rng.integers(15, 85))
        coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        image = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), dtype=np.uint8)
    return np.asarray(image, dtype=np.uint8)


def _tone(image: Image, rng: np.random.Generator) -> Image:
    """Contrast, brightness, gamma and white balance in one table per channel."""
    level = np.arange(256) / 255.0
    level = level ** np.exp(rng.uniform(-0.4, 0.4))
    level = (level - 0.5) * rng.uniform(0.6, 1.4) + 0.5 + rng.uniform(-0.15, 0.15)
    table = level[:, None] * rng.uniform(0.85, 1.15, 3)
    return np.asarray(
        cv2.LUT(image, np.clip(table * 255, 0, 255).astype(np.uint8)[None]), dtype=np.uint8
    )


def _hue(image: Image, rng: np.random.Generator) -> Image:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int16)
    hsv[..., 0] = (hsv[..., 0] + int(rng.integers(-12, 13))) % 180
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.4, 1.6), 0, 255)
    return np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB), dtype=np.uint8)


def _blur(image: Image, rng: np.random.Generator) -> Image:
    if rng.random() < 0.5:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 2.0)), np.uint8)
    length = int(rng.integers(3, 10))
    kernel = np.zeros((length, length), dtype=np.float32)
    angle = rng.uniform(0, np.pi)
    for t in np.linspace(-(length - 1) / 2, (length - 1) / 2, 4 * length):
        x, y = (length - 1) / 2 + t * np.cos(angle), (length - 1) / 2 + t * np.sin(angle)
        kernel[round(y), round(x)] = 1
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), dtype=np.uint8)


def _noise(image: Image, rng: np.random.Generator) -> Image:
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(2, 14))
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def _cut_out(image: Image, rng: np.random.Generator) -> Image:
    """Up to three rectangles of one colour or of noise, each at most a quarter of the image
    wide.
    """
    image = image.copy()
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(1, 4))):
        w, h = int(rng.uniform(0.03, 0.25) * width), int(rng.uniform(0.03, 0.25) * height)
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        image[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return image
