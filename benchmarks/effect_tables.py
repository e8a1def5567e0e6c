"""Tables and plots of `boost_effect.py`: means over seeds, their spread, and plain words."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from handhold.evaluation.metrics.hand import VISIBILITY_EDGES

RESULTS = Path(__file__).parent / "results" / "boost_effect.json"
NAMES = ("data", "sampling", "pairs")
MEASURES = {"mpjpe_mm": "joints, wrists together", "pa_mpjpe_mm": "joints, aligned"}
GROUPS = tuple(f"{100 * low:.0f}-{100 * high:.0f} %" for low, high in pairwise(VISIBILITY_EDGES))


def changes(arm: dict[str, Any], base: dict[str, Any], measure: str) -> list[float]:
    """How much lower an arm's error is than the base's with the same seed, for seeds of both."""
    return [
        base["runs"][seed][measure] - run[measure]
        for seed, run in sorted(arm["runs"].items())
        if seed in base["runs"]
    ]


def verdict(values: list[float]) -> str:
    """What the changes of all seeds say: a sign counts when all seeds share it and the mean is
    larger than the spread."""
    if len(values) < 2:
        return "one seed only, says nothing" if values else "no seed in common"
    mean, spread = fmean(values), max(values) - min(values)
    if min(values) * max(values) <= 0 or abs(mean) <= spread:
        return "within the spread of the seeds"
    return "better" if mean > 0 else "worse"


def _cell(arm: dict[str, Any], measure: str) -> str:
    values = [run[measure] for _, run in sorted(arm["runs"].items())]
    return f"{fmean(values):.1f} ({', '.join(f'{v:.1f}' for v in values)})"


def table(found: dict[str, Any]) -> list[str]:
    """The Markdown lines of one table. found: `base`, the arm that the others are compared with,
    `arms`: by name `runs`: by seed the mean errors, or `left_out`: why there are none; `groups`:
    whether errors by visible share are shown."""
    arms, base = found["arms"], found["arms"][found["base"]]
    grouped = bool(found.get("groups"))
    heads = ["training", *(f"{told}, mm" for told in MEASURES.values()), "change of both, mm", ""]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for name, arm in arms.items():
        if not arm.get("runs"):
            lines.append(_row([name, *["not run"] * len(MEASURES), "", arm["left_out"]]))
            continue
        cells = [name, *(_cell(arm, measure) for measure in MEASURES)]
        if name == found["base"] or not base.get("runs"):
            lines.append(_row([*cells, "", ""]))
            continue
        off = {measure: changes(arm, base, measure) for measure in MEASURES}
        means = ", ".join(f"{-fmean(v):+.1f}" if v else "-" for v in off.values())
        words = [verdict(v) for v in off.values()]
        told = words[0] if len(set(words)) == 1 else "; ".join(words)
        lines.append(_row([*cells, means, told]))
    if grouped:
        lines += ["", *_by_visibility(found)]
    return lines


def _by_visibility(found: dict[str, Any]) -> list[str]:
    """Aligned errors by how much of the hand is seen."""
    lines = [
        _row(["joints, aligned, mm, by visible share", *GROUPS]),
        _row(["---"] * (len(GROUPS) + 1)),
    ]
    for name, arm in found["arms"].items():
        runs = list(arm.get("runs", {}).values())
        if not runs:
            continue
        cells = [name]
        for group in range(len(GROUPS)):
            values = [run["groups"][group] for run in runs if run["groups"][group] is not None]
            cells.append(f"{fmean(values):.1f}" if values else "-")
        lines.append(_row(cells))
    return lines


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def document(figures: dict[str, Any]) -> str:
    """The whole page: each of NAMES with its conditions, or that it was not run."""
    lines = ["# What made data change", "", "Made by `python benchmarks/boost_effect.py`.", ""]
    for name in NAMES:
        lines += [f"## {name}", ""]
        if name not in figures:
            lines += [f"Not run yet (`--table {name} --save`).", ""]
            continue
        found = figures[name]
        lines += [found["told"], ""]
        lines += [*table(found), "", "Conditions:", ""]
        lines += [f"- {key}: {value}" for key, value in found["conditions"].items()]
        lines.append("")
    return "\n".join(lines)


def plot(figures: dict[str, Any], path: Path) -> None:
    """Every run as a point, the means as bars, a panel for each table."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    count, many = len(figures), len(MEASURES)
    figure, grid = plt.subplots(
        count, many, figsize=(5.5 * many, 2.6 * count), squeeze=False, layout="constrained"
    )
    for line, (name, found) in zip(grid, figures.items(), strict=True):
        arms = {arm: value["runs"] for arm, value in found["arms"].items() if value.get("runs")}
        for axes, (measure, told) in zip(line, MEASURES.items(), strict=True):
            values = [[run[measure] for run in runs.values()] for runs in arms.values()]
            axes.barh(range(len(arms)), [fmean(v) for v in values], 0.6, color="lightgrey")
            for place, points in enumerate(values):
                axes.plot(points, [place] * len(points), "o", color="black", markersize=4)
            axes.set_yticks(range(len(arms)), list(arms), fontsize=8)
            axes.invert_yaxis()
            axes.set_title(f"{name}: {told}, mm; a point a seed", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def save(name: str, found: dict[str, Any], results: Path = RESULTS) -> None:
    """Put a table among the others: JSON, Markdown and plot."""
    figures = json.loads(results.read_text()) if results.exists() else {}
    figures[name] = found
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(figures, indent=2) + "\n")
    results.with_suffix(".md").write_text(document(figures))
    plot(figures, results.with_suffix(".png"))
