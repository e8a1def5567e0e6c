"""Which object is to go, which hand stays, and where both are in the photo."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from handhold.data.occlusion import see, visible_share
from handhold.errors import InputError
from handhold.geometry import boxes, crop
from handhold.geometry.boxes import box_from_points
from handhold.hand.model import HandModel
from handhold.objects.mesh import ObjectMesh
from handhold.render.raycast import RenderMesh
from handhold.scene import FloatArray, Hand, Sample
from handhold.synthesis.conditions import hand_mesh

Mask = NDArray[np.bool_]
CROP_FACTOR = 1.5  # of the boxes of hand and object


@dataclass(frozen=True, kw_only=True, eq=False)
class Removal:
    """What is known about a frame whose object goes.

    number: of the hand that holds it. mesh: of that hand, camera frame; others: of the other hands
    whose vertices are known. object_mask, hand_mask (H, W) bool: visible pixels; amodal (H, W): the
    whole hand. visibility: the hand's visible share. needed: it is small enough for a pair.
    """

    number: int
    mesh: RenderMesh
    others: tuple[RenderMesh, ...]
    object_mask: Mask
    hand_mask: Mask
    amodal: Mask
    visibility: float
    needed: bool = True


class Planner:
    """Says of samples whether they get a second image, and finds what that takes.

    models: hand models by side. objects: meshes by the names that samples use, or none: then the
    samples' own object masks must do. threshold: hands that are seen to a larger share than this
    get no second image, as UniHOPE pairs no other frames (0.9; on HO3D 0.8).
    """

    def __init__(
        self,
        models: Mapping[str, HandModel],
        objects: Mapping[str, ObjectMesh] | None = None,
        threshold: float = 0.9,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold: expected a visible share 0..1, found {threshold}")
        self.models, self.threshold = models, threshold
        self._meshes = None if objects is None else {k: drawn(v) for k, v in objects.items()}

    def __call__(self, sample: Sample) -> Removal | str:
        """The removal, or in a word or two why there is none.

        Raises InputError for hands without vertices, unknown objects, and objects of which neither
        mask nor mesh is there.
        """
        number = next((i for i, hand in enumerate(sample.hands) if hand.grasping), None)
        if number is None:
            return "no hand" if not sample.hands else "not grasping"
        if sample.object is None:
            return "no object"
        hand = sample.hands[number]
        mesh = self._hand(sample, hand)
        others = tuple(
            self._hand(sample, other)
            for i, other in enumerate(sample.hands)
            if i != number and other.vertices is not None and other.side is not None
        )
        thing = self._object(sample)
        seen = see([mesh, *others, *([] if thing is None else [thing])], sample.camera)
        object_mask = np.zeros(seen.visible.shape[1:], bool)
        if thing is not None:
            object_mask |= seen.visible[-1]
        if sample.object_mask is not None:
            object_mask |= sample.object_mask
        own = sample.hand_mask if number == 0 else None  # stored masks are the first hand's
        visible = (seen.visible[0] & ~object_mask) if own is None else own
        amodal = seen.amodal[0]
        if not amodal.any():
            return "outside the photo"
        share = visible_share(visible & amodal, amodal) or 0.0
        share = share if hand.visibility is None else hand.visibility
        return Removal(
            number=number,
            mesh=mesh,
            others=others,
            object_mask=object_mask,
            hand_mask=visible,
            amodal=amodal,
            visibility=share,
            needed=share <= self.threshold,
        )

    def _hand(self, sample: Sample, hand: Hand) -> RenderMesh:
        if hand.side is None or hand.vertices is None:
            raise InputError(
                f"{sample.key}: its hand has no vertices of this hand model; --mano FOLDER reads "
                "labels that were made with MANO"
            )
        return hand_mesh(hand, self.models[hand.side])

    def _object(self, sample: Sample) -> RenderMesh | None:
        thing = sample.object
        if thing is None:
            return None
        if self._meshes is None:
            if sample.object_mask is None:
                raise InputError(
                    f"{sample.key}: it has no mask of its object {thing.name!r}; give the objects' "
                    "meshes (--objects FOLDER)"
                )
            return None
        if thing.name not in self._meshes:
            raise InputError(
                f"{sample.key}: there is no mesh of its object {thing.name!r} among the objects "
                f"({', '.join(sorted(self._meshes)[:4])}, ...)"
            )
        return self._meshes[thing.name].placed(thing.rotation, thing.translation)


def drawn(mesh: ObjectMesh) -> RenderMesh:
    """An object's triangles to cast rays on; its search tree is made once for all poses."""
    plain = RenderMesh(vertices=mesh.vertices, faces=mesh.faces, name=mesh.name)
    return plain.placed(np.eye(3), np.zeros(3))


def with_labels(sample: Sample, removal: Removal, bare: NDArray[np.uint8] | None) -> Sample:
    """The sample with its second image, and with what the removal found out where it does not say
    so itself: visible share (training pairs nothing without it) and masks."""
    hands = list(sample.hands)
    hand = hands[removal.number]
    if hand.visibility is None:
        hands[removal.number] = dataclasses.replace(hand, visibility=removal.visibility)
    added: dict[str, Any] = {"object_mask": removal.object_mask}
    if removal.number == 0:
        added |= {"hand_mask": removal.hand_mask, "hand_mask_amodal": removal.amodal}
    added = {name: mask for name, mask in added.items() if getattr(sample, name) is None}
    return dataclasses.replace(sample, hands=tuple(hands), bare_image=bare, **added)


def crop_of(sample: Sample, removal: Removal, size: int) -> FloatArray:
    """The map (3, 3) from the photo to the crop of hand and object that UniHOPE repaints.

    Their boxes times 1.5, together, clipped to the photo, made square about the truncated centre.
    """
    hand, thing = sample.hands[removal.number], sample.object
    if hand.joints2d is None:
        raise InputError(f"{sample.key}: expected a hand with 2D joints")
    joints = np.asarray(hand.joints2d, np.float64)
    both = box_from_points(joints, CROP_FACTOR, valid=hand.joints2d_valid, truncate=True)
    points = None
    if thing is not None and thing.control_points is not None:
        placed = thing.control_points @ thing.rotation.T + thing.translation
        points = sample.camera.project(placed) if (placed[:, 2] > 1e-3).all() else None
    if points is None and removal.object_mask.any():
        points = np.argwhere(removal.object_mask)[:, ::-1].astype(np.float64)
    if points is not None:
        both = boxes.union(both, box_from_points(points, CROP_FACTOR, truncate=True))
    centre, side = crop.hope_region(both, sample.camera.width, sample.camera.height)
    return crop.crop_affine(centre, max(float(side), 4.0), size)


def grown(mask: Mask, pixels: float) -> Mask:
    """The mask and all within so many pixels of it."""
    if pixels <= 0 or not mask.any():
        return mask
    return distance_to(mask) <= pixels


def distance_to(mask: Mask) -> FloatArray:
    """Distance (H, W) in pixels to the nearest pixel of the mask, which must not be empty."""
    far = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(far, np.float32)


def feathered(mask: Mask, inner: float, outer: float) -> FloatArray:
    """Opacity (H, W): 1 up to `inner` pixels beyond the mask, then down to 0 at `outer`."""
    if not mask.any():
        return np.zeros(mask.shape, np.float32)
    return np.clip((outer - distance_to(mask)) / max(outer - inner, 1e-6), 0, 1)
