"""Small HandOS networks and processors, and the prediction that says the labels."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from tests.models.photo_sample import photo
from torch import Tensor

from handhold.hand.model import HandModel
from handhold.hand.regressor import joint_regressor
from handhold.models.handos.batch import HandOSPrediction, PhotoBatch
from handhold.models.handos.camera import to_shares
from handhold.models.handos.config import HandOSConfig
from handhold.models.handos.mesh import face_pairs
from handhold.models.handos.model import HandOS
from handhold.models.handos.processor import (
    HandOSAugmentation,
    HandOSProcessor,
    HandOSProcessorConfig,
)
from handhold.models.handos.sides import normalised_volume

TINY: dict[str, Any] = {
    "detector": "boxes",
    "detector_options": {"width": 16},
    "input_size": 128,
    "width": 32,
    "feedforward": 64,
    "vertices": 49,
    "layers_2d": 1,
    "layers_mesh": 2,
    "side_width": 16,
    "side_hidden": 16,
}
STILL = HandOSAugmentation(flip=0, zoom=(1, 1), rotation_deg=0, distortion=0)


def tiny(**changes: Any) -> HandOSConfig:
    return dataclasses.replace(HandOSConfig.small(), **(TINY | changes))


def network_of(hand: HandModel, **changes: Any) -> HandOS:
    torch.manual_seed(0)
    return HandOS(tiny(**changes), hand)


def processor_of(hand: HandModel, **changes: Any) -> HandOSProcessor:
    return HandOSProcessor(HandOSProcessorConfig(**changes).fitted(tiny()), hand)


def perfect(batch: PhotoBatch, hand: HandModel, truth: list[Tensor], layers: int = 2) -> Any:
    """The prediction that says the labels; truth: wrists in the camera frame."""
    assert batch.owner is not None and batch.boxes is not None and batch.joints2d is not None
    assert batch.vertices is not None and batch.joints is not None
    size = batch.valid_size[batch.owner]
    count = len(batch.owner)
    wrists = torch.stack(truth).float()
    zero = torch.zeros(())
    return HandOSPrediction(
        image=batch.owner,
        target=torch.arange(count),
        scores=torch.linspace(0.9, 0.5, count),
        boxes=batch.boxes,
        joints2d=to_shares(batch.joints2d, size)[:, None].expand(-1, layers, -1, -1),
        faces=hand.faces,
        face_pairs=face_pairs(hand.faces),
        anchor=zero,
        drift=zero,
        vertices=batch.vertices[:, None].expand(-1, layers, -1, -1),
        joints=batch.joints[:, None].expand(-1, layers, -1, -1),
        translation=wrists[:, None].expand(-1, layers, -1),
        volume=normalised_volume(batch.vertices, hand.faces),
    )


def wrists(hand: HandModel, *seeds: int) -> list[Tensor]:
    regressor = torch.from_numpy(joint_regressor(hand)).double()
    photos = [photo(hand, seed) for seed in seeds]
    return [
        (regressor @ torch.from_numpy(one.vertices).double())[0]
        for sample in photos
        for one in sample.hands
        if one.vertices is not None
    ]
