"""`handhold synth`: labelled scenes (here) and grasps (`synth_grasps`) as shards, with pictures."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from handhold.cli.synth_grasps import grasps
from handhold.synthesis.scenes import SceneConfig


def scenes(
    out: Path,
    count: int = 1000,
    seed: int = 0,
    shard_size: int = 500,
    workers: int = 1,
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
        sheet: Draw the first scenes with their labels on one picture.
        config: What the scenes show.
    """
    from rich.progress import track

    from handhold.synthesis.shards import shard_path

    out.mkdir(parents=True, exist_ok=True)
    firsts = [
        n for n in range(0, count, shard_size) if not shard_path(out, n // shard_size).exists()
    ]
    jobs = [
        (out, first, min(shard_size, count - first), seed, shard_size, config) for first in firsts
    ]
    if workers <= 1:
        for job in track(jobs, "rendering shards"):
            _render(*job)
    else:
        with ProcessPoolExecutor(workers) as pool:
            for _ in track(pool.map(_render, *zip(*jobs, strict=True)), "rendering", len(jobs)):
                pass
    if sheet:
        _sheet(out)
    print(f"{count} scenes in {out}")


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
    import cv2

    from handhold.atomic import replacing
    from handhold.render.labels import draw_labels
    from handhold.render.overlay import contact_sheet
    from handhold.synthesis.shards import read_shards

    pictures = [
        draw_labels(sample) for sample, _ in zip(read_shards(folder), range(count), strict=False)
    ]
    sheet = contact_sheet(pictures, columns=8)
    with replacing(folder / "sheet.png") as unfinished:
        cv2.imwrite(str(unfinished), sheet[..., ::-1])


COMMANDS = {"scenes": scenes, "grasps": grasps}
