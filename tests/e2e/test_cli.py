"""The command line as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from handhold.cli.main import VERBS, main

SMALL = ["--config.width", "64", "--config.height", "48", "--config.holding", "0", "--config.near",
         "0", "--config.occluder", "0"]  # fmt: skip


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)


def test_an_unknown_verb_is_answered_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["forecast"]) == 2
    assert "predict" in capsys.readouterr().err


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([verb, "--help"])
    except SystemExit as end:
        code = end.code
    assert code in (0, None)
    assert len(capsys.readouterr().out) > 80


def test_doctor_says_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "embreex" in shown
    assert "hand model: the free hand" in shown


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["predict", str(tmp_path / "none.jpg"), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "none.jpg" in error


def test_scenes_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        words = ["synth", "scenes", "--out", str(tmp_path / name), "--count", "5"]
        assert main([*words, "--shard-size", "3", *SMALL]) == 0
    files = sorted(path.name for path in (tmp_path / "a").glob("*.tar"))
    assert files == ["shard-000000.tar", "shard-000001.tar"]
    for name in [*files, "sheet.png"]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_interrupted_series_is_completed(tmp_path: Path) -> None:
    words = ["synth", "scenes", "--out", str(tmp_path), "--count", "4", "--shard-size", "2", *SMALL]
    main([*words, "--no-sheet"])
    whole = (tmp_path / "shard-000001.tar").read_bytes()
    (tmp_path / "shard-000001.tar").unlink()
    before = (tmp_path / "shard-000000.tar").stat().st_mtime_ns
    main([*words, "--no-sheet"])
    assert (tmp_path / "shard-000001.tar").read_bytes() == whole
    assert (tmp_path / "shard-000000.tar").stat().st_mtime_ns == before


def test_the_shipped_weights_pose_hands_in_scenes(tmp_path: Path) -> None:
    words = ["eval", "unihope-small", "--data", "synthetic", "--count", "12", "--protocol", "boxes"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["protocol"].startswith("protocol boxes: given image, intrinsics, hand_box, side")
    assert report["sections"]["detection"]["recall"] > 0.9
    assert report["sections"]["hand: all"]["pa_mpjpe_mm"] < 25
    assert (tmp_path / "report.png").stat().st_size > 1000
