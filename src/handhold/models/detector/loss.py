"""Which location answers for which hand, and what it costs to be wrong.

Assignment: RTMDet's soft dynamic one (Lyu et al. 2022, section 3.3): every hand takes the k
locations with the lowest cost, k = sum of its ten best IoUs. Score: quality focal loss (Li et al.
2020) whose target is the IoU reached.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from handhold.models.detector.model import (
    DetectorBatch,
    DetectorPrediction,
    encode_object_boxes,
)


@dataclass(frozen=True, kw_only=True)
class DetectorLossConfig:
    """Weights of the terms. candidates: IoUs summed for k. center_radius: strides from a hand's
    centre where being off-centre starts to cost more than a wrong score.
    """

    score: float = 1.0
    box: float = 2.0
    side: float = 1.0
    holding: float = 0.25
    object_box: float = 0.25
    candidates: int = 10
    center_radius: float = 3.0


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (..., L, N) of boxes a (..., L, 4) and b (..., N, 4)."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    overlap = (high - low).clamp(min=0).prod(dim=-1)
    return overlap / (_area(a)[..., :, None] + _area(b)[..., None, :] - overlap).clamp(min=1e-6)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (...) of matching boxes (..., 4), in -1..1 (Rezatofighi et al. 2019,
    algorithm 1).
    """
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    overlap = (high - low).clamp(min=0).prod(dim=-1)
    union = (_area(a) + _area(b) - overlap).clamp(min=1e-6)
    around = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    hull = around.clamp(min=0).prod(dim=-1).clamp(min=1e-6)
    return overlap / union - (hull - union) / hull


@torch.no_grad()
def assign(
    prediction: DetectorPrediction, batch: DetectorBatch, config: DetectorLossConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Index of the hand (B, L) each location answers for (-1: none), IoU with it (B, L), and
    whether the location lies on an ignored hand (B, L).
    """
    boxes, usable = batch.boxes, batch.valid & ~batch.ignored
    centers = prediction.centers[None, :, None]  # (1, L, 1, 2)
    inside = (centers > boxes[:, None, :, :2]) & (centers < boxes[:, None, :, 2:])
    inside = inside.all(dim=-1)  # (B, L, N)
    on_ignored = (inside & (batch.valid & batch.ignored)[:, None]).any(dim=-1)
    iou = pairwise_iou(prediction.boxes, boxes) * usable[:, None]
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    away = (centers - middle[:, None]).norm(dim=-1) / prediction.strides[None, :, None]
    probability = prediction.score.sigmoid()[..., None]
    quality = (
        functional.binary_cross_entropy_with_logits(
            prediction.score[..., None].expand_as(iou), iou, reduction="none"
        )
        * (iou - probability).abs().square()
    )
    prior = 10.0 ** (away - config.center_radius).clamp(max=4)
    cost = quality - 3 * (iou + 1e-6).log() + prior + 1e6 * ~inside
    cost = cost.masked_fill(~usable[:, None], float("inf"))
    candidates = min(config.candidates, cost.shape[1])
    count = iou.topk(candidates, dim=1).values.sum(dim=1).int().clamp(min=1)  # (B, N)
    lowest = cost.topk(candidates, dim=1, largest=False).values  # (B, k, N)
    limit = lowest.gather(1, (count.long() - 1).clamp(max=candidates - 1)[:, None])
    wanted = (cost <= limit) & usable[:, None]
    best = cost.masked_fill(~wanted, float("inf")).min(dim=2)
    index = best.indices.masked_fill(~wanted.any(dim=2), -1)
    reached = iou.gather(2, index.clamp(min=0)[..., None])[..., 0] * (index >= 0)
    return index, reached, on_ignored


def loss(
    prediction: DetectorPrediction, batch: DetectorBatch, config: DetectorLossConfig | None = None
) -> dict[str, Tensor]:
    """Named terms, weighted, and their sum `total`. Terms without any labelled hand are zero (with
    a gradient path).
    """
    config = config or DetectorLossConfig()
    if batch.boxes.shape[1] == 0:
        index = torch.full_like(prediction.score, -1, dtype=torch.long)
        reached, on_ignored = torch.zeros_like(prediction.score), index >= 0
    else:
        index, reached, on_ignored = assign(prediction, batch, config)
    positive = index >= 0
    total_quality = reached.sum().clamp(min=1.0)

    focal = (
        functional.binary_cross_entropy_with_logits(prediction.score, reached, reduction="none")
        * (reached - prediction.score.detach().sigmoid()).abs().square()
    )
    weight = batch.negative_weight[:, None].expand_as(reached)
    weight = torch.where(positive, torch.ones_like(reached), weight * ~on_ignored)
    terms = {"score": config.score * (focal * weight).sum() / total_quality}

    row, location = positive.nonzero(as_tuple=True)
    hand = index[row, location]
    # a hand that is not yet found well still has to be pulled: never less than a tenth
    quality = reached[row, location].clamp(min=0.1)
    total = quality.sum().clamp(min=1.0)
    predicted = prediction.boxes[row, location]
    target = batch.boxes[row, hand]
    terms["box"] = config.box * ((1 - giou(predicted, target)) * quality).sum() / total

    known = (batch.side[row, hand] >= 0).float() * quality
    side = functional.binary_cross_entropy_with_logits(
        prediction.side[row, location],
        batch.side[row, hand].clamp(min=0).float(),
        reduction="none",
    )
    terms["side"] = config.side * (side * known).sum() / known.sum().clamp(min=1.0)

    known = (batch.holding[row, hand] >= 0).float() * quality
    holding = functional.binary_cross_entropy_with_logits(
        prediction.holding[row, location],
        batch.holding[row, hand].clamp(min=0).float(),
        reduction="none",
    )
    terms["holding"] = config.holding * (holding * known).sum() / known.sum().clamp(min=1.0)

    held = batch.has_object[row, hand].float() * quality
    found, labelled = prediction.object_boxes[row, location], batch.object_boxes[row, hand]
    frame = predicted.detach()
    offset = encode_object_boxes(found, frame) - encode_object_boxes(labelled, frame)
    miss = (1 - giou(found, labelled)) + offset.abs().mean(dim=-1)
    terms["object_box"] = config.object_box * (miss * held).sum() / held.sum().clamp(min=1.0)

    terms["total"] = torch.stack(list(terms.values())).sum()
    return terms
