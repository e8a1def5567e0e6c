"""The methods for whole photos as Tasks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.hand.model import HandModel
from handhold.models.handos.bases import load_base
from handhold.models.handos.batch import PhotoBatch
from handhold.models.handos.processor import HandOSProcessor
from handhold.models.loading import shipped_weights
from handhold.models.photo_registry import PHOTO_MODELS
from handhold.models.weights import save_weights
from handhold.synthesis.shards import OPTIONAL
from handhold.training.build import changed
from handhold.training.config import TrainConfig
from handhold.training.photo_measures import photo_measures
from handhold.training.tasks import Items, Measures, Task

OURS = ("hand-detector", "hand-detr")  # whose weights may come with the package


def photo_task(config: TrainConfig) -> Task:
    """The Task of a method of `photo_registry`.

    Raises InputError for unknown fields, for pairs, and where the detector would have no weights.
    """
    told, name = PHOTO_MODELS[config.model], config.model
    settings = changed(told.config(), config.network, f"{name}, network")
    weights = changed(told.loss_config(), config.loss, f"{name}, loss")
    if config.pairs:
        raise InputError(f"TrainConfig.pairs: {name} does not train on pairs")
    hand = HandModel.load(Path(config.mano) if config.mano else None, "right")
    detector, file = None, config.detector
    if file is None and settings.detector in OURS:
        file = shipped_weights(settings.detector)
    if file is not None:
        detector, options = load_base(settings.detector, settings.detector_options, file)
        settings = dataclasses.replace(settings, detector_options=options)
    elif settings.detector != "boxes":
        raise InputError(
            f"{name}: stands on a trained detector, {settings.detector}; give its weights "
            "(detector), or network detector=boxes to learn from the labels' boxes alone"
        )
    network: Any = told.network(settings, hand, detector)
    chosen = told.processor()
    augmentation = changed(chosen.augmentation, config.augmentation, f"{name}, augmentation")
    prepared = dataclasses.replace(chosen, augmentation=augmentation).fitted(settings)
    processor = HandOSProcessor(prepared, hand)

    def encode(items: Items, rng: np.random.Generator | None) -> PhotoBatch:
        return processor.encode(items, rng)

    def losses(network: nn.Module, batch: PhotoBatch) -> dict[str, Tensor]:
        prediction = network(batch)
        with torch.autocast(batch.image.device.type, enabled=False):
            return told.loss(prediction.map(_full), batch, weights)

    def measures(network: nn.Module, batch: PhotoBatch) -> Measures:
        return photo_measures(network(batch), batch, prepared.box_growth)

    def save(path: Path, network: nn.Module, extra: dict[str, str]) -> None:
        known = {"processor": dataclasses.asdict(prepared)}
        save_weights(path, network, model=name, extra=extra | known)

    return Task(
        name=name,
        network=network,
        encode=encode,
        losses=losses,
        measures=measures,
        save=save,
        per="image",
        skip=frozenset(OPTIONAL),
        uses=("pose",),
    )


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
