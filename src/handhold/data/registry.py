"""The published data sets by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path

from handhold.data.dataset import DatasetEntry, IndexedSet, OpenOptions
from handhold.data.files import Files
from handhold.errors import InputError

# name -> the module that holds its ENTRY (DatasetEntry), or "module:NAME" for another entry there
DATASETS = {
    "dexycb": "handhold.data.dexycb",
    "hint": "handhold.data.hint",
    "coco-wholebody": "handhold.data.coco_wholebody",
    "onehand10k": "handhold.data.onehand10k",
    "mow": "handhold.data.mow",
    "obman": "handhold.data.obman",
    "ho3d-v2": "handhold.data.ho3d:V2",
    "ho3d-v3": "handhold.data.ho3d:V3",
    "freihand": "handhold.data.freihand",
    "photos": "handhold.data.photo_set",
}


def entry(name: str) -> DatasetEntry:
    """The entry of a set; raises InputError that lists the names there are."""
    if name not in DATASETS:
        raise InputError(f"data set: found {name!r}, expected one of {', '.join(DATASETS)}")
    module, _, attribute = DATASETS[name].partition(":")
    return getattr(importlib.import_module(module), attribute or "ENTRY")


def with_label(label: str) -> list[str]:
    """The sets that have a label of `dataset.LABELS`."""
    return [name for name in DATASETS if label in entry(name).labels]


def open_dataset(
    name: str,
    root: str | Path,
    split: str | None = None,
    *,
    mano: str | Path | None = None,
    skip: Iterable[str] = (),
    cache: Path | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    thorough: bool = False,
) -> IndexedSet:
    """One split of a published set in its official files; the other options: `OpenOptions`.

    split: None for the one to train on. Raises InputError, MissingFileError, FileFormatError, each
    naming file or field.
    """
    found = entry(name)
    split = split or found.train
    if split not in found.splits:
        raise InputError(
            f"{name}: there is no split {split!r}; expected one of {', '.join(found.splits)}"
        )
    files = Files(root, found.tops, cache=cache)
    options = OpenOptions(
        mano=mano,
        skip=tuple(skip),
        cache=cache,
        workers=workers,
        progress=progress,
        thorough=thorough,
    )
    return found.open(files, split, options)
