"""What validation reports of methods for whole photos."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from handhold.evaluation.metrics.keypoints import match_boxes
from handhold.geometry.alignment import procrustes
from handhold.models.handos.batch import HandOSPrediction, PhotoBatch
from handhold.models.handos.camera import to_pixels
from handhold.models.handos.positions import pairwise_iou
from handhold.models.nn.hope_losses import need
from handhold.training.tasks import Measures

HIT_IOU = 0.5  # of boxes grown as the detector's


def matched(found: HandOSPrediction, batch: PhotoBatch) -> tuple[Tensor, Tensor]:
    """Numbers of hands found and of the labels that they are, both (M,): within each photo one to
    one, greedily by score, boxes that overlap by HIT_IOU. The batch must have labels."""
    owner, truth = need("batch.owner", batch.owner), need("batch.boxes", batch.boxes)
    pairs: list[tuple[int, int]] = []
    for image in range(len(batch)):
        mine, hands = (owner == image).nonzero()[:, 0], (found.image == image).nonzero()[:, 0]
        if len(mine) and len(hands):
            overlap = pairwise_iou(found.boxes[hands].float(), truth[mine]).cpu().numpy()
            scores = found.scores[hands].float().cpu().numpy()
            for one, other in match_boxes(overlap, scores, HIT_IOU):
                pairs.append((int(hands[one]), int(mine[other])))
    both = torch.tensor(pairs, dtype=torch.long, device=owner.device).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def photo_measures(found: HandOSPrediction, batch: PhotoBatch, box_growth: float) -> Measures:
    """Sums and counts over labelled hands: recall (a hand found overlaps its box by IoU >= 0.5);
    and of those found: side_accuracy of the mesh, where the label says the side; pck10: share of
    labelled joints within 10 % of the longer side of the hand's box (without its growth), by the 2D
    layers; pa_mpvpe_mm: mean vertex error after the similarity that fits best, where the mesh is
    known.
    """
    owner, truth = batch.owner, batch.boxes
    if owner is None or truth is None or batch.joints2d is None:
        return {}
    rows, labels = matched(found, batch)
    result: Measures = {"recall": (len(rows), len(owner))}
    if not len(rows):
        return result
    size = batch.valid_size[owner[labels]]
    pixels = to_pixels(found.joints2d[rows, -1].float(), size)
    side = (truth[labels, 2:] * size).amax(-1) / box_growth
    near = (pixels - batch.joints2d[labels]).norm(dim=-1) <= 0.1 * side[:, None]
    valid = torch.ones_like(near)
    if batch.joints2d_valid is not None:
        valid = batch.joints2d_valid[labels]
    result["pck10"] = (float((near & valid).sum()), float(valid.sum()))
    if found.vertices is None or found.volume is None or batch.vertices is None:
        return result
    if batch.right is not None:
        told = batch.right[labels]
        agree = ((found.volume[rows] > 0) == (told > 0.5)) & (told >= 0)
        result["side_accuracy"] = (float(agree.sum()), float((told >= 0).sum()))
    known = batch.has_vertices
    known = torch.ones_like(owner, dtype=torch.bool) if known is None else known
    with_mesh = known[labels]
    if bool(with_mesh.any()):
        points = found.vertices[rows[with_mesh], -1].double().cpu().numpy()
        wanted = batch.vertices[labels[with_mesh]].double().cpu().numpy()
        off = np.linalg.norm(procrustes(points, wanted).aligned - wanted, axis=-1).mean(-1)
        result["pa_mpvpe_mm"] = (1000 * float(off.sum()), len(off))
    return result
