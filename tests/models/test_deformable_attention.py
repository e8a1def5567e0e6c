"""Deformable attention: sampling against a loop written out, padding, several sets an image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from handhold.errors import InputError
from handhold.models.nn.deformable_attention import DeformableAttention

SHAPES = [(5, 7), (3, 4)]
TOKENS = 5 * 7 + 3 * 4


@pytest.fixture
def block() -> DeformableAttention:
    torch.manual_seed(0)
    block = DeformableAttention(8, heads=2, levels=2, points=3, memory_dim=6)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return block


def _sample(picture: Tensor, x: float, y: float) -> Tensor:
    """(H, W, C) at pixel (x, y), bilinear, zero outside: pixel centres at whole numbers."""
    height, width, channels = picture.shape
    total = torch.zeros(channels)
    for row in range(height):
        for column in range(width):
            weight = max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row))
            total = total + weight * picture[row, column]
    return total


def _by_loops(block, query, boxes, values, ratios) -> Tensor:
    n, q, _ = query.shape
    offsets = block.offsets(query).reshape(n, q, 2, 2, 3, 2)
    weights = block.weights(query)
    out = torch.zeros(n, q, 2, 4)
    for i in range(n):
        start = 0
        for level, (height, width) in enumerate(SHAPES):
            part = values[i, start : start + height * width].reshape(height, width, 2, 4)
            start += height * width
            for j in range(q):
                for head in range(2):
                    for point in range(3):
                        place = boxes[i, j, :2] + offsets[i, j, head, level, point] / 3 * (
                            boxes[i, j, 2:] / 2
                        )
                        x, y = (place * ratios[i, level]).tolist()
                        taken = _sample(part[:, :, head], x * width - 0.5, y * height - 0.5)
                        out[i, j, head] += weights[i, j, head, level, point] * taken
    return block.output(out.reshape(n, q, 8))


@pytest.mark.parametrize("learning", [False, True])  # two ways to take the same sum
def test_equals_loops_with_padding(block, learning: bool) -> None:
    query, boxes = torch.randn(2, 3, 8), torch.rand(2, 3, 4)
    memory, valid = torch.randn(2, TOKENS, 6), torch.rand(2, TOKENS) > 0.3
    ratios = torch.rand(2, 2, 2) * 0.5 + 0.5
    with torch.set_grad_enabled(learning):
        values = block.project(memory, valid)
        ours = block(query, boxes, values, SHAPES, ratios)
        theirs = _by_loops(block, query, boxes, values, ratios)
        changed = torch.where(valid[..., None], memory, torch.full_like(memory, 1e3))
        same = block(query, boxes, block.project(changed, valid), SHAPES, ratios)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.equal(ours, same)  # padding is never seen
    assert ours.requires_grad == learning


def test_no_queries(block) -> None:
    values = block.project(torch.randn(1, TOKENS, 6))
    image = torch.zeros(0, dtype=torch.long)
    for learning in (False, True):
        with torch.set_grad_enabled(learning):
            found = block(torch.zeros(0, 3, 8), torch.zeros(0, 3, 4), values, SHAPES, image=image)
        assert found.shape == (0, 3, 8)


@pytest.mark.parametrize("images", [1, 2])
def test_sets_share_an_image(block, images) -> None:
    query, boxes = torch.randn(4, 3, 8), torch.rand(4, 3, 4)
    image = torch.tensor([0, 1, 1, 0]) % images
    ratios = torch.rand(images, 2, 2) * 0.5 + 0.5
    with torch.no_grad():
        values = block.project(torch.randn(images, TOKENS, 6))
        together = block(query, boxes, values, SHAPES, ratios, image=image)
        for i, row in enumerate(image):
            alone = block(
                query[i : i + 1],
                boxes[i : i + 1],
                values[row : row + 1],
                SHAPES,
                ratios[row : row + 1],
            )
            assert torch.allclose(together[i], alone[0], atol=1e-5)


def test_start_looks_around_the_box() -> None:
    block = DeformableAttention(16, heads=8, levels=1, points=4)
    steps = block.offsets.bias.detach().reshape(8, 4, 2)
    compass = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, way in enumerate(compass):
        for point in range(4):
            expected = torch.tensor(way, dtype=torch.float32) * (point + 1)
            assert torch.allclose(steps[head, point], expected, atol=1e-6)
    assert torch.equal(block.weights(torch.randn(1, 2, 16)), torch.full((1, 2, 8, 1, 4), 0.25))


def test_wrong_sizes_are_named(block) -> None:
    values = torch.zeros(1, TOKENS, 8)
    with pytest.raises(InputError, match=r"47 tokens.*35 tokens"):
        block(torch.zeros(1, 1, 8), torch.zeros(1, 1, 4), values, SHAPES[:1])
    with pytest.raises(InputError, match="multiple of heads"):
        DeformableAttention(10, heads=4, levels=1, points=1)
