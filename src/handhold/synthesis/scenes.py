"""Endless labelled scenes of bare hands and of hands that hold or nearly hold something.

`make_scene(seed, index, config)` is a pure function: the same three arguments give the same
`Sample`, whoever asks and in whatever order. Everything a Sample can hold is filled in exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handhold.errors import InputError
from handhold.geometry.boxes import box_from_points
from handhold.hand import anatomy
from handhold.hand.convention import mirror_pose
from handhold.hand.model import HandModel
from handhold.objects.control_points import control_points
from handhold.render.lights import random_lighting
from handhold.render.raycast import Hits, RenderMesh, Scene3D, cast, visible
from handhold.render.shade import render
from handhold.scene import Camera, Hand, RigidObject, Sample, Side
from handhold.synthesis.backgrounds import made_up_background, photo_background
from handhold.synthesis.conditions import hand_mesh, render_maps
from handhold.synthesis.holding import hold, near_miss
from handhold.synthesis.placement import View, occluder_pose, random_orientation, random_view
from handhold.synthesis.props import Prop, pick_prop
from handhold.synthesis.sensor import photograph
from handhold.synthesis.wardrobe import Wardrobe

Array = NDArray[Any]
Kind = Literal["bare", "holding", "near"]
MIRROR = np.array([-1.0, 1.0, 1.0])
PALM = (0, 5, 9, 13, 17)  # joints whose mean is the hand's centre


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """What the scenes show. Every share is a probability 0..1."""

    width: int = 256
    """Pixels."""
    height: int = 256
    """Pixels."""
    holding: float = 0.42
    """Share of hands that hold an object."""
    near: float = 0.15
    """Share of hands with an object close by that they do not hold; the rest are bare."""
    empty: float = 0.0
    """Share of scenes without a hand."""
    second_hand: float = 0.0
    """Share of the other scenes that show a second, bare hand."""
    left: float = 0.5
    """Share of left hands."""
    hand_size: tuple[float, float] = (0.2, 0.85)
    """Smallest and largest hand, in the image's shorter side."""
    distance: tuple[float, float] = (0.3, 2.0)
    """Nearest and farthest hand, metres."""
    occluder: float = 0.2
    """Share of scenes with something in front of the hand."""
    backgrounds: Path | None = None
    """Folder of photos to put behind half of the scenes; the other backgrounds are made up."""
    background_part: tuple[float, float] = (0.0, 1.0)
    """Fractions of that folder to use, so that held-out scenes can have photos of their own."""
    objects: Path | None = None
    """Folder of object meshes that joins the built-in catalogue."""
    mano: Path | None = None
    """Folder with the official MANO files; without it the free hand is drawn."""
    paired: bool = False
    """Also render each holding scene without its object (UniHOPE's paired training)."""
    conditions: bool = False
    """Also render HandBooster's conditions of the first hand and its object."""
    sensor: float = 1.0
    """Strength of the camera's faults (blur, noise, colour cast, JPEG); 0 is clean."""
    edge_rays: int = 4
    """Rays for a pixel at an outline: 1, 2 or 4."""

    def __post_init__(self) -> None:
        for name in ("holding", "near", "empty", "second_hand", "left", "occluder"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"SceneConfig.{name}: expected a share 0..1, found {getattr(self, name)}"
                )
        if self.holding + self.near > 1:
            raise InputError("SceneConfig: holding + near must not exceed 1")
        if min(self.width, self.height) < 32:
            raise InputError(f"SceneConfig: {self.width}x{self.height} is smaller than 32 pixels")
        for name in ("hand_size", "distance"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise InputError(f"SceneConfig.{name}: expected 0 < low <= high, found {low, high}")


@dataclass(frozen=True, kw_only=True)
class _Actor:
    """A posed hand in the camera frame with what belongs to it; labels are of the true side."""

    side: Side
    meshes: list[RenderMesh]  # the hand first, then its arm and sleeve
    joints: Array
    vertices: Array
    pose: Array
    betas: Array
    translation: Array
    offset: Array  # of the rest pose's origin after the turn
    prop: Prop | None = None
    object_rotation: Array | None = None
    object_translation: Array | None = None
    held: bool = False


@lru_cache(maxsize=4)
def _hand_models(mano: Path | None) -> dict[str, HandModel]:
    return {"right": HandModel.load(mano, "right"), "left": HandModel.load(mano, "left")}


def make_scene(seed: int, index: int, config: SceneConfig | None = None) -> Sample:
    """Scene number `index` of the endless series `seed`."""
    config = config or SceneConfig()
    rng = np.random.default_rng([seed, index])
    background = _background(rng, config)
    key = f"scene-{seed}-{index:07d}"
    view = random_view(
        rng, config.width, config.height, share=config.hand_size, distance=config.distance
    )
    if rng.random() < config.empty:
        image = photograph(background, rng, strength=config.sensor)
        return Sample(key=key, image=image, camera=view.camera)
    actors = [_actor(rng, config, view, _kind(rng, config))]
    if rng.random() < config.second_hand:
        actors.append(_actor(rng, config, _second_view(rng, config, view), "bare"))
    extras = _occluders(rng, config, actors[0])
    return _photograph(rng, config, key, view.camera, background, actors, extras)


@dataclass(frozen=True, kw_only=True)
class Grasp:
    """A right hand and what it holds, in the camera frame. pose (16, 3): the root's axis-angle is
    the hand's turn. wrist (3,): joint 0. prop, object_rotation (3, 3), object_translation (3,)."""

    pose: Array
    betas: Array
    wrist: Array
    prop: Prop
    object_rotation: Array
    object_translation: Array


def show_grasp(
    rng: np.random.Generator, config: SceneConfig, key: str, camera: Camera, grasp: Grasp
) -> Sample:
    """A scene of a given grasp before a given camera; lights, arm, background and the camera's
    faults are drawn."""
    config = replace(config, width=camera.width, height=camera.height)
    background = _background(rng, config)
    turn = Rotation.from_rotvec(grasp.pose[0]).as_matrix()
    hand = _dressed(
        rng, config, camera, "right", grasp.pose, grasp.betas, turn, grasp.wrist, [0], held=True
    )
    actor = replace(
        hand,
        prop=grasp.prop,
        object_rotation=grasp.object_rotation,
        object_translation=grasp.object_translation,
    )
    extras = _occluders(rng, config, actor)
    return _photograph(rng, config, key, camera, background, [actor], extras)


def _kind(rng: np.random.Generator, config: SceneConfig) -> Kind:
    shares = [max(0.0, 1 - config.holding - config.near), config.holding, config.near]
    kinds: tuple[Kind, ...] = ("bare", "holding", "near")
    return kinds[int(rng.choice(3, p=np.array(shares) / sum(shares)))]


def _background(rng: np.random.Generator, config: SceneConfig) -> NDArray[np.uint8]:
    if config.backgrounds is not None and rng.random() < 0.5:
        part = config.background_part
        return photo_background(rng, config.width, config.height, config.backgrounds, keep=part)
    return made_up_background(rng, config.width, config.height)


def _second_view(rng: np.random.Generator, config: SceneConfig, view: View) -> View:
    """The same camera, another hand: beside the first, at about its distance."""
    depth = view.centre[2] * rng.uniform(0.75, 1.3)
    pixel = rng.uniform(0.1, 0.9, 2) * (config.width, config.height)
    ray = np.linalg.solve(view.camera.intrinsics, np.array([*pixel, 1.0]))
    return replace(view, rotation=random_orientation(rng), centre=ray * depth)


def _actor(rng: np.random.Generator, config: SceneConfig, view: View, kind: Kind) -> _Actor:
    """Pose a hand (and its object) in the right hand's frame, then put it before the camera."""
    side: Side = "left" if rng.random() < config.left else "right"
    betas = anatomy.sample_betas(rng, 1)[0] * 0.8
    right = _hand_models(config.mano)["right"]
    prop = None
    turn, shift = np.eye(3), np.zeros(3)
    pose = None
    if kind != "bare":
        prop = pick_prop(rng, config.objects)
        body = prop.mirrored if side == "left" else prop.plain
        place = (hold if kind == "holding" else near_miss)(
            right, betas, body.mesh, body.distance, rng
        )
        if place is None:
            prop, kind = None, "bare"
        else:
            pose, turn, shift = place.pose, place.rotation, place.translation
    if pose is None:
        pose = anatomy.sample_pose(rng, 1)[0]
    sign = MIRROR if side == "left" else np.ones(3)
    rotation = view.rotation
    if side == "left":
        pose = mirror_pose(pose)
        turn, shift = sign[:, None] * turn * sign, shift * sign
        rotation = sign[:, None] * rotation * sign
    actor = _dressed(
        rng, config, view.camera, side, pose, betas, rotation, view.centre, PALM, held=False
    )
    if prop is None:
        return actor
    return replace(
        actor,
        prop=prop,
        object_rotation=rotation @ turn,
        object_translation=shift @ rotation.T + actor.offset,
        held=kind == "holding",
    )


def _dressed(
    rng: np.random.Generator,
    config: SceneConfig,
    camera: Camera,
    side: Side,
    pose: Array,
    betas: Array,
    rotation: Array,
    target: Array,
    anchor: Sequence[int],
    *,
    held: bool,
) -> _Actor:
    """A hand turned by `rotation` (3, 3) whose joints `anchor` have their mean at `target` (3,)."""
    model = _hand_models(config.mano)[side]
    pose = np.array(pose, np.float32)
    pose[0] = 0
    with torch.inference_mode():
        rest = model(torch.from_numpy(pose), torch.from_numpy(np.float32(betas)))
        wrist = rest.joints[0].numpy().astype(np.float64)
        flesh, joints = rest.vertices.numpy(), rest.joints.numpy()
    offset = target - rotation @ joints[list(anchor)].mean(0)  # x_camera = rotation x + offset
    pose[0] = Rotation.from_matrix(rotation).as_rotvec()

    def place_points(points: Array) -> Array:
        return points @ rotation.T + offset

    pixel = float(target[2] / camera.intrinsics[0, 0])
    meshes = _wardrobe(config.mano, side).dress(rng, flesh, place_points, pixel=pixel)
    return _Actor(
        side=side,
        meshes=meshes,
        joints=place_points(joints),
        vertices=place_points(flesh),
        pose=pose,
        betas=betas,
        translation=rotation @ wrist + offset - wrist,
        offset=offset,
        held=held,
    )


@lru_cache(maxsize=4)
def _wardrobe(mano: Path | None, side: Side) -> Wardrobe:
    return Wardrobe.of(_hand_models(mano)[side])


def _occluders(rng: np.random.Generator, config: SceneConfig, actor: _Actor) -> list[RenderMesh]:
    """Something in front of the hand, for a share of the scenes."""
    if rng.random() >= config.occluder:
        return []
    prop = pick_prop(rng, config.objects)
    target = actor.joints[int(rng.integers(21))]
    rotation, translation = occluder_pose(rng, target, prop.size)
    return [prop.plain.render_mesh.placed(rotation, translation)]


def _photograph(
    rng: np.random.Generator,
    config: SceneConfig,
    key: str,
    camera: Camera,
    background: NDArray[np.uint8],
    actors: list[_Actor],
    extras: list[RenderMesh],
) -> Sample:
    """Render, put the camera's faults on, and write down everything that is known."""
    meshes = [mesh for actor in actors for mesh in actor.meshes]
    first = actors[0]
    object_number = None
    if first.prop is not None:
        object_number = len(meshes)
        body = first.prop.plain.render_mesh
        rotation, translation = np.asarray(first.object_rotation), first.object_translation
        meshes.append(body.placed(rotation, np.asarray(translation)))
    scene = Scene3D([*meshes, *extras])
    if extras and _too_hidden(cast(scene, camera)):
        scene = Scene3D(meshes)
    lighting = random_lighting(rng, background)
    sensor_seed = int(rng.integers(2**62))
    picture = render(scene, camera, lighting, background, samples=config.edge_rays)

    def developed(clean: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return photograph(clean, np.random.default_rng(sensor_seed), strength=config.sensor)

    bare = None
    if config.paired and object_number is not None and first.held:
        rest = [mesh for number, mesh in enumerate(scene.meshes) if number != object_number]
        bare_scene = Scene3D(rest)
        clean = render(bare_scene, camera, lighting, background, samples=config.edge_rays).image
        bare = developed(clean)
    hits = picture.hits
    hands, number = [], 0
    for actor in actors:
        hand = _hand_label(actor, number, scene, hits, camera)
        if hand is not None:
            hands.append(hand)
        number += len(actor.meshes)
    labelled = bool(hands) and hands[0].joints is not None
    maps: dict[str, Any] = {}
    if config.conditions and labelled and _hand_label(first, 0, scene, hits, camera) is not None:
        body = hand_mesh(hands[0], _hand_models(config.mano)[first.side])
        held = [] if object_number is None else [scene.meshes[object_number]]
        found = render_maps(body, held, camera)
        maps = {"texture_map": found.texture, "normal_map": found.normal}
    return Sample(
        key=key,
        image=developed(picture.image),
        camera=camera,
        hands=tuple(hands),
        object=_object_label(first, camera) if object_number is not None else None,
        hand_mask=hits.visible_mask(0) if labelled else None,
        hand_mask_amodal=hits.amodal_mask(0) if labelled else None,
        object_mask=hits.visible_mask(object_number) if object_number is not None else None,
        depth=hits.depth.astype(np.float32),
        bare_image=bare,
        **maps,
    )


def _too_hidden(hits: Hits) -> bool:
    """Less than a fifth of the first hand is left to see."""
    return hits.visible_mask(0).sum() < 0.2 * hits.amodal_mask(0).sum()


def _hand_label(
    actor: _Actor, number: int, scene: Scene3D, hits: Hits, camera: Camera
) -> Hand | None:
    """The label of a hand, or None when (almost) nothing of it is in the image."""
    pixels = camera.project(actor.joints)
    inside = ((pixels >= 0) & (pixels <= [camera.width - 1, camera.height - 1])).all(1)
    amodal, seen = hits.amodal_mask(number).sum(), hits.visible_mask(number).sum()
    if inside.sum() < 5 or seen < 20:
        return None
    return Hand(
        side=actor.side,
        box=box_from_points(pixels),
        joints2d=pixels,
        joints2d_valid=np.ones(21, bool),
        joints_visible=visible(scene, actor.joints, camera, own=number),
        joints=actor.joints,
        vertices=actor.vertices,
        pose=actor.pose,
        betas=actor.betas,
        translation=actor.translation,
        grasping=actor.held,
        visibility=float(seen / max(amodal, 1)),
    )


def _object_label(actor: _Actor, camera: Camera) -> RigidObject | None:
    """The pose of the (un-mirrored) object, its control points and their box."""
    if actor.prop is None or actor.object_rotation is None or actor.object_translation is None:
        return None
    points = control_points(actor.prop.mesh.vertices)
    posed = points @ actor.object_rotation.T + actor.object_translation
    return RigidObject(
        name=actor.prop.mesh.name,
        rotation=actor.object_rotation,
        translation=actor.object_translation,
        box=box_from_points(camera.project(posed)) if (posed[:, 2] > 0.01).all() else None,
        control_points=points,
        held=actor.held,
    )
