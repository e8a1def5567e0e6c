"""Grasps on disk: one safetensors file a batch, moved to its name when it is complete.

`OUT/OBJECT/shard-0000.safetensors` holds the arrays of `generate.Batch` and, as JSON in its header,
object, seed, settings, how many were tried and why the others fell. The same run gives the same
bytes; complete shards are kept and checked when a run is started again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from handhold.atomic import remove_unfinished, write_bytes
from handhold.errors import FileFormatError, InputError
from handhold.objects.mesh import ObjectMesh
from handhold.synthesis.grasps.generate import ARRAYS, Batch, GraspConfig, make_batch
from handhold.synthesis.grasps.hand import GraspHand
from handhold.synthesis.grasps.solid import Solid

FORMAT = 1
_LEAST_SHARE = 0.01  # of valid grasps; below it, after _PATIENCE attempts, an object is given up
_PATIENCE = 640


class Outcome(NamedTuple):
    """What an object gave: valid and tried grasps, fallen ones by reason, what was repaired."""

    name: str
    valid: int
    attempts: int
    fallen: dict[str, int]
    repairs: tuple[str, ...]


def shard_path(folder: Path, number: int) -> Path:
    """Where batch `number` of an object's folder lies."""
    return folder / f"shard-{number:04d}.safetensors"


def settings_of(
    hand: GraspHand, mesh: ObjectMesh, config: GraspConfig, seed: int
) -> dict[str, Any]:
    """What decides the grasps of an object: settings, seed, and digests of hand and mesh."""
    vertices, faces = mesh.surface
    arrays = hand.model.arrays
    return {
        "format": FORMAT,
        "object": mesh.name,
        "seed": seed,
        "hand": "free" if hand.model.is_free else "mano",
        "hand_digest": _digest(arrays.v_template, arrays.posedirs, arrays.weights, hand.betas),
        "mesh_digest": _digest(vertices, faces),
        "config": dataclasses.asdict(config),
    }


def _digest(*arrays: NDArray[Any]) -> str:
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()[:16]


def write_shard(batch: Batch, path: Path, settings: dict[str, Any]) -> None:
    """Write a batch under a temporary name and move it. Raises WriteError when the disk refuses."""
    info = {**settings, "attempts": batch.attempts, "fallen": batch.fallen}
    arrays = {name: np.ascontiguousarray(getattr(batch, name)) for name in ARRAYS}
    data = safetensors.numpy.save(arrays, metadata={"info": json.dumps(info, sort_keys=True)})
    write_whole(path, data)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and move it, in a folder that is made if need be. Raises
    WriteError when the disk refuses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path)
    write_bytes(path, data)


def read_shard(path: Path) -> tuple[Batch, dict[str, Any]]:
    """A batch and its header. Raises FileFormatError naming the file."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            info = json.loads(file.metadata()["info"])
            arrays = {name: file.get_tensor(name) for name in ARRAYS}
        return Batch(**arrays, attempts=info["attempts"], fallen=info["fallen"]), info
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path}: not a shard of grasps ({error})") from error


def read_grasps(folder: str | Path) -> dict[str, NDArray[Any]]:
    """All grasps of an object's folder, the arrays of `Batch` joined in the order of the shards.

    Raises FileFormatError for damaged shards, InputError for a folder without any.
    """
    paths = sorted(Path(folder).glob("shard-*.safetensors"))
    if not paths:
        raise InputError(f"{folder}: expected shard-*.safetensors, found none")
    batches = [read_shard(path)[0] for path in paths]
    return {name: np.concatenate([getattr(b, name) for b in batches]) for name in ARRAYS}


def fill(
    hand: GraspHand,
    solid: Solid,
    folder: Path,
    count: int,
    seed: int,
    config: GraspConfig,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Make shards in an object's folder until they hold `count` valid grasps or more.

    Shards that are there count and stay. progress: called with the number of valid grasps so far.
    Raises InputError when the folder holds grasps of other settings, and when of several hundred
    attempts less than one in a hundred is valid.
    """
    settings = json.loads(json.dumps(settings_of(hand, solid.mesh, config, seed)))
    valid = attempts = number = 0
    fallen: Counter[str] = Counter()
    while valid < count:
        path = shard_path(folder, number)
        if path.exists():
            batch, info = read_shard(path)
            other = [key for key in settings if info.get(key) != settings[key]]
            if other:
                raise InputError(
                    f"{path}: made with another {', '.join(other)}; give another --out,"
                    " or the settings of that run"
                )
        else:
            batch = make_batch(hand, solid, config, seed, number)
            write_shard(batch, path, settings)
        valid += len(batch.vectors)
        attempts += batch.attempts
        fallen.update(batch.fallen)
        number += 1
        if progress is not None:
            progress(valid)
        if attempts >= _PATIENCE and valid < _LEAST_SHARE * attempts:
            raise InputError(
                f"{solid.mesh.name}: given up: {valid} of {attempts} grasps were valid"
                f" (fell: {describe(fallen)})"
            )
    return Outcome(solid.mesh.name, valid, attempts, dict(sorted(fallen.items())), solid.repairs)


def describe(fallen: dict[str, int] | Counter[str]) -> str:
    """Reasons with their counts in words, most frequent first."""
    ranked = sorted(fallen.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {number}" for reason, number in ranked) or "none"


def published_records(arrays: dict[str, NDArray[Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """File name and content of every grasp as the released generator writes it: `mano_trans`,
    `mano_pose` (root and joints, flat hand zero), `mano_shape`, `pose` (object to table or null).
    """
    for vector, rest, attempt in zip(
        arrays["vectors"], arrays["rests"], arrays["attempt"], strict=True
    ):
        yield (
            f"{int(attempt):04d}.json",
            {
                "mano_trans": vector[:3].tolist(),
                "mano_pose": vector[3:].tolist(),
                "mano_shape": [0.0] * 10,
                "pose": rest.tolist() if rest.any() else None,
            },
        )
