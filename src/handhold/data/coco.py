"""Label files in COCO's form, read item by item: those of COCO-WholeBody hold gigabytes of text."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.data.files import Files, plain_name
from handhold.data.index import Problem
from handhold.errors import FileFormatError
from handhold.fields import field, numbers

NAMED = 20  # missing images that are named one by one
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(kw_only=True)
class CocoFile:
    """images: id -> (file name, width, height). labels: (annotation id, image id, what was taken),
    in the file's order. problems: entries that cannot be used."""

    images: dict[int, tuple[str, int, int]] = dataclasses.field(default_factory=dict)
    labels: list[tuple[int, int, Any]] = dataclasses.field(default_factory=list)
    problems: list[Problem] = dataclasses.field(default_factory=list)


def read_coco(files: Files, name: str, take: Callable[[dict[str, Any], str], Any]) -> CocoFile:
    """A label file. take: `take(annotation, where)` -> what is kept of an annotation (None: left
    out), or FileFormatError. Of an image's name the folders above it are left out, as label files
    of different origin give none, some or all of them. An id or image that is listed twice leaves
    out all that bear it.

    Raises MissingFileError, and FileFormatError where the file is not JSON of that form."""
    place = files.place(name)
    found = CocoFile()
    counts = {"images": 0, "annotations": 0}
    seen: dict[str, set[int]] = {"images": set(), "annotations": set()}
    twice: dict[str, set[int]] = {"images": set(), "annotations": set()}
    names: dict[str, int] = {}  # of images -> id
    for key, item in top_items(_text(files, name), place):
        if key not in counts:
            continue
        where = f"{place}: {key}[{counts[key]}]"
        counts[key] += 1
        try:
            number = whole(item, "id", where)
            where = f"{where} (id {number})"
            if number in seen[key]:
                twice[key].add(number)
                raise FileFormatError(f"{where}: this id occurs twice")
            seen[key].add(number)
            if key == "images":
                file = field(item, "file_name", where, str).replace("\\", "/").lstrip("/")
                file = plain_name(file, f"{where}.file_name").rpartition("/")[2]
                size = [whole(item, side, where) for side in ("width", "height")]
                if min(size) < 1:
                    raise FileFormatError(f"{where}: expected a positive size, found {size}")
                found.images[number] = (file, size[0], size[1])
                if (first := names.setdefault(file, number)) != number:
                    twice[key] |= {first, number}
                    raise FileFormatError(f"{where}: {file} is listed twice, as {first} before")
                continue
            image = whole(item, "image_id", where)
            taken = take(item, where)
            if taken is not None:
                found.labels.append((number, image, taken))
        except FileFormatError as error:
            found.problems.append(Problem(file=name, what=str(error)))
    if not all(counts.values()):
        raise FileFormatError(f"{place}: expected COCO's lists `images` and `annotations`")
    for number in twice["images"]:
        found.images.pop(number, None)
    labels = [label for label in found.labels if label[0] not in twice["annotations"]]
    found.labels = []
    for label in labels:
        if label[1] in found.images:
            found.labels.append(label)
        else:
            what = f"{place}: annotation {label[0]}: the image {label[1]} is not listed (once)"
            found.problems.append(Problem(file=name, what=what))
    return found


def _text(files: Files, name: str) -> str:
    try:
        return files.read(name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{files.place(name)}: not valid JSON: {error}") from error


def top_items(text: str, place: str) -> Iterator[tuple[str, Any]]:
    """(name, item) for every item of the lists at the top of a JSON object; one item at a time is
    in memory. Raises FileFormatError where the text is broken."""
    decode = json.JSONDecoder().raw_decode

    def after(at: int) -> int:
        match = _SPACE.match(text, at)
        return match.end() if match else at

    def expect(at: int, wanted: str) -> str:
        found = text[at : at + 1]
        if not found or found not in wanted:
            raise FileFormatError(
                f"{place}: not valid JSON: expected one of {' '.join(wanted)} at character {at}, "
                f"found {found or 'the end of the file'!r}"
            )
        return found

    try:
        at = after(0)
        expect(at, "{")
        at = after(at + 1)
        more = text[at : at + 1] != "}"
        while more:
            expect(at, '"')
            name, at = decode(text, at)
            at = after(at)
            expect(at, ":")
            at = after(at + 1)
            if text[at : at + 1] == "[":
                at = after(at + 1)
                inside = text[at : at + 1] != "]"
                while inside:
                    item, at = decode(text, at)
                    yield name, item
                    at = after(at)
                    inside = expect(at, ",]") == ","
                    at = after(at + 1) if inside else at
                at += 1
            else:
                _, at = decode(text, at)
            at = after(at)
            more = expect(at, ",}") == ","
            at = after(at + 1) if more else at
        if after(at + 1) != len(text):
            raise FileFormatError(f"{place}: not valid JSON: text follows the last bracket")
    except (ValueError, RecursionError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"{place}: not valid JSON: {error}") from error


def whole(entry: Any, name: str, where: str) -> int:
    """A field that is a whole number, not negative."""
    found = field(entry, name, where)
    found = int(found) if isinstance(found, float) and found.is_integer() else found
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 2**62:
        raise FileFormatError(f"{where}.{name}: expected a whole number, found {found!r:.60}")
    return found


def flag(entry: Any, name: str, where: str) -> bool:
    """A field that is true or false (or 1 or 0)."""
    found = field(entry, name, where)
    if not isinstance(found, (int, float)) or found not in (0, 1):
        raise FileFormatError(f"{where}.{name}: expected true or false, found {found!r:.60}")
    return bool(found)


def keypoints(entry: Any, name: str, where: str) -> NDArray[np.float64]:
    """x, y, v of the 21 joints (21, 3)."""
    return numbers(entry, name, (63,), where).reshape(21, 3)


def box(entry: Any, name: str, where: str) -> NDArray[np.float64]:
    """x, y, width, height as x0, y0, x1, y1; FileFormatError unless it has some extent."""
    x, y, width, height = numbers(entry, name, (4,), where)
    if width < 0 or height < 0 or width + height <= 0:
        raise FileFormatError(
            f"{where}.{name}: expected x, y and a positive size, found {[x, y, width, height]}"
        )
    return np.array([x, y, x + width, y + height])


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image, and of no hidden file."""
    return name.lower().endswith((".jpg", ".jpeg", ".png")) and not name.startswith(".")


def missing_images(names: Sequence[str], advice: str) -> list[Problem]:
    """Problems for images that are not there: the first few by name, then how many more."""
    told = [
        Problem(file=name, what=f"{name}: there is no such image; {advice}")
        for name in names[:NAMED]
    ]
    if len(names) > NAMED:
        what = f"{len(names) - NAMED} images more are not there; {advice}"
        told.append(Problem(file=names[NAMED], what=what))
    return told
