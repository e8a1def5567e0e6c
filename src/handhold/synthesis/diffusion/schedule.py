"""HandBooster's noise schedule and samplers: diffusers', set up so that they equal the original.

Three things of diffusers differ and are matched here. Its schedule is computed in float32, where
1 - abar of the first steps has only three digits; here it is computed in float64, as the original
does. Its DDIM goes back by a fixed number of steps, which only divisors of the schedule's length
allow; here a scheduler is made of the chosen steps alone (as Nichol and Dhariwal, ICML 2021, do),
which is the same for divisors and exact for the others. And with its prediction of the clean image
DDIM keeps the noise of the unclipped one unless told otherwise (`use_clipped_model_output`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from handhold.errors import InputError, MissingExtraError
from handhold.models.handbooster.model import HandBoosterConfig


def _schedulers() -> Any:
    try:
        import diffusers
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "training and sampling with a diffusion network need: pip install 'handhold[diffusion]'"
        ) from error
    return diffusers


def signal_shares(config: HandBoosterConfig) -> Tensor:
    """abar (timesteps,) float64: the clean image's share of the variance after every step."""
    betas = torch.linspace(
        config.first_beta, config.last_beta, config.timesteps, dtype=torch.float64
    )
    return (1 - betas).cumprod(0)


def snr(shares: Tensor) -> Tensor:
    """Signal-to-noise ratio abar / (1 - abar), the weight of a step's loss."""
    return shares / (1 - shares)


def _exact(scheduler: Any, shares: Tensor) -> Any:
    """The scheduler with the shares (float64) in place of its own."""
    before = torch.cat((shares.new_ones(1), shares[:-1]))
    scheduler.alphas_cumprod = shares
    scheduler.alphas = shares / before
    scheduler.betas = 1 - scheduler.alphas
    return scheduler


def _scheduler(kind: Any, shares: Tensor, **options: Any) -> Any:
    alphas = shares / torch.cat((shares.new_ones(1), shares[:-1]))
    made = kind(
        num_train_timesteps=len(shares),
        trained_betas=(1 - alphas).tolist(),
        prediction_type="sample",
        clip_sample=True,
        timestep_spacing="leading",
        **options,
    )
    made.set_timesteps(len(shares))
    return _exact(made, shares)


def ancestral(config: HandBoosterConfig) -> Any:
    """diffusers' DDPMScheduler over all steps; its `add_noise` makes the noisy crops of training.

    Raises MissingExtraError without diffusers.
    """
    return _scheduler(_schedulers().DDPMScheduler, signal_shares(config))


def ddim_times(config: HandBoosterConfig, steps: int) -> list[int]:
    """The steps that DDIM visits, from the last to the first: the whole parts of `steps` + 1
    numbers spread evenly over -1..timesteps - 1, without the -1.

    Raises InputError unless 1 <= steps <= timesteps.
    """
    if not 1 <= steps <= config.timesteps:
        raise InputError(f"steps: expected 1 to {config.timesteps}, found {steps}")
    spread = torch.linspace(-1, config.timesteps - 1, steps + 1)
    return spread.trunc().int().tolist()[:0:-1]


def ddim(config: HandBoosterConfig, steps: int) -> tuple[Any, list[int]]:
    """diffusers' DDIMScheduler over the visited steps, and these (`ddim_times`).

    Its own timesteps are steps - 1 .. 0; number i stands for step `times[steps - 1 - i]`. Raises
    InputError as `ddim_times`, MissingExtraError without diffusers.
    """
    times = ddim_times(config, steps)
    shares = signal_shares(config)[times[::-1]]
    kind = _schedulers().DDIMScheduler
    return _scheduler(kind, shares, set_alpha_to_one=True, steps_offset=0), times
