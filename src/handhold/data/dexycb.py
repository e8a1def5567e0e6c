"""DexYCB (Chao et al., CVPR 2021): 10 subjects x 100 sequences x 8 cameras, one hand and one of 20
objects in motion.

The official tree is read in place; a download may lack subjects, sequences and cameras. S1 goes by
the subject and S2 by the camera. S0 and S3 go by a sequence's number among the 100 of its subject:
by the names, where all 100 are there (folders with `meta.yml` suffice), else by the object, as the
sequences 5k to 5k + 4 of every subject grasp the k-th of the 20 objects. That always decides S3;
S0 needs all five of such a group and says so where they are not there.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from handhold.data.dataset import DAMAGED_SEQUENCES, DatasetEntry, IndexedSet, OpenOptions, Record
from handhold.data.dexycb_files import (
    CAMERAS,
    GRASPED,
    GROUP,
    HEIGHT,
    SEQUENCES,
    SUBJECTS,
    WIDTH,
    frames_of,
    of_whole_sequence,
    read_yaml,
    scan_of,
    sequences_of,
)  # fmt: skip
from handhold.data.files import Files, read_npz
from handhold.data.index import Columns, Index
from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.geometry.boxes import box_from_points
from handhold.hand.convention import dexycb_parameters
from handhold.objects.catalogue import info
from handhold.scene import Camera, Hand, RigidObject, Sample

TOPS = ("20??????-subject-??", "calibration", "models")
HAND_VALUE = 255  # of the segmentation
CLOSE = 0.05  # metres from a joint to the object: ArtiBoost's rule of "close interaction"
SETUPS = ("s0", "s1", "s2", "s3")
PARTS = ("train", "val", "test")
KINDS = ("", "-right", "-close")
SPLITS = tuple(f"{s}-{p}{k}" for s in SETUPS for p in PARTS for k in KINDS) + ("all",)
PUBLISHED = {
    "s0-train": (
        401_507,
        "UniHOPE, Table I (248,297 with the object moved); 406,888 before the box rule",
    ),
    "s0-test": (78_768, "UniHOPE, Table I (47,920 moved); HandBooster"),
    "s1-train": (351_943, "UniHOPE, Table I (213,168 moved)"),
    "s1-test": (104_128, "UniHOPE, Table I (67,216 moved)"),
    "s3-train": (376_374, "UniHOPE, Table I (231,323 moved)"),
    "s3-test": (76_360, "UniHOPE, Table I (46,448 moved)"),
}


def chosen(
    setup: str, part: str, place: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows a split has, and of which that cannot be told. place: columns subject 0..9, number
    0..99 (of the sequence in its subject; -1: not known), camera 0..7, thing (class id)."""
    subject, number, camera = (place[k].astype(int) for k in ("subject", "number", "camera"))
    if setup == "s0":
        last = number % 5 == 4
        early = np.isin(subject, (0, 1))
        asked = {"train": early | ~early, "val": early, "test": ~early}[part]
        known = number >= 0
        return asked & known & (last != (part == "train")), asked & ~known
    if setup == "s1":
        subjects = {"train": (0, 1, 2, 3, 4, 5, 9), "val": (6,), "test": (7, 8)}
        inside = np.isin(subject, subjects[part])
    elif setup == "s2":
        inside = np.isin(camera, {"train": range(6), "val": (6,), "test": (7,)}[part])
    else:
        block = np.where(number >= 0, number // GROUP, np.searchsorted(GRASPED, place["thing"]))
        val, test = np.isin(block, (3, 19)), np.isin(block, (7, 11, 15))
        inside = {"train": ~val & ~test, "val": val, "test": test}[part]
    return inside, np.zeros_like(inside)


def index_dexycb(files: Files, options: OpenOptions) -> Index:
    """What is known about every frame that is there."""
    return options.index(files, scan_of(files, options))


def select_dexycb(files: Files, index: Index, split: str, options: OpenOptions) -> DexYCB:
    """One split: `s0-train` ... `s3-test`, each also `-right` (right hands alone) and `-close`
    (right hands within 5 cm of the object), or `all`: every labelled frame.

    Training splits leave out hands without a box, as the published counts do. Raises InputError
    where too many sequences are missing to tell which ones the split has; FileFormatError that
    names all sequences that cannot be read (a damaged meta.yml or calibration) unless `skip` has
    "damaged_sequences"; what reading raises.
    """
    damaged = [problem for problem in index.problems if of_whole_sequence(problem)]
    if damaged and DAMAGED_SEQUENCES not in options.skip:
        told = "; ".join(str(problem) for problem in damaged)
        raise FileFormatError(
            f"{told}. dexycb/{split}?skip-damaged:{files.root} (`data export`: --skip-missing) "
            "goes on without these sequences"
        )
    return DexYCB("dexycb", split, files, index, _rows(files, index, split), options)


def _rows(files: Files, index: Index, split: str) -> NDArray[np.int64]:
    column = index.columns
    if not len(index):
        return np.zeros(0, np.int64)
    keep = np.asarray(column["labelled"])
    if split != "all":
        setup, part, *kind = split.split("-")
        inside, unknown = chosen(setup, part, column)
        if (unknown & keep).any():
            raise InputError(_untold(files, column, int(np.flatnonzero(unknown & keep)[0]), setup))
        keep = keep & inside
        if part == "train":
            keep = keep & column["boxed"]
        if kind:
            keep = keep & (column["left"] == 0)
        if kind == ["close"]:
            gap = column["gap"]
            if np.isnan(gap[keep]).any():
                raise MissingFileError(
                    f"{files.place('models')}: the split {split} needs the objects' points.xyz"
                )
            keep = keep & (gap <= CLOSE)
    return np.flatnonzero(keep)


def _untold(files: Files, column: Columns, row: int, setup: str) -> str:
    """What is missing to say which split of a setup a row belongs to."""
    subject = SUBJECTS[int(column["subject"][row])]
    folder = f"{subject}/{bytes(column['sequence'][row]).decode()}"
    thing = info(int(column["thing"][row])).name
    return (
        f"{files.place(folder)}: {setup} goes by the sequence's place among the {SEQUENCES} of "
        f"{subject}, of which {len(sequences_of(files, subject))} are here. It can be told where "
        f"all {SEQUENCES} are, or all {GROUP} that grasp {thing}: add the folders of the missing "
        "ones (their meta.yml alone suffices). The splits s1, s2, s3 and all do not need it"
    )


class DexYCB(IndexedSet):
    """The samples of one split. Record.extra: `depth`, `labels` (files), `class` (the object's
    value in the segmentation), `sequence_number` (in its subject; None: not known),
    `is_bop_target`."""

    size = (WIDTH, HEIGHT)

    def image_name(self, number: int) -> str:
        return "{}/color_{:06d}.jpg".format(*self._place(number))

    def _place(self, number: int) -> tuple[str, int]:
        """Folder of the camera, and the frame."""
        place, column = int(self.rows[number]), self.index.columns
        subject, camera = (int(column[name][place]) for name in ("subject", "camera"))
        sequence = bytes(column["sequence"][place]).decode()
        return f"{SUBJECTS[subject]}/{sequence}/{CAMERAS[camera]}", int(column["frame"][place])

    def record(self, number: int) -> Record:
        row, (folder, frame) = self.row(number), self._place(number)
        side = "left" if row["left"] else "right"
        fx, fy, cx, cy = row["intrinsics"]
        matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)
        view = Camera(intrinsics=matrix, width=WIDTH, height=HEIGHT, source="dataset")
        joints, joints2d = np.array(row["joints"]), np.array(row["joints2d"])
        known: dict[str, Any] = {}
        model = self.hand_model(side)
        pose, translation = dexycb_parameters(
            np.array(row["pose_m"], np.float64),
            model.hands_components.double().numpy(),
            model.hands_mean.double().numpy(),
        )
        betas = np.array(row["betas"], np.float64)
        with torch.no_grad():
            posed = model(
                torch.from_numpy(pose), torch.from_numpy(betas), torch.from_numpy(translation)
            )
        if self.fits(model, posed.joints.numpy(), joints):
            known = {
                "vertices": posed.vertices.numpy().astype(np.float32),
                "pose": pose,
                "betas": betas,
                "translation": translation,
            }
        grasps = [None if row[name] < 0 else bool(row[name]) for name in ("grasp10", "grasp50")]
        hand = Hand(
            side=side,
            box=box_from_points(joints2d),
            joints2d=joints2d,
            joints2d_valid=np.ones(21, bool),
            joints=joints,
            grasping=grasps[1],
            **known,
        )
        return Record(
            key=f"{folder}/{frame:06d}",
            image=f"{folder}/color_{frame:06d}.jpg",
            camera=view,
            hands=(hand,),
            object=self._object(row, view, held=grasps[1]),
            grasping_10mm=grasps[0],
            grasping_50mm=grasps[1],
            exported={"betas": betas},
            extra={
                "depth": f"{folder}/aligned_depth_to_color_{frame:06d}.png",
                "labels": f"{folder}/labels_{frame:06d}.npz",
                "class": int(row["thing"]),
                "sequence_number": None if row["number"] < 0 else int(row["number"]),
                "is_bop_target": frame % 4 == 0,
            },
        )

    def complete(self, sample: Sample, record: Record, number: int) -> Sample:
        """Adds masks (visible pixels) and depth, unless `skip` names them."""
        added: dict[str, Any] = {}
        if not {"hand_mask", "object_mask"} <= self.skip:
            name = record.extra["labels"]
            labels = read_npz(self.files.read(name), self.files.place(name), ("seg",))["seg"]
            if labels.shape != (HEIGHT, WIDTH):
                raise FileFormatError(f"{self.files.place(name)}: seg: found {labels.shape}")
            added = {
                "hand_mask": labels == HAND_VALUE,
                "object_mask": labels == record.extra["class"],
            }
        if "depth" not in self.skip and self.files.has(record.extra["depth"]):
            added["depth"] = self.files.raw_image(record.extra["depth"]).astype(np.float32) / 1000
        added = {name: value for name, value in added.items() if name not in self.skip}
        return dataclasses.replace(sample, **added)

    def _object(
        self, row: dict[str, Any], view: Camera, *, held: bool | None
    ) -> RigidObject | None:
        pose = np.array(row["object_pose"], np.float64)
        if not pose.any():
            return None
        thing = info(int(row["thing"]))
        points = self.object_points.of(thing.name)
        placed = points @ pose[:, :3].T + pose[:, 3]
        ahead = placed[:, 2].min() > 1e-3
        return RigidObject(
            name=thing.name,
            rotation=pose[:, :3],
            translation=pose[:, 3],
            box=box_from_points(view.project(placed)) if ahead else None,
            control_points=points,
            held=held,
        )


def _frames(files: Files, folder: str) -> int | None:
    """How many frames a sequence has; None where its meta.yml is damaged. One that has images is
    not asked."""
    if all(files.list(f"{folder}/{camera}") for camera in CAMERAS):
        return None
    try:
        return frames_of(read_yaml(files, f"{folder}/meta.yml"), folder)
    except FileFormatError:
        return None


def missing(files: Files) -> list[str]:
    """What of the complete download is not there."""
    told: list[str] = []
    for subject in SUBJECTS:
        sequences = sequences_of(files, subject)
        if not sequences:
            told.append(f"subject {subject}")
            continue
        if len(sequences) != SEQUENCES:
            told.append(f"{SEQUENCES - len(sequences)} sequences of {subject}")
        empty = {name for name in sequences if _frames(files, f"{subject}/{name}") == 0}
        for camera in CAMERAS:
            lacking = [x for x in sequences if not files.list(f"{subject}/{x}/{camera}")]
            if count := sum(name not in empty for name in lacking):
                told.append(f"camera {camera} in {count} sequences of {subject}")
    if not files.list("models"):
        told.append("models (the objects; boxes of the catalogue stand in)")
    return told


ENTRY = DatasetEntry(
    title="DexYCB (Chao et al., CVPR 2021)",
    licence="CC BY-NC 4.0",
    tops=TOPS,
    splits=SPLITS,
    train="s0-train",
    test="s0-test",
    index=index_dexycb,
    select=select_dexycb,
    labels=("side", "pose", "object", "grasp"),
    published=PUBLISHED,
    missing=missing,
)
