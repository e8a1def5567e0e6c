"""Run a method over samples and pair what it found with what is true."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.evaluation.metrics.keypoints import match_boxes
from handhold.geometry.boxes import iou
from handhold.scene import Hand, RigidObject, Sample, Scene

Array = NDArray[Any]
Predict = Callable[[Sample], Scene]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A labelled hand and what was found for it (None: missed), with what each holds."""

    sample: str
    truth: Hand
    found: Hand | None
    true_object: RigidObject | None
    found_object: RigidObject | None
    intrinsics: Array


@dataclass(kw_only=True)
class Collection:
    """All pairs of a run. spurious: detections beside fully labelled hands; counted: detections
    in photos where all hands are labelled.
    """

    pairs: list[Pair] = field(default_factory=list)
    detections: int = 0
    spurious: int = 0
    samples: int = 0


def tight_box(hand: Hand) -> Array:
    """The box (4,) around a label's known joints, else the hand's own box."""
    if hand.joints2d is not None:
        valid = hand.joints2d_valid
        points = hand.joints2d if valid is None else hand.joints2d[valid]
        if len(points):
            return np.concatenate([points.min(0), points.max(0)])
    return np.zeros(4) if hand.box is None else np.asarray(hand.box)


def labelled_box(hand: Hand) -> Array:
    """The box (4,) of the labels, else the one around the known joints."""
    return tight_box(hand) if hand.box is None else np.asarray(hand.box)


def collect(
    samples: Iterable[Sample],
    predict: Predict,
    *,
    least_iou: float = 0.3,
    true_box: Callable[[Hand], Array] = tight_box,
    by_score: bool = False,
    all_objects: bool = False,
    watch: Callable[[Sample, Scene, list[Pair]], None] | None = None,
) -> Collection:
    """Predict every sample; match hands one to one by IoU >= least_iou with the true box, best
    score first.

    by_score: where one hand is labelled, the best detection is taken for it wherever it is.
    all_objects: labelled objects also of hands that do not hold them. watch: is shown every sample,
    what was found and its pairs.
    """
    result = Collection()
    for sample in samples:
        scene = predict(sample)
        result.samples += 1
        truth = [true_box(hand) for hand in sample.hands]
        found = [tight_box(hand) if hand.box is None else hand.box for hand in scene.hands]
        matches: dict[int, int] = {}
        if by_score and len(truth) == 1 and found:
            matches = {0: max(range(len(found)), key=lambda d: scene.hands[d].score)}
        elif truth and found:
            overlaps = np.array([[float(iou(f, t)) for t in truth] for f in found])
            scores = np.array([hand.score for hand in scene.hands])
            matches = {label: d for d, label in match_boxes(overlaps, scores, least_iou)}
        if sample.hands_complete:
            result.detections += len(found)
            result.spurious += len(found) - len(matches)
        pairs = []
        for number, hand in enumerate(sample.hands):
            detection = matches.get(number)
            held = sample.object if number == 0 and (hand.grasping or all_objects) else None
            pairs.append(
                Pair(
                    sample=sample.key,
                    truth=hand,
                    found=None if detection is None else scene.hands[detection],
                    true_object=held,
                    found_object=None if detection is None else scene.objects[detection],
                    intrinsics=sample.camera.intrinsics,
                )
            )
        result.pairs += pairs
        if watch is not None:
            watch(sample, scene, pairs)
    return result
