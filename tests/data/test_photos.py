"""Photo folders: labels arrive as written, mistakes are named, sequences are never divided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from handhold.data.photos import Holdout, Photo, PhotoFolder, groups, held_out, photo_camera
from handhold.errors import FileFormatError, InputError, MissingFileError


def hand(**changes: Any) -> dict[str, Any]:
    joints = [[10.0 + i, 20.5 + 2 * i] for i in range(21)]
    return {
        "side": "left",
        "joints_2d": joints,
        "visible": [1] * 21,
        "box": [10.0, 20.5, 30.0, 60.5],
        "holding": False,
    } | changes


def photo(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "file": f"images/{number}.png",
        "width": 80,
        "height": 60,
        "sequence": f"s/{number // 4}",
        "complete": True,
        "hands": [hand()],
    } | changes


def write(root: Path, photos: list[dict[str, Any]]) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for i, entry in enumerate(photos):
        image = np.full((60, 80, 3), i, np.uint8)
        image[0, 0] = (255, 10, 3)
        cv2.imwrite(str(root / entry["file"]), image[..., ::-1])
    (root / "labels.json").write_text(json.dumps({"photos": photos}))
    return root


def test_labels_arrive_as_written(tmp_path: Path) -> None:
    second = hand(side="right", holding=None, visible=[1] * 20 + [0])
    second["joints_2d"] = [*second["joints_2d"][:20], [float("nan"), 0]]
    write(tmp_path, [photo(0), photo(1, complete=None, hands=[hand(holding=True), second])])
    folder = PhotoFolder(tmp_path)
    assert folder.hands == [1, 2]
    plain, other = folder
    assert plain.key == "images/0.png" and plain.image[0, 0].tolist() == [255, 10, 3]
    assert plain.hands_complete and not other.hands_complete  # null does not count as complete
    left, right = other.hands
    assert (left.side, left.grasping, right.side, right.grasping) == ("left", True, "right", None)
    assert left.joints2d is not None and left.joints2d[20].tolist() == [30.0, 60.5]
    assert left.box is not None and left.box.tolist() == [10.0, 20.5, 30.0, 60.5]
    assert right.joints2d_valid is not None and right.joints2d is not None
    assert right.joints2d_valid.tolist() == [True] * 20 + [False]
    assert right.joints2d[20].tolist() == [0, 0]


def test_camera_from_exif_or_sixty_degrees(tmp_path: Path) -> None:
    write(tmp_path, [photo(0)])
    default = photo_camera(tmp_path / "images/0.png", 80, 60)
    assert default.source == "default"
    assert default.intrinsics[0, 0] == pytest.approx(50 / np.tan(np.radians(30)))  # diagonal 100
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 26  # FocalLengthIn35mmFilm
    Image.new("RGB", (80, 60)).save(tmp_path / "x.jpg", exif=exif)
    known = photo_camera(tmp_path / "x.jpg", 80, 60)
    assert known.source == "exif"
    assert known.intrinsics[0, 0] == pytest.approx(26 / np.hypot(36, 24) * 100)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (photo(0, hands=[hand(side="both")]), r"images/0\.png.*hands\[0\]\.side: .*'both'"),
        (
            photo(0, hands=[hand(joints_2d=[[1, 2]] * 20)]),
            "joints_2d: expected 21x2 numbers",
        ),
        (
            photo(0, hands=[hand(visible=[1] * 3)]),
            "visible: expected 21 numbers, found",
        ),
        (photo(0, hands=[hand(box=[5, 5, 5, 9])]), "box: expected x0 < x1"),
        (photo(0, hands=[hand(holding="no")]), "holding: expected bool or null, found 'no'"),
        (photo(0, hands=[hand(joints_2d=[["a", 1]] * 21)]), "joints_2d: expected numbers"),
        (photo(0, hands=[hand(joints_2d=[[float("inf"), 1]] * 21)]), "is not finite"),
        (photo(0, width=True), "width: expected int, found True"),
        (photo(0, sequence=None), "sequence: expected str"),
        ({"width": 3}, r"photos\[0\]: the field 'file' is missing"),
    ],
)
def test_mistakes_name_photo_and_field(tmp_path: Path, entry: Any, message: str) -> None:
    (tmp_path / "labels.json").write_text(json.dumps({"photos": [entry]}))
    with pytest.raises(FileFormatError, match=message):
        PhotoFolder(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"labels\.json: not found"):
        PhotoFolder(tmp_path)
    write(tmp_path, [photo(0), photo(1), photo(2)])
    (tmp_path / "images/1.png").unlink()
    with pytest.raises(
        MissingFileError, match=r"1 of 3 labelled images are missing: images/1\.png"
    ):
        PhotoFolder(tmp_path)
    write(tmp_path, [photo(0, width=81)])
    with pytest.raises(FileFormatError, match="says 81x60, but the image is 80x60"):
        PhotoFolder(tmp_path)[0]
    (tmp_path / "labels.json").write_text("{")
    with pytest.raises(FileFormatError, match="not valid JSON"):
        PhotoFolder(tmp_path)


def _photos(sequences: dict[str, int]) -> list[Photo]:
    return [
        Photo(
            file=f"{name}/{i}",
            width=1,
            height=1,
            sequence=name,
            source=name.split("/")[0],
            number=(i * 7) % count,  # the order in the list is not the source's own
            complete=True,
            hands=(),
        )
        for name, count in sequences.items()
        for i in range(count)
    ]


def test_sequences_stay_whole_and_shares_are_met() -> None:
    photos = _photos({**{f"a/{i}": 20 + i for i in range(20)}, **{f"b/{i}": 9 for i in range(15)}})
    chosen = held_out(photos, Holdout(fraction=0.2))
    for name in {x.sequence for x in photos}:
        inside = [x.file in chosen for x in photos if x.sequence == name]
        assert all(inside) or not any(inside)
    for source in "ab":
        share = np.mean([x.file in chosen for x in photos if x.source == source])
        assert 0.2 <= share <= 0.3
    assert held_out(photos[::-1], Holdout(fraction=0.2)) == chosen
    assert held_out(photos, Holdout(fraction=0.2, seed=1)) != chosen


def test_a_large_sequence_is_cut_into_runs_of_neighbours() -> None:
    photos = _photos({"c/all": 801, "d/0": 10})
    names = groups(photos, Holdout(large=500, blocks=8))
    assert len(set(names)) == 9
    for name in set(names) - {"d/0"}:
        numbers = sorted(x.number for x, y in zip(photos, names, strict=True) if y == name)
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert 100 <= len(numbers) <= 101
    chosen = held_out(photos, Holdout(fraction=0.1))
    assert len(chosen) in (100, 101) and all(file.startswith("c/") for file in chosen)


def test_parts_divide_the_folder(tmp_path: Path) -> None:
    write(tmp_path, [photo(i) for i in range(40)])
    rule = Holdout(fraction=0.25)
    train, held = (PhotoFolder(tmp_path, part, holdout=rule) for part in ("train", "held_out"))
    files = [{x.file for x in part.photos} for part in (train, held)]
    assert not files[0] & files[1] and len(files[0] | files[1]) == 40 and len(files[1]) == 12
    with pytest.raises(InputError, match="expected all, train or held_out"):
        PhotoFolder(tmp_path, "test")  # type: ignore[arg-type]
