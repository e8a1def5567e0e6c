"""What happens around the steps: putting the run away, stopping in time, saying how it goes."""

from __future__ import annotations

import copy
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from rich.console import Console
from torch import nn

from handhold.atomic import write_text
from handhold.models.trained_hand import hand_of
from handhold.training import curves
from handhold.training.checkpoints import (
    CHECKPOINT_NAME,
    CURVES_NAME,
    METRICS_NAME,
    Checkpoint,
    save_checkpoint,
)
from handhold.training.config import TrainConfig
from handhold.training.module import TrainingModule
from handhold.training.stream import validation_batches
from handhold.training.tasks import Task


class Clock:
    """Seconds of training over all sittings. stop_requested: set by Ctrl-C or the time limit."""

    def __init__(self, before: float = 0.0, limit_minutes: float | None = None) -> None:
        self.before, self.limit = before, limit_minutes
        self.began = time.monotonic()
        self.stop_reason: str | None = None

    @property
    def sitting(self) -> float:
        """Seconds since this sitting began."""
        return time.monotonic() - self.began

    @property
    def total(self) -> float:
        """Seconds of all sittings."""
        return self.before + self.sitting

    def check(self) -> None:
        """Ask for a stop when the time limit (of this sitting) is over."""
        if self.limit is not None and self.sitting >= 60 * self.limit and not self.stop_reason:
            self.stop_reason = f"the time limit of {self.limit:g} minutes"


class Keeper(Callback):
    """Renews last.ckpt every so many steps and minutes, and at the end, whatever the reason.

    The first Ctrl-C or SIGTERM ends the run after the step that is under way; a second Ctrl-C
    raises KeyboardInterrupt at once.
    """

    def __init__(self, folder: Path, config: TrainConfig, clock: Clock, report: Report) -> None:
        self.folder, self.config, self.clock, self.report = folder, config, clock, report
        self._saved_at = time.monotonic()
        self._saved_step = -1
        self._handlers: dict[int, Any] = {}

    def save(self, module: TrainingModule) -> None:
        """Put the run away now (nothing to do if this step is saved already)."""
        if module.done == self._saved_step or module.global_rank:
            return
        self.report.write()  # first: on resuming, rows past the checkpoint are dropped
        checkpoint = Checkpoint(
            config=self.config,
            done=module.done,
            seconds=self.clock.total,
            state=module.training_state(),
            hand=hand_of(module.network),
        )
        save_checkpoint(self.folder / CHECKPOINT_NAME, checkpoint)
        self._saved_at, self._saved_step = time.monotonic(), module.done

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        def ask(number: int, frame: Any) -> None:
            if self.clock.stop_reason and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.clock.stop_reason = signal.Signals(number).name

        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, ask)
        except ValueError:  # not in the main thread: no signals to catch
            self._handlers.clear()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        steps, minutes = self.config.checkpoint_steps, self.config.checkpoint_minutes
        due = bool(steps) and pl_module.done % steps == 0
        due |= bool(minutes) and time.monotonic() - self._saved_at >= 60 * minutes
        if due:
            self.save(pl_module)
        self.clock.check()
        if self.clock.stop_reason:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.save(pl_module)
        self._restore_signals()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._restore_signals()

    def _restore_signals(self) -> None:
        while self._handlers:
            number, handler = self._handlers.popitem()
            signal.signal(number, handler)


class Report(Callback):
    """Collects losses and measures; writes metrics.jsonl and curves.png; tells the console.

    It validates every `validate_steps`; when these are 0, twenty times in the run, but not more
    often than every 200 steps.
    """

    def __init__(
        self,
        folder: Path,
        task: Task,
        config: TrainConfig,
        clock: Clock,
        *,
        total: int,
        done: int,
        console: Console | None,
    ) -> None:
        self.folder, self.task, self.config, self.clock = folder, task, config, clock
        self.total, self.console = total, console
        self.rows = curves.read_metrics(folder / METRICS_NAME, up_to=done)
        self.every = config.validate_steps or max(200, total // 20)
        self._sums: dict[str, float] = defaultdict(float)
        self._count = 0
        self._mark = (done, time.monotonic())
        self._printed = 0.0
        self._copy: nn.Module | None = None

    def write(self) -> None:
        """Renew metrics.jsonl."""
        write_text(self.folder / METRICS_NAME, curves.metrics_text(self.rows))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module: TrainingModule = pl_module
        for name, value in module.latest.items():
            self._sums[name if name == "gradient_norm" else f"loss/{name}"] += float(value)
        self._count += 1
        if module.done % self.config.log_steps == 0 or module.done == self.total:
            self._log(module)
        if module.done % self.every == 0 or module.done == self.total:
            self.validate(module)

    def _log(self, module: TrainingModule) -> None:
        now = time.monotonic()
        steps, began = self._mark
        rate = (module.done - steps) / max(1e-9, now - began)
        self._mark = (module.done, now)
        row: curves.Row = {"step": module.done, "kind": "train"}
        row |= {name: value / self._count for name, value in self._sums.items()}
        row |= {"lr": self.config.lr_at(module.done - 1, module.epoch_items)}
        row |= {"steps_per_second": rate}
        self._sums.clear()
        self._count = 0
        self.rows.append(row)
        if self.console and not module.global_rank and (now - self._printed > 10):
            self._printed = now
            left = (self.total - module.done) / max(rate, 1e-9)
            share = f"{module.done}/{self.total}"
            loss = f"loss {row['loss/total']:.4g}"
            self.console.print(
                f"{share:>15}  {loss}  lr {row['lr']:.2e}  {rate * self.config.batch_size:.0f} "
                f"items/s  {left / 60:.0f} min left",
                highlight=False,
            )

    def validate(self, module: TrainingModule) -> dict[str, float]:
        """Measure the averaged weights on held-out samples; the result is a row of its own."""
        if module.global_rank:
            return {}
        began = time.monotonic()
        if self._copy is None:
            self._copy = copy.deepcopy(module.network)
        self._copy.load_state_dict(module.best_weights())
        self._copy.eval()
        measured = measure(
            self._copy,
            self.task,
            self.config,
            lambda batch: module.transfer_batch_to_device(batch, module.device, 0),
        )
        if measured:
            self.rows.append({"step": module.done, "kind": "validation", **measured})
        self.write()
        name = f"{self.task.name}, {module.done} steps, {self.clock.total / 60:.0f} min"
        curves.draw_curves(self.rows, self.folder / CURVES_NAME, title=name)
        if self.console:
            shown = "  ".join(f"{key} {value:.4g}" for key, value in measured.items())
            self.console.print(f"{'validation':>15}  {shown}", highlight=False)
        self._mark = (self._mark[0], self._mark[1] + time.monotonic() - began)
        return measured


@torch.no_grad()
def measure(
    network: nn.Module, task: Task, config: TrainConfig, to_device: Callable[[Any], Any]
) -> dict[str, float]:
    """Means of the task's measures over the held-out items, named kind/measure."""
    sums: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for kind, batch in validation_batches(config, task):
        for name, (total, count) in task.measures(network, to_device(batch)).items():
            before = sums[f"{kind}/{name}"]
            sums[f"{kind}/{name}"] = (before[0] + total, before[1] + count)
    return {name: total / count for name, (total, count) in sums.items() if count}
