"""The methods: one literal dictionary, and how to get a network with its processor from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from handhold.errors import InputError, WeightsError
from handhold.hand.model import HandModel
from handhold.models.hflnet import processor as hflnet_processor
from handhold.models.hflnet.model import HFLNet, HFLNetConfig
from handhold.models.nn.hope_augmentation import Augmentation
from handhold.models.nn.hope_processor import HopeProcessor, HopeProcessorConfig
from handhold.models.unihope import processor as unihope_processor
from handhold.models.unihope.model import UniHOPE, UniHOPEConfig
from handhold.models.weights import WeightsFile, fit, make_config, read_weights
from handhold.objects.catalogue import YCB
from handhold.objects.control_points import control_points_of_box


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A method.

    network, config: the module's class and default configuration; processor: what it eats.
    parameters: of the default configuration. paper_config: what the paper's sizes
    (paper_parameters; paper_gmacs by the paper's counting) belong to. imports: our own command can
    import the authors' checkpoints.
    """

    summary: str
    paper: str
    licence: str
    network: type[nn.Module]
    config: Callable[[], Any]
    processor: Callable[[], HopeProcessorConfig]
    parameters: int
    paper_config: Callable[[], Any] | None = None
    paper_parameters: int | None = None
    paper_gmacs: float | None = None
    imports: bool = False


_HFLNET = "Lin et al., Harmonious Feature Learning for Interactive Hand-Object Pose, CVPR 2023"
_UNIHOPE = "Wang et al., UniHOPE: A Unified Approach for Hand-Only and Hand-Object Pose, CVPR 2025"
_OURS = "Apache-2.0"

MODELS: dict[str, ModelEntry] = {
    "hflnet": ModelEntry(
        summary="hand and held object, two streams that attend to each other; ResNet-50",
        paper=_HFLNET,
        licence="original code and weights: no licence given (parts GPL-3.0); this code Apache-2.0",
        network=HFLNet,
        config=HFLNetConfig,
        processor=hflnet_processor.original,
        parameters=46_080_659,
        paper_config=lambda: HFLNetConfig(input_size=128),
        paper_parameters=46_080_659,
        paper_gmacs=10.01,
        imports=True,
    ),
    "hflnet-small": ModelEntry(
        summary="HFL-Net's structure for processors",
        paper=_HFLNET,
        licence=_OURS,
        network=HFLNet,
        config=HFLNetConfig.small,
        processor=lambda: HopeProcessorConfig.deployable(128),
        parameters=4_774_840,
    ),
    "unihope": ModelEntry(
        summary="hands with and without object: HFL-Net with an object switch; ResNet-50",
        paper=_UNIHOPE,
        licence="original code and weights: no licence given (parts GPL-3.0); this code Apache-2.0",
        network=UniHOPE,
        config=UniHOPEConfig,
        processor=unihope_processor.official,
        parameters=57_127_703,
        paper_config=lambda: UniHOPEConfig(adaptation="none"),
        paper_parameters=46_375_703,
        paper_gmacs=10.04,
        imports=True,
    ),
    "unihope-small": ModelEntry(
        summary="UniHOPE's structure for processors, with an object classifier",
        paper=_UNIHOPE,
        licence=_OURS,
        network=UniHOPE,
        config=UniHOPEConfig.small,
        processor=unihope_processor.small,
        parameters=4_950_860,
    ),
}


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A network in eval mode and the processor that belongs to it.

    extra: what the weights file tells besides (training, measurements); empty without weights.
    """

    name: str
    network: Any
    processor: HopeProcessor
    config: Any
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


def list_models() -> list[str]:
    """Names that `load_model` and `build_model` accept."""
    return list(MODELS)


def entry(name: str) -> ModelEntry:
    """The method's entry; InputError lists the known names."""
    if name not in MODELS:
        raise InputError(f"model: expected one of {', '.join(MODELS)}, found {name!r}")
    return MODELS[name]


def shipped_weights(name: str) -> Path | None:
    """The weights file that comes with the package, None where there is none."""
    path = Path(str(resources.files("handhold") / "weights" / f"{name}.safetensors"))
    return path if path.is_file() else None


def build_model(
    name: str, *, config: Any = None, hand: HandModel | None = None, seed: int = 0
) -> LoadedModel:
    """The method with fresh weights drawn from `seed` (the global generator is left alone).

    config: instead of the default one. hand: None for the free hand.
    """
    told = entry(name)
    config = told.config() if config is None else config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = told.network(config, hand)
    processor = make_processor(told.processor(), config)
    return LoadedModel(name=name, network=network.eval(), processor=processor, config=config)


def load_model(
    name: str,
    weights: str | Path | None = None,
    mano: str | Path | None = None,
) -> LoadedModel:
    """The method with its weights.

    weights: a file of `save_weights`, whose configuration is used; None for those that come with
    the package. mano: folder or file with MANO's own hand; None looks at HANDHOLD_MANO, else takes
    the free hand. Raises InputError for unknown names, WeightsError where there are no weights or
    they do not fit, MissingFileError.
    """
    told = entry(name)
    path = shipped_weights(name) if weights is None else Path(weights)
    if path is None:
        way = (
            f"import the authors' with `handhold weights import {name}`"
            if told.imports
            else f"train them with `handhold train {name}`"
        )
        raise WeightsError(
            f"{name}: no weights come with this installation; {way} and give the file (weights)"
        )
    file = read_weights(path)
    if file.model != name:
        raise WeightsError(f"{path}: expected weights of {name}, found those of {file.model}")
    config = make_config(type(told.config()), file.config, str(path))
    loaded = build_model(name, config=config, hand=HandModel.load(mano, "right"))
    fit(loaded.network, file.entries, str(path))
    processor = make_processor(_processor_config(told, file, config, str(path)), config)
    return dataclasses.replace(loaded, processor=processor, extra=file.extra)


def make_processor(settings: HopeProcessorConfig, config: Any) -> HopeProcessor:
    """The processor for a network's input size and object classes (the first of the catalogue)."""
    classes = {item.name: number for number, item in enumerate(YCB[: config.object_classes])}
    points = {
        item.name: control_points_of_box(
            item.box_centre - item.extent / 2, item.box_centre + item.extent / 2
        )
        for item in YCB
    }
    settings = dataclasses.replace(settings, input_size=config.input_size)
    return HopeProcessor(settings, object_classes=classes, control_points=points)


def _processor_config(
    told: ModelEntry, file: WeightsFile, config: Any, where: str
) -> HopeProcessorConfig:
    stored = file.extra.get("processor")
    if stored is None:
        return told.processor()
    if not isinstance(stored, dict) or not isinstance(stored.get("augmentation", {}), dict):
        raise WeightsError(f"{where}: processor in its header must be a JSON object")
    fields = dict(stored)
    if "augmentation" in fields:
        fields["augmentation"] = make_config(Augmentation, fields["augmentation"], where)
    made = make_config(HopeProcessorConfig, fields, where)
    if made.input_size != config.input_size:
        raise WeightsError(
            f"{where}: its processor makes crops of {made.input_size} pixels, its network takes "
            f"{config.input_size}"
        )
    return made
