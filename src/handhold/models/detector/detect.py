"""From photos to detections: folded batch norms, thresholds, suppression, back to photo pixels."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

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
from handhold.models.nn.efficientnet import ConvNorm
from handhold.scene import FloatArray, Side


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One hand. box (4,): tight around the 21 joints, photo pixels. score, side_score, holding:
    0..1; side_score is the probability of the side named. object_box (4,): of what the hand holds,
    None unless holding > 0.5. object_name, wrist (3,) (metres, camera frame): only ever given.
    """

    box: FloatArray
    side: Side
    score: float
    side_score: float = 1.0
    holding: float = 0.0
    object_box: FloatArray | None = None
    object_name: str | None = None
    wrist: FloatArray | None = None


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
        """Hands of every photo (H, W, 3) uint8 RGB, best first. Photos of one shape are run as one
        batch. Raises InputError for anything but uint8 RGB.
        """
        threshold = self.config.score_threshold if score_threshold is None else score_threshold
        most = self.config.max_hands if max_hands is None else max_hands
        found: list[list[Detection]] = [[] for _ in images]
        for rows, prediction in self._run(images):
            hands = select(prediction, self.config, threshold, most)
            for row, of_one in zip(rows, hands, strict=True):
                scale = self.config.input_size / max(images[row].shape[:2])
                found[row] = [_to_photo(hand, images[row], scale) for hand in of_one]
        return found

    def describe(self, image: NDArray[np.uint8], boxes: FloatArray) -> list[Detection]:
        """What the network sees in given boxes (N, 4) of one photo: side, holding, object box.

        Each box is answered by the location whose own box, wherever it is likely to be a hand,
        overlaps it most. `box` and `score` of the result are those given and the location's.
        """
        ((_, prediction),) = self._run([image])
        scale = self.config.input_size / max(image.shape[:2])
        own = prediction.boxes[0].cpu().numpy().astype(np.float64)
        own = _rescale(grow_box(own, 1 / self.config.box_growth), scale)
        score = prediction.score[0].sigmoid().cpu().numpy()
        described = []
        for box in np.asarray(boxes, dtype=np.float64).reshape(-1, 4):
            best = int(np.argmax(box_tools.iou(own, box) * np.sqrt(score)))
            hand = _detection(prediction, 0, best, self.config)
            hand = _to_photo(hand, image, scale)
            described.append(replace(hand, box=box))
        return described

    def _run(
        self, images: Sequence[NDArray[np.uint8]]
    ) -> Iterator[tuple[list[int], DetectorPrediction]]:
        """One batch for every padded size, so that no photo's result depends on its neighbours'
        shapes."""
        groups: dict[tuple[int, int], list[tuple[int, NDArray[np.uint8]]]] = {}
        for i, image in enumerate(images):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise InputError(
                    f"HandDetector: expected (H, W, 3) uint8, found {image.shape} {image.dtype}"
                )
            small = letterbox(image, self.config.input_size)
            height, width = (32 * -(-edge // 32) for edge in small.shape[:2])
            groups.setdefault((height, width), []).append((i, small))
        for (height, width), members in groups.items():
            pixels = np.full((len(members), height, width, 3), PADDING, dtype=np.uint8)
            for row, (_, small) in zip(pixels, members, strict=True):
                row[: small.shape[0], : small.shape[1]] = small
            with torch.inference_mode():
                # (B, H, W, 3) seen as (B, 3, H, W) is already in the layout the network prefers
                batch = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
                yield [i for i, _ in members], self.network(batch)


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Replace convolution + batch norm by one convolution, in place. Works on eval-mode
    networks.
    """
    for module in network.modules():
        if isinstance(module, ConvNorm) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()
        elif isinstance(module, nn.Sequential):
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
        boxes = prediction.boxes[i, keep].cpu().numpy().astype(np.float64)
        right = (prediction.side[i, keep] > 0).cpu().numpy()
        order = suppress(
            boxes, right, config.overlap, config.overlap_other_side, config.containment
        )
        places = keep.tolist()
        result.append([_detection(prediction, i, places[j], config) for j in order[:max_hands]])
    return result


def _detection(
    prediction: DetectorPrediction, row: int, place: int, config: DetectorConfig
) -> Detection:
    """What one location says, in input pixels."""
    right = float(prediction.side[row, place].sigmoid())
    holding = float(prediction.holding[row, place].sigmoid())
    box = prediction.boxes[row, place].cpu().numpy().astype(np.float64)
    thing = prediction.object_boxes[row, place].cpu().numpy().astype(np.float64)
    return Detection(
        box=grow_box(box, 1 / config.box_growth),
        side="right" if right > 0.5 else "left",
        score=float(prediction.score[row, place].sigmoid()),
        side_score=max(right, 1 - right),
        holding=holding,
        object_box=thing if holding > 0.5 else None,
    )


def suppress(
    boxes: FloatArray,
    right: NDArray[np.bool_],
    overlap: float,
    overlap_other_side: float,
    containment: float = 1.0,
) -> list[int]:
    """Indices to keep of boxes (N, 4) sorted by falling score: a box goes when a kept one overlaps
    it by more than `overlap` (same side) or `overlap_other_side` (IoU), or when one of the two
    lies in the other by more than `containment` of its area (same side).
    """
    kept: list[int] = []
    alive = np.ones(len(boxes), dtype=bool)
    areas = box_tools.area(boxes)
    for i in range(len(boxes)):
        if alive[i]:
            kept.append(i)
            same = right == right[i]
            limit = np.where(same, overlap, overlap_other_side)
            shared = box_tools.area(box_tools.intersection(boxes, boxes[i]))
            inside = shared > containment * np.minimum(areas, areas[i])
            alive &= (box_tools.iou(boxes, boxes[i]) <= limit) & ~(same & inside)
    return kept


def _rescale(box: FloatArray, scale: float) -> FloatArray:
    """Letterbox pixels -> photo pixels."""
    return (box - (scale - 1) / 2) / scale


def _to_photo(hand: Detection, image: NDArray[np.uint8], scale: float) -> Detection:
    height, width = image.shape[:2]
    thing = None if hand.object_box is None else _rescale(hand.object_box, scale)
    box = box_tools.clip(_rescale(hand.box, scale), width - 1, height - 1)
    return replace(hand, box=box, object_box=thing)
