"""The report of a run: sections of numbers as a table, as JSON and as plots."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.atomic import write_text
from handhold.evaluation.collect import Collection, Pair
from handhold.evaluation.metrics.hand import Curve
from handhold.evaluation.metrics.keypoints import pck_over
from handhold.evaluation.object_summary import object_numbers
from handhold.evaluation.protocol import Protocol
from handhold.evaluation.summary import (
    Numbers,
    detection_numbers,
    grasp_numbers,
    hand_numbers,
    keypoint_numbers,
    keypoints_of,
    occlusion_numbers,
    video_numbers,
    visibility_groups,
)

FLAT_THRESHOLDS = np.linspace(0, 0.3, 61)  # shares of the box's longer side


@dataclass(frozen=True, kw_only=True)
class Report:
    """title: what was measured on what; protocol: what the method was given; sections of numbers
    (units in the names; shares 0..1); curves: PCK over metres, flat_curves: 2D PCK (T,) over
    FLAT_THRESHOLDS, for the plots.
    """

    title: str
    protocol: str
    sections: dict[str, Numbers]
    curves: dict[str, Curve] = field(default_factory=dict)
    flat_curves: dict[str, NDArray[Any]] = field(default_factory=dict)

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
    video: bool = False,
    workers: int = 1,
) -> Report:
    """Everything that can be measured on the pairs of a run, by the protocol's rules.

    meshes: model points (P, 3) in metres by object name. Hand errors come for all hands, for hands
    without and with an object by the true grasp label, and by quartile of visibility. "as
    published" holds what the protocol's table prints, NaN where the run says nothing of it. video:
    the pairs are frames of sequences, in order.
    """
    pairs = run.pairs
    sections: dict[str, Numbers] = {
        "detection": detection_numbers(run),
        "keypoints": keypoint_numbers(pairs),
        "keypoints of found hands": keypoint_numbers([p for p in pairs if p.found is not None]),
    }
    if protocol.occlusion:
        sections |= {f"joints: {name}": part for name, part in occlusion_numbers(pairs).items()}

    def hands(group: Sequence[Pair]) -> tuple[Numbers, dict[str, Curve]]:
        return hand_numbers(
            group,
            rules=protocol.rules,
            alignment=protocol.alignment,
            missed=protocol.missed,
            workers=workers,
        )

    numbers, curves = hands(pairs)
    if curves:
        sections["hand: all"] = numbers
        groups = {
            "hand-only": [pair for pair in pairs if pair.truth.grasping is False],
            "hand-object": [pair for pair in pairs if pair.truth.grasping],
            **visibility_groups(pairs),
        }
        for name, group in groups.items():
            part, found = hands(group)
            if found:
                sections[f"hand: {name}"] = part
    sections["video"] = video_numbers(pairs) if video else {}
    sections["grasp"] = grasp_numbers(pairs)
    sections["object"] = object_numbers(pairs, meshes, protocol.objects)
    if protocol.columns:
        sections = {"as published": _published(sections, protocol)} | sections
    return Report(
        title=title,
        protocol=protocol.describe(),
        sections={name: part for name, part in sections.items() if part},
        curves=curves,
        flat_curves=_flat_curves(pairs),
    )


def _published(sections: Mapping[str, Numbers], protocol: Protocol) -> Numbers:
    """What the protocol's table prints, in its order."""
    result: Numbers = {}
    for column in protocol.columns:
        section, _, number = column.partition("/")
        group = section.removeprefix("hand: ").removeprefix("joints: ")
        name = number if group in ("all", "object") else f"{group} {number}"
        result[name] = sections.get(section, {}).get(number, float("nan"))
    return result


def _flat_curves(pairs: Sequence[Pair]) -> dict[str, NDArray[Any]]:
    """2D PCK of all hands, of those found, and of visible and hidden joints where that is known."""
    told, found = keypoints_of(pairs), keypoints_of([p for p in pairs if p.found is not None])
    if told is None:
        return {}
    groups = {"all": (told, told.valid)}
    if found is not None and len(found.size) < len(told.size):
        groups["found hands"] = (found, found.valid)
    if told.seen is not None:
        groups |= {"visible": (told, told.valid & told.seen)}
        groups |= {"occluded": (told, told.valid & ~told.seen)}
    return {
        name: pck_over(part.found, part.truth, valid, part.size, FLAT_THRESHOLDS)
        for name, (part, valid) in groups.items()
    }


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
        from handhold.evaluation.plots import plot_report

        written.append(plot_report(report, folder / "report.png"))
    except ImportError:
        return written
    return written
