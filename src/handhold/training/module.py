"""The one LightningModule that trains every method."""

from __future__ import annotations

import dataclasses
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from handhold.errors import InputError, TrainingError
from handhold.training.config import TrainConfig
from handhold.training.tasks import Task

UNTAUGHT_STEPS = 20  # so many steps in a row may find nothing labelled


class Ema:
    """A slowly moving average of a network's parameters and buffers.

    decay rises from 0.1 to its value, min(decay, (1 + n) / (10 + n)), so that the first weights are
    soon forgotten. Whole-number buffers are copied. Non-persistent buffers take no part.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self._live: list[Tensor] = []
        self._own: list[Tensor] = []
        self._whole: list[tuple[Tensor, Tensor]] = []

    def attach(self, network: nn.Module) -> None:
        """Take the values from this network from now on (its tensors must stay in place)."""
        live = network.state_dict(keep_vars=True)
        self.values = {k: v.to(live[k].device) for k, v in self.values.items()}
        moving = [k for k, v in live.items() if v.is_floating_point()]
        self._live, self._own = [live[k].detach() for k in moving], [self.values[k] for k in moving]
        whole = [k for k, v in live.items() if not v.is_floating_point()]
        self._whole = [(self.values[k], live[k]) for k in whole]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the network after optimiser step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            self._own, self._live, 1 - decay
        )
        for own, live in self._whole:
            own.copy_(live)


def make_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over the trainable parameters, at the peak learning rate.

    Each group holds its `lr_factor` (TrainConfig.lr_factors), its share of the learning rate.
    Raises InputError for a beginning in `lr_factors` that no parameter's name has.
    """
    named = list(network.named_parameters())
    factors = dict(sorted(config.lr_factors.items(), key=lambda item: -len(item[0])))
    for start in factors:
        if not any(f"{name}.".startswith(f"{start}.") for name, _ in named):
            raise InputError(
                f"TrainConfig.lr_factors: no parameter's name begins with {start!r}; "
                f"there are {', '.join(dict(network.named_children()))}"
            )
    kinds: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            fits = (x for start, x in factors.items() if f"{name}.".startswith(f"{start}."))
            spared = config.optimizer == "adamw" and parameter.ndim <= 1
            kinds.setdefault((spared, next(fits, 1.0)), []).append(parameter)
    groups = [
        {
            "params": parameters,
            "lr": config.peak_lr * factor,
            "lr_factor": factor,
            "weight_decay": 0.0 if spared else config.weight_decay,
        }
        for (spared, factor), parameters in sorted(kinds.items(), key=lambda kind: kind[0])
    ]
    fused = bool(groups) and all(p.device.type == "cuda" for ps in kinds.values() for p in ps)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.peak_lr, betas=config.betas, fused=fused or None)


def frozen_modules(network: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    """The modules whose names begin with one of `names`, in eval mode and without gradients.

    Raises InputError for a beginning that no module has.
    """
    found = []
    for name in names:
        part = [m for n, m in network.named_modules() if n == name or n.startswith(f"{name}.")]
        if not part:
            raise InputError(f"TrainConfig.frozen: no module's name begins with {name!r}")
        found += part
    for module in found:
        module.eval().requires_grad_(False)
    return found


def _before_norm(norm: Any, inputs: tuple[Tensor, ...]) -> None:
    norm.earlier_variance = norm.running_var.clone() if norm.training else None


def _after_norm(norm: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    if norm.earlier_variance is not None:
        count = inputs[0].numel() // inputs[0].shape[1]
        added = norm.running_var - (1 - norm.momentum) * norm.earlier_variance
        # `data`: the backward pass must not take it for a change of what it needs, nor does it
        norm.running_var.data.sub_(added / count)


def keep_plain_variances(network: nn.Module) -> None:
    """From now on BatchNorms average the batches' own variances (`TrainConfig.plain_norms`)."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.momentum is not None:
            module.register_forward_pre_hook(_before_norm)
            module.register_forward_hook(_after_norm)


class TrainingModule(lightning.LightningModule):
    """Trains `task.network` on batches by step number.

    done: optimiser steps finished, over all sittings of the run. state: what `training_state`
    returned when the run was last put away. Everything random in a step is drawn from (seed, step),
    so a continued run takes the same steps. latest: named loss terms of the last step, learning
    rate and gradient norm. Raises TrainingError, naming step and samples, when loss or gradient
    is not finite, and after UNTAUGHT_STEPS steps (or the whole run) without any label to learn
    from.
    """

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        epoch_items: int,
        *,
        done: int = 0,
        state: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.task, self.config, self.epoch_items = task, config, epoch_items
        self.network = task.network
        self.done = done
        self.latest: dict[str, Tensor] = {}
        self._keys: tuple[str, ...] = ()
        self._untaught = 0  # steps in a row
        self._optimizer_state = None
        self.ema = Ema(self.network, config.ema) if config.ema else None
        self._frozen = frozen_modules(self.network, config.frozen)
        if config.plain_norms:
            keep_plain_variances(self.network)
        if config.channels_last:
            # the stubs of PyTorch do not know this form of `to`
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if state is not None:
            self.network.load_state_dict(state["network"])
            self._optimizer_state = state["optimizer"]
            if self.ema is not None:
                self.ema.values = state["ema"]

    def train(self, mode: bool = True) -> TrainingModule:
        """As usual, but frozen modules keep their statistics."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    # ---- what Lightning calls, in the order of a step ----

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = make_optimizer(self.network, self.config)
        if self._optimizer_state is not None:
            optimizer.load_state_dict(self._optimizer_state)
            self._optimizer_state = None
        self._own_optimizer = optimizer
        return optimizer

    def on_fit_start(self) -> None:
        if self.ema is not None:
            self.ema.attach(self.network)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        batch = batch.to(device, non_blocking=True)
        if self.config.channels_last:
            image = batch.image.contiguous(memory_format=torch.channels_last)
            batch = dataclasses.replace(batch, image=image)
        return batch

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        rate = self.config.lr_at(self.done, self.epoch_items)
        for group in self._own_optimizer.param_groups:
            group["lr"] = rate * group.get("lr_factor", 1.0)  # older checkpoints have none
        mixed = np.random.SeedSequence([self.config.seed, 2, self.done, self.global_rank])
        torch.manual_seed(int(mixed.generate_state(1)[0]))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self._keys = tuple(getattr(batch, "keys", ()))
        if self.task.prepare is not None:
            epoch = self.done * self.config.batch_size / self.epoch_items
            batch = self.task.prepare(self.network, batch, epoch)
        bf16 = self.config.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            terms = self.task.losses(self.network, batch)
        self.latest = {name: term.detach() for name, term in terms.items()}
        if not torch.isfinite(terms["total"]):
            found = ", ".join(f"{name} {float(term):g}" for name, term in self.latest.items())
            raise self._failure(f"the loss is not finite ({found})")
        self._untaught = 0 if terms["total"] != 0 else self._untaught + 1
        if self._untaught >= min(UNTAUGHT_STEPS, self.config.total_steps(self.epoch_items)):
            names = ", ".join(name for name in terms if name != "total")
            raise self._failure(f"no label for {self.task.name} in the last samples ({names})")
        return terms["total"]

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        if not self.config.clip_norm:
            return
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.latest["gradient_norm"] = norm.detach()
        if not torch.isfinite(norm):
            raise self._failure(f"the gradient's norm is {float(norm)}")

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        # not in on_train_batch_end: the callbacks' turn there comes before the module's
        super().optimizer_step(*arguments, **options)
        if self.ema is not None:
            self.ema.update(self.done)
        self.done += 1

    # ---- putting the run away ----

    def training_state(self) -> dict[str, Any]:
        """Network, average and optimiser, as plain dictionaries of tensors."""
        return {
            "network": self.network.state_dict(),
            "ema": None if self.ema is None else self.ema.values,
            "optimizer": self._own_optimizer.state_dict(),
        }

    def best_weights(self) -> dict[str, Tensor]:
        """The averaged weights, or the current ones without averaging."""
        return self.network.state_dict() if self.ema is None else self.ema.values

    def _failure(self, what: str) -> TrainingError:
        shown = ", ".join(self._keys[:8]) + (", ..." if len(self._keys) > 8 else "")
        return TrainingError(f"step {self.done}: {what}; samples: {shown or 'unknown'}")
