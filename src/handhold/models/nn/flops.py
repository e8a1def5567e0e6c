"""Counting as the papers count: the rules of the `thop` profiler, rewritten.

Multiply-adds of the leaf layers that run: convolutions and linear layers, plus four operations per
output element of every BatchNorm and LayerNorm. Products inside attention, matrix products
between activations are not counted but given apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from handhold.models.nn.attention import MapAttention, TokenMapper

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)


@dataclass(frozen=True, kw_only=True)
class Size:
    """parameters: trainable ones of the whole module. macs: convolutions and linear layers.
    norm_operations: four per element. attention_macs: products between activations."""

    parameters: int
    macs: int
    norm_operations: int
    attention_macs: int

    @property
    def counted(self) -> int:
        """The papers' figure: macs + norm_operations."""
        return self.macs + self.norm_operations


def count_parameters(network: nn.Module) -> int:
    """All parameters, each once however often its layer runs."""
    return sum(parameter.numel() for parameter in network.parameters())


def measure(network: nn.Module, run: Callable[[], Any]) -> Size:
    """Count while `run()` calls the network (once, in eval mode, without gradients)."""
    sums = {"macs": 0, "norms": 0, "attention": 0}

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            sums["macs"] += output.numel() * module.in_features
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            kernel = module.weight.shape[1:].numel()
            sums["macs"] += output.numel() * kernel
        else:
            sums["norms"] += 4 * output.numel()

    def add_attention(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, MapAttention):
            queries, source = inputs[0][0, 0].numel(), inputs[-1][0, 0].numel()
            width = module.value.out_channels
        else:
            queries = source = inputs[0].shape[1]
            width = cast(TokenMapper, module).value.out_features
        sums["attention"] += 2 * len(output) * queries * source * width

    counted = (nn.Linear, nn.Conv1d, nn.Conv2d, *_NORMS)
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
        macs=sums["macs"],
        norm_operations=sums["norms"],
        attention_macs=sums["attention"],
    )
