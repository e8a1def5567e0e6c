"""From pairs of found and true hands to the numbers of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.evaluation.collect import Collection, Pair, labelled_box, tight_box
from handhold.evaluation.metrics import hand as hand_metrics
from handhold.evaluation.metrics import keypoints
from handhold.evaluation.metrics import object as object_metrics
from handhold.geometry.alignment import procrustes
from handhold.objects.catalogue import YCB

Array = NDArray[Any]
Numbers = dict[str, float | int]
PCK_SHARES = (0.05, 0.1, 0.15)
SYMMETRIC = {info.name for info in YCB if info.symmetric}


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


def keypoint_numbers(pairs: Sequence[Pair]) -> Numbers:
    """PCK at 5, 10 and 15 % of the longer side of the labelled box; a missed hand has no hit."""
    usable = [pair for pair in pairs if pair.truth.joints2d is not None]
    if not usable:
        return {}
    truth = np.stack([np.asarray(pair.truth.joints2d, np.float64) for pair in usable])
    missed = np.full((21, 2), np.inf)
    found = np.stack([_joints2d(pair, missed) for pair in usable])
    valid = np.stack([_valid(pair) for pair in usable])
    boxes = np.stack([tight_box(pair.truth) for pair in usable])
    size = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    return {f"pck@{share}": keypoints.pck(found, truth, valid, size, share) for share in PCK_SHARES}


def occlusion_numbers(pairs: Sequence[Pair]) -> dict[str, Numbers]:
    """HInt's PCK of all, visible and hidden joints: by the longer side of the annotated box, the
    mean over joints of each joint's share; joints without a labelled sample are left out. A missed
    hand has no hit. `joints`: how many were looked at."""
    usable = [pair for pair in pairs if pair.truth.joints2d is not None]
    if not usable:
        return {}
    truth = np.stack([np.asarray(pair.truth.joints2d, np.float64) for pair in usable])
    found = np.stack([_joints2d(pair, np.full((21, 2), np.inf)) for pair in usable])
    valid = np.stack([_valid(pair) for pair in usable])
    boxes = np.stack([labelled_box(pair.truth) for pair in usable])
    size = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    groups = {"all": valid}
    told = [pair.truth.joints_visible for pair in usable]
    if all(seen is not None for seen in told):
        seen = np.stack([np.asarray(part, bool) for part in told])
        groups |= {"visible": valid & seen, "occluded": valid & ~seen}
    return {
        name: {"joints": int(chosen.sum())}
        | {f"pck@{s}": keypoints.pck(found, truth, chosen, size, s) for s in PCK_SHARES}
        for name, chosen in groups.items()
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


def hand_numbers(pairs: Sequence[Pair]) -> tuple[Numbers, dict[str, hand_metrics.Curve]]:
    """3D errors in millimetres of the hands that were found, and their PCK curves.

    Root-relative to each set's own wrist; PA by similarity Procrustes with reflections, vertices
    aligned on their own (the rule of the HO3D and FreiHAND servers). `distance` is the absolute
    error of the wrist in the camera frame.
    """
    numbers: Numbers = {"found": 0}
    curves: dict[str, hand_metrics.Curve] = {}
    roots: dict[str, tuple[Array, Array]] = {}
    for name, short in (("joints", "mpjpe"), ("vertices", "mpvpe")):
        both = [points for pair in pairs if (points := _points(pair, name)) is not None]
        if not both:
            continue
        ours, theirs = (np.stack(part) for part in zip(*both, strict=True))
        if name == "joints":
            numbers["found"] = len(both)
            absolute = np.linalg.norm(ours[:, 0] - theirs[:, 0], axis=1)
            numbers["wrist_distance_mm"] = float(np.mean(absolute)) * 1000
            numbers["wrist_distance_median_mm"] = float(np.median(absolute)) * 1000
            roots["joints"] = (ours[:, 0], theirs[:, 0])
        root, true_root = roots["joints"]
        relative = hand_metrics.root_relative(ours, root)
        true_relative = hand_metrics.root_relative(theirs, true_root)
        aligned = procrustes(ours, theirs).aligned
        for prefix, a, b in (("", relative, true_relative), ("pa_", aligned, theirs)):
            curve = hand_metrics.pck_curve(hand_metrics.point_errors(a, b))
            curves[prefix + short] = curve
            numbers[f"{prefix}{short}_mm"] = curve.mean * 1000
            numbers[f"{prefix}{short}_auc"] = curve.auc
        if name == "vertices":
            for prefix, a, b in (("", relative, true_relative), ("pa_", aligned, theirs)):
                scores = hand_metrics.f_scores(a, b)[:, :, 0].mean(0)
                numbers[f"{prefix}f@5"], numbers[f"{prefix}f@15"] = map(float, scores)
    return numbers, curves


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


def object_numbers(pairs: Sequence[Pair], meshes: Mapping[str, Array]) -> Numbers:
    """Object errors where an object is held by label and by prediction and its mesh is known.

    `named` is the share of held objects that got their right name; poses are compared for those.
    ADD(-S): ADD-S for the symmetric objects of DexYCB; diameter: diagonal of the box.
    """
    held = [pair for pair in pairs if pair.true_object is not None and pair.found is not None]
    known = [pair for pair in held if pair.true_object and pair.true_object.name in meshes]
    if not known:
        return {}
    named, errors, sizes, centres, pixels = [], [], [], [], []
    for pair in known:
        truth, ours = pair.true_object, pair.found_object
        hit = truth is not None and ours is not None and ours.name == truth.name
        named.append(hit)
        if not hit or truth is None or ours is None or truth.name is None:
            continue
        points = meshes[truth.name]
        poses = [
            np.concatenate([part.rotation, part.translation[:, None]], 1).astype(np.float64)
            for part in (ours, truth)
        ]
        measure = object_metrics.add_s if truth.name in SYMMETRIC else object_metrics.add
        errors.append(measure(poses[0], poses[1], points))
        sizes.append(object_metrics.diameter(points))
        centres.append(object_metrics.object_centre_error(poses[0], poses[1]))
        pixels.append(
            object_metrics.reprojection_error(poses[0], poses[1], points, pair.intrinsics)
        )
    error, size = np.array(errors), np.array(sizes)
    return {
        "held": len(known),
        "named": _share(named),
        "posed": len(errors),
        "add(-s)_mm": float(np.mean(error)) * 1000 if errors else float("nan"),
        "add(-s)_median_mm": float(np.median(error)) * 1000 if errors else float("nan"),
        "add-0.1d": _share(list(error <= 0.1 * size)),
        "add-0.5d": _share(list(error <= 0.5 * size)),
        "oce_median_mm": float(np.median(centres)) * 1000 if errors else float("nan"),
        "rep_median_px": float(np.median(pixels)) if errors else float("nan"),
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
