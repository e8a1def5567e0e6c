"""The servers' files: written from known hands, read back, and refused where the servers would."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data import freihand_miniature as mini
from tests.data.miniature import known_hand, project, same

from handhold.cli.main import main
from handhold.errors import FileFormatError, InputError
from handhold.evaluation.submissions import (
    SERVERS,
    check_submission,
    server,
    write_submission,
)
from handhold.scene import Camera, Hand, Scene

HO3D, FREIHAND = SERVERS["ho3d-v2"], SERVERS["freihand"]
HANDS = [known_hand("right", seed, (0.02, 0.03, 0.6 + 0.1 * seed)) for seed in range(3)]
JOINTS, VERTICES = (np.stack([getattr(h, n) for h in HANDS]) for n in ("joints", "vertices"))
WRISTS = np.array([(0.1, -0.05, 0.7), (0.0, 0.02, 0.5), (-0.1, 0.0, 0.9)])
# HO3D: wrist, then index, middle, little, ring, thumb without tips, then the tips from the thumb on
HO3D_ORDER = [0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3, 4, 8, 12, 16, 20]


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with zipfile.ZipFile(path) as packed:
        assert packed.namelist() == ["pred.json"]
        joints, vertices = json.loads(packed.read("pred.json"))
    return np.array(joints), np.array(vertices)


def rewrite(path: Path, content: object, name: str = "pred.json") -> None:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(name, json.dumps(content))


def test_ho3d_is_turned_moved_and_reordered(tmp_path: Path) -> None:
    path = tmp_path / "pred.zip"
    write_submission(path, HO3D, JOINTS, VERTICES, WRISTS)
    joints, vertices = read(path)
    for n in range(3):
        flipped = (JOINTS[n] - JOINTS[n, 0] + WRISTS[n]) * (1, -1, -1)
        same(joints[n], flipped[HO3D_ORDER], 1e-6)
        same(joints[n, 0], WRISTS[n] * (1, -1, -1), 1e-6)
        same(vertices[n], (VERTICES[n] - JOINTS[n, 0] + WRISTS[n]) * (1, -1, -1), 1e-6)
    assert check_submission(path, HO3D, 3) == []
    with pytest.raises(FileFormatError, match="joints: expected 11524 entries, found 3"):
        check_submission(path, HO3D)
    with pytest.raises(InputError, match="wrists: expected"):
        write_submission(path, HO3D, JOINTS, VERTICES)


def test_freihand_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "pred.zip"
    write_submission(path, FREIHAND, JOINTS, VERTICES)
    joints, vertices = read(path)
    same(joints, JOINTS, 1e-6)
    same(vertices, VERTICES, 1e-6)
    assert check_submission(path, FREIHAND, 3) == []


def test_zeros_are_taken_and_told(tmp_path: Path) -> None:
    path = tmp_path / "pred.zip"
    write_submission(path, FREIHAND, 0 * JOINTS, 0 * VERTICES)
    assert check_submission(path, FREIHAND, 3) == ["3 of 3 hands are one point each"]


def test_joints_in_the_wrong_order_are_told(tmp_path: Path) -> None:
    path = tmp_path / "pred.zip"
    write_submission(path, FREIHAND, JOINTS[:, HO3D_ORDER], VERTICES)
    (told,) = check_submission(path, FREIHAND, 3)
    assert "order of ho3d" in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda j, v: [j], r"expected \[joints, vertices\]"),
        (lambda j, v: [j, v[:2]], "vertices: expected 3 entries, found 2"),
        (lambda j, v: [[*j[:2], j[2][:20]], v], r"joints\[2\]: expected 21 x 3 numbers"),
        (lambda j, v: [j, [v[0], v[1], [[0, 0, float("nan")]] * 778]], r"vertices\[2\]: holds NaN"),
        (lambda j, v: [(1000 * np.array(j)).tolist(), v], r"joints\[0\]: .*expected metres"),
        (lambda j, v: [[j[0], (-np.array(j[1])).tolist(), j[2]], v], r"joints\[1\]: .*OpenGL"),
        (lambda j, v: [j, [v[0], v[1], "x"]], r"vertices\[2\]: expected numbers"),
    ],
)
def test_what_the_server_refuses(tmp_path: Path, change: object, told: str) -> None:
    path = tmp_path / "pred.zip"
    write_submission(path, HO3D, JOINTS, VERTICES, WRISTS)
    assert callable(change)
    rewrite(path, change(*(part.tolist() for part in read(path))))
    with pytest.raises(FileFormatError, match=told):
        check_submission(path, HO3D, 3)


def test_other_containers(tmp_path: Path) -> None:
    path = tmp_path / "pred.zip"
    rewrite(path, [[], []], "folder/pred.json")
    with pytest.raises(FileFormatError, match=r"expected pred\.json alone"):
        check_submission(path, FREIHAND)
    path.write_bytes(b"PK nothing")
    with pytest.raises(FileFormatError, match="not a zip"):
        check_submission(path, FREIHAND)
    with pytest.raises(InputError, match="expected one of ho3d-v2"):
        server("ho3d")


def test_command_orders_given_predictions_by_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Predictions in another order than the list; a partial set is refused unless asked for."""
    monkeypatch.setenv("HANDHOLD_HOME", str(tmp_path / "home"))
    root = mini.write(tmp_path / "freihand")
    keys = np.array([f"evaluation/{n:08d}" for n in (1, 0)])
    np.savez(tmp_path / "mine.npz", key=keys, joints=JOINTS[:2], vertices=VERTICES[:2])
    out = tmp_path / "pred.zip"
    words = ["submit", "freihand", str(root), "--out", str(out)]
    words += ["--predictions", str(tmp_path / "mine.npz")]
    assert main(words) == 2
    assert "2 samples of freihand/evaluation, the server wants 3,960" in capsys.readouterr().err
    assert not out.exists()
    assert main([*words, "--incomplete"]) == 1
    assert "the server will refuse it" in capsys.readouterr().out
    joints, vertices = read(out)
    same(joints, JOINTS[[1, 0]], 1e-6)
    same(vertices, VERTICES[[1, 0]], 1e-6)
    np.savez(tmp_path / "mine.npz", key=keys[:1], joints=JOINTS[:1], vertices=VERTICES[:1])
    assert main([*words, "--incomplete"]) == 2
    assert "1 of 2 samples are missing, the first 'evaluation/00000000'" in capsys.readouterr().err


def test_command_takes_the_best_right_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an estimator whose answers are known; the second image shows nobody."""
    asked = []

    class Estimator:
        def __init__(self, *_: object, **options: object) -> None:
            assert options["device"] == "cpu"

        def __call__(self, image: np.ndarray, **options: Any) -> Scene:
            asked.append((int(image[0, 0, 0]), options["intrinsics"], options["boxes"]))
            found = () if options["name"].endswith("1") else (("left", 0.9), ("right", 0.4))
            hands = tuple(
                Hand(side=side, score=score, joints=JOINTS[n], vertices=VERTICES[n])  # type: ignore[arg-type]
                for n, (side, score) in enumerate(found)
            )
            camera = Camera(intrinsics=options["intrinsics"], width=224, height=224)
            return Scene(
                image="", camera=camera, model="", hands=hands, objects=(None,) * len(hands)
            )

    monkeypatch.setenv("HANDHOLD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("handhold.inference.estimator.Estimator", Estimator)
    root = mini.write(tmp_path / "freihand")
    out = tmp_path / "pred.zip"
    assert main(["submit", "freihand", str(root), "--out", str(out), "--incomplete"]) == 1
    joints, vertices = read(out)
    same(joints, [JOINTS[1], np.zeros((21, 3))], 1e-6)
    same(vertices, [VERTICES[1], np.zeros((778, 3))], 1e-6)
    shown = capsys.readouterr().out
    assert "1 of them not found" in shown and "1 of 2 hands are one point each" in shown
    for n, (grey, intrinsics, boxes) in enumerate(asked):
        assert grey == pytest.approx(40 + 5 * n, abs=2)
        same(intrinsics, mini.matrix(n), 1e-6)
        pixels = project(mini.hand("evaluation", n).joints, mini.camera(n))
        same(boxes[0]["box"], [*pixels.min(0), *pixels.max(0)], 0.1)
