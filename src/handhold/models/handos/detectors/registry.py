"""Frozen detectors by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from handhold.errors import InputError
from handhold.models.handos.detectors.boxes import ColourPyramid, GivenBoxes
from handhold.models.handos.detectors.dense import DenseHandDetector
from handhold.models.handos.detectors.detr_family import CLASSES as DETR_FAMILY
from handhold.models.handos.detectors.detr_family import DetrFamily
from handhold.models.handos.detectors.grounding_dino import CLASSES as GROUNDING
from handhold.models.handos.detectors.grounding_dino import GroundingDino
from handhold.models.handos.detectors.hand_detr import HandDetr
from handhold.models.handos.detectors.interface import FrozenDetector

# name -> what it is
DETECTORS = {
    "hand-detector": "the toolkit's first, whose weights are shipped; its best places are queries",
    "hand-detr": "the toolkit's own, small; weights of `handhold train hand-detr`",
    "grounding-dino": "open vocabulary, asked for a hand; extra transformers",
    "mm-grounding-dino": "the same, trained by others on more; extra transformers",
    "deformable-detr": "starting point without a hand class; extra transformers",
    "rt-detr-v2": "starting point without a hand class; extra transformers",
    "d-fine": "starting point without a hand class; extra transformers",
    "boxes": "given boxes, with colours as features",
    "none": "no detections, colours as features",
}


def build_detector(name: str, weights: str | Path | None = None, **options: Any) -> FrozenDetector:
    """The detector of that name, frozen. weights: what its `load` takes; None for fresh ones
    (hand-detector, hand-detr) or none at all. options: what its class takes (config, label, prompt
    ...).

    Raises InputError for unknown names, MissingExtraError, WeightsError.
    """
    if name not in DETECTORS:
        raise InputError(f"detector: expected one of {', '.join(DETECTORS)}, found {name!r}")
    if name in GROUNDING or name in DETR_FAMILY:
        kind: Any = GroundingDino if name in GROUNDING else DetrFamily
        return kind(weights, kind=name, **options)
    kinds = {
        "hand-detector": DenseHandDetector,
        "hand-detr": HandDetr,
        "boxes": GivenBoxes,
        "none": ColourPyramid,
    }
    made = kinds[name](**options)
    return made if weights is None else made.load(weights)
