"""H2ONet against the activations of the original, weights filled from the keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from handhold.hand.regressor import joint_regressor
from handhold.models.h2onet.model import H2ONet, H2ONetConfig
from handhold.models.h2onet.official import config_for, convert
from handhold.models.weights import fit
from handhold.scene import Batch

ROTATION = ("glob_rot_6d", "glob_rot_mat")  # the image moves them little: compared more closely


def test_every_output(golden: Callable[[str], Any]) -> None:
    stored = golden("h2onet")
    hand = stored.hand_model()
    image = stored.generated_inputs()["img"]
    box = torch.tensor([[0.0, 0.0, image.shape[-1], image.shape[-1]]]).expand(len(image), 4)
    batch = Batch(image=image, hand_box=box, object_box=box)

    entries = stored.state_dict()
    assert "mano_joint_reg" not in entries  # the original makes it of the hand model's file
    entries["mano_joint_reg"] = torch.from_numpy(joint_regressor(hand, "unihope_helper"))
    config = config_for(entries)
    assert config == H2ONetConfig()
    network = H2ONet(config, hand)
    fit(network, convert(entries), stored.name)
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        prediction = network.eval()(batch, found)
    for name in stored.outputs:
        stored.compare(name, found[name], rtol=1e-5 if name in ROTATION else 1e-4)
    assert not stored.forgotten()
    stored.compare("verts_w_gr", prediction.vertices)
    stored.compare("joints_w_gr", prediction.joints)
    stored.compare("verts_wo_gr", prediction.features["canonical_vertices"])
    torch.testing.assert_close(prediction.joints2d, found["joints_img"] * config.input_size)
    count = sum(p.numel() for p in network.parameters())
    assert count == stored.json["parameters"] == 26_428_472
