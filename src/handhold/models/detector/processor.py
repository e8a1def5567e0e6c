"""Samples to `DetectorBatch`: letterbox, augmentation, labels. The letterbox of prediction is the
one of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.geometry.boxes import area, box_from_points, corners
from handhold.models.detector.distort import distort
from handhold.models.detector.model import DetectorBatch, DetectorConfig
from handhold.scene import FloatArray, Hand, Sample

PADDING = 114  # grey beside the letterboxed photo


@dataclass(frozen=True, kw_only=True)
class DetectorProcessorConfig:
    """Augmentation (only with a generator): zoom relative to the letterbox; sized: chance that the
    zoom is chosen so that a hand gets a size drawn log-uniformly from hand_size (pixels); mosaic:
    chance of four photos in one; flip; rotate: chance of a small rotation up to rotation_deg; turn:
    chance of any rotation. min_visible: share of a hand's box that must be in view, below it the
    hand is neither a positive nor a negative. incomplete_weight: of negatives where a photo's
    labels may be incomplete. max_upscale: largest magnification of a photo.
    """

    zoom: tuple[float, float] = (0.4, 1.6)
    sized: float = 0.6
    hand_size: tuple[float, float] = (14.0, 300.0)
    mosaic: float = 0.3
    flip: float = 0.5
    rotate: float = 0.5
    rotation_deg: float = 25.0
    turn: float = 0.15
    distortion: float = 0.9
    min_visible: float = 0.4
    min_visibility: float = 0.1
    incomplete_weight: float = 0.05
    max_upscale: float = 2.5

    def __post_init__(self) -> None:
        for name in ("zoom", "hand_size"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise InputError(
                    f"DetectorProcessorConfig.{name}: expected 0 < low <= high: {low}, {high}"
                )


def joint_box(hand: Hand) -> FloatArray | None:
    """Tight box (4,) around the hand's 21 2D joints; where some are unknown, `Hand.box` if there is
    one, else the box of those that are known. None when nothing is known.
    """
    if hand.joints2d is not None:
        known = np.isfinite(hand.joints2d).all(axis=1)
        if hand.joints2d_valid is not None:
            known &= hand.joints2d_valid
        if known.all() or (hand.box is None and known.sum() >= 2):
            points = hand.joints2d[known]
            return box_from_points(points)
    return None if hand.box is None else np.asarray(hand.box, dtype=np.float64)


def grow_box(boxes: FloatArray, factor: float) -> FloatArray:
    """Boxes (..., 4) scaled by `factor` about their centres."""
    return box_from_points(corners(boxes), factor)


def letterbox_matrix(width: int, height: int, size: int) -> FloatArray:
    """(2, 3) affine map of photo pixels to the letterbox: long edge `size`, photo in the top-left
    corner, pixel centres at whole numbers.
    """
    scale = size / max(width, height)
    return resize_affine(scale, scale)[:2]


def letterbox(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The photo with its long edge resized to `size`, not yet padded: (h, w, 3)."""
    height, width = image.shape[:2]
    scale = size / max(width, height)
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, shape, interpolation=method), dtype=np.uint8)


@dataclass(frozen=True)
class _Label:
    box: FloatArray  # input pixels; the visible part of the joints' box, then grown
    ignored: bool
    right: float  # 1 right, 0 left, -1 unknown
    holding: int
    object_box: FloatArray | None


class DetectorProcessor:
    """`encode` turns whole photos into a batch; with a generator it augments (and may mix the
    photos given).
    """

    def __init__(
        self,
        config: DetectorConfig | None = None,
        augmentation: DetectorProcessorConfig | None = None,
        backgrounds: Sequence[NDArray[np.uint8]] = (),
    ) -> None:
        self.config = config or DetectorConfig()
        self.augmentation = augmentation or DetectorProcessorConfig()
        self.backgrounds = backgrounds

    def encode(
        self, samples: Sequence[Sample], rng: np.random.Generator | None = None
    ) -> DetectorBatch:
        """Batch of len(samples) images of side `input_size`. Raises InputError for an empty
        sequence.
        """
        if not samples:
            raise InputError("DetectorProcessor.encode: expected at least one sample, found none")
        size = self.config.input_size
        images = np.full((len(samples), size, size, 3), PADDING, dtype=np.uint8)
        labels: list[list[_Label]] = []
        weights = np.ones(len(samples), dtype=np.float32)
        whole = (0, 0, size, size)
        for i, sample in enumerate(samples):
            complete = sample.hands_complete
            if rng is None:
                matrix = letterbox_matrix(sample.camera.width, sample.camera.height, size)
                labels.append(self._draw(images[i], sample, matrix, whole, False, None))
            elif rng.random() < self.augmentation.mosaic:
                others = [samples[j] for j in rng.integers(0, len(samples), 3)]
                labels.append([])
                tiles = _quarters(size, rng)
                for tile, one in zip(tiles, (sample, *others), strict=True):
                    labels[i] += self._place(images[i], one, tile, rng)
                    complete &= one.hands_complete
            else:
                labels.append(self._place(images[i], sample, whole, rng))
            if rng is not None and rng.random() < self.augmentation.distortion:
                images[i] = distort(images[i], rng)
            weights[i] = 1.0 if complete else self.augmentation.incomplete_weight
        return _batch(images, labels, weights, [sample.key for sample in samples])

    def _place(
        self,
        canvas: NDArray[np.uint8],
        sample: Sample,
        tile: tuple[int, int, int, int],
        rng: np.random.Generator,
    ) -> list[_Label]:
        """Draw an augmented view of the sample into a tile of the canvas."""
        config, width, height = self.augmentation, sample.camera.width, sample.camera.height
        x0, y0, x1, y1 = tile
        boxes = [box for hand in sample.hands if (box := joint_box(hand)) is not None]
        scale = min((x1 - x0) / width, (y1 - y0) / height)
        scale *= float(np.exp(rng.uniform(*np.log(config.zoom))))
        if boxes and rng.random() < config.sized:
            box = boxes[rng.integers(len(boxes))]
            side = max(box[2] - box[0], box[3] - box[1], 1.0)
            most = min(config.hand_size[1], 0.95 * max(x1 - x0, y1 - y0))
            scale = float(np.exp(rng.uniform(np.log(config.hand_size[0]), np.log(most)))) / side
        scale = min(scale, config.max_upscale)
        angle = 0.0
        exact = all(hand.joints2d is not None for hand in sample.hands)
        if exact and rng.random() < config.turn:
            angle = rng.uniform(-180, 180)
        elif rng.random() < config.rotate:
            angle = rng.uniform(-1, 1) * (config.rotation_deg if exact else 8.0)
        flip = bool(rng.random() < config.flip)
        c, s = scale * np.cos(np.radians(angle)), scale * np.sin(np.radians(angle))
        linear = np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if flip else 1.0, 1.0])
        reach = np.abs(linear) @ np.array([width, height]) / 2
        middle = np.array([x0 + x1 - 1, y0 + y1 - 1]) / 2
        slack = np.abs(np.array([x1 - x0, y1 - y0]) / 2 - reach)
        photo_middle = np.array([width - 1, height - 1]) / 2
        matrix = np.zeros((2, 3))
        for _ in range(6):  # a view without any hand is allowed, but rare
            place = middle + rng.uniform(-1, 1, 2) * slack
            matrix = np.column_stack([linear, place - linear @ photo_middle])
            centers = [linear @ ((b[:2] + b[2:]) / 2) + matrix[:, 2] for b in boxes]
            if not boxes or any(x0 < x < x1 and y0 < y < y1 for x, y in centers):
                break
        return self._draw(canvas, sample, matrix, tile, flip, rng)

    def _fill(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.uint8]:
        """A picture of the given (height, width), or one colour (3,)."""
        if len(self.backgrounds) and rng.random() < 0.75:
            picture = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
            h, w = picture.shape[:2]
            part_h, part_w = (max(1, int(edge * rng.uniform(0.4, 1.0))) for edge in (h, w))
            y, x = int(rng.integers(h - part_h + 1)), int(rng.integers(w - part_w + 1))
            part = picture[y : y + part_h, x : x + part_w]
            resized = cv2.resize(part, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
            return np.asarray(resized, dtype=np.uint8)
        if rng.random() < 0.5:
            return np.full(3, PADDING, dtype=np.uint8)
        return rng.integers(0, 256, 3, dtype=np.uint8)

    def _draw(
        self,
        canvas: NDArray[np.uint8],
        sample: Sample,
        matrix: FloatArray,
        tile: tuple[int, int, int, int],
        flip: bool,
        rng: np.random.Generator | None,
    ) -> list[_Label]:
        x0, y0, x1, y1 = tile
        view = canvas[y0:y1, x0:x1]
        if rng is None:
            resized = letterbox(sample.image, self.config.input_size)
            view[: resized.shape[0], : resized.shape[1]] = resized
        else:
            _warp_onto(view, self._fill(view.shape[:2], rng), sample.image, matrix, tile)
        photo = corners([0, 0, sample.camera.width - 1, sample.camera.height - 1])
        visible = box_from_points(photo @ matrix[:, :2].T + matrix[:, 2])
        visible = _clip(visible, (x0, y0, x1 - 1, y1 - 1))
        found = []
        for hand in sample.hands:
            label = self._label(sample, hand, matrix, visible, flip)
            if label is not None:
                found.append(label)
        return found

    def _label(
        self, sample: Sample, hand: Hand, matrix: FloatArray, visible: FloatArray, flip: bool
    ) -> _Label | None:
        box = joint_box(hand)
        if box is None:
            return None
        points = corners(box)
        if hand.joints2d is not None:
            known = np.isfinite(hand.joints2d).all(axis=1)
            if hand.joints2d_valid is not None:
                known &= hand.joints2d_valid
            points = hand.joints2d if known.all() else points
        points = points @ matrix[:, :2].T + matrix[:, 2]
        full = box_from_points(points)
        seen = _clip(full, visible)
        share = float(area(seen) / max(area(full), 1e-6))
        if share <= 0:
            return None
        box = grow_box(seen, self.config.box_growth)
        hidden = hand.visibility is not None
        hidden = hidden and (hand.visibility or 0.0) < self.augmentation.min_visibility
        tiny = max(box[2] - box[0], box[3] - box[1]) < 8
        holding = -1 if hand.grasping is None else int(hand.grasping)
        held = sample.object if holding == 1 else None
        object_box = None
        if held is not None and held.held is not False:
            outline = None
            if held.control_points is not None:
                outline = held.control_points @ held.rotation.T + held.translation
                outline = sample.camera.project(outline) if (outline[:, 2] > 1e-3).all() else None
            elif held.box is not None:
                outline = corners(held.box)
            if outline is not None:
                object_box = box_from_points(outline @ matrix[:, :2].T + matrix[:, 2])
        return _Label(
            box=box,
            ignored=bool(share < self.augmentation.min_visible or hidden or tiny),
            right=-1.0 if hand.side is None else float((hand.side == "right") != flip),
            holding=holding,
            object_box=object_box,
        )


def _warp_onto(
    view: NDArray[np.uint8],
    fill: NDArray[np.uint8],
    image: NDArray[np.uint8],
    matrix: FloatArray,
    tile: tuple[int, int, int, int],
) -> None:
    """Write the photo, moved by `matrix`, into `view` (the tile); `fill` where it is not."""
    x0, y0, x1, y1 = tile
    affine = np.vstack([matrix, [0, 0, 1]])
    affine[:2, 2] -= (x0, y0)
    height, width = image.shape[:2]
    shrink = 1 / float(np.sqrt(abs(np.linalg.det(affine[:2, :2]))))
    if shrink > 1.6:  # area averaging first, or the warp would alias
        small = (max(1, round(width / shrink)), max(1, round(height / shrink)))
        affine = affine @ resize_affine(width / small[0], height / small[1])
        image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), np.uint8)
    view[:] = fill
    cv2.warpAffine(
        image, affine[:2], (x1 - x0, y1 - y0), dst=view, borderMode=cv2.BORDER_TRANSPARENT
    )


def resize_affine(scale_x: float, scale_y: float) -> FloatArray:
    """(3, 3) map of pixels under resizing by the factors: the outer edge at -0.5 stays."""
    return np.array([[scale_x, 0, (scale_x - 1) / 2], [0, scale_y, (scale_y - 1) / 2], [0, 0, 1]])


def _quarters(size: int, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    x, y = (int(v) for v in rng.integers(round(0.35 * size), round(0.65 * size) + 1, 2))
    return [(0, 0, x, y), (x, 0, size, y), (0, y, x, size), (x, y, size, size)]


def _clip(box: FloatArray, limits: Sequence[float] | FloatArray) -> FloatArray:
    low, high = np.asarray(limits[:2]), np.asarray(limits[2:])
    return np.concatenate([np.clip(box[:2], low, high), np.clip(box[2:], low, high)])


def _batch(
    images: NDArray[np.uint8], labels: list[list[_Label]], weights: FloatArray, keys: list[str]
) -> DetectorBatch:
    most = max(len(hands) for hands in labels)
    shape = (len(labels), most)
    boxes, object_boxes = torch.zeros((*shape, 4)), torch.zeros((*shape, 4))
    valid, ignored, has_object = (torch.zeros(shape, dtype=torch.bool) for _ in range(3))
    side, holding = torch.zeros(shape), torch.full(shape, -1.0)
    for i, hands in enumerate(labels):
        for j, label in enumerate(hands):
            boxes[i, j] = torch.from_numpy(label.box).float()
            valid[i, j], ignored[i, j] = True, label.ignored
            side[i, j], holding[i, j] = label.right, float(label.holding)
            if label.object_box is not None:
                object_boxes[i, j] = torch.from_numpy(label.object_box).float()
                has_object[i, j] = True
    return DetectorBatch(
        image=torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
        boxes=boxes,
        valid=valid,
        ignored=ignored,
        side=side,
        holding=holding,
        object_boxes=object_boxes,
        has_object=has_object,
        negative_weight=torch.from_numpy(weights),
        keys=keys,
    )
