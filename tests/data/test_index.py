"""When the index is made anew, and what tells that an image is whole."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.miniature import flat, write_image

from handhold.data import index
from handhold.data.images import check_image_end
from handhold.data.registry import open_dataset
from handhold.errors import FileFormatError

FOLDER = "TEST_newdays_img"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for stem in ("a_l", "b_r"):
        label = {"keypoints": [[3, 4]] * 21, "occlusion": [0] * 21, "bbox": [[1, 2, 30, 40]]}
        write_image(tmp_path / "set" / FOLDER / f"{stem}.png", flat(3, 96, 64))
        (tmp_path / "set" / FOLDER / f"{stem}.json").write_text(json.dumps([label]))
    return tmp_path / "set"


def damaged(root: Path, *, thorough: bool = False) -> int:
    cache = root.parent / "cache"
    found = open_dataset("hint", root, "test-newdays", cache=cache, workers=0, thorough=thorough)
    return len(found.index.problems)


def overwrite(path: Path, data: bytes) -> None:
    """In place: the folder's time stays."""
    folder = path.parent.stat()
    path.write_bytes(data)
    os.utime(path.parent, ns=(folder.st_atime_ns, folder.st_mtime_ns))


def test_files_changed_in_place(root: Path) -> None:
    assert damaged(root) == 0
    image = root / FOLDER / "a_l.png"
    whole = image.read_bytes()
    overwrite(image, whole[:-20])
    assert damaged(root) == 1
    overwrite(image, whole)
    assert damaged(root) == 0
    overwrite(root / FOLDER / "b_r.json", b"[]")
    assert damaged(root) == 1


def test_many_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too many to look at, a thorough opening sees one that was changed in place, any opening
    one that came or went."""
    monkeypatch.setattr(index, "FEW_WATCHED", 1)
    assert damaged(root) == damaged(root, thorough=True) == 0
    overwrite(root / FOLDER / "b_r.json", b"[]")
    assert damaged(root) == 0
    assert damaged(root, thorough=True) == 1
    assert damaged(root) == 1
    (root / FOLDER / "c_r.json").write_text("[")
    os.utime(root / FOLDER, ns=(0, 10**9))
    assert damaged(root) == 2


def encoded(kind: str, **options: bool) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    exif = Image.Exif()
    exif[0x010E] = "a thumbnail \udcff"[:-1]
    Image.fromarray(noise).save(file, kind, exif=exif, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        encoded("JPEG"), encoded("JPEG", progressive=True), encoded("PNG"), encoded("WEBP"),
        encoded("TIFF"),
    ],
    ids=["jpeg", "progressive", "png", "webp", "tiff"],
)  # fmt: skip
def test_end_of_images(data: bytes) -> None:
    """Whole, with a film behind it, cut short, cut short and filled with zeros."""
    check_image_end(data, "x")
    if data[:4] != b"RIFF":
        check_image_end(data + b"\1" * 3000, "x")
    for part in (0.0, 0.3, 0.7, 0.95):
        rest = data[: int(len(data) * part)]
        with pytest.raises(FileFormatError, match="x: the image is cut short"):
            check_image_end(rest, "x")
        if data[:4] not in (b"RIFF", b"II*\0"):
            with pytest.raises(FileFormatError, match="x: the image is cut short"):
                check_image_end(rest + bytes(len(data) - len(rest)), "x")
