"""From a configuration to a Task: the method's network, processor, loss and measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.models.detector.model import DetectorBatch, DetectorConfig
from handhold.synthesis.shards import OPTIONAL
from handhold.training.config import TrainConfig
from handhold.training.drawn_scenes import BACKGROUNDS_KEPT
from handhold.training.measures import detector_measures, hand_detr_measures
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
    if config.model == "handbooster":
        from handhold.training.build_diffusion import diffusion_task

        return diffusion_task(config)
    from handhold.models.photo_registry import PHOTO_MODELS
    from handhold.training.build_hands import CLASSIFIER, classifier_task, hand_task
    from handhold.training.build_photos import photo_task

    if config.model in PHOTO_MODELS:
        return photo_task(config)
    return classifier_task(config) if config.model == CLASSIFIER else hand_task(config)


def _detector(config: TrainConfig) -> Task:
    from handhold.models.detector.loss import DetectorLossConfig, loss
    from handhold.models.detector.model import HandDetectorNetwork
    from handhold.models.detector.weights import save_detector

    settings = changed(DetectorConfig(), config.network, "hand-detector, network")
    weights = changed(DetectorLossConfig(), config.loss, "hand-detector, loss")
    return _photo_task(
        config,
        settings,
        HandDetectorNetwork(settings),
        lambda prediction, batch: loss(prediction, batch, weights),
        detector_measures,
        save_detector,
    )


def _hand_detr(config: TrainConfig) -> Task:
    from handhold.models.handos.detectors.hand_detr.frozen import save_hand_detr
    from handhold.models.handos.detectors.hand_detr.loss import HandDetrLossConfig, loss
    from handhold.models.handos.detectors.hand_detr.model import HandDetrConfig, HandDetrNetwork

    settings = changed(HandDetrConfig(), config.network, "hand-detr, network")
    weights = changed(HandDetrLossConfig(), config.loss, "hand-detr, loss")
    return _photo_task(
        config,
        # the first detector's photos and labels, whole: only the network differs
        DetectorConfig(input_size=settings.input_size, box_growth=settings.box_growth),
        HandDetrNetwork(settings),
        lambda prediction, batch: loss(prediction, batch, weights),
        hand_detr_measures,
        save_hand_detr,
    )


def _photo_task(
    config: TrainConfig,
    photos: DetectorConfig,
    network: nn.Module,
    terms: Callable[[Any, DetectorBatch], dict[str, Tensor]],
    measures: Callable[[nn.Module, DetectorBatch], Measures],
    write: Callable[[Path, Any, dict[str, str]], Path],
) -> Task:
    """A detector that learns from whole photos, letterboxed and augmented as `photos` says."""
    from handhold.models.detector.processor import DetectorProcessor, DetectorProcessorConfig

    where = f"{config.model}, augmentation"
    distortion = changed(DetectorProcessorConfig(), config.augmentation, where)
    processor = DetectorProcessor(photos, distortion, _hand_free(config.backgrounds))

    def encode(items: Items, rng: np.random.Generator | None) -> DetectorBatch:
        return processor.encode([sample for sample, _ in items], rng)

    def losses(network: nn.Module, batch: DetectorBatch) -> dict[str, Tensor]:
        prediction = network(batch)
        with torch.autocast(batch.image.device.type, enabled=False):
            return terms(prediction.map(_full), batch)

    def save(path: Path, network: Any, extra: dict[str, str]) -> None:
        write(path, network, extra)

    return Task(
        name=config.model,
        network=network,
        encode=encode,
        losses=losses,
        measures=measures,
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
