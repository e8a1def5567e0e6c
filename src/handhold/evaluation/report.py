"""The report of a run: sections of numbers as a table, as JSON and as plots."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from handhold.atomic import replacing, write_text
from handhold.evaluation.collect import Collection
from handhold.evaluation.metrics.hand import Curve
from handhold.evaluation.protocols import Protocol
from handhold.evaluation.summary import (
    Numbers,
    detection_numbers,
    grasp_numbers,
    hand_numbers,
    keypoint_numbers,
    object_numbers,
    occlusion_numbers,
    visibility_groups,
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """title: what was measured on what; protocol: what the method was given; sections of numbers
    (units in the names; shares 0..1); curves: PCK over metres, for the plots.
    """

    title: str
    protocol: str
    sections: dict[str, Numbers]
    curves: dict[str, Curve] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; what could not be measured is null."""
        clean = {
            name: {k: None if math.isnan(v) else v for k, v in numbers.items()}
            for name, numbers in self.sections.items()
        }
        return {
            "schema": "handhold.report/1",
            "protocol": self.protocol,
            "title": self.title,
            "sections": clean,
        }


def build_report(
    run: Collection,
    *,
    title: str,
    protocol: Protocol,
    meshes: Mapping[str, NDArray[Any]],
) -> Report:
    """Everything that can be measured on the pairs of a run.

    meshes: model points (P, 3) in metres by object name. Hand errors come for all hands, for hands
    without and with an object by the true grasp label, and by quartile of visibility.
    """
    pairs = run.pairs
    sections: dict[str, Numbers] = {
        "detection": detection_numbers(run),
        "keypoints": keypoint_numbers(pairs),
        "keypoints of found hands": keypoint_numbers([p for p in pairs if p.found is not None]),
    }
    if protocol.occlusion:
        sections |= {f"joints: {name}": part for name, part in occlusion_numbers(pairs).items()}
    numbers, curves = hand_numbers(pairs)
    if numbers["found"]:
        sections["hand: all"] = numbers
        groups = {
            "hand-only": [pair for pair in pairs if not pair.truth.grasping],
            "hand-object": [pair for pair in pairs if pair.truth.grasping],
            **visibility_groups(pairs),
        }
        for name, group in groups.items():
            part, _ = hand_numbers(group)
            if part["found"]:
                sections[f"hand: {name}"] = part
    sections["grasp"] = grasp_numbers(pairs)
    sections["object"] = object_numbers(pairs, meshes)
    sections = {name: part for name, part in sections.items() if part}
    return Report(title=title, protocol=protocol.describe(), sections=sections, curves=curves)


def as_text(report: Report) -> str:
    """The report as plain text, the protocol in the first line."""
    lines = [report.protocol, report.title]
    for name, numbers in report.sections.items():
        lines += ["", name]
        lines += [f"  {key:<28}{_shown(key, value):>10}" for key, value in numbers.items()]
    return "\n".join(lines)


def _shown(key: str, value: float) -> str:
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if key.endswith(("_mm", "_px")) else f"{value:.3f}"


def write_report(report: Report, folder: Path) -> list[Path]:
    """`report.json`, `report.txt` and, where matplotlib is installed, `report.png`; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.json": json.dumps(report.to_json(), indent=1) + "\n",
        "report.txt": as_text(report) + "\n",
    }
    written = []
    for name, text in texts.items():
        write_text(folder / name, text)
        written.append(folder / name)
    try:
        written.append(_plot(report, folder / "report.png"))
    except ImportError:
        return written
    return written


def _plot(report: Report, path: Path) -> Path:
    """PCK curves, errors by group, and the shares side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(16, 4.5), layout="constrained")
    for name, curve in report.curves.items():
        label = f"{name.upper().replace('_', '-')} (AUC {curve.auc:.3f})"
        axes[0].plot(curve.thresholds * 1000, curve.pck, label=label)
    axes[0].set(xlabel="threshold, mm", ylabel="share of points", title="PCK in 3D", ylim=(0, 1))
    if report.curves:
        axes[0].legend()
    groups = {
        name.removeprefix("hand: "): numbers["pa_mpjpe_mm"]
        for name, numbers in report.sections.items()
        if "pa_mpjpe_mm" in numbers
    }
    axes[1].barh(list(groups), list(groups.values()), color="tab:orange")
    axes[1].invert_yaxis()
    axes[1].set(xlabel="mm", title="PA-MPJPE by group")
    shares = {
        key: value
        for section in ("detection", "keypoints", "grasp")
        for key, value in report.sections.get(section, {}).items()
        if isinstance(value, float) and 0 <= value <= 1
    }
    axes[2].barh(list(shares), list(shares.values()), color="tab:blue")
    axes[2].invert_yaxis()
    axes[2].set(xlim=(0, 1), title="shares")
    figure.suptitle(f"{report.title}\n{report.protocol}", fontsize=9)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")
    plt.close(figure)
    return path
