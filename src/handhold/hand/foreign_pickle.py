"""Pickles from elsewhere, read as data: nothing in them can run code.

Body models and data sets ship as pickles of dictionaries, NumPy arrays, scipy.sparse matrices and
chumpy objects, most of them written by Python 2. Here every class and function that such a file may
name is replaced by an inert stand-in of this module; even NumPy's own constructors are not called
with what the file says before it has been checked. Any other name is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.errors import FileFormatError

MAX_BYTES = 64 * 2**20
MAX_TUPLES = 20_000
MAX_DEPTH = 40
MAX_DENSE = 2**24

DTYPES = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))
TEXT_DTYPE = re.compile(r"[SU]\d{1,4}")  # numpy.str_ and numpy.bytes_
PLAIN = (bool, int, float, str, bytes, bytearray, np.generic)
REFUSED_OPCODES = frozenset(
    ("PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER", "INST", "OBJ")
)
TUPLE_OPCODES = frozenset(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"))
TEXT_LINES = {"STRING": 1, "UNICODE": 1, "GLOBAL": 2}
MEMO_OPCODES = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))


class _Refused(Exception):
    """Raised inside the reader; becomes a FileFormatError that names the file."""


class _Function:
    """A callable the file may name. Nothing can be set on it."""

    __slots__ = ("_body",)

    def __init__(self, body: Callable[..., Any]) -> None:
        self._body = body

    def __call__(self, *args: Any) -> Any:
        return self._body(*args)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("tries to change a function")


class _StandIn:
    """An object that keeps the state given to it, once, without looking at it."""

    __slots__ = ("state",)
    state: Any

    def __new__(cls) -> Any:
        new = object.__new__(cls)
        new.state = None
        return new

    def __setstate__(self, state: Any) -> None:
        if self.state is not None:
            raise _Refused("gives an object its state twice")
        self.state = state

    def fields(self) -> dict[str, Any]:
        """The state as a dictionary with text keys."""
        if not isinstance(self.state, dict):
            raise _Refused(f"holds a {type(self).__name__.lstrip('_')} without its fields")
        return self.state


class _Object(_StandIn):
    """Python's `object`, as the base named by protocol 0 and 1."""

    __slots__ = ()


class _NumpyArray(_StandIn):
    """numpy.ndarray: state (version, shape, dtype, fortran order, bytes)."""

    __slots__ = ()


class _Dtype(_StandIn):
    """numpy.dtype: a plain code, then a state that holds the byte order."""

    __slots__ = ("code",)
    code: str

    def resolve(self) -> np.dtype[Any]:
        order = "<"
        if self.state is not None:
            if not isinstance(self.state, tuple) or len(self.state) < 5:
                raise _Refused("holds a malformed dtype")
            order = self.state[1]
            if order not in ("<", ">", "|", "=") or any(x is not None for x in self.state[2:5]):
                raise _Refused("holds a structured dtype; plain numbers were expected")
        return np.dtype(("<" if order in ("|", "=") else order) + self.code)


class _Ready(_StandIn):
    """An array that is already complete."""

    __slots__ = ()


class _Csc(_StandIn):
    __slots__ = ()


class _Csr(_StandIn):
    __slots__ = ()


class _Ch(_StandIn):
    """chumpy.Ch: the array is `x`."""

    __slots__ = ()


class _ChSelect(_StandIn):
    """chumpy's Select: elements `idxs` of the flattened `a`, in `preferred_shape`."""

    __slots__ = ()


def _make_dtype(code: Any, *_: Any) -> _Dtype:
    text = code.lstrip("<>|=") if isinstance(code, str) else ""
    if text not in DTYPES and not TEXT_DTYPE.fullmatch(text):
        raise _Refused(f"holds an array of type {code!r}; plain numbers were expected")
    result = _Dtype()
    result.code = text
    if code[0] == ">":
        result.state = (3, ">", None, None, None)
    return result


def _make_array(kind: Any, *_: Any) -> _NumpyArray:
    if kind is not _NumpyArray:
        raise _Refused("holds an array of an unusual class")
    return _NumpyArray()


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any = "C") -> _Ready:
    result = _Ready()
    result.state = _array(raw, dtype, shape, order == "F")
    return result


def _make_scalar(dtype: Any, raw: Any) -> _Ready:
    result = _Ready()
    result.state = _array(raw, dtype, (), False)[()]
    return result


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused("holds an unusual encoding")
    return text.encode("latin1")


def _reconstruct(kind: Any, base: Any = None, state: Any = None) -> _StandIn:
    if not (isinstance(kind, type) and issubclass(kind, _StandIn)) or state is not None:
        raise _Refused("rebuilds an object of an unusual class")
    return kind()


def _as_list(items: Any = ()) -> list[Any]:
    if not isinstance(items, list | tuple):
        raise _Refused("holds an unusual set")
    return list(items)


def _no_bytes() -> bytes:
    """Protocol 2 writes empty bytes as a call."""
    return b""


def _array(raw: Any, dtype: Any, shape: Any, fortran: Any) -> NDArray[Any]:
    """The array, after checking that shape, type and number of bytes agree."""
    if isinstance(raw, str):
        raw = raw.encode("latin1")
    if not isinstance(raw, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise _Refused("holds an array without plain numbers")
    if not isinstance(shape, tuple) or len(shape) > 8:
        raise _Refused("holds an array without a plain shape")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise _Refused("holds an array without a plain shape")
    plain = dtype.resolve()
    if math.prod(shape) * plain.itemsize != len(raw):
        raise _Refused(f"holds an array of shape {shape} with {len(raw)} bytes of {plain}")
    values = np.frombuffer(bytes(raw), dtype=plain)
    values = values.reshape(shape, order="F" if fortran else "C")
    return np.array(values, dtype=plain.newbyteorder("="), order="C")


_NUMPY_CORES = ("numpy.core", "numpy._core")
_SPARSE = {"csc": _Csc, "csr": _Csr}
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NumpyArray,
    ("numpy", "dtype"): _Function(_make_dtype),
    ("_codecs", "encode"): _Function(_encode),
    ("copy_reg", "_reconstructor"): _Function(_reconstruct),
    ("copyreg", "_reconstructor"): _Function(_reconstruct),
    ("__builtin__", "object"): _Object,
    ("builtins", "object"): _Object,
    ("__builtin__", "set"): _Function(_as_list),
    ("builtins", "set"): _Function(_as_list),
    ("__builtin__", "bytes"): _Function(_no_bytes),
    ("chumpy", "Ch"): _Ch,
    ("chumpy.ch", "Ch"): _Ch,
    ("chumpy.reordering", "Select"): _ChSelect,
}
for _core in _NUMPY_CORES:
    ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _Function(_make_array)
    ALLOWED[f"{_core}.multiarray", "scalar"] = _Function(_make_scalar)
    ALLOWED[f"{_core}.numeric", "_frombuffer"] = _Function(_from_buffer)
for _format, _class in _SPARSE.items():
    for _module in (f"scipy.sparse.{_format}", f"scipy.sparse._{_format}", "scipy.sparse"):
        ALLOWED[_module, f"{_format}_matrix"] = _class
        ALLOWED[_module, f"{_format}_array"] = _class


class _DataUnpickler(pickle.Unpickler):
    """An unpickler that knows the names of `ALLOWED` and nothing else."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        found = ALLOWED.get((module_name, global_name))
        if found is None:
            raise _Refused(f"names {module_name}.{global_name}, which plain data does not need")
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("refers to objects outside the file")


def _scan(data: bytes) -> None:
    """Walk over the opcodes without running them; refuse what plain data does not need."""
    stream = io.BytesIO(data)
    opcodes = {opcode.code: opcode for opcode in pickletools.opcodes}
    memos = tuples = 0
    while True:
        code = stream.read(1)
        opcode = opcodes.get(code.decode("latin1"))
        if not code or opcode is None:
            raise _Refused("ends too early" if not code else "is not a pickle")
        if opcode.name in REFUSED_OPCODES:
            raise _Refused(f"uses the opcode {opcode.name}")
        argument: Any = None
        if opcode.name in TEXT_LINES:  # pickletools cannot decode Python 2's bytes
            for _ in range(TEXT_LINES[opcode.name]):
                if not stream.readline().endswith(b"\n"):
                    raise _Refused("ends too early")
        elif opcode.arg is not None:
            argument = opcode.arg.reader(stream)
        memos += opcode.name in MEMO_OPCODES
        tuples += opcode.name in TUPLE_OPCODES
        if opcode.name in MEMO_OPCODES and int(argument) > memos:
            raise _Refused("claims an unreasonable amount of memory")
        if tuples > MAX_TUPLES:
            raise _Refused("is nested unreasonably")
        if opcode.name == "STOP":
            return


class _Resolver:
    """Turns stand-ins into NumPy arrays, each once."""

    def __init__(self) -> None:
        self._done: dict[int, Any] = {}
        self._open: set[int] = set()

    def __call__(self, value: Any, depth: int = 0) -> Any:
        if value is None or isinstance(value, PLAIN):
            return value
        if not isinstance(value, _StandIn | dict | list | tuple):
            raise _Refused("holds a class or a function where data was expected")
        key = id(value)
        if key in self._done:
            return self._done[key]
        if key in self._open or depth > MAX_DEPTH:
            raise _Refused("is nested unreasonably")
        self._open.add(key)
        result = self._resolve(value, depth + 1)
        self._open.discard(key)
        self._done[key] = result
        return result

    def _resolve(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            if not all(k is None or isinstance(k, PLAIN) for k in value):
                raise _Refused("holds a dictionary with unusual keys")
            return {k: self(v, depth) for k, v in value.items()}
        if isinstance(value, list):
            return [self(v, depth) for v in value]
        if isinstance(value, tuple):
            return tuple(self(v, depth) for v in value)
        if isinstance(value, _NumpyArray):
            state = value.state
            if not isinstance(state, tuple) or len(state) not in (4, 5):
                raise _Refused("holds an array without its numbers")
            shape, dtype, fortran, raw = state[-4:]
            return _array(raw, dtype, shape, fortran)
        if isinstance(value, _Ready):
            return value.state
        if isinstance(value, _Csc | _Csr):
            return self._dense(value, depth)
        if isinstance(value, _Ch):
            return np.asarray(self._numbers(value.fields().get("x"), depth))
        if isinstance(value, _ChSelect):
            return self._select(value, depth)
        raise _Refused(f"holds a {type(value).__name__.lstrip('_')} where data was expected")

    def _numbers(self, value: Any, depth: int) -> NDArray[Any]:
        found = self(value, depth)
        if isinstance(found, list | tuple) and not all(isinstance(n, int | float) for n in found):
            raise _Refused("holds something else than numbers in an array")
        array = np.asarray(found)
        if array.dtype.kind not in "biuf":
            raise _Refused("holds something else than numbers in an array")
        return array

    def _select(self, value: _ChSelect, depth: int) -> NDArray[Any]:
        fields = value.fields()
        source = self._numbers(fields.get("a"), depth).reshape(-1)
        places = self._numbers(fields.get("idxs"), depth).reshape(-1)
        if places.dtype.kind not in "iu" or (
            places.size and not 0 <= int(places.min()) <= int(places.max()) < source.size
        ):
            raise _Refused("selects elements that do not exist")
        chosen = source[places]
        shape = fields.get("preferred_shape")
        if shape is None:
            return chosen
        wanted = tuple(int(n) for n in self._numbers(shape, depth).reshape(-1))
        if math.prod(wanted) != chosen.size or any(n < 0 for n in wanted):
            raise _Refused(f"selects {chosen.size} elements for the shape {wanted}")
        return chosen.reshape(wanted)

    def _dense(self, value: _StandIn, depth: int) -> NDArray[Any]:
        """The full matrix of a compressed one, after checking every index."""
        fields = value.fields()
        data, inner, starts, shape = (
            self._numbers(fields.get(name), depth).reshape(-1)
            for name in (
                "data",
                "indices",
                "indptr",
                "_shape" if "_shape" in fields else "shape",
            )
        )
        if len(shape) != 2 or any(a.dtype.kind not in "iu" for a in (inner, starts, shape)):
            raise _Refused("holds a malformed sparse matrix")
        rows, columns = (int(n) for n in shape)
        outer, limit = (columns, rows) if isinstance(value, _Csc) else (rows, columns)
        fits = rows >= 0 and columns >= 0 and rows * columns <= MAX_DENSE
        fits = fits and starts.size == outer + 1 and inner.size == data.size
        counts = np.diff(starts.astype(np.int64))
        fits = fits and int(starts[0]) == 0 and int(starts[-1]) == data.size
        fits = fits and bool((counts >= 0).all())
        fits = fits and (data.size == 0 or 0 <= int(inner.min()) <= int(inner.max()) < limit)
        if not fits:
            raise _Refused("holds a malformed sparse matrix")
        major = np.repeat(np.arange(outer), counts)
        dense = np.zeros((rows, columns), data.dtype if data.dtype.kind == "f" else np.float64)
        place = (inner, major) if isinstance(value, _Csc) else (major, inner)
        np.add.at(dense, place, data)
        return dense


def read_foreign_pickle(data: bytes, source: str) -> Any:
    """What a pickle holds: dictionaries, lists, tuples, text, numbers and NumPy arrays.

    Python 2 text is read as Latin-1. chumpy objects and sparse matrices come out as full arrays.
    source: the file's name for messages. Raises FileFormatError when the file is damaged, larger
    than 64 MiB, or holds anything but data; nothing in it is ever executed.
    """
    if len(data) > MAX_BYTES:
        raise FileFormatError(
            f"{source}: {len(data)} bytes, expected at most {MAX_BYTES} for a pickle"
        )
    try:
        _scan(data)
        return _Resolver()(_DataUnpickler(io.BytesIO(data), encoding="latin1").load())
    except _Refused as error:
        raise FileFormatError(f"{source}: refused, the pickle {error}") from None
    except Exception as error:  # the unpickler raises many kinds on damaged files
        reason = f"{type(error).__name__}: {error}"
        raise FileFormatError(f"{source}: not a readable pickle ({reason})") from None
