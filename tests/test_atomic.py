"""Files that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from handhold.atomic import replacing, write_bytes, write_text


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_bytes(path, b"old")
    with replacing(path) as unfinished:
        assert unfinished.parent == tmp_path and unfinished.suffix == ".npz"
        unfinished.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    with pytest.raises(KeyError), replacing(path) as unfinished:
        unfinished.write_bytes(b"half")
        raise KeyError
    with pytest.raises(FileNotFoundError), replacing(path):
        pass  # a block that writes nothing is a mistake
    assert path.read_bytes() == b"new"
    write_text(path, "é")
    assert path.read_bytes() == "é".encode()
    assert list(tmp_path.iterdir()) == [path]
