"""What zip and tar archives hold, and where in them: tables that are kept beside the indexes.

To read a table takes about a second for 150,000 members of a zip, and a pass over the whole file
for a tar; the kept one opens in a fraction of that. It is made anew when the archive's size or time
has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np

from handhold.atomic import replacing
from handhold.errors import FileFormatError

FORMAT = 3
# offset (zip: of the member's own header), packed size, size, method (-1: a tar's, plain),
# checksum (-1: a tar has none)
Place: TypeAlias = tuple[int, int, int, int, int]
# what readers of broken archives raise
UNREADABLE = (
    zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, ValueError, struct.error, zlib.error,
    NotImplementedError,
)  # fmt: skip


def table_of(
    archive: Path, own_names: Callable[[list[str]], list[str | None]], rule: str, folder: Path
) -> dict[str, Place]:
    """The members of an archive by their names in the official tree.

    own_names: those names of all members, None for others; rule: what it depends on, as text.
    folder: of the kept tables; one that cannot be written is no error. Raises FileFormatError, or
    UNREADABLE for what is no archive.
    """
    status = archive.stat()
    stamp = f"{FORMAT} {status.st_size} {status.st_mtime_ns} {rule}".encode()
    name = hashlib.sha256(str(archive.resolve()).encode()).hexdigest()[:24]
    kept = folder / "archives" / f"{name}.npz"
    found = _load(kept, stamp)
    if found is None:
        members, places = [], []
        for member, place in _members(archive):
            members.append(member)
            places.append(place)
        found, named = {}, {}
        for own, member, place in zip(own_names(members), members, places, strict=True):
            if own is None:
                continue
            first = named.setdefault(own, member)
            if first != member and "/" in own and found[own][2::2] != place[2::2]:
                raise FileFormatError(
                    f"{archive}: {first} and {member} differ, and only one of them can be the "
                    f"set's {own}: expected one tree"
                )
            found[own] = place
        _keep(kept, stamp, found)
    return found


def _load(path: Path, stamp: bytes) -> dict[str, Place] | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if bytes(arrays["stamp"]) != stamp:
                return None
            text = bytes(arrays["names"]).decode("utf-8", "surrogateescape")
            places = arrays["places"].tolist()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    names = text.split("\0") if places else []
    return dict(zip(names, map(tuple, places), strict=True)) if len(names) == len(places) else None


def _keep(path: Path, stamp: bytes, table: dict[str, Place]) -> None:
    names = "\0".join(table).encode("utf-8", "surrogateescape")
    places = np.array(list(table.values()), np.int64).reshape(-1, 5)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            np.savez(
                unfinished,
                stamp=np.frombuffer(stamp, np.uint8),
                names=np.frombuffer(names, np.uint8),
                places=places,
            )


def _members(archive: Path) -> Iterator[tuple[str, Place]]:
    """Every file of an archive."""
    if archive.suffix.lower() == ".zip":
        with zipfile.ZipFile(archive) as packed:
            for item in packed.infolist():
                if item.is_dir():
                    continue
                known = item.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                if not known or item.flag_bits & 1:
                    raise FileFormatError(
                        f"{archive}: {item.filename}: expected a stored or deflated member without "
                        "a password"
                    )
                sizes = (item.compress_size, item.file_size)
                yield item.filename, (item.header_offset, *sizes, item.compress_type, item.CRC)
        return
    with tarfile.open(archive, "r:") as packed:
        files: dict[str, Place] = {}
        for item in packed:
            if item.isfile():
                files[item.name] = (item.offset_data, item.size, item.size, -1, -1)
            elif item.islnk() and item.linkname in files:  # the same file under a second name
                files[item.name] = files[item.linkname]
        yield from files.items()
