"""From a method's name to its network with weights and processor."""

from __future__ import annotations

import dataclasses
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from handhold.errors import WeightsError
from handhold.hand.model import HandModel
from handhold.models.entry import LoadedModel
from handhold.models.processors import make_processor, stored_settings
from handhold.models.registry import entry
from handhold.models.switched import pair
from handhold.models.trained_hand import check_hand
from handhold.models.weights import WeightsFile, fit, make_config, read_weights

TRAIN = "train them with `handhold train"


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
    hand_inside: Any = network.hand
    processor = make_processor(told.processor(), config, hand_inside)
    return LoadedModel(name=name, network=network.eval(), processor=processor, config=config)


def weights_of(name: str, weights: str | Path | None, way: str) -> tuple[Path, WeightsFile]:
    """The weights of a method: of the file given, else those that come with the package.

    way: the beginning of a command, told to whom has none. Raises WeightsError where there are none
    or they are another method's, and what reading raises.
    """
    path = shipped_weights(name) if weights is None else Path(weights)
    if path is None:
        raise WeightsError(
            f"{name}: no weights come with this installation; {way} {name}` and give the file "
            "(weights)"
        )
    file = read_weights(path)
    if file.model != name:
        raise WeightsError(f"{path}: expected weights of {name}, found those of {file.model}")
    return path, file


def load_model(
    name: str,
    weights: str | Path | None = None,
    mano: str | Path | None = None,
) -> LoadedModel:
    """The method with its weights.

    weights: a file of `save_weights`, whose configuration is used; None for those that come with
    the package. mano: folder or file with MANO's own hand; None looks at HANDHOLD_MANO, else takes
    the free hand. It must be the hand that the weights were trained with where the method gives
    vertices directly, as far as the file tells (those of earlier releases do not); elsewhere
    another one warns. The name "switched" stands for the pair of a file of `handhold weights pair`.
    Raises InputError for unknown names, WeightsError where there are no weights or they do not fit
    the network or the hand, MissingFileError.
    """
    if name == pair.NAME:
        return _load_pair(weights, mano)
    told = entry(name)
    imports = told.importer is not None
    way = "import the authors' with `handhold weights import" if imports else TRAIN
    path, file = weights_of(name, weights, way)
    config = make_config(type(told.config()), file.config, str(path))
    hand = HandModel.load(mano, "right")
    loaded = build_model(name, config=config, hand=hand)
    check_hand(file.hand, loaded.network, hand, str(path))
    fit(loaded.network, file.entries, str(path))
    settings = stored_settings(told.processor(), file, config, str(path))
    processor = make_processor(settings, config, loaded.network.hand)
    return dataclasses.replace(loaded, processor=processor, extra=file.extra)


def _load_pair(weights: str | Path | None, mano: str | Path | None) -> LoadedModel:
    if weights is None:
        raise WeightsError(
            "switched: a pair has no weights of its own; make them of three files with `handhold "
            "weights pair` and give that file (weights)"
        )
    where = str(weights)
    file = read_weights(weights)
    hand = HandModel.load(mano, "right")

    def make(name: str, fields: dict[str, Any], hand: HandModel, where: str) -> torch.nn.Module:
        told = entry(name)
        return told.network(make_config(type(told.config()), fields, where), hand)

    network = pair.build(file, hand, where, make)
    second = entry(file.config["hand_object"]["model"])
    config: Any = network.hand_object.config
    settings = stored_settings(second.processor(), file, None, where)
    processor = make_processor(settings, config, hand, input_size=pair.crop_size(network))
    told: dict[str, Any] = {"config": network.config, "extra": file.extra}
    return LoadedModel(name=pair.NAME, network=network, processor=processor, **told)
