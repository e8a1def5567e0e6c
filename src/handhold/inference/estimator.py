"""From photos to scenes: `Estimator()("photo.jpg")`.

Road: photo -> hands found (or given boxes) -> crops of all hands of a group of photos -> network ->
camera frame. Whether an object takes part in a hand's crop is the detector's word, whether it is
held is the network's. Methods that see whole photos take another road (`whole_photo`), which leaves
this one in `Estimator._group` and meets it again in a Scene.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from handhold.errors import HandholdError, InputError
from handhold.inference.camera_source import Intrinsics, camera_of
from handhold.inference.fast import Network, fast
from handhold.inference.given_boxes import GivenBox, check_inside, parse_boxes
from handhold.inference.images import Photo, as_photo, read_ahead
from handhold.inference.whole_photo import WholePhotos
from handhold.models.detector import Detection, HandDetector, load_detector
from handhold.models.handos.graph import MIN_SIDE
from handhold.scene import Batch, Camera, Hand, RigidObject, Scene

if TYPE_CHECKING:
    from handhold.models.entry import LoadedModel
    from handhold.models.photo_registry import LoadedPhotoModel

DEFAULT_MODEL = "unihope-small"
GROUP_PIXELS = 30_000_000  # photos of a group together, unless one alone is larger
Boxes = Sequence[Any] | NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one file of many: a scene and the photo, or an error."""

    path: Path
    scene: Scene | None = None
    image: NDArray[np.uint8] | None = None
    error: HandholdError | None = None


class Estimator:
    """Finds the hands of photos and what they hold.

    model: a name of `handhold.list_models()` or of `models.photo_registry.PHOTO_MODELS`, or a
    loaded model. detector: "default", a weights file, a HandDetector, or "none" (then boxes must be
    given). mano: folder with MANO's files (default: the free hand). device: as PyTorch names it.
    batch_size: photos run together. engine: "eager", "best" or one of `handhold.inference.fast`:
    takes longer for the first photo and less for all others.

    objects: for methods that see whole photos, which find the hands themselves: the method for
    crops (name or loaded model) that tells grasp and object of these hands; "default" for the
    default model where its weights came with the package, "none". detector is then its (it tells
    where an object may be), engine both's (of methods for whole photos: `photo_engine`).

    Raises WeightsError when weights are missing or do not fit, InputError for an unknown device or
    engine or for objects where the method gives them itself, MissingExtraError when the engine's
    packages are missing.
    """

    def __init__(
        self,
        model: str | LoadedModel | LoadedPhotoModel = DEFAULT_MODEL,
        *,
        detector: str | Path | HandDetector = "default",
        weights: str | Path | None = None,
        mano: str | Path | None = None,
        device: str = "cpu",
        batch_size: int = 16,
        engine: str = "eager",
        objects: str | LoadedModel = "default",
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size: expected at least 1, found {batch_size}")
        self.device = _device(device)
        self.batch_size = batch_size
        if not isinstance(model, str) and weights is not None:
            raise InputError("weights: only usable with a model's name, not with a loaded model")
        self.model = model = _load(model, weights, mano)
        self.mano = mano
        self.whole: WholePhotos | None = None
        from handhold.models.photo_registry import LoadedPhotoModel

        if isinstance(model, LoadedPhotoModel):
            told = _object_method(objects, detector, mano, device, batch_size, engine)
            road = None if told is None else told._group
            self.whole = WholePhotos(model, self.device, road, engine)
            self.detector = None if told is None else told.detector
            return
        if objects != "default":
            raise InputError(f"objects: {model.name} tells them itself, found {objects!r}")
        self._processor = model.processor
        self.network: Network = model.network.to(self.device).eval()
        if engine != "eager":
            self.network = fast(model.network, None if engine == "best" else engine)
        if isinstance(detector, HandDetector):
            self.detector: HandDetector | None = detector
        elif detector == "none":
            self.detector = None
        else:
            self.detector = HandDetector(
                load_detector(None if detector == "default" else detector), self.device
            )

    def __call__(
        self,
        image: str | Path | NDArray[np.uint8],
        *,
        intrinsics: Intrinsics | None = None,
        fov: float | None = None,
        boxes: Boxes | None = None,
        name: str | None = None,
    ) -> Scene:
        """The hands of one photo: a path, or (H, W, 3) uint8 RGB.

        intrinsics: fx, fy, cx, cy or (3, 3), pixels of the upright photo. fov: degrees across the
        longer side. boxes: tight hand boxes from outside, (N, 4) or as in
        `handhold.inference.given_boxes`; no others are looked for. Raises FileFormatError,
        MissingFileError or InputError.
        """
        photo = as_photo(image, name)
        camera = camera_of(photo, intrinsics, fov)
        given = None if boxes is None else parse_boxes(boxes)
        return self._group([photo], [camera], [given])[0]

    def predict_many(
        self,
        paths: Sequence[str | Path],
        *,
        intrinsics: Intrinsics | None = None,
        fov: float | None = None,
        boxes: Mapping[str, Boxes] | None = None,
    ) -> Iterator[Outcome]:
        """The same for many files, in order; a file that fails gives an Outcome with its error.

        boxes: file name (or path as given) -> its boxes; photos without an entry are searched.
        Files are read in a thread while the networks run.
        """
        named = {} if boxes is None else dict(boxes)
        group: list[tuple[Path, Photo | HandholdError]] = []
        pixels = 0
        for path, item in read_ahead([Path(path) for path in paths]):
            size = item.image.shape[0] * item.image.shape[1] if isinstance(item, Photo) else 0
            if group and (len(group) == self.batch_size or pixels + size > GROUP_PIXELS):
                yield from self._outcomes(group, intrinsics, fov, named)
                group, pixels = [], 0
            group.append((path, item))
            pixels += size
        if group:
            yield from self._outcomes(group, intrinsics, fov, named)

    def hand_faces(self) -> dict[str, NDArray[np.int64]]:
        """Faces (F, 3) of the hands' meshes, for each side."""
        from handhold.hand.model import HandModel

        right = HandModel.load(self.mano, "right").faces.cpu().numpy()
        return {"right": right, "left": right[:, [0, 2, 1]]}

    def _outcomes(
        self,
        group: Sequence[tuple[Path, Photo | HandholdError]],
        intrinsics: Intrinsics | None,
        fov: float | None,
        boxes: Mapping[str, Boxes],
    ) -> list[Outcome]:
        """Run a group as one batch; where that fails, one by one, so that an error has one
        owner.
        """
        outcomes: dict[int, Outcome] = {}
        usable: list[tuple[int, Photo, Camera, list[GivenBox] | None]] = []
        for i, (path, item) in enumerate(group):
            if not isinstance(item, Photo):
                outcomes[i] = Outcome(path=path, error=item)
                continue
            try:
                entry = boxes.get(str(path), boxes.get(path.name))
                given = None if entry is None else parse_boxes(entry, f"boxes of {path.name}")
                usable.append((i, item, camera_of(item, intrinsics, fov), given))
            except HandholdError as error:
                outcomes[i] = Outcome(path=path, error=error)

        def run(part: Sequence[tuple[int, Photo, Camera, list[GivenBox] | None]]) -> None:
            scenes = self._group(
                [p for _, p, _, _ in part], [c for _, _, c, _ in part], [g for *_, g in part]
            )
            for (i, photo, _, _), scene in zip(part, scenes, strict=True):
                outcomes[i] = Outcome(path=group[i][0], scene=scene, image=photo.image)

        try:
            run(usable)
        except HandholdError:
            for one in usable:
                try:
                    run([one])
                except HandholdError as error:
                    outcomes[one[0]] = Outcome(path=group[one[0]][0], error=error)
        return [outcomes[i] for i in range(len(group))]

    def _group(
        self,
        photos: Sequence[Photo],
        cameras: Sequence[Camera],
        given: Sequence[list[GivenBox] | None],
    ) -> list[Scene]:
        if self.whole is not None:
            return self.whole(photos, cameras, given)
        found = self._find(photos, given)
        owners = [i for i, hands in enumerate(found) for _ in hands]
        placed = self._reconstruct(photos, cameras, found)
        scenes = []
        for i, (photo, camera) in enumerate(zip(photos, cameras, strict=True)):
            mine = [pair for owner, pair in zip(owners, placed, strict=True) if owner == i]
            scenes.append(
                Scene(
                    image=photo.name,
                    camera=camera,
                    model=self.model.name,
                    hands=tuple(hand for hand, _ in mine),
                    objects=tuple(thing for _, thing in mine),
                )
            )
        return scenes

    def _find(
        self, photos: Sequence[Photo], given: Sequence[list[GivenBox] | None]
    ) -> list[list[Detection]]:
        found: list[list[Detection]] = [[] for _ in photos]
        search = []
        for i, (photo, boxes) in enumerate(zip(photos, given, strict=True)):
            height, width = photo.image.shape[:2]
            if boxes is not None:
                check_inside(boxes, width, height, photo.name)
                found[i] = self._complete(photo.image, boxes)
            elif self.detector is None:
                raise InputError(f"{photo.name}: no detector is loaded, so boxes must be given")
            elif min(height, width) >= MIN_SIDE:
                search.append(i)
        if search and self.detector is not None:
            hands = self.detector.detect([photos[i].image for i in search])
            for i, of_photo in zip(search, hands, strict=True):
                found[i] = of_photo
        return found

    def _complete(self, image: NDArray[np.uint8], boxes: Sequence[GivenBox]) -> list[Detection]:
        """Given boxes as detections; what is not given (side, held object) the detector says.
        Without one the side must be given.
        """
        if not boxes:
            return []
        if self.detector is None:
            hands = []
            for given in boxes:
                if given.side is None:
                    raise InputError("boxes: without a detector every box needs its side")
                hands.append(Detection(box=given.box, side=given.side, score=given.score))
        else:
            hands = self.detector.describe(image, np.stack([given.box for given in boxes]))
        return [
            replace(
                hand,
                box=given.box,
                score=given.score,
                side=given.side or hand.side,
                object_box=given.object_box if given.object_known else hand.object_box,
                object_name=given.object_name,
                wrist=given.wrist,
            )
            for hand, given in zip(hands, boxes, strict=True)
        ]

    def _reconstruct(
        self,
        photos: Sequence[Photo],
        cameras: Sequence[Camera],
        found: Sequence[Sequence[Detection]],
    ) -> list[tuple[Hand, RigidObject | None]]:
        """Hands and objects of all detections, photo by photo, in the order given."""
        batches, owners, flat = [], [], []
        for photo, camera, hands in zip(photos, cameras, found, strict=True):
            if hands:
                batches.append(
                    self._processor.encode_boxes(
                        photo.image,
                        [hand.box for hand in hands],
                        [hand.side for hand in hands],
                        [hand.object_box for hand in hands],
                        camera,
                        [hand.wrist for hand in hands],
                    )
                )
                owners += [camera] * len(hands)
                flat += hands
        if not flat:
            return []
        batch = join(batches)
        placed: list[tuple[Hand, RigidObject | None]] = []
        step = 2 * self.batch_size
        for start in range(0, len(flat), step):
            part: Batch = replace(batch.map(lambda t, a=start: t[a : a + step]), keys=())
            with torch.inference_mode():
                prediction = self.network(part.to(self.device)).to("cpu")
            named = [hand.object_name for hand in flat[start : start + step]]
            placed += self._processor.decode(
                prediction,
                part,
                owners[start : start + step],
                object_names=named if any(named) else None,
            )
        result = []
        for (hand, thing), seen, camera in zip(placed, flat, owners, strict=True):
            joints2d = hand.joints2d
            if joints2d is None and hand.joints is not None:
                joints2d = camera.project(hand.joints)
            hand = replace(hand, box=seen.box, score=seen.score, joints2d=joints2d)
            held = hand.grasping is not False or seen.object_name is not None
            result.append((hand, thing if held else None))
        return result


def join(batches: Sequence[Batch]) -> Batch:
    """One batch of several, in order. Fields that one of them lacks are left out."""
    if len(batches) == 1:
        return batches[0]
    fields: dict[str, Any] = {}
    for item in dataclasses.fields(batches[0]):
        values = [getattr(batch, item.name) for batch in batches]
        if all(isinstance(value, torch.Tensor) for value in values):
            fields[item.name] = torch.cat(values)
    return type(batches[0])(**fields)


def _load(
    model: str | LoadedModel | LoadedPhotoModel, weights: str | Path | None, mano: str | Path | None
) -> LoadedModel | LoadedPhotoModel:
    if not isinstance(model, str):
        return model
    from handhold.models.loading import load_model
    from handhold.models.photo_registry import PHOTO_MODELS, load_photo_model

    load = load_photo_model if model in PHOTO_MODELS else load_model
    return load(model, weights=weights, mano=mano)


def _object_method(
    objects: str | LoadedModel,
    detector: str | Path | HandDetector,
    mano: str | Path | None,
    device: str,
    batch_size: int,
    engine: str,
) -> Estimator | None:
    """The method for crops that tells what hands hold; None for nobody."""
    if isinstance(objects, str):
        from handhold.models.loading import shipped_weights
        from handhold.models.photo_registry import PHOTO_MODELS

        if objects in PHOTO_MODELS:
            raise InputError(f"objects: expected a method for crops, found {objects}")
        if objects == "default":
            objects = DEFAULT_MODEL if shipped_weights(DEFAULT_MODEL) is not None else "none"
        if objects == "none":
            return None
    return Estimator(
        objects,
        detector=detector,
        mano=mano,
        device=device,
        batch_size=batch_size,
        engine=engine,
    )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    # PyTorch raises AssertionError for a device its build does not support
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device: {name!r} cannot be used here ({reason})") from error
    return device
