"""ObMan read back from a miniature in the official layout; the hands are those of the free hand
model."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from tests.data.miniature import flat, known_hand, project, same, write_image

from handhold.data.obman import ObMan
from handhold.data.registry import open_dataset
from handhold.errors import FileFormatError, InputError, MissingFileError

CAMERA = (480.0, 480.0, 128.0, 128.0)
FLIP = np.array([1.0, -1.0, -1.0])
SIDES = {"train/00000003": "right", "train/00000007": "left", "val/00000000": "right"}
TURN = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
SCALE, SHIFT = 0.3, np.array([0.02, 0.01, -0.62])


def meta(key: str) -> dict[str, Any]:
    """A sample's labels in the file's frame: y up, the hand at negative z."""
    hand = known_hand(SIDES[key], int(key[-1]), (0.01, 0.02, 0.6))
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = SCALE * TURN, SHIFT
    return {
        "coords_2d": project(hand.joints, CAMERA).astype(np.float32),
        "coords_3d": (hand.joints * FLIP).astype(np.float32),
        "verts_3d": (hand.vertices * FLIP).astype(np.float32),
        "side": SIDES[key],
        "hand_pose": np.zeros(45),
        "pca_pose": np.zeros(45),
        "affine_transform": matrix,
        "class_id": "02876657",
        "sample_id": "1a7ba1f4c892e2da30711cdbdbc73924",
        "obj_scale": SCALE,
        "depth_min": np.float64(0.5),
        "depth_max": 0.754,
        "grasp_quality": np.float32(1.5),
    }


def write(root: Path) -> Path:
    for number, key in enumerate(SIDES):
        part, name = key.split("/")
        write_image(root / part / f"rgb/{name}.jpg", flat(60 + 40 * number, 256, 256))
        for folder, planes in (("segm", segmentation(SIDES[key])), ("depth", depth())):
            write_image(root / part / folder / f"{name}.png", planes)
        path = root / part / f"meta/{name}.pkl"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(meta(key), 2 + 2 * number if number < 2 else 0))
    return root


def segmentation(side: str) -> np.ndarray:
    """Scene, hand alone, object alone, the scene in the channel that OpenCV calls the first."""
    hand, wrist = (22, 24) if side == "right" else (21, 23)
    planes = np.zeros((256, 256, 3), np.uint8)
    planes[40:80, 40:80, 1], planes[80:90, 40:80, 1] = hand, wrist
    planes[60:100, 60:100, 2] = 100
    planes[..., 0] = np.where(planes[..., 2] > 0, planes[..., 2], planes[..., 1])
    planes[0:9, 0:9, :2] = 45 - hand  # a part of the other side
    return planes[..., ::-1]  # write_image turns it round


def depth() -> np.ndarray:
    planes = np.zeros((256, 256, 3), np.uint8)
    planes[40:60, 40:60, 0], planes[60:70, 60:70, 0], planes[:, :, 2] = 255, 1, 128
    return planes[..., ::-1]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("obman"))


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "copy"))


def read(root: Path, split: str, cache: Path) -> ObMan:
    opened = open_dataset("obman", root, split, cache=cache, workers=0)
    assert isinstance(opened, ObMan)
    return opened


@pytest.fixture(scope="module")
def found(root: Path, tmp_path_factory: pytest.TempPathFactory) -> ObMan:
    return read(root, "all", tmp_path_factory.mktemp("cache"))


def test_splits(root: Path, found: ObMan, tmp_path: Path) -> None:
    assert [found.record(i).key for i in range(3)] == list(SIDES)
    assert [len(read(root, split, tmp_path)) for split in ("train", "val")] == [2, 1]
    with pytest.raises(MissingFileError, match=r"test/meta: no such folder; test needs it"):
        read(root, "test", tmp_path)
    with pytest.raises(InputError, match="no split 'evaluation'"):
        read(root, "evaluation", tmp_path)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_labels(found: ObMan, number: int) -> None:
    key = list(SIDES)[number]
    truth = known_hand(SIDES[key], int(key[-1]), (0.01, 0.02, 0.6))
    sample = found[number]
    (hand,) = sample.hands
    assert (
        hand.side == SIDES[key] and found.image_name(number) == key.replace("/", "/rgb/") + ".jpg"
    )
    same(hand.joints, truth.joints)
    same(hand.vertices, truth.vertices)
    pixels = project(truth.joints, CAMERA)
    same(hand.joints2d, pixels, 0.01)
    same(hand.box, [*pixels.min(0), *pixels.max(0)], 0.01)
    same(sample.camera.project(np.asarray(hand.joints)), hand.joints2d, 0.01)
    assert hand.pose is hand.betas is hand.translation is None
    assert int(sample.image[5, 5, 0]) == pytest.approx(60 + 40 * number, abs=2)


def test_object(found: ObMan) -> None:
    record = found.record(0)
    thing = record.object
    assert thing is not None and thing.name == "1a7ba1f4c892e2da30711cdbdbc73924"
    same(thing.rotation, np.diag(FLIP) @ TURN, 1e-6)
    same(thing.translation, SHIFT * FLIP, 1e-6)
    point = np.array([0.1, -0.2, 0.3])  # of ShapeNet's model
    labelled = (record.extra["affine_transform"] @ [*point, 1])[:3] * FLIP
    own = record.extra["object_scale"] * point
    same(thing.rotation @ own + thing.translation, labelled, 1e-6)
    assert record.extra["class_id"] == "02876657"
    assert thing.control_points is None


@pytest.mark.parametrize("order", ["as written", "red first"])
def test_masks_and_depth(copy: Path, tmp_path: Path, order: str) -> None:
    """The scene's channel is found whichever way round the image was written."""
    if order == "red first":
        for folder, planes in (("segm", segmentation("right")), ("depth", depth())):
            write_image(copy / f"train/{folder}/00000003.png", planes[..., ::-1])
    sample = read(copy, "train", tmp_path / "cache")[0]
    assert sample.hand_mask is not None and sample.object_mask is not None
    assert int(sample.hand_mask.sum()) == 40 * 50 - 20 * 30
    assert int(sample.object_mask.sum()) == 40 * 40
    assert sample.hand_mask_amodal is not None and sample.hand_mask_amodal.sum() == 40 * 50
    assert sample.depth is not None
    assert sample.depth[50, 50] == pytest.approx(0.5, abs=1e-6)  # 255: the nearest
    assert sample.depth[65, 65] == pytest.approx(0.754, abs=1e-6)  # 1: the farthest
    assert sample.depth[0, 0] == 0  # nothing there
    names = ("hand_mask", "object_mask", "hand_mask_amodal", "depth")
    lean = open_dataset("obman", copy, "train", skip=names, cache=tmp_path / "cache", workers=0)[0]
    assert all(getattr(lean, name) is None for name in names)


class _Hostile:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"coords_3d": np.zeros((20, 3))}, "coords_3d: expected 21x3 numbers"),
        ({"verts_3d": np.full((778, 3), np.nan)}, "verts_3d: holds NaN"),
        ({"affine_transform": np.ones((4, 4))}, "affine_transform: expected a last row"),
        ({"side": "both"}, "side: expected left or right"),
        ({"sample_id": 3}, "sample_id: expected a text"),
        ({"coords_2d": None}, "coords_2d: expected 21x2 numbers"),
        ({"depth_min": np.nan}, "depth_min: holds NaN"),
        ({"side": _Hostile()}, "refused, the pickle names"),
        (b"\x80\x02}q", "not a readable pickle"),
        (pickle.dumps([1], 2), "expected an object, found list"),
        (..., "there is no such file"),
    ],
)
def test_damage(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, told: str
) -> None:
    """Named in the problems, without a row; nothing is executed."""
    monkeypatch.chdir(tmp_path)
    path = copy / "train/meta/00000003.pkl"
    if change is ...:
        path.unlink()
    elif isinstance(change, bytes):
        path.write_bytes(change)
    else:
        path.write_bytes(pickle.dumps(meta("train/00000003") | change, 2))
    opened = read(copy, "train", tmp_path / "cache")
    assert [opened.record(i).key for i in range(len(opened))] == ["train/00000007"]
    (problem,) = opened.index.problems
    assert told in problem.what and problem.file == "train/meta/00000003.pkl"
    assert "00000003.pkl" in problem.what and not (tmp_path / "harmed").exists()


def test_damaged_images(copy: Path, tmp_path: Path) -> None:
    (copy / "train/rgb/00000003.jpg").unlink()
    opened = read(copy, "train", tmp_path / "cache")
    (problem,) = opened.index.problems
    assert problem.file == "train/rgb/00000003.jpg" and opened.index.dropped == {"no image": 1}
    assert [opened.record(i).key for i in range(len(opened))] == ["train/00000007"]
    write_image(copy / "train/rgb/00000007.jpg", flat(9, 128, 256))
    with pytest.raises(FileFormatError, match=r"00000007.jpg: expected 256x256 pixels"):
        opened[0]
    write_image(copy / "train/rgb/00000007.jpg", flat(9, 256, 256))
    segm = copy / "train/segm/00000007.png"
    segm.write_bytes(segm.read_bytes()[:-20])
    with pytest.raises(FileFormatError, match=r"segm/00000007.png: the image is cut short"):
        opened[0]
    write_image(segm, np.zeros((256, 128, 3), np.uint8))
    with pytest.raises(FileFormatError, match=r"segm/00000007.png: expected 256x256 bytes"):
        opened[0]


def test_labels_change_after_the_index(copy: Path, tmp_path: Path) -> None:
    opened = read(copy, "train", tmp_path / "cache")
    (copy / "train/meta/00000003.pkl").write_bytes(b"\x80\x02}")
    with pytest.raises(FileFormatError, match=r"00000003.pkl"):
        opened.record(0)


def test_matrix_that_is_no_similarity(copy: Path, tmp_path: Path) -> None:
    """No rigid pose is made up; the matrix is there as it is."""
    matrix = np.diag([0.1, 0.2, 0.3, 1.0])
    labels = meta("train/00000003") | {"affine_transform": matrix}
    (copy / "train/meta/00000003.pkl").write_bytes(pickle.dumps(labels, 2))
    record = read(copy, "train", tmp_path / "cache").record(0)
    assert record.object is None
    same(record.extra["affine_transform"], matrix, 0)
