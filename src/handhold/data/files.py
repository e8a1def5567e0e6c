"""The files of a data set wherever they lie: a folder, zip or tar archives, or a folder of those.

Nothing is unpacked: the table of an archive's members is read on the first opening and kept, a
member is read when it is asked for.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from handhold.data.archives import UNREADABLE, Place, table_of
from handhold.data.home import index_folder
from handhold.data.images import (
    END_BYTES,
    HEAD_BYTES,
    check_image_end,
    ends_well,
    image_size,
)
from handhold.errors import FileFormatError, MissingFileError

ARCHIVES = (".zip", ".tar")
SQUEEZED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
DEEPEST = 3  # folders between the given place and the data set's own tree, at most
MAC_EXTRAS = "__MACOSX"  # folder that macOS adds to a zip
LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name


class Files:
    """Read-only access to a data set's files by their names in the official tree ("a/b/c.png").

    root: folder or archive. tops: patterns of what lies at the top of the official tree; folders
    above it, in the folder as in archives, are skipped. Archives lie beside the tree or above it.
    cache: folder of indexes, where the archives' tables are kept.
    Raises MissingFileError where nothing of the tree is found, FileFormatError for archives that
    cannot be read in place.
    """

    def __init__(self, root: str | Path, tops: Sequence[str], *, cache: Path | None = None) -> None:
        self.root = Path(root)
        self.tops = tuple(tops)
        if not self.root.exists():
            raise MissingFileError(f"{self.root}: no such folder or archive")
        self.folder: Path | None = None
        self.archives: list[Path] = []
        self.squeezed: list[Path] = []  # compressed tars, which are not read
        if self.root.is_file():
            self.archives = [self.root]
        else:
            self.folder = self._tree(self.root)
            places = {self.root, self.folder or self.root}
            beside = sorted(path for place in places for path in _inside(place) if _is_file(path))
            self.archives = [path for path in beside if path.suffix.lower() in ARCHIVES]
            self.squeezed = [path for path in beside if path.name.lower().endswith(SQUEEZED)]
            if self.squeezed and self.folder is None and not self.archives:
                self._refuse(self.squeezed[0])
        self._cache = index_folder(cache)
        self._members: dict[str, tuple[int, Place]] = {}  # name -> number of the archive, place
        for number, archive in enumerate(self.archives):
            self._add(self._table(number, archive))
        if self.folder is None and not self._members:
            raise MissingFileError(
                f"{self.root}: found nothing of the official tree: expected one of "
                f"{', '.join(self.tops)} there, at most {DEEPEST} folders below, or in an archive"
            )

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises MissingFileError or FileFormatError that names it."""
        path = self._unpacked(name)
        if path is not None:
            try:
                return path.read_bytes()
            except OSError as error:
                raise FileFormatError(f"{path}: cannot be read: {error.strerror}") from error
        if name not in self._members:
            raise MissingFileError(f"{self.place(name)}: there is no such file")
        archive, (offset, packed, size, method, check) = self._members[name]
        with self.archives[archive].open("rb") as file:
            if method >= 0:  # zip: the name and what follows it stand between header and data
                file.seek(offset)
                header = file.read(LOCAL_HEADER)
                offset += LOCAL_HEADER + sum(
                    int.from_bytes(header[k : k + 2], "little") for k in (26, 28)
                )
            file.seek(offset)
            data = file.read(packed)
        if method == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompress(data, -15)
            except zlib.error as error:
                raise FileFormatError(f"{self.place(name)}: damaged: {error}") from error
        if len(data) != size:
            raise FileFormatError(f"{self.place(name)}: expected {size} bytes, found {len(data)}")
        if check >= 0 and zlib.crc32(data) != check:
            raise FileFormatError(f"{self.place(name)}: damaged: its checksum does not fit")
        return data

    def check_image(self, name: str, size: tuple[int, int] | None = None) -> None:
        """Raise MissingFileError, or FileFormatError for an image that is cut short or, where
        `size` (width, height) is given, of another one; of what lies unpacked only the head and the
        last bytes are read, mostly."""
        path, place = self._unpacked(name), self.place(name)
        if path is None:
            opened = io.BytesIO(self.read(name))
        else:
            try:
                opened = path.open("rb")
            except OSError as error:
                raise FileFormatError(f"{path}: cannot be read: {error.strerror}") from error
        with opened as file:
            head = file.read(HEAD_BYTES)
            file.seek(-min(END_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
            if not ends_well(head, file.read()):
                check_image_end(self.read(name), place)
            file.seek(0)
            found = image_size(file, place) if size is not None else None
        if found != size:
            raise FileFormatError(wrong_size(place, size, found))

    def has(self, name: str) -> bool:
        """Whether the file exists."""
        return name in self._members or self._unpacked(name) is not None

    def _unpacked(self, name: str) -> Path | None:
        """The file's path where it lies unpacked."""
        path = None if self.folder is None else self.folder / name
        return path if path is not None and _is_file(path) else None

    def list(self, folder: str = "") -> list[str]:
        """Names of the files and folders directly in `folder`, sorted; [] where there is none.
        Raises FileFormatError for a folder that cannot be read."""
        found: set[str] = set()
        if self.folder is not None:
            path = self.folder / folder
            try:
                found = set(os.listdir(path))  # noqa: PTH208 - names alone
            except (FileNotFoundError, NotADirectoryError):
                pass
            except OSError as error:
                raise FileFormatError(f"{path}: cannot be read: {error.strerror}") from error
        found |= self._folders.get(folder, set())
        return sorted(found)

    def place(self, name: str) -> str:
        """Where a file lies, for messages."""
        if name in self._members and self._unpacked(name) is None:
            return f"{self.archives[self._members[name][0]]}: {name}"
        return str((self.folder or self.root) / name)

    def stamp(self, names: Iterable[str]) -> str:
        """A fingerprint of size and time of the files (or folders) named, and of every archive."""
        digest = hashlib.sha256()
        for archive in self.archives:
            status = archive.stat()
            digest.update(f"{archive.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        for name in names:
            text = "missing"
            if self.folder is not None:
                try:
                    status = os.stat(self.folder / name)  # noqa: PTH116 - called a million times
                    size = status.st_size if name.rpartition(".")[2] != name else 0
                    text = f"{size} {status.st_mtime_ns}"
                except OSError:
                    text = "packed" if name in self._members else "missing"
            digest.update(f"{name} {text}\n".encode())
        return digest.hexdigest()

    def image(self, name: str) -> NDArray[np.uint8]:
        """RGB (H, W, 3); raises MissingFileError, and FileFormatError where it is cut short."""
        return self._decoded(name, cv2.IMREAD_COLOR_RGB)

    def raw_image(self, name: str) -> NDArray[Any]:
        """An image's numbers as they are stored (channels in OpenCV's order, blue first)."""
        return self._decoded(name, cv2.IMREAD_UNCHANGED)

    def _decoded(self, name: str, flags: int) -> NDArray[Any]:
        data = self.read(name)
        check_image_end(data, self.place(name))
        found = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if found is None:
            raise FileFormatError(f"{self.place(name)}: expected an image OpenCV can read")
        return found

    def _tree(self, start: Path) -> Path | None:
        """The folder that holds the tree's top, the nearest to `start`; of several equally near
        the one that holds most of it."""
        level = [start]
        for _ in range(DEEPEST + 1):
            parts: dict[int, dict[Path, Path]] = {}  # kinds of tops -> the folders that have them
            for folder in level:
                names = [item.name for item in _inside(folder)]
                held = sum(bool(fnmatch.filter(names, pattern)) for pattern in self.tops)
                if held:
                    parts.setdefault(held, {})[folder.resolve()] = folder
            most = max(parts, default=0)
            if most and len(parts[most]) > 1:
                places = ", ".join(str(folder) for folder in parts[most].values())
                raise FileFormatError(
                    f"{start}: several folders hold a tree of this kind ({places}); name one of "
                    "them, or put them together"
                )
            if most:
                return next(iter(parts[most].values()))
            level = sorted(item for folder in level for item in _inside(folder) if item.is_dir())
        return None

    def _is_top(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.tops)

    def _own_names(self, members: list[str]) -> list[str | None]:
        """The members' names in the official tree: without the folders above its top. What lies
        beside a top belongs to the tree, too."""
        plain = [member.replace("\\", "/") for member in members]  # some Windows tools' zips
        split = [[x for x in member.split("/") if x not in ("", ".")] for member in plain]
        tops: dict[tuple[str, ...], None] = {}
        starts: list[int | None] = []
        for parts in split:
            places = range(0 if parts[:1] == [MAC_EXTRAS] else len(parts[: DEEPEST + 1]))
            start = next((place for place in places if self._is_top(parts[place])), None)
            starts.append(start)
            if start is not None:
                tops[tuple(parts[:start])] = None
        for number, parts in enumerate(split):
            if starts[number] is None and parts[:1] != [MAC_EXTRAS]:
                above = (tuple(parts[:n]) for n in range(min(DEEPEST + 1, len(parts))))
                starts[number] = next((len(folder) for folder in above if folder in tops), None)
        return [
            None if start is None else "/".join(parts[start:])
            for parts, start in zip(split, starts, strict=True)
        ]

    def _table(self, number: int, archive: Path) -> dict[str, tuple[int, Place]]:
        try:
            found = table_of(archive, self._own_names, f"{DEEPEST} {self.tops}", self._cache)
            return {name: (number, place) for name, place in found.items()}
        except FileFormatError:
            raise
        except UNREADABLE as error:
            if archive.name.endswith(SQUEEZED):
                self._refuse(archive)
            raise FileFormatError(f"{archive}: not a readable archive: {error}") from error

    def _add(self, table: dict[str, tuple[int, Place]]) -> None:
        """FileFormatError where two archives hold different files of one name: two sets."""
        for name in table.keys() & self._members.keys():
            (one, first), (other, second) = self._members[name], table[name]
            sums = {first[4], second[4]} - {-1}
            if self._is_top(name.partition("/")[0]) and (first[2] != second[2] or len(sums) > 1):
                raise FileFormatError(
                    f"{self.archives[one]} and {self.archives[other]} hold different files of the "
                    f"name {name}; name one of them, or move the one that is not meant"
                )
        self._members |= table

    def _refuse(self, archive: Path) -> None:
        raise FileFormatError(
            f"{archive}: a compressed tar cannot be read in place; unpack it, or keep it as a "
            "plain tar (gunzip) or zip"
        )

    @functools.cached_property
    def _folders(self) -> dict[str, set[str]]:
        """What lies in every folder of the archives."""
        folders: dict[str, set[str]] = {}
        for name in self._members:
            while name:
                parent, _, own = name.rpartition("/")
                if own in folders.setdefault(parent, set()):
                    break
                folders[parent].add(own)
                name = parent
        return folders


def wrong_size(place: str, wanted: tuple[int, int] | None, found: tuple[int, int] | None) -> str:
    """What to say about an image of another width and height than its labels are for."""
    sizes = ["x".join(map(str, size or ())) for size in (wanted, found)]
    return f"{place}: expected {sizes[0]} pixels, found {sizes[1]}"


def _inside(folder: Path) -> list[Path]:
    """What lies in a folder, hidden files aside; FileFormatError where it cannot be read."""
    try:
        inside = folder.iterdir()
        return [x for x in inside if not x.name.startswith(".") and x.name != MAC_EXTRAS]
    except OSError as error:
        raise FileFormatError(f"{folder}: cannot be read: {error.strerror}") from error


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - also false for a name that no file can have


def plain_name(value: Any, where: str) -> str:
    """A file name that a label file gives: text that stays inside the tree; FileFormatError."""
    parts = value.split("/") if isinstance(value, str) else []
    if not parts or value != value.strip() or any(x in ("", ".", "..") for x in parts):
        raise FileFormatError(f"{where}: expected the name of a file, found {value!r:.80}")
    return value


def read_npz(data: bytes, place: str, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The named arrays of an .npz file's bytes, pickled ones refused.

    Raises FileFormatError that names the file, and the array that is missing."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            arrays = {name: found[name] for name in names if name in found.files}
    except (*UNREADABLE, KeyError, TypeError, RuntimeError, MemoryError, SyntaxError) as error:
        raise FileFormatError(f"{place}: not a readable .npz file: {error}") from error
    missing = [name for name in names if name not in arrays]
    if missing:
        raise FileFormatError(f"{place}: the array {missing[0]!r} is missing")
    return arrays
