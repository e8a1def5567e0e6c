"""Weights files of HandOS that leave out the hand detector, because the package has it already."""

from __future__ import annotations

import dataclasses
import hashlib

import torch
from torch import Tensor

from handhold.errors import WeightsError
from handhold.models.detector.weights import default_weights
from handhold.models.weights import WeightsFile, read_weights

PART = "detector.network."
TOLD = "shipped_detector"  # field of the header: the SHA-256 of the detector's file


def leave_out_detector(file: WeightsFile, where: str) -> WeightsFile:
    """The same without the detector's tensors. Raises WeightsError where they are not those of the
    shipped hand detector."""
    shipped = {PART + key: value for key, value in read_weights(default_weights()).entries.items()}
    own = {key: value for key, value in file.entries.items() if key.startswith(PART)}
    differs = [
        key
        for key in sorted(shipped.keys() | own.keys())
        if not key.endswith("num_batches_tracked")
        and (key not in shipped or key not in own or not _same(shipped[key], own[key]))
    ]
    if file.config.get("detector") != "hand-detector" or differs:
        which = f": {differs[0]} differs" if differs else ""
        raise WeightsError(
            f"{where}: stands on another detector than the shipped hand detector{which}; the file "
            "must keep its own"
        )
    rest = {key: value for key, value in file.entries.items() if key not in own}
    return dataclasses.replace(file, entries=rest, extra={**file.extra, TOLD: _digest()})


def put_back_detector(file: WeightsFile, where: str) -> dict[str, Tensor]:
    """All tensors of the network. Raises WeightsError where the detector that was left out is not
    the one that this release has."""
    told = file.extra.get(TOLD)
    if told is None:
        return file.entries
    path = default_weights()
    if not path.is_file() or told != _digest():
        raise WeightsError(
            f"{where}: stands on the hand detector of another release of handhold (SHA-256 "
            f"{told}); train it anew, or take that release"
        )
    shipped = read_weights(path).entries
    return file.entries | {PART + key: value for key, value in shipped.items()}


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.float(), other.float())


def _digest() -> str:
    return hashlib.sha256(default_weights().read_bytes()).hexdigest()
