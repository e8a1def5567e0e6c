"""The queries' view of each other, and from the heads' numbers to rotations and joints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from handhold.models.keypoint_transformer.model import KeypointTransformerConfig


def query_mask(config: KeypointTransformerConfig) -> Tensor:
    """(Q, Q) bool, True where the row's query may not see the column's (paper section 3.2).

    The queries of a finger see each other, global rotations and shape themselves; in "angles" all
    of these see the object, too. The object sees everything.
    """
    rows, size = config.rows, config.hand_queries
    mask = torch.ones(rows["all"], rows["all"], dtype=torch.bool)
    mask.fill_diagonal_(False)
    finger = 3 if config.output == "angles" else 4
    for hand in range(config.hands):
        first = hand * size + (1 if config.output == "angles" else 0)
        for start in range(first, (hand + 1) * size, finger):
            mask[start : start + finger, start : start + finger] = False
    if config.output == "angles":
        mask[:, rows["object_rotation"] :] = False
    mask[rows["shape"] + 1 :] = False
    return mask


def sixd_official(sixd: Tensor) -> Tensor:
    """The original's reading of 6 numbers (..., 6) -> (..., 3, 3) with columns a, b, c.

    With e1, e2 the first and last three: a = e1 / |e1|, c = (a x e2) / |e2|, b = c x a. c is
    shorter than 1 unless e1 and e2 are perpendicular, and so is b: no rotation.
    """
    first, second = sixd[..., :3], sixd[..., 3:]
    a = F.normalize(first, dim=-1, eps=1e-8)
    length = torch.linalg.vector_norm(second, dim=-1, keepdim=True).clamp_min(1e-8)
    c = torch.linalg.cross(a, second, dim=-1) / length
    return torch.stack((a, torch.linalg.cross(c, a, dim=-1), c), dim=-1)


def joints_from_vectors(vectors: Tensor) -> Tensor:
    """Vectors (..., 20, 3) of the joints, tip to base per finger, from their parents -> canonical
    joints (..., 21, 3), the wrist at 0."""
    chain = vectors.unflatten(-2, (5, 4)).flip(-2).cumsum(dim=-2)  # base to tip
    wrist = torch.zeros_like(vectors[..., :1, :])
    return torch.cat((wrist, chain.flatten(-3, -2)), dim=-2)
