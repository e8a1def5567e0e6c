"""The term that keeps HandOS's meshes hand-like."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.models.handos_parts import perfect, processor_of, wrists
from tests.models.photo_sample import photo
from torch import Tensor

from handhold.hand.model import HandModel
from handhold.models.handos.loss import HandOSLossConfig, hand_prior, loss

BOTH = torch.tensor([True, True, False, False])


def posed(hand: HandModel) -> Tensor:
    """Two right hands, then two left ones, turned and moved."""
    draw = torch.Generator().manual_seed(0)
    pose = 0.2 * torch.randn(4, 16, 3, generator=draw)
    pose[:, 0] = 2 * torch.randn(4, 3, generator=draw)
    betas = 0.7 * torch.randn(4, 10, generator=draw)
    vertices = hand(pose, betas).vertices + 0.1 * torch.randn(4, 1, 3, generator=draw)
    return torch.where(BOTH[:, None, None], vertices, vertices * torch.tensor([-1.0, 1, 1]))


def test_hands_are_hand_like_and_others_are_not(hand: HandModel) -> None:
    vertices = posed(hand)
    draw = torch.Generator().manual_seed(1)
    noise = 0.01 * torch.randn(vertices.shape, generator=draw)
    assert float(hand_prior(vertices, BOTH, hand)) < 6e-4
    assert float(hand_prior(vertices, ~BOTH, hand)) > 2.5e-3
    # Gaussian noise of 10 mm in 2334 directions, of which a hand can follow 61
    expected = 0.01 * (2 / torch.pi) ** 0.5
    assert float(hand_prior(vertices + noise, BOTH, hand)) == pytest.approx(expected, rel=0.05)
    flat = torch.tensor([1.0, 1.0, 0.0])
    assert float(hand_prior(vertices * flat, BOTH, hand)) > 1e-3


def test_it_pulls_towards_a_hand_and_nothing_pulls_it_from_one(hand: HandModel) -> None:
    """Following the gradient alone takes noise off; meshes that are no mesh pull finitely."""
    truth = posed(hand)
    draw = torch.Generator().manual_seed(1)
    vertices = truth + 0.005 * torch.randn(truth.shape, generator=draw)
    first = float((vertices - truth).norm(dim=-1).mean())
    for step in (4e-3, 2e-3, 1e-3):
        vertices = vertices.requires_grad_()
        (slope,) = torch.autograd.grad(hand_prior(vertices, BOTH, hand), vertices)
        vertices = (vertices - step * slope.sign()).detach()
    assert float((vertices - truth).norm(dim=-1).mean()) < 0.4 * first
    point = torch.zeros_like(truth).requires_grad_()
    (slope,) = torch.autograd.grad(hand_prior(point, BOTH, hand), point)
    assert bool(slope.isfinite().all())


def test_it_is_a_term_of_the_loss_for_hands_with_2d_labels_too(hand: HandModel) -> None:
    batch = processor_of(hand).encode([(photo(hand, 0), 0)])
    assert batch.has_vertices is not None
    found = perfect(batch, hand, wrists(hand, 0))
    flat = found.vertices * torch.tensor([1.0, 1.0, 0.3])
    found = dataclasses.replace(found, vertices=flat, hand=hand)
    weak = dataclasses.replace(batch, has_vertices=torch.zeros_like(batch.has_vertices))
    assert "hand_prior" not in loss(found, weak, HandOSLossConfig())
    terms = loss(found, weak, HandOSLossConfig(hand_prior=2.0))
    right = batch.right == 1
    expected = 2.0 * hand_prior(flat[:, -1], right, hand) / 0.2
    torch.testing.assert_close(terms["hand_prior"], expected)
    assert float(terms["vertices"]) == 0 and float(expected) > 0.01
    unsaid = dataclasses.replace(weak, right=torch.full_like(right, -1, dtype=torch.float32))
    again = loss(found, unsaid, HandOSLossConfig(hand_prior=2.0))  # the side is the mesh's own
    torch.testing.assert_close(again["hand_prior"], expected)
