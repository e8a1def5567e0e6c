"""HO3D read back from miniatures in the official layout."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tests.data import ho3d_miniature as mini
from tests.data.miniature import flat, project, same, write_image

from handhold.data.files import Files
from handhold.data.ho3d import HO3D, TOPS, missing
from handhold.data.ho3d_files import read_sequence
from handhold.data.registry import open_dataset
from handhold.errors import FileFormatError, InputError, MissingFileError


@pytest.fixture(scope="module", params=["v2", "v3"])
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def root(version: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = mini.write(tmp_path_factory.mktemp("ho3d"), version)
    mini.write_truth(made)
    return made


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def v2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini.write(tmp_path_factory.mktemp("v2"))


@pytest.fixture
def copy(v2: Path, tmp_path: Path) -> Path:
    """A copy of v2 that may be damaged, without the truth of the evaluation."""
    return Path(shutil.copytree(v2, tmp_path / "copy"))


def read(root: Path, split: str, cache: Path, version: str = "v2") -> HO3D:
    found = open_dataset(f"ho3d-{version}", root, split, cache=cache, workers=0)
    assert isinstance(found, HO3D)
    return found


def keys(found: HO3D) -> list[str]:
    return [found.record(i).key for i in range(len(found))]


def test_miniature_is_opengl() -> None:
    """The written parameters give the written joints in OpenGL's camera."""
    values = mini.meta("MC1/0002")
    model = mini.HandModel.free()
    numbers = (values[name] for name in ("handPose", "handBeta", "handTrans"))
    posed = model(*(torch.from_numpy(x) for x in numbers))
    same(posed.joints.numpy()[mini.TO_HO3D], values["handJoints3D"], 1e-5)


def test_splits_keep_the_official_order(root: Path, version: str, cache: Path) -> None:
    train, evaluation = mini.LISTS["train"], mini.LISTS["evaluation"]
    assert keys(read(root, "train", cache, version)) == train
    assert keys(read(root, "evaluation", cache, version)) == evaluation
    both = read(root, "all", cache, version)
    assert keys(both) == train + evaluation
    assert [both.record(i).extra["position"] for i in range(10)] == [*range(6), *range(4)]
    assert both.hands == [1] * 10
    assert not both.index.problems
    assert missing(both.files, version) == [
        "models (the objects; the boxes of the labels stand in)"
    ]
    with pytest.raises(InputError, match=f"ho3d-{version}: there is no split 'test'"):
        read(root, "test", cache, version)


@pytest.mark.parametrize("number", [2, 0])
def test_train_labels(root: Path, version: str, cache: Path, number: int) -> None:
    found = read(root, "train", cache, version)
    sample = found[number]
    known, view = mini.hand(sample.key), mini.camera(sample.key)
    hand = sample.hands[0]
    assert hand.side == "right"
    same(hand.joints, known.joints)
    same(hand.vertices, known.vertices)
    pixels = project(known.joints, view)
    same(hand.joints2d, pixels, 0.1)
    same(hand.box, [*pixels.min(0), *pixels.max(0)], 0.1)
    same(hand.pose, known.pose, 1e-4)
    same(hand.betas, known.betas, 1e-6)
    same(hand.translation, known.translation)
    fx, fy, cx, cy = view
    same(sample.camera.intrinsics, [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], 1e-9)
    assert int(sample.image[5, 5, 0]) == pytest.approx(80 + int(sample.key[-1]), abs=2)


def test_evaluation_with_its_truth(root: Path, version: str, cache: Path) -> None:
    """The box is the given one, whatever the joints say."""
    found = read(root, "evaluation", cache, version)
    for number, key in enumerate(mini.LISTS["evaluation"]):
        record, known = found.record(number), mini.hand(key)
        hand = record.hands[0]
        same(hand.joints, known.joints)
        same(hand.vertices, known.vertices)
        same(hand.joints2d, project(known.joints, mini.camera(key)), 0.1)
        same(hand.box, mini.meta(key)["handBoundingBox"], 0)
        same(record.extra["wrist"], known.joints[0])
        assert hand.pose is hand.betas is None


def test_evaluation_without_its_truth(v2: Path, cache: Path) -> None:
    found = read(v2, "evaluation", cache)
    record = found.record(1)
    hand = record.hands[0]
    assert record.key == "AP10/0001"
    assert hand.joints is hand.joints2d is hand.vertices is None
    same(hand.box, mini.meta("AP10/0001")["handBoundingBox"], 0)
    same(record.extra["wrist"], mini.hand("AP10/0001").joints[0])
    assert missing(found.files, "v2")[0].startswith("evaluation_xyz.json")


def test_object(root: Path, version: str, cache: Path) -> None:
    """The posed corners of the label, turned into OpenCV's camera, by another way."""
    found = read(root, "all", cache, version)
    for number, key in ((4, "MC1/0003"), (9, "AP10/0000")):
        record, values = found.record(number), mini.meta(key)
        thing = record.object
        assert record.key == key and thing is not None and thing.name == "006_mustard_bottle"
        placed = values["objCorners3DRest"] @ thing.rotation.T + thing.translation
        same(placed, values["objCorners3D"] * mini.FLIP, 1e-6)
        assert thing.control_points is not None
        same(thing.control_points[0], mini.MIDDLE - mini.SIZE, 1e-6)
        same(thing.control_points[7], mini.MIDDLE + mini.SIZE, 1e-6)
        pixels = project(values["objCorners3D"] * mini.FLIP, mini.camera(key))
        same(thing.box, [*pixels.min(0), *pixels.max(0)], 1e-2)


def test_object_from_its_model(copy: Path, tmp_path: Path) -> None:
    folder = copy / "models/006_mustard_bottle"
    folder.mkdir(parents=True)
    (folder / "points.xyz").write_text("-0.05 -0.04 -0.1\n0.03 0.02 0.08\n0 0 0\n")
    thing = read(copy, "train", tmp_path / "cache").record(0).object
    assert thing is not None and thing.control_points is not None
    same(thing.control_points[[0, 7]], [[-0.05, -0.04, -0.1], [0.03, 0.02, 0.08]], 1e-9)


def test_masks_and_depth(root: Path, version: str, cache: Path) -> None:
    """The segmentation is stored at half size, in v2 as JPEG with soft edges."""
    found = read(root, "all", cache, version)
    sample = found[0]
    hand, thing = (np.zeros((480, 640), bool) for _ in range(2))
    hand[200:280, 280:360] = True
    thing[240:300, 340:420] = True
    hand &= ~thing
    for mask, expected in ((sample.hand_mask, hand), (sample.object_mask, thing)):
        assert mask is not None and mask.shape == (480, 640)
        soft = np.ones((9, 9) if version == "v2" else (1, 1), np.uint8)
        certain = cv2.erode(expected.astype(np.uint8), soft) > 0
        possible = cv2.dilate(expected.astype(np.uint8), soft) > 0
        assert (mask >= certain).all() and (mask <= possible).all()
    assert sample.depth is not None
    assert np.unique(sample.depth).tolist() == [0, np.float32(5200 * 0.00012498664727900177)]
    assert sample.depth[0, 600] == pytest.approx(0.64993, abs=1e-5)
    assert found[6].hand_mask is None  # the evaluation has no segmentation
    names = ("hand_mask", "object_mask", "depth")
    lean = open_dataset(f"ho3d-{version}", root, "train", skip=names, cache=cache, workers=0)[0]
    assert lean.hand_mask is lean.object_mask is lean.depth is None


def test_full_size_segmentation_and_other_sizes(copy: Path, tmp_path: Path) -> None:
    seg = copy / "train/SS2/seg/0001.jpg"
    picture = flat(0, 640, 480)
    picture[7, 9] = (255, 0, 0)
    write_image(seg.with_suffix(".png"), picture)
    found = read(copy, "train", tmp_path / "cache")
    mask = found[0].hand_mask
    assert mask is not None and np.argwhere(mask).tolist() == [[7, 9]]
    write_image(seg.with_suffix(".png"), flat(0, 100, 100))
    with pytest.raises(FileFormatError, match=r"0001\.png: expected 320x240 or 640x480 pixels"):
        found[0]


def test_grasps_stand_in(root: Path, version: str, cache: Path) -> None:
    """5 degrees and 10 mm or 50 mm against frame 0000, named as what it is."""
    found = read(root, "train", cache, version)
    labels = {}
    for i in range(len(found)):
        record = found.record(i)
        assert "stand-in" in record.extra["grasp_rule"]
        assert record.hands[0].grasping is record.grasping_50mm
        labels[record.key] = (record.grasping_10mm, record.grasping_50mm)
    assert [labels[f"MC1/000{f}"] for f in range(4)] == [
        (False, False), (False, False), (True, False), (True, True),
    ]  # fmt: skip


def test_frames_without_annotation(copy: Path, tmp_path: Path) -> None:
    """No object: the hand stays. No hand: no row. No frame 0000: no grasp label."""
    alone = mini.meta("MC1/0002") | {"objRot": None, "objTrans": None, "objCorners3D": None}
    mini.write_meta(copy, "MC1/0002", alone)
    mini.write_meta(copy, "MC1/0003", mini.meta("MC1/0003") | {"handJoints3D": None})
    nothing = {"objRot": None, "objName": None, "objCorners3DRest": None}
    mini.write_meta(copy, "SS2/0000", mini.meta("SS2/0000") | nothing)
    found = read(copy, "train", tmp_path / "cache")
    records = {found.record(i).key: found.record(i) for i in range(len(found))}
    assert list(records) == ["SS2/0001", "MC1/0000", "MC1/0002", "SS2/0000", "MC1/0001"]
    assert found.index.dropped == {"no hand labelled": 1}
    assert not found.index.problems
    assert records["MC1/0002"].object is records["MC1/0002"].grasping_50mm is None
    same(records["MC1/0002"].hands[0].joints, mini.hand("MC1/0002").joints)
    assert records["SS2/0001"].object is not None
    assert records["SS2/0001"].grasping_10mm is None


def test_numbers_of_the_official_reader(copy: Path, tmp_path: Path) -> None:
    """A frame of round numbers, whose projections and object pose the official toolkit printed. Its
    joints are no hand model's, so they come alone."""
    joints = np.array([(0.02, 0.03, 0.65)] * 21)
    for k in range(1, 21):
        finger, bone = divmod(k - 1, 4)
        joints[k] += (0.018 * (finger - 2), -0.05 - 0.022 * bone, 0.004 * finger)
    values = {
        "camMat": np.array([[614.627, 0, 320.262], [0, 614.101, 238.469], [0, 0, 1]]),
        "objRot": np.array([[0.1], [0.2], [0.3]]),
        "objTrans": np.array([0.03, -0.02, -0.66]),
        "handJoints3D": (joints * (1, -1, -1))[mini.TO_HO3D],
        "handPose": np.array([0.1, 0.2, 0.3, *[0.05] * 45]),
        "handTrans": np.array([0.02, -0.03, -0.65]),
        "handBeta": np.linspace(-1, 1, 10),
    }
    mini.write_meta(copy, "MC1/0001", mini.meta("MC1/0001") | values)
    with pytest.warns(UserWarning, match="another hand model"):
        record = read(copy, "train", tmp_path / "cache").record(5)
    hand, thing = record.hands[0], record.object
    assert record.key == "MC1/0001" and hand.joints2d is not None and thing is not None
    same(hand.joints2d[0], (339.17, 266.81), 0.006)
    same(hand.joints2d[4], (305.13, 157.22), 0.006)
    rows = [[0.936, -0.283, 0.210], [-0.303, -0.951, 0.068], [0.181, -0.127, -0.975]]
    same(thing.rotation, rows, 6e-4)
    same(thing.translation, (0.03, 0.02, 0.66), 1e-6)
    assert hand.pose is hand.vertices is None


def test_archives(root: Path, version: str, tmp_path: Path, cache: Path) -> None:
    """A zip with a folder on top, the truth in another beside it."""
    with (
        zipfile.ZipFile(tmp_path / "HO3D.zip", "w", zipfile.ZIP_DEFLATED) as first,
        zipfile.ZipFile(tmp_path / "truth.zip", "w") as second,
    ):
        for path in sorted(root.rglob("*.*")):
            name = path.relative_to(root)
            if path.suffix == ".json":
                second.write(path, str(name))
            else:
                first.write(path, f"HO3D_{version}/{name}")
    found, expected = read(tmp_path, "all", cache, version), read(root, "all", cache, version)
    assert keys(found) == keys(expected)
    for number in (3, 7):
        one, other = found[number], expected[number]
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.hands[0].vertices, other.hands[0].vertices)


def test_partial_download(copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "train/SS2")
    shutil.rmtree(copy / "evaluation")
    found = read(copy, "all", tmp_path / "cache")
    assert keys(found) == ["MC1/0000", "MC1/0002", "MC1/0003", "MC1/0001"]
    assert not found.index.problems
    told = missing(found.files, "v2")
    assert told[:3] == [
        "train: sequence SS2", "evaluation: sequence AP10", "evaluation: sequence SM1",
    ]  # fmt: skip
    with pytest.raises(MissingFileError, match=r"none of the sequences of evaluation\.txt"):
        read(copy, "evaluation", tmp_path / "cache")
    (copy / "train.txt").unlink()
    with pytest.raises(MissingFileError, match=r"train\.txt: there is no such file"):
        read(copy, "train", tmp_path / "cache")


def without(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


@pytest.mark.parametrize(
    ("key", "change", "told"),
    [
        ("MC1/0002", {"handJoints3D": np.full((21, 3), np.nan)}, "handJoints3D: holds NaN"),
        ("MC1/0002", {"handJoints3D": -np.ones((20, 3))}, "handJoints3D: expected 21x3 numbers"),
        ("MC1/0002", {"handJoints3D": np.ones((21, 3))}, "handJoints3D: expected negative z"),
        ("MC1/0002", {"handPose": np.zeros(45)}, "handPose: expected 48 numbers"),
        ("MC1/0002", {"objTrans": np.array([0, np.inf, 0])}, "objTrans: holds NaN or infinite"),
        ("MC1/0002", {"objName": "099_spoon"}, "objName: object name: expected one of"),
        ("MC1/0002", {"camMat": np.eye(3) * 500}, "camMat: expected [[fx, 0, cx]"),
        (
            "SM1/0001",
            {"handBoundingBox": [300, 100, 200, 150]},
            "handBoundingBox: expected x0 < x1",
        ),
        ("SM1/0001", {"handJoints3D": np.ones((21, 3))}, "handJoints3D: expected 3 numbers"),
    ],
)
def test_damaged_field(
    copy: Path, tmp_path: Path, key: str, change: dict[str, Any], told: str
) -> None:
    """Named in the problems, without a row; all others stay as they are."""
    mini.write_meta(copy, key, mini.meta(key) | change)
    found = read(copy, "all", tmp_path / "cache")
    rest = [k for part in mini.LISTS.values() for k in part if k != key]
    assert keys(found) == rest
    (problem,) = found.index.problems
    assert told in problem.what and problem.file.endswith(f"meta/{key[-4:]}.pkl")
    assert problem.file in problem.what


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('harmed')",))


def test_damaged_files(copy: Path, tmp_path: Path) -> None:
    folder = copy / "train/MC1"
    whole = (folder / "meta/0000.pkl").read_bytes()
    (folder / "meta/0000.pkl").write_bytes(whole[: len(whole) // 2])
    (folder / "meta/0001.pkl").write_bytes(pickle.dumps(mini.meta("MC1/0001") | {"x": Harm()}))
    mini.write_meta(copy, "MC1/0002", without(mini.meta("MC1/0002"), "camMat"))
    (folder / "rgb/0003.png").unlink()
    (copy / "train/SS2/meta/0000.pkl").unlink()
    image = copy / "train/SS2/rgb/0001.png"
    image.write_bytes(image.read_bytes()[:-40])
    found = read(copy, "train", tmp_path / "cache")
    assert keys(found) == ["SS2/0001"]
    problems = {problem.file[6:]: problem.what for problem in found.index.problems}
    assert "not a readable pickle" in problems["MC1/meta/0000.pkl"] or (
        "ends too early" in problems["MC1/meta/0000.pkl"]
    )
    assert "names builtins.exec" in problems["MC1/meta/0001.pkl"]
    assert "the field 'camMat' is missing" in problems["MC1/meta/0002.pkl"]
    assert "rgb/0003.png: there is no such file" in problems["MC1/meta/0003.pkl"]
    assert "0000.pkl: there is no such file" in problems["SS2/meta/0000.pkl"]
    assert len(problems) == 5
    with pytest.raises(FileFormatError, match=r"SS2/rgb/0001\.png: the image is cut short"):
        found[0]
    write_image(image, flat(0, 320, 240))
    with pytest.raises(FileFormatError, match=r"0001\.png: expected 640x480 pixels, found 320x240"):
        found[0]


def test_changed_bytes_never_escape(copy: Path) -> None:
    """Whatever single bytes become, a frame is read or refused by an error of our own."""
    files = Files(copy, TOPS)
    draw = np.random.default_rng(0)
    path = copy / "train/MC1/meta/0001.pkl"
    whole = path.read_bytes()
    refused = 0
    for _ in range(120):
        data = bytearray(whole)
        for place in draw.integers(0, len(data), 3):
            data[place] = draw.integers(0, 256)
        path.write_bytes(data)
        refused += bool(read_sequence(files, "train/MC1").problems)
    assert 40 < refused < 120


def test_damaged_list(copy: Path, tmp_path: Path) -> None:
    """A frame listed twice counts once; lines that are no frame are named."""
    mini.write_truth(copy)
    lines = ["SM1/0000", "", "../../secret/0000", "SM1/0000", "AP10/0000"]
    (copy / "evaluation.txt").write_text("\r\n".join(lines))
    found = read(copy, "evaluation", tmp_path / "cache")
    assert keys(found) == ["SM1/0000", "AP10/0000"]
    told = [problem.what for problem in found.index.problems]
    assert len(told) == 2
    assert "evaluation.txt: entry 1: expected <sequence>/<frame>" in told[0]
    assert "evaluation.txt: entry 2: SM1/0000 is listed twice" in told[1]
    same(found.record(1).hands[0].joints, mini.hand("AP10/0000").joints)  # entry 3 of the truth


def test_truth_that_does_not_belong(copy: Path, tmp_path: Path) -> None:
    mini.write_truth(copy)
    path = copy / "evaluation_xyz.json"
    whole = json.loads(path.read_text())
    for values, told in (
        (whole[::-1], r"evaluation_xyz\.json\[0\]: the wrist lies \d+ mm from"),
        ((np.array(whole) * mini.FLIP).tolist(), r"the wrist lies 1\d\d\d mm from .* OpenGL"),
        (whole[:-1], r"expected one entry a line of evaluation\.txt \(4\), found 3"),
    ):
        path.write_text(json.dumps(values))
        with pytest.raises(FileFormatError, match=told):
            read(copy, "evaluation", tmp_path / "cache")
    path.write_text(json.dumps(whole)[:-500])
    with pytest.raises(
        FileFormatError, match=r"evaluation_xyz\.json: expected a list .* cut short"
    ):
        read(copy, "evaluation", tmp_path / "cache")
    whole[2][7][1] = float("nan")
    path.write_text(json.dumps(whole))
    found = read(copy, "evaluation", tmp_path / "cache")
    assert keys(found) == ["SM1/0000", "AP10/0001", "AP10/0000"]
    (problem,) = found.index.problems
    assert "evaluation_xyz.json[2]: holds NaN" in problem.what
    same(found.record(2).hands[0].vertices, mini.hand("AP10/0000").vertices)


def test_index_follows_changes(copy: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert len(read(copy, "train", cache)) == 6
    calls: list[int] = []
    open_dataset(
        "ho3d-v2", copy, cache=cache, workers=0, progress=lambda done, total: calls.append(done)
    )
    assert not calls  # nothing was read again
    (copy / "train.txt").write_text("MC1/0003\nMC1/0001\n")
    assert keys(read(copy, "train", cache)) == ["MC1/0003", "MC1/0001"]
