"""What the training loop needs to know of a method: network, encoding, loss, measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from torch import Tensor, nn

from handhold.scene import Sample

Items: TypeAlias = Sequence[tuple[Sample, int]]
Measures: TypeAlias = dict[str, tuple[float, float]]  # name -> sum over items, their number


@dataclass(frozen=True, kw_only=True)
class Task:
    """One method, ready to be trained.

    encode(items, rng) -> batch: rng None means without augmentation. losses(network, batch) ->
    named terms with `total`. prepare(network, batch, epoch) -> the batch, before the losses of a
    training step, for what changes as training goes on. measures(network, batch): sums of what
    validation reports.
    per: an item is a hand of a sample, or an image. skip: members of shards that are not needed.
    conditions: samples need HandBooster's maps.
    needs, uses: of `data.dataset.LABELS`, those without which nothing can be learnt from a sample,
    and those whose terms it lacks without them.
    save(path, network, extra): writes the weights file; extra is stored with it.
    """

    name: str
    network: nn.Module
    encode: Callable[[Items, np.random.Generator | None], Any]
    losses: Callable[[nn.Module, Any], dict[str, Tensor]]
    measures: Callable[[nn.Module, Any], Measures]
    save: Callable[..., None]
    prepare: Callable[[Any, Any, float], Any] | None = None
    per: Literal["hand", "image"] = "hand"
    skip: frozenset[str] = frozenset()
    conditions: bool = False
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
