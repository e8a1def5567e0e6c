"""Shards read where they lie, once from front to back: web servers, object stores, commands.

    https://host/train-{000000..000099}.tar    s3://bucket/train-{000000..000099}.tar    pipe:cat x

Braces count, `::` parts several. https is read directly, all else as webdataset opens it (s3 by
`aws`, gs by `gsutil`, `pipe:` by the shell). Nothing is kept on disk and no index is needed; where
`index.json` lies beside the shards, a run that is continued skips what it has seen without reading.

The shards of every turn are dealt out, in an order drawn anew, to lanes that are read side by side.
What a lane gives is a function of the seed, so any process can go on with it anywhere; as long as
each lane is one process's, nothing is read twice.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import random
import re
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from handhold.errors import (
    FileFormatError,
    HandholdError,
    InputError,
    MissingExtraError,
    MissingFileError,
)
from handhold.scene import Sample
from handhold.synthesis.shards import MEMBERS, OPTIONAL, ShardIndex, decode_sample, parse_index

LANES = (48, 24, 16, 12, 8, 6, 4, 3, 2, 1)  # the first that there are shards for
WINDOW = 64  # items that a lane holds, undecoded, to draw the next from
TRIES, PAUSE, TIMEOUT = 4, 1.0, 60.0  # seconds; the pause doubles
HELD_OUT_SHARE = 0.05  # of the shards: the last ones
_KIND_OF = {suffix: kind for kind, suffix in MEMBERS.items()}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:")
_GONE = (400, 401, 403, 404, 405, 410)  # answers that another try does not change

Members = dict[str, bytes]


def is_address(where: str | Path) -> bool:
    """Whether a text names shards to be streamed: it begins with a scheme such as `https:`."""
    return _SCHEME.match(str(where)) is not None


def expand(where: str) -> list[str]:
    """The addresses of a text with braces and `::`."""
    try:
        from webdataset.shardlists import expand_urls
    except ImportError as error:
        raise MissingExtraError("streaming shards needs: pip install 'handhold[train]'") from error
    return list(expand_urls(where))


class ShardStream:
    """The items of shards, in lanes: item (Sample, hand index), every hand of every sample.

    where: addresses as above. part: the last twentieth of the shards, at least one, is "held_out"
    and the others are to "train" on; or "all". per "image": one item a sample. skip: members not to
    decode (of `shards.OPTIONAL`). Raises InputError for a single shard that cannot be divided; when
    read, MissingFileError for a shard that is not there, FileFormatError for one that is damaged.
    """

    def __init__(
        self,
        where: str,
        *,
        part: Literal["train", "held_out", "all"] = "all",
        per: Literal["hand", "image"] = "hand",
        skip: Iterable[str] = (),
        seed: int = 0,
    ) -> None:
        self.urls = expand(where)
        if part != "all":
            if len(self.urls) < 2:
                raise InputError(f"{where}: expected two shards or more, one to hold out")
            middle = len(self.urls) - max(1, round(HELD_OUT_SHARE * len(self.urls)))
            self.urls = self.urls[:middle] if part == "train" else self.urls[middle:]
        self.per, self.skip, self.seed = per, frozenset(skip), seed
        if wrong := self.skip - set(OPTIONAL):
            raise InputError(f"ShardStream: cannot skip {sorted(wrong)}, only {OPTIONAL}")
        self.lanes = next(count for count in LANES if count <= len(self.urls))
        self._counts: dict[str, int] | None = None

    def once(self) -> Iterator[tuple[Sample, int]]:
        """All items in the order of the addresses."""
        for url in self.urls:
            for item in self._items(url):
                yield self._decoded(url, item)

    def lane(self, number: int, start: int = 0) -> Iterator[tuple[Sample, int]]:
        """The endless items of a lane from its item `start` on, shuffled."""
        done = 0
        for turn in itertools.count():
            before = done
            order = np.random.default_rng([self.seed, turn]).permutation(len(self.urls))
            for place in order[number :: self.lanes]:
                url = self.urls[place]
                count = self._known(url) if done < start else None
                if count is not None and done + count <= start:
                    done += count
                    continue
                drawn = self._shuffled(url, f"{self.seed} {turn} {place}")
                for item in drawn:
                    if done >= start:
                        yield self._decoded(url, item)
                    done += 1
            if done == before:
                raise InputError(f"{self.urls[0]}: no hands in this shard, nor in others with it")

    def _shuffled(self, url: str, seed: str) -> Iterator[tuple[Members, int]]:
        from webdataset.filters import shuffle

        mixed = shuffle(WINDOW, initial=WINDOW, rng=random.Random(seed))
        return mixed(self._items(url))

    def _items(self, url: str) -> Iterator[tuple[Members, int]]:
        for members in read_shard(url):
            kept = {kind: data for kind, data in members.items() if kind not in self.skip}
            try:
                count = len(json.loads(members["info"])["hands"]) if self.per == "hand" else 1
            except (KeyError, ValueError, TypeError) as error:
                raise FileFormatError(f"{url}: a sample's .json cannot be read: {error}") from error
            for hand in range(count):
                yield kept, hand

    def _decoded(self, url: str, item: tuple[Members, int]) -> tuple[Sample, int]:
        return decode_sample(item[0], url), item[1]

    def _known(self, url: str) -> int | None:
        """How many items a shard has, where an index beside it says so."""
        if self._counts is None:
            self._counts = {}
            for folder in dict.fromkeys(url.rpartition("/")[0] for url in self.urls):
                for name, shard in _index(folder).items():
                    items = shard.hands if self.per == "hand" else [1] * len(shard.hands)
                    self._counts[f"{folder}/{name}"] = sum(items)
        return self._counts.get(url)


def read_shard(url: str) -> Iterator[Members]:
    """The members of each sample, by kind. A connection that breaks is opened again and goes on
    where it stopped; TRIES in a row without a new sample are too many. Raises MissingFileError,
    FileFormatError."""
    given, failures = 0, 0
    while True:
        before = given
        try:
            for number, members in enumerate(_groups(url)):
                if number >= given:
                    given += 1
                    yield members
            return
        except (FileNotFoundError, PermissionError) as error:
            raise MissingFileError(f"{url}: this shard cannot be read: {error}") from error
        except (OSError, EOFError, http.client.HTTPException, tarfile.TarError) as error:
            failures = 1 if given > before else failures + 1
            gone = isinstance(error, urllib.error.HTTPError) and error.code in _GONE
            if gone or failures == TRIES:
                kind = FileFormatError if isinstance(error, tarfile.TarError) else MissingFileError
                raise kind(f"{url}: this shard cannot be read: {error}") from error
        except (ValueError, AssertionError) as error:
            if isinstance(error, HandholdError):
                raise
            raise FileFormatError(f"{url}: not a shard of samples: {error}") from error
        time.sleep(PAUSE * 2 ** (failures - 1))


def _groups(url: str) -> Iterator[Members]:
    from webdataset.tariterators import group_by_keys

    with _opened(url) as stream:
        for group in group_by_keys(_files(stream, url)):
            wrong = [name for name in group if name not in _KIND_OF and not name.startswith("__")]
            if wrong:
                raise FileFormatError(f"{url}: unexpected member {group['__key__']}.{wrong[0]}")
            yield {_KIND_OF[name]: data for name, data in group.items() if name in _KIND_OF}


def _files(stream: Any, url: str) -> Iterator[dict[str, Any]]:
    """The files of a tar stream; ConnectionError where it ends before what was promised."""
    from webdataset.tariterators import tar_file_iterator

    for file in tar_file_iterator(stream):  # type: ignore[arg-type]
        yield file | {"__url__": url}
    while stream.read(1 << 20):
        pass
    if getattr(stream, "length", None):
        raise ConnectionError(f"the connection ended {stream.length} bytes early")


@contextlib.contextmanager
def _opened(url: str) -> Generator[Any]:
    if url.startswith(("http:", "https:")):
        with urllib.request.urlopen(url, timeout=TIMEOUT) as stream:
            yield stream
        return
    from webdataset.gopen import gopen

    with gopen(url) as stream:
        yield stream


def _index(folder: str) -> dict[str, ShardIndex]:
    """The index beside the shards; empty where there is none."""
    if not is_address(folder) or folder.startswith("pipe:"):
        return {}
    try:
        with _opened(f"{folder}/index.json") as stream:
            return parse_index(stream.read())
    except (OSError, http.client.HTTPException):
        return {}
