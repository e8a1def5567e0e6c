"""Boxes as queries see them: (cx, cy, w, h) in 0..1, their logits and their sine code."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10_000.0


def logit(share: Tensor, eps: float = 1e-5) -> Tensor:
    """log(x / (1 - x)) of x held within [eps, 1 - eps]; at least float32, as lower precision knows
    no number between 1 - eps and 1."""
    if share.dtype in (torch.bfloat16, torch.float16):
        share = share.float()
    share = share.clamp(eps, 1 - eps)
    return torch.log(share) - torch.log1p(-share)


def sine_code(boxes: Tensor, width: int) -> Tensor:
    """DINO's code of boxes (..., 4): y, x, w, h with width / 2 values each -> (..., 2 * width).

    Value i of a coordinate: sine (i even) or cosine (i odd) of coordinate * 2 pi /
    10000^(2 floor(i / 2) / (width / 2)).
    """
    half = width // 2
    power = torch.arange(half // 2, device=boxes.device, dtype=torch.float32) * (2.0 / half)
    rate = 2 * math.pi / TEMPERATURE**power
    x, y, w, h = boxes.unbind(-1)
    angle = torch.stack((y, x, w, h), dim=-1)[..., None] * rate  # (..., 4, half / 2)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-3)


def to_corners(boxes: Tensor) -> Tensor:
    """(..., cx, cy, w, h) -> (..., x0, y0, x1, y1)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (N, M) of boxes (N, 4) and (M, 4), both (cx, cy, w, h)."""
    a, b = to_corners(first)[:, None], to_corners(second)[None]
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = first[:, None, 2:].prod(-1) + second[None, :, 2:].prod(-1)
    return shared / (areas - shared).clamp(min=1e-12)
