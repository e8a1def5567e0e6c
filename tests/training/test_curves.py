"""Learning curves keep every row and draw without a display."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handhold.errors import FileFormatError, InputError
from handhold.training.curves import (
    draw_curves,
    draw_summary,
    metrics_text,
    read_metrics,
    series,
    smooth,
)

ROWS = [
    {"step": 10, "kind": "train", "loss/total": 4.0, "lr": 0.1},
    {"step": 10, "kind": "validation", "photos/pck10": 0.25},
    {"step": 20, "kind": "train", "loss/total": 2.0, "lr": 0.05},
]


def test_rows_survive_and_are_cut_at_a_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text(metrics_text(ROWS))
    assert read_metrics(path) == ROWS
    assert read_metrics(path, up_to=10) == ROWS[:2]
    path.write_text(metrics_text(ROWS) + '{"step": 3')
    with pytest.raises(FileFormatError, match="line 4"):
        read_metrics(path)


def test_series_and_smoothing() -> None:
    assert series(ROWS, "train")["loss/total"] == ([10, 20], [4.0, 2.0])
    assert series(ROWS, "validation") == {"photos/pck10": ([10], [0.25])}
    values = np.random.default_rng(0).normal(size=40)
    expected = [values[max(0, i - 6) : i + 1].mean() for i in range(40)]
    np.testing.assert_allclose(smooth(values.tolist(), 7), expected, atol=1e-12)


def test_the_picture_has_ink_in_every_panel(tmp_path: Path) -> None:
    draw_curves(ROWS, tmp_path / "c.png", title="x")
    pixels = np.asarray(Image.open(tmp_path / "c.png").convert("RGB")).astype(int)
    coloured = pixels.max(-1) - pixels.min(-1) > 60
    assert pixels.shape[1] == 1200
    assert all(coloured[:, 400 * i : 400 * (i + 1)].any() for i in range(3))
    assert [path.name for path in tmp_path.iterdir()] == ["c.png"]


def test_the_summary_shows_loss_measure_and_aim(tmp_path: Path) -> None:
    rows = [
        *({"step": i, "kind": "train", "loss/total": 8.0 / i} for i in range(1, 20)),
        *({"step": i, "kind": "validation", "x/error": 30.0 / i} for i in (5, 10, 20)),
    ]
    red = []
    for aim in (None, 3.0):
        draw_summary(rows, tmp_path / "c.png", "x/error", aim=aim, title="x")
        pixels = np.asarray(Image.open(tmp_path / "c.png").convert("RGB")).astype(int)
        coloured = pixels.max(-1) - pixels.min(-1) > 60
        middle = coloured.shape[1] // 2
        assert coloured[:, :middle].any() and coloured[:, middle:].any()
        reddish = pixels[..., 0] - pixels[..., 1:].max(-1) > 60
        red.append((int(reddish[:, :middle].sum()), int(reddish[:, middle:].any(0).sum())))
    assert red[0] == (0, 0) and red[1][0] == 0 and red[1][1] > 50  # dashes across the right panel
    assert (tmp_path / "c.png").stat().st_size < 40_000
    with pytest.raises(InputError, match="'y': not measured in this run; there are x/error"):
        draw_summary(rows, tmp_path / "c.png", "y")
