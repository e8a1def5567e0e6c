"""SimpleHand against the activations of the original, weights filled from the keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handhold.hand.regressor import joint_regressor
from handhold.models.simplehand.model import SimpleHand, SimpleHandConfig
from handhold.models.simplehand.official import convert
from handhold.models.weights import fit
from handhold.scene import Batch

NAMES = {"features": "final_conv", "joints_unihope": "joints"}


def _network(golden: Any, config: SimpleHandConfig) -> SimpleHand:
    config = dataclasses.replace(config, input_size=golden.json["config"]["input"][0])
    network = SimpleHand(config, golden.hand_model())
    fit(network, convert(golden.state_dict()), golden.name)
    return network.eval()


def _run(network: SimpleHand, image: Tensor) -> dict[str, Tensor]:
    box = torch.zeros(len(image), 4)
    capture: dict[str, Tensor] = {}
    with torch.no_grad():
        prediction = network(Batch(image=image, hand_box=box, object_box=box), capture)
    # centred for the outside, as the network says them for the loss
    wrist = capture["joints"][:, :1]
    assert torch.equal(prediction.features["vertices"], capture["verts"])
    torch.testing.assert_close(prediction.vertices, capture["verts"] - wrist)
    torch.testing.assert_close(prediction.joints, capture["joints"] - wrist)
    size = network.config.input_size
    torch.testing.assert_close(prediction.joints2d.flatten(1), capture["uv"] * size)
    return capture


def test_every_output(golden: Callable[[str], Any]) -> None:
    stored = golden("simplehand")
    image = stored.generated_inputs()["img"]
    network = _network(stored, SimpleHandConfig())
    found = _run(network, image)
    for name in stored.outputs:
        if NAMES.get(name, name) in found:
            stored.compare(name, found[NAMES.get(name, name)])
    # the authors' repository: other tips, and an image in BGR order
    original = SimpleHand(SimpleHandConfig.original(), stored.hand_model())
    stored.compare("joints_simplehand", original.regressor @ found["verts"])
    assert stored.error("joints_unihope", original.regressor @ found["verts"]) > 1e-2
    tips = joint_regressor(stored.hand_model(), "unihope_helper")
    np.testing.assert_array_equal(network.regressor.numpy(), tips)
    # the mesh head alone
    draw = np.random.RandomState(int(stored.inputs["head_only_feat_seed"][0]))
    features = torch.from_numpy(draw.standard_normal((1, 1216, 7, 7)).astype(np.float32))
    joints2d = stored.tensor("head_only_uv").unflatten(1, (21, 2))
    with torch.no_grad():
        stored.compare("head_only_verts", network.mesh_head(features, joints2d)["verts"])
    assert not stored.forgotten()


def test_branches_one_by_one_and_colours(golden: Callable[[str], Any]) -> None:
    """Without folding, as the original runs; BGR weights take the same RGB batch turned round."""
    stored = golden("simplehand")
    config = dataclasses.replace(SimpleHandConfig(), fold=False, channels="bgr")
    network = _network(stored, config)
    found = _run(network, stored.generated_inputs()["img"].flip(1))
    for name in ("stem", "stage_0", "stage_3", "final_conv", "uv", "verts"):
        stored.compare(name, found[name])


def test_parameter_count(golden: Callable[[str], Any]) -> None:
    """All but ImageNet's classifier, which the checkpoint holds and nothing uses."""
    stored = golden("simplehand")
    with torch.device("meta"):
        network = SimpleHand(SimpleHandConfig(), stored.hand_model())
    count = sum(p.numel() for p in network.parameters())
    assert count == stored.json["parameters"] - (1000 * 1216 + 1000) == 49_391_003
