"""Pickles made to do harm: refused with one clear error, and nothing runs."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from handhold.errors import FileFormatError
from handhold.hand import files, foreign_pickle
from handhold.hand.foreign_pickle import read_foreign_pickle


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class Stateful:
    """Pickles as a harmless-looking object whose state would be set by BUILD."""


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "system"),
        (eval, "eval"),
        (getattr, "getattr"),
        (np.load, "load"),
        (np.frombuffer, "frombuffer"),
        (type, "type"),
        (__import__, "__import__"),
        (scipy.sparse.load_npz, "load_npz"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_calls_are_refused_by_name(tmp_path, monkeypatch, function, name, protocol):
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps({"v_template": Call(function, "echo harm > harmed")}, protocol)
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(data)
    with pytest.raises(FileFormatError) as caught:
        files.read_hand(path)
    assert str(path) in str(caught.value)
    assert name in str(caught.value)
    assert not Path("harmed").exists()


def test_other_classes_are_refused():
    for value in (Stateful(), io.BytesIO(b"x"), Path("x"), slice(1), complex(1, 2)):
        with pytest.raises(FileFormatError, match="names"):
            read_foreign_pickle(pickle.dumps(value, 2), "x")
    dotted = b"\x80\x04\x8c\x09chumpy.ch\x8c\x0bCh.__init__\x93."
    with pytest.raises(FileFormatError, match=r"Ch\.__init__"):
        read_foreign_pickle(dotted, "x")


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
FLOAT8 = b"cnumpy\ndtype\nU\x02f8\x85R"


@pytest.mark.parametrize(
    "body",
    [
        b"cnumpy\ndtype\n}U\x06__call__K\x01sb.",  # set a field of a function
        b"cnumpy\ndtype\nN}U\x05_bodyK\x01s\x86b.",  # the same through the slots
        b"cchumpy.ch\nCh\n}U\x0c__setstate__K\x01sb.",  # set a field of a class
        b"cchumpy.ch\nCh\n)\x81}U\x09__class__K\x01sb.",  # chumpy without x
        b"cchumpy.ch\nCh\n)\x81}b}b.",  # state twice
        b"cchumpy.ch\nCh\nK\x01\x85\x81.",  # arguments for a class that takes none
        b"cchumpy.ch\nCh\nK\x01\x85R.",
        b"cchumpy.ch\nCh\n.",  # the bare class as a value
        b"cnumpy\ndtype\n.",  # the bare function as a value
        b"c__builtin__\nobject\n)\x81.",
        b"ccopy_reg\n_reconstructor\ncnumpy\ndtype\nc__builtin__\nobject\nN\x87R.",
        b"cnumpy\ndtype\nU\x02O8\x85R.",  # object arrays
        b"cnumpy\ndtype\nK\x08\x85R.",
        ARRAY + b".",  # never filled
        ARRAY + b"(K\x01J\xff\xff\xff\x7f\x85" + FLOAT8 + b"\x89U\x08aaaaaaaatb.",  # too few bytes
        ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + FLOAT8 + b"\x89U\x08aaaaaaaatb.",  # negative size
        ARRAY + b"(K\x01K\x01\x85U\x02f8\x89U\x08aaaaaaaatb.",  # text for a type
        ARRAY + b"(K\x01K\x01\x85" + FLOAT8 + b"\x89](K\x01eetb.",  # a list for bytes
        b"cnumpy.core.multiarray\nscalar\n" + FLOAT8 + b"U\x03abc\x86R.",
        b"Xx.",
        b"Pabc\n.",  # persistent ids
        b"K\x01Q.",
        b"\x82\x01.",  # extension registry
        b"(ios\nsystem\n.",  # INST
        b"(cchumpy.ch\nCh\no.",  # OBJ
        b"Nr\xff\xff\xff\x7f.",  # a memo of two thousand million places
        b"B\xff\xff\xff\x7fabc.",  # two gigabytes that are not there
        b"\x96\x00\x00\x00\x00\x00\x01\x00\x00abc.",
        b")" + b"\x85" * 100_000 + b".",  # nested until the stack breaks
        b"]q\x00h\x00a.",  # a list that holds itself
        b"]" + b"](" * 200 + b"e" * 200 + b".",
        b"(cchumpy.ch\nCh\n)\x81K\x02d.",  # a dictionary keyed by objects
        b"\xff.",
        b"",
    ],
)
def test_tricks_are_refused(body):
    before = dict(foreign_pickle.ALLOWED)
    with pytest.raises(FileFormatError, match=r"^file\.pkl: "):
        read_foreign_pickle(b"\x80\x02" + body, "file.pkl")
    assert before == foreign_pickle.ALLOWED
    assert read_foreign_pickle(pickle.dumps(np.arange(3), 2), "x").tolist() == [0, 1, 2]


def test_shared_lists_do_not_explode():
    value = ["x"]
    for _ in range(35):
        value = [value, value]
    found = read_foreign_pickle(pickle.dumps(value, 2), "x")
    assert found[0] is found[1]


def test_shared_lists_do_not_explode_into_an_array():
    nested = [1, 2]
    for _ in range(30):
        nested = [nested, nested]
    inner = pickle.dumps({"x": nested}, 2)[2:-1]
    with pytest.raises(FileFormatError, match="numbers"):
        read_foreign_pickle(b"\x80\x02cchumpy.ch\nCh\n)\x81" + inner + b"b.", "x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("indices", np.array([0, 99], np.int32)),
        ("indices", np.array([0, -1], np.int32)),
        ("indptr", np.array([0, 3, 1, 2], np.int32)),
        ("indptr", np.array([0, 2], np.int32)),
        ("_shape", (2**30, 2**30)),
        ("_shape", (4, 3, 1)),
        ("data", np.zeros(5)),
        ("data", "text"),
    ],
)
def test_malformed_sparse_matrices(name, value):
    state = {
        "_shape": (4, 3),
        "data": np.array([1.0, 2.0]),
        "indices": np.array([0, 2], np.int32),
        "indptr": np.array([0, 1, 1, 2], np.int32),
    }

    def pickled(fields):
        inner = pickle.dumps(fields, 2)[2:-1]
        return b"\x80\x02cscipy.sparse.csc\ncsc_matrix\n)\x81" + inner + b"b."

    truth = scipy.sparse.csc_matrix(([1.0, 2.0], [0, 2], [0, 1, 1, 2]), (4, 3)).toarray()
    np.testing.assert_array_equal(read_foreign_pickle(pickled(state), "x"), truth)
    with pytest.raises(FileFormatError, match=r"^x: "):
        read_foreign_pickle(pickled({**state, name: value}), "x")


def test_flipped_bytes_never_escape():
    """Whatever single bytes become, the reader answers with data or with its own error."""
    small = {"weights": np.arange(4.0).reshape(2, 2), "ids": np.arange(3)}
    small["m"] = scipy.sparse.csc_matrix(np.eye(3))
    data = pickle.dumps(small, 2)
    rng = np.random.default_rng(2)
    for _ in range(3000):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            damaged[place] = rng.integers(0, 256)
        try:
            read_foreign_pickle(bytes(damaged), "x")
        except FileFormatError:
            continue
