"""Golden numbers for the parity tests.

`golden("unihope")` gives a fresh `Golden`. Its files come from the folder in the environment
variable HANDHOLD_GOLDEN when that is set, else from tests/golden/data. Seeds, shapes, inputs and
strides are always read from the files: a folder made with another seed must pass as well. A missing
file is a failure, never a skip.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib.util
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from handhold.hand.model import HandModel

DATA = Path(__file__).parent / "data"


def _load_fill() -> Any:
    """fill.py beside this file, whatever pytest's import mode."""
    spec = importlib.util.spec_from_file_location(
        "golden_fill", Path(__file__).with_name("fill.py")
    )
    if spec is None or spec.loader is None:
        raise RuntimeError("tests/golden/fill.py is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fill = _load_fill()


def golden_folder() -> Path:
    """Where the golden files of this run lie."""
    return Path(os.environ.get("HANDHOLD_GOLDEN") or DATA)


@functools.lru_cache(maxsize=4)
def _read(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    for path in (folder / f"{name}.json", folder / f"{name}.npz"):
        if not path.is_file():
            pytest.fail(f"golden file {path.name} is missing in {folder}", pytrace=False)
    with np.load(folder / f"{name}.npz", allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    return json.loads((folder / f"{name}.json").read_text()), arrays


@functools.lru_cache(maxsize=4)
def _hand_model(folder: Path, side: str) -> HandModel:
    from handhold.hand.model import HandModel

    places = (
        folder / f"SYNTHETIC_MANO_{side.upper()}.pkl",
        folder / f"synthetic_mano_{side}.npz",
        DATA / f"synthetic_mano_{side}.npz",
    )
    for path in places:
        if path.is_file():
            return HandModel.from_file(path, side=side)
    pytest.fail(f"no made-up {side} hand: looked for {[str(p) for p in places]}", pytrace=False)


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """max |ours - theirs| / max |theirs|; NaN must meet NaN, infinity the same infinity."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    finite = np.isfinite(theirs)
    if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    difference = np.abs(ours[finite] - theirs[finite]).max()
    scale = np.abs(theirs[finite]).max()
    error = float(difference / scale) if scale > 0 else float(difference)
    return error if np.isfinite(error) else float("inf")


class Golden:
    """One subject of the golden folder.

    seed, json: as stored. inputs: the arrays stored under `in/` by name (NumPy). outputs: the names
    under `out/`. compared: names that `compare` has seen, with the errors found.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.json, self._arrays = _read(folder, name)
        self.seed = int(self.json["seed"])
        self.compared: dict[str, float] = {}

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        return {k.removeprefix("in/"): v for k, v in self._arrays.items() if k.startswith("in/")}

    @property
    def outputs(self) -> list[str]:
        return [k.removeprefix("out/") for k in self._arrays if k.startswith("out/")]

    def tensor(self, name: str) -> Tensor:
        """The stored input `name` as a tensor of its own."""
        return torch.from_numpy(self._arrays[f"in/{name}"].copy())

    def output(self, name: str) -> np.ndarray:
        """The stored (possibly strided, then flat) output `name`."""
        return self._arrays[f"out/{name}"].copy()

    def describe(self, name: str) -> dict[str, Any]:
        """What the json says of the output `name` (shape, stride, ...)."""
        entries = self.json.get("outputs", {})
        return entries.get(name) or entries.get(f"out/{name}") or {}

    def generated_inputs(self) -> dict[str, Tensor]:
        """The test images by input name, each (N, 3, H, W) float32."""
        result: dict[str, Tensor] = {}
        for name, parts in self.json.get("generated", {}).items():
            images: list[np.ndarray] = []
            for part in parts:
                picture = fill.generated_image(part["shape"], part["name"], self.seed)
                if part.get("affine") is not None:
                    gain, offset = part["affine"]
                    picture = (gain * picture + offset).astype(np.float32)
                images.append(picture)
            result[name] = torch.from_numpy(np.concatenate(images, axis=0))
        return result

    def is_kept(self, key: str) -> bool:
        """True for entries that the original makes itself (MANO buffers, grids)."""
        return any(fnmatch.fnmatchcase(key, p) or key == p for p in self.json.get("kept", ()))

    def state_dict(self, seed: int | None = None) -> dict[str, Tensor]:
        """The original checkpoint's entries, without the kept ones that have no plain value."""
        seed = self.seed if seed is None else seed
        result: dict[str, Tensor] = {}
        for key, shape in self.json["state_dict"].items():
            if self.is_kept(key):
                value = self._kept_value(key)
                if value is not None:
                    result[key] = torch.full(tuple(shape), value)
            else:
                result[key] = torch.from_numpy(fill.fill_array(key, shape, seed).copy())
        for key in self.json.get("override", {}):
            stored = torch.from_numpy(self._arrays[f"override/{key}"].copy())
            result[key] = stored.reshape(tuple(self.json["state_dict"][key]))
        self._scale(result)
        return result

    def _kept_value(self, key: str) -> float | None:
        for pattern, value in self.json.get("kept_values", {}).items():
            if fnmatch.fnmatchcase(key, pattern) and isinstance(value, int | float):
                return float(value)
        return None

    def _scale(self, entries: dict[str, Tensor]) -> None:
        rule = self.json.get("fill_scale", {})
        if "factor" in rule:
            for key, value in entries.items():
                if (
                    key.startswith(rule.get("prefix", ""))
                    and rule.get("contains", "") in key
                    and value.ndim >= rule.get("min_ndim", 0)
                    and value.is_floating_point()
                ):
                    entries[key] = value * rule["factor"]
        # a pair (factor of the weight, constant bias) for the last layer of a named block
        for name, pair in self.inputs.items():
            if not name.startswith("fill_scale/"):
                continue
            block = f".{name.removeprefix('fill_scale/')}."
            weights = [k for k in entries if block in k and k.endswith(".weight")]
            last = max(weights, key=lambda k: int(k.split(block)[1].split(".")[0]))
            entries[last] = entries[last] * float(pair[0])
            bias = last.removesuffix("weight") + "bias"
            entries[bias] = torch.full_like(entries[bias], float(pair[1]))

    def filled(self, key: str, shape: Iterable[int]) -> Tensor:
        """The made-up weight of a key that is not in the stored state."""
        return torch.from_numpy(fill.fill_array(key, tuple(shape), self.seed).copy())

    def error(self, name: str, value: Tensor | np.ndarray) -> float:
        """max |a - b| / max |b| for the output `name`; the whole shape must agree."""
        theirs = self._arrays[f"out/{name}"]
        ours = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        told = self.describe(name)
        stride = int(told.get("stride", 1))
        shape = tuple(told["shape"]) if "shape" in told else theirs.shape
        if ours.shape != shape:
            pytest.fail(f"{self.name}/{name}: shape {ours.shape}, golden {shape}", pytrace=False)
        return relative_error(ours.reshape(-1)[::stride], theirs.reshape(-1))

    def compare(self, name: str, value: Tensor | np.ndarray, rtol: float = 1e-4) -> float:
        """Fail unless `error` <= rtol; note the name as compared; return the error."""
        if name not in self.outputs:
            pytest.fail(f"{self.name} has no output {name!r}: {self.outputs}", pytrace=False)
        error = self.error(name, value)
        self.compared[name] = error
        if not error <= rtol:
            pytest.fail(f"{self.name}/{name}: relative error {error:.3g} > {rtol:g}", pytrace=False)
        return error

    def forgotten(self, except_: Iterable[str] = ()) -> list[str]:
        """Outputs that `compare` has not seen; `except_` are patterns with *."""
        patterns = list(except_)
        return [
            name
            for name in self.outputs
            if name not in self.compared and not any(fnmatch.fnmatchcase(name, p) for p in patterns)
        ]

    def hand_model(self, side: str = "right") -> HandModel:
        """The made-up hand of the golden files."""
        return _hand_model(self.folder, side)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """A function from a subject's name to its golden numbers."""
    return lambda name: Golden(golden_folder(), name)


@pytest.fixture(scope="session")
def hand_model() -> Callable[[str], HandModel]:
    """A function from a side to the made-up hand of the golden files."""
    return lambda side="right": _hand_model(golden_folder(), side)
