"""The interface of the frozen detectors, and given boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import pytest
import torch
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.models.handos.detectors import (
    ColourPyramid,
    DetectorOutput,
    FrozenDetector,
    GivenBoxes,
    Preprocess,
)


class Normed(ColourPyramid):
    """A detector with everything that could move: a batch norm, dropout, a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout(0.5)
        self.freeze()

    def load(self, weights: str | Path) -> Self:
        self.weights_id = str(weights)
        return self

    def features(self, images: Tensor, valid_mask: Tensor | None = None) -> DetectorOutput:
        return super().features(self.dropout(self.norm(images)), valid_mask)


class Parent(nn.Module):
    def __init__(self, detector: FrozenDetector) -> None:
        super().__init__()
        self.detector = detector
        self.head = nn.Sequential(nn.Linear(detector.width, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    def forward(self, images: Tensor) -> Tensor:
        found = self.detector(images)
        return self.head(found.memory.mean(dim=1)).sum() + found.query_last.sum()


def test_training_a_parent_moves_nothing() -> None:
    torch.manual_seed(0)
    detector = Normed()
    parent = Parent(detector).train()
    assert parent.head.training and not detector.training and not detector.norm.training
    images = torch.rand(4, 3, 64, 64)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    memory = detector(images).memory
    optimizer = torch.optim.AdamW(parent.parameters(), lr=0.1, weight_decay=0.1)
    head = [value.clone() for value in parent.head.parameters()]
    for _ in range(3):
        optimizer.zero_grad()
        parent(images).backward()
        optimizer.step()
        parent.train()
    assert not any(map(torch.equal, head, parent.head.parameters()))  # the rest did learn
    assert all(torch.equal(before[key], value) for key, value in detector.state_dict().items())
    again = detector(images)
    assert torch.equal(memory, again.memory) and not again.memory.requires_grad


def test_uint8_is_the_same_as_floats() -> None:
    images = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8)
    detector = ColourPyramid()
    assert torch.equal(detector(images).memory, detector(images.float() / 255).memory)


def test_padding_is_not_seen() -> None:
    """Whatever lies beside the photo, the detector sees its own padding there; the valid tokens
    and ratios are those of the photo."""
    detector = ColourPyramid(strides=(8, 16))
    valid = torch.zeros(1, 64, 96, dtype=torch.bool)
    valid[:, :48, :64] = True
    images = torch.rand(1, 3, 64, 96)
    other = torch.where(valid[:, None], images, torch.rand_like(images))
    one, two = detector(images, valid), detector(other, valid)
    assert torch.equal(one.memory, two.memory)
    assert one.shapes == [(8, 12), (4, 6)]
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[:6, :8] = True
    assert torch.equal(one.token_valid[0, :96].reshape(8, 12), expected)
    assert torch.equal(one.token_valid[0, 96:].reshape(4, 6), expected[::2, ::2])
    assert torch.allclose(one.valid_ratios, torch.tensor([2 / 3, 3 / 4]).expand(1, 2, 2))
    assert torch.equal(detector(images).valid_ratios, torch.ones(1, 2, 2))


@pytest.mark.parametrize("padding", [None, 0.5])
def test_normalise(padding) -> None:
    rule = Preprocess(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0), padding=padding)
    images, valid = torch.rand(1, 3, 2, 2), torch.tensor([[[True, False], [True, True]]])
    pixels = rule.normalise(images, valid)
    for channel, (mean, std) in enumerate(zip(rule.mean, rule.std, strict=True)):
        right = (images[0, channel] - mean) / std
        right[0, 1] = 0.0 if padding is None else (padding - mean) / std
        assert torch.allclose(pixels[0, channel], right)


def test_memory_is_colour_by_place() -> None:
    """A token is the mixture of the mean colours of its cell's quarters, at its own place."""
    detector = ColourPyramid(strides=(8,))
    images = torch.rand(1, 3, 16, 24)
    found = detector(images)
    cell = (images[0, :, 8:16, 16:24] - 0.5) / 0.25  # row 1, column 2
    quarters = cell.reshape(3, 2, 4, 2, 4).mean(dim=(2, 4)).reshape(12)
    assert torch.allclose(found.memory[0, 1 * 3 + 2], quarters @ detector.mixture, atol=1e-5)


def test_given_boxes_come_back_and_the_table_learns() -> None:
    detector = GivenBoxes(num_queries=3, query_width=10)
    boxes, scores = torch.rand(2, 2, 4), torch.tensor([[0.9, 0.8], [0.7, 0.0]])
    images = torch.rand(2, 3, 64, 64)
    found = detector.give(boxes, scores)(images)
    assert torch.equal(found.boxes, boxes) and torch.equal(found.scores, scores)
    assert torch.equal(found.query_first[0], detector.table[0, :2])
    assert torch.equal(found.query_last[1], detector.table[1, :2])
    assert torch.equal(detector.give(boxes)(images).scores, torch.ones(2, 2))
    found.query_last.sum().backward()
    assert detector.table.grad is not None
    assert torch.equal(detector.table.grad[1], torch.tensor([2.0, 2.0, 0.0])[:, None].expand(3, 10))
    assert not any(p.requires_grad for p in detector.inner.parameters())
    assert not detector.train().inner.training


def test_given_boxes_stand_on_another_detector() -> None:
    inner = ColourPyramid(width=12, strides=(4, 8))
    detector = GivenBoxes(inner).give(torch.rand(1, 1, 4))
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(detector(images).memory, inner(images).memory)
    assert (detector.width, detector.strides, detector.query_width) == (12, (4, 8), 12)


def test_bad_input_is_named() -> None:
    detector = GivenBoxes(num_queries=2)
    images = torch.rand(1, 3, 32, 32)
    with pytest.raises(InputError, match="expected boxes of 1 images from `give`, found none"):
        detector(images)
    with pytest.raises(InputError, match=r"up to 2, 4\), found \(1, 3, 4\)"):
        detector.give(torch.rand(1, 3, 4))
    with pytest.raises(InputError, match=r"scores \(1, 2\), found \(1, 1\)"):
        detector.give(torch.rand(1, 2, 4), torch.rand(1, 1))
    with pytest.raises(InputError, match="multiples of 32, found 32 x 40"):
        detector(torch.rand(1, 3, 32, 40))
    with pytest.raises(InputError, match=r"valid_mask: expected \(1, 32, 32\)"):
        detector(images, torch.ones(1, 16, 16, dtype=torch.bool))
