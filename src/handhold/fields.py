"""Values out of JSON and other foreign files; every error names the file and the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.errors import FileFormatError

LARGEST = 1e9  # pixels or metres that a label may hold; larger ones are damage


def read_json(data: bytes | str, where: str) -> Any:
    """What a small JSON file holds; FileFormatError names the file."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{where}: not valid JSON: {error}") from error


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """The value where it is an object of JSON; else FileFormatError."""
    if not isinstance(value, Mapping):
        raise FileFormatError(f"{where}: expected an object, found {_kind(value)}")
    return value


def field(entry: Any, name: str, where: str, *kinds: type) -> Any:
    """A field of an object; FileFormatError where it is missing or of none of the kinds (default:
    any; true and false are no `int`; 96.0 is one, as in JSON)."""
    if name not in mapping(entry, where):
        raise FileFormatError(f"{where}: the field {name!r} is missing")
    value = entry[name]
    if int in kinds and float not in kinds and isinstance(value, float) and value.is_integer():
        value = int(value)
    fits = isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)
    if kinds and not fits:
        wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise FileFormatError(f"{where}.{name}: expected {wanted}, found {value!r:.60}")
    return value


def numbers(
    entry: Any, name: str, shape: tuple[int | None, ...], where: str, *, finite: bool = True
) -> NDArray[np.float64]:
    """A field that holds numbers of a shape, as `checked` says."""
    return checked(field(entry, name, where), shape, f"{where}.{name}", finite=finite)


def checked(
    value: Any, shape: tuple[int | None, ...], where: str, *, finite: bool = True
) -> NDArray[np.float64]:
    """Numbers as float64 of a shape (None: any size); FileFormatError names the field."""
    try:
        given = np.asarray(value)
        if given.dtype.kind not in "biufO":  # a text of digits is no number
            raise TypeError(f"found {given.dtype.name}")
        array = given.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise FileFormatError(f"{where}: expected numbers: {error}") from error
    fits = array.ndim == len(shape) and all(
        want in (None, got) for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = "x".join("any" if n is None else str(n) for n in shape)
        wanted = f"{wanted} numbers" if shape else "a number"
        raise FileFormatError(f"{where}: expected {wanted}, found shape {array.shape}")
    if finite and not (np.abs(array) <= LARGEST).all():
        what = "numbers above 1e9" if np.isfinite(array).all() else "NaN or infinite numbers"
        raise FileFormatError(f"{where}: holds {what}, expected finite ones of sensible size")
    return array


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
