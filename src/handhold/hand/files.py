"""Hand models in files: MANO's own pickle, the official zip, and npz. Nothing is executed.

The schema is MANO's (Romero, Tzionas, Black, SIGGRAPH Asia 2017): 778 vertices, 16 joints, 10
shape and 135 pose directions, 45 PCA components.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.hand.convention import PARENTS_MANO
from handhold.hand.foreign_pickle import MAX_BYTES, read_foreign_pickle
from handhold.scene import Side

MANO_VARIABLE = "HANDHOLD_MANO"
FREE_HAND = Path(__file__).parent / "assets" / "free_hand.npz"

SHAPES: dict[str, tuple[int | None, ...]] = {
    "v_template": (778, 3),
    "shapedirs": (778, 3, 10),
    "posedirs": (778, 3, 135),
    "J_regressor": (16, 778),
    "weights": (778, 16),
    "kintree_table": (2, 16),
    "hands_components": (45, 45),
    "hands_mean": (45,),
    "f": (None, 3),
}
_SUBFOLDERS = ("", "models", "mano", "mano_v1_2/models", "mano_v1_2")


@dataclass(frozen=True, kw_only=True)
class HandArrays:
    """A hand model's numbers, float32 (faces int64), metres.

    v_template (778, 3), shapedirs (778, 3, 10), posedirs (778, 3, 135), J_regressor (16, 778),
    weights (778, 16), hands_components (45, 45) whose rows are components, hands_mean (45,), faces
    (F, 3). extras: further numeric arrays of an npz file, as stored. Raises FileFormatError, naming
    `source` and the field, for missing fields, wrong shapes, numbers that are not finite, vertex
    ids out of range and another joint tree than MANO's.
    """

    source: str
    v_template: NDArray[np.float32]
    shapedirs: NDArray[np.float32]
    posedirs: NDArray[np.float32]
    J_regressor: NDArray[np.float32]
    weights: NDArray[np.float32]
    hands_components: NDArray[np.float32]
    hands_mean: NDArray[np.float32]
    faces: NDArray[np.int64]
    extras: Mapping[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])


def _build(source: str, fields: Mapping[str, Any]) -> HandArrays:
    """Check the schema of `fields` and convert."""
    checked: dict[str, NDArray[Any]] = {}
    for name, shape in SHAPES.items():
        if name not in fields:
            raise FileFormatError(f"{source}: field {name} is missing; is this a MANO file?")
        value = np.asarray(fields[name])
        if value.dtype.kind not in "fiu":
            raise FileFormatError(f"{source}: {name}: expected numbers, found {value.dtype}")
        if value.ndim != len(shape) or any(
            want not in (None, got) for want, got in zip(shape, value.shape, strict=True)
        ):
            raise FileFormatError(f"{source}: {name}: expected {shape}, found {value.shape}")
        if not np.isfinite(value).all():
            raise FileFormatError(f"{source}: {name}: holds NaN or infinite numbers")
        checked[name] = value
    faces = checked.pop("f").astype(np.int64)
    if faces.size == 0 or faces.min() < 0 or faces.max() >= 778:
        raise FileFormatError(f"{source}: f: expected vertex ids 0..777")
    parents = checked.pop("kintree_table")[0].astype(np.int64)
    if tuple(parents[1:].tolist()) != PARENTS_MANO[1:]:
        raise FileFormatError(
            f"{source}: kintree_table: expected the parents {PARENTS_MANO},"
            f" found {parents.tolist()}"
        )
    style = fields.get("bs_type", "lrotmin")
    if isinstance(style, str) and style != "lrotmin":
        raise FileFormatError(f"{source}: bs_type: expected 'lrotmin', found {style!r}")
    numbers = {name: np.ascontiguousarray(value, np.float32) for name, value in checked.items()}
    extras = {
        name: value
        for name, value in fields.items()
        if name not in SHAPES and isinstance(value, np.ndarray)
    }
    return HandArrays(source=source, faces=faces, extras=extras, **numbers)


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_BYTES:
            raise FileFormatError(f"{path}: unpacks to {size} bytes, expected at most {MAX_BYTES}")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileFormatError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds on damaged files
        reason = f"{type(error).__name__}: {error}"
        raise FileFormatError(f"{path}: not a readable npz of plain arrays ({reason})") from None


def _read_zip(path: Path, side: Side) -> tuple[str, bytes]:
    """Name and bytes of MANO_<SIDE>.pkl inside a zip."""
    wanted = f"MANO_{side.upper()}.pkl"
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [e for e in archive.infolist() if e.filename.split("/")[-1] == wanted]
            if not entries:
                raise FileFormatError(f"{path}: no {wanted} inside; expected mano_v1_2.zip")
            entry = min(entries, key=lambda e: len(e.filename))
            if entry.file_size > MAX_BYTES:
                raise FileFormatError(f"{path}: {entry.filename} is larger than {MAX_BYTES} bytes")
            with archive.open(entry) as stream:
                return f"{path}/{entry.filename}", stream.read(MAX_BYTES + 1)
    except FileFormatError:
        raise
    except Exception as error:  # zipfile raises many kinds on damaged files
        reason = f"{type(error).__name__}: {error}"
        raise FileFormatError(f"{path}: not a readable zip ({reason})") from None


def side_of_name(path: Path) -> Side | None:
    """The side that a file's name tells, or None."""
    name = path.name.lower()
    left, right = "left" in name, "right" in name
    return None if left == right else ("left" if left else "right")


def read_hand(path: Path | str, side: Side | None = None) -> HandArrays:
    """Read a hand model from MANO_RIGHT.pkl / MANO_LEFT.pkl, the official zip, or an npz.

    side: needed for a zip, which holds both. Raises MissingFileError when there is no such file,
    InputError for a zip without a side, FileFormatError when the file does not hold a hand model.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such hand model file")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _build(str(path), _read_npz(path))
    if suffix == ".zip":
        if side is None:
            raise InputError(f"{path}: holds both hands; say side='right' or side='left'")
        source, data = _read_zip(path, side)
    elif suffix == ".pkl":
        if path.stat().st_size > MAX_BYTES:
            raise FileFormatError(f"{path}: larger than {MAX_BYTES} bytes, not a MANO file")
        source, data = str(path), path.read_bytes()
    else:
        raise FileFormatError(f"{path}: expected a .pkl, .zip or .npz file, found {suffix!r}")
    fields = read_foreign_pickle(data, source)
    if not isinstance(fields, dict):
        raise FileFormatError(f"{source}: expected a dictionary, found {type(fields).__name__}")
    return _build(source, {str(name): value for name, value in fields.items()})


def find_mano(folder: Path | str | None, side: Side) -> Path:
    """The file that holds MANO's `side` hand.

    folder: a folder (searched for MANO_RIGHT.pkl and the like, also in models/, mano/ and
    mano_v1_2/models/, then for npz files and mano_v*.zip), or the file itself; None reads the
    environment variable HANDHOLD_MANO. Raises MissingFileError with the names looked for.
    """
    if folder is None:
        folder = os.environ.get(MANO_VARIABLE) or None
    if folder is None:
        raise MissingFileError(
            f"no folder with MANO files: give one, or set {MANO_VARIABLE}"
            " (the files come from https://mano.is.tue.mpg.de under their own licence)"
        )
    root = Path(folder).expanduser()
    if root.is_file():
        found = side_of_name(root)
        if found is not None and found != side and root.suffix.lower() != ".zip":
            sibling = root.with_name(_other_name(root.name, found))
            if sibling.is_file():
                return sibling
            raise MissingFileError(f"{root}: holds the {found} hand, and {sibling} does not exist")
        return root
    names = (f"mano_{side}.pkl", f"mano_{side}.npz")
    for name in names:
        for place in _SUBFOLDERS:
            for entry in _entries(root / place):
                if entry.name.lower() == name:
                    return entry
    for entry in _entries(root):
        lower = entry.name.lower()
        if lower.startswith("mano") and lower.endswith(".zip"):
            return entry
    wanted = f"MANO_{side.upper()}.pkl, MANO_{side.upper()}.npz or mano_v1_2.zip"
    raise MissingFileError(f"{root}: expected {wanted} there or in {', '.join(_SUBFOLDERS[1:])}")


def _entries(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []


def _other_name(name: str, side: Side) -> str:
    other = "left" if side == "right" else "right"
    for old, new in ((side, other), (side.upper(), other.upper()), (side.title(), other.title())):
        if old in name:
            return name.replace(old, new)
    return name
