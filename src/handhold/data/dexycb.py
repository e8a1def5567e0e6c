"""DexYCB (Chao et al., CVPR 2021): 10 subjects x 100 sequences x 8 cameras, one hand and one of 20
objects in motion.

The official tree is read in place. A download may lack subjects and cameras; of a subject that is
there all 100 sequences are needed (folders with `meta.yml` suffice), as their numbers decide the
splits. Without them only the split "all" can be read.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from handhold.data.dataset import DatasetEntry, IndexedSet, OpenOptions, Record
from handhold.data.files import Files, read_npz
from handhold.data.index import Index, Part, Problem, Scan, columns_of, if_few
from handhold.data.labels import GRASP_METRES, is_grasped
from handhold.data.object_points import ObjectPoints
from handhold.errors import FileFormatError, HandholdError, InputError, MissingFileError
from handhold.fields import checked, field, mapping
from handhold.geometry.boxes import box_from_points
from handhold.geometry.crop import sanitise_xywh
from handhold.hand.convention import dexycb_parameters
from handhold.objects.catalogue import info
from handhold.scene import Camera, Hand, RigidObject, Sample

SUBJECTS = (
    "20200709-subject-01", "20200813-subject-02", "20200820-subject-03", "20200903-subject-04",
    "20200908-subject-05", "20200918-subject-06", "20200928-subject-07", "20201002-subject-08",
    "20201015-subject-09", "20201022-subject-10",
)  # fmt: skip
CAMERAS = (
    "836212060125", "839512060362", "840412060917", "841412060263", "932122060857",
    "932122060861", "932122061900", "932122062010",
)  # fmt: skip
TOPS = ("20??????-subject-??", "calibration", "models")
WIDTH, HEIGHT = 640, 480
SEQUENCES = 100
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


def chosen(setup: str, part: str, place: dict[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Which rows a split has. place: columns subject 0..9, number 0..99 (of the sequence in its
    subject), camera 0..7."""
    subject, number, camera = (place[k].astype(int) for k in ("subject", "number", "camera"))
    if setup == "s0":
        last = number % 5 == 4
        early = np.isin(subject, (0, 1))
        return {"train": ~last, "val": last & early, "test": last & ~early}[part]
    if setup == "s1":
        return np.isin(subject, {"train": (0, 1, 2, 3, 4, 5, 9), "val": (6,), "test": (7, 8)}[part])
    if setup == "s2":
        return np.isin(camera, {"train": range(6), "val": (6,), "test": (7,)}[part])
    thing = number // 5
    if part == "train":
        return ~np.isin(thing, (3, 7, 11, 15, 19))
    return np.isin(thing, (3, 19) if part == "val" else (7, 11, 15))


def index_dexycb(files: Files, options: OpenOptions) -> Index:
    """What is known about every frame that is there."""
    return options.index(files, _scan(files))


def select_dexycb(files: Files, index: Index, split: str, options: OpenOptions) -> DexYCB:
    """One split: `s0-train` ... `s3-test`, each also `-right` (right hands alone) and `-close`
    (right hands within 5 cm of the object), or `all`: every labelled frame.

    Training splits leave out hands without a box, as the published counts do. Raises InputError
    where sequences are missing; what reading raises.
    """
    return DexYCB("dexycb", split, files, index, _rows(files, index, split), options)


def _rows(files: Files, index: Index, split: str) -> NDArray[np.int64]:
    column = index.columns
    if not len(index):
        return np.zeros(0, np.int64)
    keep = np.asarray(column["labelled"])
    if split != "all":
        for subject in sorted({SUBJECTS[i] for i in np.unique(column["subject"])}):
            count = len(_sequences(files, subject))
            if count != SEQUENCES:
                raise InputError(
                    f"{files.place(subject)}: expected {SEQUENCES} sequences (folders with "
                    f"meta.yml suffice), found {count}; their numbers decide the splits. "
                    "Only the split `all` can be read like this"
                )
        setup, part, *kind = split.split("-")
        keep = keep & chosen(setup, part, column)
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


class DexYCB(IndexedSet):
    """The samples of one split. Record.extra: `depth`, `labels` (files), `class` (the object's
    value in the segmentation), `sequence_number` (in its subject), `is_bop_target`."""

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
            extra={
                "depth": f"{folder}/aligned_depth_to_color_{frame:06d}.png",
                "labels": f"{folder}/labels_{frame:06d}.npz",
                "class": int(row["thing"]),
                "sequence_number": int(row["number"]),
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


# ----------------------------------------------------------------------------------- reading


def _sequences(files: Files, subject: str) -> list[str]:
    """The sequences of a subject in the official order: folders that hold meta.yml."""
    return [name for name in files.list(subject) if files.has(f"{subject}/{name}/meta.yml")]


def _scan(files: Files) -> Scan:
    parts: list[str] = []
    watched: list[str] = []
    for subject in SUBJECTS:
        for number, sequence in enumerate(_sequences(files, subject)):
            folder = f"{subject}/{sequence}"
            parts.append(f"{folder} {number}")
            watched += [f"{folder}/meta.yml", f"{folder}/pose.npz"]
            watched += [f"{folder}/{camera}" for camera in CAMERAS]
    calibration = [f"calibration/{name}" for name in files.list("calibration")]
    watched += [f"{folder}/{name}" for folder in calibration for name in files.list(folder)]
    watched += [f"models/{name}/points.xyz" for name in files.list("models")]
    places = [name for name in watched if name.rpartition("/")[2] in CAMERAS]
    watched += if_few(
        f"{place}/{name}"
        for place in places
        for name in files.list(place)
        if name.startswith("labels_")
    )
    if not parts:
        raise MissingFileError(
            f"{files.root}: expected DexYCB: <subject>/<sequence>/meta.yml, with subjects such as "
            f"{SUBJECTS[0]}"
        )
    return Scan(
        name="dexycb", version=1, parts=tuple(parts), watched=tuple(watched), read=read_sequence
    )


def _yaml(files: Files, name: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(files.read(name))
    except yaml.YAMLError as error:
        raise FileFormatError(f"{files.place(name)}: not valid YAML: {error}") from error
    return dict(mapping(found, files.place(name)))


def _intrinsics(files: Files, camera: str) -> NDArray[np.float64]:
    """fx, fy, cx, cy of a colour camera."""
    name = f"calibration/intrinsics/{camera}_{WIDTH}x{HEIGHT}.yml"
    where = files.place(name)
    colour = field(_yaml(files, name), "color", where)
    values = [field(colour, key, f"{where}: color") for key in ("fx", "fy", "ppx", "ppy")]
    found = checked(values, (4,), f"{where}: color")
    if found[0] <= 0 or found[1] <= 0:
        raise FileFormatError(f"{where}: color: focal lengths must be positive: {values[:2]}")
    return found


def read_sequence(files: Files, key: str) -> Part:
    """All cameras and frames of one sequence. key: "<subject>/<sequence> <number in subject>"."""
    folder, _, number = key.rpartition(" ")
    subject, sequence = folder.split("/")
    meta_name = f"{folder}/meta.yml"
    where = files.place(meta_name)
    meta = _yaml(files, meta_name)
    frames = int(field(meta, "num_frames", where))
    rows: list[dict[str, Any]] = []
    part = Part(columns={}, dropped={})
    if frames:
        classes = [int(i) for i in field(meta, "ycb_ids", where)]
        grasped = int(field(meta, "ycb_grasp_ind", where))
        side = field(meta, "mano_sides", where)[0]
        if side not in ("left", "right") or not 0 <= grasped < len(classes):
            raise FileFormatError(f"{where}: mano_sides or ycb_grasp_ind: {side}, {grasped}")
        thing = info(classes[grasped])
        calibration = f"calibration/mano_{field(meta, 'mano_calib', where)[0]}/mano.yml"
        betas = checked(
            field(_yaml(files, calibration), "betas", files.place(calibration)),
            (10,),
            f"{files.place(calibration)}: betas",
        )
        points = ObjectPoints(files).points(thing.name)
        for place, camera in enumerate(CAMERAS):
            there = set(files.list(f"{folder}/{camera}"))
            if not there:
                continue  # a partial download
            intrinsics = _intrinsics(files, camera)
            first: NDArray[np.float64] | None = None
            for frame in range(frames):
                name = f"{folder}/{camera}/labels_{frame:06d}.npz"
                try:
                    label = _read_label(files, name, len(classes), grasped)
                    image = f"color_{frame:06d}.jpg"
                    if image not in there:
                        raise MissingFileError(
                            f"{files.place(f'{folder}/{camera}/{image}')}: there is no such file"
                        )
                except HandholdError as error:
                    part.problems.append(Problem(file=name, what=str(error)))
                    continue
                pose = label["object_pose"]
                first = pose if frame == 0 else first
                grasps = (-1, -1)
                if first is not None and first.any() and pose.any():
                    grasps = tuple(int(is_grasped(first, pose, rule)) for rule in GRASP_METRES)
                gap = np.nan
                if points is not None and label["labelled"] and pose.any():
                    placed = points @ pose[:, :3].T + pose[:, 3]
                    away = placed[:, None] - label["joints"][None]
                    gap = float(np.sqrt((away**2).sum(-1).min()))
                rows.append(
                    label
                    | {
                        "subject": SUBJECTS.index(subject),
                        "number": int(number),
                        "sequence": sequence,
                        "camera": place,
                        "frame": frame,
                        "left": side == "left",
                        "intrinsics": intrinsics,
                        "betas": betas,
                        "thing": thing.dexycb_id,
                        "grasp10": grasps[0],
                        "grasp50": grasps[1],
                        "gap": gap,
                    }
                )
    part.columns = columns_of(rows, _TYPES)
    labelled = sum(row["labelled"] for row in rows)
    boxed = sum(row["boxed"] for row in rows)
    part.dropped = {
        "no hand labelled": len(rows) - labelled,
        "no box (training splits)": labelled - boxed,
    }
    return part


def _read_label(files: Files, name: str, things: int, grasped: int) -> dict[str, Any]:
    """One frame's labels; `labelled` by the published rule: joint_3d or joint_2d all -1, or pose_m
    all 0, means that there is no hand; `boxed`: the box rule of training."""
    where = files.place(name)
    found = read_npz(files.read(name), where, ("pose_y", "pose_m", "joint_3d", "joint_2d"))
    pose_m = checked(found["pose_m"], (1, 51), f"{where}: pose_m")[0]
    joints = checked(found["joint_3d"], (1, 21, 3), f"{where}: joint_3d")[0]
    joints2d = checked(found["joint_2d"], (1, 21, 2), f"{where}: joint_2d")[0]
    poses = checked(found["pose_y"], (things, 3, 4), f"{where}: pose_y")
    labelled = bool((joints != -1).any() and (joints2d != -1).any() and pose_m.any())
    boxed = False
    if labelled:
        low, high = joints2d.min(0), joints2d.max(0)
        side = 1.5 * (high - low)
        box = np.concatenate([(low + high) / 2 - side / 2, side])
        boxed = bool(sanitise_xywh(box, WIDTH, HEIGHT)[1])
    return {
        "pose_m": pose_m,
        "joints": joints,
        "joints2d": joints2d,
        "object_pose": poses[grasped],
        "labelled": labelled,
        "boxed": boxed,
    }


_TYPES = {
    "subject": "u1", "number": "u1", "camera": "u1", "frame": "u4", "left": "u1",
    "thing": "u1", "labelled": "?", "boxed": "?", "grasp10": "i1", "grasp50": "i1", "gap": "f4",
    "intrinsics": "f8", "betas": "f4", "pose_m": "f4", "joints": "f4", "joints2d": "f4",
    "object_pose": "f4", "sequence": "S15",
}  # fmt: skip


def missing(files: Files) -> list[str]:
    """What of the complete download is not there."""
    told: list[str] = []
    for subject in SUBJECTS:
        sequences = _sequences(files, subject)
        if not sequences:
            told.append(f"subject {subject}")
            continue
        if len(sequences) != SEQUENCES:
            told.append(f"{SEQUENCES - len(sequences)} sequences of {subject}")
        for camera in CAMERAS:
            lacking = sum(not files.list(f"{subject}/{name}/{camera}") for name in sequences)
            if lacking:
                told.append(f"camera {camera} in {lacking} sequences of {subject}")
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
    published=PUBLISHED,
    missing=missing,
)
