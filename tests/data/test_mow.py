"""MOW read back from a miniature in its layout; the hands are those of the free hand model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from tests.data.miniature import flat, project, same, write_image

from handhold.data.mow import Mow
from handhold.data.registry import open_dataset
from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.hand.model import HandModel
from handhold.objects.control_points import control_points

pytestmark = pytest.mark.filterwarnings("ignore:mow. the labels are parameters")
SIZES = {"photo_a": (96, 64), "photo_b": (60, 80)}
SCALES = {"photo_a": 1.0, "photo_b": 1.25}
MESH = np.array([[0.0, 0, 0], [4, 0, 0], [0, 2, 0], [0, 0, 6]])


def turn(seed: int) -> np.ndarray:
    return Rotation.from_rotvec(np.random.default_rng(seed).standard_normal(3)).as_matrix()


def entry(name: str, seed: int) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    return {
        "image_id": name,
        "obj_name": f"mug {seed}",
        "obj_url": f"http://example.org/{seed}",
        "hand_pose": (0.2 * draw.standard_normal(48)).tolist(),
        "trans": [0.01, -0.02, 0.03],
        "hand_s": SCALES[name],
        "hand_R": turn(seed).reshape(-1).tolist(),
        "hand_t": [0.02, -0.01, 0.9],
        "R": turn(seed + 10).reshape(-1).tolist(),
        "t": [0.03, 0.02, 0.95],
        "s": 0.02,
        "state": "done",
        "queue_id": 3,
    }


def write(root: Path) -> Path:
    (root / "models").mkdir(parents=True)
    for number, (name, (width, height)) in enumerate(SIZES.items()):
        write_image(root / f"images/{name}.jpg", flat(50 + 50 * number, width, height))
    lines = [f"v {x} {y} {z}" for x, y, z in MESH]
    (root / "models/photo_a.obj").write_text("\n".join([*lines, "vn 0 0 1", "f 1 2 3", ""]))
    save(root, [entry(name, number) for number, name in enumerate(SIZES)])
    return root


def save(root: Path, entries: Any) -> None:
    (root / "poses.json").write_text(json.dumps(entries))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("mow"))


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "copy"))


@pytest.fixture(scope="module")
def found(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Mow:
    return read(root, tmp_path_factory.mktemp("cache"))


def read(root: Path, cache: Path) -> Mow:
    opened = open_dataset("mow", root, cache=cache, workers=0)
    assert isinstance(opened, Mow)
    return opened


@pytest.mark.parametrize("number", [0, 1])
def test_labels(found: Mow, number: int) -> None:
    """The similarity after MANO; a camera in units of the longer side."""
    name = list(SIZES)[number]
    told, sample = entry(name, number), found[number]
    model = HandModel.free("right")
    posed = model(
        torch.tensor(told["hand_pose"]).reshape(16, 3),
        None,
        torch.tensor(told["trans"]),
        flat=False,
    )
    rotation = np.array(told["hand_R"]).reshape(3, 3)
    vertices, joints = (
        told["hand_s"] * np.einsum("ij,nj->ni", rotation, points.double().numpy()) + told["hand_t"]
        for points in (posed.vertices, posed.joints)
    )
    (hand,) = sample.hands
    assert sample.key == name and hand.side == "right" and len(found) == 2
    same(hand.vertices, vertices)
    same(hand.joints, joints)
    width, height = SIZES[name]
    longer = max(width, height)
    pixels = project(joints, (longer, longer, longer / 2, longer / 2))
    same(hand.joints2d, pixels, 1e-2)
    same(hand.box, [*pixels.min(0), *pixels.max(0)], 1e-2)
    middle = longer / 2
    same(sample.camera.intrinsics, [[longer, 0, middle], [0, longer, middle], [0, 0, 1]], 0)
    assert sample.image.shape == (height, width, 3)
    assert int(sample.image[5, 5, 0]) == pytest.approx(50 + 50 * number, abs=2)
    same(found.record(number).extra["hand_scale"], told["hand_s"], 0)


def test_pose_is_in_the_camera_frame(found: Mow) -> None:
    """Posing the model with the flat pose gives the labelled vertices; not where the hand was
    scaled, whose turned pose is still right about the wrist."""
    first, second = found.record(0).hands[0], found.record(1).hands[0]
    model = HandModel.free("right")
    assert first.pose is not None and first.translation is not None and second.pose is not None
    again = model(torch.tensor(first.pose), None, torch.tensor(first.translation))
    same(again.vertices.numpy(), first.vertices)
    assert second.translation is None
    assert second.joints is not None
    own = model(torch.tensor(second.pose)).joints.numpy()
    same(second.joints - second.joints[0], SCALES["photo_b"] * (own - own[0]))


def test_object(found: Mow) -> None:
    thing, bare = found.record(0).object, found.record(1).object
    assert thing is not None and thing.name == "mug 0" and bare is not None
    own = 0.02 * (MESH - [1, 0.5, 1.5]) * [1, -1, 1]
    same(thing.control_points, control_points(own))
    same(thing.rotation, turn(10), 1e-9)
    same(thing.translation, [0.03, 0.02, 0.95], 1e-9)
    placed = control_points(own) @ turn(10).T + thing.translation
    pixels = project(placed, (96, 96, 48, 48))
    same(thing.box, [*pixels.min(0), *pixels.max(0)], 1e-2)
    assert bare.control_points is None and bare.box is None  # its mesh is not there


def test_free_hand_is_told(root: Path, tmp_path: Path) -> None:
    opened = read(root, tmp_path)
    with pytest.warns(UserWarning, match="parameters of MANO") as told:
        for number in range(2):
            opened.record(number)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hand_pose": [0.0] * 45}, "hand_pose: expected 48 numbers"),
        ({"t": [0.0, float("nan"), 1]}, "t: holds NaN"),
        ({"hand_R": [1.0] * 9}, "hand_R: expected a rotation"),
        ({"R": np.diag([1.0, 1, -1]).reshape(-1).tolist()}, "R: expected a rotation"),
        ({"s": -1}, "s: expected a positive scale"),
        ({"hand_t": {"x": 1}}, "hand_t: expected numbers"),
        ({"image_id": "../photo_a"}, "image_id: expected the name of a file"),
        ({"image_id": "photo_b"}, "image_id: photo_b occurs twice"),
        ({"image_id": "photo_c"}, "images/photo_c.jpg: there is no such image"),
    ],
)
def test_damaged_entries(copy: Path, tmp_path: Path, change: dict[str, Any], told: str) -> None:
    """Named in the problems, without a row."""
    save(copy, [entry("photo_a", 0) | change, entry("photo_b", 1)])
    opened = read(copy, tmp_path / "cache")
    twice = change.get("image_id") == "photo_b"
    assert [opened.record(i).key for i in range(len(opened))] == ([] if twice else ["photo_b"])
    assert len(opened.index.problems) == 1 + twice
    assert told in opened.index.problems[0].what


def test_damaged_files(copy: Path, tmp_path: Path) -> None:
    image = copy / "images/photo_a.jpg"
    image.write_bytes(image.read_bytes()[:-20])
    opened = read(copy, tmp_path / "cache")
    assert [opened.record(i).key for i in range(len(opened))] == ["photo_b"]
    assert "photo_a.jpg: the image is cut short" in opened.index.problems[0].what
    write_image(image, flat(3, 96, 64))
    (copy / "models/photo_a.obj").write_text("v 1 2\n")
    assert "photo_a.obj: expected rows" in read(copy, tmp_path / "cache").index.problems[0].what
    for text, told in (("[{", "not valid JSON"), ("{}", "expected a list")):
        (copy / "poses.json").write_text(text)
        with pytest.raises(FileFormatError, match=rf"poses.json: {told}"):
            read(copy, tmp_path / "cache")
    (copy / "poses.json").unlink()
    with pytest.raises(MissingFileError, match=r"poses.json: there is no such file"):
        read(copy, tmp_path / "cache")
    with pytest.raises(InputError, match="mow: there is no split 'test'"):
        open_dataset("mow", copy, "test")
