"""last.ckpt: everything a run needs to go on, as plain tensors and numbers."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from handhold.atomic import replacing, write_text
from handhold.errors import FileFormatError, MissingFileError, WeightsError
from handhold.hand.model import HandModel
from handhold.models.trained_hand import TrainedHand, check_hand, from_header, to_header
from handhold.training.config import TrainConfig

FORMAT = 1
CHECKPOINT_NAME = "last.ckpt"
CONFIG_NAME = "config.json"
METRICS_NAME = "metrics.jsonl"
CURVES_NAME = "curves.png"
WEIGHTS_NAME = "weights.safetensors"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A run put away after `done` steps and `seconds` of training. state: see TrainingModule. hand:
    the network's hand model; None where it has none or the file (an earlier release's) is silent.
    """

    config: TrainConfig
    done: int
    seconds: float
    state: dict[str, Any]
    hand: TrainedHand | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and, beside it, its configuration; the old one stays until the move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "format": FORMAT,
        "config": checkpoint.config.to_json(),
        "done": checkpoint.done,
        "seconds": checkpoint.seconds,
        "state": checkpoint.state,
        "hand": None if checkpoint.hand is None else to_header(checkpoint.hand),
    }
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        torch.save(document, file)
        file.flush()
        os.fsync(file.fileno())
    write_text(path.with_name(CONFIG_NAME), checkpoint.config.to_json() + "\n")


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
            hand=from_header(document.get("hand"), str(path)),
        )
    except (FileFormatError, WeightsError):
        raise
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path}: not a checkpoint of handhold: {error}") from error


def start_from(path: str | Path, network: nn.Module) -> list[str]:
    """Give the network every tensor of a checkpoint or weights file that fits by name and shape.

    Of a checkpoint the averaged weights are taken. Returns the names that keep their fresh values.
    Raises MissingFileError, FileFormatError, or WeightsError when nothing fits, and when the
    network fits one hand model only and the file was trained with another (`check_hand`).
    """
    path = Path(path)
    if path.suffix == ".ckpt":
        checkpoint = load_checkpoint(path)
        state, trained = checkpoint.state, checkpoint.hand
        found: dict[str, Tensor] = state["ema"] or state["network"]
    elif path.is_file():
        try:
            found = load_file(path)
            with safe_open(path, framework="pt") as file:
                told = json.loads((file.metadata() or {}).get("hand", "null"))
        except (SafetensorError, OSError, ValueError) as error:
            raise FileFormatError(f"{path}: not a safetensors file: {error}") from error
        trained = from_header(told, str(path))
    else:
        raise MissingFileError(f"{path}: no weights there")
    hand = getattr(network, "hand", None)
    if isinstance(hand, HandModel):
        check_hand(trained, network, hand, str(path))
    own = network.state_dict()
    fits = {k: v for k, v in found.items() if k in own and own[k].shape == v.shape}
    if not fits:
        raise WeightsError(f"{path}: none of its {len(found)} tensors fits the network")
    network.load_state_dict(fits, strict=False)
    return sorted(own.keys() - fits.keys())
