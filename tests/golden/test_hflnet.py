"""HFL-Net against the activations and losses of the original, weights filled from the keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from handhold.geometry.rotation import matrix_to_axis_angle
from handhold.models.hflnet.loss import HFLNetLossConfig, loss, with_hand_targets
from handhold.models.hflnet.model import HFLNet, HFLNetConfig, in_pixels
from handhold.models.hflnet.official import convert
from handhold.models.weights import fit
from handhold.scene import Batch, Prediction

HEADS4 = {
    "heads4_joints2d": "joints2d",
    "heads4_centred_verts3d": "verts3d",
    "heads4_centred_joints3d": "joints3d",
    "heads4_obj_x": "obj_x",
    "heads4_obj_conf": "obj_conf",
}


def _batch(golden: Any) -> Batch:
    hand_box, object_box = golden.tensor("bbox_hand"), golden.tensor("bbox_obj")
    mano = golden.tensor("mano_param")
    return Batch(
        image=golden.generated_inputs()["img"],
        hand_box=hand_box,
        object_box=object_box,
        pose=mano[:, :48].reshape(-1, 16, 3),
        betas=mano[:, 48:],
        joints2d=in_pixels(golden.tensor("joints_img"), hand_box),
        object_points2d=in_pixels(golden.tensor("obj_p2d"), object_box),
        object_mask=golden.tensor("obj_mask"),
    )


def _run(
    golden: Any, entries: dict[str, Tensor], config: HFLNetConfig, batch: Batch
) -> tuple[Prediction, dict[str, Tensor]]:
    network = HFLNet(config, golden.hand_model())
    fit(network, entries, golden.name)
    capture: dict[str, Tensor] = {}
    with torch.no_grad():
        prediction = network.eval()(batch, capture)
    capture["rotmats"] = capture["rotations"]
    capture["pose_aa"] = matrix_to_axis_angle(capture["rotations"]).flatten(1)
    return prediction, capture


def test_every_output(golden: Callable[[str], Any]) -> None:
    stored = golden("hflnet")
    batch, entries = _batch(stored), convert(stored.state_dict())
    config = HFLNetConfig(input_size=int(stored.json["config"]["input"]))
    prediction, found = _run(stored, entries, config, batch)
    for name in stored.outputs:
        if name in found:
            stored.compare(name, found[name])
    original = dataclasses.replace(config, heads=4, mano_center=0)
    _, found = _run(stored, entries, original, batch)
    for name, ours in HEADS4.items():
        stored.compare(name, found[ours])
    # the keys do not tell the head count, the numbers do
    assert stored.error("fused_hand", found["fused_hand"]) > 1e-3

    batch = with_hand_targets(batch, stored.hand_model())
    terms = loss(prediction, batch, HFLNetLossConfig())
    groups = {
        "mano_mesh3d_loss": ("vertices",),
        "mano_joints3d_loss": ("joints",),
        "manopose_loss": ("rotations",),
        "manoshape_loss": ("shape",),
        "mano_total_loss": ("vertices", "joints", "rotations", "shape"),
        "joint2d_loss": ("joints2d",),
        "obj_reg_loss": ("object_points",),
        "obj_conf_loss": ("object_confidence",),
        "obj_total_loss": ("object_points", "object_confidence"),
        "total": ("total",),
    }
    for name, parts in groups.items():
        value = torch.stack([terms[part] for part in parts]).sum()
        stored.compare(f"loss_{name}", value.reshape(1))
    assert not stored.forgotten()


def test_parameter_count(golden: Callable[[str], Any]) -> None:
    with torch.device("meta"):
        network = HFLNet(HFLNetConfig(init="kaiming"), golden("hflnet").hand_model())
    count = sum(p.numel() for p in network.parameters())
    assert count == golden("hflnet").json["parameters"] == 46_080_659
    backbone = sum(p.numel() for p in network.backbone.parameters())
    assert backbone == 34_974_272
