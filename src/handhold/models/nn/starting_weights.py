"""Starting weights of the networks that stand on a ResNet with a feature pyramid."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from handhold.models.nn.mano_head import ManoHead
from handhold.models.nn.object_heads import ObjectHead


def start_weights(network: nn.Module, init: Literal["official", "kaiming"]) -> None:
    """Draw the weights of convolutions and linear layers; their biases become 0.

    Layers under `backbone.`, but not those of a pyramid, always get Kaiming's scale (the originals
    load ImageNet's). init "official": heads almost zero (convolutions N(0, 0.001), linear
    N(0, 0.01)), pyramids as PyTorch makes them. "kaiming": heads of Kaiming's scale, pyramids,
    which have no activations, of half its variance; a hand head starts without rotation.
    """
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear | nn.Conv1d):
            continue
        pyramid = "pyramid" in name
        if init == "kaiming" or (name.startswith("backbone.") and not pyramid):
            gain = 1.0 if pyramid else 2.0
            nn.init.normal_(module.weight, std=(gain / module.weight[0].numel()) ** 0.5)
        elif pyramid:
            continue
        else:
            nn.init.normal_(module.weight, std=0.01 if isinstance(module, nn.Linear) else 0.001)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if init == "official":
        return
    for module in network.modules():
        if isinstance(module, ManoHead):
            for linear in (module.pose, module.shape):
                nn.init.normal_(linear.weight, std=0.01)
            with torch.no_grad():
                module.pose.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(16))
        elif isinstance(module, ObjectHead):
            nn.init.normal_(module.out.weight, std=0.01)
