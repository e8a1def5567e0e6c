"""From photos to detections: folded batch norms, thresholds, suppression, back to photo pixels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from handhold.errors import InputError
from handhold.geometry import boxes as box_tools
from handhold.models.detector.model import (
    DetectorConfig,
    DetectorPrediction,
    HandDetectorNetwork,
)
from handhold.models.detector.processor import PADDING, grow_box, letterbox
from handhold.scene import FloatArray, Side


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One hand. box (4,): tight around the 21 joints, photo pixels. score, side_score, holding:
    0..1; side_score is the probability of the side named. object_box (4,): of what the hand holds,
    None unless holding > 0.5.
    """

    box: FloatArray
    side: Side
    score: float
    side_score: float = 1.0
    holding: float = 0.0
    object_box: FloatArray | None = None


class HandDetector:
    """Finds hands in whole photos. A copy of the network is made; training it further changes
    nothing here.
    """

    def __init__(self, network: HandDetectorNetwork, device: str | torch.device = "cpu") -> None:
        self.config: DetectorConfig = network.config
        self.device = torch.device(device)
        fused = fold_batch_norms(copy.deepcopy(network).eval().requires_grad_(False))
        self.network = fused.to(self.device)
        for weight in self.network.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    def detect(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        score_threshold: float | None = None,
        max_hands: int | None = None,
    ) -> list[list[Detection]]:
        """Hands of every photo (H, W, 3) uint8 RGB, best first. All photos are run as one batch,
        padded to the smallest common multiple of 32. Raises InputError for anything but uint8 RGB.
        """
        if not images:
            return []
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise InputError(
                    f"HandDetector: expected (H, W, 3) uint8, found {image.shape} {image.dtype}"
                )
        size = self.config.input_size
        small = [letterbox(image, size) for image in images]
        height, width = (
            32 * -(-max(photo.shape[axis] for photo in small) // 32) for axis in (0, 1)
        )
        pixels = np.full((len(small), height, width, 3), PADDING, dtype=np.uint8)
        for row, photo in zip(pixels, small, strict=True):
            row[: photo.shape[0], : photo.shape[1]] = photo
        with torch.inference_mode():
            # (B, H, W, 3) seen as (B, 3, H, W) is already in the layout the network prefers
            batch = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
            prediction = self.network(batch)
        threshold = self.config.score_threshold if score_threshold is None else score_threshold
        most = self.config.max_hands if max_hands is None else max_hands
        found = select(prediction, self.config, threshold, most)
        return [
            [_to_photo(hand, image, size) for hand in hands]
            for hands, image in zip(found, images, strict=True)
        ]


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Replace convolution + batch norm by one convolution, in place. Works on eval-mode
    networks.
    """
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            for i in range(len(module) - 1):
                conv, norm = module[i], module[i + 1]
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[i], module[i + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return network


def select(
    prediction: DetectorPrediction, config: DetectorConfig, threshold: float, max_hands: int
) -> list[list[Detection]]:
    """Detections of every image in input pixels: score above the threshold, overlaps removed, boxes
    shrunk to the joints.
    """
    scores = prediction.score.sigmoid()
    result = []
    for i, score in enumerate(scores):
        best = score.topk(min(200, score.numel()))
        keep = best.indices[best.values > threshold]
        values = score[keep].cpu().numpy()
        boxes = prediction.boxes[i, keep].cpu().numpy().astype(np.float64)
        right = prediction.side[i, keep].sigmoid().cpu().numpy()
        holding = prediction.holding[i, keep].sigmoid().cpu().numpy()
        objects = prediction.object_boxes[i, keep].cpu().numpy().astype(np.float64)
        order = suppress(boxes, right > 0.5, config.overlap, config.overlap_other_side)
        result.append(
            [
                Detection(
                    box=grow_box(boxes[j], 1 / config.box_growth),
                    side="right" if right[j] > 0.5 else "left",
                    score=float(values[j]),
                    side_score=float(max(right[j], 1 - right[j])),
                    holding=float(holding[j]),
                    object_box=objects[j] if holding[j] > 0.5 else None,
                )
                for j in order[:max_hands]
            ]
        )
    return result


def suppress(
    boxes: FloatArray, right: NDArray[np.bool_], overlap: float, overlap_other_side: float
) -> list[int]:
    """Indices to keep of boxes (N, 4) sorted by falling score: a box goes when a kept one overlaps
    it by more than `overlap` (same side) or `overlap_other_side` (IoU).
    """
    kept: list[int] = []
    alive = np.ones(len(boxes), dtype=bool)
    for i in range(len(boxes)):
        if alive[i]:
            kept.append(i)
            limit = np.where(right == right[i], overlap, overlap_other_side)
            alive &= box_tools.iou(boxes, boxes[i]) <= limit
    return kept


def _to_photo(hand: Detection, image: NDArray[np.uint8], size: int) -> Detection:
    height, width = image.shape[:2]
    scale = size / max(width, height)

    def back(box: FloatArray) -> FloatArray:
        return (box - (scale - 1) / 2) / scale

    return Detection(
        box=box_tools.clip(back(hand.box), width - 1, height - 1),
        side=hand.side,
        score=hand.score,
        side_score=hand.side_score,
        holding=hand.holding,
        object_box=None if hand.object_box is None else back(hand.object_box),
    )
