"""The denoiser's weights file (see `handhold.models.weights`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from handhold.errors import WeightsError
from handhold.models.handbooster.model import HandBoosterConfig, HandBoosterUNet
from handhold.models.weights import fit, make_config, read_weights, save_weights

NAME = "handbooster"
LICENCE = "original code and weights: MIT; this code Apache-2.0"


def save_denoiser(
    path: str | Path,
    network: HandBoosterUNet,
    extra: Mapping[str, Any] | None = None,
    *,
    precision: Literal["fp16", "fp32"] = "fp32",
) -> Path:
    """Write the network and its configuration; extra: what else the header should say."""
    return save_weights(path, network, model=NAME, extra=extra, precision=precision)


def load_denoiser(weights: str | Path) -> HandBoosterUNet:
    """The network of a weights file, float32, in eval mode.

    Raises MissingFileError, WeightsError where the file is no such file or does not fit.
    """
    found = read_weights(weights)
    if found.model != NAME:
        raise WeightsError(f"{weights}: expected the weights of {NAME!r}, found {found.model!r}")
    network = HandBoosterUNet(make_config(HandBoosterConfig, found.config, str(weights)))
    fit(network, found.entries, str(weights))
    return network.eval()
