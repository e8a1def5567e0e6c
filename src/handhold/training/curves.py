"""Learning curves: metrics.jsonl and a picture of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from handhold.atomic import replacing
from handhold.errors import FileFormatError, InputError, MissingExtraError

Row: TypeAlias = dict[str, Any]  # "step", "kind" (train or validation) and numbers by name


def read_metrics(path: Path, *, up_to: int | None = None) -> list[Row]:
    """The rows of a metrics.jsonl, those of steps <= up_to; none when there is no file."""
    if not path.is_file():
        return []
    rows: list[Row] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            if up_to is None or row["step"] <= up_to:
                rows.append(row)
        except (ValueError, KeyError, TypeError) as error:
            raise FileFormatError(f"{path}, line {number}: not a row of metrics") from error
    return rows


def metrics_text(rows: Sequence[Row]) -> str:
    """The text of a metrics.jsonl."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def series(rows: Sequence[Row], kind: str) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values by name, of one kind of rows."""
    result: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        if row["kind"] == kind:
            for name, value in row.items():
                if name not in ("step", "kind"):
                    steps, values = result.setdefault(name, ([], []))
                    steps.append(row["step"])
                    values.append(value)
    return result


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Mean over the last `window` values (fewer at the beginning)."""
    result: list[float] = []
    total = 0.0
    for i, value in enumerate(values):
        total += value - (values[i - window] if i >= window else 0.0)
        result.append(total / min(i + 1, window))
    return result


def draw_curves(rows: Sequence[Row], path: Path, title: str = "") -> None:
    """Draw training terms (logarithmic, smoothed) and one panel a validation measure, as PNG.

    Raises MissingExtraError without matplotlib.
    """
    training, validation = series(rows, "train"), series(rows, "validation")
    terms = {k: v for k, v in training.items() if k.startswith("loss/") and max(v[1]) > 0}
    other = {k: v for k, v in training.items() if k in ("lr", "gradient_norm")}
    panels = 1 + len(other) + len(validation)
    figure, axes = _panels(panels, (5.0, 3.2))
    window = max(1, max((len(steps) for steps, _ in terms.values()), default=1) // 50)
    for name, (steps, values) in terms.items():
        bold = name == "loss/total"
        label = name.removeprefix("loss/")
        axes[0].plot(steps, smooth(values, window), label=label, lw=2 if bold else 1)
    axes[0].set(yscale="log" if terms else "linear", title="training loss, weighted terms")
    if terms:
        axes[0].legend(fontsize=7)
    for axis, (name, (steps, values)) in zip(axes[1:], (other | validation).items(), strict=False):
        axis.plot(steps, values, marker="." if name in validation else None, lw=1)
        axis.set(title=name + (f"  (last {values[-1]:.4g})" if name in validation else ""))
    figure.suptitle(title)
    _save(figure, path, dpi=80)


def draw_summary(
    rows: Sequence[Row], path: Path, measure: str, *, aim: float | None = None, title: str = ""
) -> None:
    """Draw the whole loss and one validation measure beside it, small, as PNG.

    aim: value of the measure to mark. Raises InputError where the rows have no such measure,
    MissingExtraError without matplotlib.
    """
    losses = series(rows, "train").get("loss/total", ([], []))
    measured = series(rows, "validation")
    if measure not in measured:
        raise InputError(f"{measure!r}: not measured in this run; there are {', '.join(measured)}")
    figure, axes = _panels(2, (3.6, 2.4))
    for axis, (steps, values), name in zip(
        axes, (losses, measured[measure]), ("training loss", measure), strict=True
    ):
        axis.plot(steps, values, lw=1.2)
        axis.set_yscale("log")
        axis.set_title(name, fontsize=9)
        axis.tick_params(which="both", labelsize=7)
    if aim is not None:
        axes[1].axhline(aim, color="tab:red", ls="--", lw=1)
    figure.suptitle(title, fontsize=9)
    _save(figure, path, dpi=90)


def _panels(count: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    """A figure and its axes, three in a line, each of `size` inches."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("learning curves need: pip install 'handhold[train]'") from error
    columns = min(3, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * lines), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    for axis in axes[:count]:
        axis.grid(alpha=0.3)
        axis.set_xlabel("step")
    return figure, axes[:count]


def _save(figure: Any, path: Path, dpi: int) -> None:
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=dpi)
