"""What a training run is: one frozen dataclass, kept as JSON beside every checkpoint."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from handhold.errors import FileFormatError, InputError

# Fields that may differ between a run and its continuation: they do not change what one step does.
FREE_FIELDS = frozenset(
    {
        "start_from",
        "workers",
        "devices",
        "checkpoint_steps",
        "checkpoint_minutes",
        "validate_steps",
        "validation",
        "validation_items",
        "log_steps",
    }
)
DEFAULT_EPOCH_ITEMS = 20_000  # where data are drawn on the fly


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run.

    model: name in the registry, "hand-detector" or "hand-detr". recipe: where the settings come
    from. network, loss: changes to the defaults of the method's own configurations. preparation:
    "deployable" (crops from boxes, strong augmentation), or the original authors': for "dexycb"
    or "ho3d" as in UniHOPE's code, "hand_alone" as in HandOccNet's, H2ONet's and HandBooster's
    (methods that know no objects). augmentation: changes to the method's. mano: folder with the
    official files whose hand is the target (None: the free hand). backgrounds: folder of photos
    without hands, for behind synthetic scenes and beside the detector's photos; the last eighth is
    kept for validation. backbone: file with a backbone's ImageNet weights to start with
    (`load_lite`). detector: weights of the frozen detector that a method for whole photos stands
    on (None: those in the package). frozen: beginnings of the names of modules that stay as they
    are, their BatchNorm included. pairs: use UniHOPE's second images (the photo without the
    object).
    data: "synthetic[:SEED]", "shards:FOLDER", "photos:FOLDER", "NAME[/SPLIT]:FOLDER" (a published
    set), each optionally "=weight".
    mixing: how the sources share the samples, by their weights (none: by their sizes): over an
    epoch, also in every batch, or in every batch such that the sources with 3D labels together
    have half of it ("epoch", "batch", "half_3d").
    validation: the same without weights; empty: what the training data hold out.

    steps, epochs: the length, as optimiser steps (if not 0) or as passes over `epoch_items` items
    (0: all items of the data, or 20,000 when they are drawn on the fly). batch_size: of all
    devices together. lr belongs to batches of `lr_batch` items and is scaled in proportion to
    batch_size (0: not scaled). schedule: constant; step (times decay_factor every decay_epochs, or
    at the epochs decay_at, where there are any);
    cosine (down to lr * final_lr, from the epoch cosine_start on); one_cycle (up from lr / 25 in
    the first 30 %, then a cosine down to lr * final_lr). warmup: steps of linear rise before
    constant, step and cosine.
    lr_factors: beginnings of the names of parameters that learn at another rate, and the factor,
    as in {"backbone": 0.1}; of several that fit, the longest counts.
    betas: of either optimizer.
    weight_decay: with adam on all parameters (L2), with adamw on matrices and kernels only.

    ema: decay of the averaged weights that are validated and exported, 0 for none. clip_norm:
    largest gradient norm, 0 for none. plain_norms: BatchNorm keeps the variance of the batches
    themselves, not n / (n - 1) times it, the estimate for data beyond them; the two differ where a
    norm sees few values, and the first is right where one batch is all data. precision: bf16 runs
    the network under autocast; losses and weights stay float32. augment: random crops and colours.
    start_from: checkpoint or weights file. checkpoint_steps (0: none), checkpoint_minutes: how
    often last.ckpt is renewed.
    Raises InputError for values that cannot work.
    """

    model: str
    recipe: str = ""
    preparation: Literal["deployable", "dexycb", "ho3d", "hand_alone"] = "deployable"
    augmentation: dict[str, Any] = field(default_factory=dict)
    mano: str | None = None
    backgrounds: str | None = None
    network: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    pairs: bool = False
    backbone: str | None = None
    detector: str | None = None
    frozen: tuple[str, ...] = ()
    data: tuple[str, ...] = ("synthetic",)
    mixing: Literal["epoch", "batch", "half_3d"] = "epoch"
    validation: tuple[str, ...] = ()
    start_from: str | None = None
    steps: int = 0
    epochs: float = 0.0
    epoch_items: int = 0
    batch_size: int = 32
    lr: float = 1e-4
    lr_batch: int = 0
    lr_factors: dict[str, float] = field(default_factory=dict)
    optimizer: Literal["adam", "adamw"] = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "constant"
    warmup: int = 0
    decay_epochs: float = 10.0
    decay_at: tuple[float, ...] = ()
    cosine_start: float = 0.0
    decay_factor: float = 0.7
    final_lr: float = 0.01
    ema: float = 0.0
    clip_norm: float = 0.0
    plain_norms: bool = False
    precision: Literal["32", "bf16"] = "32"
    channels_last: bool = False
    augment: bool = True
    seed: int = 0
    workers: int = 0
    devices: int = 1
    checkpoint_steps: int = 0
    checkpoint_minutes: float = 5.0
    validate_steps: int = 0
    validation_items: int = 256
    log_steps: int = 20

    def __post_init__(self) -> None:
        for name in ("data", "validation", "frozen", "decay_at", "betas"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple([value] if isinstance(value, str) else value))
        if not self.data:
            raise InputError("TrainConfig.data: expected at least one source of samples")
        if (self.steps > 0) == (self.epochs > 0):
            raise InputError(
                "TrainConfig: expected either steps or epochs to be positive, "
                f"found steps={self.steps}, epochs={self.epochs}"
            )
        for name in ("batch_size", "devices", "log_steps", "validation_items"):
            if getattr(self, name) < 1:
                raise InputError(f"TrainConfig.{name}: expected 1 or more: {getattr(self, name)}")
        if self.batch_size % self.devices:
            raise InputError(
                f"TrainConfig.batch_size: {self.batch_size} cannot be shared by "
                f"{self.devices} devices"
            )
        if not self.lr > 0 or not 0 < self.decay_factor <= 1 or not self.decay_epochs > 0:
            raise InputError("TrainConfig: lr, decay_epochs and decay_factor (<= 1) are positive")
        for name, factor in self.lr_factors.items():
            if not isinstance(factor, int | float) or not 0 < factor < math.inf:
                raise InputError(
                    f"TrainConfig.lr_factors: expected a positive number for {name!r}, "
                    f"found {factor!r}"
                )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"TrainConfig.betas: expected two of 0..1, found {self.betas}")
        if not (0 <= self.ema < 1 and 0 <= self.final_lr <= 1):
            raise InputError("TrainConfig: expected 0 <= ema < 1 and 0 <= final_lr <= 1")
        for name in (
            *("epoch_items", "lr_batch", "warmup", "workers", "seed", "weight_decay"),
            *("clip_norm", "checkpoint_steps", "checkpoint_minutes", "validate_steps"),
            "cosine_start",
        ):
            if not getattr(self, name) >= 0:
                raise InputError(f"TrainConfig.{name}: expected 0 or more: {getattr(self, name)}")
        choices = {
            "optimizer": ("adam", "adamw"),
            "schedule": ("constant", "step", "cosine", "one_cycle"),
            "precision": ("32", "bf16"),
            "mixing": ("epoch", "batch", "half_3d"),
            "preparation": ("deployable", "dexycb", "ho3d", "hand_alone"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"TrainConfig.{name}: expected one of {', '.join(allowed)}, "
                    f"found {getattr(self, name)!r}"
                )

    @property
    def peak_lr(self) -> float:
        """The learning rate for this batch size."""
        return self.lr * (self.batch_size / self.lr_batch if self.lr_batch else 1.0)

    def total_steps(self, epoch_items: int) -> int:
        """Optimiser steps of the whole run when an epoch has `epoch_items` items."""
        if self.steps:
            return self.steps
        return max(1, math.ceil(self.epochs * epoch_items / self.batch_size))

    def lr_at(self, step: int, epoch_items: int) -> float:
        """The learning rate of step `step` (from 0)."""
        total = self.total_steps(epoch_items)
        if self.schedule == "one_cycle":
            rise = max(1, round(0.3 * total))
            if step < rise:
                return self.peak_lr * _cosine(1 / 25, 1.0, step / rise)
            return self.peak_lr * _cosine(1.0, self.final_lr, (step - rise) / max(1, total - rise))
        if step < self.warmup:
            return self.peak_lr * (step + 1) / (self.warmup + 1)
        if self.schedule == "cosine":
            held = round(self.cosine_start * epoch_items / self.batch_size)
            start = max(self.warmup, held)
            done = (step - start) / max(1, total - start)
            return self.peak_lr * _cosine(1.0, self.final_lr, min(1.0, max(0.0, done)))
        if self.schedule == "step":
            epoch = step * self.batch_size / epoch_items
            if self.decay_at:
                passed = sum(epoch >= milestone - 1e-9 for milestone in self.decay_at)
                return self.peak_lr * self.decay_factor**passed
            return self.peak_lr * self.decay_factor ** math.floor(epoch / self.decay_epochs + 1e-9)
        return self.peak_lr

    def to_json(self) -> str:
        """All fields; `from_json` gives an equal configuration back."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str, where: str = "config") -> TrainConfig:
        """The configuration of `to_json`; raises FileFormatError naming what does not fit."""
        try:
            fields = json.loads(text)
            known = {item.name for item in dataclasses.fields(cls)}
            if unknown := sorted(set(fields) - known):
                raise FileFormatError(f"{where}: unknown fields {', '.join(unknown)}")
            return cls(**fields)
        except (ValueError, TypeError) as error:
            if isinstance(error, FileFormatError):
                raise
            raise FileFormatError(f"{where}: not a training configuration: {error}") from error

    def check_continues(self, earlier: TrainConfig) -> None:
        """Raise InputError unless a run of `earlier` may be continued with this configuration.

        Only the length may change, and fields that do not alter a step (FREE_FIELDS).
        """
        free = FREE_FIELDS | {"steps", "epochs"}
        for item in dataclasses.fields(self):
            old, new = getattr(earlier, item.name), getattr(self, item.name)
            if item.name not in free and old != new:
                raise InputError(
                    f"this run was started with {item.name}={old!r}, not {new!r}; "
                    "use another folder, or --fresh to begin again"
                )


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
