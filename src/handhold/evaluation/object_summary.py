"""From pairs of found and true objects to the numbers of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.evaluation.collect import Pair
from handhold.evaluation.metrics import object as object_metrics
from handhold.evaluation.protocol import ObjectRule
from handhold.evaluation.summary import Numbers
from handhold.objects.catalogue import YCB
from handhold.scene import RigidObject

Array = NDArray[Any]
SYMMETRIC = {info.name for info in YCB if info.symmetric}
HALF_TURNED = ("006_mustard_bottle", "010_potted_meat_can", "021_bleach_cleanser")  # MSSD on HO3D
FAILED = np.eye(4)[:3] + [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1.0]]  # one metre away


@dataclass(frozen=True, kw_only=True)
class _Posed:
    """name, poses (3, 4) found and true, intrinsics (3, 3)."""

    name: str
    found: Array
    truth: Array
    intrinsics: Array


def object_numbers(
    pairs: Sequence[Pair], meshes: Mapping[str, Array], rule: ObjectRule | None = None
) -> Numbers:
    """Object errors where the label's object counts and its mesh is known.

    `objects` is how many those are, `named` the share that got their right name. Without a rule
    poses are compared for those only, of held objects; a rule (`ObjectRule`) counts every hand that
    was found. add(-s): ADD-S for the objects that the rule says, else ADD; add and add-s: of all.
    `_class_mean`: mean of each object's own share.
    """
    counted = [
        pair
        for pair in pairs
        if pair.found is not None
        and pair.true_object is not None
        and pair.true_object.name in meshes
        and (rule is None or pair.true_object.name not in rule.leave_out)
        and (pair.truth.grasping or (rule is not None and rule.samples == "all"))
    ]
    if not counted:
        return {}
    used = ObjectRule() if rule is None else rule
    named = [_same_name(pair) for pair in counted]
    posed = [
        _posed(pair, used)
        for pair, hit in zip(counted, named, strict=True)
        if hit or rule is not None
    ]
    numbers: Numbers = {
        "objects": len(counted),
        "named": float(np.mean(named)),
        "posed": sum(pair.found_object is not None for pair in counted) if rule else len(posed),
    }
    columns: dict[str, list[Array]] = {}
    names: list[str] = []
    for name in sorted({item.name for item in posed}):
        group = [item for item in posed if item.name == name]
        names += [name] * len(group)
        for key, values in _errors(group, np.asarray(meshes[name]), used).items():
            columns.setdefault(key, []).append(values)
    joined = {key: np.concatenate(parts) for key, parts in columns.items()}
    return numbers | _shares(joined, np.array(names), used)


def _same_name(pair: Pair) -> bool:
    truth, found = pair.true_object, pair.found_object
    return truth is not None and found is not None and found.name == truth.name


def _pose(thing: RigidObject) -> Array:
    return np.concatenate([thing.rotation, thing.translation[:, None]], 1).astype(np.float64)


def _posed(pair: Pair, rule: ObjectRule) -> _Posed:
    truth = pair.true_object
    if truth is None or truth.name is None:
        raise ValueError("a pair without a named object does not count")
    poses = [FAILED if pair.found_object is None else _pose(pair.found_object), _pose(truth)]
    if rule.from_wrist:
        for place, hand in enumerate((pair.found, pair.truth)):
            if hand is not None and hand.joints is not None:
                shift = np.zeros((3, 4))
                shift[:, 3] = hand.joints[0]
                poses[place] = poses[place] - shift
    return _Posed(
        name=truth.name, found=poses[0], truth=poses[1], intrinsics=np.asarray(pair.intrinsics)
    )


def _errors(group: Sequence[_Posed], points: Array, rule: ObjectRule) -> dict[str, Array]:
    """Errors (N,) of one object's poses."""
    name = group[0].name
    found, truth = (np.stack([getattr(item, key) for item in group]) for key in ("found", "truth"))
    near = rule.nearest == "every" or (rule.nearest == "symmetric" and name in SYMMETRIC)
    add = object_metrics.add(found, truth, points)
    add_s = object_metrics.add_s(found, truth, points)
    turns = object_metrics.turns_about_z(2 if name in HALF_TURNED else 1)
    camera = np.stack([item.intrinsics for item in group])
    return {
        "add": add,
        "add-s": add_s,
        "add(-s)": add_s if near else add,
        "oce": object_metrics.object_centre_error(found, truth),
        "mce": object_metrics.mean_corner_error(found, truth, points),
        "mssd": object_metrics.mssd(found, truth, points, turns),
        "rep": object_metrics.reprojection_error(found, truth, points, camera),
        "size": np.full(len(group), object_metrics.diameter(points)),
    }


def _shares(errors: Mapping[str, Array], names: Array, rule: ObjectRule) -> Numbers:
    def of(key: str) -> Array:
        return errors.get(key, np.full(1, np.nan))

    numbers: Numbers = {
        "add(-s)_mm": float(np.mean(of("add(-s)"))) * 1000,
        "add(-s)_median_mm": float(np.median(of("add(-s)"))) * 1000,
        "oce_median_mm": float(np.median(of("oce"))) * 1000,
        "rep_median_px": float(np.median(of("rep"))),
    }
    for key in ("add", "add-s", "oce", "mce", "mssd"):
        numbers[f"{key}_mm"] = float(np.mean(of(key))) * 1000
    classes = np.unique(names, return_inverse=True)[1]
    limits = {f"add-{share:g}d": share * of("size") for share in sorted({0.1, 0.5, rule.diameters})}
    for key, limit in limits.items():
        numbers |= _success(key, of("add(-s)"), limit, classes)
    return numbers | _success("rep", of("rep"), np.full(len(of("rep")), rule.pixels), classes)


def _success(key: str, errors: Array, limits: Array, classes: Array) -> Numbers:
    if not len(classes):
        return {key: float("nan"), f"{key}_class_mean": float("nan")}
    shares, whole = object_metrics.success_shares(errors, limits, classes)
    return {key: whole, f"{key}_class_mean": float(np.mean(list(shares.values())))}
