"""From noise and conditions to photos, as HandBooster samples them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handhold.errors import InputError
from handhold.models.handbooster.model import HandBoosterConfig, HandBoosterUNet
from handhold.synthesis.diffusion.schedule import ancestral, ddim

STEPS = 250
GUIDANCE = 3.0


def sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    config: HandBoosterConfig,
    *,
    steps: int = STEPS,
    eta: float = 1.0,
    generators: Sequence[torch.Generator] | None = None,
) -> Tensor:
    """Clean crops in 0..1 (B, 3, S, S) from pure noise `start`.

    denoise(noisy, time (B,)) -> the clean crops, nominally -1..1 (guided or not). steps: all of the
    schedule's sample step by step (DDPM), fewer take DDIM with `eta` as its share of noise.
    generators: one a crop, for the noise that the steps add. Raises InputError for impossible
    steps, MissingExtraError without diffusers.
    """
    options: dict[str, Any] = {"generator": None if generators is None else list(generators)}
    if steps == config.timesteps:
        scheduler = ancestral(config)
        times = list(range(steps - 1, -1, -1))
    else:
        scheduler, times = ddim(config, steps)
        options |= {"eta": eta, "use_clipped_model_output": True}
    noisy = start
    for number, time in zip(range(steps - 1, -1, -1), times, strict=True):
        clean = denoise(noisy, torch.full((len(noisy),), time, device=noisy.device))
        noisy = scheduler.step(clean, number, noisy, return_dict=False, **options)[0]
    return (noisy + 1) / 2


@torch.no_grad()
def generate(
    network: HandBoosterUNet,
    texture: Tensor,
    normal: Tensor,
    quaternion: Tensor,
    *,
    seeds: Sequence[int],
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    eta: float = 1.0,
) -> Tensor:
    """Crops (B, 3, S, S) in 0..1, nominally, for conditions.

    texture, normal: (B, 3, S, S) in 0..1; quaternion (B, 4); seeds: one a crop, which decides
    all its noise whatever batch it is in. steps, eta: see `sample`; guidance: see
    `HandBoosterUNet.guided`. Raises InputError unless there is a seed for every crop.
    """
    if len(seeds) != len(texture):
        raise InputError(
            f"seeds: expected one for each of {len(texture)} crops, {len(seeds)} found"
        )
    device = texture.device
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    shape = texture.shape[1:]
    start = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)
    maps = (2 * texture - 1, 2 * normal - 1)

    def denoise(noisy: Tensor, time: Tensor) -> Tensor:
        return network.guided(noisy, *maps, time, quaternion, guidance)

    return sample(denoise, start, network.config, steps=steps, eta=eta, generators=generators)


def to_uint8(crops: Tensor) -> NDArray[np.uint8]:
    """Crops (B, 3, S, S) in 0..1 as RGB images (B, S, S, 3): v 255 + 0.5, limited, cut off."""
    whole = (crops * 255 + 0.5).clamp(0, 255).to(torch.uint8)
    return whole.permute(0, 2, 3, 1).cpu().numpy()
