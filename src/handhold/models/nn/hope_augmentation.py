"""Random changes of a crop in training, drawn from one NumPy generator.

The first block of settings is the HOPE models' own (as in UniHOPE's released code); the extras
imitate what real photos and real detectors do and are off by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from handhold.errors import InputError

Picture = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Strengths; 0 (or "none") switches a change off. Probabilities end in `_chance`."""

    # -- geometry: the crop moves, labels and camera follow
    centre_jitter: float = 0.1  # uniform, +- this share of the crop's side, per axis
    scale_sigma: float = 0.2  # normal: side *= clip(1 + sigma N(0, 1), 1 - sigma, 1 + sigma)
    scale: Literal["normal", "uniform"] = "normal"  # uniform: side *= 1 + sigma U(-1, 1)
    rotation: Literal["none", "normal", "uniform"] = "normal"
    rotation_deg: float = 30.0  # normal: sigma, clipped at two sigma; uniform: +- this
    rotation_chance: float = 0.6
    # -- colour
    blur_px: float = 0.5  # Gaussian, radius uniform from 0, in photo pixels
    brightness: float = 0.5  # factors uniform in 1 +- this
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.15  # turns, uniform +-
    channel_gain: float = 0.0  # red, green and blue each times a factor uniform in 1 +- this
    whole_frame: bool = False  # change the whole photo before cropping, as the originals (slow)
    # -- extras: what a detector does
    box_jitter: float = 0.0  # sides of the hand and object boxes move by this share x N(0, 1)
    drop_object: float = 0.0  # chance that a held object's box is not given
    drop_free_object: float = 0.0  # chance that the box of an object nobody holds is not given
    # -- extras: what a camera and its files do; sizes refer to the crop
    low_resolution_chance: float = 0.0
    low_resolution: float = 0.25  # smallest factor of shrinking before enlarging again
    motion_chance: float = 0.0
    motion: float = 0.06  # longest streak, share of the crop's side
    noise_chance: float = 0.0
    noise: float = 0.06  # largest standard deviation, share of full scale
    grey_chance: float = 0.0
    gamma: float = 0.0  # exponent exp(U(-gamma, gamma))
    jpeg_chance: float = 0.0
    jpeg_quality: int = 25  # lowest quality, highest 95
    patch_chance: float = 0.0
    patches: int = 3  # most occluding patches
    patch_size: float = 0.3  # largest side, share of the crop's side

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float | int) and (not np.isfinite(value) or value < 0):
                raise InputError(f"Augmentation.{name}: expected a number >= 0, found {value}")
            if name.endswith("_chance") and value > 1:
                raise InputError(f"Augmentation.{name}: expected at most 1, found {value}")
        if self.scale_sigma >= 1 or self.hue > 0.5:
            raise InputError("Augmentation: scale_sigma must be below 1, hue at most 0.5")
        if self.rotation not in ("none", "normal", "uniform"):
            raise InputError(f"Augmentation.rotation: none, normal or uniform: {self.rotation!r}")
        if self.scale not in ("normal", "uniform"):
            raise InputError(f"Augmentation.scale: normal or uniform: {self.scale!r}")

    @classmethod
    def dexycb(cls) -> Augmentation:
        """UniHOPE and HFL-Net on DexYCB."""
        return cls(whole_frame=True)

    @classmethod
    def ho3d(cls) -> Augmentation:
        """UniHOPE and HFL-Net on HO3D (and what UniHOPE's paper says for all): any rotation."""
        return cls(rotation="uniform", rotation_deg=180.0, rotation_chance=1.0, whole_frame=True)

    @classmethod
    def hand_alone(cls) -> Augmentation:
        """HandOccNet's, H2ONet's and HandBooster's own code."""
        return cls(
            centre_jitter=0.0,
            scale_sigma=0.25,
            blur_px=0.0,
            brightness=0.0,
            contrast=0.0,
            saturation=0.0,
            hue=0.0,
            channel_gain=0.2,
        )

    @classmethod
    def strong(cls) -> Augmentation:
        """For small models that must work on photos from anywhere."""
        return cls(
            centre_jitter=0.08,
            rotation="uniform",
            rotation_deg=60.0,
            rotation_chance=0.8,
            blur_px=0.0,
            brightness=0.4,
            contrast=0.4,
            saturation=0.6,
            hue=0.08,
            box_jitter=0.06,
            drop_object=0.25,
            drop_free_object=0.6,
            low_resolution_chance=0.3,
            motion_chance=0.15,
            noise_chance=0.3,
            grey_chance=0.08,
            gamma=0.2,
            jpeg_chance=0.25,
            patch_chance=0.3,
        )

    def draw_rotation(self, rng: np.random.Generator) -> float:
        """Return an in-plane angle in radians."""
        if self.rotation == "none" or rng.random() >= self.rotation_chance:
            return 0.0
        if self.rotation == "uniform":
            return float(np.radians(rng.uniform(-1, 1) * self.rotation_deg))
        return float(np.radians(np.clip(rng.standard_normal(), -2, 2) * self.rotation_deg))

    def draw_scale(self, rng: np.random.Generator) -> float:
        """Return the factor of the crop's side."""
        sigma = self.scale_sigma
        if self.scale == "uniform":
            return float(1 + sigma * rng.uniform(-1, 1))
        return float(np.clip(1 + sigma * rng.standard_normal(), 1 - sigma, 1 + sigma))


def colour(
    image: Picture, settings: Augmentation, rng: np.random.Generator, scale: float = 1.0
) -> Picture:
    """Return `image` (H, W, 3) with the official changes: blur, then four colour changes in random
    order.

    scale: crop pixels per photo pixel, when the image is a crop already.
    """
    radius = rng.uniform(0, settings.blur_px) * scale
    if radius > 0.15:  # below, a 3 x 3 kernel changes nothing that uint8 can hold
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), radius), np.uint8)
    strengths = (settings.brightness, settings.saturation, settings.contrast)
    factors = 1 + rng.uniform(-1, 1, 3) * strengths
    turn = rng.uniform(-settings.hue, settings.hue)
    for step in rng.permutation(4):
        if step == 0 and settings.brightness > 0:
            image = _blend(image, 0.0, float(factors[0]))
        elif step == 1 and settings.saturation > 0:
            grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            grey = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
            share = float(factors[1])
            image = np.asarray(cv2.addWeighted(image, share, grey, 1 - share, 0), np.uint8)
        elif step == 2 and settings.contrast > 0:
            mean = float(np.dot(cv2.mean(image)[:3], (0.299, 0.587, 0.114)))
            image = _blend(image, float(np.rint(mean)), float(factors[2]))
        elif step == 3 and settings.hue > 0:
            hsv = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL))
            hsv[..., 0] += np.uint8(int(turn * 255) % 256)
            image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL), np.uint8)
    if settings.channel_gain > 0:
        gains = 1 + rng.uniform(-1, 1, 3) * settings.channel_gain
        table = np.clip(np.arange(256)[:, None] * gains, 0, 255).astype(np.uint8)
        image = np.asarray(cv2.LUT(image, table[None]), np.uint8)
    return image


def _blend(image: Picture, other: float, share: float) -> Picture:
    """share * image + (1 - share) * other, by table."""
    table = np.clip(np.arange(256) * share + other * (1 - share), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table), np.uint8)


def degrade(image: Picture, settings: Augmentation, rng: np.random.Generator) -> Picture:
    """Return the crop `image` (S, S, 3) after occluding patches and a poor camera's work."""
    chances = rng.random(6)
    size = image.shape[0]
    if chances[0] < settings.patch_chance:
        image = _patches(image.copy(), settings, rng)
    if settings.gamma > 0:
        power = float(np.exp(rng.uniform(-settings.gamma, settings.gamma)))
        table = (np.linspace(0, 1, 256) ** power * 255 + 0.5).astype(np.uint8)
        image = np.asarray(cv2.LUT(image, table), np.uint8)
    if chances[1] < settings.motion_chance:
        length = max(2, round(rng.uniform(0.01, max(settings.motion, 0.01)) * size))
        image = np.asarray(
            cv2.filter2D(image, -1, _streak(length, rng.uniform(0, np.pi))), np.uint8
        )
    if chances[2] < settings.low_resolution_chance:
        small = max(8, round(size * rng.uniform(settings.low_resolution, 1)))
        coarse = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        image = np.asarray(
            cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8
        )
    if chances[3] < settings.grey_chance:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        image = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)
    if chances[4] < settings.noise_chance:
        strength = np.float32(rng.uniform(0, settings.noise) * 255)
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        image = np.clip(image + noise * strength, 0, 255).astype(np.uint8)
    if chances[5] < settings.jpeg_chance:
        quality = int(rng.integers(min(settings.jpeg_quality, 95), 96))
        coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        image = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return image


def _streak(length: int, angle: float) -> NDArray[Any]:
    kernel = np.zeros((length, length), np.float32)
    middle, reach = (length - 1) / 2, (length - 1) / 2
    dx, dy = np.cos(angle) * reach, np.sin(angle) * reach
    ends = np.rint([[middle - dx, middle - dy], [middle + dx, middle + dy]]).astype(int).tolist()
    cv2.line(kernel, tuple(ends[0]), tuple(ends[1]), 1.0, 1)
    return kernel / max(float(kernel.sum()), 1.0)


def _patches(image: Picture, settings: Augmentation, rng: np.random.Generator) -> Picture:
    """Cover parts of the image, in place, by plain or noisy rectangles and ellipses."""
    size = image.shape[0]
    for _ in range(int(rng.integers(1, settings.patches + 1))):
        width, height = (rng.uniform(0.05, max(settings.patch_size, 0.05), 2) * size).astype(int)
        x, y = (int(v) for v in rng.integers(0, size, 2))
        tone = tuple(int(v) for v in rng.integers(0, 256, 3))
        kind = rng.random()
        if kind < 0.5:
            half = (max(int(width) // 2, 1), max(int(height) // 2, 1))
            cv2.ellipse(image, (x, y), half, rng.uniform(0, 180), 0, 360, tone, -1)
        elif kind < 0.75:
            cv2.rectangle(image, (x, y), (x + int(width), y + int(height)), tone, -1)
        else:  # a piece of the same picture from elsewhere: natural texture in the wrong place
            u, v = (int(n) for n in rng.integers(0, size, 2))
            wide = min(int(width), size - x, size - u)
            high = min(int(height), size - y, size - v)
            image[y : y + high, x : x + wide] = image[v : v + high, u : u + wide].copy()
    return image
