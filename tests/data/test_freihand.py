"""FreiHAND read back from a miniature in the official layout."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data import freihand_miniature as mini
from tests.data.miniature import project, same

from handhold.data.check import check_dataset
from handhold.data.files import Files
from handhold.data.freihand import TOPS, FreiHAND, missing
from handhold.data.registry import open_dataset
from handhold.errors import FileFormatError, InputError, MissingFileError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini.write(tmp_path_factory.mktemp("freihand"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(root, tmp_path / "copy"))


def read(root: Path, split: str, cache: Path) -> FreiHAND:
    found = open_dataset("freihand", root, split, cache=cache, workers=0)
    assert isinstance(found, FreiHAND)
    return found


def change(path: Path, entry: int, value: Any) -> None:
    values = json.loads(path.read_text())
    values[entry] = value
    path.write_text(json.dumps(values))


def keys(found: FreiHAND) -> list[str]:
    return [found.record(i).key for i in range(len(found))]


def test_splits_and_keys(root: Path, cache: Path) -> None:
    training = [f"training/{k:08d}" for k in range(12)]
    evaluation = [f"evaluation/{k:08d}" for k in range(2)]
    assert keys(read(root, "training", cache)) == training
    assert keys(read(root, "evaluation", cache)) == evaluation
    both = read(root, "all", cache)
    assert keys(both) == training + evaluation
    assert both.hands == [1] * 14
    assert missing(both.files) == []
    with pytest.raises(InputError, match="there is no split 'test'"):
        read(root, "test", cache)


@pytest.mark.parametrize(("number", "part", "entry"), [(1, "training", 1), (13, "evaluation", 1)])
def test_labels(root: Path, cache: Path, number: int, part: str, entry: int) -> None:
    found = read(root, "all", cache)
    sample = found[number]
    known = mini.hand(part, entry)
    hand = sample.hands[0]
    assert hand.side == "right"
    same(hand.joints, known.joints)
    same(hand.vertices, known.vertices)
    pixels = project(known.joints, mini.camera(entry))
    same(hand.joints2d, pixels, 0.1)
    same(hand.box, [*pixels.min(0), *pixels.max(0)], 0.1)
    same(sample.camera.intrinsics, mini.matrix(entry), 1e-9)
    assert (sample.camera.width, sample.camera.height) == (224, 224)
    bone = np.linalg.norm(known.joints[10] - known.joints[9])
    assert found.record(number).extra["scale"] == pytest.approx(bone, abs=1e-6)
    if part == "evaluation":
        assert hand.pose is hand.betas is None  # the release has no parameters for it
        return
    same(hand.pose, known.pose, 1e-5)
    same(hand.betas, known.betas, 1e-5)
    same(hand.translation, known.translation)
    model = found.hand_model("right")
    again = model(*(torch.from_numpy(np.array(x)) for x in (hand.pose, hand.betas)))
    same(again.joints.numpy() + hand.translation, known.joints)


def test_versions_share_their_labels(root: Path, cache: Path) -> None:
    """Image k belongs to entry k mod N, with N from the label files; masks of the first version."""
    found = read(root, "training", cache)
    for number in (1, 4, 7, 10):
        sample, record = found[number], found.record(number)
        assert record.extra["version"] == ("gs", "hom", "sample", "auto")[number // 3]
        assert record.extra["entry"] == 1
        assert int(sample.image[5, 5, 0]) == pytest.approx(40 + 5 * number, abs=2)
        same(sample.hands[0].joints, mini.hand("training", 1).joints)
        if number == 1:
            expected = np.zeros((224, 224), bool)
            expected[60:160, 70:150] = True
            assert sample.hand_mask is not None
            np.testing.assert_array_equal(sample.hand_mask, expected)
        else:
            assert sample.hand_mask is None
    lean = open_dataset("freihand", root, skip=("hand_mask",), cache=cache, workers=0)
    assert lean[1].hand_mask is None


def test_without_optional_files(copy: Path, tmp_path: Path) -> None:
    """Vertices come from their file or from the parameters; the evaluation may lack its labels."""
    known = mini.hand("training", 2)
    (copy / "training_verts.json").write_text(json.dumps([[[0.0] * 3] * 778] * 3))  # a stand-in
    (copy / "training_scale.json").unlink()
    for ending in ("xyz", "verts"):
        (copy / f"evaluation_{ending}.json").unlink()
    found = read(copy, "all", tmp_path / "cache")
    same(found.record(2).hands[0].vertices, known.vertices)
    assert found.record(2).extra["scale"] is None
    hand = found.record(12).hands[0]
    assert hand.joints is hand.joints2d is hand.box is hand.vertices is None
    same(found.record(13).camera.intrinsics, mini.matrix(1), 1e-9)
    assert missing(found.files) == [
        "training_scale.json", "evaluation_xyz.json", "evaluation_verts.json",
    ]  # fmt: skip
    (copy / "training_verts.json").write_text(json.dumps(mini.labels("training")["verts"]))
    (copy / "training_mano.json").unlink()
    hand = read(copy, "training", tmp_path / "cache").record(2).hands[0]
    same(hand.vertices, known.vertices)
    assert hand.pose is None


def test_labels_of_another_hand_model(copy: Path, tmp_path: Path) -> None:
    """Real labels were fitted with MANO: with the free hand only their joints are used."""
    rolled = np.roll(mini.hand("training", 0).vertices, 100, axis=0)  # another order of vertices
    change(copy / "training_verts.json", 0, rolled.tolist())
    other = mini.mano("training", 1)
    other[0][3] += 0.7  # bends a finger
    change(copy / "training_mano.json", 0, other[0:1])
    found = read(copy, "training", tmp_path / "cache")
    with pytest.warns(UserWarning, match="another hand model"):
        hand = found.record(0).hands[0]
    assert hand.pose is hand.vertices is hand.betas is None
    same(hand.joints, mini.hand("training", 0).joints)
    same(found.record(1).hands[0].vertices, mini.hand("training", 1).vertices)


def test_partial_download(copy: Path, tmp_path: Path) -> None:
    """Whole versions may be missing, the evaluation too."""
    for number in (*range(3, 6), *range(9, 12)):
        (copy / f"training/rgb/{number:08d}.jpg").unlink()
    shutil.rmtree(copy / "evaluation")
    found = read(copy, "training", tmp_path / "cache")
    assert keys(found) == [f"training/{k:08d}" for k in (0, 1, 2, 6, 7, 8)]
    assert not found.index.problems
    told = missing(found.files)
    assert told == ["training/rgb: version hom", "training/rgb: version auto", "evaluation/rgb"]
    with pytest.raises(MissingFileError, match=r"evaluation/rgb: no images"):
        read(copy, "evaluation", tmp_path / "cache")
    (copy / "training_xyz.json").unlink()
    with pytest.raises(MissingFileError, match=r"training_xyz\.json"):
        read(copy, "training", tmp_path / "cache")
    for name in ("training_K.json", "evaluation_K.json"):
        (copy / name).unlink()
    with pytest.raises(MissingFileError, match=r"training_K\.json"):
        read(copy, "all", tmp_path / "cache")


def test_archives(root: Path, tmp_path: Path, cache: Path) -> None:
    """The two downloads as zips beside each other."""
    with (
        zipfile.ZipFile(tmp_path / "pub.zip", "w", zipfile.ZIP_DEFLATED) as first,
        zipfile.ZipFile(tmp_path / "eval.zip", "w") as second,
    ):
        for path in sorted(root.rglob("*.*")):
            truth = path.name in ("evaluation_xyz.json", "evaluation_verts.json")
            (second if truth else first).write(path, str(path.relative_to(root)))
    found, expected = read(tmp_path, "all", cache), read(root, "all", cache)
    assert keys(found) == keys(expected)
    for number in (4, 13):
        np.testing.assert_array_equal(found[number].image, expected[number].image)
        one, other = found[number].hands[0], expected[number].hands[0]
        np.testing.assert_array_equal(one.vertices, other.vertices)


@pytest.mark.parametrize(
    ("ending", "value", "told"),
    [
        ("xyz", [[0.0, 0.0, float("nan")]] * 21, "holds NaN"),
        ("xyz", [[0.0, 0.0, 0.5]] * 20, "expected 21x3 numbers"),
        ("xyz", [[0, 0, 10**400]] * 21, "expected numbers"),
        ("xyz", [[0, 0], [0, 0, 1]], "expected numbers"),
        ("xyz", [[0, 0, 1e30]] * 21, "numbers above 1e9"),
        ("xyz", [[0.0, 0.0, -0.5]] * 21, "z > 0"),
        ("K", [[0, 0, 112], [0, 480, 112], [0, 0, 1]], "expected [[fx, 0, cx]"),
        ("mano", [[0.0] * 60], "expected 1x61 numbers"),
        ("verts", [[0.0] * 3] * 777, "expected 778x3 numbers"),
        ("scale", None, "holds NaN"),
    ],
)
def test_damaged_entry(copy: Path, tmp_path: Path, ending: str, value: Any, told: str) -> None:
    """Named in the problems; all its images have no row, and no other image changes its labels."""
    change(copy / f"training_{ending}.json", 1, value)
    found = read(copy, "training", tmp_path / "cache")
    records = [found.record(i) for i in range(len(found))]
    assert [x.key for x in records] == [f"training/{k:08d}" for k in range(12) if k % 3 != 1]
    (problem,) = found.index.problems
    assert told in problem.what and f"training_{ending}.json[1]" in problem.what
    for record in records:
        entry = int(record.key[-2:]) % 3
        same(record.hands[0].joints, mini.hand("training", entry).joints)


def cut(text: str) -> str:
    return text[: len(text) // 2]


def shorter(text: str) -> str:
    return json.dumps(json.loads(text)[:-1])


def hole(text: str) -> str:
    return json.dumps([None if i == 1 else x for i, x in enumerate(json.loads(text))])


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        (
            "training_verts.json",
            cut,
            r"training_verts\.json: expected a list of arrays .* cut short",
        ),
        ("training_xyz.json", lambda _: "{}", r"training_xyz\.json: expected a list of arrays"),
        ("training_xyz.json", shorter, r"training_xyz\.json: expected 3 entries, .* found 2"),
        ("training_xyz.json", hole, r"training_xyz\.json\[1\]: not valid JSON"),
        ("training_scale.json", cut, r"training_scale\.json: not valid JSON"),
        ("evaluation_mano.json", lambda _: "[]", r"evaluation_mano\.json: expected 2 entries"),
    ],
)
def test_damaged_file(copy: Path, tmp_path: Path, name: str, damage: Any, told: str) -> None:
    path = copy / name
    path.write_text(damage(path.read_text() if path.exists() else ""))
    with pytest.raises(FileFormatError, match=told):
        read(copy, "all", tmp_path / "cache")


@pytest.mark.parametrize("name", ["training_K.json", "training_xyz.json"])
def test_damaged_training_leaves_the_evaluation(copy: Path, tmp_path: Path, name: str) -> None:
    (copy / name).write_text("[[[1")
    found = read(copy, "evaluation", tmp_path / "cache")
    assert keys(found) == ["evaluation/00000000", "evaluation/00000001"]
    assert not found.index.problems
    for split in ("training", "all"):
        with pytest.raises(FileFormatError, match=rf"{name}\[?.*"):
            read(copy, split, tmp_path / "cache")
    told = check_dataset("freihand", copy, images="none", cache=tmp_path / "cache", workers=0)
    assert [count.split for count in told.counts] == ["evaluation"]
    assert set(told.unreadable) == {"training", "all"}
    (problem,) = told.problems
    assert name in problem.what


def test_shortened_labels_never_pair_wrongly(copy: Path, tmp_path: Path) -> None:
    """With 2 entries instead of 3, image 2 would be taken for another version of entry 0."""
    for path in copy.glob("training_*.json"):
        path.write_text(shorter(path.read_text()))
    with pytest.raises(FileFormatError, match=r"00000011\.jpg: expected numbers below 8"):
        read(copy, "training", tmp_path / "cache")


def test_damaged_images(copy: Path, tmp_path: Path) -> None:
    (copy / "training/rgb/00000004.jpg").unlink()
    image = copy / "training/rgb/00000005.jpg"
    image.write_bytes(image.read_bytes()[:-200])
    found = read(copy, "training", tmp_path / "cache")
    assert keys(found) == [f"training/{k:08d}" for k in range(12) if k != 4]
    (problem,) = found.index.problems
    assert problem.file == "training/rgb/00000004.jpg" and "no such file" in problem.what
    with pytest.raises(FileFormatError, match=r"00000005\.jpg: the image is cut short"):
        found[4]
    assert Files(copy, TOPS).has("training/rgb/00000005.jpg")
