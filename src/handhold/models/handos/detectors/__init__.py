"""Frozen detectors behind one interface: what HandOS stands on."""

from handhold.models.handos.detectors.boxes import ColourPyramid, GivenBoxes
from handhold.models.handos.detectors.interface import DetectorOutput, FrozenDetector, Preprocess

__all__ = ["ColourPyramid", "DetectorOutput", "FrozenDetector", "GivenBoxes", "Preprocess"]
