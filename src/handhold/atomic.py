"""Files appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Generator[Path]:
    """A temporary name beside `path`, of the same ending: what the block writes there is moved to
    `path` when it ends, and removed when it fails."""
    path = Path(path)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """A text file, UTF-8: readers see the old or the new one, never a part."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_bytes(path: str | Path, data: bytes) -> None:
    """A file of bytes: readers see the old or the new one, never a part."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(data)
