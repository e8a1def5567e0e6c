"""`handhold synth filter`: leaves out made photos that do not show the hand of their labels."""

from __future__ import annotations

from pathlib import Path

import tyro

from handhold.synthesis.filtering import FilterConfig


def filter_photos(
    images: tyro.conf.Positional[Path],
    out: Path,
    method: str = "unihope-small",
    weights: Path | None = None,
    mano: Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
    config: FilterConfig = FilterConfig(),  # noqa: B008 - frozen
) -> None:
    """Leave out made photos in which a network sees another hand than the labels say.

    Goes on where it stopped. The accepted photos are shards to train on, as in `handhold train
    mobrecon-handbooster --data dexycb/s0-train:DEXYCB=0.5 shards:OUT=0.5`.

    Args:
        images: Folder of shards of `handhold synth images`.
        out: Folder for the accepted photos, the scores, `report.json` and the sheets
            `accepted.png` and `fallen_REASON.png`.
        method: The network that looks; `handhold models` lists them.
        weights: Its weights file, instead of the one that ships with the package.
        mano: Folder with the official MANO files, where the labels are MANO's hands.
        device: Where to compute: cpu, cuda, mps.
        threads: Processor threads (default: PyTorch's choice).
        config: The limits.
    """
    import torch
    from rich.progress import Progress

    from handhold.synthesis.filtering import filter_images

    if threads:
        torch.set_num_threads(threads)
    with Progress() as progress:
        bar = progress.add_task("looking at photos", total=None)
        report = filter_images(
            images,
            out,
            method=method,
            weights=weights,
            config=config,
            mano=mano,
            device=device,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    print(f"{report}; report and sheets in {out}")
