"""HInt read back from a miniature in the official layout."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tests.data.miniature import flat, known_hand, project, same, write_image

from handhold.data.hint import FOLDERS, HInt, missing
from handhold.data.registry import entry, open_dataset
from handhold.errors import FileFormatError, InputError, MissingFileError

CAMERA = (100.0, 100.0, 48.0, 32.0)
CLIP = "0a1b2c3d-1111-2222-3333-444455556666"
STEMS = {
    "newdays": ("ND_abc_frame000001_l", "ND_abc_frame000001_r", "ND_abc_frame000002_r"),
    "epick": ("EK_0064_P03_10_frame_0000000249_l", "EK_0064_P03_10_frame_0000000249_r"),
    "ego4d": (f"{CLIP}_{CLIP}_505_pnr_frame_r", f"{CLIP}_{CLIP}_475_pre_30_l"),
}
OCCLUSION = [1 if k in (4, 8, 12) else 0 for k in range(21)]


def keypoints(number: int) -> np.ndarray:
    """Joints (21, 2) of a hand of the free model in front of a camera of 96x64 pixels."""
    joints = known_hand("right", number, (0.0, 0.0, 0.5)).joints
    return project(joints, CAMERA)


def write(root: Path) -> Path:
    for folder, _ in FOLDERS.values():
        kind = folder.split("_")[1]
        for number, stem in enumerate(STEMS[kind]):
            points = keypoints(number)
            low, high = points.min(0) - 1, points.max(0) + 1
            label = {
                "keypoints": points.tolist(),
                "occlusion": OCCLUSION,
                "bbox": [[*low, *high], [0, 0, 9, 9]],
            }
            place = root / folder / stem
            write_image(place.with_suffix(".jpg"), flat(40 + 20 * number, 96, 64))
            place.with_suffix(".json").write_text(json.dumps([label]))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("hint"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """New Days' and Ego4D's test folders, which may be damaged."""
    for folder in ("TEST_newdays_img", "TEST_ego4d_img"):
        shutil.copytree(root / folder, tmp_path / "copy" / folder)
    return tmp_path / "copy"


def read(root: Path, split: str, cache: Path, **options: Any) -> HInt:
    found = open_dataset("hint", root, split, cache=cache, workers=0, **options)
    assert isinstance(found, HInt)
    return found


@pytest.mark.parametrize(
    ("split", "folders", "count"),
    [
        ("test-newdays", ["TEST_newdays_img"], 3),
        ("test-epick", ["TEST_epick_img"], 2),
        ("val-ego4d-seq", ["VAL_ego4d_seq"], 2),
        ("train", ["TRAIN_newdays_img", "TRAIN_epick_img", "TRAIN_ego4d_img"], 7),
        ("test", ["TEST_newdays_img", "TEST_epick_img", "TEST_ego4d_img"], 7),
        ("all", [folder for folder, _ in FOLDERS.values()], 25),
    ],
)
def test_splits(root: Path, cache: Path, split: str, folders: list[str], count: int) -> None:
    found = read(root, split, cache)
    keys = [found.record(i).key for i in range(len(found))]
    assert len(keys) == count
    stems = [sorted(STEMS[folder.split("_")[1]]) for folder in folders]
    assert keys == [f"{f}/{s}" for f, own in zip(folders, stems, strict=True) for s in own]


def test_unknown_split(root: Path, cache: Path) -> None:
    with pytest.raises(InputError, match=r"no split 'test-visor'; expected one of .*test-epick"):
        read(root, "test-visor", cache)


def test_labels(root: Path, cache: Path) -> None:
    found = read(root, "test-newdays", cache)
    for number, stem in enumerate(STEMS["newdays"]):
        sample = found[number]
        (hand,) = sample.hands
        points = keypoints(number)
        assert sample.key == f"TEST_newdays_img/{stem}"
        assert hand.side == ("left" if stem.endswith("_l") else "right")
        same(hand.joints2d, points, 1e-3)
        same(hand.box, [*points.min(0) - 1, *points.max(0) + 1], 1e-3)
        assert hand.joints_visible is not None and hand.joints2d_valid is not None
        assert np.flatnonzero(~hand.joints_visible).tolist() == [4, 8, 12]
        assert hand.joints2d_valid.all() and hand.joints is None and hand.grasping is None
        assert sample.image.shape == (64, 96, 3)
        assert int(sample.image[5, 5, 0]) == pytest.approx(40 + 20 * number, abs=2)
        assert sample.camera.source == "default" and not sample.hands_complete


def test_image_of_ego4d_is_missing(copy: Path, tmp_path: Path) -> None:
    """One error that names the file and says how to get it; or left out when asked to."""
    lost = f"{CLIP}_{CLIP}_505_pnr_frame_r"
    (copy / "TEST_ego4d_img" / f"{lost}.jpg").unlink()
    cache = tmp_path / "cache"
    with pytest.raises(MissingFileError) as told:
        read(copy, "test-ego4d", cache)
    assert f"TEST_ego4d_img/{lost}.jpg" in str(told.value)
    assert "file number 506" in str(told.value) and f"Ego4D's clip {CLIP}" in str(told.value)
    assert "missing_images" in str(told.value)
    assert len(read(copy, "test-newdays", cache)) == 3  # another folder is not concerned
    left = read(copy, "test-ego4d", cache, skip=("missing_images",))
    assert [left.record(i).key for i in range(len(left))] == [
        f"TEST_ego4d_img/{CLIP}_{CLIP}_475_pre_30_l"
    ]
    assert left.index.dropped == {"no image": 1}
    with pytest.warns(UserWarning, match=f"{lost}.jpg: there is no such image"):
        assert len(read(copy, "all", cache)) == 4
    assert any(
        f"1 images of TEST_ego4d_img: {lost}.jpg: cut frame" in x for x in missing(left.files)
    )
    with pytest.raises(MissingFileError, match="TEST_epick_img: no such folder; test needs it"):
        read(copy, "test", cache)


NAME = "TEST_newdays_img/ND_abc_frame000001_r"


@pytest.mark.parametrize(
    ("field", "change", "told"),
    [
        ("keypoints", [[1.0, 2.0]] * 20, "keypoints: expected 21x2 numbers"),
        ("keypoints", [[1.0, float("nan")]] * 21, "keypoints: holds NaN"),
        ("keypoints", [[10**400, 1]] * 21, "keypoints: expected numbers"),
        ("occlusion", [0] * 20, "occlusion: expected 21 numbers"),
        ("occlusion", [2] * 21, "occlusion: expected numbers from 0 to 1"),
        ("bbox", [1, 2, 3, 4], r"bbox\[0\]: expected 4 numbers"),
        ("bbox", [[30, 2, 3, 4]], "bbox: expected x0 < x1"),
        ("bbox", None, "field 'bbox' is missing"),
    ],
)
def test_damaged_labels(copy: Path, tmp_path: Path, field: str, change: object, told: str) -> None:
    """Named in the problems, without a row."""
    path = copy / f"{NAME}.json"
    (label,) = json.loads(path.read_text())
    label.pop(field)
    path.write_text(json.dumps([label if change is None else label | {field: change}]))
    check_left_out(read(copy, "test-newdays", tmp_path / "cache"), f"{NAME}.json", told)


def check_left_out(found: HInt, file: str, told: str) -> None:
    keys = [found.record(i).key for i in range(len(found))]
    assert len(keys) == 2 and NAME not in keys
    (problem,) = found.index.problems
    assert problem.file == file and file in problem.what
    with pytest.raises(FileFormatError, match=told):
        raise FileFormatError(problem.what)


@pytest.mark.parametrize("damage", ["cut", "json", "two", "image", "no json", "twin"])
def test_damaged_files(copy: Path, tmp_path: Path, damage: str) -> None:
    path, image = copy / f"{NAME}.json", copy / f"{NAME}.jpg"
    file = f"{NAME}.jpg" if damage in ("image",) else f"{NAME}.json"
    if damage == "cut":
        path.write_text(path.read_text()[:-9])
        told = "not valid JSON"
    elif damage == "json":
        path.write_bytes(b"\xff\xfe\x00")
        told = "not valid JSON"
    elif damage == "two":
        path.write_text(json.dumps(json.loads(path.read_text()) * 2))
        told = "expected a list of one hand, found 2"
    elif damage == "image":
        image.write_bytes(image.read_bytes()[:-20])
        told = "cut short"
    elif damage == "twin":
        cv2.imwrite(str(image.with_suffix(".png")), flat(3, 96, 64))
        told = "one image of this name, found those ending in .jpg, .png"
    else:
        path.unlink()
        told = "there is no such file, but its image"
    check_left_out(read(copy, "test-newdays", tmp_path / "cache"), file, told)


def test_side_is_in_the_name(copy: Path, tmp_path: Path) -> None:
    for ending in (".json", ".jpg"):
        (copy / f"{NAME}{ending}").rename(copy / f"{NAME[:-2]}{ending}")
    found = read(copy, "test-newdays", tmp_path / "cache")
    assert len(found) == 2
    assert "ends in _l or _r" in found.index.problems[0].what


def test_image_changes_after_the_index(copy: Path, tmp_path: Path) -> None:
    """Another size is found out on reading, and the index follows the change."""
    found = read(copy, "test-newdays", tmp_path / "cache")
    write_image(copy / f"{NAME}.jpg", flat(3, 80, 64))
    with pytest.raises(FileFormatError, match=f"{NAME}.jpg: expected 96x64 pixels, found 80x64"):
        found[1]
    assert read(copy, "test-newdays", tmp_path / "cache")[1].image.shape == (64, 80, 3)


def test_zip(copy: Path, tmp_path: Path, cache: Path) -> None:
    with zipfile.ZipFile(tmp_path / "hint.zip", "w") as packed:
        for path in sorted(copy.rglob("*.*")):
            packed.write(path, f"HInt_annotation_partial/{path.relative_to(copy)}")
    found, expected = read(tmp_path / "hint.zip", "all", cache), read(copy, "all", cache)
    assert [found.record(i).key for i in range(5)] == [expected.record(i).key for i in range(5)]
    np.testing.assert_array_equal(found[4].image, expected[4].image)


def test_published_counts() -> None:
    """Training images together, as printed, are the sum of the folders'."""
    told = entry("hint").published
    folders = ("train-newdays", "train-epick", "train-ego4d")
    assert told["train"][0] == sum(told[name][0] for name in folders) == 24_098
