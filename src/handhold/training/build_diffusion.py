"""HandBooster's image synthesizer as a training task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.models.handbooster.loss import DiffusionBatch, HandBoosterLossConfig, loss
from handhold.models.handbooster.model import HandBoosterConfig, HandBoosterUNet
from handhold.models.handbooster.weights import NAME, save_denoiser
from handhold.synthesis.diffusion.crops import encode_crops
from handhold.synthesis.diffusion.schedule import ancestral, snr
from handhold.synthesis.shards import MAPS, OPTIONAL
from handhold.training.build import changed
from handhold.training.config import TrainConfig
from handhold.training.tasks import Items, Measures, Task

KEPT = 0.5  # share of the training samples that keep their orientation
JUDGED = (0.2, 0.5, 0.8)  # where on the way to pure noise validation looks


def diffusion_task(config: TrainConfig) -> Task:
    """The denoiser with fresh weights. Steps, noise and dropped orientations are drawn from
    PyTorch's generator, which the training seeds at every step.

    Raises InputError for unknown fields and augmentation, MissingExtraError without diffusers.
    """
    settings = changed(HandBoosterConfig(), config.network, f"{NAME}, network")
    weights = changed(HandBoosterLossConfig(), config.loss, f"{NAME}, loss")
    if config.augment or config.augmentation or config.pairs:
        raise InputError(f"TrainConfig: {NAME} knows no augmentation and no pairs (augment=false)")
    scheduler = ancestral(settings)
    ratios = snr(scheduler.alphas_cumprod).float()

    def encode(items: Items, rng: np.random.Generator | None) -> DiffusionBatch:
        return encode_crops(items, settings.input_size)

    def noisy(batch: DiffusionBatch, time: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        image, texture, normal = (2 * x - 1 for x in (batch.image, batch.texture, batch.normal))
        return image, scheduler.add_noise(image, noise, time), texture, normal

    def losses(network: nn.Module, batch: DiffusionBatch) -> dict[str, Tensor]:
        device = batch.image.device
        time = torch.randint(settings.timesteps, (len(batch),)).to(device)
        keep = (torch.rand(len(batch)) < KEPT).to(device)
        noise = torch.randn(batch.image.shape).to(device)
        image, *given = noisy(batch, time, noise)
        clean = network(*given, time, batch.quaternion, keep)
        with torch.autocast(device.type, enabled=False):
            weight = ratios.to(device)[time]
            return loss(clean.float(), image, weight, batch.foreground, weights)

    def measures(network: nn.Module, batch: DiffusionBatch) -> Measures:
        """Mean absolute error of hand and object, 0..1, at several shares of the noise."""
        draw = torch.Generator().manual_seed(0)
        noise = torch.randn(batch.image.shape, generator=draw).to(batch.image.device)
        inside = batch.foreground.expand_as(batch.image)
        found: Measures = {}
        for share in JUDGED:
            step = round(share * (settings.timesteps - 1))
            time = torch.full((len(batch),), step, device=batch.image.device)
            image, *given = noisy(batch, time, noise)
            error = (network(*given, time, batch.quaternion) - image).abs() / 2
            off = float((error * inside).sum())
            found[f"foreground_error_{share:.0%}"] = (off, float(inside.sum()))
        return found

    def save(path: Path, network: Any, extra: dict[str, str]) -> None:
        save_denoiser(path, network, extra)

    return Task(
        name=NAME,
        network=HandBoosterUNet(settings),
        encode=encode,
        losses=losses,
        measures=measures,
        save=save,
        skip=frozenset(OPTIONAL) - set(MAPS),
        conditions=True,
    )
