"""What of a published set is there: missing parts, damaged files, samples against the published
counts."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from handhold.data.dataset import LENIENT, Count, DatasetEntry, IndexedSet, OpenOptions
from handhold.data.files import Files
from handhold.data.index import Index, Problem
from handhold.data.registry import entry
from handhold.errors import FileFormatError, HandholdError, InputError

Images: TypeAlias = Literal["ends", "all", "none"]
Progress: TypeAlias = Callable[[int, int], None]
BLOCK = 256  # images between two steps of the bar
SHOWN = 40  # entries of a list in the text
MOVED = (
    "(moved: the object, by more than 5 degrees or so far, since the sequence's first frame; grasp "
    "labels by the papers' rule and the released code's)"
)


@dataclass(frozen=True, kw_only=True)
class Check:
    """missing: what a complete download would hold besides, in words. counts: of the splits that
    can be read; unreadable: why the others cannot. dropped: rule -> samples it leaves out, of those
    that are there. problems: what is damaged. images: files looked at.
    """

    name: str
    title: str
    licence: str
    root: str
    missing: tuple[str, ...]
    counts: tuple[Count, ...]
    unreadable: dict[str, str]
    dropped: dict[str, int]
    problems: tuple[Problem, ...]
    images: int
    how: Images

    def to_json(self) -> dict[str, Any]:
        """All of it as plain numbers and texts."""
        return {"schema": "handhold.data-check/1", **dataclasses.asdict(self)}

    def as_text(self) -> str:
        """All of it for a reader; of long lists the beginning."""
        lines = [f"{self.name}: {self.title}; licence {self.licence}", f"in {self.root}"]
        head = "missing of the complete download (what is here can be used without it)"
        lines += ["", head if self.missing else "missing: nothing", *_listed(self.missing)]
        known = any(count.holding_50mm is not None for count in self.counts)
        moved = f"{'moved 10 mm':>14}{'50 mm':>10}" if known else ""
        lines += ["", f"{'samples by split':<24}{'here':>10}{moved}{'published':>12}  note"]
        lines += [_row(c, known) for c in self.counts if c.found or c.published is not None]
        empty = [c.split for c in self.counts if not c.found and c.published is None]
        lines += [f"  empty here: {', '.join(empty)}"] if empty else []
        if known:
            lines += [f"  {MOVED}"]
        for why in dict.fromkeys(self.unreadable.values()):
            splits = [split for split, told in self.unreadable.items() if told == why]
            lines += [f"  cannot be read: {', '.join(splits)}", f"    {why}"]
        if self.dropped:
            lines += ["", "left out, of what is there, by rule"]
            lines += [f"  {rule:<32}{number:>10,}" for rule, number in self.dropped.items()]
        seen = {
            "ends": f"labels, and the ends of {self.images:,} images; --images all decodes them",
            "all": f"labels, and {self.images:,} images, decoded",
            "none": "labels only; no image was looked at",
        }[self.how]
        if not self.problems:
            return "\n".join([*lines, "", f"damaged: nothing ({seen})", *self._next()])
        lines += ["", f"damaged: {len(self.problems):,} ({seen})"]
        lines += _listed([str(problem) for problem in self.problems])
        return "\n".join([*lines, *self._next()])

    def _next(self) -> list[str]:
        """What to do with a set that can be read."""
        splits = [count.split for count in self.counts if count.found]
        if not splits:
            return []
        lenient = "?skip-damaged" if self.problems else ""
        root = shlex.quote(self.root)
        source = shlex.quote(f"{self.name}/{splits[0]}{lenient}:{self.root}")
        return [
            "",
            "next",
            f"  handhold data view {self.name} {root} --split {splits[0]} --out sheet.png",
            f"  handhold eval METHOD --data {source}  (or train)",
        ]


def _row(count: Count, moved: bool) -> str:
    cells = [f"  {count.split:<22}{count.found:>10,}"]
    if moved:
        cells += [f"{_number(count.holding_10mm):>14}", f"{_number(count.holding_50mm):>10}"]
    return "".join([*cells, f"{_number(count.published):>12}  {_note(count)}"]).rstrip()


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _note(count: Count) -> str:
    if count.published is None or count.found == count.published:
        return count.source
    off = count.found - count.published
    return f"{abs(off):,} {'more' if off > 0 else 'fewer'} than in {count.source}"


def _listed(items: Sequence[str]) -> list[str]:
    more = [f"  ... and {len(items) - SHOWN:,} more"] if len(items) > SHOWN else []
    return [f"  {item}" for item in items[:SHOWN]] + more


def check_dataset(
    name: str,
    root: str | Path,
    *,
    splits: Sequence[str] = (),
    images: Images = "ends",
    mano: str | Path | None = None,
    cache: Path | None = None,
    workers: int | None = None,
    progress: Callable[[str], Progress] | None = None,
) -> Check:
    """Look through a set in its official files; the index is made first where there is none.

    splits: those to count, default all. images: "ends": the first and last bytes of every image,
    which tell one that is cut short or of another size; "all": every sample is read completely,
    masks and depth with it; "none".
    workers: processes for the index, threads for the images. progress: title -> a function told
    done and total. Damage becomes `problems`; raises MissingFileError where nothing is there,
    InputError for unknown names.
    """
    told = entry(name)
    files = Files(root, told.tops, cache=cache)
    if unknown := sorted(set(splits) - set(told.splits)):
        raise InputError(f"{name}: no split {unknown[0]!r}; expected {', '.join(told.splits)}")
    bar = progress or _silent
    options = OpenOptions(
        mano=mano, skip=LENIENT, cache=cache, workers=workers, progress=bar("index"), thorough=True
    )
    counts: list[Count] = []
    opened: list[IndexedSet] = []
    unreadable: dict[str, str] = {}
    reasons: list[HandholdError] = []
    problems: dict[Problem, None] = {}  # in order, each once
    index = Index(columns={}, dropped={}, problems=())
    try:
        index = told.index(files, options)
    except FileFormatError as error:  # the labels cannot be gone through at all
        problems[Problem(file=str(files.root), what=str(error))] = None
    for split in () if problems else splits or told.splits:
        try:
            found = told.select(files, index, split, options)
        except HandholdError as error:
            unreadable[split] = str(error)
            reasons.append(error)
            if isinstance(error, FileFormatError):
                problems[Problem(file=str(files.root), what=str(error))] = None
            continue
        opened.append(found)
        counts.append(_count(told, found))
        problems |= dict.fromkeys(found.index.problems)
    if reasons and not opened and not problems:
        raise reasons[0]
    missing: list[str] = []
    try:
        missing = told.missing(files) + [
            f"what is in {path.name}: a compressed tar is not read; unpack it, or gunzip it to a "
            "plain tar"
            for path in files.squeezed
        ]
    except FileFormatError as error:
        problems[Problem(file=str(files.root), what=str(error))] = None
    looked, broken = _look(_largest(opened), images, workers, bar("images"))
    return Check(
        name=name,
        title=told.title,
        licence=told.licence,
        root=str(files.root),
        missing=tuple(missing),
        counts=tuple(counts),
        unreadable=unreadable,
        dropped=dict(index.dropped),
        problems=(*problems, *broken),
        images=looked,
        how=images,
    )


def _silent(_: str) -> Progress:
    return lambda done, total: None


def _count(told: DatasetEntry, found: IndexedSet) -> Count:
    published, source = told.published.get(found.split, (None, ""))
    holding: dict[str, int | None] = {}
    for rule in ("10", "50"):
        column = found.index.columns.get(f"grasp{rule}")
        held = None if column is None else int((np.asarray(column)[found.rows] == 1).sum())
        holding[f"holding_{rule}mm"] = held
    return Count(split=found.split, found=len(found), published=published, source=source, **holding)


def _largest(opened: Sequence[IndexedSet]) -> list[IndexedSet]:
    """The split that holds everything, where there is one."""
    return [found for found in opened if found.split == "all"] or list(opened)


def _look(
    opened: Sequence[IndexedSet], images: Images, workers: int | None, progress: Progress
) -> tuple[int, list[Problem]]:
    """How many images were looked at, and those that are damaged; each image once."""
    if images == "none":
        return 0, []
    names: dict[str, tuple[IndexedSet, int]] = {}
    for found in opened:
        for number in range(len(found)):
            names.setdefault(found.image_name(number), (found, number))

    def look(name: str) -> Problem | None:
        found, number = names[name]
        try:
            if images == "all":
                found[number]
            else:
                found.files.check_image(name, found.image_size(number))
        except HandholdError as error:
            return Problem(file=name, what=str(error))
        return None

    broken: list[Problem] = []
    todo = list(names)
    with ThreadPoolExecutor(max(1, os.cpu_count() or 1 if workers is None else workers)) as pool:
        for start in range(0, len(todo), BLOCK):
            seen = pool.map(look, todo[start : start + BLOCK])
            broken += [problem for problem in seen if problem is not None]
            progress(min(start + BLOCK, len(todo)), len(todo))
    return len(todo), broken
