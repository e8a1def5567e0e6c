"""What goes into HandOS and what comes out: whole photos with any number of hands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from handhold.hand.model import HandModel
from handhold.scene import _Tensors  # the shared way of moving tensors


@dataclass(frozen=True, kw_only=True)
class PhotoBatch(_Tensors):
    """B letterboxed photos, each in the upper left corner of its canvas, and their G labelled hands
    in one list.

    image (B, 3, H, W): uint8 RGB. valid_size (B, 2): width and height of the photo on the canvas,
    pixels. intrinsics (B, 3, 3): of the canvas. affine (B, 3, 3): photo pixels to canvas pixels
    (mirrored where `flipped` (B,) bool). given_boxes (B, N, 4), given_scores (B, N; 0: no box): for
    the detector `boxes`, as its boxes are.

    Labels: owner (G,): the hand's photo. boxes (G, 4): cx, cy, w, h in 0..1 of the valid area.
    joints2d (G, 21, 2) canvas pixels, joints2d_valid (G, 21). vertices (G, 778, 3), joints (G, 21,
    3): metres, camera axes of the canvas, true side, relative to the wrist; has_vertices,
    has_joints (G,) bool: False where they are not known (and zero). right (G,): 1 right, 0 left, -1
    unknown. None of them in use.
    """

    image: Tensor
    valid_size: Tensor
    intrinsics: Tensor
    affine: Tensor
    flipped: Tensor
    given_boxes: Tensor
    given_scores: Tensor
    owner: Tensor | None = None
    boxes: Tensor | None = None
    joints2d: Tensor | None = None
    joints2d_valid: Tensor | None = None
    vertices: Tensor | None = None
    joints: Tensor | None = None
    has_vertices: Tensor | None = None
    has_joints: Tensor | None = None
    right: Tensor | None = None
    keys: Sequence[str] = ()

    def __len__(self) -> int:
        return int(self.image.shape[0])


@dataclass(frozen=True, kw_only=True)
class HandOSPrediction(_Tensors):
    """K hands of all photos of a batch, found or (in training) positives.

    image (K,): the hand's photo. target (K,): number of its label, -1 in use. scores (K,), boxes
    (K, 4) in 0..1 of the valid area: the detector's. joints2d (K, layers, 21, 2): in 0..1 of the
    valid area. Of the mesh layers (in use the last one only; None in the 2D model): vertices (K,
    m, 778, 3) metres, from the network's own origin, which training puts at the wrist; joints (K,
    m, 21, 3), of these vertices; translation (K, m, 3): added to both, they are in the camera
    frame. volume (K,): signed and normalised, positive for right hands (`sides`).

    For the loss: hand: the right hand model whose vertices these are; faces (F, 3), face_pairs (P,
    2); anchor: zero, with a path to every parameter that
    learns; drift: sum of the squared changes of the learned upsampling.
    """

    image: Tensor
    target: Tensor
    scores: Tensor
    boxes: Tensor
    joints2d: Tensor
    faces: Tensor
    face_pairs: Tensor
    anchor: Tensor
    drift: Tensor
    vertices: Tensor | None = None
    joints: Tensor | None = None
    translation: Tensor | None = None
    volume: Tensor | None = None
    hand: HandModel | None = None

    def __len__(self) -> int:
        return int(self.image.shape[0])
