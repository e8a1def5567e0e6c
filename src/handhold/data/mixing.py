"""Several sets of samples as one endless, seeded, resumable stream.

Nothing is remembered between items: position -> (set, index) is a function of the seed, so a run
that starts again at position n continues exactly where it stopped, with any number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.scene import Sample

ENDLESS = 1 << 40  # the length of a set that is drawn on the fly


class SampleSet(Protocol):
    """Samples by number. hands: hands in each sample, or None when it is not known beforehand."""

    @property
    def hands(self) -> list[int] | None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Sample: ...


@lru_cache(maxsize=16)
def _permutation(length: int, *key: int) -> NDArray[np.int64]:
    return np.random.default_rng(key).permutation(length)


@lru_cache(maxsize=16)
def _places(length: int, start: int, stop: int, *key: int) -> NDArray[np.int64]:
    """Where in an epoch the slots from `start` to `stop` are, in order."""
    slots = _permutation(length, *key)
    return np.flatnonzero((slots >= start) & (slots < stop))


class Mixture:
    """The order in which the items of several sets are visited.

    lengths: of the sets (ENDLESS: visited in their own order, without shuffling). weights: share of
    each set in an epoch of `epoch_length` items (None: in proportion to the lengths). Within an
    epoch the shares are exact (largest remainder); a set is gone through completely, in a new order
    each time, before its next turn begins. The sets' turns are shuffled, so that a batch has their
    shares on average. evenly: the turns come at even intervals instead, so that any stretch of an
    epoch (a batch) has their shares, to within an item where there are two sets.
    Raises InputError for empty sets, bad weights, or an epoch in which a set would never occur.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[float] | None = None,
        *,
        epoch_length: int | None = None,
        seed: int = 0,
        evenly: bool = False,
    ) -> None:
        if not lengths or min(lengths) < 1:
            raise InputError(f"Mixture.lengths: expected sets that are not empty: {list(lengths)}")
        if epoch_length is None:
            if max(lengths) >= ENDLESS:
                raise InputError("Mixture.epoch_length: needed when a set is endless")
            epoch_length = sum(lengths)
        share = np.asarray(lengths if weights is None else weights, dtype=np.float64)
        if share.shape != (len(lengths),) or not (np.isfinite(share).all() and (share > 0).all()):
            raise InputError(
                f"Mixture.weights: expected {len(lengths)} positive numbers, found {weights}"
            )
        exact = share / share.sum() * epoch_length
        quotas = np.floor(exact).astype(np.int64)
        short = epoch_length - int(quotas.sum())
        quotas[np.argsort(quotas - exact, kind="stable")[:short]] += 1
        if quotas.min() < 1:
            raise InputError(
                f"Mixture.epoch_length: with {epoch_length} items an epoch and the weights "
                f"{share.tolist()}, set {int(quotas.argmin())} would never occur"
            )
        self.lengths = tuple(lengths)
        self.epoch_length = epoch_length
        self.seed = seed
        self.quotas = tuple(int(quota) for quota in quotas)
        self._starts = np.cumsum([0, *self.quotas])
        self._turns: NDArray[np.int64] | None = None
        if evenly:  # the k-th of a set's n turns belongs at (k + 1/2) / n of the epoch
            due = np.concatenate([(np.arange(quota) + 0.5) / quota for quota in self.quotas])
            self._turns = np.argsort(due, kind="stable")

    def _slots(self, epoch: int) -> NDArray[np.int64]:
        """The slots of an epoch in the order of their turns; set i has those from starts[i]."""
        if self._turns is not None:
            return self._turns
        return _permutation(self.epoch_length, self.seed, 0, epoch)

    def __call__(self, position: int) -> tuple[int, int]:
        """The set and the index in it of the item at `position`, counted over all epochs."""
        epoch, place = divmod(position, self.epoch_length)
        slot = int(self._slots(epoch)[place])
        which = int(np.searchsorted(self._starts, slot, side="right")) - 1
        visit = epoch * self.quotas[which] + slot - int(self._starts[which])
        length = self.lengths[which]
        if length >= ENDLESS:
            return which, visit
        turn, place = divmod(visit, length)
        return which, int(_permutation(length, self.seed, 1 + which, turn)[place])

    def before(self, which: int, position: int) -> int:
        """How many of the positions before `position` are of the set `which`."""
        epoch, place = divmod(position, self.epoch_length)
        if self.quotas[which] == self.epoch_length:
            return position
        start, stop = (int(x) for x in self._starts[which : which + 2])
        if self._turns is None:
            places = _places(self.epoch_length, start, stop, self.seed, 0, epoch)
        else:
            places = np.flatnonzero((self._turns >= start) & (self._turns < stop))
        return epoch * self.quotas[which] + int(np.searchsorted(places, place))


def equal_shares(weights: Sequence[float], kinds: Sequence[bool]) -> list[float]:
    """Weights with which the sets of either kind (such as: with 3D labels, without) together have
    half of the samples; within a kind they keep the proportions given. With sets of one kind only
    nothing changes but the sum, which is 1."""
    total = [sum(w for w, kind in zip(weights, kinds, strict=True) if kind == k) for k in (0, 1)]
    present = sum(part > 0 for part in total)
    return [w / total[kind] / present for w, kind in zip(weights, kinds, strict=True)]


class HandItems:
    """A SampleSet seen hand by hand: item -> (sample, hand index).

    Samples without hands are left out where `hands` is known. Where it is not (drawn on the fly),
    item i is sample i and its hand i mod count; hand -1 then means a sample without hands.
    """

    def __init__(self, samples: SampleSet) -> None:
        self.samples = samples
        counts = samples.hands
        self._items: NDArray[Any] | None = None
        if counts is not None:
            owner = np.repeat(np.arange(len(counts)), counts)
            first = np.repeat(np.cumsum([0, *counts])[:-1], counts)
            self._items = np.stack([owner, np.arange(len(owner)) - first], axis=-1)

    def __len__(self) -> int:
        return len(self.samples) if self._items is None else len(self._items)

    def __getitem__(self, number: int) -> tuple[Sample, int]:
        if self._items is not None:
            owner, hand = (int(x) for x in self._items[number])
            return self.samples[owner], hand
        sample = self.samples[number]
        count = len(sample.hands)
        return sample, (number % count if count else -1)


class ImageItems:
    """A SampleSet seen image by image: item -> (sample, 0), for networks that see whole photos."""

    def __init__(self, samples: SampleSet) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> tuple[Sample, int]:
        return self.samples[number], 0
