"""From pairs of found and true hands to the numbers of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from handhold.evaluation.collect import Collection, Pair, labelled_box, tight_box
from handhold.evaluation.metrics import hand as hand_metrics
from handhold.evaluation.metrics import keypoints
from handhold.evaluation.metrics.hand_table import Alignment, Rule, hand_table
from handhold.evaluation.metrics.video import acceleration_error
from handhold.scene import Hand

Array = NDArray[Any]
Numbers = dict[str, float | int]
PCK_SHARES = (0.05, 0.1, 0.15)


def _share(hits: Sequence[bool]) -> float:
    return float(np.mean(hits)) if len(hits) else float("nan")


def detection_numbers(run: Collection) -> Numbers:
    """Recall, precision (where every hand is labelled), and side accuracy of the hands found
    (where it is labelled)."""
    found = [pair for pair in run.pairs if pair.found is not None]
    right = [
        pair.found.side == pair.truth.side
        for pair in found
        if pair.found is not None and pair.truth.side is not None
    ]
    precision = 1 - run.spurious / run.detections if run.detections else float("nan")
    return {
        "hands": len(run.pairs),
        "recall": len(found) / len(run.pairs) if run.pairs else float("nan"),
        "precision": precision,
        "false_alarms": run.spurious,
        "side_accuracy": _share(right),
    }


@dataclass(frozen=True, kw_only=True)
class Keypoints:
    """Found (missed: infinity) and true joints (N, 21, 2), which are labelled and which are known
    to be visible (None: the set does not say) (N, 21), and the longer side of the box (N,)."""

    found: Array
    truth: Array
    valid: NDArray[np.bool_]
    seen: NDArray[np.bool_] | None
    size: Array

    def pcks(self, chosen: NDArray[np.bool_] | None = None) -> Numbers:
        """PCK at 5, 10 and 15 % of the size, of the chosen joints."""
        valid = self.valid if chosen is None else chosen
        return {
            f"pck@{share}": keypoints.pck(self.found, self.truth, valid, self.size, share)
            for share in PCK_SHARES
        }


def keypoints_of(
    pairs: Sequence[Pair], true_box: Callable[[Hand], Array] = tight_box
) -> Keypoints | None:
    """The 2D joints of all hands that have labels; None where no hand has."""
    usable = [pair for pair in pairs if pair.truth.joints2d is not None]
    if not usable:
        return None
    boxes = np.stack([true_box(pair.truth) for pair in usable])
    told = [pair.truth.joints_visible for pair in usable]
    known = [np.asarray(part, bool) for part in told if part is not None]
    missed = np.full((21, 2), np.inf)
    return Keypoints(
        found=np.stack([_joints2d(pair, missed) for pair in usable]),
        truth=np.stack([np.asarray(pair.truth.joints2d, np.float64) for pair in usable]),
        valid=np.stack([_valid(pair) for pair in usable]),
        seen=np.stack(known) if len(known) == len(told) else None,
        size=np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]),
    )


def keypoint_numbers(pairs: Sequence[Pair]) -> Numbers:
    """PCK at 5, 10 and 15 % of the longer side of the labelled box; a missed hand has no hit."""
    told = keypoints_of(pairs)
    return {} if told is None else told.pcks()


def occlusion_numbers(pairs: Sequence[Pair]) -> dict[str, Numbers]:
    """HInt's PCK of all, visible and hidden joints: by the longer side of the annotated box, the
    mean over joints of each joint's share; joints without a labelled sample are left out. A missed
    hand has no hit. `joints`: how many were looked at."""
    told = keypoints_of(pairs, labelled_box)
    if told is None:
        return {}
    groups = {"all": told.valid}
    if told.seen is not None:
        groups |= {"visible": told.valid & told.seen, "occluded": told.valid & ~told.seen}
    return {
        name: {"joints": int(chosen.sum())} | told.pcks(chosen) for name, chosen in groups.items()
    }


def _joints2d(pair: Pair, missed: Array) -> Array:
    if pair.found is None or pair.found.joints2d is None:
        return missed
    return np.asarray(pair.found.joints2d, np.float64)


def _valid(pair: Pair) -> NDArray[np.bool_]:
    return np.ones(21, bool) if pair.truth.joints2d_valid is None else pair.truth.joints2d_valid


def _points(pair: Pair, name: str) -> tuple[Array, Array] | None:
    """(found, true) points of one hand, or None when either is not there."""
    ours = None if pair.found is None else getattr(pair.found, name)
    theirs = getattr(pair.truth, name)
    if ours is None or theirs is None:
        return None
    return np.asarray(ours, np.float64), np.asarray(theirs, np.float64)


def hand_numbers(
    pairs: Sequence[Pair],
    *,
    rules: Sequence[Rule] = ("root", "pa"),
    alignment: Alignment = "reflection",
    missed: Literal["left out", "zeros"] = "left out",
    workers: int = 1,
) -> tuple[Numbers, dict[str, hand_metrics.Curve]]:
    """3D errors in millimetres, and their PCK curves; `hand_table` says what rules and alignments
    are. `distance` is the absolute error of the wrist in the camera frame.

    missed: hands that were not found are left out, or count as all zeros and within no threshold.
    """
    numbers: Numbers = {"found": 0}
    sets: dict[str, list[tuple[Array, Array]]] = {"joints": [], "vertices": []}
    lost: list[bool] = []
    for pair in pairs:
        for name, rows in sets.items():
            both = _points(pair, name)
            truth = getattr(pair.truth, name)
            if both is None and pair.found is None and truth is not None and missed == "zeros":
                both = np.zeros_like(truth, np.float64), np.asarray(truth, np.float64)
            if both is not None:
                rows.append(both)
                if name == "joints":
                    lost.append(pair.found is None)
    if not sets["joints"]:
        return numbers, {}
    ours, theirs = (np.stack(part) for part in zip(*sets["joints"], strict=True))
    mask = np.array(lost)
    numbers["found"] = int((~mask).sum())
    if missed == "zeros":
        numbers["missed"] = int(mask.sum())
    far = np.linalg.norm(ours[~mask, 0] - theirs[~mask, 0], axis=1)
    numbers["wrist_distance_mm"] = float(np.mean(far)) * 1000 if len(far) else float("nan")
    numbers["wrist_distance_median_mm"] = float(np.median(far)) * 1000 if len(far) else float("nan")
    meshes: tuple[Array, ...] = ()
    if len(sets["vertices"]) == len(ours):
        meshes = tuple(np.stack(part) for part in zip(*sets["vertices"], strict=True))
    table = hand_table(
        ours,
        theirs,
        *meshes,
        rules=rules,
        alignment=alignment,
        missed=mask if mask.any() else None,
        workers=workers,
    )
    return numbers | table.numbers, table.curves


def video_numbers(pairs: Sequence[Pair]) -> Numbers:
    """Acceleration error of the joints over three frames in a row or more of one sequence, by keys
    that end in /FRAME; a missed hand ends a row. Millimetres a frame squared."""
    errors: list[Array] = []
    row: list[tuple[Array, Array]] = []
    last: tuple[str, int] | None = None
    for pair in (*pairs, None):
        place = None if pair is None else _frame(pair.sample)
        both = None if pair is None else _points(pair, "joints")
        follows = place is not None and last is not None and place == (last[0], last[1] + 1)
        if not follows or both is None:
            if len(row) >= 3:
                ours, theirs = (np.stack(part) for part in zip(*row, strict=True))
                errors.append(acceleration_error(ours, theirs))
            row = []
        if both is not None:
            row.append(both)
        last = place
    if not errors:
        return {}
    every = np.concatenate(errors)
    return {"accelerations": len(every), "acceleration_error_mm": float(every.mean()) * 1000}


def _frame(key: str) -> tuple[str, int] | None:
    sequence, _, frame = key.rpartition("/")
    return (sequence, int(frame)) if sequence and frame.isdecimal() else None


def grasp_numbers(pairs: Sequence[Pair]) -> Numbers:
    """Share of found hands whose grasp decision is right, and both kinds of it apart."""
    told = [
        (bool(pair.found.grasping), bool(pair.truth.grasping))
        for pair in pairs
        if pair.found is not None
        and pair.found.grasping is not None
        and pair.truth.grasping is not None
    ]
    if not told:
        return {}
    return {
        "grasp_accuracy": _share([ours == true for ours, true in told]),
        "grasp_accuracy_holding": _share([ours for ours, true in told if true]),
        "grasp_accuracy_free": _share([not ours for ours, true in told if not true]),
    }


def visibility_groups(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """The pairs by quartile of the visible share of the hand (1 = nothing hides it)."""
    share = np.array(
        [np.nan if p.truth.visibility is None else p.truth.visibility for p in pairs], np.float64
    )
    groups = hand_metrics.visibility_group(share)
    edges = hand_metrics.VISIBILITY_EDGES
    names = [f"visible {edges[i]:.0%} to {edges[i + 1]:.0%}" for i in range(4)]
    return {
        name: [pair for pair, group in zip(pairs, groups, strict=True) if group == number]
        for number, name in enumerate(names)
    }
