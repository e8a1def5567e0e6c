"""Hand boxes from outside, as JSON: of one photo a list, of several {"photo.jpg": [...]}.

An entry is {"box": [x0, y0, x1, y1], "side": "left" | "right" | null, "score": 0..1, "object_box":
[x0, y0, x1, y1] | null, "object_name": text | null, "wrist": [x, y, z] | null}; all but `box` may
be missing. Boxes are tight around the hand, in pixels of the upright photo. `object_box` is what
the hand holds, null: it holds nothing; where it is missing the detector says. `object_name` is the
object's, such as 003_cracker_box, which is then posed whatever the network says of a grasp.
`wrist` is its true position, metres, camera frame, for methods that take it (HOISDF).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.fields import checked, field, read_json
from handhold.scene import FloatArray, Side


@dataclass(frozen=True, kw_only=True)
class GivenBox:
    """box (4,): photo pixels. side None: to be found out. object_known: object_box (4,), or None
    for an empty hand, is given too. object_name: a name of the catalogue. wrist (3,): metres,
    camera frame.
    """

    box: FloatArray
    side: Side | None = None
    score: float = 1.0
    object_known: bool = False
    object_box: FloatArray | None = None
    object_name: str | None = None
    wrist: FloatArray | None = None


def read_boxes(path: str | Path) -> list[GivenBox] | dict[str, list[GivenBox]]:
    """The boxes of a JSON file: a list (for the only photo) or a list for each photo's name. Raises
    MissingFileError, or FileFormatError naming photo and entry.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file (--boxes)")
    document = read_json(path.read_bytes(), str(path))
    if isinstance(document, list):
        return parse_boxes(document, str(path))
    if isinstance(document, dict):
        return {name: parse_boxes(entries, f"{path}: {name}") for name, entries in document.items()}
    raise FileFormatError(
        f"{path}: expected a list of boxes or an object of lists, found {type(document).__name__}"
    )


def parse_boxes(entries: Any, where: str = "boxes") -> list[GivenBox]:
    """GivenBox, {"box": ...} or four bare numbers each. Raises FileFormatError naming the entry."""
    if isinstance(entries, (str, bytes, Mapping)) or not isinstance(
        entries, (Sequence, np.ndarray)
    ):
        raise FileFormatError(f"{where}: expected a list of boxes, found {type(entries).__name__}")
    return [_parse(entry, f"{where}[{i}]") for i, entry in enumerate(entries)]


def _parse(entry: Any, where: str) -> GivenBox:
    if isinstance(entry, GivenBox):
        return entry
    fields: dict[str, Any] = dict(entry) if isinstance(entry, Mapping) else {"box": entry}
    box = _corners(field(fields, "box", where), f"{where}.box")
    told = fields.get("score")
    score = 1.0 if told is None else float(checked(told, (), f"{where}.score"))
    side = fields.get("side")
    if side not in ("left", "right", None):
        raise FileFormatError(f"{where}.side: expected 'left', 'right' or null, found {side!r}")
    held, wrist = fields.get("object_box"), fields.get("wrist")
    name = fields.get("object_name")
    if name is not None and not isinstance(name, str):
        raise FileFormatError(f"{where}.object_name: expected a text or null, found {name!r}")
    return GivenBox(
        box=box,
        side=side,
        score=score,
        object_known="object_box" in fields,
        object_box=None if held is None else _corners(held, f"{where}.object_box"),
        object_name=name,
        wrist=None if wrist is None else _position(wrist, f"{where}.wrist"),
    )


def _position(value: Any, where: str) -> FloatArray:
    place = checked(value, (3,), where)
    if place[2] <= 0:
        raise FileFormatError(f"{where}: expected x, y, z > 0, in metres, found {place.tolist()}")
    return place


def _corners(value: Any, where: str) -> FloatArray:
    box = checked(value, (4,), where)
    if not (box[2] > box[0] and box[3] > box[1]):
        raise FileFormatError(f"{where}: expected x0 < x1 and y0 < y1, found {box.tolist()}")
    return box


def check_inside(boxes: Sequence[GivenBox], width: int, height: int, name: str) -> None:
    """Raise InputError for a box that lies wholly outside the photo."""
    for i, given in enumerate(boxes):
        x0, y0, x1, y1 = given.box
        if x1 <= 0 or y1 <= 0 or x0 >= width - 1 or y0 >= height - 1:
            raise InputError(
                f"{name}: boxes[{i}]: {given.box.tolist()} lies outside the photo of "
                f"{width}x{height} pixels"
            )
