"""`handhold synth deocclude`: photos of hands without what they hold, for UniHOPE's pairs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from handhold.synthesis.deoccluder.repaint import RepaintConfig

Drop = Literal["nothing", "worse"]
PAIRS_SHOWN = 24


def deocclude(
    data: str,
    out: Path,
    free: bool = False,
    base: str | None = None,
    controlnet: str | None = None,
    objects: Path | None = None,
    mano: Path | None = None,
    judge: str | None = None,
    judge_weights: Path | None = None,
    drop: Drop = "nothing",
    threshold: float = 0.9,
    count: int | None = None,
    seed: int = 0,
    shard_size: int = 500,
    workers: int = 1,
    device: str = "cpu",
    half: bool = False,
    sheet: bool = True,
    config: RepaintConfig = RepaintConfig(),  # noqa: B008 - frozen
) -> int:
    """Give frames of grasping hands a second image without the object; goes on where it stopped.

    All frames are written, with labels, as shards to train on: `handhold train unihope --data
    shards:OUT`. Exact second images of synthetic scenes: `handhold synth scenes --config.paired`.

    Args:
        data: A folder of shards, or a published set such as
            dexycb/s0-train?occlusion:DOWNLOADS/dexycb.
        out: Folder for the shards, a record of each, and `sheet.png`.
        free: Draw the hand again in the photo's light and carry on the background: nothing to
            download. Otherwise Stable Diffusion paints both anew (extra `diffusion`).
        base: Stable Diffusion 1.5 for inpainting: name at the hub, or folder.
        controlnet: Its ControlNet for depth, best the one made for hands: name, folder or file.
        objects: Folder of object meshes, named as the data name their objects; default: the masks
            of the objects that the data have.
        mano: Folder with the official MANO files, whose hands the labels are.
        judge: Method whose joints choose among control strengths; default with diffusion:
            unihope-small. With --free both images are only measured.
        judge_weights: Its weights; default those of the package.
        drop: worse: no second image where the judge finds the hand no better in it.
        threshold: Hands of which more than this share is visible get none (HO3D: 0.8).
        count: The first so many frames; all if not given.
        seed: The series. The same seed gives the same files.
        shard_size: Frames in one shard.
        workers: Processes that draw (--free), each a shard at a time.
        device: Where to paint: cpu, cuda, mps.
        half: Paint with half precision (GPUs).
        sheet: Draw the first pairs on one picture.
        config: How hand and object are painted anew.
    """
    from rich.progress import Progress

    from handhold.errors import InputError
    from handhold.parallel import run_jobs
    from handhold.synthesis.deoccluder.pairs import begin, report
    from handhold.synthesis.shards import shard_path

    if not free and (base is None or controlnet is None):
        raise InputError(
            "expected --base and --controlnet (Stable Diffusion 1.5 for inpainting and a "
            "ControlNet for depth, by hub name or folder), or --free, which needs neither"
        )
    if shard_size < 1 or workers < 1 or (count is not None and count < 1):
        raise InputError(
            "expected --shard-size, --workers and --count of 1 or more, found "
            f"{shard_size}, {workers}, {count}"
        )
    judge = judge or (None if free and drop == "nothing" else "unihope-small")
    job = _Job(
        data=data,
        out=out,
        base=None if free else base,
        controlnet=None if free else controlnet,
        objects=objects,
        mano=mano,
        judge=judge,
        judge_weights=judge_weights,
        drop=drop,
        threshold=threshold,
        seed=seed,
        shard_size=shard_size,
        device=device,
        half=half,
        config=config,
    )
    total = len(job.samples())
    total = total if count is None else min(count, total)
    job.way()  # whatever is missing is said before the folder is made
    begin(out, job.settings())
    ranges = [(n, min(n + shard_size, total)) for n in range(0, total, shard_size)]
    left = [r for r in ranges if not shard_path(out, r[0] // shard_size).exists()]
    finished = total - sum(stop - first for first, stop in left)
    with Progress() as progress:
        bar = progress.add_task("second images", total=total, completed=finished)
        if workers == 1 or not free:
            for part in left:
                job.make(*part, functools.partial(progress.advance, bar))
        else:
            for _, made in run_jobs(_make, [(job, *part) for part in left], workers=workers):
                progress.advance(bar, made)
    found = report(out)
    if sheet:
        _sheet(out)
    pairs = found.pop("pair", 0)
    why = ", ".join(f"{number} {reason}" for reason, number in found.most_common())
    print(f"{pairs} pairs of {total} frames in {out}" + (f"; without: {why}" if why else ""))
    if not pairs:
        print("handhold: no frame got a second image", file=sys.stderr)
    return 0 if pairs else 1


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Everything a process needs to make a shard of pairs."""

    data: str
    out: Path
    base: str | None
    controlnet: str | None
    objects: Path | None
    mano: Path | None
    judge: str | None
    judge_weights: Path | None
    drop: Drop
    threshold: float
    seed: int
    shard_size: int
    device: str
    half: bool
    config: RepaintConfig

    def settings(self) -> dict[str, Any]:
        """What must stay the same when an interrupted run goes on."""
        names = ("data", "base", "controlnet", "objects", "mano", "judge", "judge_weights", "drop")
        found = {name: getattr(self, name) for name in names}
        found = {k: str(v) if isinstance(v, Path) else v for k, v in found.items()}
        numbers = {name: getattr(self, name) for name in ("threshold", "seed", "shard_size")}
        painted = asdict(self.config) | {"strengths": list(self.config.strengths)}
        return found | numbers | ({} if self.base is None else {"config": painted})

    def samples(self) -> Any:
        return _samples(self.data, self.mano)

    def way(self) -> Any:
        return _way(self)

    def make(self, first: int, stop: int, progress: Callable[[], None] | None = None) -> None:
        from handhold.synthesis.deoccluder.pairs import write_pairs

        plan = _planner(self.objects, self.mano, self.threshold)
        write_pairs(
            self.samples(),
            self.out,
            first,
            stop,
            plan,
            self.way(),
            seed=self.seed,
            shard_size=self.shard_size,
            drop=self.drop,
            progress=progress,
        )


def _make(job: _Job, first: int, stop: int) -> int:
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    job.make(first, stop)
    return stop - first


# Kept in each process, so that it opens data, meshes and networks once.


@functools.lru_cache(maxsize=1)
def _samples(data: str, mano: Path | None) -> Any:
    from handhold.data.sources import SetSpec
    from handhold.errors import InputError
    from handhold.synthesis.shards import MAPS, ShardDataset

    spec = SetSpec.parse(data)
    if spec is not None:
        found: Any = spec.open(mano=mano, skip=("bare_image", "depth"))
    else:
        found = ShardDataset(data.removeprefix("shards:"), skip=("bare_image", "depth", *MAPS))
    if not len(found):
        raise InputError(f"--data {data}: there is no frame in it")
    return found


@functools.lru_cache(maxsize=1)
def _models(mano: Path | None) -> Any:
    from handhold.hand.model import HandModel

    return {"right": HandModel.load(mano, "right"), "left": HandModel.load(mano, "left")}


@functools.lru_cache(maxsize=1)
def _planner(objects: Path | None, mano: Path | None, threshold: float) -> Any:
    from handhold.objects.mesh import load_objects
    from handhold.synthesis.deoccluder.removal import Planner

    meshes = None if objects is None else load_objects(objects)
    return Planner(_models(mano), meshes, threshold)


@functools.lru_cache(maxsize=1)
def _way(job: _Job) -> Any:
    from handhold.models.loading import load_model
    from handhold.synthesis.deoccluder.judge import Judge
    from handhold.synthesis.deoccluder.pairs import Diffusion, Free
    from handhold.synthesis.deoccluder.repaint import Repainter, load_pipeline

    _planner(job.objects, job.mano, job.threshold)
    judge = None
    if job.judge is not None:
        judge = Judge(load_model(job.judge, job.judge_weights, job.mano), job.device)
    if job.base is None or job.controlnet is None:
        return Free(_models(job.mano), judge)
    pipeline = load_pipeline(job.base, job.controlnet, job.device, half=job.half)
    return Diffusion(Repainter(pipeline, job.config), judge)


def _sheet(out: Path) -> None:
    from handhold.render.overlay import contact_sheet, write_picture
    from handhold.synthesis.deoccluder.pairs import beside
    from handhold.synthesis.shards import read_shards

    pairs = (sample for sample in read_shards(out) if sample.bare_image is not None)
    lines = [beside(sample) for sample in islice(pairs, PAIRS_SHOWN)]
    if lines:
        write_picture(out / "sheet.png", contact_sheet(lines, columns=4))
