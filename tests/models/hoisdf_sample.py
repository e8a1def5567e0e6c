"""A very small HOISDF and a labelled batch for its tests."""

from __future__ import annotations

import torch
from torch import Tensor

from handhold.hand.model import HandModel
from handhold.models.hoisdf.inputs import HOISDFBatch
from handhold.models.hoisdf.model import HOISDF, HOISDFConfig

TINY = HOISDFConfig(
    input_size=64,
    depths=(1, 1, 1, 1),
    widths=(8, 8, 16, 16),
    stem_width=8,
    sdf_features=16,
    sdf_hidden=64,
    sdf_dropout=0.0,
    grid=8,
    hand_points=12,
    object_points=8,
    dim=40,
    heads=2,
    hidden=32,
    dropout=0.0,
    hand_layers=2,
    decoder_layers=2,
    object_layers=2,
    init="kaiming",
)


def tiny_network(config: HOISDFConfig, hand: HandModel, seed: int = 0) -> HOISDF:
    torch.manual_seed(seed)
    return HOISDF(config, hand).eval()


def labelled_batch(hand: HandModel) -> HOISDFBatch:
    """Two hands and objects half a metre away, with all targets."""
    draw = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    pose, betas = 0.3 * noise(2, 16, 3), 0.5 * noise(2, 10)
    posed = hand(pose, betas, center=0)
    return HOISDFBatch(
        image=torch.rand(2, 3, 64, 64, generator=draw),
        hand_box=torch.tensor([[8.0, 8, 56, 56], [10, 4, 60, 50]]),
        object_box=torch.tensor([[4.0, 10, 50, 60], [20, 20, 60, 60]]),
        intrinsics=torch.tensor([[100.0, 0, 31.5], [0, 100, 31.5], [0, 0, 1]]).expand(2, 3, 3),
        root=torch.tensor([[0.0, 0, 0.55], [0.02, -0.01, 0.6]]),
        object_center=torch.tensor([[0.03, 0.01, 0.56], [-0.01, 0.02, 0.6]]),
        pose=pose,
        betas=betas,
        joints=posed.joints,
        vertices=posed.vertices,
        joints2d=64 * torch.rand(2, 21, 2, generator=draw),
        hand_sdf_points=0.05 * noise(2, 20, 3),
        hand_sdf=0.03 * noise(2, 20),
        object_sdf_points=0.05 * noise(2, 10, 3),
        object_sdf=0.03 * noise(2, 10),
        hand_query_points=posed.joints[:, 1:13] + 0.01 * noise(2, 12, 3),
        object_query_points=0.04 * noise(2, 8, 3),
        hand_pixels=(torch.rand(2, 32, 32, generator=draw) > 0.5).float(),
        object_pixels=(torch.rand(2, 32, 32, generator=draw) > 0.5).float(),
        object_rotation=noise(2, 3),
        object_translation=0.05 * noise(2, 3),
    )
