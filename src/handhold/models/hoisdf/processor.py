"""What HOISDF eats, and its hands and objects in the photo.

The shared HOPE processor and, besides, the wrist and the object's centre in the camera frame, which
the original takes from the ground truth also in test. In use they are estimated from the boxes: the
hand is as far away as one of the usual size would be that fills its box, in the box's middle, and
the object's centre is in the middle of its box at that distance. The points' votes for the joints
then say where the wrist is (`joints2d` of the prediction).

`root="label"` trains and tests with the true wrist, as the original, and takes it in use where it
is given (`wrists` of `encode_boxes`); `root="box"` trains with the estimate, so that nothing
changes in use. Then the votes' targets are the joints from that estimate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Self

import numpy as np
import torch

from handhold.errors import InputError
from handhold.geometry import crop
from handhold.geometry.camera import backproject
from handhold.geometry.signed_distance import MeshDistance
from handhold.hand.model import HandModel
from handhold.models.hoisdf.inputs import HOISDFBatch, given
from handhold.models.hoisdf.points import NEAR, Surfaces, sample, training_points
from handhold.models.nn import posed_objects
from handhold.models.nn.hope_augmentation import Augmentation
from handhold.models.nn.hope_config import HopeProcessorConfig
from handhold.models.nn.hope_decoding import axis_angle, turn_of
from handhold.models.nn.hope_processor import HopeProcessor
from handhold.models.nn.hope_targets import Array, Item, View, stack
from handhold.objects.procedural import make_object
from handhold.scene import Batch, Camera, Hand, Prediction, RigidObject, Sample

HO3D_DEPTH = 0.5244322  # metres: the original's object distance for HO3D
# metres: root of width times height of the joints' box, seen from the front at the joints' mean
# distance (geometric mean of 2,494 synthetic hands, whose logarithms scatter by 0.17)
HAND_EXTENT = 0.11


@dataclass(frozen=True, kw_only=True)
class HoisdfProcessorConfig(HopeProcessorConfig):
    """What HOISDF eats. The defaults are its own for DexYCB.

    root: where the hand's points have their origin, "label": the wrist where it is labelled, "box":
    always the estimate from the hand's box. object_depth: metres, distance of the object's centre,
    None: the root's. hand_points, object_points: of a training crop, tokens as well as supervised
    points. spare: so many times as many are drawn to choose them from.
    """

    input_size: int = 256
    crop_rule: Literal["label", "boxes", "hand"] = "boxes"
    root: Literal["label", "box"] = "label"
    object_depth: float | None = None
    hand_points: int = 600
    object_points: int = 200
    spare: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.root not in ("label", "box"):
            raise InputError(
                f"HoisdfProcessorConfig.root: expected label or box, found {self.root!r}"
            )
        if min(self.hand_points, self.object_points, self.spare) < 1:
            raise InputError(
                "HoisdfProcessorConfig: hand_points, object_points and spare must be positive"
            )
        if self.object_depth is not None and not 0 < self.object_depth < 100:
            raise InputError(f"HoisdfProcessorConfig.object_depth: found {self.object_depth}")

    @classmethod
    def official(cls, dataset: Literal["dexycb", "ho3d"] = "dexycb") -> HoisdfProcessorConfig:
        """The released settings."""
        if dataset == "dexycb":
            return cls()
        return cls(hand_factor=1.2, object_depth=HO3D_DEPTH, augmentation=Augmentation.ho3d())

    @classmethod
    def of_weights(cls, config: Any) -> HoisdfProcessorConfig:
        """What imported weights were trained with: DexYCB's are those with the small decoder and
        queries for all joints."""
        dexycb = config.decoder == "small" and config.hand_head == "queries"
        return cls.official("dexycb" if dexycb else "ho3d")

    @classmethod
    def trained_on(cls, preparation: str) -> HoisdfProcessorConfig:
        """For a training's `preparation`: "deployable", or the original's for "dexycb" or "ho3d".

        deployable: the wrist is never given; crops and augmentation as of our own models.
        """
        if preparation != "deployable":
            return cls.official("ho3d" if preparation == "ho3d" else "dexycb")
        return dataclasses.replace(cls.deployable(256), root="box")

    def fitted(self, config: Any) -> Self:
        """The same for a network's input size and numbers of points."""
        return dataclasses.replace(
            self,
            input_size=config.input_size,
            hand_points=config.hand_points,
            object_points=config.object_points,
        )


@lru_cache(maxsize=64)
def lookalike(name: str) -> MeshDistance | None:
    """The distance to our own model of a catalogue object, in its frame; None for other names."""
    try:
        mesh = make_object(name, np.random.default_rng(0))
    except InputError:
        return None
    return MeshDistance(*mesh.surface)


@dataclass(frozen=True, kw_only=True)
class Placing:
    """How hand and object stand in a crop: the wrist (3,) in the crop's camera frame, None: not
    labelled with a pose; the object in the photo with its mesh; the crop's turn and mirroring."""

    wrist: Array | None
    thing: RigidObject | None
    mesh: MeshDistance | None
    angle: float
    mirrored: bool


class HoisdfProcessor(HopeProcessor):
    """Sample -> HOISDFBatch and Prediction -> hands and objects, by one `config`.

    meshes: catalogue name -> distance to that object in its own frame, or None, for the points with
    distances that labelled crops get; objects it does not know count as unlabelled. None: no such
    points.
    """

    config: HoisdfProcessorConfig
    defaults = HoisdfProcessorConfig
    batch = HOISDFBatch

    def __init__(
        self,
        config: HoisdfProcessorConfig | None = None,
        *,
        object_classes: Mapping[str, int] | None = None,
        control_points: Mapping[str, Any] | None = None,
        hand: HandModel | None = None,
        meshes: Callable[[str], MeshDistance | None] | None = lookalike,
    ) -> None:
        super().__init__(
            config,
            object_classes=object_classes,
            control_points=control_points,
            hand=hand,
        )
        self.meshes = meshes

    # ------------------------------------------------------------------------- photo -> Batch

    def encode(
        self,
        samples: Sequence[tuple[Sample, int]],
        rng: np.random.Generator | None = None,
    ) -> Batch:
        """See `HopeProcessor.encode`; and points with distances, where there are `meshes`."""
        rows = [self._encode_one(sample_, index, rng) for sample_, index in samples]
        if rows and self.meshes is not None:
            self._add_points(rows, rng)
        return stack(rows, self.batch)

    def _own_fields(
        self,
        item: Item,
        view: View,
        row: dict[str, Any],
        labels: tuple[Sample, Hand] | None,
        rng: np.random.Generator | None,
    ) -> dict[str, Any]:
        config = self.config
        known = labels is not None and labels[1].joints is not None
        wrist = np.asarray(row["root"], np.float64) if known else item.wrist
        root = wrist
        if root is None or config.root == "box":
            root = self._estimated_root(view.hand_box, row["intrinsics"])
        found: dict[str, Any] = {
            "root": root,
            "object_center": self._object_center(item, view, row["intrinsics"], root),
        }
        if labels is None:  # in use
            return found
        sample_, hand = labels
        maps = posed_objects.pixel_maps(sample_, item, view, config.input_size)
        found |= {
            "hand_pixels": np.maximum(maps["hand"], 0),
            "object_pixels": np.maximum(maps["object"], 0),
            "has_pixels": min(maps["hand"].min(), maps["object"].min()) >= 0,
        }
        found["vote_joints"] = self._vote_joints(hand, row, view, root)
        thing = sample_.object if posed_objects.own_frame(sample_.object) else None
        mesh = None
        if thing is not None and self.meshes is not None:
            mesh = self.meshes(str(thing.name))
            thing = None if mesh is None else thing
        rotation, translation = np.eye(3), np.zeros(3)
        if thing is not None:
            rotation, translation = posed_objects.into_crop(
                thing.rotation, thing.translation, view.angle, item.mirrored
            )
            translation = translation - found["object_center"]
        found |= {
            "object_rotation": axis_angle(rotation),
            "object_translation": translation,
            "has_object": thing is not None,
        }
        if self.meshes is None:
            return found
        found["placing"] = Placing(
            wrist=wrist if row["has_pose"] else None,
            thing=thing,
            mesh=mesh,
            angle=view.angle,
            mirrored=item.mirrored,
        )
        return found

    def _estimated_root(self, hand_box: Array, intrinsics: Array) -> Array:
        """The middle (3,) of a hand of the usual size that fills the box (4,) of crop pixels."""
        width, height = (hand_box[2:] - hand_box[:2]) / self.config.hand_factor
        focal = np.sqrt(abs(np.linalg.det(intrinsics[:2, :2])))
        depth = HAND_EXTENT * focal / max(float(np.sqrt(width * height)), 1e-3)
        middle = (hand_box[:2] + hand_box[2:]) / 2
        return backproject(middle, np.float64(depth), intrinsics)

    def _object_center(self, item: Item, view: View, intrinsics: Array, root: Array) -> Array:
        """The middle of the object's box at the object's distance; without a box the root."""
        if item.object_points is None:
            return root
        middle = (view.object_box[:2] + view.object_box[2:]) / 2
        if self.config.truncate_centres:
            middle = np.trunc(middle)
        depth = root[2] if self.config.object_depth is None else self.config.object_depth
        return backproject(middle, np.float64(depth), intrinsics)

    def _vote_joints(self, hand: Hand, row: dict[str, Any], view: View, root: Array) -> Array:
        """The votes' targets (21, 3), from the root. Zeros: no label."""
        if hand.joints is not None:
            own = np.asarray(hand.joints, np.float64)
            if row["mirrored"]:
                own = own * posed_objects.FLIP
            return own @ crop.turn(view.angle).T - root
        return self._posed([row])[0][0] if row["has_pose"] else np.zeros((21, 3))

    def _posed(self, rows: Sequence[dict[str, Any]]) -> tuple[Array, Array]:
        """Joints (B, 21, 3) and vertices (B, 778, 3) of the rows' poses, from the wrist."""
        pose, betas = (
            torch.from_numpy(np.stack([np.asarray(row[name], np.float32) for row in rows]))
            for name in ("pose", "betas")
        )
        with torch.no_grad():
            posed = given_hand(self.hand)(pose, betas, center=0)
        return posed.joints.double().cpu().numpy(), posed.vertices.double().cpu().numpy()

    def _add_points(self, rows: list[dict[str, Any]], rng: np.random.Generator | None) -> None:
        """Points with distances for every row, in place of its `placing`; all hands posed at
        once."""
        placings: list[Placing] = [row.pop("placing") for row in rows]
        known = any(placing.wrist is not None for placing in placings)
        posed = self._posed(rows)[1] if known else np.zeros((len(rows), 778, 3))
        for row, placing, vertices in zip(rows, placings, posed, strict=True):
            surfaces = None
            if placing.wrist is not None:
                surfaces = self._surfaces(vertices + placing.wrist, placing)
            row["has_sdf"] = surfaces is not None
            row |= self._points(surfaces, placing.thing is not None, row, rng)

    def _surfaces(self, vertices: Array, placing: Placing) -> Surfaces:
        faces = given_hand(self.hand).faces.cpu().numpy()
        thing, mirrored = placing.thing, placing.mirrored
        if thing is None or placing.mesh is None:
            return Surfaces(vertices, faces, mirrored=mirrored)
        # a turn after the mirror is the opposite turn before it
        turn = crop.turn(-placing.angle if mirrored else placing.angle)
        pose = turn @ thing.rotation, turn @ thing.translation
        return Surfaces(vertices, faces, placing.mesh, *pose, mirrored=mirrored)

    def _points(
        self,
        surfaces: Surfaces | None,
        with_object: bool,
        found: dict[str, Any],
        rng: np.random.Generator | None,
    ) -> dict[str, Any]:
        """Points with distances, and in training (rng) the pose stage's points."""
        config = self.config
        draw = np.random.default_rng(0) if rng is None else rng
        result: dict[str, Any] = {}
        for target, origin, count in (
            ("hand", found["root"], config.hand_points),
            ("object", found["object_center"], config.object_points),
        ):
            if surfaces is not None and (target == "hand" or with_object):
                drawn = sample(surfaces, target, config.spare * count, draw)
                # the original's jitter grows over an epoch: here any moment of it
                made = training_points(
                    surfaces, target, drawn, origin, count, draw, progress=draw.random()
                )
            else:  # nobody knows the surface: any points about the origin
                cloud = draw.uniform(-2 * NEAR, 2 * NEAR, (count, 3))
                made = {"sdf_points": cloud, "sdf": np.zeros(count), "query_points": cloud}
            if rng is None:
                made.pop("query_points")
            result |= {f"{target}_{name}": value for name, value in made.items()}
        return result

    # ------------------------------------------------------------------- Prediction -> hands

    def decode(
        self,
        prediction: Prediction,
        batch: Batch,
        cameras: Sequence[Camera],
        *,
        object_names: Sequence[str | None] | None = None,
    ) -> list[tuple[Hand, RigidObject | None]]:
        """See `HopeProcessor.decode`. The hand stands where the votes say, the object's pose needs
        no name; with one it has its control points and box.

        Objects (with `objects` "grasped"): only where the crop was made with an object's box.
        """
        found = super().decode(prediction, batch, cameras, object_names=object_names)
        if self.config.objects == "none" or batch.crop is None or batch.mirrored is None:
            return found
        center, root = given(batch, "object_center"), given(batch, "root")
        boxed = (center != root).any(dim=1).cpu().tolist()
        result: list[tuple[Hand, RigidObject | None]] = []
        for i, (hand, _) in enumerate(found):
            if self.config.objects == "grasped" and not boxed[i]:
                result.append((hand, None))
                continue
            mirrored = bool(batch.mirrored[i])
            rotation, translation = (
                prediction.features[name][i].detach().double().cpu().numpy()
                for name in ("object_rotation", "object_translation")
            )
            turn = turn_of(batch.crop[i].double().cpu().numpy(), mirrored)
            pose = posed_objects.out_of_crop(
                posed_objects.nearest_rotation(rotation), translation, turn, mirrored
            )
            name = None if object_names is None else object_names[i]
            points = None if name is None else self.control_points.get(name)
            thing = posed_objects.placed_object(*pose, cameras[i], name, points, hand)
            result.append((hand, thing))
        return result


def given_hand(hand: HandModel | None) -> HandModel:
    """The hand model; InputError without one."""
    if hand is None:
        raise InputError("HoisdfProcessor: needs the hand model for its labels")
    return hand
