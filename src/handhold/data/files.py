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
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from handhold.data.archives import Place, table_of
from handhold.data.home import index_folder
from handhold.errors import FileFormatError, MissingFileError

ARCHIVES = (".zip", ".tar")
SQUEEZED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
DEEPEST = 3  # folders between the given place and the data set's own tree, at most
MAC_EXTRAS = "__MACOSX"  # folder that macOS adds to a zip
LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name
END_BYTES = 64  # of an image hold its ending
ENDS = {".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9", ".png": b"IEND"}


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
        if self.root.is_file():
            self.archives = [self.root]
        else:
            self.folder = self._tree(self.root)
            places = {self.root, self.folder or self.root}
            self.archives = sorted(
                path for place in places for path in place.iterdir() if path.suffix in ARCHIVES
            )
            squeezed = [p for p in self.root.iterdir() if p.name.endswith(SQUEEZED)]
            if squeezed and self.folder is None and not self.archives:
                self._refuse(squeezed[0])
        self._cache = index_folder(cache)
        self._members: dict[str, tuple[int, Place]] = {}  # name -> number of the archive, place
        for number, archive in enumerate(self.archives):
            self._members |= self._table(number, archive)
        if self.folder is None and not self._members:
            raise MissingFileError(
                f"{self.root}: found nothing of the official tree: expected one of "
                f"{', '.join(self.tops)} there, at most {DEEPEST} folders below, or in an archive"
            )

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises MissingFileError or FileFormatError that names it."""
        if self.folder is not None:
            path = self.folder / name
            if path.is_file():
                return path.read_bytes()
        if name not in self._members:
            raise MissingFileError(f"{self.place(name)}: there is no such file")
        archive, (offset, packed, size, method) = self._members[name]
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
        return data

    def check_end(self, name: str) -> None:
        """Raise MissingFileError, or FileFormatError for an image that is cut short; of what lies
        unpacked only the last bytes are read."""
        path = None if self.folder is None else self.folder / name
        if path is None or not path.is_file():
            check_image_end(self.read(name), name, self.place(name))
            return
        with path.open("rb") as file:
            file.seek(-min(END_BYTES, path.stat().st_size), os.SEEK_END)
            check_image_end(file.read(), name, str(path))

    def has(self, name: str) -> bool:
        """Whether the file exists."""
        return name in self._members or (self.folder is not None and (self.folder / name).is_file())

    def list(self, folder: str = "") -> list[str]:
        """Names of the files and folders directly in `folder`, sorted; [] where there is none."""
        found: set[str] = set()
        if self.folder is not None and (self.folder / folder).is_dir():
            found = set(os.listdir(self.folder / folder))  # noqa: PTH208 - names alone
        found |= self._folders.get(folder, set())
        return sorted(found)

    def place(self, name: str) -> str:
        """Where a file lies, for messages."""
        if name in self._members and not (self.folder and (self.folder / name).is_file()):
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
                except FileNotFoundError:
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
        check_image_end(data, name, self.place(name))
        found = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
        if found is None:
            raise FileFormatError(f"{self.place(name)}: expected an image OpenCV can read")
        return found

    def _tree(self, start: Path) -> Path | None:
        """The folder that holds the tree's top, the nearest to `start`."""
        level = [start]
        for _ in range(DEEPEST + 1):
            for folder in level:
                if any(self._is_top(item.name) for item in folder.iterdir()):
                    return folder
            level = sorted(item for folder in level for item in folder.iterdir() if item.is_dir())
        return None

    def _is_top(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.tops)

    def _own_names(self, members: list[str]) -> list[str | None]:
        """The members' names in the official tree: without the folders above its top. What lies
        beside a top belongs to the tree, too."""
        split = [[x for x in member.split("/") if x not in ("", ".")] for member in members]
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
        except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
            if archive.name.endswith(SQUEEZED):
                self._refuse(archive)
            raise FileFormatError(f"{archive}: not a readable archive: {error}") from error

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


def check_image_end(data: bytes, name: str, place: str) -> None:
    """Raise FileFormatError for a JPEG or PNG that is cut short: decoders fill what is missing with
    grey and say nothing."""
    ending = ENDS.get(Path(name).suffix.lower())
    if ending is not None and ending not in data[-END_BYTES:]:
        raise FileFormatError(f"{place}: the image is cut short or no {Path(name).suffix} file")


def image_size(data: bytes, name: str, place: str) -> tuple[int, int]:
    """Width and height of an image file's bytes, upright as `Files.image` gives it; only its head
    and its end are looked at. Raises FileFormatError."""
    check_image_end(data, name, place)
    try:
        with Image.open(io.BytesIO(data)) as picture:
            (width, height), turned = picture.size, picture.getexif().get(ExifTags.Base.Orientation)
    except (OSError, ValueError, SyntaxError) as error:
        raise FileFormatError(f"{place}: expected an image: {error}") from error
    return (height, width) if turned in (5, 6, 7, 8) else (width, height)


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
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise FileFormatError(f"{place}: not a readable .npz file: {error}") from error
    missing = [name for name in names if name not in arrays]
    if missing:
        raise FileFormatError(f"{place}: the array {missing[0]!r} is missing")
    return arrays
