"""HandOccNet against the activations of the original, weights filled from the keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from handhold.geometry.rotation import matrix_to_axis_angle
from handhold.models.handoccnet.model import HandOccNet, HandOccNetConfig
from handhold.models.handoccnet.official import convert
from handhold.models.weights import fit
from handhold.scene import Batch, Prediction

NAMES = {
    "encoding": "hand_encoding",
    "latents": "heatmap_logits",
    "joints_img": "joints2d",
    "mano_shape": "shape",
}
# where a gate is all but shut, LayerNorm enlarges rounding
LOOSE = ("fit_layer1", "fit", "set_layer0", "set", "heatmaps")


def _run(golden: Any, config: HandOccNetConfig) -> tuple[Prediction, dict[str, Tensor]]:
    image = golden.generated_inputs()["img"]
    size = golden.json["config"]["input"][0]
    assert image.shape[2:] == (size, size)
    network = HandOccNet(dataclasses.replace(config, input_size=size), golden.hand_model())
    entries = convert(golden.state_dict(), keep_unused=config.literal)
    fit(network, entries, golden.name)
    box = torch.zeros(len(image), 4)
    capture: dict[str, Tensor] = {}
    with torch.no_grad():
        prediction = network.eval()(Batch(image=image, hand_box=box, object_box=box), capture)
    capture["set"] = capture[f"set_layer{config.transformer_depth - 1}"]
    capture["mano_pose_aa"] = matrix_to_axis_angle(capture["rotations"]).flatten(1)
    capture["joints_cam"], capture["verts_cam"] = prediction.joints, prediction.vertices
    return prediction, capture


def test_every_output(golden: Callable[[str], Any]) -> None:
    stored = golden("handoccnet")
    config = HandOccNetConfig(
        mean_pose=not stored.json["config"]["mano"]["flat_hand_mean"], init="pytorch"
    )
    prediction, found = _run(stored, config)
    for name in stored.outputs:
        ours = found[NAMES.get(name, name)]
        stored.compare(name, ours, 5e-4 if name in LOOSE else 1e-4)
    assert not stored.forgotten()
    # the rotations of the prediction, mean pose included, give the same hand
    posed = stored.hand_model()(prediction.rotations, prediction.betas, rotation_type="matrix")
    torch.testing.assert_close(posed.vertices, prediction.vertices, atol=1e-5, rtol=0)


def test_what_the_pose_is_relative_to(golden: Callable[[str], Any]) -> None:
    """The same weights as UniHOPE's copy reads them: up to the hand model nothing changes, there
    the mean pose is missing. `literal` work changes nothing."""
    stored = golden("handoccnet")
    config = dataclasses.replace(HandOccNetConfig.unihope(), literal=True)
    prediction, found = _run(stored, config)
    for name in ("fit_layer1", "fit"):  # gates from whole similarity maps
        stored.compare(name, found[name], 5e-4)
    stored.compare("pose6d", found["pose6d"])
    stored.compare("mano_pose_aa", found["mano_pose_aa"])
    assert stored.error("verts_cam", found["verts_cam"]) > 0.05
    assert torch.equal(prediction.rotations, found["rotations"])
    pose = found["mano_pose_aa"].unflatten(1, (16, 3))
    posed = stored.hand_model()(pose, prediction.betas, flat=False)
    stored.compare("verts_cam", posed.vertices)


@pytest.mark.parametrize("literal", [True, False])
def test_parameter_count(golden: Callable[[str], Any], literal: bool) -> None:
    stored = golden("handoccnet")
    with torch.device("meta"):
        network = HandOccNet(HandOccNetConfig(literal=literal, init="pytorch"), stored.hand_model())
    count = sum(p.numel() for p in network.parameters())
    assert count == stored.json["parameters"] - (0 if literal else 590_080)
