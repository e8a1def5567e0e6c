"""COCO-WholeBody's hands (Jin et al., ECCV 2020): 2D joints of people in COCO 2017's photos.

`annotations/coco_wholebody_{train,val}_v1.0.json` (or beside `annotations`) and the images in
`train2017`, `val2017` (or in `images`). A sample is one hand; `left` is the person's own left. Used
is every hand that is flagged valid in an annotation that is no crowd; HaMeR trains on 78,666 of
them, by a rule that is not printed. Either half may be missing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from handhold.data.coco import box, flag, is_image, keypoints, missing_images, read_coco
from handhold.data.dataset import DatasetEntry, IndexedSet, OpenOptions, Record
from handhold.data.files import Files
from handhold.data.index import TEXT, Index, Part, Scan, chosen_rows, columns_of
from handhold.data.photos import assumed_camera
from handhold.errors import MissingFileError
from handhold.fields import numbers
from handhold.scene import Hand

TOPS = ("annotations", "train2017", "val2017", "images", "coco_wholebody_*.json")
PARTS = ("train", "val")
SPLITS = (*PARTS, "all")
IMAGES = {"train": 118_287, "val": 5_000}


def index_coco_wholebody(files: Files, options: OpenOptions) -> Index:
    """The labelled hands that are there."""
    scan = Scan(
        name="coco-wholebody",
        version=1,
        parts=tuple(_there(files)),
        watched=tuple(f(files, part) or part for part in PARTS for f in (label_file, image_folder)),
        read=read_part,
    )
    return options.index(files, scan)


def select_coco_wholebody(
    files: Files, index: Index, split: str, options: OpenOptions
) -> CocoWholeBody:
    """One split: `train`, `val`, or `all`: what is there of both. Raises
    MissingFileError where its labels or all its images are missing; what reading raises."""
    there = _there(files)
    wanted = there if split == "all" else [split]
    if not wanted or not set(wanted) <= set(there):
        part = split if split in PARTS else "val"
        lacking = f"{part}2017" if label_file(files, part) else f"annotations/{_label_name(part)}"
        raise MissingFileError(f"{files.place(lacking)}: not found; {split} needs it")
    rows = chosen_rows(index, "part", [PARTS.index(part) for part in wanted])
    return CocoWholeBody("coco-wholebody", split, files, index, rows, options)


class CocoWholeBody(IndexedSet):
    """The hands of one split in the label file's order, a person's left hand first. Nothing is
    known about the camera. Record.extra: `confidence` (21,), COCO's v; above 0 the joint counts."""

    def image_name(self, number: int) -> str:
        return bytes(self.index.columns["image"][self.rows[number]]).decode()

    def record(self, number: int) -> Record:
        row = self.row(number)
        joints = np.array(row["joints"], np.float32)
        valid = joints[:, 2] > 0
        side = "left" if row["left"] else "right"
        hand = Hand(
            side=side,
            box=np.array(row["box"], np.float32),
            joints2d=np.where(valid[:, None], joints[:, :2], np.float32(0)),
            joints2d_valid=valid,
        )
        return Record(
            key=f"{PARTS[row['part']]}/{int(row['id'])}/{side}",
            image=bytes(row["image"]).decode(),
            camera=assumed_camera(int(row["width"]), int(row["height"])),
            hands=(hand,),
            extra={"confidence": joints[:, 2]},
        )


def _there(files: Files) -> list[str]:
    """The halves that can be read."""
    return [part for part in PARTS if label_file(files, part) and image_folder(files, part)]


def _label_name(part: str) -> str:
    return f"coco_wholebody_{part}_v1.0.json"


def label_file(files: Files, part: str) -> str | None:
    """Where the labels of a half lie in the tree, None where they are missing."""
    names = (f"annotations/{_label_name(part)}", _label_name(part))
    return next((name for name in names if files.has(name)), None)


def image_folder(files: Files, part: str) -> str | None:
    """The folder of a half's images, None where it is missing or empty."""
    folders = (f"{part}2017", f"images/{part}2017")
    return next((f for f in folders if any(map(is_image, files.list(f)))), None)


def _hands(annotation: dict[str, Any], where: str) -> list[Any]:
    """(left?, box, joints) of the hands that count; a text: why one does not."""
    crowd = "iscrowd" in annotation and flag(annotation, "iscrowd", where)
    found: list[Any] = []
    for side in ("left", "right"):
        if not flag(annotation, f"{side}hand_valid", where):
            found.append("no hand labelled")
        elif crowd:
            found.append("crowd")
        elif not numbers(annotation, f"{side}hand_box", (4,), where)[2:].any():
            found.append("no extent")  # a tight box of one joint
        else:
            joints = keypoints(annotation, f"{side}hand_kpts", where)
            found.append((side == "left", box(annotation, f"{side}hand_box", where), joints))
    return found


def read_part(files: Files, part: str) -> Part:
    """All hands of `train` or `val`."""
    name, folder = label_file(files, part), image_folder(files, part)
    if name is None or folder is None:
        raise MissingFileError(f"{files.root}: the labels or images of {part} have gone")
    found = read_coco(files, name, _hands)
    there = set(files.list(folder))
    dropped = {"no hand labelled": 0, "crowd": 0, "no extent": 0, "no image": 0}
    rows: list[dict[str, Any]] = []
    lacking: dict[str, None] = {}
    for number, image, hands in found.labels:
        file, width, height = found.images[image]
        for hand in hands:
            if isinstance(hand, str):
                dropped[hand] += 1
            elif file not in there:
                dropped["no image"] += 1
                lacking[f"{folder}/{file}"] = None
            else:
                left, corners, joints = hand
                rows.append(
                    {
                        "part": PARTS.index(part), "id": number, "left": left, "box": corners,
                        "joints": joints, "width": width, "height": height,
                        "image": f"{folder}/{file}",
                    }
                )  # fmt: skip
    advice = f"it belongs to COCO 2017's {part}2017.zip"
    problems = found.problems + missing_images(list(lacking), advice)
    return Part(columns=columns_of(rows, _TYPES), dropped=dropped, problems=problems)


_TYPES = {"part": "u1", "id": "i8", "left": "?", "box": "f4", "joints": "f4", "width": "u4",
          "height": "u4", "image": TEXT}  # fmt: skip


def missing(files: Files) -> list[str]:
    """What of the complete download is not there."""
    told: list[str] = []
    for part in PARTS:
        if label_file(files, part) is None:
            told.append(f"annotations/{_label_name(part)}")
        folder = image_folder(files, part)
        images = [] if folder is None else files.list(folder)
        count = sum(map(is_image, images))
        if count < IMAGES[part]:
            told.append(f"{IMAGES[part] - count} of {IMAGES[part]} images of {part}2017")
    return told


ENTRY = DatasetEntry(
    title="COCO-WholeBody hands (Jin et al., ECCV 2020)",
    licence="the set's own terms; COCO's images: those of Flickr",
    tops=TOPS,
    splits=SPLITS,
    train="train",
    test="val",
    index=index_coco_wholebody,
    select=select_coco_wholebody,
    labels=("side",),
    published={},
    missing=missing,
)
