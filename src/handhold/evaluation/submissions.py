"""The files that the evaluation servers of HO3D and FreiHAND take: written, and checked as the
servers check them.

A submission is a zip that holds one `pred.json` without a folder: [joints, vertices], each with an
entry a sample in the order of the official list: 21 and 778 points in metres in the camera frame.
FreiHAND: OpenCV's camera, canonical order. HO3D: OpenGL's camera, HO3D's order, the hand moved to
the wrist that the evaluation's files give.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from handhold.atomic import replacing
from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.hand.convention import OPENGL_OPENCV, SKELETON, reorder
from handhold.scene import NUM_JOINTS, NUM_VERTICES

Array = NDArray[np.floating[Any]]
MEMBER = "pred.json"
DECIMALS = 6  # of metres
LARGEST = 1.0  # metres between two points of one hand; more is another unit


@dataclass(frozen=True, kw_only=True)
class Server:
    """dataset, split: whose samples it asks for; count: how many; convention: of its files."""

    dataset: str
    split: str
    count: int
    convention: Literal["ho3d", "freihand"]


SERVERS = {
    "ho3d-v2": Server(dataset="ho3d-v2", split="evaluation", count=11_524, convention="ho3d"),
    "ho3d-v3": Server(dataset="ho3d-v3", split="evaluation", count=20_137, convention="ho3d"),
    "freihand": Server(dataset="freihand", split="evaluation", count=3_960, convention="freihand"),
}


def server(name: str) -> Server:
    """The server of that name; raises InputError that lists those there are."""
    if name not in SERVERS:
        raise InputError(f"server: found {name!r}, expected one of {', '.join(SERVERS)}")
    return SERVERS[name]


def as_server(
    chosen: Server, joints: Array, vertices: Array, wrists: Array | None = None
) -> tuple[Array, Array]:
    """Hands in the server's convention: joints (N, 21, 3) and vertices (N, 778, 3).

    joints (canonical order) and vertices: metres, OpenCV's camera. wrists (N, 3): given ones, to
    which hands are moved (HO3D). Raises InputError for other shapes and where wrists are missing.
    """
    joints, vertices = np.asarray(joints), np.asarray(vertices)
    for name, points, size in (
        ("joints", joints, NUM_JOINTS),
        ("vertices", vertices, NUM_VERTICES),
    ):
        if points.shape != (len(joints), size, 3):
            raise InputError(f"{name}: expected ({len(joints)}, {size}, 3), found {points.shape}")
    if chosen.convention == "freihand":
        return joints, vertices
    given = np.zeros(0) if wrists is None else np.asarray(wrists)
    if given.shape != (len(joints), 3):
        raise InputError(f"wrists: expected ({len(joints)}, 3), found {given.shape}")
    shift = (given - joints[:, 0])[:, None]
    turned = np.asarray(OPENGL_OPENCV)
    return reorder((joints + shift) * turned, "canonical", "ho3d"), (vertices + shift) * turned


def write_submission(
    path: str | Path,
    chosen: Server,
    joints: Array,
    vertices: Array,
    wrists: Array | None = None,
) -> None:
    """Write a submission of hands in our convention (`as_server`), under a temporary name first."""
    path = Path(path)
    ours = as_server(chosen, joints, vertices, wrists)
    with (
        replacing(path) as unfinished,
        zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
        packed.open(MEMBER, "w", force_zip64=True) as file,
    ):
        file.write(b"[")
        _write_list(file, ours[0])
        file.write(b", ")
        _write_list(file, ours[1])
        file.write(b"]")


def _write_list(file: IO[bytes], hands: Array) -> None:
    file.write(b"[")
    for number, points in enumerate(hands):
        rounded = np.round(np.asarray(points, np.float64), DECIMALS)
        file.write((", " if number else "").encode() + json.dumps(rounded.tolist()).encode())
    file.write(b"]")


def check_submission(path: str | Path, chosen: Server, count: int | None = None) -> list[str]:
    """Check a submission as the server would; returns what the server takes but is likely wrong.

    count: entries expected, default the server's. Raises MissingFileError, or FileFormatError for
    another container, counts, shapes, numbers that are not finite, another unit than metres, and
    (HO3D) hands behind OpenGL's camera.
    """
    path = Path(path)
    joints, vertices = _read(path)
    expected = chosen.count if count is None else count
    lists = (("joints", joints, NUM_JOINTS), ("vertices", vertices, NUM_VERTICES))
    for name, hands, _ in lists:
        if not isinstance(hands, list) or len(hands) != expected:
            found = len(hands) if isinstance(hands, list) else type(hands).__name__
            raise FileFormatError(f"{path}: {name}: expected {expected} entries, found {found}")
    for name, hands, size in lists:
        for number, points in _numbers(hands, size, f"{path}: {name}"):
            if np.ptp(points, axis=0).max() > LARGEST:
                raise FileFormatError(
                    f"{path}: {name}[{number}]: {np.ptp(points, axis=0).max():.3g} from end to "
                    "end: expected metres"
                )
            if chosen.convention == "ho3d" and (points[:, 2] > 0).all():
                raise FileFormatError(
                    f"{path}: {name}[{number}]: every z is positive: expected OpenGL's camera "
                    "(x right, y up, hands at negative z)"
                )
    return _suspicions(chosen, np.asarray(joints, np.float64))


def _read(path: Path) -> tuple[Any, Any]:
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as packed:
            names = packed.namelist()
            if names != [MEMBER]:
                raise FileFormatError(f"{path}: expected {MEMBER} alone, found {names[:5]}")
            found = json.loads(packed.read(MEMBER))
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"{path}: not a zip with JSON: {error}") from error
    if not isinstance(found, list) or len(found) != 2:
        raise FileFormatError(f"{path}: expected [joints, vertices]")
    return found[0], found[1]


def _numbers(hands: list[Any], size: int, where: str) -> Iterator[tuple[int, Array]]:
    for number, entry in enumerate(hands):
        try:
            points = np.asarray(entry, np.float64)
        except (TypeError, ValueError) as error:
            raise FileFormatError(f"{where}[{number}]: expected numbers: {error}") from error
        if points.shape != (size, 3):
            raise FileFormatError(
                f"{where}[{number}]: expected {size} x 3 numbers, found shape {points.shape}"
            )
        if not np.isfinite(points).all():
            raise FileFormatError(f"{where}[{number}]: holds NaN or infinite numbers")
        yield number, points


def _suspicions(chosen: Server, joints: Array) -> list[str]:
    """Joints in another order make longer bones; a hand whose points are one point was missed."""
    told = []
    flat = int((np.ptp(joints, axis=1).max(axis=-1) == 0).sum())
    if flat:
        told.append(f"{flat} of {len(joints)} hands are one point each")
    orders = {name: _bones(reorder(joints, name, "canonical")) for name in ("freihand", "ho3d")}
    shorter = min(orders, key=lambda name: orders[name])
    if orders[shorter] < 0.8 * orders[chosen.convention]:
        told.append(f"the joints look as if they were in the order of {shorter}")
    return told


def _bones(joints: Array) -> float:
    """Mean length of a hand's bones together."""
    ends = np.array(SKELETON)
    gaps = joints[:, ends[:, 0]] - joints[:, ends[:, 1]]
    return float(np.linalg.norm(gaps, axis=-1).sum(-1).mean())
