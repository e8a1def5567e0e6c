"""`handhold eval`: a model measured on synthetic scenes or labelled photos."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from handhold.evaluation.collect import Predict
    from handhold.evaluation.protocols import Protocol
    from handhold.inference.estimator import Estimator
    from handhold.scene import Sample

HELD_OUT_SERIES = 1_000_003


def evaluate(
    model: Annotated[str, tyro.conf.Positional] = "unihope-small",
    data: str = "synthetic",
    protocol: Literal["deployable", "boxes", "official"] = "deployable",
    out: Path | None = None,
    count: int = 500,
    part: Literal["held_out", "train", "all"] = "held_out",
    weights: Path | None = None,
    detector: str = "default",
    mano: Path | None = None,
    device: str = "cpu",
) -> None:
    """Measure a model and print the report; with --out also JSON and plots.

    Synthetic scenes and shards give 3D errors of hand and object; photos give detection, sides and
    PCK against their 2D labels. The protocol says what the method is told besides the image.

    Args:
        model: Method, as listed by `handhold models`.
        data: `synthetic` (a series that no training uses), `shards:FOLDER` or `photos:FOLDER` (a
            folder with labels.json).
        protocol: `deployable`: only the image (and intrinsics, where they are known); `boxes`: true
            hand boxes and sides as well; `official`: also what is held and its box.
        out: Folder for report.json, report.txt and report.png.
        count: Scenes or photos at most.
        part: Photos that training holds out, those it uses, or all.
        weights: Weights file instead of the one that ships with the package; also
            hub:OWNER/REPOSITORY/FILE.
        detector: Weights file of another hand detector.
        mano: Folder with the official MANO files.
        device: cpu, cuda, cuda:1, mps.
    """
    from rich.progress import track

    from handhold.evaluation.collect import collect
    from handhold.evaluation.protocols import protocol as named
    from handhold.evaluation.report import as_text, build_report, write_report
    from handhold.inference.estimator import Estimator
    from handhold.synthesis.props import named_points

    chosen = named(protocol)
    samples = _samples(data, count, part, mano)
    estimator = Estimator(model, detector=detector, weights=weights, mano=mano, device=device)
    total = len(samples)
    run = collect(track(_each(samples), "predicting", total), _predictor(estimator, chosen))
    title = f"{estimator.model.name} on {total} samples of {data}"
    if data.startswith("photos:"):
        title += f" ({part.replace('_', ' ')})"
    report = build_report(run, title=title, protocol=chosen, meshes=named_points())
    print(as_text(report))
    if out is not None:
        for path in write_report(report, out):
            print(f"written: {path}")


class _Samples(typing.Protocol):
    """Shards, photos, drawn scenes: all that has a length and gives samples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Sample: ...


def _each(samples: _Samples) -> map[Sample]:
    return map(samples.__getitem__, range(len(samples)))


class _Series:
    """The held-out scenes as a sequence that is drawn when asked."""

    def __init__(self, count: int, mano: Path | None) -> None:
        from handhold.synthesis.scenes import SceneConfig

        self.count = count
        self.config = SceneConfig(mano=mano)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        from handhold.synthesis.scenes import make_scene

        return make_scene(HELD_OUT_SERIES, index, self.config)


def _samples(
    data: str, count: int, part: Literal["held_out", "train", "all"], mano: Path | None
) -> _Samples:
    from handhold.data.photos import PhotoFolder
    from handhold.errors import InputError
    from handhold.synthesis.shards import ShardDataset

    kind, _, place = data.partition(":")
    if kind == "synthetic":
        return _Series(count, mano)
    if kind == "shards" and place:
        whole: _Samples = ShardDataset(place)
    elif kind == "photos" and place:
        whole = PhotoFolder(place, part=part)
    else:
        raise InputError(f"data: found {data!r}, expected synthetic, shards:FOLDER, photos:FOLDER")
    return whole if len(whole) <= count else _Head(whole, count)


class _Head:
    """Evenly spread members of a longer sequence."""

    def __init__(self, whole: _Samples, count: int) -> None:
        self.whole, self.count = whole, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return self.whole[index * len(self.whole) // self.count]


def _predictor(estimator: Estimator, chosen: Protocol) -> Predict:
    """Give the estimator what the protocol allows, and nothing else."""
    from handhold.evaluation.collect import tight_box
    from handhold.scene import Scene

    def predict(sample: Sample) -> Scene:
        known = sample.camera.source in ("synthetic", "dataset", "given")
        boxes: list[dict[str, Any]] | None = None
        if "hand_box" in chosen.given:
            boxes = [{"box": tight_box(hand), "side": hand.side} for hand in sample.hands]
            if "object_box" in chosen.given:
                for number, (entry, hand) in enumerate(zip(boxes, sample.hands, strict=True)):
                    held = sample.object if number == 0 and hand.grasping else None
                    entry["object_box"] = None if held is None else held.box
        return estimator(
            sample.image,
            intrinsics=sample.camera.intrinsics if known else None,
            boxes=boxes,
            name=sample.key,
        )

    return predict


COMMANDS = evaluate
