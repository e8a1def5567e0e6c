"""COCO-WholeBody's hands read back from a miniature in the official layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data import coco_miniature as mini
from tests.data.miniature import flat, same, write_image

from handhold.data.coco import top_items
from handhold.data.coco_wholebody import CocoWholeBody
from handhold.data.registry import open_dataset
from handhold.errors import FileFormatError, MissingFileError

LABELS = "annotations/coco_wholebody_val_v1.0.json"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini.write_wholebody(tmp_path_factory.mktemp("coco"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A copy without the training half, which may be damaged."""
    shutil.copytree(root / "val2017", tmp_path / "copy/val2017")
    (tmp_path / "copy/annotations").mkdir()
    shutil.copy(root / LABELS, tmp_path / "copy" / LABELS)
    return tmp_path / "copy"


def read(root: Path, split: str, cache: Path) -> CocoWholeBody:
    found = open_dataset("coco-wholebody", root, split, cache=cache, workers=0)
    assert isinstance(found, CocoWholeBody)
    return found


def keys(found: CocoWholeBody) -> list[str]:
    return [found.record(i).key for i in range(len(found))]


def test_splits_and_rules(root: Path, cache: Path) -> None:
    """Valid and no crowd; in the file's order, left before right."""
    expected = ["val/101/left", "val/101/right", "val/102/right"]
    assert keys(read(root, "val", cache)) == expected
    train = [key.replace("val", "train") for key in expected]
    assert keys(read(root, "train", cache)) == train
    assert keys(read(root, "all", cache)) == train + expected
    found = read(root, "val", cache)
    assert found.index.dropped == {
        "no hand labelled": 3 + 4,
        "crowd": 1,
        "no extent": 0,
        "no image": 0,
    }
    assert not found.index.problems


def test_labels(root: Path, cache: Path) -> None:
    found = read(root, "val", cache)
    for i, labels in enumerate((mini.joints(0), mini.joints(1), mini.fraction())):
        sample = found[i]
        (hand,) = sample.hands
        valid = labels[:, 2] > 0
        assert hand.side == ("left", "right", "right")[i]
        assert hand.joints2d_valid is not None and hand.joints2d is not None
        assert hand.joints2d_valid.tolist() == valid.tolist()
        same(hand.joints2d[valid], labels[valid, :2], 1e-3)
        low, high = labels[valid, :2].min(0), labels[valid, :2].max(0)
        same(hand.box, [*low, *high], 1e-3)
        assert hand.joints is hand.grasping is hand.joints_visible is None
        assert sample.camera.source == "default" and not sample.hands_complete
        same(found.record(i).extra["confidence"], labels[:, 2], 1e-6)
        number = (1, 1, 2)[i]
        assert int(sample.image[5, 5, 0]) == pytest.approx(50 + 20 * number, abs=2)
        assert found.image_name(i) == f"val2017/{number:012d}.jpg"
    valid = found[2].hands[0].joints2d_valid
    assert valid is not None and valid[1] and valid.sum() == 14  # 0.4 counts


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"lefthand_kpts": [1.0] * 60}, "lefthand_kpts: expected 63 numbers"),
        ({"lefthand_kpts": [float("nan")] * 63}, "lefthand_kpts: holds NaN"),
        ({"righthand_box": [1, 2, 3]}, "righthand_box: expected 4 numbers"),
        ({"righthand_box": [0, 0, -1, 4]}, "righthand_box: expected x, y and a positive size"),
        ({"lefthand_valid": "yes"}, "lefthand_valid: expected true or false"),
        ({"righthand_valid": ...}, "the field 'righthand_valid' is missing"),
        ({"image_id": 9}, "the image 9 is not listed"),
        ({"id": "101"}, "id: expected a whole number"),
    ],
)
def test_damaged_annotations(copy: Path, tmp_path: Path, fields: dict[str, Any], told: str) -> None:
    """Named in the problems, without a row; the others stay."""
    mini.change(copy / LABELS, "annotations", 0, **fields)
    found = read(copy, "val", tmp_path / "cache")
    assert keys(found) == ["val/102/right"]
    (problem,) = found.index.problems
    assert told in problem.what and problem.file == LABELS and LABELS in problem.what


@pytest.mark.parametrize(
    ("key", "fields", "left", "told"),
    [
        ("annotations", {"id": 102}, [], "(id 102): this id occurs twice"),
        ("images", {"id": 2}, [], "(id 2): this id occurs twice"),
        ("images", {"file_name": "../../secret.jpg"}, ["val/102/right"], "the name of a file"),
        ("images", {"width": 0}, ["val/102/right"], "expected a positive size"),
    ],
)
def test_ids_and_names(
    copy: Path, tmp_path: Path, key: str, fields: dict[str, Any], left: list[str], told: str
) -> None:
    """What bears an ambiguous id is left out altogether."""
    mini.change(copy / LABELS, key, 0, **fields)
    found = read(copy, "val", tmp_path / "cache")
    assert keys(found) == left
    assert any(told in problem.what for problem in found.index.problems)


def test_missing_and_other_images(copy: Path, tmp_path: Path) -> None:
    (copy / "val2017/000000000001.jpg").unlink()
    image = copy / "val2017/000000000002.jpg"
    image.write_bytes(image.read_bytes()[:-9])
    found = read(copy, "val", tmp_path / "cache")
    assert keys(found) == ["val/102/right"]
    (problem,) = found.index.problems
    assert problem.file == "val2017/000000000001.jpg" and "val2017.zip" in problem.what
    assert found.index.dropped["no image"] == 2
    with pytest.raises(FileFormatError, match=r"000000000002.jpg: the image is cut short"):
        found[0]
    write_image(image, flat(1, 64, 96))
    with pytest.raises(
        FileFormatError, match=r"000000000002.jpg: expected 96x64 pixels, found 64x"
    ):
        found[0]


def test_halves(copy: Path, tmp_path: Path) -> None:
    """One half may be missing; the images may lie in `images`, the labels at the top."""
    assert len(read(copy, "all", tmp_path / "cache")) == 3
    with pytest.raises(MissingFileError, match=r"coco_wholebody_train_v1.0.json: not found"):
        read(copy, "train", tmp_path / "cache")
    (copy / "images").mkdir()
    shutil.move(copy / "val2017", copy / "images")
    shutil.move(copy / LABELS, copy)
    found = read(copy, "val", tmp_path / "cache")
    assert keys(found) == ["val/101/left", "val/101/right", "val/102/right"]
    assert found[0].image.shape == (64, 96, 3)
    shutil.rmtree(copy / "images")
    with pytest.raises(MissingFileError, match="val2017: not found; val needs it"):
        read(copy, "val", tmp_path / "cache")


@pytest.mark.parametrize("kept", [0, 1, 300, -1])
def test_broken_file(copy: Path, tmp_path: Path, kept: int) -> None:
    path = copy / LABELS
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FileFormatError, match=f"{LABELS}: not valid JSON"):
        read(copy, "val", tmp_path / "cache")


def test_another_json(copy: Path, tmp_path: Path) -> None:
    (copy / LABELS).write_text('{"images": []}')
    with pytest.raises(FileFormatError, match="COCO's lists `images` and `annotations`"):
        read(copy, "val", tmp_path / "cache")


@pytest.mark.parametrize("indent", [None, 1])
def test_items_one_by_one(indent: int | None) -> None:
    """The same as reading it all with the standard library."""
    document = {
        "a": [1, "]", {"b": [2, [3]]}, None], "empty": [], "x": {"y": [1]}, "n": -2.5e-3,
        'quo"te': ["\\", "\u00e9"],
    }  # fmt: skip
    text = json.dumps(document, indent=indent) + "\n"
    found: dict[str, list[Any]] = {}
    for key, item in top_items(text, "here"):
        found.setdefault(key, []).append(item)
    assert found == {key: document[key] for key in ("a", 'quo"te')}
    assert list(top_items(" {} ", "here")) == []


@pytest.mark.parametrize(
    "text", ["", "[]", '{"a" 1}', '{"a": [1 2]}', '{"a": [1,]}', '{"a": 1,}', '{"a": 1}}', "{1: 2}"]
)
def test_broken_texts(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        json.loads(text) if text != "[]" else int("[]")
    with pytest.raises(FileFormatError, match="here: not valid JSON"):
        list(top_items(text, "here"))


def test_confidence_without_any_joint(copy: Path, tmp_path: Path) -> None:
    """A valid hand of which no joint counts keeps its box alone."""
    kpts = np.zeros(63).tolist()
    mini.change(copy / LABELS, "annotations", 0, lefthand_kpts=kpts)
    hand = read(copy, "val", tmp_path / "cache").record(0).hands[0]
    assert hand.joints2d_valid is not None and not hand.joints2d_valid.any()
    assert hand.box is not None and hand.box[2] > hand.box[0]
