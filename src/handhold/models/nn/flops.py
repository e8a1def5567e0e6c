"""Counting as the papers count: the rules of the `thop` profiler, rewritten.

Multiply-adds of the leaf layers that run: convolutions and linear layers, plus four operations per
output element of every BatchNorm and LayerNorm. A transposed convolution is charged output elements
x input channels x kernel area, more than it costs. Products inside attention, matrix products
between activations are not counted but given apart. Parameters are those of these layers: what no
layer holds (learned positions, scales) and layers that never run are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from handhold.models.nn.attention import MapAttention, TokenMapper
from handhold.models.nn.efficientnet import ConvNorm

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)


@dataclass(frozen=True, kw_only=True)
class Size:
    """parameters: trainable ones of the whole module. counted_parameters: as the papers count.
    macs: convolutions and linear layers, as many as there are. surcharge: what the papers add for
    transposed convolutions. norm_operations: four per element. attention_macs: products between
    activations."""

    parameters: int
    counted_parameters: int
    macs: int
    surcharge: int
    norm_operations: int
    attention_macs: int

    @property
    def counted(self) -> int:
        """The papers' figure: macs + norm_operations + surcharge."""
        return self.macs + self.norm_operations + self.surcharge


def count_parameters(network: nn.Module) -> int:
    """All parameters, each once however often its layer runs."""
    return sum(parameter.numel() for parameter in network.parameters())


def measure(network: nn.Module, run: Callable[[], Any]) -> Size:
    """Count while `run()` calls the network (once, in eval mode, without gradients)."""
    sums = {"macs": 0, "norms": 0, "attention": 0, "surcharge": 0}
    ran: dict[nn.Module, int] = {}

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ran[module] = sum(parameter.numel() for parameter in module.parameters())
        if isinstance(module, nn.Linear):
            sums["macs"] += output.numel() * module.in_features
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            kernel = module.weight.shape[1:].numel()
            sums["macs"] += output.numel() * kernel
        elif isinstance(module, nn.ConvTranspose2d):
            true = inputs[0].numel() * module.weight.shape[1:].numel()
            area = module.weight.shape[2:].numel()
            charged = output.numel() * (module.in_channels // module.groups) * area
            sums["macs"] += true
            sums["surcharge"] += charged - true
        elif isinstance(module, ConvNorm):  # runs as one convolution
            sums["macs"] += output.numel() * module.conv.weight.shape[1:].numel()
            sums["norms"] += 4 * output.numel()
        else:
            sums["norms"] += 4 * output.numel()

    def add_attention(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, MapAttention):
            queries, source = (x[0, 0].numel() for x in inputs[:2])
            width = module.value.out_channels
        else:
            queries = source = inputs[0].shape[1]
            width = cast(TokenMapper, module).value.out_features
        sums["attention"] += 2 * len(output) * queries * source * width

    counted = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, ConvNorm, *_NORMS)
    hooks = [m.register_forward_hook(add) for m in network.modules() if isinstance(m, counted)]
    mixing = (MapAttention, TokenMapper)
    hooks += [
        m.register_forward_hook(add_attention) for m in network.modules() if isinstance(m, mixing)
    ]
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            run()
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return Size(
        parameters=count_parameters(network),
        counted_parameters=sum(ran.values()),
        surcharge=sums["surcharge"],
        macs=sums["macs"],
        norm_operations=sums["norms"],
        attention_macs=sums["attention"],
    )
