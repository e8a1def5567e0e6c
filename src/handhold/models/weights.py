"""Weights files: ours (safetensors with the whole configuration in the header) and the authors'.

Ours holds the network's state under its own keys; the hand model's data are never in it.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from handhold.atomic import write_bytes
from handhold.errors import InputError, MissingFileError, WeightsError
from handhold.models.hub import local_file
from handhold.models.trained_hand import TrainedHand, from_header, hand_of, to_header

FORMAT = "handhold-1"
_SHOWN = 6  # keys named in a message


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """What a weights file of ours holds. config: the network's fields; extra: what else was told
    (processor, training, measurements); hand: which hand model it was trained with, None where the
    network has none or the file (of an earlier release) does not say."""

    model: str
    config: dict[str, Any]
    extra: dict[str, Any]
    entries: dict[str, Tensor]
    hand: TrainedHand | None = None


@dataclass(frozen=True, kw_only=True)
class OfficialFile:
    """An authors' checkpoint: its tensors, and the names beside `state_dict`."""

    path: Path
    entries: dict[str, Tensor]
    wrapper: frozenset[str]


def listed(keys: Sequence[str]) -> str:
    """A few of the keys and how many more there are."""
    shown = ", ".join(keys[:_SHOWN])
    return f"{shown} and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else shown


def all_finite(value: Tensor) -> bool:
    """Whether a tensor holds no NaN or infinity; its extremes tell (NaN is both)."""
    if not value.is_floating_point() or value.numel() == 0:
        return True
    return bool(torch.stack(torch.aminmax(value)).isfinite().all())


def config_fields(config: Any) -> dict[str, Any]:
    """The fields of a configuration dataclass as JSON can hold them."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def save_weights(
    path: str | Path,
    network: nn.Module,
    *,
    model: str,
    extra: Mapping[str, Any] | None = None,
    precision: Literal["fp16", "fp32"] = "fp32",
    hand: TrainedHand | None = None,
) -> Path:
    """Write `network` (which has a `config`) and return the path.

    hand: which hand model it was trained with; None: the one inside the network. precision fp16:
    matrices and kernels as float16; vectors (norms, biases, statistics) stay
    float32. extra: anything JSON can hold. Raises WeightsError for NaN or infinite values, also
    those that float16 cannot hold.
    """
    config = dataclasses.asdict(network.config)  # pyright: ignore[reportArgumentType]
    entries = network.state_dict()
    content = WeightsFile(
        model=model,
        config=config,
        extra=dict(extra or {}),
        entries=entries,
        hand=hand_of(network) if hand is None else hand,
    )
    return write_weights(path, content, precision)


def write_weights(
    path: str | Path, content: WeightsFile, precision: Literal["fp16", "fp32"] = "fp32"
) -> Path:
    """Write what `read_weights` gives back; see `save_weights`."""
    if precision not in ("fp16", "fp32"):
        raise InputError(f"precision: expected fp16 or fp32, found {precision!r}")
    entries: dict[str, Tensor] = {}
    for key, value in content.entries.items():
        stored = value.detach().cpu().contiguous().clone()
        if precision == "fp16" and stored.is_floating_point() and stored.ndim > 1:
            stored = stored.half()
        if not all_finite(stored):
            raise WeightsError(f"{key}: holds NaN or infinite numbers (precision {precision})")
        entries[key] = stored
    header = {
        "format": FORMAT,
        "model": content.model,
        "config": json.dumps(content.config),
        "extra": json.dumps(content.extra),
    }
    if content.hand is not None:
        header["hand"] = json.dumps(to_header(content.hand))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, save(entries, metadata=header))  # as readable as other files
    return path


def read_weights(path: str | Path) -> WeightsFile:
    """Read a file of `save_weights`, on disk or on a hub (`hub.local_file`); float16 becomes
    float32.

    Raises MissingFileError, WeightsError where it is no such file or holds NaN.
    """
    path = local_file(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # the file is no dictionary: it cannot be iterated without keys()
            entries = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from error
    if header.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: expected a weights file of handhold ({FORMAT}), found format "
            f"{header.get('format', 'none')!r}; the authors' files are read by "
            "`handhold weights import`"
        )
    try:
        config, extra = json.loads(header["config"]), json.loads(header["extra"])
        model = header["model"]
        hand = from_header(json.loads(header.get("hand", "null")), str(path))
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path}: its header holds no usable configuration: {error}") from error
    if not isinstance(config, dict) or not isinstance(extra, dict):
        raise WeightsError(f"{path}: config and extra in its header must be JSON objects")
    entries = {k: v.float() if v.dtype == torch.float16 else v for k, v in entries.items()}
    for key, value in entries.items():
        if not all_finite(value):
            raise WeightsError(f"{path}: {key} holds NaN or infinite numbers")
    return WeightsFile(model=model, config=config, extra=extra, entries=entries, hand=hand)


def make_config(kind: type[Any], fields: Mapping[str, Any], where: str) -> Any:
    """A configuration dataclass from JSON fields; WeightsError names what does not fit."""
    known = {item.name for item in dataclasses.fields(kind)}
    if unknown := sorted(set(fields) - known):
        raise WeightsError(f"{where}: configuration has unknown fields {listed(unknown)}")
    try:
        return kind(**fields)
    except (TypeError, InputError) as error:
        raise WeightsError(f"{where}: configuration cannot be used: {error}") from error


def fit(network: nn.Module, entries: Mapping[str, Tensor], where: str) -> None:
    """Load `entries` into `network`; every key and shape must agree.

    Raises WeightsError that names what is missing, left over or of another shape, and NaN.
    Counters of BatchNorm may be missing (old files have none).
    """
    own = network.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    missing = sorted(set(own) - set(entries) - counters)
    extra = sorted(set(entries) - set(own))
    problems = []
    if missing:
        problems.append(f"missing {listed(missing)}")
    if extra:
        problems.append(f"left over {listed(extra)}")
    shapes = [
        f"{key} {tuple(entries[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(set(own) & set(entries))
        if own[key].shape != entries[key].shape
    ]
    if shapes:
        problems.append(f"wrong shapes: {listed(shapes)}")
    broken = [key for key, value in entries.items() if not all_finite(value)]
    if broken:
        problems.append(f"NaN or infinite numbers in {listed(broken)}")
    if problems:
        raise WeightsError(f"{where}: does not fit the network: {'; '.join(problems)}")
    network.load_state_dict(
        {key: value.to(own[key].dtype) for key, value in entries.items()}, strict=False
    )


# ------------------------------------------------------------------- the authors' checkpoints


def read_official(
    path: str | Path, wrappers: Sequence[str] = ("state_dict", "model", "network")
) -> OfficialFile:
    """Open a `.pth` / `.tar` file without executing anything in it (weights_only).

    A bare dictionary of tensors, or one under the first of `wrappers` that holds some. Raises
    MissingFileError, WeightsError where it is damaged, asks to run code, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such checkpoint")
    safe = [*_numpy_globals()]
    try:
        with torch.serialization.safe_globals(safe):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" ({named.group(1)})" if named else ""
        raise WeightsError(
            f"{path}: it holds objects other than tensors and numbers{what}, which only running "
            "code from the file could restore; save its state_dict alone and import that"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: not a readable PyTorch checkpoint ({reason})") from error
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{path}: expected a dictionary, found {type(loaded).__name__}")
    wrapper: frozenset[str] = frozenset()
    entries: Any = loaded
    for name in wrappers:
        inner = loaded.get(name)
        if isinstance(inner, Mapping) and any(isinstance(v, Tensor) for v in inner.values()):
            entries, wrapper = inner, frozenset(str(k) for k in loaded if k != name)
            break
    tensors = {str(k): v for k, v in entries.items() if isinstance(v, Tensor)}
    if not tensors or len(tensors) < len(entries):
        strange = [str(k) for k, v in entries.items() if not isinstance(v, Tensor)]
        raise WeightsError(
            f"{path}: expected only tensors in its state_dict, found "
            f"{listed(strange) if strange else 'none'}"
        )
    return OfficialFile(path=path, entries=tensors, wrapper=wrapper)


def _numpy_globals() -> list[Any]:
    """NumPy scalars and arrays (scores and optimiser settings in old files): data, not code."""
    import numpy as np

    scalar, reconstruct = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    kinds = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    return [
        scalar,
        reconstruct,
        (scalar, "numpy.core.multiarray.scalar"),  # files written before NumPy 2
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        np.dtype,
        np.ndarray,
        *kinds,
    ]


def rename(
    entries: Mapping[str, Tensor],
    rules: Sequence[tuple[str, str]],
    prefixes: Sequence[str] = (),
    dropped: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Keys by the first rule (pattern, replacement) that matches all of a key.

    prefixes: each removed once, in this order, where all keys have it. dropped: patterns of keys
    to leave out. Raises WeightsError for keys without rule and for two keys that become one.
    """
    keys = {key: key for key in entries}
    for prefix in prefixes:
        if keys and all(key.startswith(prefix) for key in keys):
            keys = {key.removeprefix(prefix): source for key, source in keys.items()}
    result: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, source in keys.items():
        if any(re.fullmatch(pattern, key) for pattern in dropped):
            continue
        for pattern, ours in rules:
            match = re.fullmatch(pattern, key)
            if match:
                target = match.expand(ours)
                if target in result:
                    raise WeightsError(f"two keys of the checkpoint mean {target}: {source}")
                result[target] = entries[source]
                break
        else:
            unknown.append(source)
    if unknown:
        raise WeightsError(f"the checkpoint holds keys that this method lacks: {listed(unknown)}")
    return result
