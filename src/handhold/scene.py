"""The vocabulary: what travels along the road photo -> Sample -> Batch -> Prediction -> Scene.

Conventions, valid everywhere: metres, radians, pixels; camera frame x right, y down, z forward
(OpenCV); pixel (0, 0) is the centre of the top-left pixel; boxes are x0, y0, x1, y1 in pixels;
joints are in the canonical order of `handhold.hand.convention` (wrist; thumb, index, middle, ring,
little, base to tip). `Sample` and `Scene` hold NumPy arrays and describe one image; `Batch` and
`Prediction` hold tensors and describe B hands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from handhold.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Side: TypeAlias = Literal["left", "right"]
CameraSource: TypeAlias = Literal["given", "fov", "exif", "default", "dataset", "synthetic"]
FloatArray: TypeAlias = NDArray[np.floating[Any]]

NUM_JOINTS = 21
NUM_VERTICES = 778
NUM_POSE = 16
NUM_BETAS = 10
NUM_CONTROL_POINTS = 21


def _check(
    owner: str, name: str, value: Any, shape: tuple[int | None, ...], *, finite: bool = True
) -> None:
    """Raise InputError unless `value` is None or an array of `shape` (None matches any size)."""
    if value is None:
        return
    found = getattr(value, "shape", None)
    fits = found is not None and len(found) == len(shape)
    fits = fits and all(
        want is None or want == got for want, got in zip(shape, found or (), strict=True)
    )
    if not fits:
        raise InputError(
            f"{owner}.{name}: expected an array of shape {shape}, "
            f"found {found or type(value).__name__}"
        )
    if finite and np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
        raise InputError(f"{owner}.{name}: holds NaN or infinite numbers, expected finite ones")


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera without distortion and the size of its image.

    intrinsics: (3, 3) [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels. source: where they come
    from. Raises InputError for non-finite or non-positive focal lengths and empty images.
    """

    intrinsics: FloatArray
    width: int
    height: int
    source: CameraSource = "given"

    def __post_init__(self) -> None:
        _check("Camera", "intrinsics", self.intrinsics, (3, 3))
        if not (self.intrinsics[0, 0] > 0 and self.intrinsics[1, 1] > 0):
            fx, fy = self.intrinsics[0, 0], self.intrinsics[1, 1]
            raise InputError(f"Camera.intrinsics: focal lengths must be positive: {fx}, {fy}")
        if self.width < 1 or self.height < 1:
            raise InputError(
                f"Camera: image size must be positive, found {self.width}x{self.height}"
            )

    def project(self, points: FloatArray) -> FloatArray:
        """Pixels (..., 2) of camera-frame points (..., 3) in metres."""
        homogeneous = points @ self.intrinsics.T.astype(points.dtype)
        return homogeneous[..., :2] / homogeneous[..., 2:]


@dataclass(frozen=True, kw_only=True)
class Hand:
    """One hand: a label in a Sample, an estimate in a Scene. Everything that is not known is None.

    side: None only in labels of sets that do not say it; processors that need it refuse such a
    hand. joints (21, 3), vertices (778, 3): metres, camera frame, true side. joints2d (21, 2):
    pixels of the image. joints2d_valid (21,): False where the source gives no position.
    joints_visible (21,): False where something hides it. pose (16, 3): axis-angle, MANO joint
    order, flat convention.
    betas (10,). translation (3,): added to the hand model's un-centred output (the wrist rests at
    its shape-dependent place J0(betas)). box: tight around the hand. visibility: visible area /
    full area, 1 = fully visible. hand_id: stable over the frames of a video.
    """

    side: Side | None
    box: FloatArray | None = None
    score: float = 1.0
    joints2d: FloatArray | None = None
    joints2d_valid: NDArray[np.bool_] | None = None
    joints_visible: NDArray[np.bool_] | None = None
    joints: FloatArray | None = None
    vertices: FloatArray | None = None
    pose: FloatArray | None = None
    betas: FloatArray | None = None
    translation: FloatArray | None = None
    grasping: bool | None = None
    grasp_score: float | None = None
    visibility: float | None = None
    hand_id: int | None = None

    def __post_init__(self) -> None:
        if self.side not in ("left", "right", None):
            raise InputError(f"Hand.side: expected 'left', 'right' or None, found {self.side!r}")
        _check("Hand", "box", self.box, (4,))
        _check("Hand", "joints2d", self.joints2d, (NUM_JOINTS, 2), finite=False)
        _check("Hand", "joints2d_valid", self.joints2d_valid, (NUM_JOINTS,))
        _check("Hand", "joints_visible", self.joints_visible, (NUM_JOINTS,))
        _check("Hand", "joints", self.joints, (NUM_JOINTS, 3))
        _check("Hand", "vertices", self.vertices, (NUM_VERTICES, 3))
        _check("Hand", "pose", self.pose, (NUM_POSE, 3))
        _check("Hand", "betas", self.betas, (NUM_BETAS,))
        _check("Hand", "translation", self.translation, (3,))


@dataclass(frozen=True, kw_only=True)
class RigidObject:
    """A rigid object in the camera frame: x_camera = rotation @ x_object + translation (metres).

    name: a catalogue name such as `003_cracker_box`, or None. control_points (21, 3): in the
    object's own frame (order of `handhold.objects.control_points`). box: of the projected control
    points. held: True when a hand holds it.
    """

    name: str | None
    rotation: FloatArray
    translation: FloatArray
    score: float = 1.0
    box: FloatArray | None = None
    control_points: FloatArray | None = None
    held: bool | None = None

    def __post_init__(self) -> None:
        _check("RigidObject", "rotation", self.rotation, (3, 3))
        _check("RigidObject", "translation", self.translation, (3,))
        _check("RigidObject", "box", self.box, (4,))
        _check("RigidObject", "control_points", self.control_points, (NUM_CONTROL_POINTS, 3))


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a made sample comes from.

    source: key of the sample whose labels it shows. object: the object's name. pose: which grasp or
    frame the pose is of, where it is not the source's own. seed: of the series it was made in.
    scores: what was measured on it, by name, such as `mpjpe_mm` (`synthesis.filtering`).
    """

    source: str
    object: str | None = None
    pose: str | None = None
    seed: int | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with whatever its source knows about it.

    key: unique name within the source. image: (H, W, 3) uint8 RGB. object: the (first) labelled
    object, held or near. hands_complete: True when every visible hand is labelled (detections
    beside them are then false alarms). hand_mask, object_mask: (H, W) bool, visible pixels;
    hand_mask_amodal: as if nothing hid the hand. depth: (H, W) metres, 0 = none. bare_image: the
    same scene with the object removed (UniHOPE's paired image). texture_map, normal_map: (H, W, 3)
    uint8, the first hand and the object as HandBooster renders them (`synthesis.conditions`).
    provenance: None for photos and for scenes that are drawn from their key alone.
    """

    key: str
    image: NDArray[np.uint8]
    camera: Camera
    hands: tuple[Hand, ...] = ()
    object: RigidObject | None = None
    hands_complete: bool = True
    hand_mask: NDArray[np.bool_] | None = None
    hand_mask_amodal: NDArray[np.bool_] | None = None
    object_mask: NDArray[np.bool_] | None = None
    depth: FloatArray | None = None
    bare_image: NDArray[np.uint8] | None = None
    texture_map: NDArray[np.uint8] | None = None
    normal_map: NDArray[np.uint8] | None = None
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        _check("Sample", "image", self.image, (None, None, 3))
        if self.image.dtype != np.uint8:
            raise InputError(
                f"Sample.image ({self.key}): expected uint8 RGB, found {self.image.dtype}"
            )
        height, width = self.image.shape[:2]
        if (width, height) != (self.camera.width, self.camera.height):
            raise InputError(
                f"Sample.camera ({self.key}): made for {self.camera.width}x{self.camera.height}, "
                f"but the image is {width}x{height}"
            )
        for name in ("hand_mask", "hand_mask_amodal", "object_mask", "depth"):
            _check("Sample", name, getattr(self, name), (height, width))
        for name in ("bare_image", "texture_map", "normal_map"):
            _check("Sample", name, getattr(self, name), (height, width, 3))


@dataclass(frozen=True, kw_only=True)
class _Tensors:
    """Shared by Batch and Prediction: moving between devices and looking at what is there."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """The same with every tensor (also inside `features`) passed through `Tensor.to`."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def map(self, function: Any) -> Any:
        """The same with `function` applied to every tensor."""
        changed: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if hasattr(value, "detach"):
                changed[item.name] = function(value)
            elif isinstance(value, dict):
                changed[item.name] = {key: function(tensor) for key, tensor in value.items()}
        return dataclasses.replace(self, **changed)


@dataclass(frozen=True, kw_only=True)
class Batch(_Tensors):
    """B crops ready for a network, every hand a right hand, plus the way back to the photo and, in
    training, the targets.

    image: (B, 3, S, S) float32 in 0..1. hand_box, object_box: (B, 4) crop pixels. crop: (B, 3, 3)
    maps photo pixels to crop pixels of the un-mirrored photo; mirrored: (B,) bool, the crop was
    then flipped: x -> S - 1 - x, and all labels and `intrinsics` (B, 3, 3; of the crop) are those
    of the flipped crop. Targets: pose (B, 16, 3) axis-angle, betas (B, 10), joints (B, 21, 3) and
    vertices (B, 778, 3) metres in the hand model's own frame (no translation), root (B, 3) wrist in
    the camera frame, joints2d (B, 21, 2) crop pixels, joints2d_valid (B, 21), has_pose (B,) bool
    (False: only 2D is known), grasping (B,) bool, has_grasping (B,) bool, visibility (B,)
    (NaN: not known), object_points2d (B, 21, 2) crop pixels, object_mask (B, R, R) in the object
    box (-1: not known), object_class (B,) int64 (-1: none or not in the catalogue). paired: the
    batch of the second images of UniHOPE's pairs; is_filtered (B,) bool: the pair is one image
    twice.
    """

    image: Tensor
    hand_box: Tensor
    object_box: Tensor
    crop: Tensor | None = None
    mirrored: Tensor | None = None
    intrinsics: Tensor | None = None
    pose: Tensor | None = None
    betas: Tensor | None = None
    joints: Tensor | None = None
    vertices: Tensor | None = None
    root: Tensor | None = None
    joints2d: Tensor | None = None
    joints2d_valid: Tensor | None = None
    has_pose: Tensor | None = None
    grasping: Tensor | None = None
    has_grasping: Tensor | None = None
    visibility: Tensor | None = None
    object_points2d: Tensor | None = None
    object_mask: Tensor | None = None
    object_class: Tensor | None = None
    paired_image: Tensor | None = None
    is_filtered: Tensor | None = None
    keys: Sequence[str] = ()

    def __len__(self) -> int:
        return int(self.image.shape[0])


@dataclass(frozen=True, kw_only=True)
class Prediction(_Tensors):
    """What a network says about B right hands, in the crop.

    joints (B, 21, 3), vertices (B, 778, 3): metres in the hand model's own frame (camera axes, no
    translation). joints2d (B, 21, 2): crop pixels. rotations (B, 16, 3, 3), betas (B, 10): of the
    hand model. grasp_logits (B, 2): [not grasping, grasping]. object_points2d (B, N, 21, 2) crop
    pixels and object_confidence (B, N, 21): N candidates for every control point.
    object_class_logits (B, C). features: named activations that a loss reads.
    """

    joints: Tensor
    vertices: Tensor | None = None
    joints2d: Tensor | None = None
    rotations: Tensor | None = None
    betas: Tensor | None = None
    grasp_logits: Tensor | None = None
    object_points2d: Tensor | None = None
    object_confidence: Tensor | None = None
    object_class_logits: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What was found in one image. `objects[i]` is what `hands[i]` holds, or None."""

    image: str
    camera: Camera
    model: str
    hands: tuple[Hand, ...] = ()
    objects: tuple[RigidObject | None, ...] = ()

    def __post_init__(self) -> None:
        if len(self.objects) != len(self.hands):
            raise InputError(
                f"Scene.objects: expected one entry a hand ({len(self.hands)}), "
                f"found {len(self.objects)}"
            )
