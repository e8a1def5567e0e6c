"""Liu et al.'s network against the activations and losses of the original, weights filled from the
keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from handhold.models.hflnet.model import in_pixels
from handhold.models.semihand.loss import loss, with_hand_targets
from handhold.models.semihand.model import SemiHand, SemiHandConfig
from handhold.models.semihand.official import convert
from handhold.models.weights import fit
from handhold.scene import Batch

LOSSES = {
    "mano_verts": ("vertices",),
    "mano_joints": ("joints",),
    "mano_pose": ("rotations",),
    "mano_shape": ("shape",),
    "joints_img": ("joints2d",),
    "shape_regul": ("shape_regulariser",),
    "pose_regul": ("pose_regulariser",),
    "obj_total_loss": ("object_points", "object_confidence"),
    "total": ("total",),
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


@torch.no_grad()
def test_every_output(golden: Callable[[str], Any]) -> None:
    stored = golden("semihand")
    told, hand = stored.json["config"], stored.hand_model()
    config = SemiHandConfig(input_size=int(told["input"]), heads=int(told["attention_heads"]))
    network = SemiHand(config, hand)
    fit(network, convert(stored.state_dict()), stored.name)
    batch = with_hand_targets(_batch(stored), hand)
    found: dict[str, Tensor] = {}
    prediction = network.eval()(batch, found)
    found["rotmats"] = found["rotations"]
    for name in stored.outputs:
        if not name.startswith("loss_"):
            stored.compare(name, found[name])
    terms = loss(prediction, batch)
    for name, parts in LOSSES.items():
        value = torch.stack([terms[part] for part in parts]).sum()
        stored.compare(f"loss_{name}", value.reshape(1))
    assert not stored.forgotten()


def test_parameter_count(golden: Callable[[str], Any]) -> None:
    with torch.device("meta"):
        network = SemiHand(SemiHandConfig.counted(), golden("semihand").hand_model())
    count = sum(p.numel() for p in network.parameters())
    assert count == golden("semihand").json["parameters"] == 34_480_019
