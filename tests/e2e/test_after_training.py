"""From a training on a miniature to what people want of it: a server's file, UniHOPE's two stages
on pairs, a switched pair of two methods."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data import dexycb_miniature, freihand_miniature, ho3d_miniature

from handhold.cli.main import main
from handhold.training import curves

# UniHOPE's and the classifier's structure, very small
TINY = ("input_size=64", "block=basic", "depths=[1,1,1,1]", "widths=[8,8,16,16]", "stem_width=8",
        "pyramid_width=16", "switch_width=4")  # fmt: skip
HEADS = ("roi_size=8", "heads=2", "hourglass_depth=2", "mano_widths=[32,16]",
         "adaptation_heads=2", "adaptation_head_dim=8")  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANDHOLD_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(curves, "draw_curves", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def dexycb(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = dexycb_miniature.write(tmp_path_factory.mktemp("dex"), subjects=(2,), cameras=1)
    return f"dexycb:{root}"


def run(*words: object) -> int:
    return main([str(word) for word in words])


def train(method: str, out: Path, data: tuple[str, ...], *more: str, batch: int = 4) -> None:
    length = () if "--steps" in more else ("--epochs", "1")
    fixed = ("--workers", "0", "--threads", "1", "--batch-size", batch, "--out", out)
    assert run("train", method, "--data", *data, *length, *fixed, *more) == 0


def rows(folder: Path) -> dict[str, Any]:
    """What the metrics of a run hold, the last row's value of each name."""
    found: dict[str, Any] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        found |= json.loads(line)
    return found


# ------------------------------------------------------------------------------- submissions


@pytest.mark.parametrize("server", ["ho3d-v2", "ho3d-v3", "freihand"])
def test_a_servers_file(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "set"
    if server == "freihand":
        freihand_miniature.write(root)
        count = freihand_miniature.EVALUATION
    else:
        ho3d_miniature.write(root, server[-2:])
        count = len(ho3d_miniature.LISTS["evaluation"])
    train("hflnet-small", tmp_path, (f"{server}:{root}",), "--network", "input_size=64", "--quiet")
    weights, out = tmp_path / "weights.safetensors", tmp_path / "pred.zip"
    words = ("submit", server, root, "--out", out, "--model", "hflnet-small", "--weights", weights)
    assert run(*words) == 2 and not out.exists()
    assert "the server wants" in capsys.readouterr().err
    assert run(*words, "--incomplete") == 1
    assert f"written and checked: {out}, {count} hands" in capsys.readouterr().out.replace("\n", "")
    with zipfile.ZipFile(out) as archive:
        (name,) = archive.namelist()
        joints, vertices = (np.array(part) for part in json.loads(archive.read(name)))
    assert joints.shape == (count, 21, 3) and vertices.shape == (count, 778, 3)
    size = np.linalg.norm(joints - joints[:, :1], axis=-1).max(1)
    assert ((size > 0.03) & (size < 0.4)).all()
    if server == "freihand":  # OpenCV's camera
        assert (joints[..., 2] > 0.1).all()
    else:  # OpenGL's, and the wrist of the evaluation's files
        wrists = [ho3d_miniature.hand(key).joints[0] for key in ho3d_miniature.LISTS["evaluation"]]
        np.testing.assert_allclose(joints[:, 0], np.array(wrists) * ho3d_miniature.FLIP, atol=1e-4)


# ------------------------------------------------------------------------------------- pairs


def test_unihope_in_two_stages(
    dexycb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DexYCB has no second images: its pairs are one image twice and teach no enhancement; pairs of
    synthetic scenes do."""
    network = ("--network", *TINY, *HEADS)
    train("unihope", tmp_path / "a", (dexycb,), *network)
    shown = " ".join(capsys.readouterr().out.split())
    assert "dexycb has no labels of" in shown and "of second images without the object" in shown
    first, second = (rows(tmp_path / "a" / stage) for stage in ("stage1", "stage2"))
    assert "loss/c3" not in first and first["loss/switch"] > 0
    assert [second[f"loss/{name}"] for name in ("c3", "roi", "mano")] == [0.0, 0.0, 0.0]
    assert first["loss/occlusion"] == 0  # nor does it say how much of a hand is hidden
    train("unihope-stage2", tmp_path / "b", ("synthetic:0:6",), "--steps", "1", *network, batch=6)
    paired = rows(tmp_path / "b")
    assert all(paired[f"loss/{name}"] > 0 for name in ("c3", "roi", "mano", "occlusion"))
    weights = tmp_path / "a" / "stage2" / "weights.safetensors"
    told = ("--data", dexycb, "--protocol", "dexycb-s0/unihope", "--out", tmp_path)
    assert run("eval", "unihope", "--weights", weights, *told, "--worst", "0") == 0
    assert (
        json.loads((tmp_path / "report.json").read_text())["sections"]["detection"]["recall"] == 1
    )


def test_a_pair_of_two_methods_and_the_classifier(dexycb: str, tmp_path: Path) -> None:
    """Both parts and the classifier learn from the same set; the pair of the three is measured."""
    small = ("--network", "input_size=64", "--quiet")
    train("handoccnet-small", tmp_path / "a", (dexycb,), *small)
    train("hflnet-small", tmp_path / "b", (dexycb,), *small)
    train("grasp-classifier", tmp_path / "c", (dexycb,), "--network", *TINY, "--quiet")
    assert 0 < rows(tmp_path / "c")["loss/grasp"] < 10
    files = [tmp_path / part / "weights.safetensors" for part in "abc"]
    names = ("--hand-only", "--hand-object", "--classifier")
    both = [word for pair in zip(names, files, strict=True) for word in pair]
    pair = tmp_path / "pair.safetensors"
    assert run("weights", "pair", *both, "--out", pair) == 0
    told = ("--data", dexycb, "--protocol", "dexycb-s0/unihope", "--out", tmp_path)
    assert run("eval", "switched", "--weights", pair, *told, "--worst", "0") == 0
    sections = json.loads((tmp_path / "report.json").read_text())["sections"]
    assert sections["detection"]["recall"] == 1
    assert 0 <= sections["grasp"]["grasp_accuracy"] <= 1
    assert sections["hand: all"]["pa_mpjpe_mm"] > 0


# ---------------------------------------------------------------------------------- refusals


def test_what_a_set_cannot_teach_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.data import coco_miniature

    hands = f"onehand10k:{coco_miniature.write_onehand(tmp_path / 'onehand')}"
    free = f"freihand:{freihand_miniature.write(tmp_path / 'freihand')}"
    length = ("--epochs", "1", "--out", tmp_path / "run")
    assert run("train", "hflnet-small", "--data", free, hands, *length) == 2
    told = capsys.readouterr().err
    assert "onehand10k: its labels do not say left or right, which hflnet-small needs" in told
    assert "hint" in told.partition("sets that do:")[2] and told.count("\n") == 1
    assert "onehand10k/train?side=right:" in told and "takes every hand for a right one" in told
    sided = hands.replace("onehand10k:", "onehand10k/train?side=right:")
    short = ("--steps", "1", "--workers", "0", "--batch-size", "1", "--network", "input_size=64")
    assert run("train", "hflnet-small", "--data", sided, *short, "--out", tmp_path / "one") == 0
    assert rows(tmp_path / "one")["loss/joints2d"] > 0
    assert run("train", "grasp-classifier", "--data", free, *length) == 2
    told = capsys.readouterr().err
    assert "do not say whether the hand grasps" in told
    listed = told.partition("sets that do:")[2]
    assert "ho3d-v2" in listed and "freihand" not in listed


def test_a_split_that_is_not_there_gives_no_report(
    dexycb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A partial download: subject 2 alone, of whom S1 tests nothing."""
    told = ("--data", dexycb, "--protocol", "dexycb-s1/unihope", "--out", tmp_path / "out")
    assert run("eval", "unihope-small", *told) == 2
    error = capsys.readouterr().err
    assert "nothing to measure on in it" in error and "none of s1-test" in error
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_an_error_in_a_worker_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = freihand_miniature.write(tmp_path / "freihand")
    for path in (root / "training/rgb").iterdir():
        path.write_bytes(path.read_bytes()[:300])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a process forks
        words = ("--epochs", "1", "--workers", "1", "--batch-size", "2", "--quiet")
        small = ("--network", "input_size=64", "--out", tmp_path / "run")
        data = ("--data", f"freihand:{root}")
        assert run("train", "handoccnet-small", *data, *words, *small) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "the image is cut short" in told and "Caught" not in told
