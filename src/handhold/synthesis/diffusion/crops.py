"""Samples with rendered maps -> the denoiser's crops, and its images -> samples again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handhold.data.dataset import Record
from handhold.errors import InputError
from handhold.geometry import crop
from handhold.geometry.boxes import apply_affine, box_from_points
from handhold.hand.convention import mirror_pose
from handhold.hand.model import HandModel
from handhold.models.handbooster.loss import DiffusionBatch
from handhold.objects.mesh import ObjectMesh
from handhold.render.raycast import RenderMesh
from handhold.scene import Camera, Hand, Provenance, Sample
from handhold.synthesis.conditions import (
    crop_affine,
    draw_conditions,
    hand_mesh,
    mirrored_normals,
    orientation,
    render_conditions,
    render_maps,
)


def encode_crops(items: Sequence[tuple[Sample, int]], size: int) -> DiffusionBatch:
    """The crops of `size` pixels of the samples' first hands with their conditions, as right hands.

    Nothing is augmented. Raises InputError for samples without maps or pose, for other hands than
    the first, and as `crop_affine`.
    """
    rows = [_encode(sample, number, size) for sample, number in items]
    columns = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
    return DiffusionBatch(**columns, keys=tuple(sample.key for sample, _ in items))


def _encode(sample: Sample, number: int, size: int) -> dict[str, NDArray[Any]]:
    if number != 0:
        raise InputError(f"{sample.key}: conditions belong to the first hand, found {number}")
    if sample.texture_map is None or sample.normal_map is None:
        raise InputError(
            f"{sample.key}: it has no texture_map and normal_map; `handhold synth scenes "
            "--config.conditions` and `handhold synth conditions` make samples that do"
        )
    hand = sample.hands[0]
    if hand.pose is None:
        raise InputError(f"{sample.key}: the hand has no pose, so its orientation is not known")
    left = hand.side == "left"
    affine = crop_affine(hand, sample.camera, size)
    normals = mirrored_normals(sample.normal_map) if left else sample.normal_map
    shown = np.asarray(sample.normal_map.any(axis=-1), np.float32)
    pictures = {"image": sample.image, "texture": sample.texture_map, "normal": normals}
    row: dict[str, NDArray[Any]] = {
        name: crop.warp(picture, affine, size).transpose(2, 0, 1).astype(np.float32) / 255
        for name, picture in pictures.items()
    }
    pose = mirror_pose(hand.pose) if left else hand.pose
    row["foreground"] = crop.warp(shown, affine, size)[None].astype(np.float32)
    row["quaternion"] = orientation(pose[0]).astype(np.float32)
    return row


def is_usable(record: Record | Sample) -> bool:
    """Whether a record's first hand has what conditions need: side, pose, vertices and a crop."""
    if not record.hands:
        return False
    hand = record.hands[0]
    if hand.side is None or hand.pose is None or hand.vertices is None or hand.joints2d is None:
        return False
    try:
        crop_affine(hand, record.camera, 2)
    except InputError:
        return False
    return True


def posed_object(sample: Sample, objects: Mapping[str, ObjectMesh]) -> list[RenderMesh]:
    """The sample's object as a mesh in the camera frame; none where it has no object.

    objects: meshes by the names that samples use. Raises InputError for an unknown name.
    """
    thing = sample.object
    if thing is None:
        return []
    if thing.name not in objects:
        raise InputError(f"{sample.key}: there is no mesh of {thing.name!r} among the objects")
    mesh = objects[str(thing.name)]
    posed = RenderMesh(
        vertices=mesh.vertices,
        faces=mesh.faces,
        uv=mesh.uv,
        texture=mesh.texture,
        vertex_colors=mesh.vertex_colors,
        rotation=thing.rotation,
        translation=thing.translation,
    )
    return [posed]


def with_maps(
    sample: Sample, objects: Mapping[str, ObjectMesh], models: Mapping[str, HandModel]
) -> Sample:
    """The sample with the maps of its first hand and its object.

    objects: see `posed_object`; models: hand models by side. Raises InputError for hands without
    vertices or side, and for objects of unknown names.
    """
    hand = sample.hands[0] if sample.hands else None
    if hand is None or hand.side is None:
        raise InputError(f"{sample.key}: expected a hand of a known side")
    meshes = posed_object(sample, objects)
    maps = render_maps(hand_mesh(hand, models[hand.side]), meshes, sample.camera)
    return dataclasses.replace(sample, texture_map=maps.texture, normal_map=maps.normal)


def conditions_picture(
    sample: Sample, objects: Mapping[str, ObjectMesh], models: Mapping[str, HandModel], size: int
) -> NDArray[np.uint8]:
    """Everything that can be told of the first hand's crop, in one line (`draw_conditions`)."""
    hand = sample.hands[0]
    model = models["right" if hand.side is None else hand.side]
    found = render_conditions(hand, posed_object(sample, objects), sample.camera, model, size=size)
    return draw_conditions(found, sample.image)


def made_sample(
    sample: Sample, image: NDArray[np.uint8], key: str, seed: int | None = None
) -> Sample:
    """The sample whose photo is a made crop (S, S, 3) of its first hand (as a right hand).

    The crop becomes the photo, turned over again for left hands; 3D labels stay, the camera, 2D
    labels and masks become those of the crop. seed: of the series, for the provenance.
    """
    size = image.shape[0]
    hand = sample.hands[0]
    affine = crop_affine(hand, sample.camera, size)
    if hand.side == "left":
        affine = crop.flip_affine(size) @ affine
        image = np.ascontiguousarray(image[:, ::-1])
    changes: dict[str, Any] = {
        name: crop.warp(value, affine, size, "nearest")
        for name in ("hand_mask", "hand_mask_amodal", "object_mask")
        if (value := getattr(sample, name)) is not None
    }
    camera = Camera(
        intrinsics=affine @ sample.camera.intrinsics,
        width=size,
        height=size,
        source=sample.camera.source,
    )
    thing = sample.object
    if thing is not None and thing.box is not None:
        corners = np.asarray(thing.box).reshape(2, 2)
        thing = dataclasses.replace(thing, box=apply_affine(affine, corners).reshape(4))
    return Sample(
        key=key,
        image=image,
        camera=camera,
        hands=(_moved(hand, affine),),
        object=thing,
        hands_complete=False,
        provenance=Provenance(
            source=sample.key,
            object=None if thing is None else thing.name,
            pose=None if sample.provenance is None else sample.provenance.pose,
            seed=seed,
        ),
        **changes,
    )


def _moved(hand: Hand, affine: NDArray[Any]) -> Hand:
    if hand.joints2d is None:
        raise InputError("made_sample: expected a hand with 2D joints")
    points = apply_affine(affine, np.asarray(hand.joints2d, np.float64))
    box = box_from_points(points, valid=hand.joints2d_valid)
    return dataclasses.replace(hand, joints2d=points, box=box)


def seeds_of(seed: int, numbers: Sequence[int]) -> list[int]:
    """The seed of each numbered image of a series."""
    made = (np.random.SeedSequence([seed, number]).generate_state(2) for number in numbers)
    return [int(low) | int(high) << 31 for low, high in made]


def maps_of(batch: DiffusionBatch) -> tuple[Tensor, Tensor, Tensor]:
    """texture, normal and quaternion, as `generate` takes them."""
    return batch.texture, batch.normal, batch.quaternion
