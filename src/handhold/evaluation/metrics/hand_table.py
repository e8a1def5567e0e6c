"""The complete table of hand errors of many predictions at once: joints, meshes, AUC, F-scores."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from handhold.evaluation.metrics.f_scores import f_scores
from handhold.evaluation.metrics.hand import Curve, pck_curve, point_errors
from handhold.geometry.alignment import procrustes, scale_translation, umeyama

Array = NDArray[Any]
Rule = Literal["absolute", "root", "pa", "st"]
Alignment = Literal["reflection", "proper"]
PREFIXES: dict[Rule, str] = {"absolute": "absolute_", "root": "", "pa": "pa_", "st": "st_"}
CHUNK = 512  # hands at a time


@dataclass(frozen=True, kw_only=True)
class HandTable:
    """numbers: millimetres (`_mm`) and shares 0..1; curves by the name of their error."""

    numbers: dict[str, float]
    curves: dict[str, Curve]


def put(
    rule: Rule, points: Array, truth: Array, roots: tuple[Array, Array], alignment: Alignment
) -> tuple[Array, Array]:
    """The two sets (N, P, 3) as a rule compares them; roots (N, 3) of both.

    absolute: as they are. root: each relative to its own root. pa: the prediction by the similarity
    that fits best, which may reflect ("reflection": FreiHAND, HO3D, DexYCB, UniHOPE) or not
    ("proper": HandOccNet, HFL-Net, HOISDF). st: by scale and translation of joints (HO3D).
    """
    if rule == "root":
        return points - roots[0][:, None], truth - roots[1][:, None]
    if rule == "pa" and alignment == "reflection":
        return procrustes(points, truth).aligned, truth
    if rule == "pa":
        return umeyama(points, truth).apply(points), truth
    if rule == "st":
        return scale_translation(points, truth), truth
    return points, truth


def hand_table(
    joints: Array,
    true_joints: Array,
    vertices: Array | None = None,
    true_vertices: Array | None = None,
    *,
    rules: Sequence[Rule] = ("root", "pa"),
    alignment: Alignment = "reflection",
    missed: NDArray[np.bool_] | None = None,
    workers: int = 1,
) -> HandTable:
    """Errors of joints (N, 21, 3) and of meshes (N, V, 3), metres, root joint 0.

    Under every rule (see `put`; meshes have no `st`, and are aligned on their own): mean error,
    AUC of PCK over 0 to 50 mm and, for meshes, F at 5 and 15 mm. missed: see `pck_curve`. workers:
    threads.
    """
    sets = {"mpjpe": (joints, true_joints)}
    if vertices is not None and true_vertices is not None:
        sets["mpvpe"] = (vertices, true_vertices)
    numbers: dict[str, float] = {}
    curves: dict[str, Curve] = {}
    for short, (ours, theirs) in sets.items():
        mesh = short == "mpvpe"
        for rule in rules:
            if mesh and rule == "st":
                continue
            # points first: each point's errors lie together for its curve
            errors = np.zeros((ours.shape[1], len(ours)))
            scores = np.zeros((len(ours), 2))

            def part(
                start: int,
                rule: Rule = rule,
                ours: Array = ours,
                theirs: Array = theirs,
                errors: Array = errors,
                scores: Array = scores,
                mesh: bool = mesh,
            ) -> None:
                rows = slice(start, start + CHUNK)
                roots = tuple(
                    np.asarray(points[rows, 0], np.float64) for points in (joints, true_joints)
                )
                a, b = (np.asarray(points[rows], np.float64) for points in (ours, theirs))
                a, b = put(rule, a, b, (roots[0], roots[1]), alignment)
                errors[:, rows] = point_errors(a, b).T
                if mesh:
                    scores[rows] = f_scores(a, b)[:, :, 0]

            _each(part, range(0, len(ours), CHUNK), workers)
            curve = pck_curve(errors.T, missed=missed)
            prefix = PREFIXES[rule]
            curves[prefix + short] = curve
            numbers[f"{prefix}{short}_mm"] = curve.mean * 1000
            numbers[f"{prefix}{short}_auc"] = curve.auc
            if mesh:
                numbers[f"{prefix}f@5"], numbers[f"{prefix}f@15"] = map(float, scores.mean(0))
    return HandTable(numbers=numbers, curves=curves)


def _each(work: Any, starts: range, workers: int) -> None:
    if workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, starts))
    else:
        for start in starts:
            work(start)
