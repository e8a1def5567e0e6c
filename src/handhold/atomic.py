"""Files appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
from collections.abc import Generator
from pathlib import Path

from handhold.errors import HandholdError, WriteError

# what the system answers to a write for which no file is named
REFUSALS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
}


@contextlib.contextmanager
def replacing(path: str | Path) -> Generator[Path]:
    """A temporary name beside `path`, of the same ending: what the block writes there is moved to
    `path` when it ends, and removed when it fails. Raises WriteError where the disk refuses."""
    path = Path(path)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield unfinished
        unfinished.replace(path)
    except Exception as error:  # libraries hide the system's answer in errors of their own
        refusal = _refusal(error, unfinished)
        if refusal is None:
            raise
        raise WriteError(refusal.errno, refusal.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()


def _refusal(error: BaseException | None, file: Path) -> OSError | None:
    """The system's refusal to write this file, also where another error hides it (torch.save)."""
    while error is not None and not isinstance(error, HandholdError):
        if isinstance(error, OSError):
            # no such file: nothing was written, or there is no such folder
            of_this = str(error.filename) == str(file) and error.errno != errno.ENOENT
            if of_this or (error.filename is None and error.errno in REFUSALS):
                return error
        error = error.__cause__ or error.__context__
    return None


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes left of `path`; for files that one process writes at a time."""
    for left in path.parent.glob(f".{glob.escape(path.stem)}.*{glob.escape(path.suffix)}"):
        with contextlib.suppress(OSError):
            left.unlink()


def write_text(path: str | Path, text: str) -> None:
    """A text file, UTF-8: readers see the old or the new one, never a part."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_bytes(path: str | Path, data: bytes) -> None:
    """A file of bytes: readers see the old or the new one, never a part."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(data)
