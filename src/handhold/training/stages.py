"""Trainings of several runs, each starting from the weights of the one before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from handhold.errors import InputError
from handhold.training.config import TrainConfig
from handhold.training.recipes import handos
from handhold.training.recipes.papers import (
    h2onet_stage1,
    h2onet_stage2,
    unihope_stage1,
    unihope_stage2,
)
from handhold.training.run import TrainResult, train
from handhold.training.tasks import Task

STAGES: dict[str, tuple[Callable[..., TrainConfig], ...]] = {
    # UniHOPE, section 4.1: pairs without feature enhancement, then with it
    "unihope": (unihope_stage1, unihope_stage2),
    # H2ONet: without the losses of the global rotation, then with them
    "h2onet": (h2onet_stage1, h2onet_stage2),
    # HandOS, section 4.1: all layers 2D, then with the mesh
    "handos-paper": (handos.paper_stage1, handos.paper_stage2),
    "handos-base": (handos.base_stage1, handos.base_stage2),
    "handos-small": (handos.small_stage1, handos.small_stage2),
}


def train_stages(
    configs: Sequence[TrainConfig],
    task: Callable[[TrainConfig], Task],
    folder: str | Path,
    *,
    fresh: bool = False,
    time_limit: float | None = None,
    console: Console | None = None,
) -> TrainResult:
    """Train the runs one after another in folder/stage1, folder/stage2, ...; the last result.

    Started again, finished stages are passed over and the one under way goes on. A stage that is
    stopped ends the training. time_limit: minutes, of each stage. Raises InputError for no stage.
    """
    if not configs:
        raise InputError("train_stages: expected at least one stage, found none")

    def one(number: int, config: TrainConfig) -> TrainResult:
        place = Path(folder) / f"stage{number}"
        return train(config, task, place, fresh=fresh, time_limit=time_limit, console=console)

    result = one(1, configs[0])
    for number, config in enumerate(configs[1:], 2):
        if result.stopped is not None:
            break
        result = one(number, dataclasses.replace(config, start_from=str(result.weights)))
    return result
