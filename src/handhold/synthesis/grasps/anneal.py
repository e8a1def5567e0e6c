"""Simulated annealing with gradients (DexGraspNet, section IV-C): the optimiser of a batch.

Every step proposes a gradient step, scaled by a running mean of squared slopes that the whole batch
shares, and other contacts; each grasp accepts or refuses it by Metropolis' rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from handhold.errors import InputError


@dataclass(frozen=True, kw_only=True)
class AnnealConfig:
    """The published constants.

    steps: of the whole run. step_size: of the first step, times `decay` every `step_period` steps.
    temperature: of the first step, times `decay` every `temperature_period` steps. switch: chance
    that a contact is drawn anew. momentum: share of the new squared slope in the running mean.
    Raises InputError for values out of range.
    """

    steps: int = 6000
    step_size: float = 0.005
    step_period: int = 50
    temperature: float = 18.0
    temperature_period: int = 30
    decay: float = 0.95
    switch: float = 0.5
    momentum: float = 0.98

    def __post_init__(self) -> None:
        for name in ("step_period", "temperature_period"):
            if getattr(self, name) < 1:
                raise InputError(f"AnnealConfig.{name}: expected 1 or more")
        if self.steps < 0 or self.step_size <= 0 or self.temperature <= 0:
            raise InputError("AnnealConfig: expected steps >= 0, step_size and temperature > 0")
        if not (0 <= self.switch <= 1 and 0 < self.momentum <= 1 and 0 < self.decay <= 1):
            raise InputError("AnnealConfig: expected switch, momentum and decay within 0 to 1")

    def step_length(self, step: int) -> float:
        """Step size of step number `step` (from 0)."""
        return self.step_size * self.decay ** (step // self.step_period)

    def heat(self, step: int) -> float:
        """Temperature of step number `step`; the published counter is already raised here."""
        return self.temperature * self.decay ** ((step + 1) // self.temperature_period)


def running_square(mean_square: Tensor, slope: Tensor, config: AnnealConfig) -> Tensor:
    """The running mean (51,) after slopes (B, 51): one vector for the whole batch."""
    new = (slope * slope).mean(dim=0)
    return config.momentum * new + (1.0 - config.momentum) * mean_square


def proposal(
    pose: Tensor, slope: Tensor, mean_square: Tensor, step: int, config: AnnealConfig
) -> Tensor:
    """Poses (B, 51) one step down the slopes."""
    return pose - config.step_length(step) * slope / (mean_square.sqrt() + 1e-6)


def accepted(old: Tensor, new: Tensor, uniform: Tensor, heat: float) -> Tensor:
    """Which of B new energies are kept: u < exp((old - new) / heat)."""
    return uniform < torch.exp((old - new) / heat)
