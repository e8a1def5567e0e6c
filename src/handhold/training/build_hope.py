"""HFL-Net, UniHOPE and their small versions as Tasks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.hand.model import HandModel
from handhold.models.hflnet import loss as hflnet_loss
from handhold.models.hflnet.model import HFLNet, HFLNetConfig
from handhold.models.nn.hope_augmentation import Augmentation
from handhold.models.nn.hope_losses import with_hand_targets
from handhold.models.nn.hope_processor import HopeProcessor, HopeProcessorConfig
from handhold.models.unihope import loss as unihope_loss
from handhold.models.unihope.model import UniHOPE, UniHOPEConfig
from handhold.models.weights import save_weights
from handhold.objects.catalogue import YCB_NAMES
from handhold.scene import Batch
from handhold.training.config import TrainConfig
from handhold.training.measures import hand_measures
from handhold.training.tasks import Measures, Task

SKIP = frozenset({"hand_mask", "hand_mask_amodal", "depth"})


@dataclass(frozen=True, kw_only=True)
class _Method:
    network: type[nn.Module]
    config: HFLNetConfig
    loss: hflnet_loss.HFLNetLossConfig


METHODS = {
    "hflnet": lambda: _Method(
        network=HFLNet, config=HFLNetConfig(), loss=hflnet_loss.HFLNetLossConfig()
    ),
    "hflnet-small": lambda: _Method(
        network=HFLNet, config=HFLNetConfig.small(), loss=hflnet_loss.HFLNetLossConfig.small()
    ),
    "unihope": lambda: _Method(
        network=UniHOPE, config=UniHOPEConfig(), loss=unihope_loss.UniHOPELossConfig()
    ),
    "unihope-small": lambda: _Method(
        network=UniHOPE, config=UniHOPEConfig.small(), loss=unihope_loss.UniHOPELossConfig.small()
    ),
}


def _changed(base: Any, changes: dict[str, Any], where: str) -> Any:
    try:
        return dataclasses.replace(base, **changes)
    except TypeError as error:
        raise InputError(f"{where}: {error}") from error


def processor_config(config: TrainConfig, input_size: int) -> HopeProcessorConfig:
    """How samples become batches: the sound way, or the original authors' for a dataset."""
    if config.preparation == "deployable":
        chosen = HopeProcessorConfig.deployable(input_size, paired=config.pairs)
    else:
        ho3d = config.preparation == "ho3d"
        chosen = HopeProcessorConfig(
            input_size=input_size,
            augmentation=Augmentation.ho3d() if ho3d else Augmentation.dexycb(),
            occlusion_threshold=0.8 if ho3d else 0.9,
            paired=config.pairs,
        )
    where = f"{config.model}, augmentation"
    return dataclasses.replace(
        chosen, augmentation=_changed(chosen.augmentation, config.augmentation, where)
    )


def hope_task(config: TrainConfig) -> Task:
    """The Task of one of METHODS.

    With `pairs`, both images of a pair go through the network, one after the other. Raises
    InputError for unknown names and fields, and for pairs with HFL-Net, which has none.
    """
    if config.model not in METHODS:
        names = ", ".join(["hand-detector", *METHODS])
        raise InputError(f"TrainConfig.model: {config.model!r} cannot be trained; known: {names}")
    method = METHODS[config.model]()
    settings = _changed(method.config, config.network, f"{config.model}, network")
    weights = _changed(method.loss, config.loss, f"{config.model}, loss")
    if config.pairs and method.network is not UniHOPE:
        raise InputError(f"TrainConfig.pairs: {config.model} does not train on pairs")
    hand = HandModel.load(Path(config.mano) if config.mano else None, "right")
    network: Any = method.network(settings, hand)
    prepared = processor_config(config, settings.input_size)
    classes = YCB_NAMES[: settings.object_classes]
    processor = HopeProcessor(
        prepared, object_classes={name: number for number, name in enumerate(classes)}
    )

    def targets(network: Any, batch: Batch) -> Batch:
        return with_hand_targets(batch, network.hand, settings.mano_center)

    def losses(network: Any, batch: Batch) -> dict[str, Tensor]:
        batch = targets(network, batch)
        first, second = network.forward_pair(batch) if config.pairs else (network(batch), None)
        with torch.autocast(batch.image.device.type, enabled=False):
            if isinstance(weights, unihope_loss.UniHOPELossConfig):
                return unihope_loss.loss(first, batch, weights, second=second)
            return hflnet_loss.loss(first, batch, weights)

    def measures(network: Any, batch: Batch) -> Measures:
        return hand_measures(network(batch), targets(network, batch))

    def save(path: Path, network: nn.Module, extra: dict[str, str]) -> None:
        known = {"processor": dataclasses.asdict(prepared)}
        save_weights(path, network, model=config.model, extra=extra | known)

    return Task(
        name=config.model,
        network=network,
        encode=processor.encode,
        losses=losses,
        measures=measures,
        save=save,
        skip=SKIP,
    )
