"""HandOS as one graph of tensors, to be exported: a photo of any size in, its hands out.

What `HandOSProcessor` and `filtering` do outside the network with arrays and loops, the same here
without decisions that an exported graph could not repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.models.handos.batch import HandOSPrediction, PhotoBatch
from handhold.models.handos.camera import to_pixels
from handhold.models.handos.detectors import DetectorOutput, GivenBoxes
from handhold.models.handos.model import Chosen, HandOS
from handhold.models.handos.positions import pairwise_iou, to_corners
from handhold.models.handos.processor import HandOSProcessorConfig

MIN_SIDE = 8  # pixels: in smaller photos no hand could be told
RESULTS = ("scores", "right", "volume", "boxes", "joints2d", "joints", "vertices", "translation")


@dataclass(frozen=True)
class View:
    """A photo on its canvas: pixels (1, 3, H, W) uint8 or float 0..1, valid_size (1, 2) of the
    photo there, photo_size (1, 2) of the photo itself, width and height; intrinsics (1, 3, 3) of
    the canvas."""

    pixels: Tensor
    valid_size: Tensor
    photo_size: Tensor
    intrinsics: Tensor

    @classmethod
    def of(cls, batch: PhotoBatch, row: int, photo_size: tuple[int, int]) -> View:
        """One photo of a batch."""
        one = slice(row, row + 1)
        size = torch.tensor([photo_size], dtype=torch.float32)
        return cls(batch.image[one], batch.valid_size[one], size, batch.intrinsics[one])


class PhotoGraph(nn.Module):
    """photo (H, W, 3) uint8 RGB, intrinsics (3, 3) -> `RESULTS` of its K hands, best first.

    scores (K,); right (K,) bool: the mesh's side, and volume (K,), how sure that is (`sides`);
    boxes (K, 4): x0, y0, x1, y1, tight around the joints, and joints2d (K, 21, 2): pixels of the
    photo; joints (K, 21, 3), vertices (K, 778, 3): metres, camera frame; translation (K, 3): which
    both contain. The same as `HandOSProcessor` and `HandOS` give, without the fit of pose and
    shape; the letterbox is within a grey level of OpenCV's.

    Raises InputError for a network that gives no meshes, or on given boxes.
    """

    def __init__(self, network: HandOS, settings: HandOSProcessorConfig) -> None:
        super().__init__()
        self.core = PhotoCore(network, settings)
        self.size = network.config.input_size

    def forward(self, photo: Tensor, intrinsics: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        view = letterboxed(photo, intrinsics, self.size)
        found = self.core(view)
        back = view.photo_size / view.valid_size  # (1, 2): canvas to photo
        shift = (back - 1) / 2
        pixels = to_pixels(found.joints2d, view.valid_size)
        return (
            found.scores,
            found.volume > 0,
            found.volume,
            found.tight,
            pixels * back + shift,
            found.joints + found.translation[:, None],
            found.vertices + found.translation[:, None],
            found.translation,
        )


@dataclass(frozen=True)
class Raw:
    """Of K hands of one photo, last layer: scores (K,); boxes (K, 4) and joints2d (K, 21, 2) in
    0..1 of the valid area; tight (K, 4): boxes in the photo's pixels; joints (K, 21, 3), vertices
    (K, 778, 3), translation (K, 3), volume (K,)."""

    scores: Tensor
    boxes: Tensor
    tight: Tensor
    joints2d: Tensor
    joints: Tensor
    vertices: Tensor
    translation: Tensor
    volume: Tensor


class PhotoCore(nn.Module):
    """A photo on its canvas -> `Raw`: detection, both suppressions, meshes of what is left."""

    def __init__(self, network: HandOS, settings: HandOSProcessorConfig) -> None:
        super().__init__()
        if isinstance(network.detector, GivenBoxes):
            raise InputError(
                "export: expected a network that finds hands, found one on given boxes"
            )
        if not network.config.layers_mesh:
            raise InputError("export: a 2D model (layers_mesh=0) gives no meshes")
        self.network, self.settings = network, settings

    def forward(self, view: View) -> Raw:
        """See the class."""
        network, config = self.network, self.network.config
        batch = _batch(view)
        found = network.detect(batch)
        scores, boxes = found.scores[0], found.boxes[0]
        usable = (view.photo_size[0].amin(0) >= MIN_SIDE) & (scores > config.score_threshold)
        index, alive = greedy(scores, boxes, usable, config.nms_iou, config.max_hands)
        tight = tight_boxes(boxes[index], view, self.settings.box_growth)
        alive = distinct(tight, alive, self.settings.overlap)
        kept = alive.nonzero()[:, 0]
        chosen = _chosen(found, index[kept])
        said = network.decode(network.memory(found), chosen, view.valid_size, view.intrinsics)
        return raw(said, tight[kept])


def raw(said: HandOSPrediction, tight: Tensor) -> Raw:
    """Of the last layer. Raises InputError where there are no meshes."""
    vertices, joints, moved, volume = said.vertices, said.joints, said.translation, said.volume
    if vertices is None or joints is None or moved is None or volume is None:
        raise InputError("export: expected a prediction with meshes, found none")
    return Raw(
        said.scores,
        said.boxes,
        tight,
        said.joints2d[:, -1],
        joints[:, -1],
        vertices[:, -1],
        moved[:, -1],
        volume,
    )


def _batch(view: View) -> PhotoBatch:
    none = view.pixels.new_zeros(1, 0, 4)
    return PhotoBatch(
        image=view.pixels,
        valid_size=view.valid_size,
        intrinsics=view.intrinsics,
        affine=view.intrinsics,
        flipped=none,
        given_boxes=none,
        given_scores=none,
    )


def _chosen(found: DetectorOutput, index: Tensor) -> Chosen:
    queries = torch.cat((found.query_first[0, index], found.query_last[0, index]), dim=-1)
    image = torch.zeros_like(index)
    return Chosen(image, image - 1, found.scores[0, index], found.boxes[0, index], queries)


def greedy(
    scores: Tensor, boxes: Tensor, usable: Tensor, overlap: float, most: int
) -> tuple[Tensor, Tensor]:
    """`filtering.suppress` without a loop that depends on values: index (n,) of the usable ones of
    scores (Q,), best first, alive (n,) bool: whether that place is taken; n is `most` or Q."""
    iou = pairwise_iou(boxes, boxes)
    none = torch.full_like(scores, -1.0)
    left = torch.where(usable, scores, none)
    numbers = torch.arange(len(scores), device=scores.device)
    index, alive = [], []
    for _ in range(min(most, len(scores))):
        best = left.argmax(keepdim=True)
        index.append(best)
        alive.append(left.gather(0, best) >= 0)
        gone = (iou.index_select(0, best)[0] > overlap) | (numbers == best)
        left = torch.where(gone, none, left)
    return torch.cat(index), torch.cat(alive)


def distinct(boxes: Tensor, alive: Tensor, overlap: float) -> Tensor:
    """Which (n,) of the boxes (n, 4; corners), best first, stay: no better one that stays overlaps
    them by more."""
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    whole = torch.cat((centre, size), dim=-1)
    near = (pairwise_iou(whole, whole) > overlap).triu(1)
    for place in range(len(boxes) - 1):
        alive = alive & ~(near[place] & alive[place])
    return alive


def tight_boxes(boxes: Tensor, view: View, growth: float) -> Tensor:
    """Boxes (K, 4) as the detector learns them, cx, cy, w, h in 0..1 of the valid area -> around
    the joints, in pixels of the photo and within it."""
    shrunk = torch.cat((boxes[:, :2], boxes[:, 2:] / growth), dim=-1)
    size = torch.cat((view.photo_size, view.photo_size), dim=-1)  # shares are of both alike
    pixels = to_corners(shrunk) * size - 0.5
    return torch.minimum(pixels.clamp(min=0), size - 1)


# ------------------------------------------------------------------------------------ letterbox


def letterboxed(photo: Tensor, intrinsics: Tensor, size: int) -> View:
    """`processor.letterbox` on a square canvas, for photos (H, W, 3) uint8 of any size: the mean
    over each pixel's area where the photo shrinks, else linear interpolation."""
    height, width = photo.shape[:2]
    edges = torch.stack([_scalar(width), _scalar(height)])
    longest = edges.amax(0)
    seen = (edges * (size / longest)).round().clamp(min=1)
    ratio = edges / seen
    taps: Any = torch.sym_max(height, width) // size + 2  # a whole number, or what becomes one
    shrinks = longest > size
    columns, across = _taps(ratio[0], seen[0], width, size, taps, shrinks)
    rows, down = _taps(ratio[1], seen[1], height, size, taps, shrinks)
    part = photo[rows.flatten()].reshape(size, taps, width * 3).float()
    lines = (down[:, None] @ part).reshape(size, width, 3).transpose(0, 1)
    part = lines[columns.flatten()].reshape(size, taps, size * 3)
    pixels = (across[:, None] @ part).reshape(size, size, 3)  # column, row, colour
    halves = (ratio == 2).all()  # OpenCV rounds them up there, elsewhere to even numbers
    pixels = torch.where(halves, (pixels + 0.5).floor(), pixels.round())
    scale = 1 / ratio
    affine = torch.eye(3, dtype=scale.dtype) * torch.cat((scale, scale.new_ones(1)))
    shift = torch.cat(((scale - 1) / 2, scale.new_zeros(1)))
    affine = affine + shift[:, None] * affine.new_tensor([0.0, 0.0, 1.0])
    return View(
        pixels=(pixels / 255).permute(2, 1, 0)[None],
        valid_size=seen[None].float(),
        photo_size=edges[None].float(),
        intrinsics=(affine @ intrinsics.to(affine))[None].float(),
    )


def _scalar(number: int) -> Tensor:
    return torch.scalar_tensor(number, dtype=torch.float64)


def _taps(
    ratio: Tensor, seen: Tensor, count: int, size: int, taps: int, shrinks: Tensor
) -> tuple[Tensor, Tensor]:
    """Of every one of `size` pixels of an axis: which of the photo's `count` it is made of, and
    with which weights, both (size, taps); beyond `seen` all weights are 0."""
    place = torch.arange(size, dtype=torch.float64)[:, None]
    step = torch.arange(taps, dtype=torch.float64)
    low, high = place * ratio, (place + 1) * ratio
    whole = low.floor() + step
    area = (torch.minimum(high, whole + 1) - torch.maximum(low, whole)).clamp(min=0) / ratio
    middle = (place + 0.5) * ratio - 0.5
    near = middle.floor() + step
    linear = (1 - (middle - near).abs()).clamp(min=0)
    index = torch.where(shrinks, whole, near).clamp(min=0).long()
    weight = torch.where(shrinks, area, linear) * (place < seen)
    return index.clamp(max=count - 1), weight.float()
