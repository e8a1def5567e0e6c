"""The detector's weights file: safetensors with the configuration in its header."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from handhold.errors import MissingFileError, WeightsError
from handhold.models.detector.model import DetectorConfig, HandDetectorNetwork

NAME = "hand-detector"


def default_weights() -> Path:
    """Where the weights that ship with the package are (or would be)."""
    return Path(str(resources.files("handhold") / "weights" / f"{NAME}.safetensors"))


def save_detector(
    path: str | Path,
    network: HandDetectorNetwork,
    extra: Mapping[str, Any] | None = None,
    *,
    half: bool = True,
) -> None:
    """Write the network and its configuration. half: convolution weights as float16. extra: what
    else the header should say (anything JSON can hold).
    """
    tensors = {}
    for key, value in network.state_dict().items():
        value = value.detach().cpu().contiguous()
        tensors[key] = value.half() if half and value.ndim > 1 else value
    header = {
        "name": NAME,
        "config": json.dumps(dataclasses.asdict(network.config)),
        "extra": json.dumps(dict(extra or {})),
    }
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata=header)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_detector(weights: str | Path | None = None) -> HandDetectorNetwork:
    """The network of a weights file (None: the one that ships with the package), float32, in eval
    mode. Raises WeightsError where the file is no such file or does not fit, MissingFileError
    where a given file does not exist.
    """
    path = default_weights() if weights is None else Path(weights)
    if not path.is_file():
        if weights is None:
            raise WeightsError(
                f"{path.name}: the hand detector's weights are not installed; train them with "
                f"`handhold train {NAME} --data synthetic`, or give the boxes yourself (--boxes)"
            )
        raise MissingFileError(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from error
    if header.get("name") != NAME:
        raise WeightsError(
            f"{path}: expected the weights of {NAME!r}, found {header.get('name', 'no name')!r}"
        )
    try:
        config = DetectorConfig(**json.loads(header["config"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its header holds no usable configuration: {error}") from error
    network = HandDetectorNetwork(config)
    own = network.state_dict()
    wrong = sorted(set(own) ^ set(tensors)) or [
        key for key in own if own[key].shape != tensors[key].shape
    ]
    if wrong:
        raise WeightsError(f"{path}: does not fit the network, first at {wrong[0]!r}")
    for key, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise WeightsError(f"{path}: {key} holds NaN or infinite numbers")
    network.load_state_dict({key: value.to(own[key].dtype) for key, value in tensors.items()})
    return network.eval()
