"""Smooth noise in space with an exact gradient, for blotches, bumps and cloth."""

from __future__ import annotations

import numpy as np

from handhold.scene import FloatArray


class WaveNoise:
    """A sum of sine waves of random directions; mean 0, variance 1.

    wavelengths: shortest and longest in metres (log-uniform); count: number of waves. Waves too
    short for the pixels are left out when `footprint` is given, so nothing flickers or aliases.
    """

    def __init__(
        self, rng: np.random.Generator, wavelengths: tuple[float, float], count: int
    ) -> None:
        direction = rng.normal(size=(count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        shortest, longest = float(np.log(wavelengths[0])), float(np.log(wavelengths[1]))
        lengths = np.exp(np.sort(rng.uniform(shortest, longest, count))[::-1])
        self.lengths = lengths
        self.waves = (direction * (2 * np.pi / lengths)[:, None]).astype(np.float32)
        self.phases = rng.uniform(0, 2 * np.pi, count).astype(np.float32)
        self.amplitude = np.float32(np.sqrt(2 / count))

    def _kept(self, footprint: float) -> int:
        return int((self.lengths > 3.2 * footprint).sum())

    def value(self, points: FloatArray, footprint: float = 0.0) -> FloatArray:
        """Noise (N,) at points (N, 3)."""
        kept = self._kept(footprint)
        phase = points @ self.waves[:kept].T + self.phases[:kept]
        return np.sin(phase).sum(axis=1) * self.amplitude

    def gradient(self, points: FloatArray, footprint: float = 0.0) -> FloatArray:
        """Change of the noise per metre (N, 3), for a height field whose waves are all equally
        steep.

        Each wave's height is proportional to its length (0.16 lengths), so that one number, the
        slope, says how rough the surface looks.
        """
        kept = self._kept(footprint)
        phase = points @ self.waves[:kept].T + self.phases[:kept]
        steep = self.waves[:kept] / np.linalg.norm(self.waves[:kept], axis=1, keepdims=True)
        return (np.cos(phase) @ steep) * self.amplitude
