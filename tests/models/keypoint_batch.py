"""Very small Keypoint Transformers and batches with all their labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from handhold.hand.model import HandModel
from handhold.models.keypoint_transformer.batch import KeypointBatch
from handhold.models.keypoint_transformer.model import (
    KeypointTransformer,
    KeypointTransformerConfig,
)
from handhold.scene import Batch

TINY = KeypointTransformerConfig(
    input_size=64,
    depths=(1, 1, 1, 1),
    widths=(8, 8, 16, 16),
    stem_width=8,
    pyramid_width=8,
    dim=32,
    heads=4,
    feedforward=64,
    encoder_layers=2,
    decoder_layers=2,
    dropout=0.0,
    code_width=8,
    appearance=(32,),
    object_appearance=(32,),
    count=25,
)
VECTORS = dataclasses.replace(TINY, output="vectors", decoder="big")
TINIES = {
    "angles": TINY,
    "vectors": VECTORS,
    "one hand": dataclasses.replace(TINY, two_hands=False),
    "one hand, vectors": dataclasses.replace(VECTORS, two_hands=False),
}


@dataclasses.dataclass(frozen=True)
class _Like:
    """What `make_batch` looks at."""

    input_size: int
    mano_center: int | None
    object_classes: int = 0


def labels_from(make_batch: Callable[..., Batch]) -> Callable[..., KeypointBatch]:
    """make_labels(config, count): all labels, a disc for the object, objects 3 and 10."""

    def make(config: KeypointTransformerConfig, count: int = 2) -> KeypointBatch:
        plain = make_batch(_Like(config.input_size, config.mano_center), count)
        draw = torch.Generator().manual_seed(1)
        line = torch.arange(config.map_size)
        disc = ((line[:, None] - 20) ** 2 + (line - 12) ** 2 <= 36).float()
        sign = torch.tensor([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1.0, 1)])
        turn = torch.linalg.qr(torch.randn(count, 3, 3, generator=draw)).Q
        turn = turn * torch.linalg.det(turn)[:, None, None]
        return KeypointBatch(
            **{f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)},
            object_map=disc.expand(count, -1, -1),
            object_rotation=turn,
            object_translation=0.1 * torch.randn(count, 3, generator=draw),
            object_corners=(sign * torch.tensor([0.05, 0.08, 0.1])).expand(count, 8, 3),
            object_corners2d=config.input_size * torch.rand(count, 8, 2, generator=draw),
            object_number=torch.where(torch.arange(count) % 2 == 0, 3, 10),
        )

    return make


def tiny_network(config: KeypointTransformerConfig, hand: HandModel) -> KeypointTransformer:
    torch.manual_seed(0)
    return KeypointTransformer(config, hand)
