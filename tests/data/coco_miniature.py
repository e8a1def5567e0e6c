"""COCO-WholeBody and OneHand10K in their layouts: small photos, label files in COCO's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tests.data.miniature import flat, known_hand, project, write_image

CAMERA = (100.0, 100.0, 48.0, 32.0)
WIDTH, HEIGHT = 96, 64


def joints(seed: int, hidden: int = 0) -> np.ndarray:
    """x, y, v of a hand of the free model (21, 3); each `hidden`-th joint all zero."""
    points = project(known_hand("right", seed, (0.0, 0.0, 0.5)).joints, CAMERA)
    labels = np.c_[points, np.full(21, 2.0)]
    if hidden:
        labels[::hidden] = 0
    return labels


def tight_xywh(labels: np.ndarray) -> list[float]:
    """COCO's box of the joints that count."""
    points = labels[labels[:, 2] > 0, :2]
    low, high = points.min(0), points.max(0)
    return [*low, *(high - low)]


def person(number: int, image: int, left: Any = None, right: Any = None) -> dict[str, Any]:
    """A COCO-WholeBody annotation; a hand is x, y, v (21, 3), or None: not labelled."""
    entry: dict[str, Any] = {
        "id": number, "image_id": image, "category_id": 1, "iscrowd": 0, "area": 100.0,
        "segmentation": [], "bbox": [10, 5, 60, 50], "num_keypoints": 0, "keypoints": [0] * 51,
        "face_box": [0.0] * 4, "face_kpts": [0.0] * 204, "face_valid": False,
        "foot_kpts": [0.0] * 18, "foot_valid": False,
    }  # fmt: skip
    for side, hand in (("left", left), ("right", right)):
        entry[f"{side}hand_valid"] = hand is not None
        entry[f"{side}hand_kpts"] = [0.0] * 63 if hand is None else hand.reshape(-1).tolist()
        entry[f"{side}hand_box"] = [0.0] * 4 if hand is None else tight_xywh(hand)
    return entry


def picture(number: int, file: str) -> dict[str, Any]:
    """An entry of `images`."""
    return {"id": number, "file_name": file, "width": WIDTH, "height": HEIGHT, "license": 1}


def fraction() -> np.ndarray:
    """Every third joint not labelled, one barely."""
    labels = joints(2, hidden=3)
    labels[1, 2] = 0.4
    return labels


def write_wholebody(root: Path) -> Path:
    """Three images, three hands that count; the other annotations do not."""
    crowd = person(104, 3, left=joints(3)) | {"iscrowd": 1}
    people = [
        person(101, 1, left=joints(0), right=joints(1)),
        person(102, 2, right=fraction()),
        person(103, 2),
        crowd,
    ]
    for part, ids in (("val", (1, 2, 3)), ("train", (1, 2))):
        images = [picture(i, f"{i:012d}.jpg") for i in ids]
        document = {
            "info": {"nested": [{"[": "]}"}]},
            "annotations": [one for one in people if one["image_id"] in ids],
            "images": images,
            "categories": [{"id": 1, "name": "person"}],
        }
        save(root / f"annotations/coco_wholebody_{part}_v1.0.json", document)
        for number in ids:
            image = flat(50 + 20 * number, WIDTH, HEIGHT)
            write_image(root / f"{part}2017/{number:012d}.jpg", image)
    return root


def write_onehand(root: Path) -> Path:
    """Three training hands, one of them without a labelled joint, and one for testing."""
    for part, count in (("train", 3), ("test", 1)):
        images, hands = [], []
        for number in range(count):
            folder = f"{part.capitalize()}/source"
            image = flat(50 + 20 * number, WIDTH, HEIGHT)
            write_image(root / folder / f"{number}.jpg", image)
            labels = joints(number, hidden=4 * (number == 1))
            if number == 2:
                labels[:] = 0
            name = f"{folder}/{number}.jpg" if part == "train" else f"{number}.jpg"
            images.append(picture(number, name))
            hands.append(
                {
                    "id": 7 + number, "image_id": number, "category_id": 1, "iscrowd": 0,
                    "area": 9.0, "keypoints": labels.reshape(-1).tolist(),
                    "bbox": [1.5, 2.0, 30.0, 40.0],
                }
            )  # fmt: skip
        save(root / f"annotations/onehand10k_{part}.json", {"images": images, "annotations": hands})
    return root


def save(path: Path, document: dict[str, Any]) -> None:
    """Write JSON; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def change(path: Path, key: str, number: int, **fields: Any) -> None:
    """Change fields of an entry of a label file; a value of ... takes the field out."""
    document = json.loads(path.read_text())
    entry = document[key][number]
    entry |= fields
    for name in [name for name, value in fields.items() if value is ...]:
        del entry[name]
    path.write_text(json.dumps(document))
