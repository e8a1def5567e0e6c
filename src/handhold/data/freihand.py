"""FreiHAND (Zimmermann et al., ICCV 2019): 224x224 photos of right hands, each training photo in
four versions that differ in the background.

The official tree is read in place: image k of the training belongs to entry k mod N of its label
files, with N their length (32,560 in the whole set). A download may lack versions, or the training
or the evaluation. The evaluation's joints and vertices are read where their files are there.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from handhold.data.dataset import DatasetEntry, IndexedSet, OpenOptions, Record
from handhold.data.files import Files
from handhold.data.index import Index, Part, Problem, Scan, chosen_rows
from handhold.data.json_rows import read_numbers, read_rows
from handhold.data.sanity import LARGEST_HAND
from handhold.errors import FileFormatError, MissingFileError
from handhold.geometry.boxes import box_from_points
from handhold.hand.convention import FREIHAND_ROOT, freihand_parameters, mean_to_flat
from handhold.scene import Camera, Hand, Sample

TOPS = ("training", "evaluation", "training_*.json", "evaluation_*.json")
SIZE = 224
FOLDERS = ("training", "evaluation")
SPLITS = (*FOLDERS, "all")
VERSIONS = ("gs", "hom", "sample", "auto")  # of the training, in the order of the images' numbers
MASK_FROM = 128  # the masks are JPEGs
LABELS = ("K", "xyz", "mano", "verts", "scale")
SHAPES = {"K": (3, 3), "xyz": (21, 3), "mano": (1, 61), "verts": (778, 3)}
PUBLISHED = {
    "training": (130_240, "32,560 photos in 4 versions; UniHOPE, Table I"),
    "evaluation": (3_960, "the server's list; UniHOPE, Table I"),
}
_IMAGE = re.compile(r"(\d{8})\.jpg")


def index_freihand(files: Files, options: OpenOptions) -> Index:
    """What is known about every entry of the label files that are there. A part whose files cannot
    be read has no row, but a problem: it does not stand in the way of the other."""
    readable = [part for part in _there(files) if all(files.has(name) for name in _needed(part))]
    labels = [f"{part}_{label}.json" for part in readable for label in LABELS]
    scan = Scan(
        name="freihand",
        version=2,
        parts=tuple(readable),
        watched=(*labels, *(f"{part}/rgb" for part in readable)),
        read=read_part,
    )
    return options.index(files, scan)


def select_freihand(files: Files, index: Index, split: str, options: OpenOptions) -> FreiHAND:
    """One split in the order of the images' numbers: `training` (all versions), `evaluation`, or
    `all`: one after the other.

    Raises MissingFileError where a split's labels or images are
    missing, FileFormatError where label files and images do not belong together.
    """
    there = _there(files)
    wanted = there if split == "all" and there else [split if split in FOLDERS else FOLDERS[0]]
    for part in wanted:
        for name in _needed(part):
            if not files.has(name):
                raise MissingFileError(f"{files.place(name)}: there is no such file")
        if not len(_numbers(files, part)):
            raise MissingFileError(f"{files.place(f'{part}/rgb')}: no images there")
    own = tuple(problem for problem in index.problems if problem.file.startswith(tuple(wanted)))
    index = dataclasses.replace(index, problems=own)  # those of the other part are none of ours
    rows, versions = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for part in wanted:
        own = chosen_rows(index, "part", [FOLDERS.index(part)])
        damage = [problem for problem in index.problems if problem.file.startswith(part)]
        if damage and not len(own):
            raise FileFormatError(damage[0].what)
        for version in range(_versions(part)):
            usable = own[index.columns["images"][own, version]]
            rows.append(usable)
            versions.append(np.full(len(usable), version))
    return FreiHAND(
        "freihand", split, files, index, np.concatenate(rows), options,
        versions=np.concatenate(versions),
    )  # fmt: skip


class FreiHAND(IndexedSet):
    """The samples of one split. Record.extra: `entry` of the label files, `version` (of VERSIONS;
    None in the evaluation), `scale`: metres between the joints 9 and 10 as the file says it.

    versions: which version of its entry each sample is."""

    size = (SIZE, SIZE)

    def __init__(self, *args: Any, versions: NDArray[np.int64], **options: Any) -> None:
        super().__init__(*args, **options)
        self.versions = versions

    def _place(self, number: int) -> tuple[str, int]:
        """Part, and the image's number."""
        place, column = int(self.rows[number]), self.index.columns
        own = int(column["entries"][place]) * int(self.versions[number])
        return FOLDERS[int(column["part"][place])], own + int(column["entry"][place])

    def image_name(self, number: int) -> str:
        """The image file of a sample."""
        part, image = self._place(number)
        return f"{part}/rgb/{image:08d}.jpg"

    def record(self, number: int) -> Record:
        row = self.row(number)
        part, image = self._place(number)
        view = Camera(
            intrinsics=np.array(row["K"], np.float64), width=SIZE, height=SIZE, source="dataset"
        )
        known: dict[str, Any] = {}
        exported: dict[str, Any] = {}
        joints = np.array(row["xyz"])
        if np.isfinite(joints).all():
            joints2d = view.project(joints)
            known = {
                "joints": joints,
                "joints2d": joints2d,
                "joints2d_valid": np.ones(21, bool),
                "box": box_from_points(joints2d),
            } | self._mesh(row, joints, exported)
        version = VERSIONS[int(self.versions[number])] if part == FOLDERS[0] else None
        return Record(
            key=f"{part}/{image:08d}",
            image=f"{part}/rgb/{image:08d}.jpg",
            camera=view,
            hands=(Hand(side="right", **known),),
            exported=exported,
            extra={
                "entry": int(row["entry"]),
                "version": version,
                "scale": float(row["scale"]) if np.isfinite(row["scale"]) else None,
            },
        )

    def _mesh(
        self, row: dict[str, Any], joints: NDArray[Any], exported: dict[str, Any]
    ) -> dict[str, Any]:
        """Vertices, pose, betas and translation, as far as they are there and fit the hand model;
        what does not, but is known without it, goes into `exported`.

        The set's own root is joint 9; the translation is made from where the model has it."""
        known: dict[str, Any] = {}
        values = np.array(row["mano"], np.float64)[0]
        if np.isfinite(values).all():
            model = self.hand_model("right")
            given = freihand_parameters(values, np.array(row["K"], np.float64))
            exported["betas"] = given.betas
            pose = mean_to_flat(given.pose, model.hands_mean.double().numpy())
            with torch.no_grad():
                posed = model(torch.from_numpy(pose), torch.from_numpy(given.betas))
            shift = given.root - posed.joints[FREIHAND_ROOT].double().numpy()
            if self.fits(model, posed.joints.numpy() + shift, joints):
                known = {
                    "vertices": (posed.vertices.numpy() + shift).astype(np.float32),
                    "pose": pose,
                    "betas": given.betas,
                    "translation": shift,
                }
        vertices = np.array(row["verts"])
        if np.isfinite(vertices).all():
            fits = self.fits_mesh(vertices, joints)
            (known if fits else exported)["vertices"] = vertices
        return known

    def complete(self, sample: Sample, record: Record, number: int) -> Sample:
        """Adds the hand's mask to the first version, unless `skip` names it."""
        name = record.image.replace("/rgb/", "/mask/")
        if record.extra["version"] != VERSIONS[0] or "hand_mask" in self.skip:
            return sample
        if not self.files.has(name):
            return sample
        mask = self.files.image(name)[..., 0] >= MASK_FROM
        if mask.shape != (SIZE, SIZE):
            raise FileFormatError(
                f"{self.files.place(name)}: expected {SIZE}x{SIZE} pixels, found {mask.shape}"
            )
        return dataclasses.replace(sample, hand_mask=mask)


# ----------------------------------------------------------------------------------- reading


def _there(files: Files) -> list[str]:
    """The parts that have labels."""
    return [part for part in FOLDERS if files.has(f"{part}_K.json")]


def _needed(part: str) -> tuple[str, ...]:
    """The label files without which nothing is known."""
    return tuple(f"{part}_{label}.json" for label in ("K", "xyz")[: 2 if part == "training" else 1])


def _versions(part: str) -> int:
    return len(VERSIONS) if part == "training" else 1


def read_part(files: Files, part: str) -> Part:
    """All entries of the training or the evaluation; one Problem where a file cannot be read."""
    try:
        return _read_part(files, part)
    except FileFormatError as error:
        return Part(columns={}, problems=[Problem(file=f"{part}_K.json", what=str(error))])


def _read_part(files: Files, part: str) -> Part:
    """What is missing as a file is NaN; an entry that is damaged in one of the files is left out
    and named."""
    columns: dict[str, NDArray[Any]] = {}
    problems: list[Problem] = []
    damaged: set[int] = set()
    for label in LABELS:
        name = f"{part}_{label}.json"
        if not files.has(name):
            continue
        kind = np.float64 if label == "K" else np.float32
        if label == "scale":
            columns[label], wrong = read_numbers(files, name)
        else:
            columns[label], wrong = read_rows(files, name, SHAPES[label], kind)
        count, found = len(columns["K"]), len(columns[label])
        if found != count:
            raise FileFormatError(
                f"{files.place(name)}: expected {count} entries, as in {part}_K.json, found {found}"
            )
        wrong |= _nonsense(label, columns[label], files.place(name), set(wrong))
        problems += [Problem(file=name, what=wrong[entry]) for entry in sorted(wrong)]
        damaged |= set(wrong)
    count = len(columns["K"])
    for label, shape in (*SHAPES.items(), ("scale", ())):
        columns.setdefault(label, np.full((count, *shape), np.nan, np.float32))
    columns["verts"][(columns["verts"] == 0).all(axis=(1, 2))] = np.nan  # a stand-in for no mesh
    columns["part"] = np.full(count, FOLDERS.index(part), np.uint8)
    columns["entry"], columns["entries"] = np.arange(count), np.full(count, count)
    columns["images"], missing_images = _images(files, part, count)
    keep = np.array([entry not in damaged for entry in range(count)], bool)
    return Part(
        columns={name: column[keep] for name, column in columns.items()},
        problems=problems + missing_images,
    )


def _nonsense(label: str, values: NDArray[Any], where: str, known: set[int]) -> dict[int, str]:
    """Entries of numbers that cannot be: entry -> words."""
    if label == "K":
        fine = (values[:, 0, 0] > 0) & (values[:, 1, 1] > 0) & (values[:, 2] == (0, 0, 1)).all(1)
        told = "expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]"
    elif label == "xyz":
        fine = (values[:, :, 2] > 0).all(1) & (np.ptp(values, axis=1).max(1) <= LARGEST_HAND)
        told = "expected joints before the camera, z > 0, of a hand below a metre"
    elif label == "mano":
        fine, told = values[:, 0, 60] > 0, "expected a positive scale as the last number"
    else:
        return {}
    wrong = (int(entry) for entry in np.flatnonzero(~fine))
    return {entry: f"{where}[{entry}]: {told}" for entry in wrong if entry not in known}


def _numbers(files: Files, part: str) -> NDArray[np.int64]:
    """The numbers of the images."""
    matches = (_IMAGE.fullmatch(name) for name in files.list(f"{part}/rgb"))
    return np.array([int(match[1]) for match in matches if match], np.int64)


def _images(files: Files, part: str, count: int) -> tuple[NDArray[np.bool_], list[Problem]]:
    """Which images there are (entries, 4), and those that lack of a version that is there.

    FileFormatError for more images than the labels have: then they would be paired wrongly."""
    versions, numbers = _versions(part), _numbers(files, part)
    if len(numbers) and numbers.max() >= versions * count:
        raise FileFormatError(
            f"{files.place(f'{part}/rgb/{numbers.max():08d}.jpg')}: expected numbers below "
            f"{versions * count}: {part}_K.json has {count} entries"
            + (f", each in {versions} versions" if versions > 1 else "")
        )
    there = np.zeros((len(VERSIONS), count), bool)
    there.reshape(-1)[numbers] = True
    problems: list[Problem] = []
    for version in np.flatnonzero(there.any(1)):
        for entry in np.flatnonzero(~there[version]):
            name = f"{part}/rgb/{version * count + entry:08d}.jpg"
            problems.append(Problem(file=name, what=f"{files.place(name)}: there is no such file"))
    return there.T.copy(), problems


def missing(files: Files) -> list[str]:
    """What of the complete download is not there."""
    told: list[str] = []
    for part in FOLDERS:
        lacking = [f"{part}_{label}.json" for label in LABELS]
        if part == "evaluation":
            lacking.remove("evaluation_mano.json")  # not in every release
        told += [name for name in lacking if not files.has(name)]
        if not len(_numbers(files, part)):
            told.append(f"{part}/rgb")
            continue
        if part == "training" and files.has("training_K.json"):
            try:
                count = len(read_rows(files, "training_K.json", (3, 3))[0])
            except FileFormatError:
                continue  # it is named as damaged; which versions there are cannot be told
            there = set((_numbers(files, part) // max(count, 1)).tolist())
            lacking = [name for k, name in enumerate(VERSIONS) if k not in there]
            told += [f"training/rgb: version {name}" for name in lacking]
    if files.list("training/rgb") and not files.list("training/mask"):
        told.append("training/mask")
    return told


ENTRY = DatasetEntry(
    title="FreiHAND (Zimmermann et al., ICCV 2019)",
    licence="for research only; see the download's page",
    tops=TOPS,
    splits=SPLITS,
    train="training",
    test="evaluation",
    index=index_freihand,
    select=select_freihand,
    labels=("side", "pose"),
    published=PUBLISHED,
    missing=missing,
)
