"""`handhold eval`: a model measured on synthetic scenes, labelled photos or published sets."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from handhold.data.dataset import IndexedSet
    from handhold.data.sources import SetSpec
    from handhold.evaluation.collect import Predict
    from handhold.evaluation.protocol import Protocol
    from handhold.inference.estimator import Estimator
    from handhold.scene import Camera, FloatArray, Hand, Sample

HELD_OUT_SERIES = 1_000_003
COUNT = 500
VIDEOS = ("dexycb", "ho3d-v2", "ho3d-v3")  # sets whose keys end in the frame's number
UNUSED = ("hand_mask", "hand_mask_amodal", "object_mask", "depth")  # by the measures


def evaluate(
    model: Annotated[str, tyro.conf.Positional] = "unihope-small",
    data: str = "synthetic",
    protocol: str = "deployable",
    out: Path | None = None,
    count: int | None = None,
    part: Literal["held_out", "train", "all"] = "held_out",
    weights: Path | None = None,
    detector: str = "default",
    objects_by: str = "default",
    mano: Path | None = None,
    device: str = "cpu",
    worst: int = 12,
    workers: int = 2,
) -> None:
    """Measure a model and print the report; with --out also JSON and plots.

    Synthetic scenes and shards give 3D errors of hand and object; photos give detection, sides and
    PCK against their 2D labels; published sets give what their labels allow. The protocol says what
    the method is told besides the image; those of a published table take its data set only, and
    `handhold protocols` explains each.

    handhold eval unihope-small --data synthetic --out report

    handhold eval hflnet --weights FILE --data dexycb:DOWNLOADS/dexycb --mano MANO
    --protocol dexycb-s0/hflnet

    PROTOCOLS

    Args:
        model: Method, as listed by `handhold models`.
        data: `synthetic` (a series that no training uses), `shards:FOLDER`, `photos:FOLDER` (a
            folder with labels.json) or `NAME/SPLIT:FOLDER` (a published set in its official files,
            as `handhold data check` reads it; without a split its test split). Damaged samples of
            it stop the evaluation, `NAME/SPLIT?skip-damaged:FOLDER` goes on without them;
            `NAME/SPLIT?occlusion:FOLDER` renders how much of each hand is seen, for the errors by
            occlusion, with the objects' meshes of the set or of `?objects=MESHES`;
            `onehand10k?side=right:FOLDER` takes every hand for a right one, which that set does not
            say.
        protocol: One of those listed above. A hand outside the photo counts as missed.
        out: Folder for report.json, report.txt, report.png and worst.png.
        count: Samples at most, evenly spread (default: all of a published split, else 500).
        part: Photos that training holds out, those it uses, or all.
        weights: Weights file instead of the one that ships with the package; also
            hub:OWNER/REPOSITORY/FILE.
        detector: Weights file of another hand detector.
        objects_by: For methods that see whole photos: the method that tells grasp and object of the
            hands found, default (unihope-small), or none.
        mano: Folder with the official MANO files.
        device: cpu, cuda, cuda:1, mps.
        worst: Samples on worst.png: of the hands that were found, those with the largest errors.
        workers: Threads for the measures.
    """
    from rich.console import Console
    from rich.progress import track

    from handhold.errors import InputError
    from handhold.evaluation.collect import collect
    from handhold.evaluation.protocols import protocol as named
    from handhold.evaluation.report import as_text, build_report, write_report
    from handhold.evaluation.worst import Worst
    from handhold.inference.estimator import Estimator
    from handhold.synthesis.props import named_points

    chosen = named(protocol)
    source = _source(data, chosen)
    published = None if source is None else source.open("test", mano=mano, skip=UNUSED)
    if published is None:
        samples = _samples(data, COUNT if count is None else count, part, mano)
    else:
        _check_truth(published, chosen)
        samples = _at_most(published, count)
    if not len(samples):
        raise InputError(f"--data {data}: nothing to measure on in it{_elsewhere(published)}")
    estimator = Estimator(
        model,
        detector=detector,
        weights=weights,
        mano=mano,
        device=device,
        objects=objects_by,
    )
    tolerant = source is not None and source.skip_damaged
    console = Console(stderr=True)  # the protocol is the first line of what is printed
    each = track(_each(samples, tolerant), "predicting", len(samples), console=console)
    kept = Worst(worst if out is not None else 0)
    run = collect(
        each,
        _predictor(estimator, chosen),
        true_box=_true_box(chosen),
        least_iou=chosen.least_iou,
        by_score=chosen.match == "score",
        all_objects=chosen.objects is not None and chosen.objects.samples == "all",
        watch=kept.watch,
    )
    title = f"{estimator.model.name} on {run.samples} samples of {data}"
    if data.startswith("photos:"):
        title += f" ({part.replace('_', ' ')})"
    meshes = named_points()
    if published is not None:
        title = f"{estimator.model.name} on {_described(published, run.samples)}"
        meshes |= published.object_points.of_all(meshes)
    video = published is not None and published.name in VIDEOS
    report = build_report(
        run, title=title, protocol=chosen, meshes=meshes, video=video, workers=workers
    )
    print(as_text(report))
    if out is not None:
        files = write_report(report, out)
        if kept.keys:
            files.append(kept.write(out / "worst.png", estimator.hand_faces()))
        for path in files:
            print(f"written: {path}")


def _source(data: str, chosen: Protocol) -> SetSpec | None:
    """The published set that a text names, if any; its split is the protocol's where the text says
    none. Raises InputError where the protocol is for other data."""
    from handhold.data.sources import SetSpec

    source = SetSpec.parse(data)
    if source is None:
        chosen.check_data(data.partition(":")[0], "")
        return None
    if source.split is None:
        source = replace(source, split=chosen.split_of(source.name))
    chosen.check_data(source.name, source.chosen_split("test"))
    return source


def _check_truth(found: IndexedSet, chosen: Protocol) -> None:
    """Raise InputError where a protocol's table compares joints that the folder does not hold."""
    from handhold.errors import InputError

    asked = any(column.startswith("hand: ") for column in chosen.columns)
    if not asked or not len(found) or found.record(0).hands[0].joints is not None:
        return
    told = ""
    if found.name.startswith("ho3d") or found.name == "freihand":
        told = (
            " (evaluation_xyz.json and evaluation_verts.json, published apart); `handhold submit "
            f"{found.name}` writes the file that the server takes"
        )
    raise InputError(
        f"protocol {chosen.name}: {found.name}/{found.split}: the true joints are not there{told}"
    )


def _elsewhere(found: IndexedSet | None) -> str:
    """Where a set's samples are, if none is in the split that was asked for."""
    if found is None or not len(found.index):
        return ""
    told = f"; of {found.name}, {len(found.index):,} labelled samples are there, none of "
    return f"{told}{found.split} (`handhold data check` counts them by split)"


class _Samples(typing.Protocol):
    """Shards, photos, drawn scenes: all that has a length and gives samples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Sample: ...


def _each(samples: _Samples, tolerant: bool) -> Iterator[Sample]:
    """All of them; tolerant: without those that turn out to be damaged."""
    from handhold.errors import FileFormatError, MissingFileError

    for number in range(len(samples)):
        try:
            yield samples[number]
        except (FileFormatError, MissingFileError):
            if not tolerant:
                raise


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
    from handhold.data.sources import FORM
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
        raise InputError(
            f"data: found {data!r}, expected synthetic, shards:FOLDER, photos:FOLDER or {FORM}"
        )
    return _at_most(whole, count)


def _at_most(whole: _Samples, count: int | None) -> _Samples:
    return whole if count is None or len(whole) <= count else _Head(whole, count)


def _described(found: IndexedSet, used: int) -> str:
    """Which samples of a published split a figure stands on."""
    from handhold.data.registry import entry

    told = [f"{used:,} samples of {found.name}/{found.split}"]
    if used < len(found):
        told.append(f"of {len(found):,} there")
    published = entry(found.name).published.get(found.split)
    if published is not None and published[0] != used:
        told.append(f"{published[0]:,} published")
    if found.assumed_side is not None:
        told.append(f"every hand taken for a {found.assumed_side} one")
    if damaged := len(found.index.problems):
        told.append(f"{damaged:,} of the whole set damaged and left out")
    return ", ".join(told)


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
    from handhold.scene import Scene

    true_box = _true_box(chosen)

    def predict(sample: Sample) -> Scene:
        known = sample.camera.source in ("synthetic", "dataset", "given")
        boxes: list[dict[str, Any]] | None = None
        if "hand_box" in chosen.given:
            boxes = []
            for number, hand in enumerate(sample.hands):
                entry: dict[str, Any] = {"box": true_box(hand), "side": hand.side}
                near = sample.object if number == 0 else None
                if "object_box" in chosen.given:
                    told = hand.grasping or "grasping" not in chosen.given
                    entry["object_box"] = near.box if near is not None and told else None
                if "object_name" in chosen.given and near is not None:
                    entry["object_name"] = near.name
                if "wrist" in chosen.given and known and hand.joints is not None:
                    entry["wrist"] = hand.joints[0]
                if _in_photo(entry["box"], sample.camera):  # else nothing can be seen: missed
                    boxes.append(entry)
        return estimator(
            sample.image,
            intrinsics=sample.camera.intrinsics if known else None,
            boxes=boxes,
            name=sample.key,
        )

    return predict


def _true_box(chosen: Protocol) -> Callable[[Hand], FloatArray]:
    from handhold.evaluation.collect import labelled_box, tight_box

    return labelled_box if chosen.box == "label" else tight_box


def _in_photo(box: FloatArray, camera: Camera) -> bool:
    low, high, end = box[:2], box[2:], (camera.width - 1, camera.height - 1)
    return bool((low < high).all() and (high > 0).all() and (low < end).all())


def _list_protocols() -> str:
    from handhold.evaluation.protocols import PROTOCOLS

    return "\n\n".join(f"    {name}: {entry.summary()}." for name, entry in PROTOCOLS.items())


evaluate.__doc__ = (evaluate.__doc__ or "").replace("PROTOCOLS", _list_protocols().lstrip(), 1)
COMMANDS = evaluate
