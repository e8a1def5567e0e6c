"""last.ckpt: everything a run needs to go on, as plain tensors and numbers."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from handhold.errors import FileFormatError, MissingFileError, WeightsError
from handhold.training.config import TrainConfig

FORMAT = 1
CHECKPOINT_NAME = "last.ckpt"
CONFIG_NAME = "config.json"
METRICS_NAME = "metrics.jsonl"
CURVES_NAME = "curves.png"
WEIGHTS_NAME = "weights.safetensors"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A run put away after `done` steps and `seconds` of training. state: see TrainingModule."""

    config: TrainConfig
    done: int
    seconds: float
    state: dict[str, Any]


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that readers see the old or the new one, never a part."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and, beside it, its configuration; the old one stays until the move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "format": FORMAT,
        "config": checkpoint.config.to_json(),
        "done": checkpoint.done,
        "seconds": checkpoint.seconds,
        "state": checkpoint.state,
    }
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            torch.save(document, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    replace_text(path.with_name(CONFIG_NAME), checkpoint.config.to_json() + "\n")


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; no code in it is run. Raises MissingFileError or FileFormatError."""
    if not path.is_file():
        raise MissingFileError(f"{path}: no checkpoint there")
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
        if document["format"] != FORMAT:
            raise FileFormatError(f"{path}: format {document['format']}, expected {FORMAT}")
        return Checkpoint(
            config=TrainConfig.from_json(document["config"], where=str(path)),
            done=int(document["done"]),
            seconds=float(document["seconds"]),
            state=document["state"],
        )
    except FileFormatError:
        raise
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path}: not a checkpoint of handhold: {error}") from error


def start_from(path: str | Path, network: nn.Module) -> list[str]:
    """Give the network every tensor of a checkpoint or weights file that fits by name and shape.

    Of a checkpoint the averaged weights are taken. Returns the names that keep their fresh values.
    Raises MissingFileError, FileFormatError, or WeightsError when nothing fits.
    """
    path = Path(path)
    if path.suffix == ".ckpt":
        state = load_checkpoint(path).state
        found: dict[str, Tensor] = state["ema"] or state["network"]
    elif path.is_file():
        try:
            found = load_file(path)
        except (SafetensorError, OSError) as error:
            raise FileFormatError(f"{path}: not a safetensors file: {error}") from error
    else:
        raise MissingFileError(f"{path}: no weights there")
    own = network.state_dict()
    fits = {k: v for k, v in found.items() if k in own and own[k].shape == v.shape}
    if not fits:
        raise WeightsError(f"{path}: none of its {len(found)} tensors fits the network")
    network.load_state_dict(fits, strict=False)
    return sorted(own.keys() - fits.keys())
