"""Real photographs with 2D or 3D labels: a folder of images and one `labels.json`.

labels.json: {"photos": [{"file", "width", "height", "sequence", "complete", "hands": [...]}]}; a
hand has "side" (left or right, as the picture shows it), "joints_2d" (21 x [x, y] pixels, canonical
order), "visible" (21 flags; 0: the position means nothing), "box" ([x0, y0, x1, y1], tight around
the labelled joints) and "holding" (true, false or null: cannot tell). "source" and "source_file"
are optional. "complete" null or absent means that an unlabelled hand may be visible.

3D is optional, too. A hand's "joints_3d" (21 x [x, y, z] metres, the camera's axes, about the
hand's own centre) says its shape and turn but not its place, so it is kept aside from the
camera-frame `Hand.joints`; those come from "joints_camera" (21 x [x, y, z] metres, camera frame),
which needs the photo's "intrinsics" (3 x 3).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from handhold.data.images import check_image_end
from handhold.data.sanity import LARGEST_HAND
from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.fields import field, numbers, read_json
from handhold.geometry.camera import intrinsics_from_35mm, intrinsics_from_fov
from handhold.scene import NUM_JOINTS, Camera, FloatArray, Hand, Sample

LABELS_NAME = "labels.json"
FARTHEST = 0.5  # of a hand's size: how far 3D joints may project from the 2D ones, on average
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
    """One entry of labels.json. number: its place in the source's own order. centred: each hand's
    `joints_3d` (21, 3). intrinsics: (3, 3), where they are given."""

    file: str
    width: int
    height: int
    sequence: str
    source: str
    number: int
    complete: bool
    hands: tuple[Hand, ...]
    centred: tuple[FloatArray | None, ...] = ()
    intrinsics: FloatArray | None = None


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
        try:
            data = path.read_bytes()
        except OSError as error:
            raise MissingFileError(f"{path}: cannot be read: {error.strerror}") from error
        check_image_end(data, str(path))
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
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
            camera=photo_camera(path, width, height)
            if photo.intrinsics is None
            else known_camera(photo.intrinsics, width, height),
            hands=photo.hands,
            hands_complete=photo.complete,
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))


def photo_camera(path: str | Path, width: int, height: int) -> Camera:
    """The camera of a picture: from EXIF's 35 mm focal length, else 60 degrees diagonal."""
    return focal_camera(focal_35mm(path), width, height)


def focal_35mm(source: str | Path | IO[bytes]) -> float:
    """EXIF's 35 mm focal length of an image file; 0 where it does not say."""
    with Image.open(source) as picture:
        details = picture.getexif().get_ifd(ExifTags.IFD.Exif)
    focal = details.get(ExifTags.Base.FocalLengthIn35mmFilm)
    return float(focal) if isinstance(focal, (int, float)) and focal > 0 else 0.0


def focal_camera(focal: float, width: int, height: int) -> Camera:
    """The camera of a 35 mm focal length; 0: nothing is known."""
    if focal <= 0:
        return assumed_camera(width, height)
    matrix = intrinsics_from_35mm(focal, width, height)
    return Camera(intrinsics=matrix, width=width, height=height, source="exif")


def known_camera(intrinsics: FloatArray, width: int, height: int) -> Camera:
    """The camera that the labels give."""
    return Camera(intrinsics=intrinsics, width=width, height=height, source="dataset")


def assumed_camera(width: int, height: int) -> Camera:
    """The camera of a picture of which nothing is known: 60 degrees across the diagonal."""
    assumed = intrinsics_from_fov(DEFAULT_FOV_DEG, width, height, across="diagonal")
    return Camera(intrinsics=assumed, width=width, height=height, source="default")


# ---- reading labels.json ----


def _float32(entry: Any, name: str, shape: tuple[int, ...], where: str) -> NDArray[np.float32]:
    return numbers(entry, name, shape, where, finite=False).astype(np.float32)


def _read_hand(entry: Any, where: str, intrinsics: FloatArray | None) -> Hand:
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
        joints=_camera_joints(entry, where, intrinsics, joints[valid], valid),
        grasping=field(entry, "holding", where, bool, type(None)),
    )


def _camera_joints(
    entry: dict[str, Any],
    where: str,
    intrinsics: FloatArray | None,
    pixels: NDArray[np.float32],
    valid: NDArray[np.bool_],
) -> FloatArray | None:
    """`joints_camera`, which must lie where the 2D labels are: else it is of another frame."""
    if entry.get("joints_camera") is None:
        return None
    found = numbers(entry, "joints_camera", (NUM_JOINTS, 3), where)
    if intrinsics is None:
        raise FileFormatError(f"{where}.joints_camera: needs the photo's field 'intrinsics'")
    if (found[:, 2] <= 0).any():
        raise FileFormatError(f"{where}.joints_camera: expected z > 0, before the camera")
    extent = float(np.ptp(found, axis=0).max())
    if extent > LARGEST_HAND:
        raise FileFormatError(
            f"{where}.joints_camera: expected metres, found a hand of {extent:.3g} m"
        )
    if valid.any():
        placed = found[valid] @ np.asarray(intrinsics).T
        off = np.linalg.norm(placed[:, :2] / placed[:, 2:] - pixels, axis=-1).mean()
        size = max(1.0, float(np.ptp(pixels, axis=0).max()))
        if off > FARTHEST * size:
            raise FileFormatError(
                f"{where}.joints_camera: projected with the photo's intrinsics it lies {off:.0f} "
                "pixels from joints_2d on average; expected metres in OpenCV's camera frame"
            )
    return found.astype(np.float32)


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
        photo = read_photo(entry, i, str(path))
        if photo.file in seen:
            raise FileFormatError(f"{path}: photos[{i}] ({photo.file}).file: listed twice")
        seen.add(photo.file)
        photos.append(photo)
    if not photos:
        raise FileFormatError(f"{path}: photos: expected at least one, found none")
    return photos


def read_photo(entry: Any, place: int, path: str) -> Photo:
    """Entry number `place` of the labels at `path`; raises FileFormatError naming the field."""
    where = f"{path}: photos[{place}]"
    file = field(entry, "file", where, str)
    where = f"{where} ({file})"
    width, height = (field(entry, name, where, int) for name in ("width", "height"))
    if width < 1 or height < 1:
        raise FileFormatError(f"{where}: expected a positive size, found {width}x{height}")
    complete = "complete" in entry and field(entry, "complete", where, bool, type(None)) is True
    intrinsics = None
    if entry.get("intrinsics") is not None:
        intrinsics = numbers(entry, "intrinsics", (3, 3), where)
        if min(intrinsics[0, 0], intrinsics[1, 1]) <= 0 or intrinsics[2].tolist() != [0, 0, 1]:
            raise FileFormatError(
                f"{where}.intrinsics: expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], found "
                f"{intrinsics.tolist()}"
            )
    digits = re.findall(r"\d+", str(entry.get("source_file", "")))
    hands: list[Hand] = []
    centred: list[FloatArray | None] = []
    for number, hand in enumerate(field(entry, "hands", where, list)):
        own = f"{where}.hands[{number}]"
        hands.append(_read_hand(hand, own, intrinsics))
        known = hand.get("joints_3d") is not None
        centred.append(numbers(hand, "joints_3d", (NUM_JOINTS, 3), own) if known else None)
    return Photo(
        file=file,
        width=width,
        height=height,
        sequence=field(entry, "sequence", where, str),
        source=str(entry.get("source", "")),
        number=int(digits[-1]) if digits else place,
        complete=complete,
        hands=tuple(hands),
        centred=tuple(centred),
        intrinsics=intrinsics,
    )


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
