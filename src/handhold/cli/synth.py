"""`handhold synth`: labelled scenes, conditions of photos, photos made from conditions (here),
grasps (`synth_grasps`), the choice among made photos (`synth_filter`) and photos without the object
(`synth_deocclude`) as shards, with pictures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handhold.cli.synth_deocclude import deocclude
from handhold.cli.synth_filter import filter_photos
from handhold.cli.synth_grasps import grasps
from handhold.errors import InputError
from handhold.synthesis.diffusion.images import ImageConfig
from handhold.synthesis.novel import NovelConfig
from handhold.synthesis.scenes import SceneConfig


def scenes(
    out: Path,
    count: int = 1000,
    seed: int = 0,
    shard_size: int = 500,
    workers: int = 1,
    ray: str | None = None,
    sheet: bool = True,
    config: SceneConfig = SceneConfig(),  # noqa: B008 - frozen
) -> None:
    """Render labelled scenes into webdataset shards; an interrupted run goes on where it stopped.

    Args:
        out: Folder for the shards and `sheet.png`.
        count: Scenes in all.
        seed: The series. Scene i of a series is always the same.
        shard_size: Scenes in one shard.
        workers: Processes that render, each a shard at a time.
        ray: Address of a Ray cluster to render on, or `local`; it must see the same folders.
        sheet: Draw the first scenes with their labels on one picture.
        config: What the scenes show.
    """
    from rich.progress import track

    from handhold.parallel import run_jobs

    firsts = _left(out, count, shard_size)
    jobs = [
        (out, first, min(shard_size, count - first), seed, shard_size, config) for first in firsts
    ]
    for _ in track(run_jobs(_render, jobs, workers=workers, ray=ray), "rendering", len(jobs)):
        pass
    if sheet:
        _sheet(out)
    print(f"{count} scenes in {out}")


def _left(out: Path, count: int, shard_size: int) -> list[int]:
    """The first numbers of the shards that are not in the folder yet; makes it where it is none."""
    from handhold.synthesis.shards import shard_path

    _check_counts(count=count, shard_size=shard_size)
    out.mkdir(parents=True, exist_ok=True)
    firsts = range(0, count, shard_size)
    return [n for n in firsts if not shard_path(out, n // shard_size).exists()]


def _check_counts(**given: int | None) -> None:
    for name, value in given.items():
        if value is not None and value < 1:
            option = name.replace("_", "-")
            raise InputError(f"--{option}: expected 1 or more, found {value}")


def _render(
    out: Path, first: int, count: int, seed: int, shard_size: int, config: SceneConfig
) -> None:
    import cv2
    import torch

    from handhold.synthesis.scenes import make_scene
    from handhold.synthesis.shards import write_shards

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    samples = (make_scene(seed, index, config) for index in range(first, first + count))
    write_shards(samples, out, shard_size, first, depth=False)


def _sheet(folder: Path, count: int = 48) -> None:
    from handhold.render.labels import draw_labels
    from handhold.render.overlay import contact_sheet
    from handhold.synthesis.shards import read_shards

    pictures = [
        draw_labels(sample) for sample, _ in zip(read_shards(folder), range(count), strict=False)
    ]
    _write_sheet(folder, contact_sheet(pictures, columns=8))


def _write_lines(folder: Path, lines: list[NDArray[np.uint8]]) -> None:
    """A sheet of lines of pictures, all of one size, two beside each other."""
    bordered = [np.pad(line, ((0, 2), (0, 8), (0, 0)), constant_values=255) for line in lines]
    if len(bordered) % 2:
        bordered.append(np.full_like(bordered[0], 255))
    pairs = zip(bordered[::2], bordered[1::2], strict=True)
    _write_sheet(folder, np.concatenate([np.concatenate(pair, axis=1) for pair in pairs]))


def _write_sheet(folder: Path, sheet: NDArray[np.uint8]) -> None:
    from handhold.render.overlay import write_picture

    write_picture(folder / "sheet.png", sheet)


def conditions(
    data: str,
    objects: Path,
    out: Path,
    count: int | None = None,
    mano: Path | None = None,
    shard_size: int = 500,
) -> None:
    """Add HandBooster's maps to a published set and write it as shards; goes on where it stopped.

    For synthetic scenes, `handhold synth scenes --config.conditions` makes both at once.

    Args:
        data: The set, such as dexycb/s0-train:DOWNLOADS/dexycb. Samples without a hand, or with
            one outside the photo, are left out.
        objects: Folder of object meshes, named as the set names its objects.
        out: Folder for the shards and `sheet.png`.
        count: The first so many usable samples; all if not given.
        mano: Folder with the official MANO files, whose hands the labels are.
        shard_size: Samples in one shard.
    """
    from itertools import islice

    from rich.progress import track

    from handhold.data.sources import FORM, SetSpec
    from handhold.hand.model import HandModel
    from handhold.objects.mesh import load_objects
    from handhold.synthesis.diffusion.crops import conditions_picture, is_usable, with_maps
    from handhold.synthesis.shards import next_sample, write_shards

    _check_counts(count=count, shard_size=shard_size)
    spec = SetSpec.parse(data)
    if spec is None:
        raise InputError(f"--data {data}: expected {FORM}")
    samples = spec.open(mano=mano, skip=("bare_image",))
    meshes = load_objects(objects)
    models = {"right": HandModel.load(mano, "right"), "left": HandModel.load(mano, "left")}
    numbers = (n for n in track(range(len(samples)), "looking") if is_usable(samples.record(n)))
    usable = list(islice(numbers, count))
    if not usable:
        raise InputError(
            f"--data {data}: no hand in it has pose and vertices of this hand model and a box in "
            "its photo; --mano FOLDER reads labels that were made with MANO"
        )
    out.mkdir(parents=True, exist_ok=True)
    start = min(next_sample(out, shard_size), len(usable))
    start -= start % shard_size
    left = track(usable[start:], "rendering maps")
    write_shards(
        (with_maps(samples[n], meshes, models) for n in left), out, shard_size, start, depth=False
    )
    rows = [conditions_picture(samples[n], meshes, models, 128) for n in usable[:24]]
    _write_lines(out, rows)
    print(f"{len(usable)} samples in {out}")


def novel(
    grasps: Path,
    data: str,
    out: Path,
    objects: str = "catalogue",
    count: int = 1000,
    seed: int = 0,
    mano: Path | None = None,
    shard_size: int = 100,
    workers: int = 1,
    ray: str | None = None,
    sheet: bool = True,
    config: NovelConfig = NovelConfig(),  # noqa: B008 - frozen
    scene: SceneConfig = SceneConfig(occluder=0.0),  # noqa: B008 - frozen
) -> None:
    """Show made grasps to the cameras of a data set: HandBooster's novel conditions; goes on where
    it stopped.

    The samples have exact labels, the maps that `handhold synth images` makes photos from, and
    photos of the ray-caster, with which they can be trained on as they are.

    Args:
        grasps: Folder of `handhold synth grasps`.
        data: Whose cameras, turns, shapes and own grasps: a set, such as
            dexycb/s0-train:DOWNLOADS/dexycb, or shards:FOLDER. Right hands only.
        out: Folder for the shards, `sheet.png` and `similarity.png`.
        objects: The meshes that the grasps were made of: their folder, or `catalogue`.
        count: Conditions in all.
        seed: The series. Condition i of a series is always the same.
        mano: Folder with the official MANO files, if grasps and data were made with MANO.
        shard_size: Conditions in one shard.
        workers: Processes that render, each a shard at a time.
        ray: Address of a Ray cluster to render on, or `local`; it must see the same folders.
        sheet: Draw the first conditions, and how alike the poses of real and made grasps are.
        config: Which poses are shown.
        scene: How the photos look; their size is that of the data.
    """
    import dataclasses
    from itertools import islice

    from rich.progress import track

    from handhold.hand.model import HandModel
    from handhold.parallel import run_jobs
    from handhold.synthesis.diffusion.crops import conditions_picture
    from handhold.synthesis.novel_shards import Creation, creator, write_part
    from handhold.synthesis.sampling_plots import draw_similarities
    from handhold.synthesis.shards import read_shards

    scene = dataclasses.replace(scene, mano=mano)
    told = Creation(str(grasps), data, objects, None if mano is None else str(mano), seed)
    made = creator(told, config, scene)  # also tells what is wrong before anything is written
    firsts = _left(out, count, shard_size)
    jobs = [(told, config, scene, out, n, min(shard_size, count - n), shard_size) for n in firsts]
    running = run_jobs(write_part, jobs, workers=workers, ray=ray)
    for _ in track(running, "rendering conditions", len(jobs)):
        pass
    if sheet:
        meshes = {prop.mesh.name: prop.mesh for prop in made.props.values()}
        models = {"right": HandModel.load(mano, "right")}
        first = islice(read_shards(out), 24)
        _write_lines(out, [conditions_picture(sample, meshes, models, 128) for sample in first])
        for name in sorted(set(made.names) & set(made.reference.grasps))[:1]:
            real, own = made.reference.grasps[name].vectors, made.made[name].vectors
            draw_similarities(real, own, out / "similarity.png", seed=seed, title=name)
    print(f"{count} conditions in {out}")


def images(
    data: Path,
    weights: Path,
    out: Path,
    count: int = 1000,
    seed: int = 0,
    shard_size: int = 100,
    device: str = "cpu",
    threads: int | None = None,
    workers: int = 1,
    ray: str | None = None,
    sheet: bool = True,
    config: ImageConfig = ImageConfig(),  # noqa: B008 - frozen
) -> None:
    """Make photos of rendered conditions with HandBooster's denoiser; goes on where it stopped.

    Args:
        data: Folder of shards with maps (`handhold synth scenes --config.conditions`, `handhold
            synth conditions`); taken again from the start, with other noise, when it ends.
        weights: Of `handhold train handbooster-small` (or -diffusion) or `handhold weights import
            handbooster`.
        out: Folder for the shards and `sheet.png`.
        count: Photos in all.
        seed: The series. Photo i of a series is always the same.
        shard_size: Photos in one shard.
        device: Where to compute: cpu, cuda, mps.
        threads: Processor threads (default: PyTorch's choice; 1 where there are several workers).
        workers: Processes, each a shard at a time.
        ray: Address of a Ray cluster to compute on, or `local`; it must see the same folders.
        sheet: Draw the first photos beside their conditions on one picture.
        config: How photos are made.
    """
    from rich.progress import track

    from handhold.models.handbooster.weights import load_denoiser
    from handhold.parallel import run_jobs
    from handhold.synthesis.diffusion.images import beside, open_conditions, write_part
    from handhold.synthesis.shards import read_shards

    load_denoiser(weights)  # tells what is wrong before anything is written
    samples = open_conditions(data)
    firsts = _left(out, count, shard_size)
    threads = 1 if threads is None and (workers > 1 or ray is not None) else threads
    jobs = [
        (
            weights,
            data,
            out,
            n,
            min(count, n + shard_size),
            shard_size,
            seed,
            config,
            device,
            threads,
        )
        for n in firsts
    ]
    running = run_jobs(write_part, jobs, workers=workers, ray=ray)
    for _ in track(running, "making photos", len(jobs)):
        pass
    if sheet:
        first = zip(read_shards(out), range(24), strict=False)
        rows = [beside(samples[number % len(samples)], made) for made, number in first]
        _write_lines(out, rows)
    print(f"{count} photos in {out}")


COMMANDS = {
    "scenes": scenes,
    "grasps": grasps,
    "conditions": conditions,
    "novel": novel,
    "images": images,
    "filter": filter_photos,
    "deocclude": deocclude,
}
