"""Keypoint Transformer against the activations and losses of the original.

Both layouts: angles with the small decoder, vectors with the big one. Peaks of nearly equal height
may come in another order, so tokens are brought into the golden order first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from handhold.geometry.rotation import axis_angle_to_matrix
from handhold.hand.convention import reorder
from handhold.models.keypoint_transformer.batch import ORDER, KeypointBatch
from handhold.models.keypoint_transformer.loss import KeypointTransformerLossConfig, loss
from handhold.models.keypoint_transformer.model import (
    KeypointTransformer,
    KeypointTransformerConfig,
)
from handhold.models.keypoint_transformer.official import config_for, convert
from handhold.models.keypoint_transformer.readout import joints_from_vectors
from handhold.models.weights import fit
from handhold.scene import Prediction

TIPS = (745, 320, 444, 555, 672)  # of the hand layer that the original uses
PARAMETERS = {"kypt": 57_493_788, "kypt_ho3d": 121_285_468}
# golden name -> ours; (B, L, N, C) is stored as (L, N, B, C), (B, L, C) as (L, B, C)
LAYERS = {
    "encoder_layers": "encoder_layers",
    "decoder_layers": "decoder_layers",
    "joint_class_all": "token_logits",
    "linear_pose": "hand_angles",
    "linear_joint_vecs": "hand_vectors",
    "linear_shape": "shapes",
    "linear_cam": "cameras",
    "linear_rel_trans": "between",
    "linear_obj_rot": "object_sixd",
    "linear_obj_rel_trans": "object_translations",
    "linear_obj_corner_proj": "object_corners2d",
}
PLAIN = {
    "joint_heatmap": "heatmap",
    "obj_seg_pred": "object_map",
    "peaks_xy": "xy",
    "peaks_mask": "found",
    "peaks_class_map": "label",
    "memory_mask": "memory_mask",
    "attention_last": "attention_last",
    "linear_bottleneck_hand_type": "hand_type_logits",
}
LOSSES = {
    "joint_heatmap": "heatmap",
    "obj_seg": "object_map",
    "cls": "token_class",
    "hand_type": "hand_type",
    "pose": "pose",
    "shape_reg": "shape_prior",
    "shape_loss": "shape",
    "joint_vec": "vectors",
    "joints_loss": "joints",
    "joints2d_loss": "joints2d",
    "cam_scale": "camera_scale",
    "cam_trans": "camera_shift",
    "obj_corners": "object_corners",
    "obj_trans": "object_translation",
    "obj_corners_proj": "object_corners2d",
    "obj_weak_proj": "object_projection",
}
# Terms that are 0 in all of the original's own runs with a single hand: not computed here.
ZERO = ("vertex_loss", "rel_trans", "obj_rot")


def _batch(golden: Any) -> KeypointBatch:
    """The right hand's share of the inputs; the left hand is absent in all of them."""
    assert not golden.tensor("joint_valid")[:, 21:].any()

    def canonical(name: str) -> Tensor:
        return reorder(golden.tensor(name)[:, :21], ORDER, "canonical")

    boxes = torch.zeros(2, 4)
    valid = golden.tensor("joint_valid")[:, :21, None]
    number = golden.tensor("obj_id")
    return KeypointBatch(
        image=golden.generated_inputs()["image"],
        hand_box=boxes,
        object_box=boxes,
        pose=golden.tensor("mano_pose")[:, :48].reshape(-1, 16, 3),
        betas=golden.tensor("mano_shape")[:, :10],
        joints=canonical("joint_cam_no_trans") / 1000,
        joints2d=2 * canonical("joint_coord")[..., :2],
        joints2d_valid=reorder(valid, ORDER, "canonical")[..., 0] > 0,
        has_pose=golden.tensor("mano_valid")[:, 0].bool(),
        object_map=golden.tensor("obj_seg").float(),
        object_rotation=axis_angle_to_matrix(golden.tensor("obj_rot")),
        object_translation=golden.tensor("rel_obj_trans"),
        object_corners=golden.tensor("obj_bb_rest"),
        object_corners2d=2 * golden.tensor("obj_corners_coord")[..., :2],
        object_number=torch.where(golden.tensor("obj_pose_valid") > 0, number, -1),
    )


def _golden_order(golden: Any, prefix: str, found: dict[str, Tensor]) -> Tensor:
    """(B, N): where our token list holds each token of the golden one. Tokens are compared as a
    set, of place and kind; equal ones (padding) keep their order."""
    theirs_xy = torch.from_numpy(golden.output(f"{prefix}peaks_xy"))
    theirs_kind = torch.from_numpy(golden.output(f"{prefix}peaks_class_map"))
    theirs = torch.cat((theirs_xy, 1000 * theirs_kind[..., None]), dim=2)
    ours = torch.cat((found["xy"], 1000.0 * found["label"][..., None]), dim=2)
    same = (theirs[:, :, None] - ours[:, None]).abs().amax(dim=3) < 1e-3  # (B, golden, ours)
    order = torch.zeros(theirs.shape[:2], dtype=torch.long)
    for sample, pairs in enumerate(same):
        free = torch.ones(len(pairs), dtype=torch.bool)
        for place, fits in enumerate(pairs):
            chosen = int((fits & free).int().argmax())
            assert bool(fits[chosen] & free[chosen]), f"{prefix} sample {sample}: token {place}"
            order[sample, place] = chosen
            free[chosen] = False
    return order


def _reordered(found: dict[str, Tensor], order: Tensor) -> dict[str, Tensor]:
    """All that has a token axis, in the golden's order."""
    axes = {
        **dict.fromkeys(("xy", "found", "label", "appearance", "position", "memory"), 1),
        **dict.fromkeys(("encoder_layers", "token_logits", "memory_mask", "attention_last"), 2),
    }
    result = dict(found)
    for name, axis in axes.items():
        value = found[name]
        each = order.repeat_interleave(len(value) // len(order), dim=0)
        rows = [part.index_select(axis - 1, o) for part, o in zip(value, each, strict=True)]
        result[name] = torch.stack(rows)
    return result


def _compare(
    golden: Any, prefix: str, network: KeypointTransformer, batch: KeypointBatch
) -> Prediction:
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        prediction = network(batch, found, labelled=prefix != "")
    found = _reordered(found, _golden_order(golden, prefix, found))
    outputs = [name.removeprefix(prefix) for name in golden.outputs if name.startswith(prefix)]

    def compare(name: str, value: Tensor) -> None:
        if name in outputs:
            golden.compare(prefix + name, value.float())

    for name, value in found.items():
        if name.startswith(("backbone/", "pyramid/")):
            compare(name, value)
    for name, ours in PLAIN.items():
        compare(name, found[ours])
    for name, ours in LAYERS.items():
        if ours in found:
            value = found[ours]
            if name == "linear_obj_corner_proj":
                value = value.flatten(2)
            compare(name, value.movedim(0, -2))
    compare("position_embedding", network.tokens.position_map.expand(len(batch), -1, -1, -1))
    compare("tgt_mask", network.query_mask)
    compare("tokens_appearance", found["appearance"].transpose(1, 2))
    compare("tokens_position", found["position"].transpose(1, 2))
    compare("memory", found["memory"].transpose(0, 1))
    compare("obj_rotation_matrix", prediction.features["object_rotation"])
    _compare_hands(golden, prefix, compare, prediction)
    return prediction


def _compare_hands(
    golden: Any, prefix: str, compare: Callable[[str, Tensor], None], prediction: Prediction
) -> None:
    features = prediction.features
    if "hand_vectors" in features:
        for hand, side in enumerate(("right", "left")):
            vectors = features["hand_vectors"][:, -1, 20 * hand : 20 * hand + 20]
            joints = reorder(joints_from_vectors(vectors), "canonical", ORDER)
            compare(f"joint_3d_{side}", joints[:, :20])
        torch.testing.assert_close(joints_from_vectors(features["hand_vectors"][:, -1, :20]),
                                   prediction.joints)  # fmt: skip
        return
    assert prediction.vertices is not None
    compare("mano/mesh_right", prediction.vertices)
    for hand, side in enumerate(("right", "left")):
        # The original's tips; its left hand is no business of our network, but its numbers are.
        model = golden.hand_model(side).with_tips(TIPS)
        angles = features["hand_angles"][:, -1, 16 * hand : 16 * hand + 16]
        posed = model(angles, features["shapes"][:, -1], flat=False)
        if side == "left":
            compare("mano/mesh_left", posed.vertices)
        tips = posed.vertices[:, model.tips]
        compare(f"mano/joints_mano_{side}", torch.cat((posed.joints16, tips), dim=1))
    # the camera, on the golden's own joints
    joints = torch.from_numpy(golden.output(f"{prefix}mano/joints_right"))
    camera = features["cameras"][:, -1, None]
    compare("mano/joints2d_right", camera[..., :1] * joints[..., :2] + camera[..., 1:])


def _compare_losses(golden: Any, prefix: str, prediction: Prediction, batch: KeypointBatch) -> None:
    unit = dict.fromkeys(LOSSES.values(), 1.0)
    terms = loss(prediction, batch, KeypointTransformerLossConfig(**unit))
    angles = "hand_angles" in prediction.features
    for name, ours in LOSSES.items():
        stored = f"{prefix}loss/{name}"
        if stored in golden.outputs and not (angles and ours in ("joints", "joints2d")):
            golden.compare(stored, terms[ours])
    for name in ZERO:
        if f"{prefix}loss/{name}" in golden.outputs:
            golden.compare(f"{prefix}loss/{name}", torch.tensor(0.0))


@pytest.mark.parametrize("name", ["kypt", "kypt_ho3d"])
def test_every_output(name: str, golden: Callable[[str], Any]) -> None:
    stored = golden(name)
    entries = convert(stored.state_dict())
    config = config_for(entries)
    preset = KeypointTransformerConfig() if name == "kypt" else KeypointTransformerConfig.ho3d()
    assert config == preset
    network = KeypointTransformer(config, stored.hand_model())
    fit(network, entries, name)
    count = sum(p.numel() for p in network.parameters() if p.requires_grad)
    dropped = ("norm1", "linear_hand_type")  # the original never calls them
    modules = stored.json["parameters_by_module"]
    assert count == stored.json["parameters"] - sum(modules[k] for k in dropped)
    assert count == PARAMETERS[name]

    batch = _batch(stored)
    for prefix in ("", "gt_peaks/"):
        prediction = _compare(stored, prefix, network.eval(), batch)
        _compare_losses(stored, prefix, prediction, batch)
    # these need a joint regressor that comes with the authors' files
    skipped = ["*mano/joints_right"]
    if name == "kypt":  # the original's regressed joints go into them
        skipped += ["*loss/joints_loss", "*loss/joints2d_loss"]
    assert not stored.forgotten(skipped)
