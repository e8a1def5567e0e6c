"""Photos and labels to `PhotoBatch`, predictions to `Scene`: the whole photo, all its hands."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handhold.errors import InputError
from handhold.geometry.boxes import apply_affine, box_from_points, clip, corners, iou, transform
from handhold.geometry.camera import mirror_intrinsics
from handhold.geometry.crop import flip_affine, turn, turned_intrinsics, warp
from handhold.hand.inverse_kinematics import InverseKinematics
from handhold.hand.model import HandModel
from handhold.models.detector.distort import distort
from handhold.models.detector.processor import grow_box, joint_box, letterbox, resize_affine
from handhold.models.handos.batch import HandOSPrediction, PhotoBatch
from handhold.models.handos.camera import to_pixels
from handhold.models.handos.labels import HandLabels, label_hand
from handhold.models.handos.model import Chosen
from handhold.scene import Camera, FloatArray, Hand, Sample, Scene


@dataclass(frozen=True, kw_only=True)
class HandOSAugmentation:
    """In training. flip: chance of the mirror image (left hands become right ones). zoom: range of
    the photo's size relative to the letterbox. rotation_deg: largest turn in the image plane;
    vertices turn with it. distortion: chance of other colours, blur, noise. min_visible: share of a
    hand's joints that must be in view for it to be a label."""

    flip: float = 0.5
    zoom: tuple[float, float] = (0.75, 1.25)
    rotation_deg: float = 30.0
    distortion: float = 0.8
    min_visible: float = 0.3

    def __post_init__(self) -> None:
        object.__setattr__(self, "zoom", tuple(self.zoom))
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise InputError(f"HandOSAugmentation.zoom: expected 0 < low <= high: {self.zoom}")


@dataclass(frozen=True, kw_only=True)
class HandOSProcessorConfig:
    """input_size, square: see `HandOSConfig`; multiple: of canvas edges where it is not square.
    box_growth: boxes are those of the joints, this much larger, as the detector learns them.

    overlap: of hands found, the weaker of two with a larger IoU goes (1: none), stricter than the
    network's own `nms_iou`. fit: pose and shape of the hand model are fitted to each mesh. mesh:
    "network", or "fitted": vertices and joints of that fit, which always are a hand's. joints2d:
    the 2D layers' ("direct"), or those of the mesh ("projected").
    """

    input_size: int = 1280
    square: bool = False
    multiple: int = 64
    box_growth: float = 1.25
    overlap: float = 0.5
    fit: bool = True
    mesh: Literal["network", "fitted"] = "network"
    joints2d: Literal["direct", "projected"] = "direct"
    augmentation: HandOSAugmentation = field(default_factory=HandOSAugmentation)

    def __post_init__(self) -> None:
        if self.mesh not in ("network", "fitted") or self.joints2d not in ("direct", "projected"):
            raise InputError(
                "HandOSProcessorConfig: expected mesh network or fitted and joints2d direct or "
                f"projected, found {self.mesh!r}, {self.joints2d!r}"
            )
        if self.mesh == "fitted" and not self.fit:
            raise InputError("HandOSProcessorConfig.mesh: a fitted mesh needs fit")

    def fitted(self, config: Any) -> HandOSProcessorConfig:
        """For a network of this configuration."""
        return dataclasses.replace(self, input_size=config.input_size, square=config.square)


@dataclass(frozen=True)
class _View:
    """A photo on its canvas: pixels (h, w, 3), photo -> canvas, intrinsics, the turn, mirrored."""

    pixels: NDArray[np.uint8]
    affine: FloatArray
    intrinsics: FloatArray
    angle: float
    flipped: bool


class HandOSProcessor:
    """hand: the network's right hand model."""

    def __init__(self, config: HandOSProcessorConfig, hand: HandModel) -> None:
        self.config = config
        self.hand = hand
        self._fitter: InverseKinematics | None = None

    # ----------------------------------------------------------------------------- to batches

    def encode(
        self, items: Sequence[tuple[Sample, int]], rng: np.random.Generator | None = None
    ) -> PhotoBatch:
        """Labelled photos; with a generator they are augmented. The number beside a sample (of one
        of its hands) is not used. Raises InputError for no photo."""
        views, labels = [], []
        for sample, _ in items:
            view = self._view(sample.image, sample.camera, rng)
            views.append(view)
            labels.append(self._labels(sample, view))
        given = [np.stack([x.box for x in mine]) if mine else np.zeros((0, 4)) for mine in labels]
        batch = self._batch(views, given, [np.ones(len(boxes)) for boxes in given])
        flat = [(i, label) for i, mine in enumerate(labels) for label in mine]
        fields = HandLabels.stack([label for _, label in flat])
        owner = torch.tensor([i for i, _ in flat], dtype=torch.long)
        keys = [sample.key for sample, _ in items]
        return dataclasses.replace(batch, owner=owner, keys=keys, **fields)

    def encode_photos(
        self,
        images: Sequence[NDArray[np.uint8]],
        cameras: Sequence[Camera],
        boxes: Sequence[FloatArray] | None = None,
    ) -> PhotoBatch:
        """Photos to predict. boxes: tight ones (N, 4) of each photo, pixels, for the detector
        `boxes`. Raises InputError for no photo."""
        views = [
            self._view(image, camera, None) for image, camera in zip(images, cameras, strict=True)
        ]
        given = []
        for number, view in enumerate(views):
            found = np.zeros((0, 4)) if boxes is None else np.asarray(boxes[number], np.float64)
            grown = grow_box(found.reshape(-1, 4), self.config.box_growth)
            given.append(_shares(transform(grown, view.affine), view.pixels))
        return self._batch(views, given, [np.ones(len(found)) for found in given])

    def _view(
        self, image: NDArray[np.uint8], camera: Camera, rng: np.random.Generator | None
    ) -> _View:
        height, width = image.shape[:2]
        size, intrinsics = self.config.input_size, camera.intrinsics.astype(np.float64)
        if rng is None:
            pixels = letterbox(image, size)
            affine = resize_affine(pixels.shape[1] / width, pixels.shape[0] / height)
            return _View(pixels, affine, affine @ intrinsics, 0.0, False)
        told = self.config.augmentation
        flipped = bool(rng.random() < told.flip)
        before = flip_affine(width) if flipped else np.eye(3)
        if flipped:
            intrinsics = mirror_intrinsics(intrinsics, width)
        scale = size / max(width, height) * float(np.exp(rng.uniform(*np.log(told.zoom))))
        angle = float(np.radians(rng.uniform(-1, 1) * told.rotation_deg))
        whole = np.array([width, height]) * scale
        seen = np.minimum(np.maximum(np.round(whole), 1), size).astype(int)
        shift = -rng.random(2) * np.maximum(whole - seen, 0)
        middle = np.eye(3)
        middle[:2, 2] = (seen - 1) / 2
        move = np.eye(3)
        move[:2, 2] = shift
        after = middle @ turn(angle) @ np.linalg.inv(middle) @ move @ resize_affine(scale, scale)
        affine = after @ before
        pixels = np.asarray(warp(image, affine, (int(seen[0]), int(seen[1]))), np.uint8)
        if rng.random() < told.distortion:
            pixels = distort(pixels, rng)
        return _View(pixels, affine, turned_intrinsics(intrinsics, after, angle), angle, flipped)

    def _labels(self, sample: Sample, view: _View) -> list[HandLabels]:
        found = []
        height, width = view.pixels.shape[:2]
        for hand in sample.hands:
            label = label_hand(hand, self.hand)
            pixels = apply_affine(view.affine, np.nan_to_num(label.joints2d))
            inside = ((pixels >= -0.5) & (pixels <= (width - 0.5, height - 0.5))).all(1)
            known = label.joints2d_valid
            box = joint_box(hand)
            if box is None or (
                known.any()
                and (inside & known).sum()
                < max(1, self.config.augmentation.min_visible * known.sum())
            ):
                continue
            outline = pixels if known.all() else apply_affine(view.affine, corners(box))
            grown = grow_box(box_from_points(outline), self.config.box_growth)
            seen = clip(grown, width - 1, height - 1)
            if (seen[2:] - seen[:2]).min() < 2:
                continue
            label = label.turned(turn(view.angle), view.flipped)
            found.append(
                dataclasses.replace(
                    label,
                    box=_shares(seen, view.pixels),
                    joints2d=pixels,
                    joints2d_valid=known & inside,
                )
            )
        return found

    def _batch(
        self,
        views: Sequence[_View],
        given: Sequence[FloatArray],
        scores: Sequence[FloatArray],
    ) -> PhotoBatch:
        if not views:
            raise InputError("HandOSProcessor: expected at least one photo, found none")
        config = self.config
        height, width = (max(view.pixels.shape[axis] for view in views) for axis in (0, 1))
        step = config.multiple
        height, width = -(-height // step) * step, -(-width // step) * step
        if config.square:
            height = width = config.input_size
        canvas = np.zeros((len(views), height, width, 3), np.uint8)
        most = max([1, *(len(boxes) for boxes in given)])
        boxes = np.full((len(views), most, 4), 0.5)
        sure = np.zeros((len(views), most))
        for i, view in enumerate(views):
            h, w = view.pixels.shape[:2]
            canvas[i, :h, :w] = view.pixels
            boxes[i, : len(given[i])], sure[i, : len(given[i])] = given[i], scores[i]
        sizes = np.array([view.pixels.shape[1::-1] for view in views])
        return PhotoBatch(
            image=torch.from_numpy(np.ascontiguousarray(canvas.transpose(0, 3, 1, 2))),
            valid_size=torch.from_numpy(sizes).float(),
            intrinsics=torch.from_numpy(np.stack([view.intrinsics for view in views])).float(),
            affine=torch.from_numpy(np.stack([view.affine for view in views])).float(),
            flipped=torch.tensor([view.flipped for view in views]),
            given_boxes=torch.from_numpy(boxes).float(),
            given_scores=torch.from_numpy(sure).float(),
        )

    def canvas(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the canvas of a photo of this size, alone in its batch."""
        size, step = self.config.input_size, self.config.multiple
        if self.config.square:
            return size, size
        scale = size / max(width, height)
        seen = (max(1, round(edge * scale)) for edge in (width, height))
        across, down = (-(-edge // step) * step for edge in seen)
        return across, down

    # ------------------------------------------------------------------------------ to scenes

    def decode(
        self,
        prediction: HandOSPrediction,
        batch: PhotoBatch,
        cameras: Sequence[Camera],
        *,
        names: Sequence[str] | None = None,
        model: str = "handos",
    ) -> list[Scene]:
        """Every photo's hands, best first, in its pixels and its camera's frame. batch: of
        `encode_photos`, or of `encode` without augmentation.

        The side is that of the mesh (`sides`). Raises InputError for a 2D model's prediction and
        for mirrored photos.
        """
        if prediction.vertices is None or prediction.volume is None:
            raise InputError("HandOSProcessor.decode: a 2D model (layers_mesh=0) gives no meshes")
        if bool(batch.flipped.any()):
            raise InputError("HandOSProcessor.decode: expected photos as they are, found mirrored")
        prediction, batch = prediction.to("cpu"), batch.to("cpu")
        hands = self._hands(prediction, batch, cameras)
        scenes = []
        for number, camera in enumerate(cameras):
            mine = [hands[k] for k in (prediction.image == number).nonzero()[:, 0].tolist()]
            order = _distinct(
                [hand.box for hand in mine], [hand.score for hand in mine], self.config.overlap
            )
            kept = [mine[place] for place in order]
            name = names[number] if names is not None else ""
            scenes.append(
                Scene(
                    image=name,
                    camera=camera,
                    model=model,
                    hands=tuple(kept),
                    objects=(None,) * len(kept),
                )
            )
        return scenes

    def thin(self, chosen: Chosen, batch: PhotoBatch, cameras: Sequence[Camera]) -> Tensor:
        """Rows of the hands found that `decode` would keep (`overlap`): the others need no mesh."""
        boxes, scores = chosen.boxes.cpu(), chosen.scores.cpu().tolist()
        sizes = dataclasses.replace(
            batch, valid_size=batch.valid_size.cpu(), affine=batch.affine.cpu()
        )
        kept: list[int] = []
        for image, camera in enumerate(cameras):
            mine = (chosen.image.cpu() == image).nonzero()[:, 0].tolist()
            tight = [self._tight(boxes[row], sizes, image, camera) for row in mine]
            found = _distinct(tight, [scores[row] for row in mine], self.config.overlap)
            kept += [mine[place] for place in sorted(found)]
        return torch.tensor(kept, dtype=torch.long, device=chosen.image.device)

    def _hands(
        self, prediction: HandOSPrediction, batch: PhotoBatch, cameras: Sequence[Camera]
    ) -> list[Hand]:
        if not len(prediction):
            return []
        vertices, joints, moved = (
            _last(value)
            for value in (prediction.vertices, prediction.joints, prediction.translation)
        )
        right = _last(prediction.volume) > 0
        pixels = to_pixels(prediction.joints2d[:, -1], batch.valid_size[prediction.image])
        fit = self._fit(vertices, right) if self.config.fit else None
        hands = []
        for k, image in enumerate(prediction.image.tolist()):
            camera, shift = cameras[image], moved[k].double().numpy()
            back = np.linalg.inv(batch.affine[image].double().numpy())
            fields: dict[str, Any] = {
                "vertices": vertices[k].double().numpy() + shift,
                "joints": joints[k].double().numpy() + shift,
            }
            if fit is not None:
                fields["pose"] = fit.pose[k].double().numpy()
                fields["betas"] = fit.betas[k].double().numpy()
                fields["translation"] = fit.translation[k].double().numpy() + shift
                if self.config.mesh == "fitted":
                    fields["vertices"] = fit.vertices[k].double().numpy() + shift
                    fields["joints"] = fit.joints[k].double().numpy() + shift
            joints2d = apply_affine(back, pixels[k].double().numpy())
            if self.config.joints2d == "projected":
                joints2d = camera.project(fields["joints"])
            hands.append(
                Hand(
                    side="right" if bool(right[k]) else "left",
                    box=self._tight(prediction.boxes[k], batch, image, camera),
                    score=float(prediction.scores[k]),
                    joints2d=joints2d,
                    **fields,
                )
            )
        return hands

    def _tight(self, box: Tensor, batch: PhotoBatch, image: int, camera: Camera) -> FloatArray:
        """A box (4,) of the detector -> around the joints, pixels of the photo, within it."""
        told = box.double().numpy()
        size = batch.valid_size[image].double().numpy()
        half = told[2:] / 2
        outline = np.concatenate([told[:2] - half, told[:2] + half]) * np.tile(size, 2) - 0.5
        back = np.linalg.inv(batch.affine[image].double().numpy())
        tight = grow_box(transform(outline, back), 1 / self.config.box_growth)
        return clip(tight, camera.width - 1, camera.height - 1)

    def _fit(self, vertices: Tensor, right: Tensor) -> Any:
        """Pose and shape of the hand model for meshes (K, 778, 3), left ones by their mirror
        images."""
        from handhold.hand.convention import mirror_points, mirror_pose

        if self._fitter is None:
            self._fitter = InverseKinematics(self.hand.cpu())
        side = right[:, None, None]
        with torch.no_grad():
            found = self._fitter(torch.where(side, vertices, mirror_points(vertices)).float())
        place = right[:, None]
        return dataclasses.replace(
            found,
            pose=torch.where(side, found.pose, mirror_pose(found.pose)),
            translation=torch.where(place, found.translation, mirror_points(found.translation)),
            vertices=torch.where(side, found.vertices, mirror_points(found.vertices)),
            joints=torch.where(side, found.joints, mirror_points(found.joints)),
        )


def _last(value: Tensor | None) -> Tensor:
    """Of the last layer, detached, on the CPU."""
    if value is None:
        raise InputError("HandOSProcessor.decode: expected a prediction with meshes")
    return (value[:, -1] if value.ndim > 1 else value).detach().float().cpu()


def _shares(boxes: FloatArray, pixels: NDArray[np.uint8]) -> FloatArray:
    """Boxes (..., 4) x0, y0, x1, y1 in canvas pixels -> cx, cy, w, h in 0..1 of the valid area."""
    size = np.array(pixels.shape[1::-1], np.float64)
    low, high = boxes[..., :2], boxes[..., 2:]
    centre = ((low + high) / 2 + 0.5) / size
    return np.concatenate([centre, (high - low) / size], axis=-1)


def _distinct(
    boxes: Sequence[FloatArray | None], scores: Sequence[float], overlap: float
) -> list[int]:
    """Which of them, best first, without those that overlap a better one by more than `overlap`."""
    kept: list[int] = []
    for place in sorted(range(len(boxes)), key=lambda place: -scores[place]):
        box, better = boxes[place], [boxes[other] for other in kept]
        if box is None or all(float(iou(box, x)) <= overlap for x in better if x is not None):
            kept.append(place)
    return kept
