"""The tables of archives: kept, and made anew when an archive changes."""

from __future__ import annotations

import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from handhold.data import archives
from handhold.data.files import Files
from handhold.errors import FileFormatError


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


def test_changed_bytes_of_a_zip(tmp_path: Path) -> None:
    """A stored member has no ending to miss; its checksum tells."""
    root = tmp_path / "set.zip"
    with zipfile.ZipFile(root, "w", zipfile.ZIP_STORED) as packed:
        packed.writestr("top/a.txt", b"some labels")
    data = bytearray(root.read_bytes())
    data[data.index(b"some labels") + 3] ^= 1
    root.write_bytes(data)
    files = Files(root, ("top",), cache=tmp_path / "cache")
    with pytest.raises(FileFormatError, match=r"set\.zip: top/a\.txt: damaged: its checksum"):
        files.read("top/a.txt")


def test_odd_archives(tmp_path: Path) -> None:
    """A folder called .zip is none, nor are the hidden files of a Mac; broken ones are named, and
    compressed tars are remembered."""
    (tmp_path / "top").mkdir()
    (tmp_path / "top.zip").mkdir()
    (tmp_path / "._set.zip").write_bytes(b"\0\5\x16\7")
    (tmp_path / "more.tar.gz").write_bytes(b"\x1f\x8b")
    files = Files(tmp_path, ("top",), cache=tmp_path / "cache")
    assert not files.archives and [path.name for path in files.squeezed] == ["more.tar.gz"]
    for name, data in (("b.ZIP", b"PK\3\4"), ("c.tar", b"short")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FileFormatError, match=f"{name}: not a readable archive"):
            Files(tmp_path, ("top",), cache=tmp_path / "cache")
        (tmp_path / name).unlink()


def test_two_sets_in_one_folder(tmp_path: Path) -> None:
    """The wrong one is never taken in silence; the one that holds most of a tree is the right one,
    and two archives may hold the same file."""
    for name in ("v2/train", "v2/list.txt", "v3/train", "v3/list.txt", "other/train"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(FileFormatError, match=r"several folders hold a tree .*v2, .*v3"):
        Files(tmp_path, ("train", "list.txt"), cache=tmp_path / "cache")
    (tmp_path / "v3/list.txt").rmdir()
    assert Files(tmp_path, ("train", "list.txt")).folder == tmp_path / "v2"
    zips = tmp_path / "zips"
    zips.mkdir()
    write(zips / "a.zip", {"v2/train/1.txt": b"one", "v2/README": b"1"})
    write(zips / "b.zip", {"v2/train/1.txt": b"one", "v2/README": b"2", "v2/train/2.txt": b""})
    assert Files(zips, ("train",), cache=tmp_path / "cache").read("train/1.txt") == b"one"
    write(zips / "c.zip", {"v3/train/1.txt": b"two"})
    with pytest.raises(FileFormatError, match=r"hold different files of the name train/1\.txt"):
        Files(zips, ("train",), cache=tmp_path / "cache")
    write(zips.parent / "both.zip", {"v2/train/1.txt": b"one", "v3/train/1.txt": b"two"})
    with pytest.raises(FileFormatError, match=r"both\.zip: v2/train/1\.txt and v3/train/1\.txt"):
        Files(zips.parent / "both.zip", ("train",), cache=tmp_path / "cache")


def test_an_absurd_size_in_an_images_head(tmp_path: Path) -> None:
    """Another reader than ours would ask for forty gigabytes."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 120_000, 120_000, 8, 2, 0, 0, 0)
    chunks = [struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))]
    chunks.append(b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND")))
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    files = Files(tmp_path, ("top",), cache=tmp_path / "cache")
    with pytest.raises(FileFormatError, match=r"a\.png: expected an image"):
        files.check_image("top/a.png", (64, 64))


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "loop").symlink_to("loop")
    files = Files(tmp_path, ("top",), cache=tmp_path / "cache")
    with pytest.raises(FileFormatError, match="loop: cannot be read"):
        files.list("top/loop")
