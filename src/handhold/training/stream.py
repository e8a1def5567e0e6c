"""From data specifications to batches by step number."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from handhold.data.dataset import LABELS
from handhold.data.mixing import (
    ENDLESS,
    HandItems,
    ImageItems,
    Mixture,
    SampleSet,
    equal_shares,
)
from handhold.data.photos import PhotoFolder
from handhold.data.registry import entry, with_label
from handhold.data.sources import FORM, OCCLUDED, SetSpec
from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.scene import Sample
from handhold.synthesis.shard_stream import ShardStream, is_address
from handhold.synthesis.shards import MAPS, ShardDataset
from handhold.training.config import DEFAULT_EPOCH_ITEMS, TrainConfig
from handhold.training.drawn_scenes import Part, SyntheticScenes
from handhold.training.tasks import Items, Task

KINDS = ("synthetic", "shards", "photos")
HELD_OUT_SHARE = 0.05  # of shards and published sets: their last samples, at most HELD_OUT_MOST
HELD_OUT_MOST = 512
EXAMPLES = (
    "synthetic, synthetic:SEED, synthetic:SEED:COUNT, shards:FOLDER, photos:FOLDER or "
    f"{FORM}; with =WEIGHT if several"
)


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """One source of samples, as written on the command line (`parse`). kind: one of KINDS, or the
    name of the published set `published`."""

    kind: str
    where: str = ""
    weight: float | None = None
    published: SetSpec | None = None

    @classmethod
    def parse(cls, text: str) -> DataSpec:
        """ "kind[:where][=weight]" or "NAME[/SPLIT]:ROOT[=weight]"; raises InputError showing the
        possible forms."""
        head, separator, tail = text.rpartition("=")
        weight: float | None = None
        if separator:
            try:
                weight, text = float(tail), head
            except ValueError:
                weight = None  # an equals sign in a folder's name
        if weight is not None and not weight > 0:
            raise InputError(f"data {text!r}: expected a positive weight, found {weight}")
        published = SetSpec.parse(text)
        if published is not None:
            name, root = published.name, published.root
            return cls(kind=name, where=root, weight=weight, published=published)
        kind, _, where = text.partition(":")
        if kind not in KINDS or (kind != "synthetic" and not where):
            raise InputError(f"data {text!r}: expected {EXAMPLES}")
        if kind == "synthetic" and not re.fullmatch(r"(\d+(:0*[1-9]\d*)?)?", where, re.ASCII):
            raise InputError(
                f"data {text!r}: expected a number as the seed, or seed and count as in 0:16, "
                f"found {where!r}"
            )
        return cls(kind=kind, where=where, weight=weight)

    @property
    def skip_damaged(self) -> bool:
        """Whether samples that turn out to be damaged are passed over."""
        return self.published is not None and self.published.skip_damaged

    @property
    def tells_pose(self) -> bool:
        """Whether its labels are 3D: those of published sets may be 2D, those of photos are."""
        if self.published is not None:
            return "pose" in entry(self.published.name).labels
        return self.kind != "photos"

    def same_source(self, other: DataSpec) -> bool:
        """Whether both are the same samples, whatever their weights."""
        if (self.kind, self.where) != (other.kind, other.where):
            return False
        if self.published is None or other.published is None:
            return True
        return self.published.chosen_split() == other.published.chosen_split()


class _Range:
    """Some of the samples of a set."""

    def __init__(self, samples: SampleSet, start: int, stop: int) -> None:
        self.samples, self.start, self.stop = samples, start, stop
        self.hands = None if samples.hands is None else samples.hands[start:stop]

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, number: int) -> Sample:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self.samples[self.start + number]


def _skipped(task: Task, config: TrainConfig) -> frozenset[str]:
    """Members of samples that this training does not look at."""
    pairs = frozenset[str]() if config.pairs else frozenset({"bare_image"})
    return task.skip | pairs | (frozenset() if task.conditions else frozenset(MAPS))


def open_samples(spec: DataSpec, part: Part, task: Task, config: TrainConfig) -> SampleSet:
    """The samples of a source: those to train on, those it holds out, or all."""
    skip = _skipped(task, config)
    if spec.published is not None:
        _check_labels(spec.published, task)
    if spec.kind == "synthetic":
        seed, _, count = spec.where.partition(":")
        many = int(count) if count else None
        return SyntheticScenes(int(seed or 0), config, part, many, conditions=task.conditions)
    if spec.kind == "photos" and spec.published is None:
        return PhotoFolder(spec.where, part)
    if spec.kind == "photos" and spec.published and spec.published.split in (None, "train"):
        own = dataclasses.replace(spec.published, split=part)  # divided by sequences
        return own.open(mano=config.mano, skip=skip)
    if spec.published is not None:
        whole: SampleSet = spec.published.open("train", mano=config.mano, skip=skip)
    else:
        whole = ShardDataset(spec.where, skip=skip)
    if part == "all":
        return whole
    kept_back = min(HELD_OUT_MOST, max(1, round(HELD_OUT_SHARE * len(whole))))
    if len(whole) < 2:
        raise InputError(
            f"data {spec.kind}:{spec.where}: expected two samples or more, one to hold out"
        )
    middle = len(whole) - kept_back
    return _Range(whole, 0, middle) if part == "train" else _Range(whole, middle, len(whole))


def open_stream(spec: DataSpec, part: Part, task: Task, config: TrainConfig) -> ShardStream | None:
    """The shards of a source that are streamed from an address; None for other sources."""
    if spec.kind != "shards" or not is_address(spec.where):
        return None
    skip = _skipped(task, config)
    return ShardStream(spec.where, part=part, per=task.per, skip=skip, seed=config.seed)


class _Streamed:
    """Stands for the items of a stream, which are not asked for by number."""

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, number: int) -> tuple[Sample, int]:
        raise IndexError(number)


class Lanes:
    """The items of a stream by blocks, the shares of a batch: block b goes on with lane b mod L.

    which: the stream's number in the mixture. share: positions of a block. Blocks are cheap in
    their order; others start their lane anew and skip what is before.
    """

    def __init__(self, stream: ShardStream, mixture: Mixture, which: int, share: int) -> None:
        self.stream, self.mixture, self.which, self.share = stream, mixture, which, share
        # lane -> the block that comes next, items that were given, and the items to come
        self._open: dict[int, tuple[int, int, Iterator[tuple[Sample, int]]]] = {}
        self._process = os.getpid()

    def _count(self, block: int) -> int:
        first, end = block * self.share, (block + 1) * self.share
        return self.mixture.before(self.which, end) - self.mixture.before(self.which, first)

    def block(self, number: int) -> Iterator[tuple[Sample, int]]:
        """The items of a block."""
        if self._process != os.getpid():  # a forked worker must not share a connection
            self._process, self._open = os.getpid(), {}
        lane = number % self.stream.lanes
        following, given, items = self._open.pop(lane, (-1, 0, iter(())))
        if following != number:
            earlier = range(lane, number, self.stream.lanes)
            given = sum(self._count(block) for block in earlier)
            items = self.stream.lane(lane, given)
        found = list(itertools.islice(items, self._count(number)))
        self._open[lane] = (number + self.stream.lanes, given + len(found), items)
        return iter(found)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}


def _check_labels(spec: SetSpec, task: Task) -> None:
    """Raise InputError for a set without a label that the method cannot do without."""
    for label in task.needs:
        if label in entry(spec.name).labels or (label == "side" and spec.side is not None):
            continue
        told = f"sets that do: {', '.join(with_label(label))}"
        if label == "side":
            told += (
                f"; {spec.name}/{spec.chosen_split()}?side=right:{spec.root} takes every hand for "
                "a right one (left hands among them then teach wrongly)"
            )
        raise InputError(
            f"{spec.name}: its labels do not say {LABELS[label]}, which {task.name} needs; {told}"
        )


def notes(specs: Sequence[DataSpec], task: Task) -> list[str]:
    """Sentences about labels of a published set that the method would use and the set lacks."""
    told = []
    for spec in specs:
        if spec.published is not None:
            given = set(entry(spec.published.name).labels)
            renders = spec.published.name in OCCLUDED
            if renders and "occlusion" in spec.published.rendered:
                given.add("visibility")
            lacking = [label for label in task.uses if label not in given]
            words = ", of ".join(LABELS[label] for label in lacking)
            if "visibility" in lacking and renders:
                words += f" (read as {spec.kind}?occlusion:FOLDER it tells how much is hidden)"
            if lacking:
                told.append(f"{spec.kind} has no labels of {words}")
    return told


class BatchStream(Dataset[Any]):
    """Training batches by step number: `stream[step]` depends on the seed and the step alone.

    epoch_items: items that make an epoch. rank, devices: each device takes its own share of the
    global batch. Where a batch is a whole set without augmentation, it is made once, for all steps.
    Raises InputError for empty sets or weights on some sources only.
    """

    def __init__(self, config: TrainConfig, task: Task, *, rank: int = 0) -> None:
        specs = [DataSpec.parse(text) for text in config.data]
        streams = [open_stream(spec, "train", task, config) for spec in specs]
        weights = [spec.weight for spec in specs]
        given = [weight for weight in weights if weight is not None]
        if given and len(given) < len(specs):
            raise InputError(f"data {' '.join(config.data)}: give every source a weight, or none")
        view = HandItems if task.per == "hand" else ImageItems
        self.sets = [
            _Streamed() if stream else view(open_samples(spec, "train", task, config))
            for spec, stream in zip(specs, streams, strict=True)
        ]
        lengths = [len(x) for x in self.sets]
        for text, length in zip(config.data, lengths, strict=True):
            if not length:
                raise InputError(f"data {text}: nothing to train on in it")
        endless = max(lengths) >= ENDLESS
        if endless and len(specs) > 1 and not given:
            raise InputError("data: a source without end beside others needs weights, as in a=0.7")
        length = config.epoch_items or (DEFAULT_EPOCH_ITEMS if endless else sum(lengths))
        if config.mixing == "half_3d":
            given = equal_shares(given or lengths, [spec.tells_pose for spec in specs])
        even = config.mixing != "epoch"
        self.mixture = Mixture(
            lengths, given or None, epoch_length=length, seed=config.seed, evenly=even
        )
        self.specs = specs
        share = config.batch_size // config.devices
        self._lanes = {
            number: Lanes(stream, self.mixture, number, share)
            for number, stream in enumerate(streams)
            if stream is not None
        }
        self.config, self.task, self.rank = config, task, rank
        whole = len(lengths) == 1 and lengths[0] == length == config.batch_size
        self._repeats = whole and not config.augment and config.devices == 1
        self._only: Any = None

    @property
    def epoch_items(self) -> int:
        """Items of an epoch."""
        return self.mixture.epoch_length

    def items(self, step: int) -> Items:
        """The samples of a step (on this rank), before encoding."""
        share = self.config.batch_size // self.config.devices
        block = step * self.config.devices + self.rank
        series = {which: lanes.block(block) for which, lanes in self._lanes.items()}
        places = range(block * share, (block + 1) * share)
        return [self._item(position, series) for position in places]

    def _item(
        self, position: int, series: Mapping[int, Iterator[tuple[Sample, int]]] | None = None
    ) -> tuple[Sample, int]:
        which, index = self.mixture(position)
        if series and which in series:
            return next(series[which])
        for attempt in range(100):
            place = (index + attempt * 1_000_003) % len(self.sets[which])
            found = _read(self.specs[which], self.sets[which], place)
            if found is not None:
                return found
        raise InputError(f"data {self.config.data[which]}: 100 samples in a row are of no use")

    def __getitem__(self, step: int) -> Any:
        if self._repeats:
            if self._only is None:
                self._only = self.task.encode(self.items(0), None)
            return self._only
        rng = np.random.default_rng([self.config.seed, 1, step, self.rank])
        return self.task.encode(self.items(step), rng if self.config.augment else None)


def _read(
    spec: DataSpec, items: HandItems | ImageItems | _Streamed, number: int
) -> tuple[Sample, int] | None:
    """An item; None without a hand, or where it is damaged and may be passed over."""
    try:
        sample, hand = items[number]
    except (FileFormatError, MissingFileError):
        if spec.skip_damaged:
            return None
        raise
    return (sample, hand) if hand >= 0 else None


class Steps(Sampler[int]):
    """The step numbers from `start` to `stop`."""

    def __init__(self, start: int, stop: int) -> None:
        self.range = range(start, stop)

    def __iter__(self) -> Iterator[int]:
        return iter(self.range)

    def __len__(self) -> int:
        return len(self.range)


def _quiet_worker(_: int) -> None:
    import cv2

    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process to answer


def loader(stream: BatchStream, start: int, stop: int) -> DataLoader[Any]:
    """Batches of the steps start .. stop - 1, drawn ahead by the configuration's workers."""
    workers = stream.config.workers
    return DataLoader(
        stream,
        batch_size=None,
        sampler=Steps(start, stop),
        num_workers=workers,
        worker_init_fn=_quiet_worker if workers else None,
        prefetch_factor=4 if workers else None,
    )


def validation_batches(config: TrainConfig, task: Task) -> Iterator[tuple[str, Any]]:
    """Held-out batches without augmentation, with the kind of data they are from.

    Of every source the same `validation_items` items, spread evenly over it: over what it holds
    out when it is also trained on, else over all of it. synthetic:SEED:COUNT holds nothing out.
    """
    trained_on = [DataSpec.parse(text) for text in config.data]
    for text in config.validation or config.data:
        spec = DataSpec.parse(text)
        part: Part = "held_out" if any(map(spec.same_source, trained_on)) else "all"
        share = max(1, config.batch_size // config.devices)
        stream = open_stream(spec, part, task, config)
        if stream is not None:
            first_items = itertools.islice(stream.once(), config.validation_items)
            while items := list(itertools.islice(first_items, share)):
                yield spec.kind, task.encode(items, None)
            continue
        samples = open_samples(spec, part, task, config)
        view = (HandItems if task.per == "hand" else ImageItems)(samples)
        count = min(len(view), config.validation_items)
        stride = 1 if len(view) >= ENDLESS else len(view) / max(1, count)
        numbers: Sequence[int] = [int(i * stride) for i in range(count)]
        for first in range(0, count, share):
            found = [_read(spec, view, number) for number in numbers[first : first + share]]
            items = [item for item in found if item is not None]
            if items:
                batch = task.encode(items, None)
                if dataclasses.is_dataclass(batch):
                    yield spec.kind, batch
