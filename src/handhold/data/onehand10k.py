"""OneHand10K (Wang et al., TCSVT 2019) in MMPose's layout: one hand a photo, 2D joints, no sides.

`annotations/onehand10k_{train,test}.json` and the images in `Train/source`, `Test/source`. The
labels do not say whether a hand is a left or a right one, and 2D joints alone do not tell, so
`Hand.side` is None: the detector learns place and size from such a hand but not its side, results
do not count it in the side's accuracy, and networks that want a right hand refuse it by name. Who
takes all hands for right ones, wrongly for some, says so: `onehand10k/train?side=right:FOLDER`.
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
from handhold.scene import Hand

TOPS = ("annotations", "Train", "Test")
PARTS = ("train", "test")
SPLITS = (*PARTS, "all")
IMAGES = {"train": 10_000, "test": 1_703}
_SOURCE = "the count generally given (not checked against the files)"


def index_onehand10k(files: Files, options: OpenOptions) -> Index:
    """The labelled hands that are there."""
    scan = Scan(
        name="onehand10k",
        version=1,
        parts=tuple(_there(files)),
        watched=tuple(x for part in PARTS for x in (label_file(part), image_folder(part))),
        read=read_part,
    )
    return options.index(files, scan)


def select_onehand10k(files: Files, index: Index, split: str, options: OpenOptions) -> OneHand10K:
    """One split: `train`, `test`, or `all`: what is there of both. Raises
    MissingFileError where its labels are missing; what reading raises."""
    there = _there(files)
    wanted = there if split == "all" else [split]
    if not wanted or not set(wanted) <= set(there):
        name = label_file(split if split in PARTS else "test")
        raise MissingFileError(f"{files.place(name)}: not found; {split} needs it")
    rows = chosen_rows(index, "part", [PARTS.index(part) for part in wanted])
    return OneHand10K("onehand10k", split, files, index, rows, options)


class OneHand10K(IndexedSet):
    """The hands of one split in the label file's order. Nothing is known about the camera."""

    def image_name(self, number: int) -> str:
        return bytes(self.index.columns["image"][self.rows[number]]).decode()

    def record(self, number: int) -> Record:
        row = self.row(number)
        joints = np.array(row["joints"], np.float32)
        valid = joints[:, 2] > 0
        hand = Hand(
            side=None,
            box=np.array(row["box"], np.float32),
            joints2d=np.where(valid[:, None], joints[:, :2], np.float32(0)),
            joints2d_valid=valid,
        )
        return Record(
            key=f"{PARTS[row['part']]}/{int(row['id'])}",
            image=bytes(row["image"]).decode(),
            camera=assumed_camera(int(row["width"]), int(row["height"])),
            hands=(hand,),
        )


def _there(files: Files) -> list[str]:
    """The halves that can be read."""
    return [part for part in PARTS if files.has(label_file(part))]


def label_file(part: str) -> str:
    """Where the labels of a half lie in the tree."""
    return f"annotations/onehand10k_{part}.json"


def image_folder(part: str) -> str:
    """The folder of a half's images."""
    return f"{part.capitalize()}/source"


def _hand(annotation: dict[str, Any], where: str) -> Any:
    """(box, joints), or a text: why the hand does not count."""
    if "iscrowd" in annotation and flag(annotation, "iscrowd", where):
        return "crowd"
    joints = keypoints(annotation, "keypoints", where)
    if not (joints[:, 2] > 0).any():
        return "no joint labelled"
    return box(annotation, "bbox", where), joints


def read_part(files: Files, part: str) -> Part:
    """All hands of `train` or `test`."""
    found = read_coco(files, label_file(part), _hand)
    folder = image_folder(part)
    there = set(files.list(folder))
    dropped = {"crowd": 0, "no joint labelled": 0, "no image": 0}
    rows: list[dict[str, Any]] = []
    lacking: dict[str, None] = {}
    for number, image, hand in found.labels:
        file, width, height = found.images[image]
        name = f"{folder}/{file}"
        if isinstance(hand, str):
            dropped[hand] += 1
        elif file not in there:
            dropped["no image"] += 1
            lacking[name] = None
        else:
            rows.append(
                {
                    "part": PARTS.index(part), "id": number, "box": hand[0], "joints": hand[1],
                    "width": width, "height": height, "image": name,
                }
            )  # fmt: skip
    problems = found.problems + missing_images(list(lacking), f"it belongs to the {part} images")
    return Part(columns=columns_of(rows, _TYPES), dropped=dropped, problems=problems)


_TYPES = {
    "part": "u1",
    "id": "i8",
    "box": "f4",
    "joints": "f4",
    "width": "u4",
    "height": "u4",
    "image": TEXT,
}


def missing(files: Files) -> list[str]:
    """What of the complete download is not there."""
    told = [label_file(part) for part in PARTS if not files.has(label_file(part))]
    for part, wanted in IMAGES.items():
        count = sum(map(is_image, files.list(image_folder(part))))
        if count < wanted:
            told.append(f"{wanted - count} of {wanted} images of {image_folder(part)}")
    return told


ENTRY = DatasetEntry(
    title="OneHand10K (Wang et al., TCSVT 2019)",
    licence="the set's own terms",
    tops=TOPS,
    splits=SPLITS,
    train="train",
    test="test",
    index=index_onehand10k,
    select=select_onehand10k,
    labels=(),
    published={part: (count, _SOURCE) for part, count in IMAGES.items()},
    missing=missing,
)
