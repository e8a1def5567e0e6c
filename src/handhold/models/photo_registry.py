"""The methods that see whole photos, all hands at once: one literal dictionary, as `registry` has
one for those that see crops."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.hand.model import HandModel
from handhold.models.handos.config import HandOSConfig
from handhold.models.handos.detectors import FrozenDetector
from handhold.models.handos.loss import HandOSLossConfig, loss
from handhold.models.handos.model import HandOS
from handhold.models.handos.processor import HandOSProcessor, HandOSProcessorConfig
from handhold.models.handos.shipped import put_back_detector
from handhold.models.loading import TRAIN, weights_of
from handhold.models.processors import stored_settings
from handhold.models.trained_hand import check_hand
from handhold.models.weights import fit, make_config

_HANDOS = "Chen et al., HandOS: 3D Hand Reconstruction in One Stage, CVPR 2025"
_OURS = "original code and weights: none published; this code Apache-2.0"


@dataclass(frozen=True, kw_only=True)
class PhotoEntry:
    """A method. network, config, processor, loss, loss_config: as in `ModelEntry`. parameters: of
    what learns, on the detector that the configuration names."""

    summary: str
    paper: str
    licence: str
    network: Callable[..., nn.Module]
    config: Callable[[], Any]
    processor: Callable[[], Any]
    loss: Callable[..., dict[str, Tensor]]
    loss_config: Callable[[], Any]
    parameters: int


@dataclass(frozen=True, kw_only=True)
class LoadedPhotoModel:
    """A network in eval mode and the processor that belongs to it; see `LoadedModel`."""

    name: str
    network: Any
    processor: HandOSProcessor
    config: Any
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


def _small_processor() -> HandOSProcessorConfig:
    return HandOSProcessorConfig(multiple=32)


PHOTO_MODELS: dict[str, PhotoEntry] = {
    "handos-paper": PhotoEntry(
        summary="every hand of a photo in one stage, on a frozen detector; 512 wide",
        paper=_HANDOS,
        licence=_OURS,
        network=HandOS,
        config=HandOSConfig.paper,
        processor=HandOSProcessorConfig,
        loss=loss,
        loss_config=HandOSLossConfig,
        parameters=40_922_471,
    ),
    "handos-base": PhotoEntry(
        summary="the same, 256 wide",
        paper=_HANDOS,
        licence=_OURS,
        network=HandOS,
        config=HandOSConfig.base,
        processor=HandOSProcessorConfig,
        loss=loss,
        loss_config=HandOSLossConfig,
        parameters=19_374_951,
    ),
    "handos-small": PhotoEntry(
        summary="the same for processors: shipped detector, 195 vertices, learned upsampling",
        paper=_HANDOS,
        licence=_OURS,
        network=HandOS,
        config=HandOSConfig.small,
        processor=_small_processor,
        loss=loss,
        loss_config=HandOSLossConfig,
        parameters=1_801_160,
    ),
}


def photo_entry(name: str) -> PhotoEntry:
    """The method's entry; InputError lists the known names."""
    if name not in PHOTO_MODELS:
        raise InputError(f"model: expected one of {', '.join(PHOTO_MODELS)}, found {name!r}")
    return PHOTO_MODELS[name]


def build_photo_model(
    name: str,
    *,
    config: Any = None,
    hand: HandModel | None = None,
    detector: FrozenDetector | None = None,
    seed: int = 0,
) -> LoadedPhotoModel:
    """The method with fresh weights drawn from `seed` (the global generator is left alone).

    config: instead of the default one. hand: None for the free hand. detector: instead of the one
    that the configuration names.
    """
    told = photo_entry(name)
    config = told.config() if config is None else config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: Any = told.network(config, hand, detector)
    processor = HandOSProcessor(told.processor().fitted(config), network.hand)
    return LoadedPhotoModel(name=name, network=network.eval(), processor=processor, config=config)


def load_photo_model(
    name: str, weights: str | Path | None = None, mano: str | Path | None = None
) -> LoadedPhotoModel:
    """The method with its weights, detector included; see `registry.load_model`.

    Raises InputError for unknown names, WeightsError where there are no weights or they do not fit
    the network or the hand, MissingFileError.
    """
    told = photo_entry(name)
    path, file = weights_of(name, weights, TRAIN)
    config = make_config(type(told.config()), file.config, str(path))
    hand = HandModel.load(mano, "right")
    loaded = build_photo_model(name, config=config, hand=hand)
    check_hand(file.hand, loaded.network, hand, str(path))
    fit(loaded.network, put_back_detector(file, str(path)), str(path))
    settings = stored_settings(told.processor().fitted(config), file, config, str(path))
    processor = HandOSProcessor(settings, hand)
    return dataclasses.replace(loaded, processor=processor, extra=file.extra)
