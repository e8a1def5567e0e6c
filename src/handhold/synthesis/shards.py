"""Samples on disk: tar files in webdataset's layout, exact labels, random access.

One sample is a group of tar members that share a running number:
`00000012.jpg` (image), `.bare.jpg` (the scene without its object), `.json` (names, flags, camera
size; of made photos `scene.Provenance`), `.labels.safetensors` (every array of the labels, bit
exact in its own dtype), `.hand_mask.png`, `.hand_mask_amodal.png`, `.object_mask.png` (1 bit),
`.depth.png` (16 bit, millimetres), `.texture_map.png`, `.normal_map.png` (HandBooster's
conditions). The same samples always give the same bytes, a shard appears under its name only when
it is complete, and complete shards are kept when the writing is started again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from handhold.atomic import remove_unfinished, replacing, write_text
from handhold.errors import FileFormatError, InputError, MissingFileError, WriteError
from handhold.scene import Camera, Hand, Provenance, RigidObject, Sample

FORMAT = 1
INDEX_NAME = "index.json"
MASKS = ("hand_mask", "hand_mask_amodal", "object_mask")
MAPS = ("texture_map", "normal_map")
OPTIONAL = ("bare_image", *MASKS, "depth", *MAPS)  # what a reader may skip
MEMBERS = {
    "image": "jpg",
    "bare_image": "bare.jpg",
    "info": "json",
    "labels": "labels.safetensors",
    "hand_mask": "hand_mask.png",
    "hand_mask_amodal": "hand_mask_amodal.png",
    "object_mask": "object_mask.png",
    "depth": "depth.png",
    "texture_map": "texture_map.png",
    "normal_map": "normal_map.png",
}
_KIND_OF = {suffix: kind for kind, suffix in MEMBERS.items()}
MAX_DEPTH_MM = np.iinfo(np.uint16).max

Place: TypeAlias = tuple[int, int]  # offset, size in bytes within the shard


# ---- one sample <-> its members ----


def _split(owner: Any, prefix: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """The plain fields of a dataclass; its arrays go into `arrays` as prefix.field."""
    plain: dict[str, Any] = {}
    for item in dataclasses.fields(owner):
        value = getattr(owner, item.name)
        if isinstance(value, np.ndarray):
            arrays[f"{prefix}.{item.name}"] = np.ascontiguousarray(value)
        elif value is not None:
            plain[item.name] = value.item() if isinstance(value, np.generic) else value
    return plain


def _join(prefix: str, plain: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    start = f"{prefix}."
    return plain | {
        name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)
    }


def _encoded(extension: str, image: NDArray[Any], options: Sequence[int], key: str) -> bytes:
    done, data = cv2.imencode(extension, image, list(options))
    if not done:
        raise InputError(f"sample {key}: its {image.shape} image could not be encoded")
    return data.tobytes()


def encode_sample(sample: Sample, *, quality: int = 94, depth: bool = True) -> dict[str, bytes]:
    """The members of a sample, by kind (keys of MEMBERS).

    quality: of both JPEGs. Arrays of the labels keep dtype and bits; depth is rounded to
    millimetres (0 = none). Raises InputError for depths over 65.535 m and for unencodable images.
    """
    arrays: dict[str, NDArray[Any]] = {}
    info = {
        "key": sample.key,
        "hands_complete": sample.hands_complete,
        "camera": _split(sample.camera, "camera", arrays),
        "hands": [_split(hand, f"hands.{i}", arrays) for i, hand in enumerate(sample.hands)],
        "object": None if sample.object is None else _split(sample.object, "object", arrays),
    }
    if sample.provenance is not None:
        info["provenance"] = dataclasses.asdict(sample.provenance)
    members = {"info": json.dumps(info, sort_keys=True).encode()}
    members["labels"] = safetensors.numpy.save(dict(sorted(arrays.items())))
    jpeg = (cv2.IMWRITE_JPEG_QUALITY, quality)
    for kind in ("image", "bare_image"):
        if (image := getattr(sample, kind)) is not None:
            members[kind] = _encoded(".jpg", image[..., ::-1], jpeg, sample.key)
    for kind in MASKS:
        if (mask := getattr(sample, kind)) is not None:
            picture = mask.astype(np.uint8) * 255
            members[kind] = _encoded(".png", picture, (cv2.IMWRITE_PNG_BILEVEL, 1), sample.key)
    for kind in MAPS:
        if (picture := getattr(sample, kind)) is not None:
            members[kind] = _encoded(".png", picture[..., ::-1], (), sample.key)
    if depth and sample.depth is not None:
        millimetres = np.rint(np.asarray(sample.depth, dtype=np.float64) * 1000)
        if millimetres.min() < 0 or millimetres.max() > MAX_DEPTH_MM:
            raise InputError(
                f"sample {sample.key}: depth must lie in 0..{MAX_DEPTH_MM / 1000} m, "
                f"found {sample.depth.min()} to {sample.depth.max()}"
            )
        members["depth"] = _encoded(".png", millimetres.astype(np.uint16), (), sample.key)
    return members


def _decoded(data: bytes, flags: int, where: str) -> NDArray[Any]:
    image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    if image is None:
        raise FileFormatError(f"{where}: expected an image OpenCV can decode")
    return image


def decode_sample(members: dict[str, bytes], where: str = "sample") -> Sample:
    """The sample of its members; `where` names the place in errors (FileFormatError)."""
    for kind in ("info", "labels", "image"):
        if kind not in members:
            raise FileFormatError(f"{where}: the member .{MEMBERS[kind]} is missing")
    try:
        info = json.loads(members["info"])
        arrays = safetensors.numpy.load(members["labels"])
        fields: dict[str, Any] = {
            "key": info["key"],
            "hands_complete": info["hands_complete"],
            "camera": Camera(**_join("camera", info["camera"], arrays)),
            "hands": tuple(
                Hand(**_join(f"hands.{i}", plain, arrays)) for i, plain in enumerate(info["hands"])
            ),
        }
        if info["object"] is not None:
            fields["object"] = RigidObject(**_join("object", info["object"], arrays))
        if "provenance" in info:
            fields["provenance"] = Provenance(**info["provenance"])
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise FileFormatError(f"{where}: labels cannot be read: {error}") from error
    for kind in ("image", "bare_image", *MAPS):
        if kind in members:
            fields[kind] = _decoded(members[kind], cv2.IMREAD_COLOR_RGB, f"{where}.{kind}")
    for kind in MASKS:
        if kind in members:
            fields[kind] = _decoded(members[kind], cv2.IMREAD_GRAYSCALE, f"{where}.{kind}") > 0
    if "depth" in members:
        raw = _decoded(members["depth"], cv2.IMREAD_UNCHANGED, f"{where}.depth")
        fields["depth"] = raw.astype(np.float32) / np.float32(1000)
    return Sample(**fields)


# ---- the index ----


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """What one shard holds: its size in bytes and, for each sample, hands and member places."""

    bytes: int
    hands: list[int]
    members: list[dict[str, Place]]


def scan_shard(path: Path) -> ShardIndex:
    """The index of a tar file, read from its headers (and the json members, for the hands).

    Raises FileFormatError when it is no tar file or a member belongs to no sample.
    """
    groups: dict[str, dict[str, Place]] = {}
    hands: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                number, _, suffix = member.name.partition(".")
                if suffix not in _KIND_OF:
                    raise FileFormatError(f"{path}: unexpected member {member.name}")
                kind = _KIND_OF[suffix]
                groups.setdefault(number, {})[kind] = (member.offset_data, member.size)
                if kind == "info" and (stream := archive.extractfile(member)) is not None:
                    hands[number] = len(json.loads(stream.read())["hands"])
    except (tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path}: not a shard of samples: {error}") from error
    return ShardIndex(
        bytes=path.stat().st_size,
        hands=[hands.get(number, 0) for number in groups],
        members=list(groups.values()),
    )


def _read_index(folder: Path) -> dict[str, ShardIndex]:
    """The cached index of a folder; empty when there is none or it is of another format."""
    try:
        return parse_index((folder / INDEX_NAME).read_bytes())
    except OSError:
        return {}


def parse_index(data: bytes) -> dict[str, ShardIndex]:
    """The index of an index file's bytes, by shard; empty when it is of another format."""
    try:
        raw = json.loads(data)
        if raw["format"] != FORMAT:
            return {}
        return {
            name: ShardIndex(bytes=shard["bytes"], hands=shard["hands"], members=shard["members"])
            for name, shard in raw["shards"].items()
        }
    except (ValueError, KeyError, TypeError):
        return {}


def _write_index(folder: Path, shards: dict[str, ShardIndex]) -> None:
    document = {
        "format": FORMAT,
        "samples": sum(len(shard.members) for shard in shards.values()),
        "hands": sum(sum(shard.hands) for shard in shards.values()),
        "shards": {name: dataclasses.asdict(shards[name]) for name in sorted(shards)},
    }
    write_text(folder / INDEX_NAME, json.dumps(document, separators=(",", ":")))


def _indexed(files: Sequence[Path]) -> dict[Path, ShardIndex]:
    """The index of each file, from the cached index where it is still right."""
    caches = {folder: _read_index(folder) for folder in {file.parent for file in files}}
    result: dict[Path, ShardIndex] = {}
    stale: set[Path] = set()
    for file in files:
        known = caches[file.parent].get(file.name)
        if known is None or known.bytes != file.stat().st_size:
            known = caches[file.parent][file.name] = scan_shard(file)
            stale.add(file.parent)
        result[file] = known
    for folder in stale:
        if os.access(folder, os.W_OK):
            there = {name: x for name, x in caches[folder].items() if (folder / name).exists()}
            with contextlib.suppress(WriteError):  # a full disk does not hinder reading
                _write_index(folder, there)
    return result


# ---- writing ----


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)  # its defaults (mtime 0, no owner) keep the bytes repeatable
    header.size = len(data)
    archive.addfile(header, io.BytesIO(data))


def write_shards(
    samples: Iterable[Sample],
    folder: str | Path,
    shard_size: int = 1000,
    start: int = 0,
    *,
    quality: int = 94,
    depth: bool = True,
) -> list[Path]:
    """Write samples as `shard-NNNNNN.tar` of `shard_size` samples each; return the new files.

    samples: those from number `start` on; a shard that is on disk is kept, and its samples are
    drawn and dropped. Where drawing is slow, begin at `start = next_sample(folder, shard_size)`.
    start: a multiple of shard_size; so several processes can each fill their own range of one
    folder. Only the last shard of a run may hold fewer samples.
    Raises InputError for a wrong start or size.
    """
    if shard_size < 1 or start < 0 or start % shard_size:
        raise InputError(
            "write_shards: start must be a multiple of shard_size >= 1, "
            f"found {start} and {shard_size}"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stream = iter(samples)
    written: list[Path] = []
    for first in itertools.count(start, shard_size):
        block = itertools.islice(stream, shard_size)
        path = shard_path(folder, first // shard_size)
        if path.exists():
            if sum(1 for _ in block) < shard_size:
                return written
            continue
        encoded = (encode_sample(sample, quality=quality, depth=depth) for sample in block)
        count = write_members(encoded, path, first)
        if count:
            written.append(path)
        if count < shard_size:
            return written
    return written


def write_members(samples: Iterable[dict[str, bytes]], path: Path, first: int = 0) -> int:
    """Write one shard of samples that are encoded already (`encode_sample`), numbered from `first`
    on, and add it to its folder's index; no file where there are no samples. Their count."""
    stream = iter(samples)
    start = next(stream, None)
    if start is None:
        return 0
    count = 0
    remove_unfinished(path)
    with (
        replacing(path) as unfinished,
        tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for count, members in enumerate(itertools.chain([start], stream), 1):
            for kind, suffix in MEMBERS.items():
                if kind in members:
                    _add(archive, f"{first + count - 1:08d}.{suffix}", members[kind])
    shards = _read_index(path.parent)
    shards[path.name] = scan_shard(path)
    _write_index(path.parent, shards)
    return count


def shard_path(folder: str | Path, number: int) -> Path:
    """The file of shard `number`."""
    return Path(folder) / f"shard-{number:06d}.tar"


def next_sample(folder: str | Path, shard_size: int = 1000, start: int = 0) -> int:
    """The number of the first sample at or after `start` whose shard is not on disk yet."""
    number = start // shard_size
    while shard_path(folder, number).exists():
        number += 1
    return number * shard_size


# ---- reading ----


def shard_files(where: str | Path | Sequence[str | Path]) -> list[Path]:
    """The tar files of a folder, a pattern (`folder/shard-0*.tar`, `folder/shard-{000..123}.tar`),
    a file, or a list of these.

    Raises MissingFileError when there is none, or not one of those that braces name; InputError for
    an address (https: and the like), which can only be streamed.
    """
    if isinstance(where, Sequence) and not isinstance(where, str):
        return [file for item in where for file in shard_files(item)]
    if re.match(r"[a-z][a-z0-9+.-]+:", str(where)):
        raise InputError(f"{where}: shards at an address can be trained on; here, give files")
    path = Path(where)
    if path.is_dir():
        # unfinished ones of a run that was killed begin with a dot
        files = sorted(file for file in path.glob("*.tar") if not file.name.startswith("."))
    elif path.is_file():
        files = [path]
    elif "{" in str(where):
        from handhold.synthesis.shard_stream import expand

        files = [file for name in expand(str(where)) for file in shard_files(name)]
    else:
        files = sorted(path.parent.glob(path.name))
    if not files:
        raise MissingFileError(f"{where}: no shards (*.tar) found")
    return files


class ShardDataset:
    """Random access to the samples of shards: `len(set)`, `set[i] -> Sample`.

    where: as in `shard_files`. skip: members not to decode (of OPTIONAL), for speed. Opening uses
    the cached `index.json` and rescans only shards it does not know. Safe to use from worker
    processes and threads. hands: number of hands of each sample.
    """

    def __init__(
        self, where: str | Path | Sequence[str | Path], *, skip: Iterable[str] = ()
    ) -> None:
        self.skip = frozenset(skip)
        if wrong := self.skip - set(OPTIONAL):
            raise InputError(f"ShardDataset: cannot skip {sorted(wrong)}, only {OPTIONAL}")
        self.files = shard_files(where)
        index = _indexed(self.files)
        counts = [len(index[file].members) for file in self.files]
        self._ends = np.cumsum(counts)
        self._places = [place for file in self.files for place in index[file].members]
        self.hands: list[int] = [n for file in self.files for n in index[file].hands]
        self._open: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Sample:
        where, members = self.members(number)
        return decode_sample(members, where)

    def members(self, number: int) -> tuple[str, dict[str, bytes]]:
        """A sample as it is stored, without what is skipped, and its place in words."""
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        file = int(np.searchsorted(self._ends, number, side="right"))
        descriptor = self._descriptor(file)
        members: dict[str, bytes] = {}
        where = f"{self.files[file]}, sample {number}"
        for kind, (offset, size) in self._places[number].items():
            if kind in self.skip:
                continue
            members[kind] = os.pread(descriptor, size, offset)
            if len(members[kind]) != size:
                raise FileFormatError(f"{where}: the file ends inside .{MEMBERS[kind]}")
        return where, members

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def _descriptor(self, file: int) -> int:
        if file not in self._open:
            self._open[file] = os.open(self.files[file], os.O_RDONLY)
        return self._open[file]

    def close(self) -> None:
        """Close the files; they open again when needed."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}


def read_shards(
    where: str | Path | Sequence[str | Path], *, skip: Iterable[str] = ()
) -> Iterator[Sample]:
    """The samples of a folder, glob pattern, file or list of these, in order."""
    return iter(ShardDataset(where, skip=skip))
