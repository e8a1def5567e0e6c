"""Files in the layouts of the original authors' checkpoints, with made-up numbers.

Keys and shapes are those of the original implementations (the golden files' lists).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parents[1] / "golden" / "data"
Numbers = Literal["varied", "meta"]


@dataclass(frozen=True)
class Layout:
    """golden: whose keys. under: the dictionary's name for the weights. prefix: before every key.
    wrapper: what stands beside the weights. more, without: entries that the golden list lacks, and
    the beginning of those that this file lacks."""

    golden: str
    under: str
    prefix: str
    wrapper: dict[str, Any]
    more: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    without: str = "none"


_UNIHOPE: dict[str, Any] = {
    "optimizer": {"state": {0: {"step": np.int64(4)}}},
    "scheduler": {"last_epoch": 3},
    "step": 7,
    "epoch": 1,
    "score_status": {"best": np.float32(1.5)},
}
_HAMPALI = {"epoch": 149, "optimizer": {"lr": np.float64(1e-4)}, "lr_scheduler": {"step": 3}}
_PARK = {"epoch": 24, "optimizer": {"lr": np.float64(1e-4)}}
_ZHOU = {"epoch": 200, "optimizer_state_dict": {"lr": 5e-4}, "scaler_state_dict": {"scale": 2.0}}
_REGRESSOR = torch.rand(21, 778, generator=torch.Generator().manual_seed(0))
LAYOUTS = {
    "hflnet": Layout("hflnet", "state_dict", "honet.module.", {"epoch": 39, "network": "HONet"}),
    "unihope": Layout("unihope", "state_dict", "module.", _UNIHOPE),
    "semihand": Layout(
        "semihand",
        "state_dict",
        "honet.module.",
        {"epoch": 59, "network": "HONet"},
        {"mano_branch.coord_change_mat": torch.eye(3)},
        "mano_layer.",
    ),
    "handoccnet": Layout("handoccnet", "network", "module.", _PARK),
    "mobrecon": Layout("mobrecon", "state_dict", "module.", _UNIHOPE),
    "h2onet": Layout(
        "h2onet",
        "state_dict",
        "module.",
        _UNIHOPE,
        {"mano_joint_reg": _REGRESSOR},
    ),
    "simplehand": Layout("simplehand", "state_dict", "", _ZHOU),
    "kypt": Layout("kypt", "network", "module.", _HAMPALI),
    "kypt_ho3d": Layout("kypt_ho3d", "network", "module.", _HAMPALI),
    "hoisdf": Layout("hoisdf", "network", "module.", _HAMPALI),
    "hoisdf_ho3d": Layout("hoisdf_ho3d", "network", "module.", _HAMPALI),
    "classifier": Layout("classifier", "state_dict", "module.", _UNIHOPE),
}


def shapes(golden: str) -> dict[str, tuple[int, ...]]:
    """The original's keys and shapes, the hand model's buffers included."""
    told = json.loads((DATA / f"{golden}.json").read_text())["state_dict"]
    return {key: tuple(shape) for key, shape in told.items()}


def made_up(golden: str, numbers: Numbers = "varied") -> dict[str, Tensor]:
    """A whole checkpoint's entries without prefix.

    varied: numbers that differ within a tensor along every axis and between tensors, about as large
    as trained ones; they share memory, which keeps files small. meta: shapes alone.
    """
    told = shapes(golden)
    if numbers == "meta":
        return empty(told)
    draw = torch.Generator().manual_seed(0)
    return {key: _entry(key, shape, draw) for key, shape in told.items()}


def empty(told: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors of these shapes without numbers."""
    return {key: torch.zeros(shape, device="meta") for key, shape in told.items()}


def _entry(key: str, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.tensor(7)
    line = torch.randn(1 + sum(size - 1 for size in shape), generator=draw)
    if len(shape) > 1:
        line = line / math.sqrt(math.prod(shape[1:]))
    elif key.endswith(("running_var", "norm.weight", "beta")):
        line = 1 + 0.1 * line.abs()
    else:
        line = 0.1 * line
    # entry (i, j, ...) is number i + j + ... of the line
    return line.as_strided(shape, (1,) * len(shape))


def entries_of(case: str) -> dict[str, Tensor]:
    """The made-up entries of a checkpoint of LAYOUTS, without prefix."""
    layout = LAYOUTS[case]
    told = made_up(layout.golden) | layout.more
    return {key: value for key, value in told.items() if not key.startswith(layout.without)}


def write(path: Path, case: str, entries: Mapping[str, Tensor] | None = None) -> Path:
    """Write a checkpoint of LAYOUTS (None: with `entries_of` it) and return its path."""
    layout = LAYOUTS[case]
    told = entries_of(case) if entries is None else entries
    weights = {layout.prefix + key: value for key, value in told.items()}
    torch.save({**layout.wrapper, layout.under: weights}, path)
    return path


class Danger:
    """Runs code when a file that holds it is unpickled the usual way."""

    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Danger, "ran", True))
