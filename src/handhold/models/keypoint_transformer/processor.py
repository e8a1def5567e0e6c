"""What Keypoint Transformer eats, and its hands and objects in the photo.

The shared HOPE processor with a crop, an augmentation and labels of its own. Beside the photo the
method is told the crop alone: a box of the hand, and of the object where one is known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import torch

from handhold.errors import InputError
from handhold.geometry import boxes
from handhold.models.keypoint_transformer.batch import KeypointBatch
from handhold.models.nn import posed_objects
from handhold.models.nn.hope_augmentation import Augmentation
from handhold.models.nn.hope_config import HopeProcessorConfig
from handhold.models.nn.hope_decoding import turn_of
from handhold.models.nn.hope_processor import HopeProcessor
from handhold.models.nn.hope_targets import Array, Item, View
from handhold.objects.catalogue import info
from handhold.scene import Camera, Hand, Prediction, RigidObject, Sample


def original_augmentation() -> Augmentation:
    """As in the released code: the crop moves, grows, turns; each colour has its factor."""
    return Augmentation(
        centre_jitter=0.15,
        scale_sigma=0.25,
        rotation="normal",
        rotation_deg=45.0,
        rotation_chance=0.6,
        blur_px=0.0,
        brightness=0.0,
        contrast=0.0,
        saturation=0.0,
        hue=0.0,
        channel_gain=0.2,
    )


@dataclass(frozen=True, kw_only=True)
class KeypointProcessorConfig(HopeProcessorConfig):
    """What Keypoint Transformer eats. The defaults are its own for HO-3D.

    The crop is the square around the tight box of hand and object, grown by `margin_px` on each
    side, times crop_factor. Of the inherited fields hand_factor, object_factor and mask_size fill
    boxes and a mask that this network does not read. objects: "grasped" decodes one where the
    network sees a key point of it.
    """

    input_size: int = 256
    crop_factor: float = 1.25
    margin_px: float = 10.0  # photo pixels
    crop_rule: Literal["label", "boxes", "hand"] = "boxes"
    truncate_centres: bool = False
    clip_to_image: bool = False
    interpolation: Literal["nearest", "bilinear"] = "bilinear"
    augmentation: Augmentation = field(default_factory=original_augmentation)
    # where the network's joints, and the object's labels, have their origin: the hand model's
    # (joints from angles) or the wrist (from vectors)
    origin: Literal["model", "wrist"] = "model"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.margin_px < 1e4:
            raise InputError(f"KeypointProcessorConfig.margin_px: found {self.margin_px}")
        if self.origin not in ("model", "wrist"):
            raise InputError(
                f"KeypointProcessorConfig.origin: model or wrist expected: {self.origin!r}"
            )

    @classmethod
    def trained_on(cls, preparation: str) -> KeypointProcessorConfig:
        """For a training's `preparation`: "deployable", or the original's (for either data set)."""
        if preparation != "deployable":
            return cls()
        return cls.deployable(256)

    def fitted(self, config: Any) -> Self:
        """The same for a network's input size and origin."""
        origin = "model" if config.mano_center is None else "wrist"
        return dataclasses.replace(self, input_size=config.input_size, origin=origin)


class KeypointProcessor(HopeProcessor):
    """Sample -> KeypointBatch and Prediction -> hands and objects, by one `config`."""

    config: KeypointProcessorConfig
    defaults = KeypointProcessorConfig
    batch = KeypointBatch

    def _square(self, item: Item, shift: Array) -> tuple[Array, float]:
        config = self.config
        tight = self._box(item.hand_points, 1.0, shift[0])
        centre, side = self._grown(tight)
        if item.with_object and item.object_points is not None:
            both = boxes.union(tight, self._box(item.object_points, 1.0, shift[1]))
            wide_centre, wide_side = self._grown(both)
            if config.largest_crop is None or wide_side <= config.largest_crop * side:
                centre, side = wide_centre, wide_side
        return centre, side

    def _grown(self, box: Array) -> tuple[Array, float]:
        side = float((box[2:] - box[:2]).max()) + 2 * self.config.margin_px
        return (box[:2] + box[2:]) / 2, max(side * self.config.crop_factor, 4.0)

    def _own_fields(
        self,
        item: Item,
        view: View,
        row: dict[str, Any],
        labels: tuple[Sample, Hand] | None,
        rng: np.random.Generator | None,
    ) -> dict[str, Any]:
        if labels is None:
            return {}
        sample, hand = labels
        maps = posed_objects.pixel_maps(sample, item, view, self.config.input_size)
        found = {
            "object_map": maps["object"],
            "object_rotation": np.eye(3),
            "object_translation": np.zeros(3),
            "object_corners": np.zeros((8, 3)),
            "object_corners2d": np.zeros((8, 2)),
            "object_number": -1,
        }
        thing, origin = sample.object, self._origin(hand, row["root"], item.mirrored)
        points = None if thing is None else self._model_points(thing)
        if thing is None or points is None or origin is None or not posed_objects.own_frame(thing):
            return found
        rotation, translation = posed_objects.into_crop(
            thing.rotation, thing.translation, view.angle, item.mirrored
        )
        corners = points[:8] * (posed_objects.FLIP if item.mirrored else 1.0)
        pixels = (corners @ rotation.T + translation) @ row["intrinsics"].T
        if pixels[:, 2].min() <= 1e-3:
            return found
        return found | {
            "object_rotation": rotation,
            "object_translation": translation - origin,
            "object_corners": corners,
            "object_corners2d": pixels[:, :2] / pixels[:, 2:],
            "object_number": info(str(thing.name)).ycb_number,
        }

    def _origin(self, hand: Hand, wrist: Array, mirrored: bool) -> Array | None:
        """The joints' origin (3,) in the crop's camera frame, whose wrist is `wrist`; None where
        the hand's label does not tell."""
        if hand.joints is None:
            return None
        if self.config.origin == "wrist":
            return wrist
        # a turn of the hand turns it about its wrist, which stays where the model has it
        if hand.translation is not None:
            rest = np.asarray(hand.joints[0] - hand.translation, np.float64)
            return wrist - (rest * posed_objects.FLIP if mirrored else rest)
        if hand.betas is None or self.hand is None:
            return None
        betas = torch.from_numpy(np.asarray(hand.betas, np.float32))
        with torch.no_grad():
            rest = self.hand(torch.zeros(16, 3), betas).joints[0]
        return wrist - rest.double().cpu().numpy()

    def _model_points(self, thing: RigidObject) -> Array | None:
        if thing.control_points is not None:
            return np.asarray(thing.control_points, np.float64)
        return self.control_points.get(thing.name or "")

    def decode(
        self,
        prediction: Prediction,
        batch: Any,
        cameras: Sequence[Camera],
        *,
        object_names: Sequence[str | None] | None = None,
    ) -> list[tuple[Hand, RigidObject | None]]:
        """See `HopeProcessor.decode`. The object's pose needs no name; with one it has its control
        points and box. The nearest rotation stands for a matrix that is none.
        """
        found = super().decode(prediction, batch, cameras, object_names=object_names)
        seen = self._seen(prediction)
        result: list[tuple[Hand, RigidObject | None]] = []
        for i, (hand, _) in enumerate(found):
            thing = None
            if seen[i] and hand.joints is not None:
                name = None if object_names is None else object_names[i]
                thing = self._object(prediction, i, batch, cameras[i], name, hand)
            result.append((hand, thing))
        return result

    def _seen(self, prediction: Prediction) -> list[bool]:
        """Which crops get an object."""
        features, count = prediction.features, len(prediction.joints)
        if self.config.objects == "none" or "object_rotation" not in features:
            return [False] * count
        if self.config.objects == "all" or "tokens_label" not in features:
            return [True] * count
        last = features["token_logits"].shape[-1] - 1
        return (features["tokens_label"] == last).any(dim=1).cpu().tolist()

    def _object(
        self,
        prediction: Prediction,
        i: int,
        batch: Any,
        camera: Camera,
        name: str | None,
        hand: Hand,
    ) -> RigidObject:
        mirrored = bool(batch.mirrored[i])
        turn = turn_of(batch.crop[i].double().cpu().numpy(), mirrored)
        told = [
            value.detach().double().cpu().numpy()
            for value in (
                prediction.features["object_rotation"][i],
                prediction.features["object_translation"][i] - prediction.joints[i, 0],
            )
        ]
        rotation = posed_objects.nearest_rotation(told[0])
        rotation, from_wrist = posed_objects.out_of_crop(rotation, told[1], turn, mirrored)
        wrist = np.zeros(3) if hand.joints is None else hand.joints[0]
        points = None if name is None else self.control_points.get(name)
        return posed_objects.placed_object(rotation, wrist + from_wrist, camera, name, points, hand)
