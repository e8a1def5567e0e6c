"""A pair "A + B" as one weights file: two methods' weights and the grasp classifier's.

The file's model is "switched"; its configuration holds, for `hand_only` and `hand_object`, the
method's name and configuration, and those of the classifier and of the switch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from handhold.errors import WeightsError
from handhold.hand.model import HandModel
from handhold.models.switched.model import (
    GraspClassifier,
    GraspClassifierConfig,
    Switched,
    SwitchedConfig,
)
from handhold.models.trained_hand import check_hand
from handhold.models.weights import WeightsFile, fit, make_config, read_weights, write_weights

NAME = "switched"
CLASSIFIER = "grasp-classifier"
_HANDS = ("hand_only", "hand_object")
# method's name, its configuration's fields, the hand, the file's name -> the network
Make = Callable[[str, Any, HandModel, str], nn.Module]


def join(
    hand_only: str | Path,
    hand_object: str | Path,
    classifier: str | Path,
    out: str | Path,
    *,
    config: SwitchedConfig | None = None,
) -> Path:
    """Write the pair of three weights files and return the path.

    The crops are the hand-object method's, as large as the largest that one of the three takes.
    Raises MissingFileError, WeightsError where a file holds something else, and where the two
    methods were trained with different hand models.
    """
    files = {"hand_only": hand_only, "hand_object": hand_object, "classifier": classifier}
    found = {name: read_weights(path) for name, path in files.items()}
    for name, file in found.items():
        wrong = file.model == NAME or (name == "classifier") != (file.model == CLASSIFIER)
        if wrong:
            expected = CLASSIFIER if name == "classifier" else "a method that finds hands"
            raise WeightsError(
                f"{files[name]}: expected weights of {expected}, found those of {file.model}"
            )
    first, second = (found[name].hand for name in _HANDS)
    if first is not None and second is not None and not first.agrees(second):
        raise WeightsError(
            f"{hand_only}: trained with {first}, but {hand_object} with {second}; a pair needs "
            "weights of one hand model"
        )
    hand = first if first is not None and (second is None or first.sha256) else second
    told: dict[str, Any] = {
        name: {"model": found[name].model, "config": found[name].config} for name in _HANDS
    }
    told["classifier"] = found["classifier"].config
    told["switched"] = dataclasses.asdict(SwitchedConfig() if config is None else config)
    side = max(int(file.config.get("input_size", 0)) for file in found.values())
    extra: dict[str, Any] = {
        name: {"model": file.model} | file.extra.get("source", {}) for name, file in found.items()
    }
    processor = found["hand_object"].extra.get("processor")
    if isinstance(processor, dict):
        extra["processor"] = processor | {"input_size": side}
    entries = {
        f"{name}.{key}": value
        for name, file in found.items()
        for key, value in file.entries.items()
    }
    content = WeightsFile(model=NAME, config=told, extra=extra, entries=entries, hand=hand)
    return write_weights(out, content)


def build(file: WeightsFile, hand: HandModel, where: str, make: Make) -> Switched:
    """The pair of a file of `join`, with its weights, in eval mode.

    make: builds a method's network. Raises WeightsError for files that do not fit.
    """
    if file.model != NAME:
        raise WeightsError(f"{where}: expected weights of {NAME}, found those of {file.model}")
    try:
        hands = [
            make(file.config[n]["model"], file.config[n]["config"], hand, where) for n in _HANDS
        ]
        looks = make_config(GraspClassifierConfig, file.config["classifier"], where)
        settings = make_config(SwitchedConfig, file.config["switched"], where)
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{where}: its header describes no pair ({error!r})") from error
    network = Switched(hands[0], hands[1], GraspClassifier(looks), settings)
    check_hand(file.hand, network, hand, where)
    fit(network, file.entries, where)
    return network


def crop_size(network: Switched) -> int:
    """The side of the pair's crops: the largest that one of its networks takes."""
    parts: list[Any] = [network.hand_only, network.hand_object, network.classifier]
    return max(part.config.input_size for part in parts)
