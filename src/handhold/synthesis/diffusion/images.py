"""Series of made photos: shards in, shards out, the same whatever is interrupted or batched."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.models.handbooster.model import HandBoosterUNet
from handhold.models.handbooster.weights import load_denoiser
from handhold.scene import Sample
from handhold.synthesis.diffusion.crops import encode_crops, made_sample, maps_of, seeds_of
from handhold.synthesis.diffusion.generate import GUIDANCE, STEPS, generate, to_uint8
from handhold.synthesis.shards import MAPS, OPTIONAL, ShardDataset, write_shards


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """How photos are made."""

    steps: int = STEPS
    """Denoising steps; all of the schedule's (1000) sample it step by step, fewer with DDIM."""
    guidance: float = GUIDANCE
    """How strongly the hand's orientation is insisted on; 1 is not more than it was learned."""
    eta: float = 1.0
    """Share of fresh noise in every step of DDIM; 0 is none."""
    batch: int = 8
    """Photos made together."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not 0 <= self.eta <= 1:
            raise InputError(
                "ImageConfig: expected steps and batch of 1 or more and eta in 0..1, found "
                f"{self.steps}, {self.batch}, {self.eta}"
            )
        if not math.isfinite(self.guidance):
            raise InputError(f"ImageConfig.guidance: expected a number, found {self.guidance}")


def make_images(
    network: HandBoosterUNet,
    samples: ShardDataset,
    numbers: range,
    config: ImageConfig,
    *,
    seed: int = 0,
) -> Iterator[Sample]:
    """Photo number n of series `seed` for each of `numbers`, with the labels of sample n (counted
    round where there are fewer samples). See `crops.made_sample`.
    """
    device = next(network.parameters()).device
    for first in range(0, len(numbers), config.batch):
        part = numbers[first : first + config.batch]
        found = [samples[number % len(samples)] for number in part]
        batch = encode_crops([(sample, 0) for sample in found], network.config.input_size)
        maps = (value.to(device) for value in maps_of(batch))
        crops = generate(
            network,
            *maps,
            seeds=seeds_of(seed, part),
            steps=config.steps,
            guidance=config.guidance,
            eta=config.eta,
        )
        for number, sample, image in zip(part, found, to_uint8(crops), strict=True):
            yield made_sample(sample, image, f"made-{seed}-{number:07d}-{sample.key}", seed)


def open_conditions(folder: Path) -> ShardDataset:
    """Shards whose samples have maps; nothing else of their pictures is read but masks.

    Raises InputError where there is no sample or the first has none.
    """
    samples = ShardDataset(folder, skip=set(OPTIONAL) - {*MAPS, "hand_mask", "object_mask"})
    if not len(samples):
        raise InputError(f"{folder}: its shards hold no samples")
    if samples[0].texture_map is None or samples[0].normal_map is None:
        raise InputError(f"{folder}: its samples have no texture_map and normal_map")
    return samples


def write_part(
    weights: Path,
    conditions: Path,
    out: Path,
    first: int,
    stop: int,
    shard_size: int,
    seed: int,
    config: ImageConfig,
    device: str = "cpu",
    threads: int | None = None,
) -> None:
    """Write photos `first` to `stop - 1` of the series, one shard."""
    if threads:
        torch.set_num_threads(threads)
    network = _opened(weights, device)
    made = make_images(network, open_conditions(conditions), range(first, stop), config, seed=seed)
    write_shards(made, out, shard_size, first, quality=98)


@lru_cache(maxsize=1)
def _opened(weights: Path, device: str) -> HandBoosterUNet:
    return load_denoiser(weights).to(device)


def beside(sample: Sample, made: Sample) -> NDArray[np.uint8]:
    """The crop of the photo, its maps and what was made of them, in one line of pictures."""
    size = made.image.shape[0]
    batch = encode_crops([(sample, 0)], size)
    pictures = to_uint8(
        batch.image.new_tensor(
            np.stack([batch.image[0].numpy(), batch.texture[0].numpy(), batch.normal[0].numpy()])
        )
    )
    last = made.image[:, ::-1] if made.hands[0].side == "left" else made.image
    return np.concatenate([*pictures, last], axis=1)
