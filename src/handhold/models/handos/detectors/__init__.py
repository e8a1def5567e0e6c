"""Frozen detectors behind one interface: what HandOS stands on."""

from handhold.models.handos.detectors.boxes import ColourPyramid, GivenBoxes
from handhold.models.handos.detectors.interface import DetectorOutput, FrozenDetector, Preprocess
from handhold.models.handos.detectors.registry import DETECTORS, build_detector

__all__ = [
    "DETECTORS",
    "ColourPyramid",
    "DetectorOutput",
    "FrozenDetector",
    "GivenBoxes",
    "Preprocess",
    "build_detector",
]
