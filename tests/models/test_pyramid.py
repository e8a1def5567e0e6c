"""The pyramid's shortcuts in evaluation."""

from __future__ import annotations

import torch

from handhold.models.nn.fpn import Pyramid


def test_halved() -> None:
    """In evaluation smoothing and averaging are one convolution, borders included."""
    torch.manual_seed(0)
    pyramid = Pyramid((4, 6, 8, 8), 12, halve=True)
    sides = ((4, 16), (6, 8), (8, 4), (8, 2))
    maps = [torch.rand(2, width, side, side) for width, side in sides]
    with torch.no_grad():
        torch.testing.assert_close(pyramid.eval()(*maps), pyramid.train()(*maps))
