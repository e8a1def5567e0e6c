"""Which of the detector's queries become hands: SimOTA in training (Ge et al., YOLOX, 2021, with
HandOS's cost, its section 3.2), threshold and suppression in use."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from handhold.models.handos.positions import pairwise_iou


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """iou, cost (Q, G); counts (G,): predictions each ground truth asks for; assigned (Q,): number
    of the ground truth, -1 for predictions that are not used."""

    iou: Tensor
    cost: Tensor
    counts: Tensor
    assigned: Tensor


@torch.no_grad()
def simota(
    scores: Tensor,
    boxes: Tensor,
    truth: Tensor,
    *,
    candidates: int = 10,
    eps: float = 1e-8,
    min_iou: float = 0.0,
    most: int | None = None,
) -> Assignment:
    """Predictions of one image, scores (Q,) in 0..1 and boxes (Q, 4), shared out among its ground
    truth boxes (G, 4).

    Cost: -log score - log IoU, with no prior for the centre and no weights. A ground truth asks for
    as many predictions as the sum of its `candidates` largest IoU, one or more, `most` or fewer,
    and takes the cheapest (of equals the first). What several want goes to the one that pays least.
    min_iou: pairs below are dropped; without it a hand that the detector misses takes an
    unrelated box.
    """
    iou = pairwise_iou(boxes, truth)
    floor = scores.clamp(eps, 1 - eps).log()
    cost = -floor[:, None] - iou.clamp(min=eps).log()
    free = torch.full_like(scores, -1, dtype=torch.long)
    if iou.numel() == 0:
        return Assignment(iou=iou, cost=cost, counts=truth.new_zeros(len(truth)), assigned=free)
    best = iou.topk(min(candidates, len(iou)), dim=0).values.sum(0)
    counts = best.floor().long().clamp(min=1, max=most)
    order = cost.argsort(dim=0, stable=True)
    rank = torch.zeros_like(order).scatter_(
        0, order, torch.arange(len(iou), device=order.device)[:, None].expand_as(order)
    )
    wanted = rank < counts
    cheapest = cost.argmin(dim=1)
    several = wanted.sum(1) > 1
    assigned = torch.where(several, cheapest, wanted.int().argmax(dim=1))
    assigned = torch.where(wanted.any(1), assigned, free)
    near = iou.gather(1, assigned.clamp(min=0)[:, None])[:, 0] >= min_iou
    return Assignment(iou=iou, cost=cost, counts=counts, assigned=torch.where(near, assigned, free))


@torch.no_grad()
def suppress(
    scores: Tensor,
    boxes: Tensor,
    *,
    threshold: float = 0.1,
    overlap: float = 0.9,
    most: int | None = None,
) -> Tensor:
    """Numbers (K,) of the predictions of one image that stay, best first: scores (Q,) above the
    threshold, and no IoU above `overlap` with a better one that stays. boxes (Q, 4)."""
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] > threshold]
    iou = pairwise_iou(boxes[order], boxes[order]).cpu()
    alive = torch.ones(len(order), dtype=torch.bool)
    kept: list[int] = []
    for place in range(len(order)):
        if alive[place]:
            kept.append(place)
            if most is not None and len(kept) == most:
                break
            alive &= iou[place] <= overlap
    return order[torch.tensor(kept, dtype=torch.long, device=order.device)]
