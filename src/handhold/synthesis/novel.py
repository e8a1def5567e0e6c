"""The novel condition creator: made grasps before a data set's cameras (HandBooster, section 3.3).

Each condition takes camera, wrist, turn and shape from a frame of a real set, and the pose of
fingers and object from a made grasp, or for a share from one of that set's own grasps; then hand
and object are turned a little together about the wrist. Poses are chosen by similarity
(`sampling`). What comes out is a sample whose labels are exact: its maps are the denoiser's
conditions, its photo is the ray-caster's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handhold.data.dataset import Record
from handhold.errors import InputError
from handhold.hand.model import HandModel
from handhold.objects.mesh import ObjectMesh
from handhold.scene import Camera, Provenance, Sample
from handhold.synthesis.diffusion.crops import is_usable
from handhold.synthesis.grasps.files import read_grasps
from handhold.synthesis.grasps.hand import GraspHand
from handhold.synthesis.props import Body, Prop
from handhold.synthesis.sampling import (
    PERTURBATION_DEG,
    Rule,
    SampledPoses,
    draw_poses,
    farthest_poses,
    grasp_split,
    pose_vectors,
    random_turn,
    relative_pose,
    sample_poses,
)
from handhold.synthesis.scenes import Grasp, SceneConfig, show_grasp

Array = NDArray[np.float64]
ATTEMPTS = 50  # at a condition whose hand is in its photo
NEAREST_M = 0.1


@dataclass(frozen=True, kw_only=True)
class NovelConfig:
    """Which poses are shown. The counts are those of the paper for HO3D."""

    made: float = 0.8
    """Share of made grasps; the others are the set's own, where it has some of the object."""
    real_count: int = 10
    """The set's own poses kept of an object (M)."""
    made_count: int = 500
    """Made poses kept of an object (N)."""
    intra: bool = True
    """Keep poses far from each other; without it any."""
    cross: bool = True
    """Draw those more often that are unlike the set's own; without it all alike."""
    turn_deg: float = PERTURBATION_DEG
    """Largest angle of each of the three turns of hand and object."""
    both_ways: bool = False
    """Turns to both sides; as released they go to one."""
    rule: Rule = "10mm"
    """When the set's own hands grasp, where the set knows the object's motion."""

    def __post_init__(self) -> None:
        if not 0 <= self.made <= 1 or min(self.real_count, self.made_count) < 1:
            raise InputError(
                "NovelConfig: expected made in 0..1 and counts of 1 or more, found "
                f"{self.made}, {self.real_count}, {self.made_count}"
            )
        if not 0 <= self.turn_deg <= 180:
            raise InputError(f"NovelConfig.turn_deg: expected 0..180, found {self.turn_deg}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Poses:
    """P grasps of one object: names (P,), fingers (P, 15, 3), rotations (P, 3, 3) and translations
    (P, 3) of the object in the hand's root frame, metres (`relative_pose`)."""

    names: tuple[str, ...]
    fingers: Array
    rotations: Array
    translations: Array

    @classmethod
    def stack(cls, rows: Sequence[tuple[str, Array, Array, Array]]) -> Poses:
        """Of rows of names, fingers, rotations and translations."""
        names, fingers, rotations, translations = zip(*rows, strict=True)
        return cls(
            names=names,
            fingers=np.stack(fingers),
            rotations=np.stack(rotations),
            translations=np.stack(translations),
        )

    @classmethod
    def made(cls, folder: Path, hand: GraspHand) -> Poses:
        """The grasps of one object's folder (`handhold synth grasps`), made with `hand`."""
        vectors = read_grasps(folder)["vectors"]
        with torch.inference_mode():
            joints = hand.posed(torch.from_numpy(vectors))[1].double().numpy()
        inverse = Rotation.from_rotvec(vectors[:, 3:6].astype(np.float64)).inv().as_matrix()
        return cls(
            names=tuple(f"{folder.name}/{number}" for number in range(len(vectors))),
            fingers=vectors[:, 6:].reshape(-1, 15, 3).astype(np.float64),
            rotations=inverse,
            translations=-np.einsum("pij,pj->pi", inverse, joints[:, 0]),
        )

    @property
    def vectors(self) -> Array:
        """Equation 4's."""
        return pose_vectors(self.fingers, self.rotations, self.translations)


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """What a condition takes from a real frame. turn (3,): the root's axis-angle."""

    key: str
    camera: Camera
    turn: Array
    wrist: Array
    betas: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """A real set: its frames, by number, and its grasps of each object, with their frames."""

    frames: tuple[Frame, ...]
    grasps: Mapping[str, Poses]
    grasp_frames: Mapping[str, NDArray[np.int64]]

    @classmethod
    def of(cls, records: Iterable[Record | Sample], rule: Rule = "10mm") -> Reference:
        """The frames whose first hand is a right one with pose and joints.

        Raises InputError where there is none.
        """
        frames: list[Frame] = []
        rows: dict[str, list[tuple[str, Array, Array, Array]]] = {}
        places: dict[str, list[int]] = {}
        for record in records:
            hand = record.hands[0] if record.hands else None
            if hand is None or hand.side != "right" or hand.pose is None or hand.joints is None:
                continue
            thing = record.object
            if thing is not None and thing.name and len(grasp_split([record], rule).grasping):
                row = (record.key, *relative_pose(hand, thing))
                rows.setdefault(thing.name, []).append(row)
                places.setdefault(thing.name, []).append(len(frames))
            betas = np.zeros(10) if hand.betas is None else np.asarray(hand.betas, np.float64)
            frames.append(
                Frame(
                    key=record.key,
                    camera=record.camera,
                    turn=np.asarray(hand.pose[0], np.float64),
                    wrist=np.asarray(hand.joints[0], np.float64),
                    betas=betas,
                )
            )
        if not frames:
            raise InputError("data: expected right hands with pose and 3D joints, found none")
        return cls(
            frames=tuple(frames),
            grasps={name: Poses.stack(found) for name, found in rows.items()},
            grasp_frames={name: np.asarray(found) for name, found in places.items()},
        )


class NovelConditions:
    """Endless numbered conditions: `creator[n]` is always the same sample.

    made: grasps by object; objects: their meshes by name; scene: how the photo looks (its size
    comes from the reference's cameras). Raises InputError without grasps and for objects without a
    mesh.
    """

    def __init__(
        self,
        reference: Reference,
        made: Mapping[str, Poses],
        objects: Mapping[str, ObjectMesh],
        config: NovelConfig | None = None,
        *,
        seed: int = 0,
        scene: SceneConfig | None = None,
    ) -> None:
        self.reference, self.made, self.seed = reference, made, seed
        self.config = config = NovelConfig() if config is None else config
        scene = SceneConfig(occluder=0.0) if scene is None else scene
        self.scene = dataclasses.replace(scene, conditions=True)
        self.names = sorted(made)
        if not self.names:
            raise InputError("grasps: expected grasps of at least one object, found none")
        if missing := [name for name in self.names if name not in objects]:
            raise InputError(f"objects: there is no mesh of {', '.join(missing)}")
        self.props = {name: Prop(Body(objects[name])) for name in self.names}
        self.chosen = {
            name: self._choose(name, [seed, number]) for number, name in enumerate(self.names)
        }

    def _choose(self, name: str, seed: list[int]) -> SampledPoses:
        config, made = self.config, self.made[name].vectors
        state = int(np.random.SeedSequence(seed).generate_state(1)[0])
        if name in self.reference.grasps:
            return sample_poses(
                self.reference.grasps[name].vectors,
                made,
                real_count=config.real_count,
                synthetic_count=config.made_count,
                seed=state,
                intra=config.intra,
                cross=config.cross,
            )
        count = min(config.made_count, len(made))  # nothing real to be unlike
        kept = np.random.default_rng(state).permutation(len(made))[:count]
        if config.intra:
            kept = farthest_poses(made, count, seed=state)
        return SampledPoses(
            real=np.zeros(0, np.int64), synthetic=kept, probabilities=np.full(count, 1 / count)
        )

    def __getitem__(self, number: int) -> Sample:
        """Condition `number`. Raises InputError where no attempt puts the hand into its photo."""
        for attempt in range(ATTEMPTS):
            sample = self._attempt(number, attempt)
            if sample is not None:
                return sample
        raise InputError(
            f"condition {number}: in {ATTEMPTS} attempts no hand was in its photo; are the data's "
            "hands in front of their cameras?"
        )

    def _attempt(self, number: int, attempt: int) -> Sample | None:
        rng = np.random.default_rng([self.seed, number, attempt])
        name = self.names[int(rng.integers(len(self.names)))]
        chosen, config = self.chosen[name], self.config
        if rng.random() < config.made or not len(chosen.real):
            which = int(draw_poses(chosen.probabilities, uniforms=rng.random(1))[0])
            poses, which = self.made[name], int(chosen.synthetic[which])
            frame = self.reference.frames[int(rng.integers(len(self.reference.frames)))]
        else:
            poses, which = self.reference.grasps[name], int(rng.choice(chosen.real))
            frame = self.reference.frames[int(self.reference.grasp_frames[name][which])]
        turn = random_turn(rng, config.turn_deg, both_ways=config.both_ways)
        turn = turn @ Rotation.from_rotvec(frame.turn).as_matrix()
        grasp = Grasp(
            pose=np.concatenate(
                [Rotation.from_matrix(turn).as_rotvec()[None], poses.fingers[which]]
            ),
            betas=frame.betas,
            wrist=frame.wrist,
            prop=self.props[name],
            object_rotation=turn @ poses.rotations[which],
            object_translation=frame.wrist + turn @ poses.translations[which],
        )
        key = f"novel-{self.seed}-{number:07d}"
        sample = show_grasp(rng, self.scene, key, frame.camera, grasp)
        if sample.texture_map is None or not is_usable(sample):
            return None
        vertices = sample.hands[0].vertices
        if vertices is None or vertices[:, 2].min() < NEAREST_M:
            return None
        told = Provenance(source=frame.key, object=name, pose=poses.names[which], seed=self.seed)
        return dataclasses.replace(sample, provenance=told)


def made_grasps(folder: Path, mano: Path | None = None) -> dict[str, Poses]:
    """The grasps of all objects in the folder of `handhold synth grasps`; objects without a valid
    one are left out.

    Raises InputError for a folder without any, FileFormatError for damaged shards.
    """
    hand = GraspHand(HandModel.load(mano))
    parts = sorted(path.parent for path in folder.glob("*/shard-0000.safetensors"))
    if not parts:
        raise InputError(f"{folder}: expected OBJECT/shard-0000.safetensors, found none")
    poses = {part.name: Poses.made(part, hand) for part in parts}
    valid = {name: value for name, value in poses.items() if value.names}
    if not valid:
        raise InputError(f"{folder}: expected valid grasps, found none of {', '.join(poses)}")
    return valid


def needed_meshes(
    names: Iterable[str], loaders: Mapping[str, Callable[[], ObjectMesh]], where: str
) -> dict[str, ObjectMesh]:
    """The meshes of these objects. Raises InputError for those that `where` has not."""
    names = list(names)
    if missing := [name for name in names if name not in loaders]:
        raise InputError(f"{where}: there is no mesh of {', '.join(missing)}")
    return {name: loaders[name]() for name in names}
