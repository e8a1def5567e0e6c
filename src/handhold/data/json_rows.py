"""Lists of arrays in JSON, as the servers' label files hold them, read row by row.

A file of vertices has up to a gigabyte; as Python lists its numbers would take ten times as much.
"""

from __future__ import annotations

import codecs
import math
import re

import numpy as np
from numpy.typing import NDArray

from handhold.data.files import Files
from handhold.errors import FileFormatError
from handhold.fields import checked, read_json

_ROW_END = re.compile(rb"\]\s*\]")
_FLAT_END = re.compile(rb"\]")
_FLAT = re.compile(rb"\s*\[\s*\[[^\[]*\]")  # a list whose first row is a list of numbers


def read_rows(
    files: Files, name: str, shape: tuple[int, int], kind: type[np.floating] = np.float64
) -> tuple[NDArray[np.floating], dict[int, str]]:
    """The arrays (N, *shape) of a JSON file [[[x, ...], ...], ...], and what is wrong with rows:
    number -> words. Such a row holds NaN. Arrays of one row may also be written flat:
    [[x, ...], ...].

    Raises MissingFileError, and FileFormatError for a file that is cut short or no such list.
    """
    data, where = files.read(name).removeprefix(codecs.BOM_UTF8), files.place(name)
    rows: list[NDArray[np.floating]] = []
    problems: dict[int, str] = {}
    start = 0
    flat = shape[0] == 1 and _FLAT.match(data) is not None
    wanted = shape[1:] if flat else shape
    ends = (_FLAT_END if flat else _ROW_END).finditer(data)
    for end in (match.end() for match in ends):
        label = f"{where}[{len(rows)}]"
        piece = data[start:end].lstrip()
        if flat and piece == b"]":
            break  # the last bracket
        if piece[:1] != (b"," if start else b"["):
            break
        start = end
        entry = read_json(piece[1:], label)  # raises: where entries end is then unknown
        try:
            rows.append(checked(entry, wanted, label).reshape(shape).astype(kind))
        except FileFormatError as error:
            problems[len(rows)] = str(error)
            rows.append(np.full(shape, math.nan, kind))
    rest = data[start:].strip()
    if rest != b"]" and not (start == 0 and re.fullmatch(rb"\[\s*\]", rest)):
        raise FileFormatError(
            f"{where}: expected a list of arrays of {shape[0]}x{shape[1]} numbers; it is cut short "
            f"or something else after entry {len(rows) - 1}"
        )
    return np.stack(rows) if rows else np.zeros((0, *shape), kind), problems


def read_numbers(files: Files, name: str) -> tuple[NDArray[np.float64], dict[int, str]]:
    """The numbers (N,) of a JSON file [x, ...] or [[x], ...], as `read_rows` does."""
    where = files.place(name)
    found = read_json(files.read(name), where)
    if not isinstance(found, list):
        raise FileFormatError(f"{where}: expected a list of numbers")
    values = np.full(len(found), math.nan)
    problems: dict[int, str] = {}
    for i, entry in enumerate(found):
        try:
            alone = isinstance(entry, list) and len(entry) == 1
            values[i] = checked(entry[0] if alone else entry, (), f"{where}[{i}]")
        except FileFormatError as error:
            problems[i] = str(error)
    return values, problems
