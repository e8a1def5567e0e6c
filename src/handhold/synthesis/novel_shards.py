"""Series of novel conditions: opened from texts, written shard by shard, by any number of
processes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from handhold.data.dataset import Record
from handhold.data.sources import FORM, SetSpec
from handhold.errors import InputError
from handhold.objects.sources import mesh_loaders
from handhold.scene import Sample
from handhold.synthesis.novel import (
    NovelConditions,
    NovelConfig,
    Reference,
    made_grasps,
    needed_meshes,
)
from handhold.synthesis.scenes import SceneConfig
from handhold.synthesis.shards import OPTIONAL, ShardDataset, write_shards


class Creation(NamedTuple):
    """What a series is made of: folder of grasps, data (a set or shards:FOLDER), objects (folder or
    "catalogue"), folder of MANO files, seed."""

    grasps: str
    data: str
    objects: str
    mano: str | None
    seed: int


def labels_of(data: str, mano: str | None) -> Iterator[Record | Sample]:
    """What a set (`SetSpec`) or shards:FOLDER tells of every frame. Raises InputError for other
    texts, and what opening raises."""
    head, _, folder = data.partition(":")
    if head == "shards":
        samples = ShardDataset(folder, skip=OPTIONAL)
        return (samples[number] for number in range(len(samples)))
    spec = SetSpec.parse(data)
    if spec is None:
        raise InputError(f"data {data!r}: expected shards:FOLDER or {FORM}")
    found = spec.open(mano=mano)
    return (found.record(number) for number in range(len(found)))


@lru_cache(maxsize=1)
def creator(told: Creation, config: NovelConfig, scene: SceneConfig) -> NovelConditions:
    """The series. Raises InputError and FileFormatError for grasps, data and objects that do not
    fit together."""
    mano = None if told.mano is None else Path(told.mano)
    made = made_grasps(Path(told.grasps), mano)
    objects = needed_meshes(made, mesh_loaders(told.objects), told.objects)
    reference = Reference.of(labels_of(told.data, told.mano), config.rule)
    return NovelConditions(reference, made, objects, config, seed=told.seed, scene=scene)


def write_part(
    told: Creation,
    config: NovelConfig,
    scene: SceneConfig,
    out: Path,
    first: int,
    count: int,
    shard_size: int,
) -> None:
    """Write conditions `first` to `first + count - 1`, one shard."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    series = creator(told, config, scene)
    samples = (series[number] for number in range(first, first + count))
    write_shards(samples, out, shard_size, first, depth=False)
