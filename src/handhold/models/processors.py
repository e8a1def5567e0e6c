"""Which processor belongs to a method: the class of its configuration decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from handhold.errors import InputError, WeightsError
from handhold.hand.model import HandModel
from handhold.models.hoisdf.processor import HoisdfProcessor, HoisdfProcessorConfig
from handhold.models.keypoint_transformer.processor import (
    KeypointProcessor,
    KeypointProcessorConfig,
)
from handhold.models.nn.hope_config import HopeProcessorConfig
from handhold.models.nn.hope_processor import HopeProcessor
from handhold.models.weights import WeightsFile, make_config
from handhold.objects.catalogue import YCB
from handhold.objects.control_points import control_points_of_box
from handhold.scene import Batch, Camera, Hand, Prediction, RigidObject, Sample, Side


class Processor(Protocol):
    """What every method's processor can do; `HopeProcessor` says it in full."""

    config: Any

    def encode(
        self, samples: Sequence[tuple[Sample, int]], rng: np.random.Generator | None = None
    ) -> Batch: ...

    def encode_boxes(
        self,
        image: NDArray[np.uint8],
        hand_boxes: Sequence[Any],
        sides: Sequence[Side],
        object_boxes: Sequence[Any | None] | None,
        camera: Camera,
        wrists: Sequence[Any | None] | None = None,
    ) -> Batch: ...

    def decode(
        self,
        prediction: Prediction,
        batch: Batch,
        cameras: Sequence[Camera],
        *,
        object_names: Sequence[str | None] | None = None,
    ) -> list[tuple[Hand, RigidObject | None]]: ...


def make_processor(
    settings: Any, config: Any, hand: HandModel | None = None, *, input_size: int | None = None
) -> Processor:
    """The processor that the class of `settings` asks for (PROCESSORS), for a network's input size
    (or the one given) and object classes (the first of the catalogue). hand: the network's right
    hand.
    """
    known = next((kind for kind in type(settings).__mro__ if kind in PROCESSORS), None)
    if known is None:
        raise InputError(f"processor: no processor takes a {type(settings).__name__}")
    count = getattr(config, "object_classes", 0)
    points = {
        item.name: control_points_of_box(
            item.box_centre - item.extent / 2, item.box_centre + item.extent / 2
        )
        for item in YCB
    }
    fitted = settings.fitted(config)
    if input_size is not None:
        fitted = dataclasses.replace(fitted, input_size=input_size)
    return PROCESSORS[known](
        fitted,
        object_classes={item.name: number for number, item in enumerate(YCB[:count])},
        control_points=points,
        hand=hand,
    )


# class of a processor's configuration -> the processor, called with the configuration and the
# names object_classes, control_points and hand, as HopeProcessor is
PROCESSORS: Mapping[type, Callable[..., Processor]] = {
    HopeProcessorConfig: HopeProcessor,
    KeypointProcessorConfig: KeypointProcessor,
    HoisdfProcessorConfig: HoisdfProcessor,
}


def stored_settings(default: Any, file: WeightsFile, config: Any, where: str) -> Any:
    """The processor's configuration in a weights file, of the class of `default`; that itself where
    the file holds none. config: the network's, which must agree (None: a pair's). Raises
    WeightsError.
    """
    stored = file.extra.get("processor")
    if stored is None:
        return default
    if not isinstance(stored, dict):
        raise WeightsError(f"{where}: processor in its header must be a JSON object")
    fields = dict(stored)
    for name, value in stored.items():  # configurations inside, such as the augmentation
        own = getattr(default, name, None)
        if dataclasses.is_dataclass(own):
            if not isinstance(value, dict):
                raise WeightsError(f"{where}: processor.{name} in its header must be an object")
            fields[name] = make_config(type(own), value, where)
    made = make_config(type(default), fields, where)
    if config is not None and made.input_size != config.input_size:
        raise WeightsError(
            f"{where}: its processor makes crops of {made.input_size} pixels, its network takes "
            f"{config.input_size}"
        )
    return made
