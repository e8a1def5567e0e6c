"""Deterministic weights and images for the parity tests.

The golden files store what the original networks put out, never their weights: both sides make the
weights from the key, the shape and a seed, with NumPy's frozen legacy generator, so that the same
key always gives the same numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SEED_STEP = 7919
CELLS = 8  # a generated image is 8 x 8 plain patches under noise


def _stream(name: str, seed: int) -> np.random.RandomState:
    """The generator that belongs to `name`."""
    return np.random.RandomState((zlib.crc32(name.encode()) + SEED_STEP * seed) % 2**32)


def fill_array(key: str, shape: Sequence[int], seed: int = 0) -> NDArray[np.generic]:
    """The values of the state-dict entry `key` (float32; int64 for batch counters)."""
    size = tuple(int(n) for n in shape)
    stream = _stream(key, seed)
    match key.split(".")[-1], len(size):
        case "num_batches_tracked", _:
            return np.zeros(size, dtype=np.int64)
        case "running_var", _:
            values = stream.uniform(0.5, 1.5, size)
        case "running_mean", _:
            values = stream.standard_normal(size) * 0.1
        case _, rank if rank >= 2:
            values = stream.standard_normal(size) / np.sqrt(max(int(np.prod(size[1:])), 1))
        case "weight" | "gamma", _:
            values = stream.uniform(0.5, 1.0, size)
        case _:
            values = stream.standard_normal(size) * 0.1
    return np.asarray(values, dtype=np.float32)


def generated_image(shape: Sequence[int], name: str, seed: int = 0) -> NDArray[np.float32]:
    """A patchy, noisy float32 image (..., H, W) in 0..1."""
    *lead, height, width = (int(n) for n in shape)
    stream = _stream(name, seed)
    patches = stream.uniform(0, 1, (*lead, CELLS, CELLS))
    noise = stream.uniform(0, 1, (*lead, height, width))
    row = np.minimum(CELLS * np.arange(height) // height, CELLS - 1)
    column = np.minimum(CELLS * np.arange(width) // width, CELLS - 1)
    enlarged = patches[..., row, :][..., column]
    return np.asarray(0.8 * enlarged + 0.2 * noise, dtype=np.float32)
