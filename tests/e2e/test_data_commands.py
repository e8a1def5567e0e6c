"""The commands around published sets, on DexYCB's miniature: two sequences of one subject, three
cameras. The hand is in the image of the first camera alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tests.data import dexycb_miniature as mini
from tests.data.miniature import flat, project, same, write_image

from handhold.cli.data import SETS
from handhold.cli.main import main
from handhold.data import dataset
from handhold.data.check import check_dataset
from handhold.data.dexycb import CAMERAS, SUBJECTS
from handhold.data.files import Files
from handhold.data.index import Index, Scan
from handhold.data.registry import DATASETS
from handhold.objects.control_points import control_points
from handhold.training.config import TrainConfig
from handhold.training.stream import BatchStream, DataSpec
from handhold.training.tasks import Task

RIGHT = f"{SUBJECTS[2]}/{mini.sequence_name(2, 0)}"
LEFT = f"{SUBJECTS[2]}/{mini.sequence_name(2, 4)}"
CUT, LOST, SMALL, SHORT = (f"{RIGHT}/{CAMERAS[2]}/color_00000{n}.jpg" for n in range(4))


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANDHOLD_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini.write(tmp_path_factory.mktemp("dex"), subjects=(2,), cameras=3)


@pytest.fixture(scope="module")
def damaged(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with an image cut short, one missing, one of another size, and a short label file."""
    copy = Path(shutil.copytree(root, tmp_path_factory.mktemp("damaged") / "dex"))
    (copy / CUT).write_bytes((copy / CUT).read_bytes()[:3000])
    (copy / LOST).unlink()
    write_image(copy / SMALL, flat(90, 64, 48))
    (copy / SHORT.replace("color", "labels").replace("jpg", "npz")).write_bytes(b"PK short")
    return copy


def expected_keys() -> list[str]:
    """Subject, sequence, camera, frame; without the frame that shows nobody."""
    folders = [f"{sequence}/{CAMERAS[c]}" for sequence in (RIGHT, LEFT) for c in range(3)]
    every = [(folder, frame) for folder in folders for frame in range(mini.FRAMES)]
    return [f"{a}/{n:06d}" for a, n in every if (a.split("/")[2], n) != (CAMERAS[0], 0)]


def test_check_counts_what_is_there(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    words = ["--workers", "0", "--out", str(out)]
    assert main(["data", "check", "dexycb", str(root), *words]) == 0
    shown = capsys.readouterr().out
    assert "subject 20200709-subject-01" in shown and "the ends of 22 images" in shown
    assert f"eval METHOD --data dexycb/s0-train:{root} " in shown and "damaged: nothing" in shown
    assert "401,500 fewer than in UniHOPE" in shown
    found = json.loads(out.read_text())
    counts = {count["split"]: count for count in found["counts"]}
    assert {name: counts[name]["found"] for name in ("s0-train", "s0-test", "s2-val", "all")} == {
        "s0-train": 7, "s0-test": 11, "s2-val": 0, "all": 22
    }  # fmt: skip
    # frames 2 and 3 by 10 mm or 5 degrees, frame 3 by 50 mm or 5 degrees; 3 cameras, 2 sequences
    assert (counts["all"]["holding_10mm"], counts["all"]["holding_50mm"]) == (12, 6)
    assert found["dropped"] == {"no hand labelled": 2, "no box (training splits)": 8}
    assert not found["problems"] and found["images"] == 22


def test_help_names_every_set() -> None:
    names = SETS.partition(": ")[0].replace(" or ", " ").split(", ")
    assert sorted(name.strip() for name in names) == sorted(DATASETS)


def test_check_opens_the_index_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    plain = dataset.open_index

    def counted(files: Files, scan: Scan, **options: Any) -> Index:
        opened.append(scan.name)
        return plain(files, scan, **options)

    monkeypatch.setattr(dataset, "open_index", counted)
    found = check_dataset("dexycb", root, images="none", workers=0)
    assert opened == ["dexycb"] and len(found.counts) == 37


@pytest.mark.parametrize(
    ("images", "more"), [("none", []), ("ends", [CUT, SMALL]), ("all", [CUT, SMALL])]
)
def test_check_names_what_is_damaged(
    damaged: Path, images: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--images", images, "--split", "all", "--workers", "0"]
    assert main(["data", "check", "dexycb", str(damaged), *words]) == 1
    shown, _, after = capsys.readouterr().out.partition("damaged: ")[2].partition("\n\nnext\n")
    assert f"dexycb/all?skip-damaged:{damaged}" in after
    lines = shown.splitlines()
    assert lines[0].startswith(str(2 + len(more)))
    for place, line in zip([LOST, "labels_000003.npz", *more], lines[1:], strict=True):
        assert Path(place).name in line


def test_index_tells_and_is_kept(
    damaged: Path,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HANDHOLD_HOME", str(tmp_path))
    for done in ("index made in", "the index was there, opened in"):
        assert main(["data", "index", "dexycb", str(root), "--workers", "0"]) == 0
        told = capsys.readouterr().out
        assert f"22 samples, 0 damaged; {done} " in told and str(tmp_path) in told
    assert main(["data", "index", "dexycb", str(damaged), "--workers", "0"]) == 1
    told = capsys.readouterr().out
    assert "20 samples, 2 damaged" in told and f"handhold data check dexycb {damaged}" in told


def test_view_draws_labels_where_they_are(root: Path, tmp_path: Path) -> None:
    """On a flat image everything that has changed is drawn: the extent of mesh and object box."""
    out = tmp_path / "sheet.png"
    words = ["--split", "all", "--count", "1", "--cell", "640", "--workers", "0"]
    assert main(["data", "view", "dexycb", str(root), "--out", str(out), *words]) == 0
    sheet = cv2.imread(str(out))
    assert sheet.shape == (640, 640, 3) and (sheet[:80] == 255).all()
    frame = 1  # the first with a hand
    picture = sheet[80:560].astype(int)
    drawn = np.abs(picture - (64 + 16 * frame)).max(-1) > 12
    drawn[240:300, 340:420] = False  # the object's tinted mask
    rows, columns = np.nonzero(drawn[:440])  # below: the key
    vertices = project(mini.hand_label("right", 0)[2], mini.CAMERA)
    thing = control_points(np.loadtxt(root / "models/024_bowl/points.xyz"))
    pose = mini.object_pose(frame)
    box = project(thing @ pose[:, :3].T + pose[:, 3], mini.CAMERA)
    points = np.concatenate([vertices, box])
    assert columns.min() == pytest.approx(points[:, 0].min(), abs=5)
    assert columns.max() == pytest.approx(points[:, 0].max(), abs=5)
    assert rows.max() == pytest.approx(points[:, 1].max(), abs=5)
    hull = cv2.convexHull(vertices.astype(np.float32)).astype(np.int32)
    inside = cv2.fillConvexPoly(np.zeros((480, 640), np.uint8), hull, 1) > 0
    assert drawn[inside].mean() > 0.5  # a surface, not lines
    assert drawn[440:].any()


def test_export_gives_back_the_known_labels(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.npz"
    words = ["--split", "all", "--out", str(out), "--workers", "0"]
    assert main(["data", "export", "dexycb", str(root), *words]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["labels.npz"]
    found = np.load(out)
    assert found["key"].tolist() == expected_keys()
    assert set(found["object_name"]) == {"024_bowl"}
    fx, fy, cx, cy = mini.CAMERA
    for row, key in enumerate(expected_keys()):
        camera, frame = CAMERAS.index(key.split("/")[2]), int(key[-6:])
        side = "right" if key.startswith(RIGHT) else "left"
        pose_m, joints, vertices = mini.hand_label(side, camera)
        assert found["side"][row] == side
        same(found["joints"][row], joints)
        same(found["vertices"][row], vertices)
        pixels = project(joints, mini.CAMERA)
        same(found["joints2d"][row], pixels, 0.1)
        same(found["hand_box"][row], [*pixels.min(0), *pixels.max(0)], 0.1)
        same(found["intrinsics"][row], [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], 1e-9)
        same(found["object_pose"][row], [*mini.object_pose(frame), [0, 0, 0, 1]], 1e-6)
        assert (found["grasping_10mm"][row], found["grasping_50mm"][row]) == (frame > 1, frame > 2)
        same(found["mano_pose"][row][0], pose_m[:3], 1e-6)
        same(found["betas"][row], mini.BETAS, 1e-6)


def test_export_leaves_out_what_another_hand_model_poses(root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "dex"))
    label = copy / LEFT / CAMERAS[0] / "labels_000002.npz"
    arrays = dict(np.load(label))
    arrays["joint_3d"] = arrays["joint_3d"] + np.float32(0.006) * np.eye(21, 3, dtype=np.float32)
    np.savez(label, **arrays)
    out = tmp_path / "labels.npz"
    words = ["--split", "all", "--out", str(out), "--workers", "0"]
    with pytest.warns(UserWarning, match="another hand model"):
        assert main(["data", "export", "dexycb", str(copy), *words]) == 0
    found = np.load(out)
    row = expected_keys().index(f"{LEFT}/{CAMERAS[0]}/000002")
    for name in ("vertices", "mano_pose"):
        assert np.isnan(found[name][row]).all()
        assert not np.isnan(np.delete(found[name], row, 0)).any()
    assert not np.isnan(found["betas"]).any()  # those are the file's own
    same(found["joints"][row], arrays["joint_3d"][0])


def test_sources_that_name_published_sets() -> None:
    spec = DataSpec.parse("dexycb/s0-train?skip-damaged:a=b/c=0.5")
    assert (spec.kind, spec.where, spec.weight) == ("dexycb", "a=b/c", 0.5)
    assert spec.published is not None and spec.published.split == "s0-train" and spec.skip_damaged
    plain = DataSpec.parse("dexycb:x")
    assert plain.published is not None and plain.published.split is None and not plain.skip_damaged
    assert plain.same_source(DataSpec.parse("dexycb/s0-train:x=2"))
    assert not plain.same_source(DataSpec.parse("dexycb/s0-test:x"))


def test_damage_stops_training_unless_told_otherwise(
    damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--steps", "1", "--out", str(tmp_path / "run"), "--quiet"]
    assert main(["train", "hflnet-small", "--data", f"dexycb:{damaged}", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "2 damaged, the first: " in error
    assert Path(LOST).name in error and f"handhold data check dexycb {damaged}" in error
    task = Task(network=None, encode=None, losses=None, measures=None, save=None, name="")  # type: ignore[arg-type]
    text = f"dexycb/s0-train?skip-damaged:{damaged}"
    stream = BatchStream(TrainConfig(model="x", data=(text,), steps=1, batch_size=2), task)
    # of 3 + 4 with a box two have no row, one is held out, and one image is cut short
    assert stream.epoch_items == 4
    keys = {sample.key for step in range(4) for sample, _ in stream.items(step)}
    assert keys == {f"{RIGHT}/{CAMERAS[0]}/00000{n}" for n in (1, 2, 3)}


def test_train_two_steps_and_measure_the_weights(root: Path, tmp_path: Path) -> None:
    run, report = tmp_path / "run", tmp_path / "report"
    words = ["--steps", "2", "--batch-size", "2", "--workers", "0", "--out", str(run), "--quiet"]
    assert main(["train", "hflnet-small", "--data", f"dexycb/s0-train:{root}", *words]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (measured,) = [row for row in rows if row["kind"] == "validation"]
    assert measured["step"] == 2 and any(name.startswith("dexycb/") for name in measured)
    words = ["--weights", str(run / "weights.safetensors"), "--protocol", "boxes"]
    words += ["--data", f"dexycb:{root}", "--out", str(report)]
    assert main(["eval", "hflnet-small", *words]) == 0
    told = json.loads((report / "report.json").read_text())
    assert told["protocol"].startswith("protocol boxes: given image, intrinsics, hand_box, side")
    assert "11 samples of dexycb/s0-test, 78,768 published" in told["title"]
    assert told["sections"]["detection"]["hands"] == 11
    assert told["sections"]["detection"]["recall"] == pytest.approx(3 / 11)  # the others: outside
    assert 0 < told["sections"]["hand: all"]["pa_mpjpe_mm"] < 100
