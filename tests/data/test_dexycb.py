"""DexYCB read back from a miniature in the official layout."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data import dexycb_miniature as mini
from tests.data.miniature import project, same

from handhold.data.dataset import Record
from handhold.data.dexycb import CAMERAS, SUBJECTS, DexYCB
from handhold.data.registry import open_dataset
from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.objects.control_points import control_points

FOLDER = f"{SUBJECTS[2]}/{mini.sequence_name(2, 0)}"  # right hand


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini.write(tmp_path_factory.mktemp("dex"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one subject that has frames, with five cameras."""
    return mini.write(tmp_path_factory.mktemp("small"), subjects=(2,), cameras=5)


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(small, tmp_path / "copy"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def read(root: Path, split: str, cache: Path) -> DexYCB:
    found = open_dataset("dexycb", root, split, cache=cache, workers=0)
    assert isinstance(found, DexYCB)
    return found


def records(found: DexYCB) -> list[Record]:
    return [found.record(i) for i in range(len(found))]


@pytest.mark.parametrize(
    ("split", "count"),
    [
        ("s0-train", 27), ("s0-val", 0), ("s0-test", 31), ("s1-train", 54), ("s1-val", 0),
        ("s1-test", 0), ("s2-train", 38), ("s2-val", 8), ("s2-test", 8), ("s3-train", 54),
        ("s3-val", 0), ("s3-test", 0), ("all", 62), ("s0-train-right", 27), ("s0-test-right", 0),
        ("s1-train-right", 27),
    ],
)  # fmt: skip
def test_splits(root: Path, cache: Path, split: str, count: int) -> None:
    """Counts that the official toolkit gives for this tree; no box rule outside training."""
    assert len(read(root, split, cache)) == count


def test_right_of_the_image_has_no_box_left_of_it_has(root: Path, cache: Path) -> None:
    found = read(root, "s0-train", cache)
    cameras = [found.record(i).key.split("/")[2] for i in range(len(found))]
    assert CAMERAS[1] not in cameras
    assert cameras.count(CAMERAS[2]) == 4


@pytest.mark.parametrize(("split", "side"), [("s0-train", "right"), ("s0-test", "left")])
def test_labels(root: Path, cache: Path, split: str, side: str) -> None:
    found = read(root, split, cache)
    sample, record = found[2], found.record(2)
    assert record.key == sample.key
    assert sample.key.endswith(f"{CAMERAS[0]}/000003")  # camera 0 has no hand in frame 0
    hand = sample.hands[0]
    pose_m, joints, vertices = mini.hand_label(side, 0)
    assert hand.side == side
    same(hand.joints, joints)
    same(hand.vertices, vertices)
    same(hand.joints2d, project(joints, mini.CAMERA), 0.1)
    same(hand.translation, pose_m[48:])
    same(hand.betas, mini.BETAS, 1e-6)
    assert hand.pose is not None
    model = found.hand_model(side)
    again = model(*(torch.from_numpy(x) for x in (hand.pose, hand.betas, hand.translation)))
    same(again.vertices.numpy(), vertices)
    fx, fy, cx, cy = mini.CAMERA
    same(sample.camera.intrinsics, [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], 1e-9)
    low, high = hand.joints2d.min(0), hand.joints2d.max(0)
    same(hand.box, [*low, *high], 1e-3)
    assert int(sample.image[5, 5, 0]) == pytest.approx(64 + 16 * 3, abs=2)


def test_object_masks_and_depth(root: Path, cache: Path) -> None:
    sample = read(root, "s0-train", cache)[1]
    pose = mini.object_pose(2)
    thing = sample.object
    assert thing is not None and thing.name == "024_bowl"
    same(thing.rotation, pose[:, :3], 1e-6)
    same(thing.translation, pose[:, 3], 1e-6)
    points = np.loadtxt(root / "models/024_bowl/points.xyz")
    same(thing.control_points, control_points(points))
    placed = control_points(points) @ pose[:, :3].T + pose[:, 3]
    pixels = project(placed, mini.CAMERA)
    same(thing.box, [*pixels.min(0), *pixels.max(0)], 1e-2)
    assert sample.hand_mask is not None and sample.object_mask is not None
    assert int(sample.hand_mask.sum()) == 80 * 80 - 40 * 20
    assert int(sample.object_mask.sum()) == 60 * 80
    assert sample.depth is not None
    assert np.unique(sample.depth).tolist() == [np.float32(0.652)]
    lean = open_dataset(
        "dexycb", root, skip=("hand_mask", "object_mask", "depth"), cache=cache, workers=0
    )[1]
    assert lean.hand_mask is lean.object_mask is lean.depth is None


def test_grasps(root: Path, cache: Path) -> None:
    """5 degrees and 10 mm (the papers) or 50 mm (the script) against the first frame."""
    found = read(root, "all", cache)
    labels = {}
    for i in range(len(found)):
        record = found.record(i)
        if f"{mini.sequence_name(2, 0)}/{CAMERAS[3]}" in record.key:
            labels[int(record.key[-6:])] = (record.grasping_10mm, record.grasping_50mm)
            assert record.hands[0].grasping is record.grasping_50mm
    assert [labels[f][0] for f in range(4)] == [False, False, True, True]
    assert [labels[f][1] for f in range(4)] == [False, False, False, True]


def test_close_interaction(root: Path, cache: Path) -> None:
    """By brute force over the object's points; hands outside the image are far from it here."""
    found = read(root, "s1-train-close", cache)
    points = np.loadtxt(root / "models/024_bowl/points.xyz")
    expected = 0
    for camera in range(8):
        joints = mini.hand_label("right", camera)[1]
        for frame in range(4):
            placed = points @ mini.object_pose(frame)[:, :3].T + mini.object_pose(frame)[:, 3]
            gap = min(float(np.linalg.norm(placed - joint, axis=1).min()) for joint in joints)
            usable = camera != 1 and (camera, frame) != (0, 0)
            expected += usable and gap <= 0.05
    assert 0 < expected < 27
    assert len(found) == expected


def test_partial_downloads(tmp_path: Path, cache: Path) -> None:
    """Subjects, cameras and sequences may be missing. Then the object says which five of the 100
    sequences one belongs to, and all five of them say its number."""
    root = mini.write(tmp_path / "part", subjects=(2,), cameras=2)
    whole = {split: read(root, split, cache) for split in ("s0-train", "s0-test", "all")}
    assert [len(found) for found in whole.values()] == [3, 7, 14]
    first, *others = (root / SUBJECTS[2] / mini.sequence_name(2, n) for n in range(100))
    for folder in others[4:]:
        shutil.rmtree(folder)  # five are left, all with the bowl: the 60th to the 64th of the set
    for split, expected in whole.items():
        found = read(root, split, cache)
        assert [x.key for x in records(found)] == [x.key for x in records(expected)]
    numbers = [x.extra["sequence_number"] for x in records(read(root, "all", cache))]
    assert numbers == [60] * 7 + [64] * 7
    shutil.rmtree(others[1])
    for split, count in {"s1-train": 6, "s2-train": 6, "s3-train": 6, "s3-test": 0}.items():
        assert len(read(root, split, cache)) == count
    message = rf"{first.name}: s0 goes by .* of which 4 are here\. .* all 5 that grasp 024_bowl"
    with pytest.raises(InputError, match=message):
        read(root, "s0-train", cache)
    assert len(read(root, "s0-val", cache)) == 0  # of other subjects
    assert {x.extra["sequence_number"] for x in records(read(root, "all", cache))} == {None}


def test_objects_decide_s3(tmp_path: Path, cache: Path) -> None:
    """The gelatin box is of S3's test, the tomato soup can of its validation."""
    root = mini.write(tmp_path / "part", subjects=(2,), cameras=1)
    folders = sorted((root / SUBJECTS[2]).iterdir())
    for folder in folders[5:]:
        shutil.rmtree(folder)
    for number, name, thing in ((0, "s3-test", 8), (4, "s3-val", 4)):
        meta = folders[number] / "meta.yml"
        meta.write_text(meta.read_text().replace("- 13", f"- {thing}"))
        keys = [x.key.split("/")[1] for x in records(read(root, name, cache))]
        assert keys == [folders[number].name] * 3
    assert len(read(root, "s3-train", cache)) == 0


def test_archives(small: Path, tmp_path: Path, cache: Path) -> None:
    """A zip and a tar beside each other, with a folder above the tree; nothing is unpacked."""
    place = tmp_path / "packed"
    place.mkdir()
    with tarfile.open(place / "subject.tar", "w") as packed:
        packed.add(small / SUBJECTS[2], f"dex/{SUBJECTS[2]}")
    with zipfile.ZipFile(place / "rest.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for folder in ("calibration", "models"):
            for path in sorted((small / folder).rglob("*.*")):
                packed.write(path, f"dex/{path.relative_to(small)}")
    found, expected = read(place, "s0-train", cache), read(small, "s0-train", cache)
    assert [found.record(i).key for i in range(15)] == [expected.record(i).key for i in range(15)]
    for i in (0, 7, 14):
        np.testing.assert_array_equal(found[i].image, expected[i].image)
        np.testing.assert_array_equal(found[i].hands[0].vertices, expected[i].hands[0].vertices)
    with tarfile.open(tmp_path / "only.tar.gz", "w:gz") as packed:
        packed.add(small / "calibration", "calibration")
    with pytest.raises(FileFormatError, match="unpack it"):
        open_dataset("dexycb", tmp_path / "only.tar.gz", cache=cache)


def test_index_is_kept_and_follows_changes(copy: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert len(read(copy, "s0-train", cache)) == 15
    calls: list[int] = []
    open_dataset(
        "dexycb", copy, cache=cache, workers=0, progress=lambda done, total: calls.append(done)
    )
    assert not calls  # nothing was scanned again
    label = copy / FOLDER / CAMERAS[3] / "labels_000001.npz"
    arrays = dict(np.load(label))
    arrays["joint_3d"] = np.full((1, 21, 3), -1, np.float32)
    np.savez(label, **arrays)
    assert len(read(copy, "s0-train", cache)) == 14
    assert not list(cache.glob("*.partial")) and not list(cache.glob("*.tmp"))


def test_interrupted_scan_goes_on(copy: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done >= 90:
            raise Stop

    cache, seen = tmp_path / "cache", []
    with pytest.raises(Stop):
        open_dataset("dexycb", copy, cache=cache, workers=0, progress=stop)
    found = open_dataset(
        "dexycb", copy, cache=cache, workers=0, progress=lambda done, total: seen.append(done)
    )
    assert seen[0] == 90 and len(found) == 15


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("joint_3d", np.full((1, 21, 3), np.nan), "joint_3d: holds NaN"),
        ("joint_3d", np.zeros((1, 20, 3)), "joint_3d: expected 1x21x3 numbers"),
        ("pose_y", np.zeros((1, 3, 4)), "pose_y: expected 2x3x4 numbers"),
        ("pose_m", None, "the array 'pose_m' is missing"),
        ("pose_m", np.array([object()]), "not a readable .npz"),
    ],
)
def test_damaged_labels(
    copy: Path, tmp_path: Path, name: str, change: np.ndarray | None, told: str
) -> None:
    """Named in the problems, without a row."""
    label = copy / FOLDER / CAMERAS[3] / "labels_000001.npz"
    arrays = dict(np.load(label))
    del arrays[name]
    np.savez(label, **arrays, **({} if change is None else {name: change}))
    found = read(copy, "s0-train", tmp_path / "cache")
    assert len(found) == 14
    (problem,) = found.index.problems
    assert told in problem.what and "labels_000001.npz" in problem.what
    assert problem.file.endswith(f"{CAMERAS[3]}/labels_000001.npz")


def test_damaged_files(copy: Path, tmp_path: Path) -> None:
    folder = copy / FOLDER / CAMERAS[3]
    (folder / "labels_000002.npz").write_bytes(b"PK but short")
    (folder / "color_000003.jpg").unlink()
    image = folder / "color_000001.jpg"
    image.write_bytes(image.read_bytes()[:2000])
    found = read(copy, "s0-train", tmp_path / "cache")
    assert len(found) == 13
    problems = {problem.file[-17:]: problem.what for problem in found.index.problems}
    assert "not a readable .npz" in problems["labels_000002.npz"]
    assert "color_000003.jpg: there is no such file" in problems["labels_000003.npz"]
    number = next(i for i in range(13) if f"{CAMERAS[3]}/000001" in found.record(i).key)
    with pytest.raises(FileFormatError, match=r"color_000001\.jpg: the image is cut short"):
        found[number]


@pytest.mark.parametrize(
    ("file", "text", "error"),
    [
        ("meta.yml", "{", "meta.yml: not valid YAML"),
        ("meta.yml", "num_frames: 4", "the field 'ycb_ids' is missing"),
        ("meta.yml", "!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_damaged_meta(copy: Path, tmp_path: Path, file: str, text: str, error: str) -> None:
    (copy / FOLDER / file).write_text(text)
    with pytest.raises(FileFormatError, match=error):
        read(copy, "s0-train", tmp_path / "cache")


def test_wrong_questions(small: Path, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(InputError, match="there is no split 's4-train'"):
        read(small, "s4-train", cache)
    with pytest.raises(InputError, match="expected one of dexycb"):
        open_dataset("dexicb", small)
    with pytest.raises(MissingFileError, match="no such folder"):
        open_dataset("dexycb", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match="found nothing of the official tree"):
        open_dataset("dexycb", tmp_path / "empty")


def test_labels_of_another_hand_model(copy: Path, tmp_path: Path) -> None:
    """Real labels were fitted with MANO: with the free hand only their joints are used."""
    label = copy / FOLDER / CAMERAS[3] / "labels_000001.npz"
    arrays = dict(np.load(label))
    arrays["joint_3d"] = arrays["joint_3d"] + np.float32(0.006) * np.eye(21, 3, dtype=np.float32)
    np.savez(label, **arrays)
    found = read(copy, "s0-train", tmp_path / "cache")
    with pytest.warns(UserWarning, match="another hand model"):
        hands = {found.record(i).key: found.record(i).hands[0] for i in range(15)}
    hand = hands.pop(f"{FOLDER}/{CAMERAS[3]}/000001")
    assert all(other.pose is not None for other in hands.values())
    assert hand.pose is hand.vertices is hand.betas is None
    same(hand.joints, arrays["joint_3d"][0])
