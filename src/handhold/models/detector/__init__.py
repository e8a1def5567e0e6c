"""The hand detector for whole photos: `HandDetector(network).detect(images)`."""

from handhold.models.detector.detect import Detection, HandDetector
from handhold.models.detector.model import (
    DetectorBatch,
    DetectorConfig,
    DetectorPrediction,
    HandDetectorNetwork,
)
from handhold.models.detector.processor import (
    DetectorProcessor,
    DetectorProcessorConfig,
    joint_box,
)
from handhold.models.detector.weights import load_detector, save_detector

__all__ = [
    "Detection",
    "DetectorBatch",
    "DetectorConfig",
    "DetectorPrediction",
    "DetectorProcessor",
    "DetectorProcessorConfig",
    "HandDetector",
    "HandDetectorNetwork",
    "joint_box",
    "load_detector",
    "save_detector",
]
