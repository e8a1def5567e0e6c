"""Folding: the same network with fewer operations, for prediction."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.overrides import TorchFunctionMode

_CONVS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_LAYER_CALLS = (
    torch.conv1d,
    torch.conv2d,
    torch.conv_transpose1d,
    torch.conv_transpose2d,
    F.linear,
)


def fold(network: nn.Module, batch: Any) -> nn.Module:
    """A copy in eval mode, without gradients, that computes the same with fewer operations.

    Runs `batch` (what the network takes) once to see which BatchNorm reads the result of which
    convolution or linear layer and of nothing else, wherever either is called; those become one
    layer. Modules with a method `folded`, which merges weights anew in every pass, get its result
    as a constant.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    watch = _Watch(network)
    with torch.no_grad(), watch:
        network(batch)
    owners = {id(child): (module, name) for module, name, child in _children(network)}
    for layer, norm in watch.pairs():
        if isinstance(layer, nn.Linear):
            merged: nn.Module = fuse_linear_bn_eval(layer, norm)
        else:
            transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d)
            merged = fuse_conv_bn_eval(layer, norm, transpose=transposed)
        for old, new in ((layer, merged), (norm, nn.Identity())):
            module, name = owners[id(old)]
            setattr(module, name, new)
    for module in network.modules():
        merge = getattr(module, "folded", None)
        if merge is not None:
            constant = merge()
            object.__setattr__(module, "folded", lambda constant=constant: constant)
    return network


def _children(network: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for module in network.modules():
        for name, child in module.named_children():
            yield module, name, child


class _Watch(TorchFunctionMode):
    """Notes what reads the result of every convolution and linear layer of a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        kinds = (*_CONVS, nn.Linear, *_NORMS)
        found = [module for module in network.modules() if isinstance(module, kinds)]
        self._owner = {id(m.weight): m for m in found if isinstance(m.weight, Tensor)}
        self._kept: list[tuple[Any, Tensor]] = []  # results stay alive, so that ids stay theirs
        self._maker: dict[int, Any] = {}
        self._readers: dict[int, list[Any]] = {}  # of each layer
        self._sources: dict[int, list[Any]] = {}  # of each norm

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if getattr(func, "__name__", "") in ("__get__", "dim", "size"):  # looks at the shape only
            return result
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        given += [v for value in args if isinstance(value, list | tuple) for v in value]
        owner = next((self._owner[id(v)] for v in given if id(v) in self._owner), None)
        reads_as_norm = func is F.batch_norm and isinstance(owner, _NORMS)
        if reads_as_norm:
            self._sources.setdefault(id(owner), []).append(self._maker.get(id(args[0])))
        for value in given:
            maker = self._maker.get(id(value))
            if maker is not None:
                self._readers.setdefault(id(maker), []).append(owner if reads_as_norm else None)
        called = func in _LAYER_CALLS and isinstance(owner, (*_CONVS, nn.Linear))
        if called and isinstance(result, Tensor):
            self._kept.append((owner, result))
            self._maker[id(result)] = owner
        return result

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        """Layer and norm that only ever see each other."""
        norms = {id(m): m for m in self._owner.values() if isinstance(m, _NORMS)}
        for key, sources in self._sources.items():
            layer = sources[0]
            if layer is None or any(source is not layer for source in sources):
                continue
            if all(reader is norms[key] for reader in self._readers[id(layer)]):
                yield layer, norms[key]
