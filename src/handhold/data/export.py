"""The labels of a split in one file, in the canonical convention."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.atomic import replacing
from handhold.data.dataset import IndexedSet, Record
from handhold.errors import HandholdError, InputError
from handhold.scene import Hand

# shape after N, and kind, of every array of numbers
ARRAYS: dict[str, tuple[tuple[int, ...], str]] = {
    "joints": ((21, 3), "f4"),
    "vertices": ((778, 3), "f4"),
    "intrinsics": ((3, 3), "f8"),
    "joints2d": ((21, 2), "f4"),
    "hand_box": ((4,), "f4"),
    "object_pose": ((4, 4), "f8"),
    "grasping_10mm": ((), "f4"),
    "grasping_50mm": ((), "f4"),
    "mano_pose": ((16, 3), "f4"),
    "betas": ((10,), "f4"),
}
TEXTS = ("key", "side", "object_name")
KNOWN = ("dataset", "synthetic", "given")  # sources of intrinsics that are not guessed
STEP = 100  # samples between two steps of the bar


def export_labels(
    samples: IndexedSet,
    out: str | Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the labels of every hand of a split; returns how many rows there are.

    One row a hand, in the set's order; a sample with several gives the keys KEY#0, KEY#1, ...
    (`photos` always do). The arrays of N rows: `key`, `side`, `object_name` (texts, "" where there
    is none) and those of ARRAYS, NaN where there is nothing: `joints`, `vertices` metres in the
    camera frame (OpenCV), `intrinsics` (where the set says them), `joints2d` (NaN for joints
    without a position) and `hand_box` (x0, y0, x1, y1) pixels, `object_pose` object to camera,
    `grasping_10mm`, `grasping_50mm` 0 or 1, `mano_pose` axis-angle in the flat convention, `betas`.
    No image is read. The file is written under a temporary name and moved. Raises InputError for a
    folder that is not there.
    """
    out = Path(out)
    if out.suffix != ".npz":
        raise InputError(f"{out}: expected a name that ends in .npz")
    if not out.parent.is_dir():
        raise InputError(f"{out.parent}: there is no such folder")
    counts = samples.hands
    total = sum(counts)
    texts: dict[str, list[str]] = {name: [] for name in TEXTS}
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        tables = {
            name: np.lib.format.open_memmap(  # on disk: all meshes of a set fill a memory
                Path(folder, f"{name}.npy"), mode="w+", dtype=kind, shape=(total, *shape)
            )
            for name, (shape, kind) in ARRAYS.items()
        }
        row = 0
        for number in range(len(samples)):
            record = samples.record(number)
            if len(record.hands) != counts[number]:
                raise HandholdError(
                    f"{samples.name}, {record.key}: {len(record.hands)} hands, the index says "
                    f"{counts[number]}"
                )
            for place, hand in enumerate(record.hands):
                texts["key"].append(samples.hand_key(record, place))
                texts["side"].append(hand.side or "")
                texts["object_name"].append((record.object and record.object.name) or "")
                for name, value in _row(record, hand).items():
                    tables[name][row] = np.nan if value is None else value
                row += 1
            if progress is not None and (number % STEP == 0 or number + 1 == len(samples)):
                progress(number + 1, len(samples))
        for table in tables.values():
            table.flush()
        tables.clear()
        for name, values in texts.items():
            np.save(Path(folder, f"{name}.npy"), np.array(values, np.str_), allow_pickle=False)
        with (
            replacing(out) as unfinished,
            zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
        ):
            for name in (*TEXTS, *ARRAYS):
                packed.write(Path(folder, f"{name}.npy"), f"{name}.npy")
    return row


def _row(record: Record, hand: Hand) -> dict[str, Any]:
    joints2d: NDArray[Any] | None = None
    if hand.joints2d is not None:
        joints2d = np.array(hand.joints2d, np.float64)
        if hand.joints2d_valid is not None:
            joints2d[~hand.joints2d_valid] = np.nan
    own = record.exported
    if joints2d is None and "joints2d" in own:
        joints2d = own["joints2d"]
    pose: NDArray[Any] | None = None
    if record.object is not None:
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = record.object.rotation, record.object.translation
    return {
        "joints": own.get("joints") if hand.joints is None else hand.joints,
        "vertices": own.get("vertices") if hand.vertices is None else hand.vertices,
        "intrinsics": record.camera.intrinsics if record.camera.source in KNOWN else None,
        "joints2d": joints2d,
        "hand_box": hand.box,
        "object_pose": pose,
        "grasping_10mm": record.grasping_10mm,
        "grasping_50mm": record.grasping_50mm,
        "mano_pose": own.get("pose") if hand.pose is None else hand.pose,
        "betas": own.get("betas") if hand.betas is None else hand.betas,
    }
