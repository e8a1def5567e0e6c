"""Real photographs with 2D labels: a folder of images and one `labels.json`.

labels.json: {"photos": [{"file", "width", "height", "sequence", "complete", "hands": [...]}]}; a
hand has "side" (left or right, as the picture shows it), "joints_2d" (21 x [x, y] pixels, canonical
order), "visible" (21 flags; 0: the position means nothing), "box" ([x0, y0, x1, y1], tight around
the labelled joints) and "holding" (true, false or null: cannot tell). "source" and "source_file"
are optional. "complete" null or absent means that an unlabelled hand may be visible.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.fields import field, numbers, read_json
from handhold.geometry.camera import intrinsics_from_35mm, intrinsics_from_fov
from handhold.scene import NUM_JOINTS, Camera, Hand, Sample

LABELS_NAME = "labels.json"
DEFAULT_FOV_DEG = 60.0  # across the diagonal: an ordinary phone or webcam
Part = Literal["all", "train", "held_out"]


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """Which photos are held out, whoever asks.

    fraction: wanted share of each source's photos; `seed` picks among the sequences by hash. A
    sequence (one session or scene) is never divided, except one with more than `large` photos: it
    is cut into `blocks` runs of neighbouring photos in the source's own order, which keeps a
    person's photos together.
    """

    fraction: float = 0.1
    seed: int = 0
    blocks: int = 8
    large: int = 500

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1 or self.blocks < 2 or self.large < 1:
            raise InputError(
                "Holdout: expected 0 < fraction < 1, blocks >= 2 and large >= 1, found "
                f"{self.fraction}, {self.blocks}, {self.large}"
            )


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One entry of labels.json. number: its place in the source's own order."""

    file: str
    width: int
    height: int
    sequence: str
    source: str
    number: int
    complete: bool
    hands: tuple[Hand, ...]


class PhotoFolder:
    """The photos of a folder as Samples: `len(folder)`, `folder[i] -> Sample`.

    root: holds labels.json and the images. part: "train" or "held_out" by `holdout`, or "all".
    All labels and the presence of every image are checked on opening; raises FileFormatError
    naming photo and field, or MissingFileError. hands: number of hands of each photo.
    """

    def __init__(
        self, root: str | Path, part: Part = "all", *, holdout: Holdout | None = None
    ) -> None:
        self.root = Path(root)
        photos = read_labels(self.root / LABELS_NAME)
        _check_images(self.root, photos)
        if part not in ("all", "train", "held_out"):
            raise InputError(f"PhotoFolder.part: expected all, train or held_out, found {part!r}")
        if part != "all":
            chosen = held_out(photos, holdout or Holdout())
            photos = [x for x in photos if (x.file in chosen) == (part == "held_out")]
        self.photos: list[Photo] = photos
        self.hands: list[int] = [len(photo.hands) for photo in photos]

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, number: int) -> Sample:
        photo = self.photos[number]
        path = self.root / photo.file
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise FileFormatError(f"{path}: expected an image OpenCV can read")
        height, width = image.shape[:2]
        if (width, height) != (photo.width, photo.height):
            raise FileFormatError(
                f"{path}: {LABELS_NAME} says {photo.width}x{photo.height}, "
                f"but the image is {width}x{height}"
            )
        return Sample(
            key=photo.file,
            image=image.astype(np.uint8, copy=False),
            camera=photo_camera(path, width, height),
            hands=photo.hands,
            hands_complete=photo.complete,
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))


def photo_camera(path: str | Path, width: int, height: int) -> Camera:
    """The camera of a picture: from EXIF's 35 mm focal length, else 60 degrees diagonal."""
    with Image.open(path) as picture:
        details = picture.getexif().get_ifd(ExifTags.IFD.Exif)
    focal = details.get(ExifTags.Base.FocalLengthIn35mmFilm)
    if isinstance(focal, (int, float)) and focal > 0:
        known = intrinsics_from_35mm(float(focal), width, height)
        return Camera(intrinsics=known, width=width, height=height, source="exif")
    return assumed_camera(width, height)


def assumed_camera(width: int, height: int) -> Camera:
    """The camera of a picture of which nothing is known: 60 degrees across the diagonal."""
    assumed = intrinsics_from_fov(DEFAULT_FOV_DEG, width, height, across="diagonal")
    return Camera(intrinsics=assumed, width=width, height=height, source="default")


# ---- reading labels.json ----


def _float32(entry: Any, name: str, shape: tuple[int, ...], where: str) -> NDArray[np.float32]:
    return numbers(entry, name, shape, where, finite=False).astype(np.float32)


def _read_hand(entry: Any, where: str) -> Hand:
    side = field(entry, "side", where, str)
    if side not in ("left", "right"):
        raise FileFormatError(f"{where}.side: expected 'left' or 'right', found {side!r}")
    joints = _float32(entry, "joints_2d", (NUM_JOINTS, 2), where)
    valid = _float32(entry, "visible", (NUM_JOINTS,), where) != 0
    if not np.isfinite(joints[valid]).all():
        raise FileFormatError(f"{where}.joints_2d: a visible joint is not finite")
    box = _float32(entry, "box", (4,), where)
    if not (np.isfinite(box).all() and box[2] > box[0] and box[3] > box[1]):
        raise FileFormatError(f"{where}.box: expected x0 < x1 and y0 < y1, found {box.tolist()}")
    return Hand(
        side="left" if side == "left" else "right",
        box=box,
        joints2d=np.where(valid[:, None], joints, np.float32(0)),
        joints2d_valid=valid,
        grasping=field(entry, "holding", where, bool, type(None)),
    )


def read_labels(path: str | Path) -> list[Photo]:
    """The photos of a labels.json, in its order; images are not touched.

    Raises MissingFileError, or FileFormatError that names the photo and the field.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: not found; expected the labels of a folder of photos")
    document = read_json(path.read_bytes(), str(path))
    photos: list[Photo] = []
    seen: set[str] = set()
    for i, entry in enumerate(field(document, "photos", str(path), list)):
        where = f"{path}: photos[{i}]"
        file = field(entry, "file", where, str)
        where = f"{path}: photos[{i}] ({file})"
        if file in seen:
            raise FileFormatError(f"{where}.file: listed twice")
        seen.add(file)
        width, height = (field(entry, name, where, int) for name in ("width", "height"))
        if width < 1 or height < 1:
            raise FileFormatError(f"{where}: expected a positive size, found {width}x{height}")
        if "complete" in entry:
            complete = field(entry, "complete", where, bool, type(None)) is True
        else:
            complete = False
        hands = field(entry, "hands", where, list)
        digits = re.findall(r"\d+", str(entry.get("source_file", "")))
        photos.append(
            Photo(
                file=file,
                width=width,
                height=height,
                sequence=field(entry, "sequence", where, str),
                source=str(entry.get("source", "")),
                number=int(digits[-1]) if digits else i,
                complete=complete,
                hands=tuple(
                    _read_hand(hand, f"{where}.hands[{h}]") for h, hand in enumerate(hands)
                ),
            )
        )
    if not photos:
        raise FileFormatError(f"{path}: photos: expected at least one, found none")
    return photos


def _check_images(root: Path, photos: Sequence[Photo]) -> None:
    there: dict[Path, set[str]] = {}
    missing: list[str] = []
    for photo in photos:
        path = root / photo.file
        if path.parent not in there:
            listing = path.parent.iterdir() if path.parent.is_dir() else ()
            there[path.parent] = {item.name for item in listing}
        if path.name not in there[path.parent]:
            missing.append(photo.file)
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise MissingFileError(
            f"{root}: {len(missing)} of {len(photos)} labelled images are missing: {shown}"
        )


# ---- holding out ----


def groups(photos: Sequence[Photo], holdout: Holdout) -> list[str]:
    """The group of each photo: its sequence, or a block of a large sequence ("name#3")."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, photo in enumerate(photos):
        members[photo.sequence].append(i)
    result = [photo.sequence for photo in photos]
    for name, indices in members.items():
        if len(indices) > holdout.large:
            ordered = sorted(indices, key=lambda i: (photos[i].number, photos[i].file))
            for place, i in enumerate(ordered):
                result[i] = f"{name}#{place * holdout.blocks // len(ordered)}"
    return result


def held_out(photos: Sequence[Photo], holdout: Holdout) -> set[str]:
    """The files that are held out: a function of labels and `holdout` alone.

    In each source the groups are visited in the order of a hash of seed and name, until the wanted
    share is reached; a group that would bring more than half too many is passed over while others
    can do. A source with one group only stays in training.
    """
    names = groups(photos, holdout)
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for photo, name in zip(photos, names, strict=True):
        sizes[photo.source][name] += 1

    def order(name: str) -> bytes:
        return hashlib.sha256(f"{holdout.seed} {name}".encode()).digest()

    chosen: set[str] = set()
    for counts in sizes.values():
        wanted = holdout.fraction * counts.total()
        taken = 0
        for name in sorted(counts, key=order):
            if taken < wanted and taken + counts[name] <= 1.5 * wanted:
                chosen.add(name)
                taken += counts[name]
        if not taken and len(counts) > 1:
            chosen.add(min(counts, key=lambda name: (counts[name], order(name))))
    return {photo.file for photo, name in zip(photos, names, strict=True) if name in chosen}
