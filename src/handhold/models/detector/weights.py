"""The detector's weights file (see `handhold.models.weights`) and the place of the default one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from handhold.errors import WeightsError
from handhold.models.detector.model import DetectorConfig, HandDetectorNetwork
from handhold.models.weights import fit, make_config, read_weights, save_weights

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
) -> Path:
    """Write the network and its configuration. half: kernels as float16. extra: what else the
    header should say (anything JSON can hold). Raises WeightsError for NaN.
    """
    precision = "fp16" if half else "fp32"
    return save_weights(path, network, model=NAME, extra=extra, precision=precision)


def load_detector(weights: str | Path | None = None) -> HandDetectorNetwork:
    """The network of a weights file (None: the one that ships with the package), float32, in eval
    mode. Raises WeightsError where the file is no such file or does not fit, MissingFileError
    where a given file does not exist.
    """
    path = default_weights() if weights is None else Path(weights)
    if weights is None and not path.is_file():
        raise WeightsError(
            f"{path.name}: the hand detector's weights are not installed; train them with "
            f"`handhold train {NAME} --data synthetic`, or give the boxes yourself (--boxes)"
        )
    found = read_weights(path)
    if found.model != NAME:
        raise WeightsError(f"{path}: expected the weights of {NAME!r}, found {found.model!r}")
    network = HandDetectorNetwork(make_config(DetectorConfig, found.config, str(path)))
    fit(network, found.entries, str(path))
    return network.eval()
