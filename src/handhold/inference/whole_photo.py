"""Methods that see whole photos: all hands at once, grasp and object from a method for crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from handhold.errors import InputError
from handhold.geometry.boxes import area
from handhold.inference.given_boxes import GivenBox, check_inside
from handhold.inference.images import Photo
from handhold.inference.photo_engine import photo_engine
from handhold.models.handos.detectors import GivenBoxes
from handhold.models.handos.graph import MIN_SIDE
from handhold.scene import Camera, Scene

if TYPE_CHECKING:
    from handhold.models.photo_registry import LoadedPhotoModel

Given = Sequence[list[GivenBox] | None]
Road = Callable[[Sequence[Photo], Sequence[Camera], Given], list[Scene]]


class WholePhotos:
    """Photos, their cameras and given boxes -> scenes, by a method that finds the hands itself.

    Given boxes are for methods on the detector `boxes`, which take box and score of them; the side
    is the mesh's. objects: a road for crops, asked for grasp and object of the hands found, by
    their boxes and sides (None: nobody tells). Its object has its own depth: it was not seen
    together with this hand's mesh. engine: see `photo_engine`.
    """

    def __init__(
        self,
        model: LoadedPhotoModel,
        device: torch.device,
        objects: Road | None = None,
        engine: str = "eager",
    ) -> None:
        self.model, self.device, self.objects = model, device, objects
        self.network = model.network.to(device).eval()
        self.run = photo_engine(self.network, model.processor, engine)
        self.needs_boxes = isinstance(model.network.detector, GivenBoxes)

    def __call__(
        self, photos: Sequence[Photo], cameras: Sequence[Camera], given: Given
    ) -> list[Scene]:
        """Raises InputError where boxes are missing, or given to a method that finds hands."""
        name = self.model.name
        scenes = [
            Scene(image=photo.name, camera=camera, model=name)
            for photo, camera in zip(photos, cameras, strict=True)
        ]
        groups: dict[tuple[int, int], list[int]] = {}
        for i, (photo, boxes) in enumerate(zip(photos, given, strict=True)):
            self._check(photo, boxes)
            if min(photo.image.shape[:2]) >= MIN_SIDE and (boxes is None or boxes):
                size = self.model.processor.canvas(*photo.image.shape[1::-1])
                groups.setdefault(size, []).append(i)
        for members in groups.values():
            seen = [photos[i] for i in members]
            views = [cameras[i] for i in members]
            found = self._hands(seen, views, [given[i] or [] for i in members])
            for i, scene in zip(members, found, strict=True):
                scenes[i] = scene
        return scenes if self.objects is None else self._with_objects(photos, scenes)

    def _check(self, photo: Photo, boxes: Sequence[GivenBox] | None) -> None:
        name = self.model.name
        if boxes is None and self.needs_boxes:
            raise InputError(
                f"{photo.name}: this {name} stands on the detector `boxes`, so boxes must be given"
            )
        if boxes is not None and not self.needs_boxes:
            raise InputError(
                f"{photo.name}: {name} finds the hands itself, found boxes given; a method for "
                "crops takes them, or weights on the detector `boxes`"
            )
        check_inside(boxes or [], photo.image.shape[1], photo.image.shape[0], photo.name)

    def _hands(
        self,
        photos: Sequence[Photo],
        cameras: Sequence[Camera],
        given: Sequence[Sequence[GivenBox]],
    ) -> list[Scene]:
        """One batch: photos of one canvas, so that no result depends on its neighbours' shapes."""
        processor = self.model.processor
        batch = processor.encode_photos(
            [photo.image for photo in photos],
            cameras,
            [np.array([one.box for one in boxes]).reshape(-1, 4) for boxes in given],
        )
        for row, boxes in zip(batch.given_scores, given, strict=True):
            row[: len(boxes)] = torch.tensor([one.score for one in boxes])
        with torch.inference_mode():
            found = self.run(batch.to(self.device), cameras)
        names = [photo.name for photo in photos]
        return processor.decode(found, batch, cameras, names=names, model=self.model.name)

    def _with_objects(self, photos: Sequence[Photo], scenes: list[Scene]) -> list[Scene]:
        """The scenes with grasp and object of each hand, all hands of all photos in one go."""
        asked: dict[int, list[int]] = {}  # photo: its hands, but for those cut off at the border
        for i, scene in enumerate(scenes):
            sizes = [0.0 if hand.box is None else float(area(hand.box)) for hand in scene.hands]
            if seen := [k for k, size in enumerate(sizes) if size >= 1]:
                asked[i] = seen
        if not asked or self.objects is None:
            return scenes
        told = self.objects(
            [photos[i] for i in asked],
            [scenes[i].camera for i in asked],
            [[_as_given(scenes[i], k) for k in seen] for i, seen in asked.items()],
        )
        for (i, seen), other in zip(asked.items(), told, strict=True):
            hands, things = list(scenes[i].hands), list(scenes[i].objects)
            for k, hand, thing in zip(seen, other.hands, other.objects, strict=True):
                hands[k] = replace(hands[k], grasping=hand.grasping, grasp_score=hand.grasp_score)
                things[k] = thing
            scenes[i] = replace(scenes[i], hands=tuple(hands), objects=tuple(things))
        return scenes


def _as_given(scene: Scene, number: int) -> GivenBox:
    hand = scene.hands[number]
    if hand.box is None:
        raise InputError(f"{scene.image}: hand {number} has no box")
    return GivenBox(box=hand.box, side=hand.side, score=hand.score)
