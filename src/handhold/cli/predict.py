"""`handhold predict PHOTO|DIR ... --out DIR`: photos to 3D hands and what they hold."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from handhold.errors import HandholdError, InputError, MissingFileError


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Photos to 3D hands and what they hold.

    Writes for each photo <stem>.png (overlay and side view), <stem>.glb and <stem>.json. Exit code:
    0 all photos done, 1 some failed (each is named), 2 nothing could be done.
    """

    photos: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PHOTO|DIR")]
    """Photos, or folders whose photos are taken (not those of folders within)."""
    out: Path
    """Folder for the results; made when missing."""
    model: str = "unihope-small"
    """A method, see `handhold models`."""
    weights: Path | None = None
    """Weights file of the model instead of those that come with the package; also
    hub:OWNER/REPOSITORY/FILE."""
    detector: str = "default"
    """Weights file of the hand detector, default, or none (then --boxes with sides are needed)."""
    objects_by: str = "default"
    """For methods that see whole photos (handos-...): the method that tells grasp and object of the
    hands found, default (unihope-small), or none. --detector is then its."""
    mano: Path | None = None
    """Folder with MANO's files, for the real hand model instead of the free hand."""
    format: str = "all"
    """all, or some of png,glb,json."""
    intrinsics: str | None = None
    """fx,fy,cx,cy in pixels of the upright photo: makes distances metric."""
    fov: float | None = None
    """Field of view across the longer side, degrees. Without both: EXIF, else 60."""
    boxes: Path | None = None
    """JSON with hand boxes: [{"box": [x0, y0, x1, y1], "side": "left"}] or {"a.jpg": [...]}."""
    device: str = "cpu"
    """cpu, cuda, mps, ..."""
    batch_size: int = 16
    """Photos run together."""
    engine: str = "eager"
    """What runs the network: eager (PyTorch as it is), best, folded, compile, onnx or openvino. All
    but the first take longer for the first photo and less for all others. Methods that see whole
    photos know neither compile nor openvino."""


def collect(photos: Sequence[Path]) -> list[Path]:
    """The files meant by photos and folders. Raises MissingFileError or InputError."""
    from handhold.inference.images import SUFFIXES

    if not photos:
        raise InputError("predict: give at least one photo or folder")
    files: list[Path] = []
    for path in photos:
        if path.is_dir():
            inside = sorted(
                file
                for file in path.iterdir()
                if file.suffix.lower() in SUFFIXES and file.is_file() and file.name[0] != "."
            )
            if not inside:
                raise InputError(f"{path}: holds no photo ({' '.join(sorted(SUFFIXES))})")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise MissingFileError(f"{path}: no such file or folder")
    return list(dict.fromkeys(files))


def run(options: Predict) -> int:
    """Do what the options say; the exit code."""
    from handhold.inference.camera_source import check_fov, parse_intrinsics
    from handhold.inference.writing import parse_formats, plan_names, prepare_folder, write_results

    # waiting threads that spin make prediction ten times slower where other programs compute, too;
    # OpenMP reads this when PyTorch is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # a damaged EXIF block beside a good picture is no news to the user
    warnings.filterwarnings("ignore", module=r"PIL\.")
    formats = parse_formats(options.format)
    intrinsics = None if options.intrinsics is None else parse_intrinsics(options.intrinsics)
    if options.fov is not None:
        check_fov(options.fov)
        if intrinsics is not None:
            raise InputError("predict: give --intrinsics or --fov, not both")
    files = collect(options.photos)
    boxes = None if options.boxes is None else _boxes(options.boxes, files)
    if "png" in formats and any(path.resolve() == options.out.resolve() for path in options.photos):
        raise InputError(
            f"{options.out}: the pictures would be taken for photos the next time; choose an "
            "output folder other than the photos'"
        )
    names = plan_names(files, options.out, formats)
    prepare_folder(options.out)

    from handhold.inference.estimator import Estimator

    estimator = Estimator(
        options.model,
        detector=options.detector,
        weights=options.weights,
        mano=options.mano,
        device=options.device,
        batch_size=options.batch_size,
        engine=options.engine,
        objects=options.objects_by,
    )
    faces = estimator.hand_faces() if {"png", "glb"} & set(formats) else {}
    hands = failed = 0
    outcomes = estimator.predict_many(files, intrinsics=intrinsics, fov=options.fov, boxes=boxes)
    with _progress(len(files)) as advance:
        for name, outcome in zip(names, outcomes, strict=True):
            error: Exception | None = outcome.error
            if outcome.scene is not None and outcome.image is not None:
                try:
                    write_results(options.out, name, outcome.scene, outcome.image, faces, formats)
                    hands += len(outcome.scene.hands)
                except (HandholdError, OSError) as problem:
                    error = problem
            if error is not None:
                failed += 1
            advance(None if error is None else _line(outcome.path, error))
    done = f"{len(files) - failed} of {len(files)} photos done, {hands} hands"
    print(f"{done}; results in {options.out}")
    return 1 if failed else 0


def _line(path: Path, error: Exception) -> str:
    text = str(error)
    return f"handhold: {text}" if path.name in text else f"handhold: {path}: {text}"


def _boxes(path: Path, files: Sequence[Path]) -> dict[str, Any]:
    from handhold.inference.given_boxes import read_boxes

    boxes = read_boxes(path)
    if isinstance(boxes, list):
        if len(files) != 1:
            raise InputError(
                f"{path}: a plain list of boxes serves one photo, found {len(files)}; give an "
                'object {"photo.jpg": [...]}'
            )
        return {str(files[0]): boxes}
    known = {str(file) for file in files} | {file.name for file in files}
    unknown = [name for name in boxes if name not in known]
    if unknown:
        raise InputError(f"{path}: {unknown[0]!r} is none of the photos given")
    return dict(boxes)


class _progress:
    """A bar for several photos on a terminal; error lines go to stderr, above the bar."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.bar: Any = None

    def __enter__(self) -> Any:
        if self.total > 1 and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.bar.start()
            self.task = self.bar.add_task("photos", total=self.total)
        return self.advance

    def advance(self, message: str | None) -> None:
        if self.bar is None:
            if message:
                print(message, file=sys.stderr)
            return
        if message:
            self.bar.console.print(message, markup=False, highlight=False, soft_wrap=True)
        self.bar.advance(self.task)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()


def predict(options: Annotated[Predict, tyro.conf.arg(name="")]) -> int:
    """Photos to 3D hands and what they hold."""
    return run(options)


COMMANDS = predict
