"""HOISDF's starting weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from handhold.models.hoisdf.model import HOISDF, HOISDFConfig


def initialise(network: HOISDF, config: HOISDFConfig) -> None:
    """Starting weights; the backbone's come from ImageNet in the original."""
    small = ("hand_field.", "object_field.", "hand_head.", "object_head.")
    readers = ("shape", "pose", "vote", "vote_class", "rotation", "translation")
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            fan = module.weight[0].numel()
            if isinstance(module, nn.ConvTranspose2d):
                fan = 4 * module.in_channels  # stride 2 and kernel 4: 4 cells make an output
            kaiming = name.startswith("backbone.") or config.init == "kaiming"
            nn.init.normal_(module.weight, std=(2 / fan) ** 0.5 if kaiming else 0.001)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif not (isinstance(module, nn.Linear) and config.init == "official"):
            continue
        elif name.startswith(small) and name.split(".")[1] not in readers:
            # transformers and fields, not the perceptrons that read them
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
