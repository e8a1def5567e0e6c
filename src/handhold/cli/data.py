"""`handhold data check|index|view|export`: the published data sets in their official files."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from handhold.data.dataset import IndexedSet

SETS = (
    "dexycb, ho3d-v2, ho3d-v3, freihand, hint, coco-wholebody, onehand10k, obman, mow, or photos: "
    "photos of your own with a labels.json"
)
SHOWN = 10  # damaged files that `index` and `export` name
Name = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME", help=f"Data set: {SETS}.")
]
Root = Annotated[
    Path,
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="ROOT",
        help="Folder (or archive) of the set: the official files as they were downloaded, unpacked "
        "or in zip and tar files, all or a part of them.",
    ),
]


def check(
    name: Name,
    root: Root,
    split: tuple[str, ...] = (),
    images: Literal["ends", "all", "none"] = "ends",
    out: Path | None = None,
    mano: Path | None = None,
    workers: int | None = None,
) -> int:
    """Say what of a data set is there, missing and damaged, and compare it with the published
    counts.

    Nothing is unpacked or changed: the folder may hold the official tree, a part of it (some
    subjects, sequences or cameras), or its zip and tar files. Every damaged file is named; exit
    code 1 when there is one, else 0.

    handhold data check dexycb DOWNLOADS/dexycb

    Args:
        split: Splits to count, such as s0-train s0-test (default: all there are, with their names).
        images: `ends` reads the first and last bytes of every image, which tell one that is cut
            short or of another size; `all` reads every sample completely, as training does; `none`
            looks at labels only.
        out: Also write the findings, all of them, to this JSON file.
        mano: Folder with the official MANO files, whose parameters the labels are.
        workers: Processes for the labels, threads for the images (default: all cores).
    """
    from contextlib import ExitStack

    from handhold.atomic import write_text
    from handhold.data.check import check_dataset
    from handhold.data.sources import progress_bar

    with ExitStack() as bars:
        found = check_dataset(
            name,
            root,
            splits=split,
            images=images,
            mano=mano,
            workers=workers,
            progress=lambda title: bars.enter_context(progress_bar(f"{title} of {name}")),
        )
    print(found.as_text())
    if out is not None:
        write_text(out, json.dumps(found.to_json(), indent=1) + "\n")
        print(f"written: {out}")
    return 1 if found.problems else 0


def index(name: Name, root: Root, workers: int | None = None, mano: Path | None = None) -> int:
    """Go through a data set's labels once, so that later commands open it at once.

    Other commands do this by themselves when they have to. The index is kept in the cache folder
    (HANDHOLD_HOME), never in ROOT, which may be read-only. It is made again where files have
    changed (size or time; of more than 110,000 label files only this command and `check` look at
    each, otherwise their folders tell), and an interrupted run goes on where it stopped. Exit code
    1 when files are damaged; the first of them are named.

    handhold data index dexycb DOWNLOADS/dexycb --workers 8

    Args:
        workers: Processes (default: all cores).
        mano: Folder with the official MANO files; the index does not depend on it.
    """
    from handhold.data.home import index_folder
    from handhold.data.registry import entry

    start = time.monotonic()
    made: list[bool] = []
    split = "all" if "all" in entry(name).splits else None
    samples = _open(name, root, split, mano=mano, workers=workers, thorough=True, made=made)
    damaged = samples.index.problems
    done = "index made" if made else "the index was there, opened"
    print(
        f"{name}: {len(samples):,} samples, {len(damaged):,} damaged; {done} in "
        f"{time.monotonic() - start:.1f} s ({index_folder(None)})"
    )
    return _left_out(name, root, damaged)


def view(
    name: Name,
    root: Root,
    out: Path,
    split: str | None = None,
    count: int = 24,
    columns: int = 6,
    cell: int = 480,
    mano: Path | None = None,
    workers: int | None = None,
) -> None:
    """Draw samples with all their labels on one sheet, to see at once whether conventions are
    right.

    Evenly spread over the split: joints and bones (hollow joints are hidden), the hand's mesh, its
    box, the box of the object's control points, whether it is held, and the sample's key. Meshes
    that are not the free hand's are drawn as dots; --mano gives MANO's triangles.

    handhold data view dexycb DOWNLOADS/dexycb --out sheet.png

    Args:
        out: Picture to write.
        split: Split to take samples from (default: the one to train on); `handhold data check`
            lists the names and how many samples each has here.
        count: Samples to draw.
        columns: Samples in a row.
        cell: Pixels of a sample's longer side.
        mano: Folder with the official MANO files, whose parameters the labels are.
        workers: Processes for the index, where it has to be made.
    """
    from handhold.data.occlusion import hand_faces
    from handhold.errors import InputError
    from handhold.render.labels import draw_labels
    from handhold.render.overlay import contact_sheet, write_picture

    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise InputError(f"{out}: expected a name that ends in .png or .jpg")
    if min(count, columns, cell) < 1:
        raise InputError("count, columns, cell: expected 1 or more")
    samples = _open(name, root, split, mano=mano, workers=workers)
    if not len(samples):
        raise InputError(f"{name} in {root}: the split {samples.split} holds no samples here")
    count = min(count, len(samples))
    pictures: list[Any] = []
    for number in (i * len(samples) // count for i in range(count)):
        sample = samples[number]
        found = {hand.side: hand_faces(samples, hand) for hand in sample.hands}
        faces = {str(side): mesh for side, mesh in found.items() if mesh is not None}
        scale = max(1, round(cell / max(sample.image.shape[:2])))
        pictures.append(draw_labels(sample, scale=scale, faces=faces, caption=sample.key))
    sheet = contact_sheet(pictures, columns, cell=cell)
    write_picture(out, sheet)
    print(f"{count} of {len(samples):,} samples of {name}/{samples.split} in {out}")


def export(
    name: Name,
    root: Root,
    out: Path,
    split: str | None = None,
    mano: Path | None = None,
    skip_missing: bool = False,
    workers: int | None = None,
) -> int:
    """Write the labels of a split in the canonical convention to one .npz file.

    One row a hand, in the order of the official lists; NaN, or an empty text, where the set has
    nothing. What is damaged is left out and named, and the exit code is 1. Metres in the camera
    frame of OpenCV, pixels, joints wrist first, thumb to little finger, base to tip:

    key, side, object_name (texts); joints (N,21,3), vertices (N,778,3), joints2d (N,21,2),
    hand_box (N,4) as x0 y0 x1 y1, intrinsics (N,3,3), object_pose (N,4,4) object to camera,
    grasping_10mm and grasping_50mm (the papers' rule and the released one; 1, 0), mano_pose
    (N,16,3) axis-angle with the mean pose in it, betas (N,10).

    handhold data export dexycb DOWNLOADS/dexycb --split s0-test --out labels.npz --mano MANO

    Args:
        out: File to write; it appears when it is complete.
        split: Split to write (default: the one to train on); `all` takes everything,
            `handhold data check` lists the others.
        mano: Folder with the official MANO files, whose parameters the labels are. Without it the
            free hand poses them where it can; vertices and poses of others that the files do not
            hold as such, but as parameters of MANO's own mesh and mean pose, are NaN.
        skip_missing: Leave out hands whose image is missing (HInt's from Ego4D) and whole sequences
            whose meta.yml or calibration is damaged (DexYCB), which stop it otherwise.
        workers: Processes for the index, where it has to be made.
    """
    from handhold.data.export import export_labels
    from handhold.data.sources import progress_bar

    samples = _open(name, root, split, mano=mano, workers=workers, lenient=skip_missing)
    with progress_bar(f"labels of {name}/{samples.split}") as progress:
        rows = export_labels(samples, out, progress=progress)
    print(f"{rows:,} hands of {name}/{samples.split} in {out}")
    return _left_out(name, root, samples.index.problems)


def _left_out(name: str, root: Path, damaged: Sequence[object]) -> int:
    """Name what is damaged; the exit code."""
    if not damaged:
        return 0
    print(f"left out, as they are damaged ({len(damaged):,}):", *damaged[:SHOWN], sep="\n  ")
    print(f"`handhold data check {name} {shlex.quote(str(root))}` lists all that is damaged")
    return 1


def _open(
    name: str,
    root: Path,
    split: str | None,
    *,
    mano: Path | None,
    workers: int | None,
    lenient: bool = True,
    thorough: bool = False,
    made: list[bool] | None = None,
) -> IndexedSet:
    """The samples, with a bar while the index is made; `made` gets an entry where it was."""
    from handhold.data.dataset import LENIENT
    from handhold.data.registry import open_dataset
    from handhold.data.sources import progress_bar

    with progress_bar(f"index of {name}") as bar:

        def progress(done: int, total: int) -> None:
            if made is not None and not made:
                made.append(True)
            bar(done, total)

        return open_dataset(
            name,
            root,
            split,
            mano=mano,
            skip=LENIENT if lenient else (),
            thorough=thorough,
            workers=workers,
            progress=progress,
        )


COMMANDS = {"check": check, "index": index, "view": view, "export": export}
