"""The detectors that HandOS can stand on, from options that JSON can hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handhold.errors import InputError
from handhold.models.detector.model import DetectorConfig
from handhold.models.handos.detectors import (
    DETECTORS,
    ColourPyramid,
    FrozenDetector,
    GivenBoxes,
    build_detector,
)
from handhold.models.handos.detectors.dense import DenseHandDetector
from handhold.models.handos.detectors.hand_detr import HandDetr, HandDetrConfig


def build_base(name: str, options: Mapping[str, Any]) -> FrozenDetector:
    """The detector of that name (`DETECTORS`).

    options: of "boxes" width, strides, seed (of the colours), num_queries and query_width; of
    "hand-detr" the fields of `HandDetrConfig`, of "hand-detector" those of `DetectorConfig`; of the
    others `weights` (a public name or a folder) and what their classes take. Raises InputError for
    unknown names and options.
    """
    if name not in DETECTORS:
        raise InputError(f"detector: expected one of {', '.join(DETECTORS)}, found {name!r}")
    try:
        if name == "boxes":
            return _boxes(**options)
        if name == "hand-detr":
            return HandDetr(config=HandDetrConfig(**options))
        if name == "hand-detector":
            return DenseHandDetector(config=DetectorConfig(**options))
        return build_detector(name, **options)
    except TypeError as error:
        raise InputError(f"detector {name}, detector_options: {error}") from error


def load_base(
    name: str, options: Mapping[str, Any], weights: str | Path
) -> tuple[FrozenDetector, dict[str, Any]]:
    """The detector with its weights, and the options that build it again: those that the weights
    file tells, or for a public detector its name or folder."""
    if name not in ("boxes", "hand-detr", "hand-detector"):
        again = {**options, "weights": str(weights)}
        return build_base(name, again), again
    detector = build_base(name, options).load(weights)
    if isinstance(detector, (HandDetr, DenseHandDetector)):
        return detector, dataclasses.asdict(detector.config)
    return detector, dict(options)


def _boxes(
    *,
    width: int = 32,
    strides: tuple[int, ...] = (8, 16, 32),
    num_queries: int = 20,
    query_width: int | None = None,
    seed: int = 0,
) -> FrozenDetector:
    inner = ColourPyramid(width, tuple(strides), seed)
    return GivenBoxes(inner, num_queries=num_queries, query_width=query_width, seed=seed)
