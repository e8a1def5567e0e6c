"""Which hand model weights were trained with: a name and a hash, never the model's data.

Networks that give vertices directly (`fits_one_hand`) learn the numbering and the shape space of
one hand model; with another, their joints and faces are wrong. Networks that give pose and betas
pose whatever hand is loaded, but mean the one they were trained with.
"""

from __future__ import annotations

import functools
import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from handhold.errors import WeightsError
from handhold.hand.files import HandArrays
from handhold.hand.model import HandModel

FREE = "the free hand"
_HASHED = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "faces")


@dataclass(frozen=True, kw_only=True)
class TrainedHand:
    """name: `FREE`, the file's name, or "MANO". sha256: of template, blend shapes, joint regressor,
    skinning weights and faces; None where the files were not at hand."""

    name: str
    sha256: str | None = None

    @classmethod
    def of(cls, hand: HandModel) -> TrainedHand:
        """Name and hash of a loaded hand model."""
        name = FREE if hand.is_free else Path(hand.arrays.source).name
        return cls(name=name, sha256=_hash(hand.arrays))

    def agrees(self, other: TrainedHand) -> bool:
        """The same hashes; where one is unknown, both or none the free hand."""
        if self.sha256 is None or other.sha256 is None:
            return (self.name == FREE) == (other.name == FREE)
        return self.sha256 == other.sha256

    def __str__(self) -> str:
        return f"{self.name} ({'unknown hash' if self.sha256 is None else self.sha256[:12]})"


#: what the authors' checkpoints were trained with, where MANO's files are not given
OFFICIAL = TrainedHand(name="MANO")


def _hash(arrays: HandArrays) -> str:
    return _hash_of(*(np.ascontiguousarray(getattr(arrays, n)).tobytes() for n in _HASHED))


@functools.lru_cache(maxsize=4)
def _hash_of(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def hand_of(network: Any) -> TrainedHand | None:
    """The hand inside a network; None where it has none."""
    hand = getattr(network, "hand", None)
    return TrainedHand.of(hand) if isinstance(hand, HandModel) else None


def fits_one_hand(network: Any) -> bool:
    """Whether the network, or a part of it, gives vertices that belong to one hand model."""
    modules = network.modules() if isinstance(network, nn.Module) else ()
    return any(getattr(module, "fits_one_hand", False) for module in modules)


def check_hand(trained: TrainedHand | None, network: Any, hand: HandModel, where: str) -> None:
    """Compare the hand of weights with the loaded one; None (not recorded) passes.

    where: the weights file, for the message. Raises WeightsError where the network fits one hand
    only; warns where it gives pose and betas.
    """
    loaded = TrainedHand.of(hand)
    if trained is None or trained.agrees(loaded):
        return
    said = f"{where}: trained with {trained}, but the loaded hand model is {loaded}"
    if trained.name == FREE and not hand.is_free:
        fix = "leave out --mano (mano) and unset HANDHOLD_MANO"
    elif trained.name == FREE:
        fix = "use the release of handhold that it was trained with, or train anew"
    else:
        fix = f"pass --mano FOLDER (mano) with the files of {trained.name}"
    if fits_one_hand(network):
        raise WeightsError(f"{said}; its vertices are those of the hand it was trained with: {fix}")
    warnings.warn(f"{said}; its pose and betas mean another hand: {fix}", stacklevel=2)


def to_header(trained: TrainedHand) -> dict[str, str | None]:
    """As JSON holds it."""
    return {"name": trained.name, "sha256": trained.sha256}


def from_header(told: Any, where: str) -> TrainedHand | None:
    """Back from `to_header`; None stays None. Raises WeightsError for anything else."""
    if told is None:
        return None
    if isinstance(told, dict) and set(told) == {"name", "sha256"}:
        name, digest = told["name"], told["sha256"]
        if isinstance(name, str) and isinstance(digest, str | None):
            return TrainedHand(name=name, sha256=digest)
    raise WeightsError(f"{where}: hand in its header: expected name and sha256, found {told!r}")
