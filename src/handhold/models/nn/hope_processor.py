"""The processor of most methods: photo and labels -> Batch, Prediction -> hands and objects.

Every hand becomes a right hand here (`encode`) and its true side again here (`decode`). "Working"
coordinates below are those of the photo, mirrored for left hands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.geometry import boxes, crop
from handhold.geometry.camera import mirror_intrinsics, project
from handhold.geometry.virtual_camera import virtual_camera
from handhold.hand.model import HandModel
from handhold.models.nn import hope_decoding
from handhold.models.nn.hand_parameters import HandParameters
from handhold.models.nn.hope_augmentation import colour, degrade
from handhold.models.nn.hope_config import HopeProcessorConfig
from handhold.models.nn.hope_targets import (
    Item,
    View,
    checked_box,
    extent,
    hand_targets,
    joints_in_photo,
    mask_at,
    mirror,
    stack,
)
from handhold.scene import Batch, Camera, Hand, Prediction, RigidObject, Sample, Side

__all__ = ["HopeProcessor", "HopeProcessorConfig"]

Array = NDArray[np.floating[Any]]


def flip(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mirror image (H, W, 3)."""
    return np.asarray(cv2.flip(image, 1), np.uint8)


class HopeProcessor:
    """Sample -> Batch and Prediction -> hands, by one `config`.

    object_classes: catalogue name -> class index of the network. control_points: catalogue name ->
    (21, 3) metres in the object's own frame; needed to decode poses, and to encode objects that do
    not bring their own.

    Methods with a crop or with batch fields of their own override `_square` and `_own_fields`.
    """

    defaults: type[HopeProcessorConfig] = HopeProcessorConfig
    batch: type[Batch] = Batch

    def __init__(
        self,
        config: HopeProcessorConfig | None = None,
        *,
        object_classes: Mapping[str, int] | None = None,
        control_points: Mapping[str, Any] | None = None,
        hand: HandModel | None = None,
    ) -> None:
        self.config = self.defaults() if config is None else config
        if self.config.camera == "virtual" and type(self) is not HopeProcessor:
            raise InputError("HopeProcessorConfig.camera: this method takes affine crops only")
        self.hand = hand
        self.parameters = None if hand is None else HandParameters(hand)
        self.object_classes = dict(object_classes or {})
        self.control_points = {
            name: np.asarray(points, np.float64) for name, points in (control_points or {}).items()
        }
        for name, points in self.control_points.items():
            if points.shape != (21, 3):
                raise InputError(
                    f"control_points[{name!r}]: expected (21, 3), found {points.shape}"
                )

    # ------------------------------------------------------------------ photo -> Batch

    def encode(
        self,
        samples: Sequence[tuple[Sample, int]],
        rng: np.random.Generator | None = None,
    ) -> Batch:
        """Return the batch of hands `sample.hands[index]` with all targets but joints and vertices.

        rng: draws the augmentation; None means none, and boxes by the test-time rule. Objects that
        lack control
        points count as unlabelled. A missing object: class -1, mask 0, object_box the whole crop.
        Raises InputError for an index without hand and hands with neither 2D joints, 3D joints nor
        box.
        """
        rows = [self._encode_one(sample, index, rng) for sample, index in samples]
        return stack(rows, self.batch)

    def encode_boxes(
        self,
        image: NDArray[np.uint8],
        hand_boxes: Sequence[Any],
        sides: Sequence[Side],
        object_boxes: Sequence[Any | None] | None,
        camera: Camera,
        wrists: Sequence[Any | None] | None = None,
    ) -> Batch:
        """Return the batch (no targets) of the hands in `hand_boxes` (B, 4) of one photo (H, W, 3)
        uint8.

        The boxes are tight (around the joints). object_boxes: what each hand may hold, or None.
        wrists: true positions (3,), metres, camera frame, for methods that take them, or None.
        """
        objects = [None] * len(hand_boxes) if object_boxes is None else object_boxes
        places = [None] * len(hand_boxes) if wrists is None else wrists
        if not len(hand_boxes) == len(sides) == len(objects) == len(places):
            raise InputError(
                f"encode_boxes: expected {len(hand_boxes)} sides, object boxes and wrists, one per "
                f"box, found {len(sides)}, {len(objects)}, {len(places)}"
            )
        flipped: NDArray[np.uint8] | None = None
        rows: list[dict[str, Any]] = []
        for box, side, thing, wrist in zip(hand_boxes, sides, objects, places, strict=True):
            mirrored = side == "left"
            if mirrored and flipped is None and self.config.interpolation == "nearest":
                flipped = flip(image)
            item = Item(
                image=image,
                intrinsics=np.asarray(camera.intrinsics, np.float64),
                mirrored=mirrored,
                hand_points=mirror(boxes.corners(checked_box(box)), image.shape[1], mirrored),
                object_points=None
                if thing is None
                else mirror(boxes.corners(checked_box(thing)), image.shape[1], mirrored),
                with_object=thing is not None and self.config.crop_rule != "hand",
                wrist=None
                if wrist is None
                else np.asarray(wrist, np.float64) * (-1.0 if mirrored else 1.0, 1.0, 1.0),
            )
            view = self._view(item, None)
            pixels = self._pixels(image, view, mirrored, None, flipped)
            row = {"image": pixels, **self._way_back(item, view), "key": ""}
            rows.append(row | self._own_fields(item, view, row, None, None))
        return stack(rows, self.batch)

    def _encode_one(
        self, sample: Sample, index: int, rng: np.random.Generator | None
    ) -> dict[str, Any]:
        if not 0 <= index < len(sample.hands):
            raise InputError(f"{sample.key}: has {len(sample.hands)} hands, none number {index}")
        hand, settings = sample.hands[index], self.config.augmentation
        if hand.side is None:
            raise InputError(
                f"{sample.key}: the set does not say left or right; this network needs it "
                "(NAME/SPLIT?side=right:FOLDER takes every hand for a right one)"
            )
        mirrored, width = hand.side == "left", sample.image.shape[1]
        intrinsics = np.asarray(sample.camera.intrinsics, np.float64)
        joints2d, valid = joints_in_photo(hand, intrinsics)
        name, thing2d = self._object_points(sample)
        if rng is not None and thing2d is not None:
            chance = settings.drop_object if hand.grasping else settings.drop_free_object
            if chance > 0 and rng.random() < chance:
                thing2d = None
        rule = self.config.crop_rule
        given = rule == "boxes" or (rule == "label" and bool(hand.grasping))
        item = Item(
            image=sample.image,
            intrinsics=intrinsics,
            mirrored=mirrored,
            hand_points=mirror(extent(hand, joints2d, valid, sample.key), width, mirrored),
            object_points=None if thing2d is None else mirror(thing2d, width, mirrored),
            with_object=given and thing2d is not None,
        )
        view = self._view(item, rng)
        seed = None if rng is None else int(rng.integers(2**63))
        row = {
            "image": self._pixels(sample.image, view, mirrored, seed),
            **self._way_back(item, view),
            **hand_targets(hand, joints2d, valid, view, mirrored, width),
            **self._object_targets(sample, name, item, view),
            "key": sample.key,
        }
        row |= self._own_fields(item, view, row, (sample, hand), rng)
        if self.config.paired:
            visible = 1.0 if hand.visibility is None else hand.visibility
            use = bool(hand.grasping) and visible <= self.config.occlusion_threshold
            bare = sample.bare_image if use else None
            row["is_filtered"] = bare is None
            row["paired_image"] = (
                row["image"] if bare is None else self._pixels(bare, view, mirrored, seed)
            )
        return row

    def _own_fields(
        self,
        item: Item,
        view: View,
        row: dict[str, Any],
        labels: tuple[Sample, Hand] | None,
        rng: np.random.Generator | None,
    ) -> dict[str, Any]:
        """What the method's own batch holds besides (here nothing), or holds in another way.

        row: the fields of one hand so far. labels: None in use. rng: as in `encode`.
        """
        return {}

    def _object_points(self, sample: Sample) -> tuple[str | None, Array | None]:
        thing = sample.object
        if thing is None:
            return None, None
        points = thing.control_points
        if points is None and thing.name is not None:
            points = self.control_points.get(thing.name)
        if points is None:
            return thing.name, None
        placed = np.asarray(points, np.float64) @ thing.rotation.T + thing.translation
        if placed[:, 2].min() <= 1e-3:
            return thing.name, None
        return thing.name, project(placed, np.asarray(sample.camera.intrinsics, np.float64))

    def _view(self, item: Item, rng: np.random.Generator | None) -> View:
        settings, size = self.config.augmentation, self.config.input_size
        shift = np.zeros((2, 4))
        if rng is not None and settings.box_jitter > 0:
            shift = np.clip(rng.standard_normal((2, 4)), -2.5, 2.5) * settings.box_jitter

        intrinsics = item.intrinsics
        if item.mirrored:
            intrinsics = mirror_intrinsics(intrinsics, item.image.shape[1])
        if self.config.camera == "virtual":
            affine, seen = self._virtual(item, shift[0], intrinsics, rng)
        else:
            centre, side = self._square(item, shift)
            angle = 0.0
            if rng is not None:
                centre = centre + rng.uniform(-1, 1, 2) * settings.centre_jitter * side
                side = side * settings.draw_scale(rng)
                angle = settings.draw_rotation(rng)
            affine = crop.crop_affine(centre, side, size, angle)
            seen = {
                "angle": angle,
                "turn": crop.turn(angle),
                "scale": size / side,
                "intrinsics": crop.turned_intrinsics(intrinsics, affine, angle),
            }

        def roi(points: Array, factor: float, moved: Array) -> Array:
            if rng is None:  # the test-time rule: boxes are made in the photo, then moved
                return boxes.transform(self._box(points, factor, moved), affine)
            return self._box(boxes.apply_map(affine, points), factor, moved)

        things = item.object_points
        return View(
            affine=affine,
            **seen,
            hand_box=roi(item.hand_points, self.config.hand_factor, shift[0]),
            object_box=np.array([0.0, 0.0, size, size])
            if things is None
            else roi(things, self.config.object_factor, shift[1]),
        )

    def _virtual(
        self, item: Item, moved: Array, intrinsics: Array, rng: np.random.Generator | None
    ) -> tuple[Array, dict[str, Any]]:
        """The homography to a virtual camera's crop, and what a `View` knows of it. The centre
        moves by shares of the hand box's width and stays in the photo, then the box grows.
        """
        config, settings = self.config, self.config.augmentation
        box = self._box(item.hand_points, 1.0, moved)
        centre, sides = (box[:2] + box[2:]) / 2, np.maximum(box[2:] - box[:2], 4.0)
        factor, angle = config.crop_factor, 0.0
        if rng is not None:
            limit = np.asarray(item.image.shape[1::-1]) - 1.0
            centre = centre + rng.uniform(-1, 1, 2) * settings.centre_jitter * sides[0]
            centre = np.clip(centre, 0, limit)
            factor *= settings.draw_scale(rng)
            angle = settings.draw_rotation(rng)
        eye = virtual_camera(centre, factor * sides, config.input_size, intrinsics, angle)
        told = {"angle": angle, "turn": eye.rotation, "scale": eye.scale}
        return eye.homography, told | {"intrinsics": eye.intrinsics}

    def _box(self, points: Array, factor: float, moved: Array) -> Array:
        """The box around points (N, 2), its sides moved by the shares `moved` (4,), enlarged."""
        if self.config.truncate_centres:  # rounding as the originals' needs their float32
            points = points.astype(np.float32)
        tight = boxes.box_from_points(points)
        if moved.any():
            tight = tight + moved * np.tile(tight[2:] - tight[:2], 2)
        return boxes.box_from_points(
            boxes.corners(tight), factor, truncate=self.config.truncate_centres
        )

    def _square(self, item: Item, shift: Array) -> tuple[Array, float]:
        """Centre (2,) and side of what is cropped. shift (2, 4): how the boxes' sides move."""
        config, (height, width) = self.config, item.image.shape[:2]
        region = self._box(item.hand_points, config.crop_factor, shift[0])
        centre, side = self._region(region, width, height)
        if item.with_object and item.object_points is not None:
            both = boxes.union(region, self._box(item.object_points, config.crop_factor, shift[1]))
            wide_centre, wide_side = self._region(both, width, height)
            if config.largest_crop is None or wide_side <= config.largest_crop * side:
                centre, side = wide_centre, wide_side
        return centre, side

    def _region(self, box: Array, width: int, height: int) -> tuple[Array, float]:
        if self.config.clip_to_image and self.config.clip_rule == "slide":
            given = np.concatenate([box[:2], box[2:] - box[:2]]).astype(np.float64)
            moved, usable = crop.sanitise_xywh(given, width, height)
            if usable and moved[2:].max() >= 4:
                return moved[:2] + moved[2:] / 2, float(moved[2:].max())
        elif self.config.clip_to_image:
            centre, side = crop.hope_region(
                box, width, height, truncate=self.config.truncate_centres
            )
            if side >= 4:
                return centre, float(side)
        # not clipped, or wholly outside the photo: the box itself
        centre = (box[:2] + box[2:]) / 2
        return centre, max(float((box[2:] - box[:2]).max()), 4.0)

    def _pixels(
        self,
        image: NDArray[np.uint8],
        view: View,
        mirrored: bool,
        seed: int | None,
        flipped: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """The crop (S, S, 3). One seed gives both images of a pair the same colours."""
        config, settings = self.config, self.config.augmentation
        rng = None if seed is None else np.random.default_rng(seed)
        if rng is not None and settings.whole_frame:
            image = colour(image, settings, rng)
        affine = view.affine
        if mirrored and config.interpolation == "nearest":
            usable = flipped is not None and rng is None
            image = flipped if usable and flipped is not None else flip(image)
        elif mirrored:
            affine = affine @ crop.flip_affine(image.shape[1])
        pixels = crop.warp(image, affine, config.input_size, config.interpolation)
        if rng is not None:
            if not settings.whole_frame:
                pixels = colour(pixels, settings, rng, view.scale)
            pixels = degrade(pixels, settings, rng)
        return pixels

    def _way_back(self, item: Item, view: View) -> dict[str, Any]:
        width, affine = item.image.shape[1], view.affine
        back = affine
        if item.mirrored:
            back = crop.flip_affine(self.config.input_size) @ affine @ crop.flip_affine(width)
        return {
            "hand_box": view.hand_box,
            "object_box": view.object_box,
            "crop": back,
            "mirrored": item.mirrored,
            "intrinsics": view.intrinsics,
        }

    def _object_targets(
        self, sample: Sample, name: str | None, item: Item, view: View
    ) -> dict[str, Any]:
        cells = self.config.mask_size
        points, mask, label = np.zeros((21, 2)), np.zeros((cells, cells), np.float32), -1
        if item.object_points is not None:
            points = boxes.apply_map(view.affine, item.object_points)
            label = self.object_classes.get(name or "", -1)
            seen = sample.object_mask
            mask = mask - 1 if seen is None else self._mask(seen, item, view)
        return {"object_points2d": points, "object_mask": mask, "object_class": label}

    def _mask(self, mask: NDArray[np.bool_], item: Item, view: View) -> NDArray[np.float32]:
        """The visible object in the cells of its box: each cell looks at the photo pixel of its
        centre.
        """
        cells, size = self.config.mask_size, self.config.input_size
        low, high = view.object_box[:2], view.object_box[2:]
        grid = (np.arange(cells) + 0.5) / cells
        x, y = np.meshgrid(low[0] + grid * (high[0] - low[0]), low[1] + grid * (high[1] - low[1]))
        seen = (x >= -0.5) & (y >= -0.5) & (x < size - 0.5) & (y < size - 0.5)
        found = mask_at(mask, view.affine, np.stack([x, y], -1), item.mirrored)
        return (found & seen).astype(np.float32)

    # ------------------------------------------------------------------ Prediction -> hands

    def decode(
        self,
        prediction: Prediction,
        batch: Batch,
        cameras: Sequence[Camera],
        *,
        object_names: Sequence[str | None] | None = None,
    ) -> list[tuple[Hand, RigidObject | None]]:
        """Return one hand and its object per item, in the photo's camera frame, true side, photo
        pixels.

        cameras: one per item. object_names: which object each hand holds, when it is known (the
        official protocol); otherwise `object_class_logits` decide. An object needs control points
        of its name. Pose and shape that the network does not give are fitted to its vertices, where
        the processor knows the hand. Raises InputError when the batch has no way back or the
        prediction no 2D joints.
        """
        return hope_decoding.decode(
            prediction,
            batch,
            cameras,
            object_names=object_names,
            class_names={index: name for name, index in self.object_classes.items()},
            control_points=self.control_points,
            pnp=self.config.pnp,
            objects=self.config.objects,
            parameters=self.parameters,
        )
