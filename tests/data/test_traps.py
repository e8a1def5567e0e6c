"""What the formats allow and other hands have written: forms, places and damage that a reader of
its own miniatures never meets."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.data import dexycb_miniature, freihand_miniature, ho3d_miniature
from tests.data.miniature import flat, same, write_image

from handhold.cli.main import main
from handhold.data.dexycb import CAMERAS, SUBJECTS, TOPS, missing
from handhold.data.export import export_labels
from handhold.data.files import Files
from handhold.data.registry import open_dataset
from handhold.data.sources import SetSpec
from handhold.errors import FileFormatError
from handhold.training.stream import DataSpec, notes

SEQUENCE = f"{SUBJECTS[2]}/20200820_100000"
LABEL = f"{SEQUENCE}/{CAMERAS[0]}/labels_000001.npz"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDHOLD_HOME", str(tmp_path / "home"))


def exported(name: str, root: Path, split: str, tmp_path: Path) -> dict[str, np.ndarray]:
    out = tmp_path / f"{name}.npz"
    export_labels(open_dataset(name, root, split, workers=0), out)
    return dict(np.load(out))


# ------------------------------------------------------------------------------------- FreiHAND


def freihand(root: Path, **labels: list[Any]) -> Path:
    """A training of one version with these labels, the others as in the miniature."""
    for ending, values in (freihand_miniature.labels("training") | labels).items():
        root.mkdir(exist_ok=True)
        (root / f"training_{ending}.json").write_text(json.dumps(values))
    for number in range(freihand_miniature.TRAINING):
        write_image(root / f"training/rgb/{number:08d}.jpg", flat(40, 224, 224))
    return root


def test_parameters_without_the_row(tmp_path: Path) -> None:
    """training_mano.json with 61 numbers an entry instead of 1x61."""
    values = [rows[0] for rows in freihand_miniature.labels("training")["mano"]]
    found = exported("freihand", freihand(tmp_path / "set", mano=values), "training", tmp_path)
    hands = [freihand_miniature.hand("training", entry) for entry in range(3)]
    same(found["mano_pose"], [hand.pose for hand in hands])
    same(found["betas"], [hand.betas for hand in hands])


def test_flat_rows_are_checked(tmp_path: Path) -> None:
    values = [rows[0] for rows in freihand_miniature.labels("training")["mano"]]
    values[1] = values[1][:58]
    found = open_dataset("freihand", freihand(tmp_path / "set", mano=values), workers=0)
    (problem,) = found.index.problems
    assert "training_mano.json[1]: expected 61 numbers" in problem.what and len(found) == 2


def test_mesh_of_another_hand_model(tmp_path: Path) -> None:
    """Vertices that the free hand cannot have are no mesh for training, but labels all the same."""
    mesh = np.random.default_rng(0).normal((0, 0, 0.6), 0.05, (3, 778, 3))
    root = freihand(tmp_path / "set", verts=mesh.tolist(), mano=_toy_parameters())
    with pytest.warns(UserWarning, match="another hand model"):
        found = exported("freihand", root, "training", tmp_path)
        sample = open_dataset("freihand", root, workers=0)[0]
    same(found["vertices"], mesh)
    same(found["betas"], np.full((3, 10), 0.25))
    assert np.isnan(found["mano_pose"]).all()
    assert sample.hands[0].vertices is None


def _toy_parameters() -> list[Any]:
    return [[[0.1, 0.2, 0.3, *[0.4] * 45, *[0.25] * 10, 112, 112, 800]]] * 3


def test_millimetres_are_refused(tmp_path: Path) -> None:
    joints = np.array(freihand_miniature.labels("training")["xyz"])
    joints[2] *= 1000
    found = open_dataset("freihand", freihand(tmp_path / "set", xyz=joints.tolist()), workers=0)
    assert len(found) == 2 and "training_xyz.json[2]" in found.index.problems[0].what


def test_byte_order_mark(tmp_path: Path) -> None:
    root = freihand(tmp_path / "set")
    plain = exported("freihand", root, "training", tmp_path)
    for path in root.glob("*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b", ", b",\r\n") + b"\r\n")
    found = exported("freihand", root, "training", tmp_path)
    for name in ("joints", "intrinsics", "mano_pose", "vertices"):
        np.testing.assert_array_equal(found[name], plain[name])


def test_what_is_hidden_is_told_of(tmp_path: Path) -> None:
    """A training hears where the visible share is lacking, and what makes it; FreiHAND labels
    nothing that could hide the hand, so nothing makes it there."""
    task: Any = SimpleNamespace(uses=("visibility",))
    told = [
        notes([DataSpec.parse(f"{text}:x")], task)
        for text in ("dexycb", "dexycb?occlusion", "freihand", "freihand?occlusion")
    ]
    lacking = "has no labels of how much of the hand is hidden"
    advice = "(read as dexycb?occlusion:FOLDER it tells how much is hidden)"
    assert told == [
        [f"dexycb {lacking} {advice}"], [], [f"freihand {lacking}"], [f"freihand {lacking}"]
    ]  # fmt: skip
    root = freihand(tmp_path / "set")
    with pytest.warns(UserWarning, match="freihand.occlusion: the set labels nothing that could"):
        spec = SetSpec(name="freihand", root=str(root), skip_damaged=True, rendered=("occlusion",))
        found = spec.open(workers=0)
    assert found[0].hands[0].visibility is None


# ----------------------------------------------------------------------------------------- HO3D


def test_ho3d_numbers_as_lists_and_columns(tmp_path: Path) -> None:
    """What one release has as (3,), another has as (3, 1), and pickles hold lists, too."""
    root = ho3d_miniature.write(tmp_path / "set", "v3")
    plain = exported("ho3d-v3", root, "all", tmp_path)
    for key in ("MC1/0001", "SM1/0000"):
        values = ho3d_miniature.meta(key)
        values["objTrans"] = np.reshape(values["objTrans"], (3, 1)).tolist()
        values["objRot"] = np.reshape(values["objRot"], 3).astype(np.float32)
        values["objName"] = np.str_(values["objName"])
        if "handPose" in values:
            values["handPose"] = np.reshape(values["handPose"], (1, 48))
            values["handTrans"] = np.reshape(values["handTrans"], (3, 1)).tolist()
        else:
            values["handJoints3D"] = np.reshape(values["handJoints3D"], (1, 3))
            values["handBoundingBox"] = np.array(values["handBoundingBox"], np.float64)
        ho3d_miniature.write_meta(root, key, values, "v3")
    found = exported("ho3d-v3", root, "all", tmp_path)
    assert set(found) == set(plain) and len(found["key"]) == 10
    for name, values in found.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(values, plain[name], atol=1e-5, rtol=0)
        else:
            assert values.tolist() == plain[name].tolist()


def test_ho3d_wrist_of_the_evaluation(tmp_path: Path) -> None:
    """Without the server's truth the wrist is what the evaluation holds of the joints."""
    root = ho3d_miniature.write(tmp_path / "set")
    found = exported("ho3d-v2", root, "evaluation", tmp_path)
    key = str(found["key"][1])
    wrist = ho3d_miniature.meta(key)["handJoints3D"] * (1, -1, -1)
    same(found["joints"][1, 0], wrist)
    fx, fy, cx, cy = ho3d_miniature.camera(key)
    pixel = (fx * wrist[0] / wrist[2] + cx, fy * wrist[1] / wrist[2] + cy)
    same(found["joints2d"][1, 0], pixel, 0.1)
    assert np.isnan(found["joints"][:, 1:]).all() and np.isnan(found["joints2d"][:, 1:]).all()


def test_ho3d_pose_of_another_hand_model(tmp_path: Path) -> None:
    """handPose has MANO's mean in it: the pose is known whatever the hand model."""
    root = ho3d_miniature.write(tmp_path / "set")
    values = ho3d_miniature.meta("MC1/0002")
    values["handJoints3D"] = values["handJoints3D"] + np.linspace(0, 0.03, 21)[:, None]
    ho3d_miniature.write_meta(root, "MC1/0002", values)
    with pytest.warns(UserWarning, match="another hand model"):
        plain = exported("ho3d-v2", root, "train", tmp_path)
    row = plain["key"].tolist().index("MC1/0002")
    same(plain["mano_pose"][row, 1:], np.reshape(values["handPose"], (16, 3))[1:])
    same(plain["betas"][row], values["handBeta"])
    assert np.isnan(plain["vertices"][row]).all()


# --------------------------------------------------------------------------------------- DexYCB


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One sequence of one camera, two frames."""
    root = dexycb_miniature.write(tmp_path_factory.mktemp("dexycb"), subjects=())
    dexycb_miniature.write_yaml(root / SEQUENCE / "meta.yml", META)
    for frame in range(2):
        dexycb_miniature.write_frame(root / SEQUENCE / CAMERAS[0], "right", 0, frame)
    return root


META = {
    "serials": list(CAMERAS),
    "num_frames": 2,
    "extrinsics": "20200820_000000",
    "ycb_ids": [2, 13],
    "ycb_grasp_ind": 1,
    "mano_sides": ["right"],
    "mano_calib": ["20200820-subject-03_right"],
}


@pytest.fixture
def dexycb(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "dexycb"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_frames": "two"}, "num_frames: expected int, found 'two'"),
        ({"num_frames": 10**9}, "num_frames: expected 0 to 100000"),
        ({"mano_sides": []}, "mano_sides: expected a list of one text"),
        ({"mano_calib": None}, "mano_calib: expected list, found None"),
        ({"ycb_grasp_ind": -1}, "ycb_grasp_ind"),
    ],
)
def test_dexycb_damaged_meta(dexycb: Path, change: dict[str, Any], told: str) -> None:
    dexycb_miniature.write_yaml(dexycb / SEQUENCE / "meta.yml", META | change)
    with pytest.raises(FileFormatError, match=r"meta\.yml") as caught:
        open_dataset("dexycb", dexycb, "all", workers=0)
    assert told in str(caught.value)


def _stretched(poses: np.ndarray) -> np.ndarray:
    return poses * (1, 1.2, 1, 1)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("pose_y", _stretched, "pose_y[1]: expected a rotation"),
        ("joint_3d", lambda joints: 1000 * joints, "joint_3d: expected metres"),
        ("joint_3d", lambda joints: -joints, "joint_3d: expected joints before the camera"),
    ],
)
def test_dexycb_labels_that_cannot_be(
    dexycb: Path,
    tmp_path: Path,
    name: str,
    change: Callable[[np.ndarray], np.ndarray],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Right shapes, impossible numbers: no sample; `export` says so and fails."""
    arrays = dict(np.load(dexycb / LABEL))
    np.savez(dexycb / LABEL, **(arrays | {name: change(arrays[name])}))
    out = tmp_path / "labels.npz"
    words = ["data", "export", "dexycb", str(dexycb), "--split", "all", "--out", str(out)]
    assert main([*words, "--workers", "0"]) == 1
    shown = capsys.readouterr().out
    assert "0 hands" in shown and told in shown and "labels_000001.npz" in shown
    assert len(np.load(out)["key"]) == 0


def test_dexycb_grasp_where_the_first_image_is_missing(dexycb: Path, tmp_path: Path) -> None:
    """The first frame's labels say where the object was, also without its image."""
    (dexycb / SEQUENCE / CAMERAS[0] / "color_000000.jpg").unlink()
    found = exported("dexycb", dexycb, "all", tmp_path)
    assert found["grasping_10mm"].tolist() == [0] and found["key"][0].endswith("/000001")


def test_dexycb_damaged_sequences_are_named_together(
    dexycb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All in one error; `check` names them, and who asks for it goes on with the others."""
    for number, change in ((7, {"ycb_ids": [2, 99]}), (8, {"num_frames": None}), (9, {})):
        folder = dexycb / f"{SUBJECTS[2]}/20200820_10000{number}"
        dexycb_miniature.write_yaml(folder / "meta.yml", META | change)
        (folder / CAMERAS[0]).mkdir()
    for name in ("labels_000000.npz", "color_000000.jpg"):
        shutil.copy(dexycb / SEQUENCE / CAMERAS[0] / name, folder / CAMERAS[0])
    for name in ("labels_000001.npz", "color_000001.jpg"):
        shutil.copy(dexycb / SEQUENCE / CAMERAS[0] / name, folder / CAMERAS[0])
    words = [str(dexycb), "--workers", "0"]
    told = ("100007/meta.yml: ycb_ids", "100008/meta.yml.num_frames: expected int")
    with pytest.raises(FileFormatError) as caught:
        open_dataset("dexycb", dexycb, "s1-train", workers=0)
    assert all(what in str(caught.value) for what in told)
    assert f"dexycb/s1-train?skip-damaged:{dexycb}" in str(caught.value)
    assert main(["data", "check", "dexycb", *words]) == 1
    shown = capsys.readouterr().out
    assert all(what in shown for what in told) and "damaged: 2" in shown
    out = ["--split", "all", "--out", str(tmp_path / "labels.npz")]
    assert main(["data", "export", "dexycb", *words, *out]) != 0
    assert not (tmp_path / "labels.npz").exists()
    capsys.readouterr()
    assert main(["data", "export", "dexycb", *words, *out, "--skip-missing"]) == 1
    shown = capsys.readouterr().out
    assert all(what in shown for what in told)
    keys = np.load(tmp_path / "labels.npz")["key"].tolist()
    assert [key.split("/")[1][-1] for key in keys] == ["0", "9"]
    spec = SetSpec.parse(f"dexycb/s1-train?skip-damaged:{dexycb}")
    assert spec is not None and len(spec.open(workers=0)) == 2


def test_dexycb_empty_sequences_lack_no_camera(dexycb: Path) -> None:
    folder = dexycb / SUBJECTS[2] / "20200820_100007"
    dexycb_miniature.write_yaml(folder / "meta.yml", META | {"num_frames": 0})
    told = missing(Files(dexycb, TOPS))
    assert f"camera {CAMERAS[1]} in 1 sequences of {SUBJECTS[2]}" in told
    assert not any(CAMERAS[0] in line for line in told)


def test_dexycb_numbers_of_other_yaml_writers(dexycb: Path, tmp_path: Path) -> None:
    """1e-05 is a number, whatever YAML 1.1 says; line ends and a byte order mark are none."""
    path = dexycb / "calibration/mano_20200820-subject-03_right/mano.yml"
    path.write_bytes(b"\xef\xbb\xbfbetas:\r\n" + b"- 1e-05\r\n- -2.5E-3\r\n" + b"- 0\r\n" * 8)
    meta = (dexycb / SEQUENCE / "meta.yml").read_text().replace("\n", "\r\n")
    (dexycb / SEQUENCE / "meta.yml").write_bytes(meta.encode())
    found = exported("dexycb", dexycb, "all", tmp_path)
    same(found["betas"][0], [1e-5, -2.5e-3] + [0] * 8, 1e-9)


# ------------------------------------------------------------------------------------- archives


def test_photos_beside_the_labels_in_a_zip(tmp_path: Path) -> None:
    """A zipped folder, as macOS makes it, with images in folders of any name."""
    entry = {"width": 64, "height": 48, "sequence": "s", "complete": None, "hands": []}
    names = ("a.png", "more/b.jpg")
    labels = {"photos": [entry | {"file": name} for name in names]}
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as packed:
        for name in names:
            write_image(tmp_path / "made" / name, flat(90, 64, 48))
            packed.write(tmp_path / "made" / name, f"my photos/{name}")
            packed.writestr(f"__MACOSX/my photos/._{name.rpartition('/')[2]}", b"\0")
        packed.writestr("my photos/labels.json", json.dumps(labels))
        packed.writestr("__MACOSX/my photos/._labels.json", b"\0")
    found = open_dataset("photos", tmp_path / "mine.zip", "all", workers=0)
    assert [sample.key for sample in found] == list(names)
    assert not found.index.problems


def test_hard_links_of_a_tar(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"same")
    (tmp_path / "b.txt").hardlink_to(tmp_path / "a.txt")
    with tarfile.open(tmp_path / "set.tar", "w") as packed:
        packed.add(tmp_path / "a.txt", "top/a.txt")
        packed.add(tmp_path / "b.txt", "top/b.txt")
        assert packed.getmembers()[1].islnk()
    files = Files(tmp_path / "set.tar", ("top",), cache=tmp_path / "cache")
    assert files.read("top/b.txt") == b"same" and files.list("top") == ["a.txt", "b.txt"]
