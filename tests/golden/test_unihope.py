"""UniHOPE against the activations and losses of the original, weights filled from the keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from handhold.models.hflnet.model import in_pixels
from handhold.models.unihope.loss import UniHOPELossConfig, loss, with_hand_targets
from handhold.models.unihope.model import UniHOPE, UniHOPEConfig, WholeCropClassifier
from handhold.models.unihope.official import convert
from handhold.models.weights import fit
from handhold.scene import Batch


def _network(golden: Any) -> UniHOPE:
    network = UniHOPE(
        UniHOPEConfig(input_size=int(golden.json["config"]["input"])), golden.hand_model()
    )
    fit(network, convert(golden.state_dict()), golden.name)
    return network.eval()


def _half(golden: Any, name: str, index: int, size: int) -> Tensor:
    return golden.tensor(f"train_{name}")[:, index * size : (index + 1) * size]


def _pair(golden: Any, index: int) -> Batch:
    """The first or second images of the pairs, with their labels."""
    hand_box, object_box = (_half(golden, f"bbox_{n}", index, 4) for n in ("hand", "obj"))
    mano = _half(golden, "mano_param", index, 58)
    hidden = golden.tensor("train_gt_occ_cls")[:, index]
    images = golden.generated_inputs()
    return Batch(
        image=images["img" if index == 0 else "img_generated"],
        hand_box=hand_box,
        object_box=object_box,
        pose=mano[:, :48].reshape(-1, 16, 3),
        betas=mano[:, 48:],
        joints2d=in_pixels(_half(golden, "joints_img", index, 21), hand_box),
        object_points2d=in_pixels(_half(golden, "obj_p2d", index, 21), object_box),
        object_mask=_half(golden, "obj_mask", index, 32),
        grasping=golden.tensor("train_gt_grasping")[:, index] > 0.5,
        visibility=torch.where(hidden > 0.5, 0.5, 1.0),
        is_filtered=golden.tensor("train_is_filtered") > 0.5,
    )


@torch.no_grad()
def test_every_output(golden: Callable[[str], Any]) -> None:
    stored = golden("unihope")
    network = _network(stored)
    batch = Batch(
        image=stored.generated_inputs()["img"],
        hand_box=stored.tensor("bbox_hand"),
        object_box=stored.tensor("bbox_obj"),
    )
    found: dict[str, Tensor] = {}
    prediction = network(batch, found)
    assert prediction.grasp_logits is not None
    found["grasp_logits"] = prediction.grasp_logits
    found["occ_logits"] = found["occlusion_logits"]
    found["mano_feature_mapped"] = found["mano_mapped"]
    found["hand_occluded"] = found["occ_logits"].argmax(dim=1).float()
    found["grasping"] = found["grasping"].float()
    for name in stored.outputs:
        if name in found:
            stored.compare(name, found[name])
    stored.compare("legacy_grasp_logits", _legacy_logits(stored, found["P2_obj"]))
    _losses(stored, network)
    # a contrastive term that the original switches off
    assert stored.forgotten() == ["train_loss_obj_cls_loss"]
    assert stored.output("train_loss_obj_cls_loss").item() == 0


def _legacy_logits(stored: Any, feature: Tensor) -> Tensor:
    """The other switch, filled from its own keys, without the override."""
    stored.json = stored.json | {"override": {}}
    shapes = stored.json["state_dict"] | stored.json["state_dict_legacy_difference"]
    stored.json["state_dict"] = {k: v for k, v in shapes.items() if k.startswith("obj_conf_layer")}
    entries = {k: v for k, v in convert(stored.state_dict()).items() if k.startswith("switch.")}
    config = UniHOPEConfig(switch_legacy=True, input_size=int(stored.json["config"]["input"]))
    with torch.device("meta"):
        switch = WholeCropClassifier(config, legacy=True)
    switch.load_state_dict({k.removeprefix("switch."): v for k, v in entries.items()}, assign=True)
    return switch(feature)[0]


def _losses(stored: Any, network: UniHOPE) -> None:
    first, second = (with_hand_targets(_pair(stored, i), stored.hand_model()) for i in (0, 1))
    one, two = network.forward_pair(first, second)
    config = UniHOPELossConfig(enhancement=True)
    terms = loss(one, first, config, second=two, second_batch=second)
    groups = {
        "train_loss_mano_total_loss": ("vertices", "joints", "rotations", "shape"),
        "train_loss_joint2d_loss": ("joints2d",),
        "train_loss_obj_total_loss": ("object_points", "object_confidence"),
        "train_loss_out_obj_conf_loss": ("switch",),
        "train_loss_hand_occ_cls_loss": ("occlusion",),
        "train_loss_c3_h": ("c3",),
        "train_loss_x_hand": ("roi",),
        "train_loss_mano_encoding": ("mano",),
        "train_loss_total": ("total",),
    }
    for name, parts in groups.items():
        stored.compare(name, torch.stack([terms[part] for part in parts]).sum().reshape(1))
    plain = dataclasses.replace(config, enhancement=False)
    terms = loss(one, first, plain, second=two, second_batch=second)
    stored.compare("stage1_loss_total", terms["total"].reshape(1))


@pytest.mark.parametrize(("legacy", "adaptation"), [(False, True), (True, True), (False, False)])
def test_parameter_count(golden: Callable[[str], Any], legacy: bool, adaptation: bool) -> None:
    told = golden("unihope").json["parameters_breakdown"]
    expected = told["all_legacy"] if legacy else told["all_non_legacy"]
    if not adaptation:
        expected = told["paper_46.38M"]
    config = UniHOPEConfig(
        switch_legacy=legacy, adaptation="official" if adaptation else "none", init="kaiming"
    )
    with torch.device("meta"):
        network = UniHOPE(config, golden("unihope").hand_model())
    assert sum(p.numel() for p in network.parameters()) == expected
