"""The grasp classifier against the activations and the loss of the original, weights filled from
the keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from handhold.models.switched.loss import loss
from handhold.models.switched.model import GraspClassifier, GraspClassifierConfig
from handhold.models.switched.official import convert
from handhold.models.weights import fit
from handhold.scene import Batch


@torch.no_grad()
def test_every_output(golden: Callable[[str], Any]) -> None:
    stored = golden("classifier")
    network = GraspClassifier(GraspClassifierConfig(input_size=int(stored.json["config"]["input"])))
    fit(network, convert(stored.state_dict()), stored.name)
    image = stored.generated_inputs()["img"]
    boxes = torch.zeros(len(image), 4)
    label = stored.tensor("gt_grasping")[:, 0] > 0.5
    batch = Batch(image=image, hand_box=boxes, object_box=boxes, grasping=label)
    found: dict[str, Tensor] = {}
    prediction = network.eval()(batch, found)
    found["grasping"] = found["grasping"].float()
    found["loss_cls_loss"] = loss(prediction, batch)["total"].reshape(1)
    for name in stored.outputs:
        stored.compare(name, found[name])
    # the answer does not hang on the hand's stream
    stored.compare("logits", network(batch).grasp_logits)


def test_parameter_count(golden: Callable[[str], Any]) -> None:
    with torch.device("meta"):
        network = GraspClassifier()
    count = sum(p.numel() for p in network.parameters())
    assert count == golden("classifier").json["parameters"] == 35_121_794
