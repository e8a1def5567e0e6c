"""HInt (Pavlakos et al., CVPR 2024): hands in photos from Hands23's New Days, from VISOR ("epick")
and from Ego4D, with 2D joints and their occlusion.

Folders such as `TEST_newdays_img` hold an image and a JSON file of the same stem for each hand; the
stem ends in `_l` or `_r`. The images of Ego4D are not in the download: every user cuts them from
clips of Ego4D. Where an image is missing, opening a split says which one and how to get it; `skip`
with "missing_images", and the split `all`, leave such hands out (`all` with a warning).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.data.dataset import MISSING_IMAGES, DatasetEntry, IndexedSet, OpenOptions, Record
from handhold.data.files import Files
from handhold.data.images import checked_size
from handhold.data.index import TEXT, Index, Part, Problem, Scan, columns_of
from handhold.data.photos import assumed_camera
from handhold.errors import FileFormatError, HandholdError, MissingFileError
from handhold.fields import checked, field, numbers, read_json
from handhold.scene import Hand

TOPS = ("TRAIN_*", "VAL_*", "TEST_*")
# split -> (folder, hands by the number of files of the release)
FOLDERS = {
    "train-newdays": ("TRAIN_newdays_img", 9_666),
    "train-epick": ("TRAIN_epick_img", 2_780),
    "train-ego4d": ("TRAIN_ego4d_img", 11_652),
    "val-newdays": ("VAL_newdays_img", 550),
    "val-epick": ("VAL_epick_img", 625),
    "val-ego4d": ("VAL_ego4d_img", 514),
    "val-ego4d-seq": ("VAL_ego4d_seq", 2_320),
    "test-newdays": ("TEST_newdays_img", 1_754),
    "test-epick": ("TEST_epick_img", 1_906),
    "test-ego4d": ("TEST_ego4d_img", 1_714),
    "test-ego4d-seq": ("TEST_ego4d_seq", 6_953),
}
PARTS = {  # the sequences are not in these: the benchmark leaves them out
    part: tuple(name for name in FOLDERS if name.startswith(part) and not name.endswith("-seq"))
    for part in ("train", "val", "test")
}
SPLITS = (*PARTS, *FOLDERS, "all")
ENDINGS = (".jpg", ".jpeg", ".png")
SLICE = 500  # hands in one part of the scan


def index_hint(files: Files, options: OpenOptions) -> Index:
    """What is known about every labelled hand that is there."""
    return options.index(files, _scan(files))


def select_hint(files: Files, index: Index, split: str, options: OpenOptions) -> HInt:
    """One split: `test-newdays`, `test-epick` (VISOR), `test-ego4d`, the same of `train` and `val`,
    the sequences `val-ego4d-seq`, `test-ego4d-seq`; `train`, `val`, `test`: the three folders of
    single images together; `all`: every hand whose image is there.

    Raises MissingFileError for a folder that is missing, and for an
    image unless `skip` has "missing_images".
    """
    names = tuple(FOLDERS) if split == "all" else PARTS.get(split, (split,))
    asked = split == "all" or MISSING_IMAGES in options.skip
    absent = [FOLDERS[name][0] for name in names if not _has_labels(files, FOLDERS[name][0])]
    if absent and not asked:
        raise MissingFileError(f"{files.place(absent[0])}: no such folder; {split} needs it")
    told = "" if MISSING_IMAGES in options.skip else "warning" if asked else "error"
    rows = _rows(files, index, names, told)
    return HInt("hint", split, files, index, rows, options)


def _rows(files: Files, index: Index, names: tuple[str, ...], told: str) -> NDArray[np.int64]:
    """The rows of the folders; told: what hands without an image cause (error, warning or "")."""
    if not len(index):
        return np.zeros(0, np.int64)
    folders = list(FOLDERS)
    chosen = np.isin(index.columns["folder"], [folders.index(name) for name in names])
    lacking = np.flatnonzero(chosen & (index.columns["width"] == 0))
    if len(lacking) and told:
        row = int(lacking[0])
        folder = FOLDERS[folders[index.columns["folder"][row]]][0]
        stem = bytes(index.columns["stem"][row]).decode()
        what = (
            f"{files.place(f'{folder}/{stem}.jpg')}: there is no such image, nor "
            f"{len(lacking) - 1} others of this split; {advice(folder, stem)}"
        )
        if told == "error":
            raise MissingFileError(
                f"{what}; or leave such hands out: the split `all`, or skip=('{MISSING_IMAGES}',)"
            )
        warnings.warn(f"{what}; these hands are left out", stacklevel=5)
    return np.flatnonzero(chosen & (index.columns["width"] > 0))


def advice(folder: str, stem: str) -> str:
    """How to get the image of a stem."""
    if "ego4d" not in folder:
        return "it comes with HInt's own download"
    clip, _, rest = stem.partition("_")
    words = rest.split("_")
    frame = next((int(word) for word in words[1:] if word.isdecimal()), None)
    place = "the labelled frame" if frame is None else f"frame {frame}"
    after = "" if frame is None else f" (file number {frame + 1} when decoded from 1 on)"
    return f"cut {place}{after} from your own copy of Ego4D's clip {clip}"


class HInt(IndexedSet):
    """The hands of one split, each with its own image. Nothing is known about the camera; other
    hands may be visible. Record.extra: `occlusion` (21,) as it is stored, 1 = occluded."""

    def record(self, number: int) -> Record:
        row = self.row(number)
        folder = list(FOLDERS.values())[row["folder"]][0]
        stem = bytes(row["stem"]).decode()
        hand = Hand(
            side="left" if row["left"] else "right",
            box=np.array(row["box"], np.float32),
            joints2d=np.array(row["joints"], np.float32),
            joints2d_valid=np.ones(21, bool),
            joints_visible=np.asarray(row["occlusion"] <= 0.5),
        )
        return Record(
            key=f"{folder}/{stem}",
            image=f"{folder}/{stem}{bytes(row['ending']).decode()}",
            camera=assumed_camera(int(row["width"]), int(row["height"])),
            hands=(hand,),
            extra={"occlusion": np.array(row["occlusion"])},
        )


# ----------------------------------------------------------------------------------- reading


def _contents(files: Files, folder: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The label files by their stems, in order, and the endings of the images of every stem."""
    labels: dict[str, str] = {}
    images: dict[str, list[str]] = {}
    for name in files.list(folder):
        stem, dot, ending = name.rpartition(".")
        if name.startswith("."):
            continue
        if ending.lower() == "json":
            labels[stem] = name
        elif dot + ending.lower() in ENDINGS:
            images.setdefault(stem, []).append(dot + ending)
    return labels, images


def _has_labels(files: Files, folder: str) -> bool:
    return any(x.lower().endswith(".json") and x[0] != "." for x in files.list(folder))


def _scan(files: Files) -> Scan:
    parts: list[str] = []
    labels: list[str] = []
    for name, (folder, _) in FOLDERS.items():
        listing = files.list(folder)
        stems = len(_contents(files, folder)[0])
        parts += [f"{name} {start}" for start in range(0, max(stems, len(listing) > 0), SLICE)]
        labels += [f"{folder}/{file}" for file in listing]
    return Scan(
        name="hint",
        version=1,
        parts=tuple(parts),
        watched=tuple(folder for folder, _ in FOLDERS.values()),
        labels=lambda: labels,
        read=read_slice,
    )


def read_slice(files: Files, key: str) -> Part:
    """Some hands of a folder. key: "<split> <first>"."""
    name, _, first = key.rpartition(" ")
    folder = FOLDERS[name][0]
    names, images = _contents(files, folder)
    stems = list(names)
    part = Part(columns={}, dropped={"no image": 0})
    if int(first) == 0:
        for stem in sorted(set(images) - set(stems)):
            what = f"{files.place(f'{folder}/{stem}.json')}: there is no such file, but its image"
            part.problems.append(Problem(file=f"{folder}/{stem}.json", what=what))
    rows: list[dict[str, Any]] = []
    for stem in stems[int(first) : int(first) + SLICE]:
        file = f"{folder}/{names[stem]}"
        try:
            row = _read_label(files, file, stem)
            endings = images.get(stem, [])
            if len(endings) > 1:
                raise FileFormatError(
                    f"{files.place(file)}: expected one image of this name, found those ending in "
                    f"{', '.join(endings)}"
                )
            if endings:
                file = f"{folder}/{stem}{endings[0]}"
                size = checked_size(files.read(file), files.place(file))
                row |= {"width": size[0], "height": size[1], "ending": endings[0]}
            else:
                part.dropped["no image"] += 1
                if "ego4d" not in folder:  # whose images are not in the download
                    file = f"{folder}/{stem}.jpg"
                    what = f"{files.place(file)}: there is no such image; {advice(folder, stem)}"
                    part.problems.append(Problem(file=file, what=what))
        except HandholdError as error:
            part.problems.append(Problem(file=file, what=str(error)))
            continue
        rows.append(row | {"folder": list(FOLDERS).index(name)})
    part.columns = columns_of(rows, _TYPES)
    return part


def _read_label(files: Files, name: str, stem: str) -> dict[str, Any]:
    where = files.place(name)
    side = stem.rpartition("_")[2]
    if side not in ("l", "r"):
        raise FileFormatError(f"{where}: expected a name that ends in _l or _r")
    found = read_json(files.read(name), where)
    if not isinstance(found, list) or len(found) != 1:
        count = len(found) if isinstance(found, list) else type(found).__name__
        raise FileFormatError(f"{where}: expected a list of one hand, found {count}")
    occlusion = numbers(found[0], "occlusion", (21,), where)
    if occlusion.min() < 0 or occlusion.max() > 1:
        raise FileFormatError(f"{where}: occlusion: expected numbers from 0 to 1")
    boxes = field(found[0], "bbox", where)
    first = boxes[0] if isinstance(boxes, list) and boxes else boxes
    box = checked(first, (4,), f"{where}: bbox[0]")
    if box[2] <= box[0] or box[3] <= box[1]:
        raise FileFormatError(f"{where}: bbox: expected x0 < x1 and y0 < y1, found {box.tolist()}")
    return {
        "stem": stem,
        "left": side == "l",
        "joints": numbers(found[0], "keypoints", (21, 2), where),
        "occlusion": occlusion,
        "box": box,
        "width": 0,
        "height": 0,
        "ending": "",
    }


_TYPES = {
    "folder": "u1", "left": "?", "joints": "f4", "occlusion": "f4", "box": "f4", "width": "u4",
    "height": "u4", "stem": TEXT, "ending": TEXT,
}  # fmt: skip


def missing(files: Files) -> list[str]:
    """What of the complete download is not there."""
    told: list[str] = []
    for folder, hands in FOLDERS.values():
        stems, images = _contents(files, folder)
        if not stems:
            told.append(folder)
            continue
        if len(stems) < hands:
            told.append(f"{hands - len(stems)} of {hands} hands of {folder}")
        lacking = [stem for stem in stems if stem not in images]
        if lacking and "ego4d" in folder:  # others are damage
            told.append(
                f"{len(lacking)} images of {folder}: {lacking[0]}.jpg: {advice(folder, lacking[0])}"
            )
    return told


ENTRY = DatasetEntry(
    title="HInt (Pavlakos et al., CVPR 2024)",
    licence="the set's own terms; Ego4D's images need Ego4D's licence",
    tops=TOPS,
    splits=SPLITS,
    train="train",
    test="test",
    index=index_hint,
    select=select_hint,
    labels=("side",),
    published={name: (hands, "the release's file count") for name, (_, hands) in FOLDERS.items()}
    | {"train": (24_098, "the release's file count")},
    missing=missing,
)
