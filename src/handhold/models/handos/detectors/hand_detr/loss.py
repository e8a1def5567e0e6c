"""One query for every hand, and what it costs to be wrong, on every layer and the selection.

Matching: Hungarian (Carion et al., ECCV 2020, section 3.1) with the costs of Deformable DETR.
Score: focal loss (Lin et al., ICCV 2017), or varifocal (Zhang et al., CVPR 2021, equation 2), whose
target is the IoU reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from handhold.errors import InputError
from handhold.models.detector.loss import giou, pairwise_iou
from handhold.models.detector.model import DetectorBatch
from handhold.models.handos.detectors.hand_detr.model import HandDetrPrediction


@dataclass(frozen=True, kw_only=True)
class HandDetrLossConfig:
    """kind: of the score's loss. score, l1, giou: weights of the terms; l1 is summed over a box's
    four numbers. alpha, gamma: of the score's loss; None for 0.25 (focal) or 0.75 (varifocal).
    match_score, match_l1, match_giou: costs of the matching.
    """

    kind: Literal["varifocal", "focal"] = "varifocal"
    score: float = 1.0
    l1: float = 5.0
    giou: float = 2.0
    alpha: float | None = None
    gamma: float = 2.0
    match_score: float = 2.0
    match_l1: float = 5.0
    match_giou: float = 2.0

    def __post_init__(self) -> None:
        if self.kind not in ("varifocal", "focal"):
            raise InputError(
                f"HandDetrLossConfig.kind: expected varifocal or focal, found {self.kind!r}"
            )

    @property
    def balance(self) -> float:
        """`alpha`, or what is usual for the kind."""
        usual = 0.25 if self.kind == "focal" else 0.75
        return usual if self.alpha is None else self.alpha


def to_shares(boxes: Tensor, width: int, height: int) -> Tensor:
    """x0, y0, x1, y1 in pixels (0 is the middle of the first) -> cx, cy, w, h in 0..1 of the edges;
    boxes (..., 4).
    """
    size = boxes.new_tensor([width, height])
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2 + 0.5
    return torch.cat([middle / size, (boxes[..., 2:] - boxes[..., :2]) / size], dim=-1)


def to_pixels(boxes: Tensor, width: int, height: int) -> Tensor:
    """The way back from `to_shares`."""
    size = boxes.new_tensor([width, height])
    middle, half = boxes[..., :2] * size - 0.5, boxes[..., 2:] * size / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def edges(boxes: Tensor) -> Tensor:
    """cx, cy, w, h -> x0, y0, x1, y1; boxes (..., 4)."""
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], dim=-1)


@torch.no_grad()
def match(
    logits: Tensor, boxes: Tensor, labels: Tensor, config: HandDetrLossConfig
) -> tuple[Tensor, Tensor]:
    """Indices of queries and of their hands, as many as the fewer of both, of least cost together.

    logits (Q,), boxes (Q, 4) and labels (G, 4) in 0..1. The cost of a score is what focal loss says
    for "hand" less what it says for "none".
    """
    p = logits.sigmoid()
    yes = 0.25 * (1 - p) ** config.gamma * -functional.logsigmoid(logits)
    no = 0.75 * p**config.gamma * -functional.logsigmoid(-logits)
    cost = config.match_score * (yes - no)[:, None]
    cost = cost + config.match_l1 * torch.cdist(boxes, labels, p=1)
    cost = cost - config.match_giou * giou(edges(boxes)[:, None], edges(labels)[None])
    # a network that has lost itself is the training loop's to report
    rows, columns = linear_sum_assignment(cost.float().nan_to_num(1e6, 1e6, -1e6).cpu().numpy())
    return torch.as_tensor(rows), torch.as_tensor(columns)


def loss(
    prediction: HandDetrPrediction, batch: DetectorBatch, config: HandDetrLossConfig | None = None
) -> dict[str, Tensor]:
    """Named terms, weighted, and their sum `total`: sums over layers, divided by the hands of the
    batch. Without any hand the box terms are zero, with a gradient path.

    Queries whose centre lies on an ignored hand do not count as wrong; negatives of photos whose
    labels may be incomplete count by `negative_weight`.
    """
    config = config or HandDetrLossConfig()
    height, width = batch.image.shape[-2:]
    labels = to_shares(batch.boxes.to(prediction.boxes), width, height)
    usable, ignored = batch.valid & ~batch.ignored, batch.valid & batch.ignored
    hands = usable.sum().clamp(min=1)
    score, l1, wide = (prediction.logits.new_zeros(()) for _ in range(3))
    for logits, boxes in zip(prediction.logits, prediction.boxes, strict=True):
        rows, queries, targets = [], [], []
        for row in range(len(logits)):
            own = labels[row, usable[row]]
            if len(own):
                found, hand = match(logits[row], boxes[row], own, config)
                rows += [row] * len(found)
                queries.append(found.to(own.device))
                targets.append(own[hand.to(own.device)])
        weight = _negative_weight(boxes, labels, ignored, batch.negative_weight)
        reached = torch.zeros_like(logits)
        if rows:
            place = torch.tensor(rows, device=logits.device), torch.cat(queries)
            mine, theirs = boxes[place], torch.cat(targets)
            l1 = l1 + (mine - theirs).abs().sum() / hands
            wide = wide + (1 - giou(edges(mine), edges(theirs))).sum() / hands
            overlap = pairwise_iou(edges(mine)[:, None], edges(theirs)[:, None])[:, 0, 0].detach()
            reached[place] = overlap if config.kind == "varifocal" else 1.0
            weight[place] = 1.0
            is_hand = torch.zeros_like(reached, dtype=torch.bool)
            is_hand[place] = True
        else:
            is_hand = torch.zeros_like(reached, dtype=torch.bool)
            l1, wide = l1 + 0.0 * boxes.sum(), wide + 0.0 * boxes.sum()
        score = score + (_score(logits, reached, is_hand, config) * weight).sum() / hands
    terms = {"score": config.score * score, "l1": config.l1 * l1, "giou": config.giou * wide}
    terms["total"] = torch.stack(list(terms.values())).sum()
    return terms


def _score(logits: Tensor, reached: Tensor, is_hand: Tensor, config: HandDetrLossConfig) -> Tensor:
    """The score's loss of every query (B, Q)."""
    p = logits.detach().sigmoid()
    plain = functional.binary_cross_entropy_with_logits(logits, reached, reduction="none")
    negative = p**config.gamma
    if config.kind == "varifocal":
        return plain * torch.where(is_hand, reached, config.balance * negative)
    p = logits.sigmoid()  # focal loss has a gradient through its weight, varifocal has none
    positive = config.balance * (1 - p) ** config.gamma
    return plain * torch.where(is_hand, positive, (1 - config.balance) * p**config.gamma)


def _negative_weight(boxes: Tensor, labels: Tensor, ignored: Tensor, by_photo: Tensor) -> Tensor:
    """What a query (B, Q) counts where it is no hand."""
    weight = by_photo[:, None].to(boxes).repeat(1, boxes.shape[1])
    if not bool(ignored.any()):
        return weight
    centre, around = boxes[:, :, None, :2], edges(labels)[:, None]
    inside = (centre > around[..., :2]) & (centre < around[..., 2:])
    return weight * ~(inside.all(dim=-1) & ignored[:, None]).any(dim=-1)
