"""Reading hand models: every form the real files come in, damaged files, and the look-up."""

import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest
import scipy.sparse

from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.hand import files, foreign_pickle
from handhold.hand.foreign_pickle import read_foreign_pickle
from handhold.hand.topology import boundary_loops

PARENTS = [4294967295, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14]


@pytest.fixture(scope="module")
def fields():
    """A made-up hand with MANO's schema, float64 like the real file."""
    rng = np.random.default_rng(0)
    faces = rng.integers(0, 778, (1538, 3)).astype(np.uint32)
    return {
        "v_template": rng.normal(size=(778, 3)),
        "shapedirs": rng.normal(size=(778, 3, 10)),
        "posedirs": rng.normal(size=(778, 3, 135)),
        "J_regressor": np.where(rng.random((16, 778)) < 0.02, rng.random((16, 778)), 0.0),
        "weights": rng.random((778, 16)),
        "kintree_table": np.array([PARENTS, list(range(16))], np.int64),
        "hands_components": rng.normal(size=(45, 45)),
        "hands_mean": rng.normal(size=45),
        "f": faces,
    }


def assert_same(read, fields):
    for name in files.SHAPES:
        if name in ("f", "kintree_table"):
            continue
        np.testing.assert_array_equal(getattr(read, name), fields[name].astype(np.float32))
    np.testing.assert_array_equal(read.faces, fields["f"])


def write(path, data):
    path.write_bytes(data)
    return path


# ----------------------------------------------------------------------- the forms of real files


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_and_sparse_of_every_protocol(fields, tmp_path, protocol):
    content = {**fields, "J_regressor": scipy.sparse.csc_matrix(fields["J_regressor"])}
    path = write(tmp_path / "MANO_RIGHT.pkl", pickle.dumps(content, protocol))
    assert_same(files.read_hand(path), fields)


@pytest.mark.parametrize("kind", ["csc_matrix", "csr_matrix", "csc_array", "csr_array"])
@pytest.mark.parametrize("module", ["scipy.sparse.{}", "scipy.sparse._{}"])
def test_sparse_matrices_of_old_and_new_scipy(fields, kind, module):
    matrix = getattr(scipy.sparse, kind)(fields["J_regressor"])
    data = pickle.dumps(matrix, 2)
    name = module.format(kind[:3])
    assert f"scipy.sparse._{kind[:3]}".encode() in data
    data = data.replace(f"scipy.sparse._{kind[:3]}".encode(), name.encode())
    np.testing.assert_array_equal(read_foreign_pickle(data, "x"), fields["J_regressor"])


def py2_text(text):
    return b"U" + bytes([len(text)]) + text


def py2_array(array, order=b"<"):
    """The opcodes that Python 2's cPickle (protocol 2) wrote for an array."""
    code = array.dtype.str[1:].encode()
    shape = b"".join(b"J" + struct.pack("<i", n) for n in array.shape)
    raw = array.astype(array.dtype.newbyteorder(order.decode())).tobytes()
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01(" + shape + b"tcnumpy\ndtype\n" + py2_text(code) + b"K\x00K\x01\x87R"
        b"(K\x03" + py2_text(order) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    )


def py2_object(module, name, state):
    """A new-style object: class, empty arguments, NEWOBJ, dictionary of fields, BUILD."""
    items = b"".join(py2_text(key) + value for key, value in state.items())
    return b"c" + module + b"\n" + name + b"\n)\x81}(" + items + b"ub"


def py2_hand(fields):
    """MANO_RIGHT.pkl as it is: chumpy objects, an old scipy matrix, Python 2."""
    sparse = scipy.sparse.csc_matrix(fields["J_regressor"])
    flat = fields["shapedirs"].reshape(-1)
    empty = b"c__builtin__\nset\n]\x85R"
    entries = {
        b"v_template": py2_object(
            b"chumpy.ch", b"Ch", {b"_dirty_vars": empty, b"x": py2_array(fields["v_template"])}
        ),
        b"shapedirs": py2_object(
            b"chumpy.reordering",
            b"Select",
            {
                b"a": py2_object(b"chumpy.ch", b"Ch", {b"x": py2_array(flat[::-1].copy())}),
                b"idxs": py2_array(np.arange(flat.size)[::-1].copy()),
                b"preferred_shape": b"(M\x0a\x03K\x03K\x0at",
            },
        ),
        b"J_regressor": py2_object(
            b"scipy.sparse.csc",
            b"csc_matrix",
            {
                b"_shape": b"(K\x10M\x0a\x03t",
                b"maxprint": b"K2",
                b"data": py2_array(sparse.data),
                b"indices": py2_array(sparse.indices),
                b"indptr": py2_array(sparse.indptr),
                b"format": py2_text(b"csc"),
            },
        ),
        b"bs_type": py2_text(b"lrotmin"),
    }
    for name in ("posedirs", "weights", "kintree_table", "hands_components", "hands_mean", "f"):
        entries[name.encode()] = py2_array(fields[name])
    return b"\x80\x02}(" + b"".join(py2_text(k) + v for k, v in entries.items()) + b"u."


def test_python2_file_with_chumpy(fields, tmp_path):
    path = write(tmp_path / "MANO_LEFT.pkl", py2_hand(fields))
    assert_same(files.read_hand(path), fields)


def test_chumpy_as_its_own_module_would_pickle_it(fields, monkeypatch):
    module = types.ModuleType("chumpy.ch")
    ch = type("Ch", (), {"__module__": "chumpy.ch", "__reduce__": _reject})
    del ch.__reduce__
    module.Ch = ch
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    monkeypatch.setitem(sys.modules, "chumpy.ch", module)
    item = ch()
    item.x = fields["weights"]
    item._itr = None
    for protocol in range(6):
        data = pickle.dumps({"weights": item}, protocol)
        assert b"chumpy" in data
        np.testing.assert_array_equal(read_foreign_pickle(data, "x")["weights"], fields["weights"])


def _reject(self):
    raise AssertionError


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">f8").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([[True, False]]),
        np.zeros((0, 3), np.float32),
        np.array(2.5),
        np.float64(2.5),
        np.int32(7),
    ],
    ids=str,
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_of_every_layout(array, protocol):
    found = read_foreign_pickle(pickle.dumps(array, protocol), "x")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("=")


def test_python2_big_endian_array():
    array = np.arange(4, dtype=np.float64)
    data = b"\x80\x02" + py2_array(array, b">") + b"."
    np.testing.assert_array_equal(read_foreign_pickle(data, "x"), array)


def test_zip_npz_and_sides(fields, tmp_path):
    archive = tmp_path / "mano_v1_2.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("__MACOSX/mano_v1_2/models/._MANO_LEFT.pkl", b"junk")
        out.writestr("mano_v1_2/models/MANO_LEFT.pkl", py2_hand(fields))
    assert_same(files.read_hand(archive, "left"), fields)
    with pytest.raises(FileFormatError, match=r"MANO_RIGHT\.pkl"):
        files.read_hand(archive, "right")
    with pytest.raises(InputError, match="side"):
        files.read_hand(archive)
    np.savez(tmp_path / "hand.npz", **fields, tips=np.arange(5))
    read = files.read_hand(tmp_path / "hand.npz")
    assert_same(read, fields)
    np.testing.assert_array_equal(read.extras["tips"], np.arange(5))


# --------------------------------------------------------------------------------- damaged files


def test_select_outside_its_source():
    inner = py2_object(b"chumpy.ch", b"Ch", {b"x": py2_array(np.arange(4.0))})
    for places in (np.array([0, 4]), np.array([-1, 2])):
        state = {b"a": inner, b"idxs": py2_array(places)}
        data = b"\x80\x02" + py2_object(b"chumpy.reordering", b"Select", state) + b"."
        with pytest.raises(FileFormatError, match="do not exist"):
            read_foreign_pickle(data, "x")


def test_damaged_files(fields, tmp_path):
    data = py2_hand(fields)
    rng = np.random.default_rng(1)
    cuts = [*range(0, 400, 7), *rng.integers(400, len(data) - 1, 15)]
    for cut in cuts:
        path = write(tmp_path / "MANO_RIGHT.pkl", data[:cut])
        with pytest.raises(FileFormatError, match=r"MANO_RIGHT\.pkl"):
            files.read_hand(path)
    for suffix in (".npz", ".zip"):
        with pytest.raises(FileFormatError, match="not a readable"):
            files.read_hand(write(tmp_path / f"MANO_RIGHT{suffix}", b"PK\x03\x04junk"), "right")


def test_npz_with_objects_is_refused(fields, tmp_path):
    objects = np.array([{}], dtype=object)
    np.savez(tmp_path / "mano_right.npz", **{**fields, "weights": objects})
    with pytest.raises(FileFormatError, match="npz of plain arrays"):
        files.read_hand(tmp_path / "mano_right.npz")


# -------------------------------------------------------------------------------------- the schema


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("posedirs", None, "posedirs is missing"),
        ("weights", np.zeros((778, 24)), r"weights: expected \(778, 16\), found \(778, 24\)"),
        ("v_template", np.full((778, 3), np.nan), "v_template: holds NaN"),
        ("hands_mean", np.zeros(45, bool), "hands_mean: expected numbers"),
        ("f", np.full((9, 3), 778), "f: expected vertex ids"),
        ("kintree_table", np.zeros((2, 16)), "kintree_table: expected the parents"),
        ("bs_type", "expmap", "bs_type: expected 'lrotmin'"),
    ],
)
def test_schema_errors(fields, tmp_path, name, value, message):
    changed = {**fields, name: value}
    if value is None:
        del changed[name]
    path = write(tmp_path / "MANO_RIGHT.pkl", pickle.dumps(changed, 2))
    with pytest.raises(FileFormatError, match=message) as caught:
        files.read_hand(path)
    assert str(path) in str(caught.value)


def test_other_contents(tmp_path):
    with pytest.raises(FileFormatError, match="expected a dictionary, found list"):
        files.read_hand(write(tmp_path / "a.pkl", pickle.dumps([1])))
    with pytest.raises(FileFormatError, match=r"found '\.obj'"):
        files.read_hand(write(tmp_path / "a.obj", b"v 0 0 0"))
    with pytest.raises(MissingFileError, match=r"b\.pkl"):
        files.read_hand(tmp_path / "b.pkl")
    with (tmp_path / "big.pkl").open("wb") as out:
        out.truncate(foreign_pickle.MAX_BYTES + 1)
    with pytest.raises(FileFormatError, match="larger"):
        files.read_hand(tmp_path / "big.pkl")


# ------------------------------------------------------------------------------------- looking up


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize(
    "name",
    [
        *("MANO_LEFT.pkl", "models/MANO_LEFT.pkl", "mano/MANO_LEFT.pkl"),
        *("mano_v1_2/models/MANO_LEFT.pkl", "mano_left.npz", "mano_v1_2.zip"),
    ],
)
def test_find_mano(tmp_path, monkeypatch, name):
    wanted = touch(tmp_path / name)
    assert files.find_mano(tmp_path, "left") == wanted
    monkeypatch.setenv(files.MANO_VARIABLE, str(tmp_path))
    assert files.find_mano(None, "left") == wanted


def test_find_mano_beside_a_file(tmp_path):
    left, right = touch(tmp_path / "MANO_LEFT.pkl"), tmp_path / "MANO_RIGHT.pkl"
    with pytest.raises(MissingFileError, match="MANO_RIGHT"):
        files.find_mano(left, "right")
    touch(right)
    assert files.find_mano(left, "right") == right
    assert files.find_mano(left, "left") == left


def test_find_mano_fails_clearly(tmp_path, monkeypatch):
    touch(tmp_path / "MANO_LEFT.pkl")
    with pytest.raises(MissingFileError, match=r"MANO_RIGHT\.pkl"):
        files.find_mano(tmp_path, "right")
    monkeypatch.delenv(files.MANO_VARIABLE, raising=False)
    with pytest.raises(MissingFileError, match=files.MANO_VARIABLE):
        files.find_mano(None, "right")


def test_the_free_hand_is_closed():
    arrays = files.read_hand(files.FREE_HAND)
    assert boundary_loops(arrays.faces) == []
