"""`handhold synth grasps`: valid grasps of any meshes as shards, with a picture of each object."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from handhold.synthesis.grasps.files import Outcome
    from handhold.synthesis.grasps.generate import GraspConfig
    from handhold.synthesis.grasps.hand import GraspHand
    from handhold.synthesis.grasps.solid import Solid


def grasps(
    out: Path,
    objects: str = "catalogue",
    count: int = 64,
    seed: int = 0,
    mano: Path | None = None,
    method: Literal["fast", "published"] = "fast",
    check: Literal["own", "generator", "script"] | None = None,
    steps: int | None = None,
    table: bool = False,
    lift: bool = False,
    batch: int = 64,
    json_files: bool = False,
    sheet: bool = True,
    workers: int = 1,
    ray: str | None = None,
) -> int:
    """Grasps of every object by a right hand; an interrupted run goes on where it stopped.

    Args:
        out: Folder for OBJECT/shard-NNNN.safetensors, OBJECT/sheet.png and report.json.
        objects: Folder of meshes in metres, or `catalogue`: look-alikes of the 21 YCB objects.
        count: Valid grasps of each object, at least.
        seed: The series. The same seed gives the same files.
        mano: MANO's file or folder; default the free hand.
        method: Grips closed and annealed briefly, or the published start, energies and schedule.
        check: Rules of the checks; default those of the method (published: generator).
        steps: Annealing steps; default those of the method.
        table: The object lies on a table as it came to rest when dropped; hands stay above it.
        lift: Also drop grasps from which the object falls in MuJoCo (extra `physics`).
        batch: Grasps annealed together, one shard.
        json_files: Also write OBJECT/json/NNNN.json as the released generator does.
        sheet: Draw the first eight grasps of each object.
        workers: Processes, each an object at a time.
        ray: Address of a Ray cluster to compute on, or `local`; it must see the same folders.
    """
    from rich.progress import track

    from handhold.errors import InputError
    from handhold.objects.sources import mesh_loaders
    from handhold.parallel import run_jobs
    from handhold.synthesis.grasps.files import Outcome, describe, write_whole

    if count < 1:
        raise InputError(f"--count: expected 1 or more, found {count}")
    config = _config(method, check, steps, table, lift, batch)
    names = list(mesh_loaders(objects))
    out.mkdir(parents=True, exist_ok=True)
    jobs = [
        (name, objects, mano, out / name, count, seed, config, sheet, json_files) for name in names
    ]
    found: dict[str, Outcome | str] = {}
    running = run_jobs(_object, jobs, workers=workers, ray=ray)
    for number, told in track(running, "objects", len(jobs)):
        found[names[number]] = told
    done = [told for name in names if isinstance(told := found[name], Outcome)]
    failed = {name: told for name in names if isinstance(told := found[name], str)}
    for told in done:
        for note in told.repairs:
            print(f"{told.name}: {note}")
    for message in failed.values():
        print(f"handhold: {message}", file=sys.stderr)
    report = {
        "objects": {item.name: item._asdict() for item in done},
        "failed": failed,
        "seed": seed,
        "method": method,
    }
    write_whole(out / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    for item in done:
        print(f"{item.name}: {item.valid} of {item.attempts} valid; fell: {describe(item.fallen)}")
    if failed:
        print(f"{len(done)} objects done, {len(failed)} failed", file=sys.stderr)
    return 0 if not failed else (1 if done else 2)


def _object(
    name: str,
    objects: str,
    mano: Path | None,
    folder: Path,
    count: int,
    seed: int,
    config: GraspConfig,
    sheet: bool,
    json_files: bool,
) -> Outcome | str:
    """The grasps of one object, or why there are none."""
    import torch

    from handhold.errors import HandholdError, WriteError
    from handhold.objects.sources import mesh_loaders
    from handhold.synthesis.grasps.files import fill
    from handhold.synthesis.grasps.solid import prepare

    torch.set_num_threads(1)  # more threads sum in another order
    hand = _hand(mano)
    try:
        solid = prepare(mesh_loaders(objects)[name](), points=config.points)
        outcome = fill(hand, solid, folder, count, seed, config)
        _extras(hand, solid, folder, sheet, json_files)
    except WriteError:  # nor could the next object's be written
        raise
    except HandholdError as error:
        return str(error)
    return outcome


@functools.lru_cache(maxsize=1)
def _hand(mano: Path | None) -> GraspHand:
    from handhold.hand.model import HandModel
    from handhold.synthesis.grasps.hand import GraspHand

    return GraspHand(HandModel.load(mano))


def _config(
    method: str, check: str | None, steps: int | None, table: bool, lift: bool, batch: int
) -> GraspConfig:
    from dataclasses import replace

    from handhold.synthesis.grasps.generate import GraspConfig
    from handhold.synthesis.grasps.validate import ValidationConfig

    config = GraspConfig.published() if method == "published" else GraspConfig()
    checks = {
        "own": ValidationConfig,
        "generator": ValidationConfig.generator,
        "script": ValidationConfig.script,
    }
    if check is not None:
        config = replace(config, validation=checks[check]())
    if steps is not None:
        config = replace(config, anneal=replace(config.anneal, steps=steps))
    if table:  # the weight of DexGraspNet's table branch
        config = replace(config, energy=replace(config.energy, table=40.0))
    return replace(config, table=table, lift=lift, batch=batch)


def _extras(hand: GraspHand, solid: Solid, folder: Path, sheet: bool, json_files: bool) -> None:
    from handhold.render.overlay import write_picture
    from handhold.synthesis.grasps.files import published_records, read_grasps, write_whole
    from handhold.synthesis.grasps.sheet import draw_sheet

    arrays = read_grasps(folder)
    if sheet:
        write_picture(folder / "sheet.png", draw_sheet(hand, solid, arrays["vectors"]))
    if json_files:
        for name, record in published_records(arrays):
            write_whole(folder / "json" / name, (json.dumps(record) + "\n").encode())
