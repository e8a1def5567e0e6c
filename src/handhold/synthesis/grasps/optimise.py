"""The annealing of a batch of grasps of one object, from its starts to its final poses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from handhold.synthesis.grasps.anneal import AnnealConfig, accepted, proposal, running_square
from handhold.synthesis.grasps.energies import Energies
from handhold.synthesis.grasps.fast import FastEnergies
from handhold.synthesis.grasps.hand import GraspHand
from handhold.synthesis.grasps.solid import Solid


class Optimised(NamedTuple):
    """poses (B, 51), contacts (B, K) as places in the candidate list, final energies."""

    poses: Tensor
    contacts: Tensor
    terms: Energies


class ContactChoice:
    """Draws contacts: uniformly as published, or among the candidates that are near the object.

    nearness: metres; a candidate at distance d is drawn with chance exp(-|d| / nearness), so
    that short runs need not find the touching ones by luck; then the first contact is the thumb's
    (or the palm's, where that is nearer), the next two are of different fingers. None: uniformly.
    """

    def __init__(self, hand: GraspHand, solid: Solid, count: int, nearness: float | None) -> None:
        self.hand, self.solid, self.count, self.nearness = hand, solid, count, nearness
        digit = torch.from_numpy(hand.digit_of)
        self.digit = digit
        self.opposing = (digit == 0) | (digit == 5)
        self.fingers = (digit > 0) & (digit < 5)

    def __call__(self, vertices: Tensor, generator: torch.Generator) -> Tensor:
        """Contacts (B, K) for hands (B, 778, 3)."""
        total = len(self.hand.candidates)
        if self.nearness is None:
            return torch.randint(total, (len(vertices), self.count), generator=generator)
        distance = self.solid.field(vertices[:, self.hand.candidates])[0].abs()
        weight = torch.exp(-distance / self.nearness) + 1e-6
        drawn: list[Tensor] = []
        for number in range(self.count):
            allowed = weight.clone()
            if number == 0:
                allowed = allowed * self.opposing
            elif number < 3:
                allowed = allowed * self.fingers
            for earlier in drawn:
                same = self.digit == self.digit[earlier][:, None]
                allowed = torch.where(same & (self.digit < 5), allowed * 1e-3, allowed)
            drawn.append(torch.multinomial(allowed, 1, generator=generator)[:, 0])
        return torch.stack(drawn, dim=1)


def optimise(
    energies: FastEnergies,
    choice: ContactChoice,
    poses: Tensor,
    config: AnnealConfig,
    seed: int,
    planes: Tensor | None = None,
) -> Optimised:
    """Anneal poses (B, 51). The same seed gives the same grasps, bit for bit, on one machine."""
    generator = torch.Generator().manual_seed(seed)
    pose = poses.clone()
    with torch.no_grad():
        vertices = energies.hand(pose)[0].transpose(1, 2)
        contacts = choice(vertices, generator)
        now = energies(pose, contacts, planes)
        square = torch.zeros(51)
        total, slope, terms = now.total, now.slope, torch.stack(now.terms)
        vertices = now.vertices
        for step in range(config.steps):
            square = running_square(square, slope, config)
            moved = proposal(pose, slope, square, step, config)
            redrawn = torch.rand(contacts.shape, generator=generator) < config.switch
            other = torch.where(redrawn, choice(vertices, generator), contacts)
            new = energies(moved, other, planes)
            uniform = torch.rand(len(pose), generator=generator)
            keep = accepted(total, new.total, uniform, config.heat(step))
            pose = torch.where(keep[:, None], moved, pose)
            contacts = torch.where(keep[:, None], other, contacts)
            total = torch.where(keep, new.total, total)
            slope = torch.where(keep[:, None], new.slope, slope)
            vertices = torch.where(keep[:, None, None], new.vertices, vertices)
            terms = torch.where(keep, torch.stack(new.terms), terms)
    return Optimised(pose, contacts, Energies(*terms))


def as_arrays(found: Optimised) -> dict[str, np.ndarray]:
    """Poses and energies as arrays by name, for files."""
    out = {"pose": found.poses.numpy(), "contacts": found.contacts.numpy()}
    return out | {name: getattr(found.terms, name).numpy() for name in Energies._fields}
