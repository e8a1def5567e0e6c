"""From a configuration to a Task: the method's network, processor, loss and measures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.synthesis.shards import OPTIONAL
from handhold.training.config import TrainConfig
from handhold.training.measures import detector_measures, hand_detr_measures
from handhold.training.stream import BACKGROUNDS_KEPT
from handhold.training.tasks import Items, Measures, Task


def changed(base: Any, changes: dict[str, Any], where: str) -> Any:
    """A configuration dataclass with other values; raises InputError naming unknown fields."""
    try:
        return dataclasses.replace(base, **changes)
    except TypeError as error:
        raise InputError(f"{where}: {error}") from error


def build_task(config: TrainConfig) -> Task:
    """The method that `config.model` names, with fresh weights.

    Raises InputError for an unknown name or unknown fields in `config.network` or `config.loss`.
    """
    if config.model == "hand-detector":
        return _detector(config)
    if config.model == "hand-detr":
        return _hand_detr(config)
    from handhold.training.build_hands import CLASSIFIER, classifier_task, hand_task

    return classifier_task(config) if config.model == CLASSIFIER else hand_task(config)


def _detector(config: TrainConfig) -> Task:
    from handhold.models.detector.loss import DetectorLossConfig, loss
    from handhold.models.detector.model import DetectorBatch, DetectorConfig, HandDetectorNetwork
    from handhold.models.detector.processor import DetectorProcessor, DetectorProcessorConfig
    from handhold.models.detector.weights import save_detector

    settings = changed(DetectorConfig(), config.network, "hand-detector, network")
    weights = changed(DetectorLossConfig(), config.loss, "hand-detector, loss")
    where = "hand-detector, augmentation"
    distortion = changed(DetectorProcessorConfig(), config.augmentation, where)
    processor = DetectorProcessor(settings, distortion, _hand_free(config.backgrounds))

    def encode(items: Items, rng: np.random.Generator | None) -> DetectorBatch:
        return processor.encode([sample for sample, _ in items], rng)

    def losses(network: nn.Module, batch: DetectorBatch) -> dict[str, Tensor]:
        prediction = network(batch)
        with torch.autocast(batch.image.device.type, enabled=False):
            return loss(prediction.map(_full), batch, weights)

    def measures(network: nn.Module, batch: DetectorBatch) -> Measures:
        return detector_measures(network, batch)

    def save(path: Path, network: Any, extra: dict[str, str]) -> None:
        save_detector(path, network, extra)

    return Task(
        name="hand-detector",
        network=HandDetectorNetwork(settings),
        encode=encode,
        losses=losses,
        measures=measures,
        save=save,
        per="image",
        skip=frozenset(OPTIONAL),
    )


def _hand_detr(config: TrainConfig) -> Task:
    from handhold.models.detector.model import DetectorBatch, DetectorConfig
    from handhold.models.detector.processor import DetectorProcessor, DetectorProcessorConfig
    from handhold.models.handos.detectors.hand_detr.frozen import save_hand_detr
    from handhold.models.handos.detectors.hand_detr.loss import HandDetrLossConfig, loss
    from handhold.models.handos.detectors.hand_detr.model import HandDetrConfig, HandDetrNetwork

    settings = changed(HandDetrConfig(), config.network, "hand-detr, network")
    weights = changed(HandDetrLossConfig(), config.loss, "hand-detr, loss")
    where = "hand-detr, augmentation"
    distortion = changed(DetectorProcessorConfig(), config.augmentation, where)
    # the first detector's photos and labels, whole: only the network differs
    photos = DetectorConfig(input_size=settings.input_size, box_growth=settings.box_growth)
    processor = DetectorProcessor(photos, distortion, _hand_free(config.backgrounds))

    def encode(items: Items, rng: np.random.Generator | None) -> DetectorBatch:
        return processor.encode([sample for sample, _ in items], rng)

    def losses(network: nn.Module, batch: DetectorBatch) -> dict[str, Tensor]:
        prediction = network(batch)
        with torch.autocast(batch.image.device.type, enabled=False):
            return loss(prediction.map(_full), batch, weights)

    def save(path: Path, network: Any, extra: dict[str, str]) -> None:
        save_hand_detr(path, network, extra)

    return Task(
        name="hand-detr",
        network=HandDetrNetwork(settings),
        encode=encode,
        losses=losses,
        measures=hand_detr_measures,
        save=save,
        per="image",
        skip=frozenset(OPTIONAL),
    )


def _hand_free(folder: str | None) -> list[NDArray[np.uint8]]:
    """The training part of a folder of photos without hands, at most 480 pixels long."""
    if folder is None:
        return []
    from handhold.synthesis.backgrounds import list_photos

    paths = list_photos(Path(folder))
    pictures = []
    for path in paths[: max(1, int(len(paths) * BACKGROUNDS_KEPT))]:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
            small.thumbnail((480, 480))
            pictures.append(np.asarray(small))
    return pictures


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
