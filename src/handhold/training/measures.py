"""What validation reports while a network trains: sums over a batch, cheap to compute."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from handhold.evaluation.metrics.keypoints import match_boxes
from handhold.geometry.alignment import procrustes
from handhold.geometry.boxes import iou
from handhold.models.detector.detect import select
from handhold.models.detector.model import DetectorBatch, DetectorConfig
from handhold.models.detector.processor import grow_box
from handhold.models.handos.detectors.hand_detr.loss import to_pixels
from handhold.models.handos.detectors.hand_detr.model import HandDetrConfig
from handhold.scene import Batch, Prediction
from handhold.training.tasks import Measures

PCK_THRESHOLDS = (0.1, 0.2)  # of the longer side of the labelled joints' tight box


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


def hand_measures(prediction: Prediction, batch: Batch) -> Measures:
    """Sums and counts over hands of:

    mpjpe_mm, pa_mpjpe_mm: mean joint error with wrists put together, and after the similarity that
    fits best (where the pose is known); pck10, pck20: share of labelled joints within 10 and 20 %
    of the longer side of their tight box; grasp_accuracy (where the label is known).
    """
    result: Measures = {}
    if batch.has_pose is not None and batch.joints is not None and bool(batch.has_pose.any()):
        rows = batch.has_pose
        found, truth = _numpy(prediction.joints[rows]), _numpy(batch.joints[rows])
        plain = np.linalg.norm((found - found[:, :1]) - (truth - truth[:, :1]), axis=-1)
        aligned = np.linalg.norm(procrustes(found, truth).aligned - truth, axis=-1)
        result["mpjpe_mm"] = (1000 * float(plain.mean(-1).sum()), len(truth))
        result["pa_mpjpe_mm"] = (1000 * float(aligned.mean(-1).sum()), len(truth))
    if prediction.joints2d is not None and batch.joints2d is not None:
        truth = _numpy(batch.joints2d)
        valid = np.ones(truth.shape[:2], np.bool_)
        if batch.joints2d_valid is not None:
            valid = batch.joints2d_valid.bool().cpu().numpy()
        rows_2d = valid.sum(-1) > 1
        low = np.where(valid[..., None], truth, np.inf).min(1)
        high = np.where(valid[..., None], truth, -np.inf).max(1)
        size = np.where(rows_2d, (high - low).max(-1), 1.0)
        distance = np.linalg.norm(_numpy(prediction.joints2d) - truth, axis=-1) / size[:, None]
        counted = valid & rows_2d[:, None]
        for threshold in PCK_THRESHOLDS:
            hits = float(((distance <= threshold) & counted).sum())
            result[f"pck{round(100 * threshold)}"] = (hits, float(counted.sum()))
    if prediction.grasp_logits is not None and batch.grasping is not None:
        known = batch.has_grasping
        known = torch.ones_like(batch.grasping) if known is None else known
        right = (prediction.grasp_logits.argmax(-1).bool() == batch.grasping.bool()) & known.bool()
        result["grasp_accuracy"] = (float(right.sum()), float(known.sum()))
    return result


def detector_measures(network: nn.Module, batch: DetectorBatch) -> Measures:
    """Sums and counts over photos of: recall, precision (IoU >= 0.5 at the network's own score
    threshold), mean_iou of the hits, side_accuracy and holding_accuracy of the hits
    whose label says so.
    """
    config = network.config
    if not isinstance(config, DetectorConfig):
        raise TypeError(f"expected a hand detector, found {type(network).__name__}")
    found = select(network(batch), config, config.score_threshold, config.max_hands)
    sides = sided = holding = known = 0
    hits: list[float] = []
    labels = claims = 0
    for row, detections in enumerate(found):
        boxes = np.stack([d.box for d in detections]) if detections else np.zeros((0, 4))
        scores = np.array([detection.score for detection in detections])
        matched, there, claimed = _matches(batch, row, boxes, scores, config.box_growth)
        labels, claims = labels + there, claims + claimed
        for detection, column, overlap in matched:
            hits.append(overlap)
            right = float(batch.side[row, column])
            if right >= 0:
                sided += 1
                sides += (detections[detection].side == "right") == (right > 0.5)
            held = int(batch.holding[row, column])
            if held >= 0:
                known += 1
                holding += (detections[detection].holding > 0.5) == bool(held)
    return {
        "recall": (len(hits), labels),
        "precision": (len(hits), claims),
        "mean_iou": (sum(hits), len(hits)),
        "side_accuracy": (sides, sided),
        "holding_accuracy": (holding, known),
    }


def hand_detr_measures(network: nn.Module, batch: DetectorBatch) -> Measures:
    """Sums and counts over photos of recall, precision and mean_iou as in `detector_measures`, of
    all queries above the network's own score threshold; and recall_any: whatever the score.
    """
    config = network.config
    if not isinstance(config, HandDetrConfig):
        raise TypeError(f"expected a HandDetrNetwork, found {type(network).__name__}")
    found = network(batch)
    height, width = batch.image.shape[-2:]
    scores = _numpy(found.logits[-1].float().sigmoid())
    boxes = _numpy(to_pixels(found.boxes[-1].float(), width, height))
    hits: list[float] = []
    labels = claims = hits_any = 0
    for row in range(len(scores)):
        own = grow_box(boxes[row], 1 / config.box_growth)
        kept = scores[row] > config.score_threshold
        matched, there, claimed = _matches(
            batch, row, own[kept], scores[row][kept], config.box_growth
        )
        hits += [overlap for *_, overlap in matched]
        labels, claims = labels + there, claims + claimed
        hits_any += len(_matches(batch, row, own, scores[row], config.box_growth)[0])
    return {
        "recall": (len(hits), labels),
        "precision": (len(hits), claims),
        "mean_iou": (sum(hits), len(hits)),
        "recall_any": (hits_any, labels),
    }


def _matches(
    batch: DetectorBatch, row: int, boxes: np.ndarray, scores: np.ndarray, growth: float
) -> tuple[list[tuple[int, int, float]], int, int]:
    """Detections of a photo that hit a hand (IoU >= 0.5 of boxes around the joints): detection,
    the label's column, IoU; how many labels there are, and how many detections claim a hand.

    Ignored hands excuse a detection; where labels may be incomplete, only hits are claims.
    """
    there = batch.valid[row].cpu().numpy()
    ignored = batch.ignored[row].cpu().numpy()[there]
    truth = grow_box(_numpy(batch.boxes[row])[there], 1 / growth)
    labels = int((~ignored).sum())
    if not len(boxes):
        return [], labels, 0
    overlaps = iou(boxes[:, None], truth[None]) if len(truth) else np.zeros((len(boxes), 0))
    matched = match_boxes(np.asarray(overlaps), scores, 0.5)
    excused = sum(bool(ignored[label]) for _, label in matched)
    complete = float(batch.negative_weight[row]) >= 1
    claims = len(boxes) - excused if complete else len(matched) - excused
    columns = np.flatnonzero(there)
    hits = [
        (detection, int(columns[label]), float(overlaps[detection, label]))
        for detection, label in matched
        if not ignored[label]
    ]
    return hits, labels, claims
