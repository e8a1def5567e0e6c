"""Smooth noise in space with an exact gradient, for blotches, bumps and cloth."""

from __future__ import annotations

from collections.abc import Sequence

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
        steep = self.waves / np.linalg.norm(self.waves, axis=1, keepdims=True) * self.amplitude
        self.steep = np.ascontiguousarray(steep.T)

    def kept(self, footprint: float) -> int:
        """How many waves are long enough for pixels `footprint` metres wide."""
        return int((self.lengths > 3.2 * footprint).sum())

    def value(self, points: FloatArray, footprint: float = 0.0) -> FloatArray:
        """Noise (N,) at points (N, 3)."""
        return mixed([self.values(footprint)], np.transpose(points))[0]

    def gradient(self, points: FloatArray, footprint: float = 0.0) -> FloatArray:
        """Change of the noise per metre (N, 3), for a height field whose waves are all equally
        steep.

        Each wave's height is proportional to its length (0.16 lengths), so that one number, the
        slope, says how rough the surface looks.
        """
        return mixed([self.slopes(footprint)], np.transpose(points)).T

    def values(self, footprint: float, stretch: FloatArray | float = 1.0) -> Term:
        """`value` as a term of `mixed`, of points that are first multiplied by `stretch` (3,)."""
        kept = self.kept(footprint)
        factors = np.full((1, kept), self.amplitude, np.float32)
        return self.waves[:kept] * np.float32(stretch), self.phases[:kept], factors

    def slopes(self, footprint: float) -> Term:
        """`gradient` as a term of `mixed`."""
        kept = self.kept(footprint)
        turned = self.phases[:kept] + np.float32(np.pi / 2)
        return self.waves[:kept], turned, self.steep[:, :kept]


Term = tuple[FloatArray, FloatArray, FloatArray]
"""Waves (K, 3), phases (K,) and factors (C, K): C channels factors @ sin(waves x + phase)."""


def mixed(terms: Sequence[Term], rows: FloatArray) -> FloatArray:
    """The channels (C, N) of all terms, one below the other, at points given as rows (3, N).

    One product, one sine and one product for all of them, in blocks that stay in the cache.
    """
    waves = np.concatenate([term[0] for term in terms])
    phases = np.concatenate([term[1] for term in terms])[:, None]
    factors = np.zeros((sum(len(term[2]) for term in terms), len(waves)), np.float32)
    row = column = 0
    for _, _, part in terms:
        factors[row : row + part.shape[0], column : column + part.shape[1]] = part
        row, column = row + part.shape[0], column + part.shape[1]
    out = np.zeros((len(factors), rows.shape[1]), np.float32)
    for start in range(0, rows.shape[1], 1024):
        block = waves @ rows[:, start : start + 1024]
        block += phases
        np.sin(block, out=block)
        out[:, start : start + 1024] = factors @ block
    return out
