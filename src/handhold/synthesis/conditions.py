"""What HandBooster's denoiser is told: maps of hand and object, and the hand's orientation.

All maps come from the ray-caster and are exact for any camera. For a crop they are rendered in the
crop's own camera, so a point's pixel in a map is its pixel in the crop that training cuts out of
the photo (`crop_affine`). As in `Batch`, every hand becomes a right hand: left ones are mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from handhold.errors import InputError
from handhold.geometry import crop
from handhold.geometry.boxes import apply_affine, box_from_points
from handhold.hand.convention import SKELETON, mirror_pose
from handhold.hand.model import HandModel
from handhold.hand.topology import closed_faces
from handhold.render.labels import FINGERS
from handhold.render.material import to_bytes
from handhold.render.raycast import Hits, Points, RenderMesh, Scene3D, by_mesh, cast
from handhold.scene import Camera, FloatArray, Hand

SIZES = (128, 256)
BOX_FACTOR = 1.5
HAND_COLOUR = (1.0, 1.0, 0.9)  # linear
AMBIENT, LIGHT = 0.3, 3 * 0.8  # of three equal lamps along the view
BACKGROUND, HAND, OBJECT = 0, 1, 2

Image = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class Maps:
    """What a camera sees of a hand and objects; the background is 0 in all maps.

    texture (H, W, 3) uint8: the hand in one colour, objects as they look, lit along the view.
    normal (H, W, 3) uint8: unit normals n as 127.5 (n + 1), x right, y up, z to the viewer. depth
    (H, W) float32 metres. segmentation (H, W) uint8: 0 background, 1 hand, 2 object.
    """

    texture: Image
    normal: Image
    depth: FloatArray
    segmentation: Image


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditions(Maps):
    """The maps of a crop of a right hand. skeleton (S, S, 3) uint8: bones on black. quaternion
    (4,): `orientation` of the hand. crop (3, 3): from photo to crop pixels, the mirroring of a left
    hand included. joints2d (21, 2): crop pixels."""

    skeleton: Image
    quaternion: FloatArray
    crop: FloatArray
    joints2d: FloatArray


def orientation(rotation: ArrayLike) -> FloatArray:
    """Quaternions (..., 4) w, x, y, z of axis-angles (..., 3), the largest component positive.

    That is PyTorch3D's rule in the version that the released weights were made with; as q and -q
    are different inputs to the network, one rule must hold in training and sampling.
    """
    rotation = np.asarray(rotation, np.float64)
    found = Rotation.from_rotvec(rotation.reshape(-1, 3)).as_quat(scalar_first=True)
    largest = np.abs(found).argmax(axis=1)
    sign = np.sign(found[np.arange(len(found)), largest])
    return (found * sign[:, None]).reshape(*rotation.shape[:-1], 4)


def crop_affine(hand: Hand, camera: Camera, size: int) -> FloatArray:
    """The map (3, 3) from photo pixels to a crop of `size`, as HandBooster crops.

    The box of the joints times 1.5, made square and shifted into the photo; a left hand's is taken
    from the mirrored photo, and the map mirrors. Raises InputError for a hand without side or 2D
    joints and for boxes outside the photo.
    """
    if hand.joints2d is None or hand.side is None:
        raise InputError("crop: expected a hand with side and 2D joints")
    points, flip = np.asarray(hand.joints2d, np.float64), np.eye(3)
    if hand.side == "left":
        flip = crop.flip_affine(camera.width)
        points = apply_affine(flip, points)
    box = box_from_points(points, BOX_FACTOR, valid=hand.joints2d_valid)
    corner = np.concatenate([box[:2], box[2:] - box[:2]])
    moved, usable = crop.sanitise_xywh(corner, camera.width, camera.height)
    if not usable:
        raise InputError(f"crop: the hand's box {np.round(box, 1)} is outside the photo")
    square = crop.shift_inside_xywh(crop.square_xywh(moved), camera.width, camera.height)
    return crop.patch_affine(square, size) @ flip


# ------------------------------------------------------------------------------------------- maps


@lru_cache(maxsize=4)
def _faces(model: HandModel) -> NDArray[np.int64]:
    return closed_faces(model.faces.numpy())


def hand_mesh(hand: Hand, model: HandModel) -> RenderMesh:
    """The hand's vertices with the model's faces, closed at the wrist.

    Raises InputError for a hand without vertices and a model of the other side.
    """
    if hand.vertices is None or hand.side != model.side:
        raise InputError(
            f"hand_mesh: expected a {model.side} hand with vertices, found "
            f"{'none' if hand.vertices is None else hand.side}"
        )
    return RenderMesh(vertices=hand.vertices, faces=_faces(model), name="hand")


def render_maps(hand: RenderMesh, objects: Sequence[RenderMesh], camera: Camera) -> Maps:
    """The maps of a camera's whole image, one ray a pixel. Meshes are in the camera frame.

    The hand is shaded smooth, objects flat, as in the released code.
    """
    scene = Scene3D([hand, *objects])
    hits = cast(scene, camera)
    shape = (camera.height, camera.width)
    texture, normal = (np.zeros((shape[0] * shape[1], 3), np.uint8) for _ in range(2))
    order, groups = by_mesh(hits.mesh)
    points = Points.of(scene, hits, order, groups)
    focal = float(camera.intrinsics[0, 0])
    for group in groups:
        number, part = group
        pixels = order[part]
        facing = (points.normals if number == 0 else points.facets)[:, part]
        normal[pixels] = np.rint(127.5 * (facing.T * (1, -1, -1) + 1))
        if number == 0:
            albedo = np.tile(np.asarray(HAND_COLOUR, np.float32), (len(pixels), 1))
        else:
            surface = points.surface(scene, group, pixels, focal)
            albedo = surface.mesh.material.evaluate(surface).albedo
        light = AMBIENT + LIGHT / np.pi * np.maximum(-facing[2], 0)
        texture[pixels] = to_bytes(np.clip(albedo * light[:, None], 0, 1).astype(np.float32))
    return Maps(
        texture=texture.reshape(*shape, 3),
        normal=normal.reshape(*shape, 3),
        depth=hits.depth.astype(np.float32),
        segmentation=_segments(hits),
    )


def _segments(hits: Hits) -> Image:
    return np.where(hits.mesh < 0, BACKGROUND, np.where(hits.mesh == 0, HAND, OBJECT)).astype(
        np.uint8
    )


def mirrored_normals(normal: Image) -> Image:
    """The same colours with x the other way, for a map that is mirrored; background stays 0."""
    result = normal.copy()
    seen = normal.any(axis=-1)
    result[seen, 0] = 255 - normal[seen, 0]
    return result


def render_conditions(
    hand: Hand,
    objects: Sequence[RenderMesh],
    camera: Camera,
    model: HandModel,
    *,
    size: int = 128,
    fine: int = 2,
) -> Conditions:
    """Everything the denoiser (or another one) can be told, in the hand's crop of `size` pixels.

    objects: posed in the camera frame of the un-mirrored photo; model: of the hand's side. fine:
    texture and normal maps are means of fine x fine rays a pixel; depth and segmentation are those
    of the pixel's centre. Raises InputError for hands without pose, vertices, side or 2D joints.
    """
    if hand.pose is None or hand.joints2d is None:
        raise InputError("conditions: expected a hand with pose and 2D joints")
    if size < 8 or fine < 1:
        raise InputError(f"conditions: expected size >= 8 and fine >= 1, found {size}, {fine}")
    affine = crop_affine(hand, camera, size)
    left = hand.side == "left"
    mesh = hand_mesh(hand, model)
    # a camera cannot mirror, so a left hand is rendered as it is and turned over afterwards
    plain = crop.flip_affine(size) @ affine if left else affine

    def seen(scale: int) -> Maps:
        enlarged = np.diag([scale, scale, 1.0])
        enlarged[:2, 2] = (scale - 1) / 2
        matrix = enlarged @ plain @ camera.intrinsics
        side = scale * size
        maps = render_maps(mesh, objects, Camera(intrinsics=matrix, width=side, height=side))
        if not left:
            return maps
        flipped: dict[str, Any] = {
            item.name: np.ascontiguousarray(getattr(maps, item.name)[:, ::-1])
            for item in fields(maps)
        }
        flipped["normal"] = mirrored_normals(flipped["normal"])
        return Maps(**flipped)

    centre = seen(1)
    detailed = centre if fine == 1 else seen(fine)

    def mean(image: Image) -> Image:
        return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)

    joints = apply_affine(affine, np.asarray(hand.joints2d, np.float64))
    pose = mirror_pose(hand.pose) if left else hand.pose
    return Conditions(
        texture=mean(detailed.texture),
        normal=mean(detailed.normal),
        depth=centre.depth,
        segmentation=centre.segmentation,
        skeleton=draw_skeleton(joints, size),
        quaternion=orientation(pose[0]),
        crop=affine,
        joints2d=joints,
    )


def draw_skeleton(joints2d: FloatArray, size: int) -> Image:
    """The bones between joints (21, 2) in pixels, each finger in its colour, on black (S, S, 3)."""
    image = np.zeros((size, size, 3), np.uint8)
    width = max(1, size // 64)
    whole = np.rint(np.clip(joints2d, -4 * size, 5 * size) * 16).astype(int)  # sixteenths

    for parent, child in SKELETON:
        ends = tuple(whole[parent].tolist()), tuple(whole[child].tolist())
        cv2.line(image, *ends, FINGERS[(child - 1) // 4], width, cv2.LINE_AA, 4)
    return image


def draw_conditions(conditions: Conditions, photo: Image | None = None) -> Image:
    """Side by side: the crop of the photo (H, W, 3), if given, then texture, normal, depth (near is
    bright), segmentation and skeleton."""
    size = conditions.depth.shape[0]
    pictures = [] if photo is None else [crop.warp(photo, conditions.crop, size)]
    seen = conditions.depth > 0
    near = np.zeros((size, size), np.uint8)
    if seen.any():
        low, high = conditions.depth[seen].min(), conditions.depth[seen].max()
        near[seen] = 255 - 200 * (conditions.depth[seen] - low) / max(high - low, 1e-6)
    colours = np.array([(0, 0, 0), (235, 205, 185), (60, 110, 220)], np.uint8)
    pictures += [
        conditions.texture,
        conditions.normal,
        np.repeat(near[..., None], 3, axis=2),
        colours[conditions.segmentation],
        conditions.skeleton,
    ]
    return np.concatenate(pictures, axis=1)
