"""The pictures of a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from handhold.atomic import replacing
from handhold.evaluation.report import FLAT_THRESHOLDS

if TYPE_CHECKING:
    from handhold.evaluation.report import Report

SCENES = ("all", "hand-only", "hand-object")


def plot_report(report: Report, path: Path) -> Path:
    """PCK in 3D and 2D, errors by scene and by visibility, and the shares, in one PNG.

    Raises ImportError without matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(16, 9), layout="constrained")
    _curves(report, axes[0, 0], axes[0, 1])
    _errors(report, axes[0, 2], list(SCENES), "errors by scene")
    quartiles = [name for name in _groups(report) if name.startswith("visible ")]
    _errors(report, axes[1, 0], quartiles, "errors by visible share of the hand")
    _shares(report, axes[1, 1])
    _table(report, axes[1, 2])
    figure.suptitle(_wrapped(f"{report.title}\n{report.protocol}"), fontsize=9)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")
    plt.close(figure)
    return path


def _wrapped(text: str, width: int = 190) -> str:
    import textwrap

    return "\n".join(textwrap.fill(line, width) for line in text.splitlines())


def _groups(report: Report) -> dict[str, dict[str, float | int]]:
    """The sections of hand errors by the group's name."""
    return {
        name.removeprefix("hand: "): numbers
        for name, numbers in report.sections.items()
        if name.startswith("hand: ")
    }


def _curves(report: Report, solid: Any, flat: Any) -> None:
    for name, curve in report.curves.items():
        label = f"{name.upper().replace('_', '-')} (AUC {curve.auc:.3f})"
        solid.plot(curve.thresholds * 1000, curve.pck, label=label)
    solid.set(xlabel="threshold, mm", ylabel="share of points", title="PCK in 3D", ylim=(0, 1))
    for name, pck in report.flat_curves.items():
        auc = np.trapezoid(pck, FLAT_THRESHOLDS) / np.ptp(FLAT_THRESHOLDS)
        flat.plot(FLAT_THRESHOLDS, pck, label=f"{name} (AUC {auc:.3f})")
    flat.set(xlabel="threshold, share of the box", title="PCK in 2D", ylim=(0, 1))
    for axis, there in ((solid, report.curves), (flat, report.flat_curves)):
        if there:
            axis.legend(fontsize=8)


def _errors(report: Report, axis: Any, names: list[str], title: str) -> None:
    groups = {name: part for name, part in _groups(report).items() if name in names}
    if not groups:
        axis.axis("off")
        return
    kinds = [
        kind
        for kind in ("mpjpe_mm", "pa_mpjpe_mm", "mpvpe_mm", "pa_mpvpe_mm")
        if any(kind in part for part in groups.values())
    ]
    for place, kind in enumerate(kinds):
        values = [part.get(kind, float("nan")) for part in groups.values()]
        where = np.arange(len(groups)) + (place - (len(kinds) - 1) / 2) * 0.8 / len(kinds)
        bars = axis.bar(where, values, 0.8 / len(kinds), label=kind.removesuffix("_mm"))
        axis.bar_label(bars, fmt="%.1f", fontsize=7)
    labels = [f"{name}\n{part['found']:,} hands" for name, part in groups.items()]
    axis.set_xticks(range(len(groups)), labels, fontsize=8)
    axis.set(ylabel="mm", title=title)
    if kinds:
        axis.legend(fontsize=8)


def _shares(report: Report, axis: Any) -> None:
    shares = {
        key: value
        for section in ("detection", "keypoints", "grasp", "object")
        for key, value in report.sections.get(section, {}).items()
        if isinstance(value, float) and 0 <= value <= 1 and not key.endswith(("_mm", "_px"))
    }
    axis.barh(list(shares), list(shares.values()), color="tab:blue")
    axis.invert_yaxis()
    axis.tick_params(labelsize=8)
    axis.set(xlim=(0, 1), title="shares")


def _table(report: Report, axis: Any) -> None:
    """What the protocol's table prints."""
    axis.axis("off")
    numbers = report.sections.get("as published", {})
    lines = [f"{key:<34}{value:>9.3f}" for key, value in numbers.items()]
    if lines:
        size = min(8.0, 8.0 * 30 / len(lines))
        words = "\n".join(["as published", *lines])
        axis.text(0, 1, words, va="top", family="monospace", fontsize=size)
