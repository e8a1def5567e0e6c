"""From the heads' numbers to rotations and joints."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
