"""Keypoint Transformer's losses (paper section 3.4; definitions and weights of the released code).

Every decoder layer is supervised, every encoder layer's token classes are. Lengths are millimetres
where the original's are, so that its weights fit.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from handhold.errors import InputError
from handhold.hand.convention import reorder
from handhold.models.keypoint_transformer.batch import ORDER, KeypointBatch
from handhold.models.nn.hope_losses import known_pose, mapped_pixels, masked_mean, need
from handhold.scene import Batch, Prediction

MM = 1000.0
WRIST = 20  # in ORDER


@dataclass(frozen=True, kw_only=True)
class KeypointTransformerLossConfig:
    """Weights of the terms (functions below say what they are); 0 leaves a term out.

    The zeros are the original's own. heat_sigma: of a joint's bell, map pixels. reach: a token this
    near to a joint (map pixels) shall name it. ridge: of the camera that fits the labels.
    symmetric: YCB numbers of objects that look alike when turned by half about z; heavy: those that
    count `heavy_weight` times. spare_unlabelled: where a joint without label may be (on the map
    beside the labelled bells, at tokens that are near no joint) nothing is taught; the original
    teaches "no joint" there, which is right where joints lack labels for being outside the photo.
    """

    heatmap: float = 0.01
    object_map: float = 0.001
    token_class: float = 1.0
    pose: float = 0.07
    shape: float = 5.0
    joints: float = 0.1
    joints2d: float = 0.01
    vectors: float = 1.0
    camera_scale: float = 0.005
    camera_shift: float = 0.05
    object_translation: float = 100.0
    object_corners: float = 0.1
    object_corners2d: float = 0.0
    object_projection: float = 0.0
    hand_type: float = 0.0
    shape_prior: float = 0.0
    heat_sigma: float = 1.25
    reach: float = 3.0
    ridge: float = 1e-4
    symmetric: tuple[int, ...] = (3, 4, 6, 10, 21)
    heavy: tuple[int, ...] = (10, 24)
    heavy_weight: float = 4.0
    spare_unlabelled: bool = False

    def __post_init__(self) -> None:
        name = type(self).__name__
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int | float) and not value >= 0:
                raise InputError(f"{name}.{item.name}: expected not negative, found {value}")
        for field in ("symmetric", "heavy"):  # JSON has lists
            object.__setattr__(self, field, tuple(int(v) for v in getattr(self, field)))
        if not self.heat_sigma > 0:
            raise InputError(f"{name}.heat_sigma: expected positive, found {self.heat_sigma}")

    @classmethod
    def small(cls) -> KeypointTransformerLossConfig:
        """For training from nothing: the maps weigh less, the hand more."""
        return cls(
            heatmap=1e-3,
            object_map=1e-4,
            pose=5.0,
            shape=1.0,
            joints=2.0,
            joints2d=2.0,
            camera_scale=0.02,
            camera_shift=0.1,
            object_translation=20.0,
            object_corners=0.02,
            spare_unlabelled=True,
        )


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """The labels in the original's order and units. joints2d (B, 21, 2) map pixels, joints (B, 21,
    3) metres; valid (B, 21): the 2D joint is labelled; solid (B, 21): and the 3D pose is; known
    (B,): the 3D pose is labelled and the network had any key point."""

    joints2d: Tensor
    joints: Tensor
    valid: Tensor
    solid: Tensor
    known: Tensor


def loss(
    prediction: Prediction, batch: Batch, config: KeypointTransformerLossConfig | None = None
) -> dict[str, Tensor]:
    """Named, weighted terms and their sum `total`.

    batch: with the labels of a hand in the hand model's frame (`with_hand_targets`), and those of a
    `KeypointBatch` where there are any. A sample without a label takes no part in that term; of one
    without any key point only the maps are supervised, as in the original. Raises InputError when a
    label or output is missing.
    """
    config = KeypointTransformerLossConfig() if config is None else config
    labels = _labels(prediction, batch)
    terms = map_terms(prediction, batch, labels, config)
    terms["token_class"] = token_class(prediction, batch, labels, config)
    terms |= hand_terms(prediction, batch, labels)
    scale, shift = fit_camera(labels.joints, labels.joints2d, labels.solid, config.ridge)
    terms |= camera_terms(prediction, labels, scale, shift)
    if isinstance(batch, KeypointBatch) and batch.object_number is not None:
        terms |= object_terms(prediction, batch, labels, (scale, shift), config)
    weights = {name: float(getattr(config, name)) for name in terms}
    terms = {name: weights[name] * value for name, value in terms.items() if weights[name] > 0}
    return terms | {"total": sum(terms.values(), start=prediction.joints.new_zeros(()))}


def _labels(prediction: Prediction, batch: Batch) -> _Labels:
    joints2d = reorder(need("batch.joints2d", batch.joints2d).float() / 2, "canonical", ORDER)
    joints = reorder(need("batch.joints", batch.joints).float(), "canonical", ORDER)
    valid = torch.ones_like(joints[..., 0], dtype=torch.bool)
    if batch.joints2d_valid is not None:
        valid = reorder(batch.joints2d_valid[..., None], "canonical", ORDER)[..., 0].bool()
    seen = prediction.features["tokens_found"].any(dim=1)
    known = known_pose(batch) & seen
    return _Labels(
        joints2d=joints2d,
        joints=joints,
        valid=valid & seen[:, None],
        solid=valid & known[:, None],
        known=known,
    )


# --------------------------------------------------------------------------------- maps, tokens


def heat_target(joints2d: Tensor, valid: Tensor, size: int, sigma: float) -> Tensor:
    """Joints (B, J, 2) map pixels, valid (B, J) -> (B, size, size): the sum of their bells, each
    255 high."""
    line = torch.arange(size, device=joints2d.device, dtype=joints2d.dtype)
    away = (joints2d[..., None] - line) ** 2  # (B, J, 2, size)
    x, y = torch.exp(-away / (2 * sigma**2)).unbind(dim=2)
    return 255.0 * torch.einsum("bjy,bjx->byx", y * valid[..., None], x)


def map_terms(
    prediction: Prediction, batch: Batch, labels: _Labels, config: KeypointTransformerLossConfig
) -> dict[str, Tensor]:
    """heatmap, object_map: mean squared errors over the known pixels, maps from 0 to 255."""
    heat = prediction.features["heatmap"].float()
    valid = labels.valid
    if batch.joints2d_valid is not None:  # also where there was no key point
        valid = reorder(batch.joints2d_valid[..., None], "canonical", ORDER)[..., 0].bool()
    target = heat_target(labels.joints2d, valid, heat.shape[-1], config.heat_sigma)
    sure = mapped_pixels(target, valid) if config.spare_unlabelled else valid.any(dim=1)
    terms = {"heatmap": masked_mean((heat - target) ** 2, sure)}
    if isinstance(batch, KeypointBatch) and batch.object_map is not None:
        found = prediction.features["object_map"].float()
        label = batch.object_map
        terms["object_map"] = masked_mean((found - 255.0 * label) ** 2, label >= 0)
    return terms


def token_targets(
    prediction: Prediction, batch: Batch, labels: _Labels, config: KeypointTransformerLossConfig
) -> Tensor:
    """The class (B, N) each token shall get: the joint within reach (of several the one nearest to
    the camera, or without 3D labels to the token), else none; an object's token on the object:
    object, else none. -1 where there is no key point, on one of the object where nobody knows the
    object, and with `spare_unlabelled` where an unlabelled joint may be."""
    features = prediction.features
    xy, kind = features["tokens_xy"].float(), features["tokens_label"]
    last = features["token_logits"].shape[-1] - 1
    # not by matrix products, which lose the digits that decide
    away = torch.cdist(
        xy, labels.joints2d, compute_mode="donot_use_mm_for_euclid_dist"
    )  # (B, N, 21)
    near = (away <= config.reach) & labels.valid[:, None]
    depth = torch.where(labels.known[:, None, None], labels.joints[:, None, :, 2], away)
    depth = torch.where(near, depth, torch.inf)
    sure = labels.valid.all(dim=1) | (not config.spare_unlabelled)
    none = torch.where(sure, 0, -1)[:, None]
    joint = torch.where(near.any(dim=2), depth.argmin(dim=2) + 1, none)
    on_object = torch.full_like(joint, -1)
    if isinstance(batch, KeypointBatch) and batch.object_map is not None:
        size = batch.object_map.shape[-1]
        x, y = xy.round().long().clamp(0, size - 1).unbind(dim=2)
        there = batch.object_map.flatten(1).gather(1, y * size + x)
        on_object = torch.where(there >= 0, (there > 100 / 255) * last, -1)
    target = torch.where(kind == last, on_object, joint)
    return torch.where(features["tokens_found"], target, -1)


def token_class(
    prediction: Prediction, batch: Batch, labels: _Labels, config: KeypointTransformerLossConfig
) -> Tensor:
    """Mean cross-entropy of the tokens' classes over key points and encoder layers."""
    logits = prediction.features["token_logits"].float()  # (B, L, N, C)
    target = token_targets(prediction, batch, labels, config)
    target = target[:, None].expand(logits.shape[:-1])
    cost = F.cross_entropy(logits.movedim(-1, 1), target.clamp_min(0), reduction="none")
    return masked_mean(cost, target >= 0)


# ----------------------------------------------------------------------------------------- hand


def _over_layers(error: Tensor) -> Tensor:
    """(B, L, ...) -> (B,), the mean of the rest."""
    return error.flatten(1).mean(dim=1)


def hand_terms(prediction: Prediction, batch: Batch, labels: _Labels) -> dict[str, Tensor]:
    """Mean absolute errors over samples and layers.

    pose: axis-angles, the sum over a hand's numbers / 32 (angles; with `flat` False against labels
    in the flat convention all the same). shape: betas. joints (mm, from the wrist), joints2d (map
    pixels, by the predicted camera) and vectors (mm, from the parent): the sum over labelled joints
    / all joints of two hands, as the original's second hand is all zeros; in "vectors" the wrist
    does not count. hand_type: cross-entropy of "right hand, no left hand". shape_prior: mean
    squared betas.
    """
    features, known = prediction.features, labels.known
    joints = reorder(features["layer_joints"].float(), "canonical", ORDER)  # (B, L, 21, 3)
    cameras = features["cameras"][:, -joints.shape[1] :, None]
    flat = cameras[..., :1] * joints[..., :2] + cameras[..., 1:]
    counted = 21 if "hand_angles" in features else 20
    half = 1 / (2 * counted)

    relative = joints - joints[:, :, WRIST:]
    target = (labels.joints - labels.joints[:, WRIST:])[:, None]
    error = MM * (relative - target).abs()[:, :, :counted]
    error2d = (flat - labels.joints2d[:, None]).abs()[:, :, :counted]
    error = error * (half * labels.solid[:, None, :counted, None])
    error2d = error2d * (half * labels.valid[:, None, :counted, None])
    terms = {
        "joints": masked_mean(_over_layers(error.sum(dim=2)), known),
        "joints2d": masked_mean(_over_layers(error2d.sum(dim=2)), labels.valid.any(dim=1)),
    }
    shapes = features["shapes"]
    if "hand_angles" in features:
        pose = need("batch.pose", batch.pose).float()
        betas = need("batch.betas", batch.betas).float()[:, None]
        off = (features["hand_angles"][:, :, :16] - pose[:, None]).abs().sum(dim=(2, 3)) / 32
        terms["pose"] = masked_mean(_over_layers(off), known)
        terms["shape"] = masked_mean(_over_layers((shapes - betas).abs()), known)
        terms["shape_prior"] = masked_mean(_over_layers(shapes**2), known)
    else:
        terms["vectors"] = vector_term(features["hand_vectors"], labels)
    right = torch.tensor([1.0, 0.0], device=known.device).expand(len(known), 2)
    logits = features["hand_type_logits"].float()
    certain = F.binary_cross_entropy_with_logits(logits, right, reduction="none").mean(dim=1)
    return terms | {"hand_type": masked_mean(certain, known)}


def vector_term(vectors: Tensor, labels: _Labels) -> Tensor:
    """Mean absolute error of (B, L, 20 or 40, 3) in mm; both ends of a vector must be labelled."""
    parent = [WRIST if k % 4 == 3 else k + 1 for k in range(20)]
    target = labels.joints[:, :20] - labels.joints[:, parent]
    mask = (labels.solid[:, :20] & labels.solid[:, parent])[:, None, :, None]
    error = MM * (vectors[:, :, :20] - target[:, None]).abs() * mask
    return masked_mean(_over_layers(error.sum(dim=2) / 40), labels.known)


# --------------------------------------------------------------------------------------- camera


def fit_camera(
    points: Tensor, pixels: Tensor, valid: Tensor, ridge: float
) -> tuple[Tensor, Tensor]:
    """The weak-perspective camera of the labels: pixels = scale * points + shift.

    points (B, N, 3) metres, pixels (B, N, 2), valid (B, N). Least squares with `ridge` times the
    squared unknowns; returns scale (B, 1) and shift (B, 2).
    """
    flat, weight = points[..., :2].double(), valid.double()
    zero, one = torch.zeros_like(weight), torch.ones_like(weight)
    x = torch.stack((flat[..., 0], one, zero), dim=-1)
    y = torch.stack((flat[..., 1], zero, one), dim=-1)
    rows = torch.cat((x, y), dim=1) * weight.repeat(1, 2)[..., None]  # (B, 2 N, 3)
    seen = torch.cat(pixels.double().unbind(dim=-1), dim=1)[..., None]
    square = rows.mT @ rows + ridge * torch.eye(3, dtype=rows.dtype, device=rows.device)
    found = torch.linalg.solve(square, rows.mT @ seen).squeeze(-1).to(points.dtype)
    return found[:, :1], found[:, 1:]


def camera_terms(
    prediction: Prediction, labels: _Labels, scale: Tensor, shift: Tensor
) -> dict[str, Tensor]:
    """camera_scale (map pixels a metre), camera_shift (map pixels): mean absolute errors."""
    cameras = prediction.features["cameras"]
    return {
        "camera_scale": masked_mean(
            _over_layers((cameras[..., :1] - scale[:, None]).abs()), labels.known
        ),
        "camera_shift": masked_mean(
            _over_layers((cameras[..., 1:] - shift[:, None]).abs()), labels.known
        ),
    }


# --------------------------------------------------------------------------------------- object


def object_terms(
    prediction: Prediction,
    batch: KeypointBatch,
    labels: _Labels,
    camera: tuple[Tensor, Tensor],
    config: KeypointTransformerLossConfig,
) -> dict[str, Tensor]:
    """Mean absolute errors over samples with a labelled object and over layers.

    object_translation (metres); object_corners (mm) with rotation and translation, of symmetric
    objects the smaller error of two; object_corners2d, object_projection (map pixels): the corners
    as predicted, and the posed ones by the predicted camera against the labels' one.
    """
    features = prediction.features
    number = need("batch.object_number", batch.object_number)
    rotation = need("batch.object_rotation", batch.object_rotation).float()
    translation = need("batch.object_translation", batch.object_translation).float()
    corners = need("batch.object_corners", batch.object_corners).float()
    seen = features["tokens_found"].any(dim=1)
    labelled = (number >= 0) & seen
    heavy = torch.isin(number, number.new_tensor(config.heavy))
    weight = torch.where(heavy, config.heavy_weight, 1.0)

    def mean(error: Tensor, chosen: Tensor) -> Tensor:
        return masked_mean(weight * _over_layers(error), chosen)

    def placed(turn: Tensor) -> Tensor:
        return corners @ turn.mT + translation[:, None]  # (B, 8, 3)

    moved = features["object_translations"]
    found = corners[:, None] @ features["object_rotations"].mT + moved[:, :, None]
    half_turn = rotation.new_tensor([-1.0, -1.0, 1.0])  # about z: columns x and y negated
    target = placed(rotation)
    error = _each_layer(found, target)
    turned = _each_layer(found, placed(rotation * half_turn))
    twin = torch.isin(number, number.new_tensor(config.symmetric))[:, None]
    error = torch.where(twin, torch.minimum(error, turned), error)

    cameras = features["cameras"][:, :, None]
    flat = cameras[..., :1] * found[..., :2] + cameras[..., 1:]
    scale, shift = camera
    target2d = scale[:, None] * target[..., :2] + shift[:, None]
    terms = {
        "object_translation": mean((moved - translation[:, None]).abs(), labelled),
        "object_corners": mean(MM * error, labelled),
        "object_projection": mean((flat - target2d[:, None]).abs(), labelled & labels.known),
    }
    if batch.object_corners2d is not None:
        pixels = batch.object_corners2d.float()[:, None] / 2
        terms["object_corners2d"] = mean((features["object_corners2d"] - pixels).abs(), labelled)
    return terms


def _each_layer(found: Tensor, target: Tensor) -> Tensor:
    """(B, L, 8, 3), (B, 8, 3) -> mean absolute differences (B, L)."""
    return (found - target[:, None]).abs().mean(dim=(2, 3))
