"""The methods of the registry, and the grasp classifier, as Tasks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.hand.model import HandModel
from handhold.models.entry import ModelEntry
from handhold.models.nn.hope_config import HopeProcessorConfig
from handhold.models.photo_registry import PHOTO_MODELS
from handhold.models.processors import make_processor
from handhold.models.registry import MODELS
from handhold.models.switched import loss as grasp_loss
from handhold.models.switched.model import GraspClassifier, GraspClassifierConfig
from handhold.models.weights import save_weights
from handhold.scene import Batch
from handhold.training.build import changed
from handhold.training.config import TrainConfig
from handhold.training.measures import hand_measures
from handhold.training.tasks import Items, Measures, Task

CLASSIFIER = "grasp-classifier"


def processor_config(config: TrainConfig, chosen: Any, settings: Any) -> Any:
    """How samples become batches for a network of `settings`: `chosen` with the run's changes."""
    where = f"{config.model}, augmentation"
    changes: dict[str, Any] = {
        "augmentation": changed(chosen.augmentation, config.augmentation, where)
    }
    if config.pairs:
        changes["paired"] = True
    return dataclasses.replace(chosen, **changes).fitted(settings)


def hand_task(config: TrainConfig) -> Task:
    """The Task of a method of the registry.

    With `pairs`, both images of a pair go through the network, one after the other. Raises
    InputError for unknown names and fields, and for pairs with a method that has none.
    """
    if config.model not in MODELS:
        known = ["hand-detector", "hand-detr", *MODELS, *PHOTO_MODELS, CLASSIFIER, "handbooster"]
        names = ", ".join(known)
        raise InputError(f"TrainConfig.model: {config.model!r} cannot be trained; known: {names}")
    told: ModelEntry = MODELS[config.model]
    settings = changed(told.config(), config.network, f"{config.model}, network")
    weights = changed(told.loss_config(), config.loss, f"{config.model}, loss")
    if config.pairs and not hasattr(told.network, "forward_pair"):
        raise InputError(f"TrainConfig.pairs: {config.model} does not train on pairs")
    hand = HandModel.load(Path(config.mano) if config.mano else None, "right")
    network: Any = told.network(settings, hand)
    prepared = processor_config(config, told.trained_on(config.preparation), settings)
    processor = make_processor(prepared, settings, hand)

    two_views = bool(getattr(weights, "two_views", False))
    if two_views and not config.augment:
        raise InputError(f"{config.model}, loss: two views of a photo need augment")
    if two_views and getattr(settings, "mano_center", None) != 0:
        raise InputError(
            f"{config.model}, loss: views are compared about the wrist; expected the network's "
            f"mano_center 0, found {getattr(settings, 'mano_center', None)}"
        )

    def encode(items: Items, rng: np.random.Generator | None) -> Batch:
        twice = two_views and rng is not None  # validation looks at each photo once
        return processor.encode([*items, *items] if twice else items, rng)

    def losses(network: Any, batch: Batch) -> dict[str, Tensor]:
        batch = told.targets(network, batch)
        more: dict[str, Any] = {}
        if config.pairs:
            first, more["second"] = network.forward_pair(batch)
        else:
            first = network(batch)
        with torch.autocast(batch.image.device.type, enabled=False):
            return told.loss(first, batch, weights, **more)

    def measures(network: Any, batch: Batch) -> Measures:
        return hand_measures(network(batch), told.targets(network, batch))

    def save(path: Path, network: nn.Module, extra: dict[str, str]) -> None:
        known = {"processor": dataclasses.asdict(prepared)}
        save_weights(path, network, model=config.model, extra=extra | known)

    return Task(
        name=config.model,
        network=network,
        encode=encode,
        losses=losses,
        measures=measures,
        save=save,
        prepare=told.prepare,
        skip=told.unused_labels,
        needs=("side",),
        uses=(*told.uses, "bare") if config.pairs else told.uses,
    )


def classifier_task(config: TrainConfig) -> Task:
    """The grasp classifier of the pairs "A + B"."""
    settings = changed(GraspClassifierConfig(), config.network, f"{CLASSIFIER}, network")
    weights = changed(grasp_loss.GraspLossConfig(), config.loss, f"{CLASSIFIER}, loss")
    if config.pairs:
        raise InputError(f"TrainConfig.pairs: {CLASSIFIER} does not train on pairs")
    chosen = HopeProcessorConfig.trained_on(config.preparation)
    prepared = processor_config(config, chosen, settings)

    def losses(network: Any, batch: Batch) -> dict[str, Tensor]:
        prediction = network(batch)
        with torch.autocast(batch.image.device.type, enabled=False):
            return grasp_loss.loss(prediction, batch, weights)

    def measures(network: Any, batch: Batch) -> Measures:
        return hand_measures(network(batch), batch)

    def save(path: Path, network: nn.Module, extra: dict[str, str]) -> None:
        known = {"processor": dataclasses.asdict(prepared)}
        save_weights(path, network, model=CLASSIFIER, extra=extra | known)

    return Task(
        name=CLASSIFIER,
        network=GraspClassifier(settings),
        encode=make_processor(prepared, settings).encode,
        losses=losses,
        measures=measures,
        save=save,
        skip=ModelEntry.unused_labels,
        needs=("side", "grasp"),
    )
