"""A folder of photos with labels of one's own, as one of the named sets: `labels.json`, whose form
`handhold.data.photos` explains, and the images beside it.

The splits are `train` and `held_out`, divided by sequences as `photos:FOLDER` is in training, and
`all`. A damaged entry or image is named and left out; the other photos stay.
"""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.data.coco import missing_images
from handhold.data.dataset import DatasetEntry, IndexedSet, OpenOptions, Record
from handhold.data.files import Files, plain_name
from handhold.data.images import checked_size
from handhold.data.index import TEXT, Index, Part, Problem, Scan, columns_of
from handhold.data.photos import (
    LABELS_NAME,
    Holdout,
    Photo,
    focal_35mm,
    focal_camera,
    held_out,
    known_camera,
    read_photo,
)
from handhold.errors import FileFormatError, HandholdError
from handhold.fields import field, read_json
from handhold.scene import NUM_JOINTS, Camera, Hand

TOPS = (LABELS_NAME, "images")
SPLITS = ("train", "held_out", "all")


def index_photos(files: Files, options: OpenOptions) -> Index:
    """The labelled photos that are there."""
    listed = _listed(files)
    folders = sorted({name.rpartition("/")[0] for name in listed})
    scan = Scan(
        name="photos",
        version=1,
        parts=("all",),
        watched=(LABELS_NAME, *folders),
        labels=lambda: listed,
        read=read_all,
    )
    return options.index(files, scan)


def select_photos(files: Files, index: Index, split: str, options: OpenOptions) -> PhotoSet:
    """One split, in the label file's order."""
    rows = np.arange(len(index), dtype=np.int64)
    if len(index) and split != "all":
        rows = rows[np.asarray(index.columns["held_out"]) == (split == "held_out")]
    return PhotoSet("photos", split, files, index, rows, options)


class PhotoSet(IndexedSet):
    """The photos of one split, each with all its hands; there may be none. Record.extra:
    `sequence`, `source`, and `joints_centred`: each hand's `joints_3d` (21, 3), or None."""

    @property
    def hands(self) -> list[int]:
        """Labelled hands of each photo."""
        return self.index.columns["hands"][self.rows].tolist() if len(self) else []

    def hand_key(self, record: Record, place: int) -> str:
        """`<file>#<hand>`, also of a single hand."""
        return f"{record.key}#{place}"

    def image_name(self, number: int) -> str:
        return bytes(self.index.columns["name"][self.rows[number]]).decode()

    def record(self, number: int) -> Record:
        row = self.row(number)
        name = bytes(row["name"]).decode()
        hands = tuple(_hand(row, i) for i in range(int(row["hands"])))
        centred = [_known(row["centred"][i]) for i in range(len(hands))]
        return Record(
            key=name,
            image=name,
            camera=_camera(row),
            hands=hands,
            hands_complete=bool(row["complete"]),
            extra={
                "sequence": bytes(row["sequence"]).decode(),
                "source": bytes(row["source"]).decode(),
                "joints_centred": centred,
            },
        )


def _camera(row: dict[str, Any]) -> Camera:
    width, height = int(row["width"]), int(row["height"])
    given = _known(row["intrinsics"])
    if given is not None:
        return known_camera(given, width, height)
    return focal_camera(float(row["focal"]), width, height)


def _hand(row: dict[str, Any], i: int) -> Hand:
    grasping = int(row["grasping"][i])
    return Hand(
        side="left" if row["left"][i] else "right",
        box=np.array(row["box"][i]),
        joints2d=np.array(row["joints2d"][i]),
        joints2d_valid=np.array(row["valid"][i]),
        joints=_known(row["joints"][i]),
        grasping=None if grasping < 0 else bool(grasping),
    )


def _known(values: NDArray[Any]) -> NDArray[Any] | None:
    return np.array(values) if np.isfinite(values).all() else None


# ----------------------------------------------------------------------------------- reading


def _entries(files: Files) -> list[Any]:
    where = files.place(LABELS_NAME)
    entries = field(read_json(files.read(LABELS_NAME), where), "photos", where, list)
    if not entries:
        raise FileFormatError(f"{where}: photos: expected at least one, found none")
    return entries


def _listed(files: Files) -> list[str]:
    """The files that the labels name, as far as they are names."""
    named = [entry.get("file") for entry in _entries(files) if isinstance(entry, dict)]
    return [name for name in named if isinstance(name, str)]


def read_all(files: Files, _: str) -> Part:
    """All photos."""
    where = files.place(LABELS_NAME)
    times = Counter(_listed(files))
    photos: list[Photo] = []
    part = Part(columns={}, dropped={"no image": 0})
    for place, entry in enumerate(_entries(files)):
        try:
            photo = read_photo(entry, place, where)
            own = f"{where}: photos[{place}] ({photo.file})"
            plain_name(photo.file, f"{own}.file")
            if times[photo.file] > 1:
                raise FileFormatError(f"{own}.file: listed {times[photo.file]} times")
        except HandholdError as error:
            part.problems.append(Problem(file=LABELS_NAME, what=str(error)))
            continue
        photos.append(photo)
    chosen = held_out(photos, Holdout())
    room = max([1, *(len(photo.hands) for photo in photos)])
    rows: list[dict[str, Any]] = []
    lacking: list[str] = []
    for photo in photos:
        if not files.has(photo.file):
            lacking.append(photo.file)
            continue
        try:
            focal = _check_image(files, photo)
        except HandholdError as error:
            part.problems.append(Problem(file=photo.file, what=str(error)))
            continue
        rows.append(_row(photo, room) | {"focal": focal, "held_out": photo.file in chosen})
    part.dropped["no image"] = len(lacking)
    part.problems += missing_images(lacking, f"{LABELS_NAME} lists it")
    part.columns = columns_of(rows, _TYPES)
    return part


def _check_image(files: Files, photo: Photo) -> float:
    """EXIF's focal length of an image that has the labelled size."""
    data, where = files.read(photo.file), files.place(photo.file)
    width, height = checked_size(data, where)
    if (width, height) != (photo.width, photo.height):
        raise FileFormatError(
            f"{where}: {LABELS_NAME} says {photo.width}x{photo.height}, but the image is "
            f"{width}x{height}"
        )
    return focal_35mm(io.BytesIO(data))


def _row(photo: Photo, room: int) -> dict[str, Any]:
    """The labels of a photo as arrays with room for so many hands."""
    nowhere = np.full((NUM_JOINTS, 3), np.nan)
    row: dict[str, Any] = {
        "name": photo.file,
        "width": photo.width,
        "height": photo.height,
        "sequence": photo.sequence,
        "source": photo.source,
        "complete": photo.complete,
        "hands": len(photo.hands),
        "intrinsics": np.full((3, 3), np.nan) if photo.intrinsics is None else photo.intrinsics,
        "left": np.zeros(room, bool),
        "box": np.zeros((room, 4)),
        "joints2d": np.zeros((room, NUM_JOINTS, 2)),
        "valid": np.zeros((room, NUM_JOINTS), bool),
        "joints": np.full((room, NUM_JOINTS, 3), np.nan),
        "centred": np.full((room, NUM_JOINTS, 3), np.nan),
        "grasping": np.full(room, -1),
    }
    for i, (hand, centred) in enumerate(zip(photo.hands, photo.centred, strict=True)):
        row["left"][i] = hand.side == "left"
        row["box"][i], row["joints2d"][i] = hand.box, hand.joints2d
        row["valid"][i] = hand.joints2d_valid
        row["joints"][i] = nowhere if hand.joints is None else hand.joints
        row["centred"][i] = nowhere if centred is None else centred
        row["grasping"][i] = -1 if hand.grasping is None else hand.grasping
    return row


_TYPES = {
    "name": TEXT, "sequence": TEXT, "source": TEXT, "width": "u4", "height": "u4", "focal": "f8",
    "complete": "?", "held_out": "?", "hands": "u2", "intrinsics": "f8", "left": "?", "box": "f4",
    "joints2d": "f4", "valid": "?", "joints": "f4", "centred": "f4", "grasping": "i1",
}  # fmt: skip


def missing(files: Files) -> list[str]:
    """What of the labelled photos is not there."""
    lacking = sum(not files.has(name) for name in _listed(files))
    return [f"{lacking} of the images that {LABELS_NAME} lists"] if lacking else []


ENTRY = DatasetEntry(
    title=f"photos with labels of one's own ({LABELS_NAME})",
    licence="that of the photos",
    tops=TOPS,
    splits=SPLITS,
    train="all",
    test="held_out",
    index=index_photos,
    select=select_photos,
    labels=("side", "grasp"),
    published={},
    missing=missing,
)
