"""One matrix of damage over all sets: whatever is broken, `data check` fails and names the file,
and reading gives one error that names it or goes on without the sample; never a wrong sample."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data import (
    coco_miniature,
    dexycb_miniature,
    freihand_miniature,
    ho3d_miniature,
    test_mow,
    test_obman,
    test_photo_set,
    test_traps,
)
from tests.data.miniature import flat, write_image

from handhold.cli.main import main
from handhold.data.dexycb import CAMERAS
from handhold.data.registry import DATASETS, open_dataset
from handhold.errors import HandholdError

pytestmark = pytest.mark.filterwarnings("ignore:mow. the labels are parameters")
Change = dict[str, Any]


class Hostile:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A set, one of its samples, and the files of that sample. edit: change fields of its labels.
    shape, nan, kind: fields of a wrong shape, with NaN, of a wrong type. more: damage that only
    this set can have; each returns the file that must be named. skewed: size of another image."""

    name: str
    split: str
    key: str
    image: str
    label: str
    write: Callable[[Path], Any]
    edit: Callable[[Path, Change], None]
    shape: Change
    nan: Change
    kind: Change
    more: dict[str, Callable[[Path], str]] = field(default_factory=dict)


def _json(*places: Any) -> Callable[[Path, Change], None]:
    """Change the entry at these places of a JSON file (the first: the file)."""

    def edit(root: Path, change: Change) -> None:
        path = root / places[0]
        document = json.loads(path.read_text())
        entry = document
        for place in places[1:]:
            entry = entry[place]
        if isinstance(entry, list):
            entry[:] = change["entry"]
        entry.update(change) if isinstance(entry, dict) else None
        path.write_text(json.dumps(document))

    return edit


def _append(
    name: str, key: str | None, told: str | None = None, **change: Any
) -> Callable[[Path], str]:
    """List the first entry again, changed. told: what must be named, default that list."""

    def damage(root: Path) -> str:
        document = json.loads((root / name).read_text())
        entries = document if key is None else document[key]
        entries.append(entries[0] | change)
        (root / name).write_text(json.dumps(document))
        return told or name

    return damage


# ---------------------------------------------------------------------------------------- DexYCB

SEQUENCE, CAMERA = test_traps.SEQUENCE, CAMERAS[3]
LABEL = f"{SEQUENCE}/{CAMERA}/labels_000001.npz"


def _write_dexycb(root: Path) -> None:
    dexycb_miniature.write(root, subjects=())
    dexycb_miniature.write_yaml(root / SEQUENCE / "meta.yml", test_traps.META)
    for frame in range(2):
        dexycb_miniature.write_frame(root / SEQUENCE / CAMERA, "right", 3, frame)


def _edit_npz(root: Path, change: Change) -> None:
    np.savez(root / LABEL, **(dict(np.load(root / LABEL)) | change))


def _meta(**change: Any) -> Callable[[Path], str]:
    def damage(root: Path) -> str:
        dexycb_miniature.write_yaml(root / SEQUENCE / "meta.yml", test_traps.META | change)
        return "labels_000002.npz" if "num_frames" in change else "meta.yml"

    return damage


def _text(name: str, text: str | bytes) -> Callable[[Path], str]:
    def damage(root: Path) -> str:
        data = text if isinstance(text, bytes) else text.encode()
        (root / name).write_bytes(data)
        return name

    return damage


# ------------------------------------------------------------------------------------------ HO3D


def _edit_ho3d(version: str) -> Callable[[Path, Change], None]:
    def edit(root: Path, change: Change) -> None:
        values = ho3d_miniature.meta("MC1/0002") | change
        ho3d_miniature.write_meta(root, "MC1/0002", values, version)

    return edit


def _ho3d_field(version: str, **change: Any) -> Callable[[Path], str]:
    def damage(root: Path) -> str:
        _edit_ho3d(version)(root, change)
        return "MC1/meta/0002.pkl"

    return damage


def _hostile(name: str) -> Callable[[Path], str]:
    def damage(root: Path) -> str:
        (root / name).write_bytes(pickle.dumps({"handJoints3D": Hostile(), "side": Hostile()}))
        return name

    return damage


def _line(line: str) -> Callable[[Path], str]:
    def damage(root: Path) -> str:
        with (root / "train.txt").open("a") as file:
            file.write(f"{line}\r\n\r\n")
        return "meta/0009.pkl" if line.endswith("9") else "train.txt"

    return damage


def _ho3d(version: str, image: str) -> Case:
    return Case(
        name=f"ho3d-{version}",
        split="train",
        key="MC1/0002",
        image=f"train/MC1/rgb/0002.{image}",
        label="train/MC1/meta/0002.pkl",
        write=lambda root: ho3d_miniature.write(root, version),
        edit=_edit_ho3d(version),
        shape={"handJoints3D": -np.ones((20, 3))},
        nan={"handJoints3D": np.full((21, 3), np.nan)},
        kind={"handPose": "text"},
        more={
            "hostile pickle": _hostile("train/MC1/meta/0002.pkl"),
            "unknown object": _ho3d_field(version, objName="099_spoon"),
            "turned inside out": _ho3d_field(version, camMat=np.diag([-600.0, 600, 1])),
            "duplicated frame": _line("MC1/0002"),
            "frame that is not there": _line("MC1/0009"),
            "no frame": _line("/data/HO3D/train/MC1/rgb/0002.png"),
        },
    )


# ------------------------------------------------------------------------------ FreiHAND and HInt


def _freihand_more(root: Path) -> str:
    path = root / "training_xyz.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps([*values, values[0]]))
    return path.name


HINT = "TEST_newdays_img"


def _write_hint(root: Path) -> None:
    for number, stem in enumerate(("ND_a_l", "ND_a_r", "ND_b_r")):
        points = test_photo_set.JOINTS[:, :2] * 100 + 30 + number
        label = {"keypoints": points.tolist(), "occlusion": [0] * 21, "bbox": [[9, 9, 40, 50]]}
        write_image(root / HINT / f"{stem}.jpg", flat(40 + 20 * number, 96, 64))
        (root / HINT / f"{stem}.json").write_text(json.dumps([label]))


def _second_image(root: Path) -> str:
    write_image(root / HINT / "ND_a_l.png", flat(200, 96, 64))
    return "ND_a_l.json"


def _stray_image(root: Path) -> str:
    write_image(root / HINT / "ND_c_l.jpg", flat(200, 96, 64))
    return "ND_c_l.json"


# ---------------------------------------------------------------------------------- all the others

WHOLE, ONE = "annotations/coco_wholebody_val_v1.0.json", "annotations/onehand10k_train.json"


def _edit_obman(root: Path, change: Change) -> None:
    values = test_obman.meta("train/00000003") | change
    (root / "train/meta/00000003.pkl").write_bytes(pickle.dumps(values))


def _obman_field(**change: Any) -> Callable[[Path], str]:
    def damage(root: Path) -> str:
        _edit_obman(root, change)
        return "train/meta/00000003.pkl"

    return damage


def _entry(edit: Callable[[Path, Change], None], name: str, **change: Any) -> Callable[[Path], str]:
    def damage(root: Path) -> str:
        edit(root, change)
        return name

    return damage


def _write_photos(root: Path) -> None:
    both = [test_photo_set.hand(), test_photo_set.hand("right")]
    photos = [test_photo_set.photo(number, hands=both) for number in range(3)]
    test_photo_set.write(root, photos)


_WHOLE, _ONE = _json(WHOLE, "annotations", 0), _json(ONE, "annotations", 0)
_MOW, _PHOTO = _json("poses.json", 0), _json("labels.json", "photos", 0)
CASES = [
    Case(
        name="dexycb",
        split="all",
        key=f"{SEQUENCE}/{CAMERA}/000001",
        image=f"{SEQUENCE}/{CAMERA}/color_000001.jpg",
        label=LABEL,
        write=_write_dexycb,
        edit=_edit_npz,
        shape={"joint_3d": np.ones((1, 20, 3))},
        nan={"joint_2d": np.full((1, 21, 2), np.nan)},
        kind={"pose_m": np.array([["a"] * 51])},
        more={
            "pickle in the npz": lambda root: (_edit_npz(root, {"pose_m": [Hostile()]}), LABEL)[1],
            "unknown object": _meta(ycb_ids=[2, 99]),
            "object of another type": _meta(ycb_ids=[2, "024_bowl"]),
            "frame that is not there": _meta(num_frames=3),
            "side of another type": _meta(mano_sides=["both"]),
            "hostile YAML": _text(f"{SEQUENCE}/meta.yml", "!!python/object/apply:os.mkdir ['x']"),
            "date that is none": _text(f"{SEQUENCE}/meta.yml", "num_frames: 2020-13-45"),
            "short calibration": _text(f"calibration/intrinsics/{CAMERA}_640x480.yml", "color: {"),
            "short shape": _text("calibration/mano_20200820-subject-03_right/mano.yml", "betas: 1"),
            "broken model": _text("models/024_bowl/points.xyz", "0 0 nan\n"),
        },
    ),
    _ho3d("v2", "png"),
    _ho3d("v3", "jpg"),
    Case(
        name="freihand",
        split="training",
        key="training/00000001",
        image="training/rgb/00000001.jpg",
        label="training_xyz.json",
        write=freihand_miniature.write,
        edit=_json("training_xyz.json", 1),
        shape={"entry": [[0.0, 0, 1]] * 20},
        nan={"entry": [[0.0, float("nan"), 1]] * 21},
        kind={"entry": [["0", "0", "1"]] * 21},
        more={"more labels than cameras": _freihand_more},
    ),
    Case(
        name="hint",
        split="test-newdays",
        key=f"{HINT}/ND_a_l",
        image=f"{HINT}/ND_a_l.jpg",
        label=f"{HINT}/ND_a_l.json",
        write=_write_hint,
        edit=_json(f"{HINT}/ND_a_l.json", 0),
        shape={"keypoints": [[1, 2]] * 20},
        nan={"keypoints": [[float("nan"), 2]] * 21},
        kind={"occlusion": ["1"] * 21},
        more={"second image": _second_image, "image without labels": _stray_image},
    ),
    Case(
        name="coco-wholebody",
        split="val",
        key="val/101/left",
        image="val2017/000000000001.jpg",
        label=WHOLE,
        write=coco_miniature.write_wholebody,
        edit=_WHOLE,
        shape={"lefthand_kpts": [1.0] * 60},
        nan={"lefthand_kpts": [float("nan")] * 63},
        kind={"lefthand_box": ["1", "2", "3", "4"]},
        more={
            "duplicated annotation": _append(WHOLE, "annotations"),
            "duplicated image": _append(WHOLE, "images"),
            "image under a second id": _append(WHOLE, "images", id=77),
            "unknown image": _append(WHOLE, "annotations", id=900, image_id=900),
        },
    ),
    Case(
        name="onehand10k",
        split="train",
        key="train/7",
        image="Train/source/0.jpg",
        label=ONE,
        write=coco_miniature.write_onehand,
        edit=_ONE,
        shape={"keypoints": [1.0] * 42},
        nan={"bbox": [1, 2, float("nan"), 4]},
        kind={"keypoints": "text"},
        more={
            "duplicated annotation": _append(ONE, "annotations"),
            "same image in two folders": _append(ONE, "images", id=77, file_name="Train/b/0.jpg"),
        },
    ),
    Case(
        name="obman",
        split="train",
        key="train/00000003",
        image="train/rgb/00000003.jpg",
        label="train/meta/00000003.pkl",
        write=test_obman.write,
        edit=_edit_obman,
        shape={"coords_3d": np.zeros((20, 3))},
        nan={"verts_3d": np.full((778, 3), np.nan)},
        kind={"coords_2d": "text"},
        more={
            "hostile pickle": _hostile("train/meta/00000003.pkl"),
            "object without a name": _obman_field(sample_id=None),
            "hand of no side": _obman_field(side="both"),
        },
    ),
    Case(
        name="mow",
        split="all",
        key="photo_a",
        image="images/photo_a.jpg",
        label="poses.json",
        write=test_mow.write,
        edit=_MOW,
        shape={"hand_pose": [0.0] * 45},
        nan={"t": [0.0, float("nan"), 1]},
        kind={"trans": ["0", "0", "1"]},
        more={
            "duplicated entry": _append("poses.json", None),
            "entry without its image": _append(
                "poses.json", None, "photo_c.jpg", image_id="photo_c"
            ),
            "broken model": _text("models/photo_a.obj", "v 1 2\n"),
        },
    ),
    Case(
        name="photos",
        split="all",
        key="images/0.png",
        image="images/0.png",
        label="labels.json",
        write=_write_photos,
        edit=_PHOTO,
        shape={"hands": [test_photo_set.hand(joints_2d=[[1, 2]] * 20)]},
        nan={"hands": [test_photo_set.hand(box=[0, 0, float("nan"), 5])]},
        kind={"width": "120"},
        more={
            "duplicated photo": _append("labels.json", "photos"),
            "photo that is not there": _append(
                "labels.json", "photos", "9.png", file="images/9.png"
            ),
            "list in place of a hand": _entry(_PHOTO, "labels.json", hands=[[]]),
            "side of another type": _entry(
                _PHOTO, "labels.json", hands=[test_photo_set.hand() | {"side": ["left"]}]
            ),
        },
    ),
]
BY_NAME = {case.name: case for case in CASES}


def _shorter(name: str, keep: Callable[[int], int]) -> Callable[[Path], str]:
    def damage(root: Path) -> str:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: keep(len(data))])
        return name

    return damage


def _unlink(name: str) -> Callable[[Path], str]:
    def damage(root: Path) -> str:
        (root / name).unlink()
        return name

    return damage


def _resize(name: str) -> Callable[[Path], str]:
    def damage(root: Path) -> str:
        write_image(root / name, flat(99, 33, 44))
        return name

    return damage


def damages(case: Case) -> dict[str, Callable[[Path], str]]:
    """Name -> what breaks the set and returns the file that must be named."""
    found = {
        "no image": _unlink(case.image),
        "short image": _shorter(case.image, lambda size: size - 20),
        "empty image": _shorter(case.image, lambda size: 0),
        "text for an image": _text(case.image, "<html>not found</html>"),
        "no labels": _unlink(case.label),
        "short labels": _shorter(case.label, lambda size: size * 2 // 3),
        "empty labels": _shorter(case.label, lambda size: 0),
        "noise for labels": _text(case.label, bytes(range(256)) * 4),
    }
    for name in ("shape", "nan", "kind"):
        found[f"wrong {name}"] = _entry(case.edit, case.label, **getattr(case, name))
    if case.name not in ("hint", "mow"):  # their labels do not say how large the images are
        found["image of another size"] = _resize(case.image)
    return found | case.more


HALVES = ("freihand", "coco-wholebody", "onehand10k")  # without that file: a partial download
MATRIX = [(case.name, damage) for case in CASES for damage in damages(case)]
Truth = tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]


def read_all(case: Case, root: Path, out: Path) -> Truth:
    """Samples by key, and exported rows by key."""
    words = ["--split", case.split, "--out", str(out), "--workers", "0"]
    main(["data", "export", case.name, str(root), *words])
    samples = open_dataset(case.name, root, case.split, workers=0)
    return {sample.key: sample for sample in samples}, rows_of(out)


def rows_of(out: Path) -> dict[str, dict[str, np.ndarray]]:
    if not out.exists():
        return {}
    arrays = dict(np.load(out))
    return {
        str(key): {name: column[row] for name, column in arrays.items()}
        for row, key in enumerate(arrays["key"])
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Truth]]:
    """Undamaged sets and what they hold, each made when first asked for."""
    made: dict[str, tuple[Path, Truth]] = {}

    def get(name: str) -> tuple[Path, Truth]:
        if name not in made:
            place = tmp_path_factory.mktemp(name)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("HANDHOLD_HOME", str(place / "home"))
                BY_NAME[name].write(place / "set")
                truth = read_all(BY_NAME[name], place / "set", place / "truth.npz")
            made[name] = place / "set", truth
        return made[name]

    return get


def assert_same(found: Any, expected: Any) -> None:
    """Samples alike in every label and pixel."""
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.camera.intrinsics, expected.camera.intrinsics)
    assert len(found.hands) == len(expected.hands)
    for one, other in zip(found.hands, expected.hands, strict=True):
        for item in dataclasses.fields(one):
            np.testing.assert_array_equal(getattr(one, item.name), getattr(other, item.name))
    assert (found.object is None) == (expected.object is None)
    if found.object is not None:
        np.testing.assert_array_equal(found.object.translation, expected.object.translation)


def test_all_sets_are_here() -> None:
    assert set(BY_NAME) == set(DATASETS)


@pytest.mark.parametrize(("name", "damage"), MATRIX, ids=[f"{n}: {d}" for n, d in MATRIX])
def test_damage_is_named(
    whole: Callable[[str], tuple[Path, Truth]],
    name: str,
    damage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HANDHOLD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    case, (original, (samples, rows)) = BY_NAME[name], whole(name)
    root = Path(shutil.copytree(original, tmp_path / "set"))
    told = Path(damages(case)[damage](root)).name
    capsys.readouterr()

    code = main(["data", "check", name, str(root), "--workers", "0"])
    half = damage == "no labels" and name in HALVES
    assert code != 0 or half
    shown = "".join(capsys.readouterr())
    assert told in shown and "Traceback" not in shown

    out = tmp_path / "labels.npz"
    words = ["--split", case.split, "--out", str(out), "--workers", "0"]
    code = main(["data", "export", name, str(root), *words])
    shown = "".join(capsys.readouterr())
    assert code == 0 or (told in shown and "Traceback" not in shown)
    for key, row in rows_of(out).items():
        for column, value in row.items():
            np.testing.assert_array_equal(value, rows[key][column])

    refused = ""
    left = set(samples)
    try:
        opened = open_dataset(name, root, case.split, workers=0)
        refused = " ".join(str(problem) for problem in opened.index.problems)
        for number in range(len(opened)):
            try:
                sample = opened[number]
            except HandholdError as error:
                refused += str(error)
            else:
                left.remove(sample.key)  # each once
                assert_same(sample, samples[sample.key])
    except HandholdError as error:
        refused = str(error)
    assert told in refused
    harmless = ("duplicated frame", "not there", "no frame", "without labels", "unknown image")
    if not damage.endswith((*harmless, "without its image")):
        assert case.key in left
    assert not (tmp_path / "harmed").exists() and not (tmp_path / "x").exists()
