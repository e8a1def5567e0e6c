"""Photos with labels of one's own as a named set: what the commands say, draw and write."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from tests.data.miniature import flat, project, same

from handhold.cli.main import main
from handhold.data.photo_set import PhotoSet
from handhold.data.photos import PhotoFolder
from handhold.data.registry import open_dataset
from handhold.data.sources import SetSpec
from handhold.errors import FileFormatError, MissingFileError
from handhold.training.config import TrainConfig
from handhold.training.stream import DataSpec, open_samples
from handhold.training.tasks import Task

CAMERA = (150.0, 150.0, 60.0, 45.0)
INTRINSICS = [[150.0, 0, 60.0], [0, 150.0, 45.0], [0, 0, 1]]
PLACE = (0.0, 0.05, 0.5)


def hand(side: str = "left", **changes: Any) -> dict[str, Any]:
    pixels = project(JOINTS, CAMERA)
    entry: dict[str, Any] = {
        "side": side,
        "joints_2d": pixels.tolist(),
        "visible": [1] * 20 + [0],
        "box": [*pixels.min(0).tolist(), *pixels.max(0).tolist()],
        "holding": None,
        "joints_3d": (JOINTS - JOINTS.mean(0)).tolist(),
    }
    return entry | changes


def _joints() -> np.ndarray:
    k = np.arange(21)
    return np.stack([0.02 * (k % 5), -0.008 * k, 0.002 * k], 1) + PLACE


JOINTS = _joints()


def photo(number: int, **changes: Any) -> dict[str, Any]:
    entry = {
        "file": f"images/{number}.png", "width": 120, "height": 90, "sequence": f"s{number}",
        "complete": True, "source": "made", "hands": [hand()],
    }  # fmt: skip
    return entry | changes


def write(root: Path, photos: list[dict[str, Any]]) -> Path:
    for number, entry in enumerate(photos):
        path = root / entry["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), flat(10 * number, 120, 90))
    (root / "labels.json").write_text(json.dumps({"photos": photos}))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    both = [hand(holding=True), hand("right", joints_camera=JOINTS.tolist())]
    photos = [photo(0), photo(1, hands=both, intrinsics=INTRINSICS), photo(2, hands=[])]
    return write(tmp_path / "mine", [*photos, *(photo(n) for n in range(3, 8))])


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDHOLD_HOME", str(tmp_path / "home"))


def opened(root: Path, split: str = "all", **options: Any) -> PhotoSet:
    found = open_dataset("photos", root, split, workers=0, **options)
    assert isinstance(found, PhotoSet)
    return found


def test_same_samples_as_the_folder(root: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 26
    Image.new("RGB", (120, 90)).save(root / "images/3.jpg", exif=exif)
    labels = root / "labels.json"
    labels.write_text(labels.read_text().replace("images/3.png", "images/3.jpg"))
    for split in ("all", "train", "held_out"):
        found, folder = opened(root, split), PhotoFolder(root, split)  # type: ignore[arg-type]
        assert found.hands == folder.hands and len(found) == len(folder) > 0
        for ours, plain in zip(found, folder, strict=True):
            assert (ours.key, ours.hands_complete) == (plain.key, plain.hands_complete)
            assert ours.camera.source == plain.camera.source
            np.testing.assert_array_equal(ours.camera.intrinsics, plain.camera.intrinsics)
            np.testing.assert_array_equal(ours.image, plain.image)
            for one, other in zip(ours.hands, plain.hands, strict=True):
                assert (one.side, one.grasping) == (other.side, other.grasping)
                for name in ("box", "joints2d", "joints2d_valid", "joints"):
                    np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert {sample.camera.source for sample in opened(root)} == {"default", "dataset", "exif"}
    record = opened(root).record(1)
    assert record.hands[0].joints is None
    same(record.hands[1].joints, JOINTS)
    same(record.extra["joints_centred"][0], JOINTS - JOINTS.mean(0))


def test_check_and_index(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["photos", str(root), "--workers", "0"]
    assert main(["data", "check", *words]) == 0
    assert "damaged: nothing (labels, and the ends of 8 images" in capsys.readouterr().out
    assert main(["data", "index", *words]) == 0
    assert "8 samples, 0 damaged" in capsys.readouterr().out
    labels = json.loads((root / "labels.json").read_text())
    labels["photos"][3]["hands"][0]["side"] = "both"
    labels["photos"][4]["width"] = 121
    (root / "labels.json").write_text(json.dumps(labels))
    (root / "images/5.png").unlink()
    path = root / "images/6.png"
    path.write_bytes(path.read_bytes()[:-20])
    assert main(["data", "check", *words]) == 1
    told = capsys.readouterr().out
    assert "damaged: 4 (" in told and "all                            4 " in told
    for part in (
        "hands[0].side: expected",
        "says 121x90, but the image is 120x90",
        "images/5.png: there is no such image",
        "6.png: the image is cut short",
    ):
        assert part in told
    (root / "labels.json").write_text("{")
    assert main(["data", "check", *words]) == 1
    assert capsys.readouterr().out.count("labels.json: not valid JSON") == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"intrinsics": [[1, 0, 0], [0, -1, 0], [0, 0, 1]]}, r"intrinsics: expected \[\[fx"),
        ({"hands": [hand(joints_camera=JOINTS.tolist())]}, "needs the photo's field 'intrinsics'"),
        (
            {
                "hands": [hand(joints_camera=(JOINTS + (0.2, 0, 0)).tolist())],
                "intrinsics": INTRINSICS,
            },
            r"hands\[0\]\.joints_camera: projected .* pixels from joints_2d",
        ),
        (
            {"hands": [hand(joints_camera=(1000 * JOINTS).tolist())], "intrinsics": INTRINSICS},
            "joints_camera: expected metres, found a hand of 160 m",
        ),
        (
            {"hands": [hand(joints_camera=(-JOINTS).tolist())], "intrinsics": INTRINSICS},
            "expected z > 0",
        ),
        ({"hands": [hand(joints_3d=[[0, 0]] * 21)]}, "joints_3d: expected 21x3 numbers"),
        ({"file": "images/0.png"}, "listed 2 times"),
        ({"file": "../mine/images/1.png"}, "expected the name of a file"),
    ],
)
def test_damaged_entries_are_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    root = write(tmp_path / "mine", [photo(0), photo(1) | change, photo(2)])
    found = opened(root)
    assert [found.record(i).key for i in range(len(found))][-1] == "images/2.png"
    with pytest.raises(FileFormatError, match=told):
        raise FileFormatError(str(found.index.problems[-1]))
    with pytest.raises(FileFormatError, match="damaged, the first"):
        SetSpec(name="photos", root=str(root), split="all").open()


def test_export_and_view(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.npz"
    assert main(["data", "export", "photos", str(root), "--out", str(out), "--workers", "0"]) == 0
    found = np.load(out)
    keys = ["images/0.png#0", "images/1.png#0", "images/1.png#1"]
    assert found["key"].tolist() == [*keys, *(f"images/{n}.png#0" for n in range(3, 8))]
    assert found["side"].tolist() == ["left", "left", "right"] + ["left"] * 5
    same(found["joints2d"][0, :20], project(JOINTS, CAMERA)[:20], 1e-3)
    assert np.isnan(found["joints2d"][0, 20]).all()
    same(found["joints"][2], JOINTS)
    same(found["intrinsics"][2], INTRINSICS)
    assert np.isnan(found["joints"][0]).all() and np.isnan(found["intrinsics"][0]).all()
    sheet = tmp_path / "sheet.png"
    words = ["--out", str(sheet), "--count", "2", "--cell", "120", "--workers", "0"]
    assert main(["data", "view", "photos", str(root), *words]) == 0
    first = cv2.imread(str(sheet))[:, :120].astype(int)
    low, high = project(JOINTS[:20], CAMERA).min(0), project(JOINTS[:20], CAMERA).max(0)
    columns = np.flatnonzero((first[16:80].max(-1) > 60).any(0))
    assert columns.min() == pytest.approx(low[0], abs=8)
    assert columns.max() == pytest.approx(high[0], abs=8)


def test_from_a_zip(root: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as packed:
        for path in sorted(root.rglob("*.*")):
            packed.write(path, f"photos/{path.relative_to(root)}")
    found, plain = opened(tmp_path / "mine.zip"), opened(root)
    assert [sample.key for sample in found] == [sample.key for sample in plain]
    np.testing.assert_array_equal(found[4].image, plain[4].image)


def test_sources_of_training(root: Path) -> None:
    task = Task(network=None, encode=None, losses=None, measures=None, save=None, name="")  # type: ignore[arg-type]
    config = TrainConfig(model="x", data=("x",), steps=1, batch_size=2)
    plain = DataSpec.parse(f"photos:{root}")
    assert plain.published is None and SetSpec.parse(f"photos:{root}") is None
    keys: dict[str, list[str]] = {}
    for text in (f"photos:{root}", f"photos/train:{root}", f"photos?skip-damaged:{root}"):
        for part in ("train", "held_out"):
            samples = open_samples(DataSpec.parse(text), part, task, config)  # type: ignore[arg-type]
            found = [samples[i].key for i in range(len(samples))]
            assert found == keys.setdefault(part, found)
    assert len(keys["held_out"]) == 1 and len(keys["train"]) == 7
    (root / "images/4.png").unlink()
    with pytest.raises(MissingFileError):
        open_samples(plain, "train", task, config)
    assert (
        len(open_samples(DataSpec.parse(f"photos?skip-damaged:{root}"), "all", task, config)) == 7
    )
