"""`handhold fid`: how far made pictures are from real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import tyro

from handhold.evaluation.pictures import Crop, Features, PictureSet


def fid(
    real: Annotated[str, tyro.conf.Positional],
    made: Annotated[str, tyro.conf.Positional],
    features: Features = "unihope-small",
    weights: str | None = None,
    crop: Crop = "hand",
    size: int = 128,
    count: int | None = None,
    out: Path | None = None,
    mano: Path | None = None,
    device: str = "cpu",
) -> None:
    """FID, the Frechet distance of the features of real and of made pictures (Heusel et al. 2017).

    Each of both is a folder of shards (`handhold synth scenes`, `handhold synth images`), of
    pictures or of stored features (.npy files of (D,) or (n, D), by any program), or a published
    set, NAME/SPLIT:FOLDER. Only figures of the same features, crops and numbers of pictures can be
    compared; the report names them.

    handhold fid dexycb/s0-train:DOWNLOADS/dexycb made --out fid.json

    handhold fid scenes made --features inception --weights pt_inception.pth

    Args:
        real: The real pictures.
        made: The made pictures.
        features: Whose: unihope-small (640 numbers of its backbone, which knows hands in crops),
            hand-detector (192, whole photos), or inception, the usual network of published figures
            (2048), whose weights do not come with the package.
        weights: Weights file instead of the one that ships with the package; inception: a
            dictionary of tensors (.pth, .safetensors) of FID's Inception v3 of 2015; also
            hub:OWNER/REPOSITORY/FILE.
        crop: Of shards and sets: the crop of the first hand as the image synthesizer is trained
            with (left hands mirrored), or the whole photo.
        size: Pixels of such a crop; the synthesizer's by default.
        count: Pictures at most of each, evenly spread.
        out: JSON file to write.
        mano: Folder with the official MANO files, for published sets.
        device: cpu, cuda, mps.
    """
    from handhold.atomic import write_text
    from handhold.errors import InputError
    from handhold.evaluation.metrics.images import fid as distance
    from handhold.evaluation.pictures import Choice, PictureNetwork, features_of_source

    network = PictureNetwork(features, weights, device)
    choice = Choice(crop=crop, size=size, count=count, mano=mano)
    both = [features_of_source(text, network, choice) for text in (real, made)]
    for text, found in zip((real, made), both, strict=True):
        if len(found.features) < 2:
            raise InputError(f"{text}: expected 2 pictures or more, found {len(found.features)}")
    numbers = [found.features.shape[1] for found in both]
    if numbers[0] != numbers[1]:
        raise InputError(
            f"{made}: expected features of {numbers[0]} numbers, as those of {real}, found "
            f"{numbers[1]}; both must be of the same network"
        )
    report = _report(distance(both[1].features, both[0].features), both, network.name)
    print(f"features: {report['features']}, {report['dimension']} numbers a picture")
    print(f"real: {both[0].title}")
    print(f"made: {both[1].title}")
    for words in report["notes"]:
        print(f"note: {words}")
    print(f"FID: {report['fid']:.4g}")
    if out is not None:
        write_text(out, json.dumps(report, indent=1) + "\n")
        print(f"written: {out}")


def _report(value: float, both: list[PictureSet], name: str) -> dict[str, Any]:
    """The figure with everything that it depends on."""
    dimension = both[0].features.shape[1]
    given = [found.given for found in both]
    if any(given):
        stored = "stored" if all(given) else f"stored {('real', 'made')[given.index(True)]}"
        name = "stored ones" if all(given) else f"{name}, {stored} ones"
    notes = []
    for kind, found in zip(("real", "made"), both, strict=True):
        if found.left_out:
            notes.append(
                f"{found.left_out:,} samples of the {kind} without a hand to crop left out"
            )
        if len(found.features) <= dimension:
            notes.append(
                f"{len(found.features):,} {kind} pictures are too few for {dimension} features: "
                "the covariance is not of full rank, and the figure is too high"
            )
    sets = {
        kind: {"source": found.title, "pictures": len(found.features), "left_out": found.left_out}
        for kind, found in zip(("real", "made"), both, strict=True)
    }
    told = {"schema": "handhold.fid/1", "fid": value, "features": name, "dimension": dimension}
    return told | sets | {"notes": notes}


COMMANDS = fid
