"""What HOISDF is given beside the fields of every batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from handhold.errors import InputError
from handhold.scene import Batch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class HOISDFBatch(Batch):
    """A batch with the object's centre and, in training, points with signed distances.

    Needed always, also in use: `intrinsics` of the crop, `root` (the wrist in the camera frame) and
    object_center (B, 3), metres, camera frame: the origin of the object's points (the centre of its
    box, at the wrist's depth for DexYCB, at 0.5244322 m for HO3D).

    Points are metres, camera axes, from their own origin: `root` for the hand's, object_center for
    the object's. Distances are metres, positive outside.
    hand_sdf_points (B, N, 3) with hand_sdf (B, N), object_sdf_points with object_sdf: supervision
    of the distance fields; has_sdf (B,) bool: the distances are known, the object's where
    has_object is set as well; None: where pose and object are known. hand_query_points (B,
    hand_points, 3), object_query_points (B, object_points, 3): tokens of the pose stage; None:
    those of the grid nearest to the surfaces.
    hand_pixels, object_pixels (B, S/2, S/2): 1 where hand or object is visible in the crop;
    has_pixels (B,) bool, None: all. object_rotation (B, 3) axis-angle; object_translation (B, 3)
    metres, camera axes, from object_center; has_object (B,) bool, None: all. vote_joints (B, 21, 3)
    metres from the wrist: the data set's own joints, None: `joints` less their wrist.
    """

    object_center: Tensor | None = None
    hand_sdf_points: Tensor | None = None
    hand_sdf: Tensor | None = None
    has_sdf: Tensor | None = None
    object_sdf_points: Tensor | None = None
    object_sdf: Tensor | None = None
    hand_query_points: Tensor | None = None
    object_query_points: Tensor | None = None
    hand_pixels: Tensor | None = None
    object_pixels: Tensor | None = None
    has_pixels: Tensor | None = None
    object_rotation: Tensor | None = None
    object_translation: Tensor | None = None
    has_object: Tensor | None = None
    vote_joints: Tensor | None = None


def given(batch: Batch, name: str) -> Tensor:
    """The field `name` of the batch; InputError when it is missing."""
    value = getattr(batch, name, None)
    if value is None:
        raise InputError(f"HOISDFBatch.{name}: HOISDF needs it, found None")
    return value
