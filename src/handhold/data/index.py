"""What is known about a data set's labels, gathered once: columns of numbers on disk, opened by
memory mapping.

A set's scan is cut into parts (a sequence, a slice of a label file), which run in parallel; each
finished part is kept at once, so a scan that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.atomic import replacing
from handhold.data.files import Files
from handhold.data.home import HOME_VARIABLE, index_folder
from handhold.errors import HandholdError, InputError

FORMAT = 2
FEW_WATCHED = 110_000  # files, some 0.4 s to look at, as `Scan.labels` explains
ALONE = 5.0  # seconds before other processes are started, which takes about as long
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that cannot be read or used as it stands. file: in the official tree."""

    file: str
    what: str

    def __str__(self) -> str:
        return self.what if self.file in self.what else f"{self.file}: {self.what}"


@dataclass(kw_only=True)
class Part:
    """What one part of a scan found: columns of equal length, how many samples each rule dropped,
    and what is damaged."""

    columns: Columns
    dropped: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Index:
    """columns: arrays of N rows in the set's own order. dropped: rule -> samples it dropped, of
    those that are there. problems: damaged samples, which have no row."""

    columns: Columns
    dropped: dict[str, int]
    problems: tuple[Problem, ...]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0


@dataclass(frozen=True, kw_only=True)
class Scan:
    """How a set is gone through.

    name, version: of the set and of its columns' meaning. parts: keys, in the order of the rows.
    watched: files and folders whose change makes the index stale. labels: every other file that is
    read, by call as they may be many: up to FEW_WATCHED are looked at on every opening, too; more
    only by a thorough one, and else their folders tell, which see files come and go. read:
    `read(files, key)` -> Part, a function of a module (it runs in other processes).
    """

    name: str
    version: int
    parts: tuple[str, ...]
    watched: tuple[str, ...]
    read: Callable[[Files, str], Part]
    labels: Callable[[], Iterable[str]] = tuple


def open_index(
    files: Files,
    scan: Scan,
    *,
    cache: Path | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    thorough: bool = False,
) -> Index:
    """The index of a set; made first where there is none yet or where files have changed.

    cache: folder of indexes, default `home()/index`; never the data set's own, which may be
    read-only. workers: processes, default all cores; 0: none but this one; sets that are read
    within seconds start none. progress: called with parts done and parts in all. thorough: look at
    size and time of every file that was read, however many they are. Raises what the scan raises,
    InputError for a folder that cannot be written.
    """
    where = hashlib.sha256(str(files.root.resolve()).encode()).hexdigest()[:12]
    folder = index_folder(cache) / f"{scan.name}-{where}"
    labels = list(itertools.islice(scan.labels(), FEW_WATCHED + 1))
    many = len(labels) > FEW_WATCHED
    watched = scan.watched if many else (*scan.watched, *labels)
    digest = hashlib.sha256(f"{FORMAT} {scan.version} {files.stamp(watched)}\n".encode())
    digest.update("\n".join(scan.parts).encode())
    stamp = digest.hexdigest()
    every = files.stamp(scan.labels()) if many and thorough else None
    found = _load(folder, stamp, every)
    if found is not None:
        return found
    if every is None:  # as they are before they are read
        every = files.stamp(scan.labels()) if many else ""
    state = hashlib.sha256(f"{stamp} {every}".encode()).hexdigest()[:12]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = folder.with_name(f"{folder.name}.{state}.partial")
        for stale in folder.parent.glob(f"{folder.name}.*.partial"):
            if stale != partial:
                shutil.rmtree(stale, ignore_errors=True)
        partial.mkdir(exist_ok=True)
    except OSError as error:
        raise _unwritable(folder.parent, error) from error
    _scan(files, scan, partial, workers, progress)
    try:
        _join(partial, folder, scan, {"stamp": stamp, "every": every})
    except OSError as error:
        raise _unwritable(folder.parent, error) from error
    shutil.rmtree(partial, ignore_errors=True)
    made = _load(folder, stamp)
    if made is None:
        raise InputError(f"{folder}: the index was changed while it was made; try again")
    return made


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"{folder}: the index cannot be written there ({error.strerror or error}); set "
        f"{HOME_VARIABLE} to a folder for it"
    )


def _part_path(partial: Path, key: str) -> Path:
    return partial / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"


def _scan(
    files: Files,
    scan: Scan,
    partial: Path,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    todo = [key for key in scan.parts if not _part_path(partial, key).is_file()]
    total, done = len(scan.parts), len(scan.parts) - len(todo)
    count = (os.cpu_count() or 1) if workers is None else workers

    def tell() -> None:
        if progress is not None:
            progress(done, total)

    tell()
    start = time.monotonic()
    while todo and (min(count, len(todo)) <= 1 or time.monotonic() - start < ALONE):
        _read_part(files, scan, todo.pop(0), partial)
        done += 1
        tell()
    if not todo:
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy locks of running threads
    with concurrent.futures.ProcessPoolExecutor(
        min(count, len(todo)), context, _start, (files, scan, partial)
    ) as pool:
        waiting = {pool.submit(_read_here, key) for key in todo}
        try:
            for future in concurrent.futures.as_completed(waiting):
                future.result()
                done += 1
                tell()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_here: list[tuple[Files, Scan, Path]] = []  # of a worker process, sent once


def _start(files: Files, scan: Scan, partial: Path) -> None:
    _here[:] = [(files, scan, partial)]


def _read_here(key: str) -> None:
    files, scan, partial = _here[0]
    _read_part(files, scan, key, partial)


def _read_part(files: Files, scan: Scan, key: str, partial: Path) -> None:
    part = scan.read(files, key)
    lengths = {len(column) for column in part.columns.values()}
    if len(lengths) > 1:
        raise HandholdError(f"index of {scan.name}, {key}: columns of different lengths")
    told = {
        "dropped": part.dropped,
        "problems": [[problem.file, problem.what] for problem in part.problems],
    }
    about = np.frombuffer(json.dumps(told).encode(), np.uint8)
    try:
        with replacing(_part_path(partial, key)) as unfinished:
            # numpy's types take every one of **arrays for its allow_pickle, a bool
            np.savez(unfinished, _about=about, **part.columns)  # type: ignore[arg-type]
    except OSError as error:
        raise _unwritable(partial.parent, error) from error


def _join(partial: Path, folder: Path, scan: Scan, stamps: dict[str, str]) -> None:
    columns: dict[str, list[NDArray[Any]]] = {}
    dropped: dict[str, int] = {}
    problems: dict[tuple[str, str], None] = {}  # what several parts found is told once
    for key in scan.parts:
        with np.load(_part_path(partial, key), allow_pickle=False) as arrays:
            about = json.loads(bytes(arrays["_about"]))
            for name in arrays.files:
                if name != "_about" and len(arrays[name]):
                    columns.setdefault(name, []).append(arrays[name])
        problems |= dict.fromkeys((file, what) for file, what in about["problems"])
        for rule, count in about["dropped"].items():
            dropped[rule] = dropped.get(rule, 0) + count
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=folder.name, suffix=".tmp"))
    for name, pieces in columns.items():
        np.save(made / f"{name}.npy", np.concatenate(pieces), allow_pickle=False)
    told = {"columns": sorted(columns), "dropped": dropped, "problems": list(problems)} | stamps
    (made / "index.json").write_text(json.dumps(told), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    made.replace(folder)


def _load(folder: Path, stamp: str, every: str | None = None) -> Index | None:
    """The index kept there; None where it does not bear these stamps. every: None for any."""
    try:
        told = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if told["stamp"] != stamp or every not in (None, told["every"]):
            return None
        columns = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in told["columns"]
        }
        problems = tuple(Problem(file=file, what=what) for file, what in told["problems"])
        return Index(columns=columns, dropped=told["dropped"], problems=problems)
    except (OSError, ValueError, KeyError, TypeError):
        return None


TEXT = "text"  # in place of a numpy type: names, as long as they are


def columns_of(rows: Sequence[Mapping[str, Any]], types: Mapping[str, str]) -> Columns:
    """One array a field. types: field -> numpy's type, or TEXT."""
    found: Columns = {}
    for name, kind in types.items():
        values = [row[name] for row in rows]
        found[name] = texts(values) if kind == TEXT else np.array(values, kind)
    return found


def texts(values: Sequence[str]) -> NDArray[np.bytes_]:
    """Names as a column of bytes."""
    return np.char.encode(np.asarray(values, np.str_), "utf-8") if values else np.zeros(0, "S1")


def chosen_rows(index: Index, column: str, values: Sequence[int]) -> NDArray[np.int64]:
    """The rows whose column holds one of the values, in the index's order."""
    if not len(index):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.isin(index.columns[column], values)).astype(np.int64)
