"""DexYCB's files: which sequences there are and their numbers, meta.yml, calibration, labels."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from handhold.data.dataset import OpenOptions
from handhold.data.files import Files, read_npz
from handhold.data.index import TEXT, Part, Problem, Scan, columns_of
from handhold.data.labels import GRASP_METRES, is_grasped
from handhold.data.object_points import ObjectPoints
from handhold.data.sanity import check_hand, check_rotation
from handhold.errors import FileFormatError, HandholdError, MissingFileError
from handhold.fields import checked, field, mapping
from handhold.geometry.crop import sanitise_xywh
from handhold.objects.catalogue import info

SUBJECTS = (
    "20200709-subject-01", "20200813-subject-02", "20200820-subject-03", "20200903-subject-04",
    "20200908-subject-05", "20200918-subject-06", "20200928-subject-07", "20201002-subject-08",
    "20201015-subject-09", "20201022-subject-10",
)  # fmt: skip
CAMERAS = (
    "836212060125", "839512060362", "840412060917", "841412060263", "932122060857",
    "932122060861", "932122061900", "932122062010",
)  # fmt: skip
WIDTH, HEIGHT = 640, 480
SHARED = ("calibration", "models")  # what sequences share: the `file` of a problem with it
LONGEST = 100_000  # frames of a sequence; official ones have below a hundred
SEQUENCES, GROUP = 100, 5  # of a subject; of those the ones with the same object
GRASPED = tuple(i for i in range(1, 22) if i != 19)  # class ids, in the order of the sequences


def sequences_of(files: Files, subject: str) -> list[str]:
    """The sequences of a subject in the official order: folders that hold meta.yml."""
    return [name for name in files.list(subject) if files.has(f"{subject}/{name}/meta.yml")]


def _numbers(files: Files, options: OpenOptions) -> dict[str, int]:
    """Folder of every sequence -> its number in its subject, -1 where that cannot be told."""
    listed = {subject: sequences_of(files, subject) for subject in SUBJECTS}
    numbers = {
        f"{subject}/{sequence}": number if len(sequences) == SEQUENCES else -1
        for subject, sequences in listed.items()
        for number, sequence in enumerate(sequences)
    }
    parts = tuple(subject for subject, found in listed.items() if len(found) not in (0, SEQUENCES))
    if parts:
        watched = tuple(f"{folder}/meta.yml" for folder, number in numbers.items() if number < 0)
        scan = Scan(
            name="dexycb-sequences", version=1, parts=parts, watched=watched, read=read_things
        )
        alone = dataclasses.replace(options, workers=0, progress=None)
        column = alone.index(files, scan).columns
        groups: dict[tuple[int, int], list[str]] = {}
        for subject, thing, sequence in zip(*(column[k] for k in _THINGS), strict=True):
            groups.setdefault((int(subject), int(thing)), []).append(bytes(sequence).decode())
        for (subject, thing), sequences in groups.items():
            if len(sequences) == GROUP and thing in GRASPED:
                for place, sequence in enumerate(sorted(sequences)):
                    folder = f"{SUBJECTS[subject]}/{sequence}"
                    numbers[folder] = GROUP * GRASPED.index(thing) + place
    return numbers


_THINGS = {"subject": "u1", "thing": "u1", "sequence": TEXT}


def read_things(files: Files, subject: str) -> Part:
    """The class ids of what is grasped in a subject's sequences; 0 where it cannot be told."""
    rows: list[dict[str, Any]] = []
    for sequence in sequences_of(files, subject):
        name = f"{subject}/{sequence}/meta.yml"
        try:
            thing = _grasped(read_yaml(files, name), files.place(name))[1]
        except FileFormatError:
            thing = 0
        rows.append({"subject": SUBJECTS.index(subject), "thing": thing, "sequence": sequence})
    return Part(columns=columns_of(rows, _THINGS))


def _grasped(meta: dict[str, Any], where: str) -> tuple[int, int]:
    """Place among the labelled objects, and class id, of the one that is grasped."""
    things, place = field(meta, "ycb_ids", where, list), field(meta, "ycb_grasp_ind", where, int)
    if not 0 <= place < len(things) or things[place] not in range(1, 22):
        raise FileFormatError(f"{where}: ycb_ids, ycb_grasp_ind: found {things!r:.60}, {place}")
    return place, things[place]


def _only(meta: dict[str, Any], name: str, where: str) -> str:
    """The text in a list of one; FileFormatError."""
    found = field(meta, name, where, list)
    if len(found) != 1 or not isinstance(found[0], str):
        raise FileFormatError(f"{where}: {name}: expected a list of one text, found {found!r:.60}")
    return found[0]


def scan_of(files: Files, options: OpenOptions) -> Scan:
    parts: list[str] = []
    watched: list[str] = []
    for folder, number in _numbers(files, options).items():
        parts.append(f"{folder} {number}")
        watched += [f"{folder}/meta.yml", f"{folder}/pose.npz"]
        watched += [f"{folder}/{camera}" for camera in CAMERAS]
    calibration = [f"calibration/{name}" for name in files.list("calibration")]
    watched += [f"{folder}/{name}" for folder in calibration for name in files.list(folder)]
    watched += [f"models/{name}/points.xyz" for name in files.list("models")]
    if not parts:
        raise MissingFileError(
            f"{files.root}: expected DexYCB: <subject>/<sequence>/meta.yml, with subjects such as "
            f"{SUBJECTS[0]}"
        )
    places = [name for name in watched if name.rpartition("/")[2] in CAMERAS]
    return Scan(
        name="dexycb",
        version=3,
        parts=tuple(parts),
        watched=tuple(watched),
        labels=lambda: (
            f"{place}/{name}"
            for place in places
            for name in files.list(place)
            if name.startswith("labels_")
        ),
        read=read_sequence,
    )


class _Yaml(yaml.SafeLoader):
    """Takes 1e-05 for a number, as every other reader does, not for a text."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(files: Files, name: str) -> dict[str, Any]:
    """What a small YAML file holds, as plain values; FileFormatError that names it."""
    try:
        found = yaml.load(files.read(name), _Yaml)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        words = " ".join(str(error).split())
        raise FileFormatError(f"{files.place(name)}: not valid YAML: {words}") from error
    return dict(mapping(found, files.place(name)))


def frames_of(meta: dict[str, Any], where: str) -> int:
    """How many frames meta.yml says there are."""
    frames = field(meta, "num_frames", where, int)
    if not 0 <= frames <= LONGEST:
        raise FileFormatError(f"{where}: num_frames: expected 0 to {LONGEST}, found {frames}")
    return frames


def _intrinsics(files: Files, camera: str) -> NDArray[np.float64]:
    """fx, fy, cx, cy of a colour camera."""
    name = f"calibration/intrinsics/{camera}_{WIDTH}x{HEIGHT}.yml"
    where = files.place(name)
    colour = field(read_yaml(files, name), "color", where)
    values = [field(colour, key, f"{where}: color") for key in ("fx", "fy", "ppx", "ppy")]
    found = checked(values, (4,), f"{where}: color")
    if found[0] <= 0 or found[1] <= 0:
        raise FileFormatError(f"{where}: color: focal lengths must be positive: {values[:2]}")
    return found


def read_sequence(files: Files, key: str) -> Part:
    """All cameras and frames of one sequence, or one problem of the whole sequence. key:
    "<subject>/<sequence> <number in subject>"."""
    folder, _, number = key.rpartition(" ")
    try:
        return _read_sequence(files, folder, int(number))
    except HandholdError as error:
        meta, what = f"{folder}/meta.yml", str(error)
        shared = "models" if "points.xyz" in what or ".obj" in what else "calibration"
        file = meta if files.place(meta) in what else shared
        return Part(columns={}, problems=[Problem(file=file, what=what)])


def of_whole_sequence(problem: Problem) -> bool:
    """Whether a problem leaves out all frames of a sequence, or of several."""
    return problem.file in SHARED or problem.file.endswith("/meta.yml")


def _read_sequence(files: Files, folder: str, number: int) -> Part:
    subject, sequence = folder.split("/")
    meta_name = f"{folder}/meta.yml"
    where = files.place(meta_name)
    meta = read_yaml(files, meta_name)
    frames = frames_of(meta, where)
    rows: list[dict[str, Any]] = []
    part = Part(columns={}, dropped={})
    if frames:
        grasped, thing = _grasped(meta, where)
        things = len(meta["ycb_ids"])
        side = _only(meta, "mano_sides", where)
        if side not in ("left", "right"):
            raise FileFormatError(f"{where}: mano_sides: expected left or right, found {side!r}")
        calibration = f"calibration/mano_{_only(meta, 'mano_calib', where)}/mano.yml"
        betas = checked(
            field(read_yaml(files, calibration), "betas", files.place(calibration)),
            (10,),
            f"{files.place(calibration)}: betas",
        )
        points = ObjectPoints(files).points(info(thing).name)
        for place, camera in enumerate(CAMERAS):
            listing = files.list(f"{folder}/{camera}")
            there = {name for name in listing if name.startswith(("labels_", "color_"))}
            if not there:
                continue  # a partial download
            intrinsics = _intrinsics(files, camera)
            first: NDArray[np.float64] | None = None
            for frame in range(frames):
                name = f"{folder}/{camera}/labels_{frame:06d}.npz"
                try:
                    label = _read_label(files, name, things, grasped)
                    first = label["object_pose"] if frame == 0 else first
                    image = f"color_{frame:06d}.jpg"
                    if image not in there:
                        raise MissingFileError(
                            f"{files.place(f'{folder}/{camera}/{image}')}: there is no such file"
                        )
                except HandholdError as error:
                    part.problems.append(Problem(file=name, what=str(error)))
                    continue
                pose = label["object_pose"]
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
                        "number": number,
                        "sequence": sequence,
                        "camera": place,
                        "frame": frame,
                        "left": side == "left",
                        "intrinsics": intrinsics,
                        "betas": betas,
                        "thing": thing,
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
    pose = poses[grasped]
    if pose.any():
        check_rotation(pose[:, :3], f"{where}: pose_y[{grasped}]")
    if labelled:
        check_hand(joints, f"{where}: joint_3d")
        low, high = joints2d.min(0), joints2d.max(0)
        side = 1.5 * (high - low)
        box = np.concatenate([(low + high) / 2 - side / 2, side])
        boxed = bool(sanitise_xywh(box, WIDTH, HEIGHT)[1])
    return {
        "pose_m": pose_m,
        "joints": joints,
        "joints2d": joints2d,
        "object_pose": pose,
        "labelled": labelled,
        "boxed": boxed,
    }


_TYPES = {
    "subject": "u1", "number": "i1", "camera": "u1", "frame": "u4", "left": "u1",
    "thing": "u1", "labelled": "?", "boxed": "?", "grasp10": "i1", "grasp50": "i1", "gap": "f4",
    "intrinsics": "f8", "betas": "f4", "pose_m": "f4", "joints": "f4", "joints2d": "f4",
    "object_pose": "f4", "sequence": "S15",
}  # fmt: skip
