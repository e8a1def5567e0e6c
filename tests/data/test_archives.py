"""The tables of archives: kept, and made anew when an archive changes."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from handhold.data import archives
from handhold.data.files import Files


def write(path: Path, names: dict[str, bytes]) -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, data in names.items():
                packed.writestr(name, data)
        return
    source = path.with_name("source")
    with tarfile.open(path, "w") as packed:
        for name, data in names.items():
            source.write_bytes(data)
            packed.add(source, name)
    source.unlink()


@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_table_is_kept_and_follows_changes(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache = tmp_path / f"set.{ending}", tmp_path / "cache"
    tops = ("top",)
    first = {"above/top/a.txt": b"first " * 50, "above/top/é\udcff.txt": b"2", "else.txt": b"no"}
    if ending == "zip":
        first = {name.replace("\udcff", ""): data for name, data in first.items()}
    write(root, first)
    read: list[Path] = []
    plain = archives._members

    def counted(archive: Path) -> object:
        read.append(archive)
        return plain(archive)

    monkeypatch.setattr(archives, "_members", counted)
    for _ in range(2):
        files = Files(root, tops, cache=cache)
        assert files.list() == ["top"] and len(files.list("top")) == 2
        assert files.read("top/a.txt") == b"first " * 50
        assert all(files.read(f"top/{name}") == b"2" for name in files.list("top")[1:])
        assert not files.has("else.txt")
    assert len(read) == 1
    assert Files(root, ("above",), cache=cache).has("above/top/a.txt")  # of another set
    assert len(read) == 2

    status = root.stat()
    write(root, {"b/top/a.txt": b"second", "top/new.txt": b""})
    os.utime(root, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    files = Files(root, tops, cache=cache)
    assert files.list("top") == ["a.txt", "new.txt"] and files.read("top/a.txt") == b"second"
    assert len(read) == 3

    (kept,) = (cache / "archives").iterdir()
    kept.write_bytes(kept.read_bytes()[:-30])
    assert Files(root, tops, cache=cache).read("top/a.txt") == b"second"
    assert len(read) == 4
    assert Files(root, tops, cache=cache).list("top") == ["a.txt", "new.txt"]
    assert len(read) == 4


def test_without_a_place_to_keep_it(tmp_path: Path) -> None:
    write(tmp_path / "set.zip", {"top/a.txt": b"a"})
    (tmp_path / "file").write_text("")
    assert Files(tmp_path / "set.zip", ("top",), cache=tmp_path / "file").read("top/a.txt") == b"a"
