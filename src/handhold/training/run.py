"""A training run in a folder: begin it, go on with it, export its weights."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
from rich.console import Console

from handhold.errors import HandholdError, TrainingError
from handhold.hand.model import HandModel
from handhold.models.nn.efficientnet import load_lite
from handhold.models.trained_hand import check_hand
from handhold.training.callbacks import Clock, Keeper, Report
from handhold.training.checkpoints import (
    CHECKPOINT_NAME,
    CURVES_NAME,
    METRICS_NAME,
    WEIGHTS_NAME,
    load_checkpoint,
    start_from,
)
from handhold.training.config import TrainConfig
from handhold.training.curves import Row
from handhold.training.module import TrainingModule
from handhold.training.stream import BatchStream, loader, notes
from handhold.training.tasks import Task

# under these names networks keep the stages of a backbone that starts from ImageNet
BACKBONES = ("", "backbone.", "backbone.hand_", "backbone.object_")


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a sitting ended. stopped: why before the end of the run, or None. rows: the metrics."""

    folder: Path
    weights: Path
    done: int
    total: int
    stopped: str | None
    rows: list[Row]


def train(
    config: TrainConfig,
    task: Callable[[TrainConfig], Task],
    folder: str | Path,
    *,
    fresh: bool = False,
    time_limit: float | None = None,
    console: Console | None = None,
) -> TrainResult:
    """Train until the run's end, a time limit (minutes, of this sitting) or Ctrl-C, then export.

    config: of the run. A folder that holds a checkpoint is continued, unless `fresh` begins again.
    task: builds the method (see `tasks`). Leaves last.ckpt, config.json, metrics.jsonl, curves.png
    and weights.safetensors (the averaged weights) in the folder.
    Raises InputError when the folder's run has another configuration, WeightsError when it had
    another hand model and the network fits only that (`check_hand`); TrainingError when the loss
    is not finite (last.ckpt is then that of the last renewal).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CHECKPOINT_NAME
    if fresh:
        for name in (CHECKPOINT_NAME, METRICS_NAME, CURVES_NAME, WEIGHTS_NAME):
            (folder / name).unlink(missing_ok=True)
    earlier = load_checkpoint(path) if path.exists() else None
    if earlier is not None:
        config.check_continues(earlier.config)

    torch.manual_seed(config.seed)  # the first weights
    method = task(config)
    hand = getattr(method.network, "hand", None)
    if earlier is not None and isinstance(hand, HandModel):
        check_hand(earlier.hand, method.network, hand, str(path))
    if earlier is None and config.backbone is not None:
        count = load_lite(method.network, config.backbone, BACKBONES)
        if console:
            console.print(f"{count} tensors of the backbone from {config.backbone}")
    if earlier is None and config.start_from is not None:
        fresh_names = start_from(config.start_from, method.network)
        if console:
            console.print(f"starting from {config.start_from}; {len(fresh_names)} tensors are new")
    stream = BatchStream(config, method)
    total = config.total_steps(stream.epoch_items)
    done = earlier.done if earlier else 0
    module = TrainingModule(
        method,
        config,
        stream.epoch_items,
        done=done,
        state=earlier.state if earlier else None,
    )
    clock = Clock(earlier.seconds if earlier else 0.0, time_limit)
    report = Report(folder, method, config, clock, total=total, done=done, console=console)
    keeper = Keeper(folder, config, clock, report)
    if console:
        size = sum(p.numel() for p in method.network.parameters()) / 1e6
        verb = f"going on at step {done}" if earlier else "beginning"
        console.print(
            f"{method.name}: {size:.2f} M parameters, {total} steps of {config.batch_size}, {verb}"
        )
        for words in notes(stream.specs, method):
            console.print(f"note: {words}: those terms rest on other samples", highlight=False)
    del earlier
    if done < total:
        _fit(module, stream, done, total, [report, keeper], config)
    method.network.load_state_dict(module.best_weights())
    method.network.eval()
    # the stubs of PyTorch do not know this form of `to`
    method.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    weights = folder / WEIGHTS_NAME
    extra = {"training": config.to_json(), "steps": str(module.done)}
    method.save(weights, method.network, extra)
    stopped = clock.stop_reason if module.done < total else None
    if console:
        how = f"stopped by {stopped}" if stopped else "finished"
        spent = time.strftime("%H:%M:%S", time.gmtime(clock.total))
        console.print(f"{how}: {module.done} of {total} steps in {spent}; {weights}")
    return TrainResult(
        folder=folder,
        weights=weights,
        done=module.done,
        total=total,
        stopped=stopped,
        rows=report.rows,
    )


def _fit(
    module: TrainingModule,
    stream: BatchStream,
    done: int,
    total: int,
    callbacks: list[lightning.Callback],
    config: TrainConfig,
) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer = lightning.Trainer(
            accelerator="auto",
            devices=config.devices,
            # UniHOPE's adaptation layers get no gradient
            strategy="ddp_find_unused_parameters_true" if config.devices > 1 else "auto",
            max_epochs=1,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        stream.rank = trainer.global_rank
        try:
            trainer.fit(module, loader(stream, done, total))
        except HandholdError as error:
            words = str(error)
            if not words.startswith("Caught "):
                raise
            # from a worker: PyTorch puts the traceback there before the words
            raise type(error)(words.rpartition(f"{type(error).__name__}: ")[2].strip()) from error
        except SystemExit as error:  # Lightning's answer to a second Ctrl-C
            raise KeyboardInterrupt from error
    if module.done < total and not trainer.should_stop:
        raise TrainingError(f"training ended at step {module.done} of {total} without a reason")
