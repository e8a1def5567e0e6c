"""What Keypoint Transformer learns from besides a common batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from handhold.scene import Batch

ORDER = "keypoint_transformer"  # its order of the 21 joints: tip to base per finger, wrist last


@dataclass(frozen=True, kw_only=True)
class KeypointBatch(Batch):
    """A batch with what this method learns from besides.

    object_map (B, M, M), M = half the input size: 1 where the crop shows the object, 0 where not,
    -1 where nobody knows. All in the crop's (mirrored, turned) camera axes and in metres:
    object_rotation (B, 3, 3), object_translation (B, 3) from the origin of the hand's joints (see
    `KeypointTransformerConfig.output`), object_corners (B, 8, 3) of the object's box in its own
    frame. object_corners2d (B, 8, 2) crop pixels. object_number (B,) int64: YCB's number, -1: no
    object pose is labelled.
    """

    object_map: Tensor | None = None
    object_rotation: Tensor | None = None
    object_translation: Tensor | None = None
    object_corners: Tensor | None = None
    object_corners2d: Tensor | None = None
    object_number: Tensor | None = None
