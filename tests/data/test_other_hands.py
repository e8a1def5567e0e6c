"""Sets as other people write them, from the formats' descriptions alone: other key orders, whole
numbers for fractions, byte order marks, Windows' line ends, hidden files of desktops, links, spaces
and umlauts in the path, upper-case endings, images with something behind their end."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from tests.data.miniature import known_hand, same

from handhold.cli.main import main
from handhold.data.registry import open_dataset
from handhold.hand.model import HandModel

GRID = [[20 + 2 * (k % 5), 10 + 3 * (k // 5)] for k in range(21)]
BOM = b"\xef\xbb\xbf"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with spaces and umlauts, made read-only before it is opened; nothing may be written
    into it."""
    monkeypatch.setenv("HANDHOLD_HOME", str(tmp_path / "elsewhere"))
    place = tmp_path / "Größe der Hände (2)"
    place.mkdir()
    yield place
    assert (tmp_path / "elsewhere/index").is_dir()


def protect(root: Path) -> list[Path]:
    """Make a tree read-only; what it holds."""
    found = sorted(root.rglob("*"))
    for path in [*found, root]:
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    return found


def picture(path: Path, value: int, size: tuple[int, int] = (96, 64), **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = options.pop("format", "PNG" if path.suffix.lower() == ".png" else "JPEG")
    Image.new("RGB", size, (value,) * 3).save(path, kind, **options)


def document(path: Path, content: Any, **options: Any) -> None:
    """JSON with a byte order mark, Windows' line ends and blank lines at its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1, ensure_ascii=False, **options) + "\n\n"
    path.write_bytes(BOM + text.replace("\n", "\r\n").encode())


def litter(folder: Path) -> None:
    """What desktops leave behind."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._ND_1_r.json", "._00000001.pkl"):
        (folder / name).write_bytes(b"\0\0\0\1Bud1")


def checked(name: str, root: Path) -> None:
    """No damage is found, and nothing is written."""
    before = protect(root)
    assert main(["data", "check", name, str(root), "--workers", "0", "--images", "all"]) == 0
    assert sorted(root.rglob("*")) == before


def test_hint(root: Path, tmp_path: Path) -> None:
    tree = root / "HInt_annotation_partial"
    label = [{"note": "é", "bbox": [[18, 8, 30, 24], [0, 0, 96, 64]], "occlusion": [1.0] + [0] * 20,
              "keypoints": GRID}]  # fmt: skip
    stems = ["ND_x.y_frame000001_l", "ND_x.y_frame000001_r", "ND_ü z_frame000002_r"]
    endings = [".JPG", ".png", ".jpeg"]
    for number, (stem, ending) in enumerate(zip(stems, endings, strict=True)):
        document(tree / f"TEST_newdays_img/{stem}.json", label)
        picture(tree / f"TEST_newdays_img/{stem}{ending}", 50 * number)
    moved = tmp_path / "other disk"
    document(moved / "EK_0064_P03_10_frame_0000000249_r.json", label)
    picture(moved / "EK_0064_P03_10_frame_0000000249_r.jpg", 10)
    (tree / "TEST_epick_img").symlink_to(moved)
    for folder in ("TEST_newdays_img", "TRAIN_newdays_img"):  # the second holds nothing else
        litter(tree / folder)
    litter(root)
    checked("hint", root)
    found = open_dataset("hint", root, "all", workers=0)
    assert sorted(s.key.split("/")[1] for s in found)[1:] == stems
    sample = next(s for s in found if s.key.endswith("000001_l"))
    (hand,) = sample.hands
    assert hand.side == "left" and sample.image.max() == 0
    same(hand.joints2d, GRID, 0)
    same(hand.box, [18, 8, 30, 24], 0)
    assert hand.joints_visible is not None
    assert np.flatnonzero(~hand.joints_visible).tolist() == [0]
    with pytest.raises(FileNotFoundError, match="TRAIN_newdays_img: no such folder"):
        open_dataset("hint", root, "train-newdays", workers=0)


def _person(number: int, image: int, **hands: Any) -> OrderedDict[str, Any]:
    entry: OrderedDict[str, Any] = OrderedDict(righthand_valid=0, lefthand_valid=False)
    for side in ("right", "left"):
        entry[f"{side}hand_kpts"], entry[f"{side}hand_box"] = [0] * 63, [0, 0, 0, 0]
    return OrderedDict(entry, **hands, image_id=image, category_id=1, id=number, iscrowd=False)


def test_coco_wholebody(root: Path, tmp_path: Path) -> None:
    """The labels lie unpacked, the images in a zip of Windows with a folder on top."""
    points = [n for x, y in GRID for n in (x, y, 2)]
    right = [n for k, (x, y) in enumerate(GRID) for n in ((x + 30, y, 0.4) if k % 3 else (0, 0, 0))]
    lonely = [20, 10, 2] + [0] * 60
    people = [
        _person(9, 2, righthand_kpts=right, righthand_box=[52, 10, 6, 12], righthand_valid=1),
        _person(4, 1, lefthand_kpts=points, lefthand_box=[20, 10, 8, 12], lefthand_valid=True),
        _person(5, 1, lefthand_kpts=lonely, lefthand_box=[20, 10, 0, 0], lefthand_valid=True),
        _person(6, 1, lefthand_valid=True) | {"iscrowd": 1},
        _person(7, 2),
    ]
    images = [
        {"height": 64.0, "width": 96, "file_name": "val2017/000000000001.jpg", "id": 1},
        {"id": 2, "coco_url": "http://x", "file_name": "000000000002.jpg", "width": 96,
         "height": 64},
    ]  # fmt: skip
    document(
        root / "coco_wholebody_val_v1.0.json",
        {"annotations": people, "info": {"a": [[]], "]": "}"}, "categories": [], "images": images},
    )
    with zipfile.ZipFile(root / "IMAGES.ZIP", "w", zipfile.ZIP_DEFLATED) as packed:
        for number in (1, 2):
            picture(tmp_path / "a.jpg", 60 * number)
            data = (tmp_path / "a.jpg").read_bytes()
            info = zipfile.ZipInfo("x")
            info.filename = f"my coco\\val2017\\{number:012d}.jpg"
            packed.writestr(info, data)
            packed.writestr(f"__MACOSX/my coco/val2017/._{number:012d}.jpg", b"\0")
    litter(root / "val2017")  # a folder without images beside the zip
    checked("coco-wholebody", root)
    found = open_dataset("coco-wholebody", root, "val", workers=0)
    assert [s.key for s in found] == ["val/9/right", "val/4/left"]
    assert found.index.dropped["no extent"] == 1 and found.index.dropped["crowd"] == 1
    first, second = found[0], found[1]
    assert int(first.image[0, 0, 0]) == pytest.approx(120, abs=2)
    assert int(second.image[0, 0, 0]) == pytest.approx(60, abs=2)
    same(second.hands[0].joints2d, GRID, 0)
    same(second.hands[0].box, [20, 10, 28, 22], 0)
    valid = first.hands[0].joints2d_valid
    assert valid is not None and np.flatnonzero(~valid).tolist() == [0, 3, 6, 9, 12, 15, 18]


def test_onehand10k(root: Path) -> None:
    """Absolute names of the disk on which the labels were converted, and names with folders."""
    points = [n for x, y in GRID for n in (x, y, 1)]
    names = ["/data/OneHand10K/Train/source/5.jpg", "C:\\sets\\Train\\source\\6.PNG", "7.JPEG"]
    images = [
        {"id": n, "file_name": name, "height": 64, "width": 96} for n, name in enumerate(names)
    ]
    hands = [
        {"bbox": [18, 8, 12 + n, 16], "keypoints": points, "image_id": n, "id": n, "category_id": 1}
        for n in (2, 0, 1)
    ]
    content = {"categories": [{"id": 1, "name": "hand"}], "annotations": hands, "images": images}
    document(root / "OneHand10K/annotations/onehand10k_train.json", content)
    for number, name in enumerate(("5.jpg", "6.PNG", "7.JPEG")):
        picture(root / "OneHand10K/Train/source" / name, 30 * number)
    litter(root / "OneHand10K/Train/source")
    checked("onehand10k", root)
    found = open_dataset("onehand10k", root, "all", workers=0)
    assert [s.key for s in found] == ["train/2", "train/0", "train/1"]
    for number, sample in zip((2, 0, 1), found, strict=True):
        assert int(sample.image[9, 9, 0]) == pytest.approx(30 * number, abs=2)
        same(sample.hands[0].box, [18, 8, 30 + number, 24], 0)
        same(sample.hands[0].joints2d, GRID, 0)


def test_obman(root: Path) -> None:
    """Lists for arrays, whole numbers, text as bytes, every protocol; images alone, a film behind
    the end of one."""
    flip = np.array([1, -1, -1])
    hands = {0: known_hand("left", 1, (0.0, 0.0, 0.5)), 12: known_hand("right", 2, (0, 0, 0.6))}
    for protocol, (number, hand) in enumerate(hands.items()):
        pixels = 480 * hand.joints[:, :2] / hand.joints[:, 2:] + 128
        meta = OrderedDict(
            verts_3d=(hand.vertices * flip).astype(np.float32),
            affine_transform=[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -1], [0, 0, 0, 1]],
            side=hand.side.encode() if number else hand.side,
            sample_id="abc",
            class_id="02876657",
            coords_3d=(hand.joints * flip).tolist(),
            coords_2d=pixels.tolist(),
            hand_pose=[0] * 45,
            pca_pose=[0] * 45,
            obj_scale=1,
        )
        path = root / f"obman/train/meta/{number:08d}.pkl"
        litter(path.parent)
        path.write_bytes(pickle.dumps(dict(meta), 3 * protocol))
        picture(root / f"obman/train/rgb/{number:08d}.jpg", 90 + number, (256, 256))
    image = root / "obman/train/rgb/00000012.jpg"
    image.write_bytes(image.read_bytes() + b"\0" * 4 + b"ftypmp42" + b"\1" * 900)
    (root / "obman/train/meta/00000012.pkl.bak").write_bytes(b"old")
    litter(root / "obman/val/meta")
    litter(root / "__MACOSX/train/meta")
    checked("obman", root)
    found = open_dataset("obman", root, "all", workers=0)
    assert [s.key for s in found] == ["train/00000000", "train/00000012"]
    for sample, (number, hand) in zip(found, hands.items(), strict=True):
        (label,) = sample.hands
        assert label.side == hand.side
        same(label.joints, hand.joints)
        same(label.vertices, hand.vertices)
        assert int(sample.image[5, 5, 0]) == pytest.approx(90 + number, abs=2)
        assert sample.object is not None
        same(sample.object.translation, [0, 0, 1], 1e-6)


@pytest.mark.filterwarnings("ignore:mow. the labels are parameters")
def test_mow(root: Path) -> None:
    """Matrices as rows, numbers as lists of one, a model with Windows' line ends and comments."""
    turn = Rotation.from_rotvec([0.2, 0.4, -0.3]).as_matrix()
    entry = {
        "t": [0, 0, 1], "s": [2], "R": np.eye(3, dtype=int).tolist(), "hand_t": [[0.1, 0, 1]],
        "hand_R": turn.tolist(), "hand_s": 1, "trans": [[0, 0, 0]], "hand_pose": [0] * 48,
        "obj_url": None, "obj_name": "Löffel", "image_id": "spoon v1.2", "extra": {"a": None},
    }  # fmt: skip
    other = entry | {"image_id": "tall", "obj_name": None}
    document(root / "MOW/poses.json", [entry, other])
    picture(root / "MOW/images/spoon v1.2.JPG", 40, (100, 60))
    picture(root / "MOW/images/tall.png", 80, (50, 70))
    litter(root / "MOW/images")
    litter(root / "MOW/models")
    rows = ["# made", "o spoon", "v 0 0 0", "v 0.1 0 0", "v 0 0.1 0", "vt 0 0", "f 1/1 2/1 3/1", ""]
    (root / "MOW/models/spoon v1.2.obj").write_bytes("\r\n".join(rows).encode())
    checked("mow", root)
    found = open_dataset("mow", root, workers=0)
    model = HandModel.free("right")
    pose = torch.cat([torch.zeros(1, 3), model.hands_mean.reshape(15, 3).float()])
    posed = model(pose, None, torch.zeros(3))
    first, second = found[0], found[1]
    truth = posed.joints.double().numpy() @ turn.T + [0.1, 0, 1]
    for sample, longer in ((first, 100), (second, 70)):
        (hand,) = sample.hands
        same(hand.joints, truth)
        same(hand.joints2d, truth[:, :2] / truth[:, 2:] * longer + longer / 2, 0.01)
    assert first.object is not None and first.object.name == "Löffel"
    assert second.object is not None and second.object.control_points is None
    points = first.object.control_points
    assert points is not None
    same(points[:8].max(0) - points[:8].min(0), [0.2, 0.2, 0])
    assert first.image.shape == (60, 100, 3) and second.image.shape == (70, 50, 3)


def test_photos(root: Path, tmp_path: Path) -> None:
    """Turned by EXIF, a film behind the end, another kind than the name says, a linked folder."""
    hand = {
        "box": [20, 10, 28, 22], "holding": None, "visible": [True] * 20 + [False],
        "joints_2d": [*GRID[:20], [None, None]], "side": "right",
    }  # fmt: skip
    names = ["IMG 1.JPG", "Ordner/ünter/2.jpg", "linked/3.png"]
    photos = [
        {"hands": [hand], "sequence": "a", "height": 64, "width": 96.0, "file": name}
        for name in names
    ]
    document(root / "labels.json", {"about": "é", "photos": photos})
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    picture(root / names[0], 40, (64, 96), exif=exif)
    (root / names[0]).write_bytes((root / names[0]).read_bytes() + b"\0ftypmp42" + b"\2" * 500)
    picture(root / names[1], 80, format="PNG")
    moved = tmp_path / "other disk"
    picture(moved / "3.png", 120)
    (root / "linked").symlink_to(moved)
    litter(root)
    checked("photos", root)
    found = open_dataset("photos", root, "all", workers=0)
    for number, sample in enumerate(found):
        assert sample.key == names[number] and sample.image.shape == (64, 96, 3)
        assert int(sample.image[5, 5, 0]) == pytest.approx(40 + 40 * number, abs=2)
        (label,) = sample.hands
        assert label.joints2d is not None and label.joints2d_valid is not None
        same(label.joints2d[:20], GRID[:20], 0)
        assert label.joints2d_valid.tolist() == [True] * 20 + [False]
        assert label.side == "right" and label.grasping is None and not sample.hands_complete


def test_index_has_no_place(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where even the cache cannot be written, one line says what to set."""
    document(root / "labels.json", {"photos": [{}]})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/index").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HANDHOLD_HOME", str(tmp_path / "file"))
    assert main(["data", "index", "photos", str(root), "--workers", "0"]) != 0
    shown = "".join(capsys.readouterr())
    assert "cannot be written" in shown and "HANDHOLD_HOME" in shown and "Traceback" not in shown
    assert [path.name for path in root.iterdir()] == ["labels.json"]
