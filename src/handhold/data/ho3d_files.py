"""HO3D's files: the lists of frames, the meta pickles, the truth of the evaluation.

What is read comes out in OpenCV's camera frame and the canonical joint order; MANO's parameters
stay as they are. Foreign pickles, of Python 2 or 3, are read as data and never executed.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handhold.data.files import Files
from handhold.data.index import TEXT, Part, Problem, columns_of
from handhold.data.json_rows import read_rows
from handhold.data.labels import GRASP_METRES, is_grasped
from handhold.data.sanity import check_hand
from handhold.errors import FileFormatError, HandholdError, InputError, MissingFileError
from handhold.fields import checked, field, mapping
from handhold.hand.convention import OPENGL_OPENCV, opengl_to_opencv, reorder
from handhold.hand.foreign_pickle import read_foreign_pickle
from handhold.objects.catalogue import info

FOLDERS = ("train", "evaluation")
TRUTH = ("evaluation_xyz.json", "evaluation_verts.json")
_LINE = re.compile(r"[\w-]+/\d+")


# ----------------------------------------------------------------------------------- the lists


def _lines(files: Files, name: str) -> list[str]:
    """The lines of a list, without blank ones."""
    lines = files.read(name).decode("utf-8-sig", "replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def read_list(files: Files, part: str) -> tuple[list[tuple[str, str, int]], list[Problem]]:
    """(sequence, frame, position) of train.txt or evaluation.txt, and its lines that are no frame
    or come twice (the first one counts). position: of the line, blank ones aside."""
    name = f"{part}.txt"
    where = files.place(name)
    listed: list[tuple[str, str, int]] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for position, line in enumerate(_lines(files, name)):
        if not _LINE.fullmatch(line):
            what = f"{where}: entry {position}: expected <sequence>/<frame>, found {line!r:.60}"
        elif line in seen:
            what = f"{where}: entry {position}: {line} is listed twice"
        else:
            seen.add(line)
            sequence, _, frame = line.partition("/")
            listed.append((sequence, frame, position))
            continue
        problems.append(Problem(file=name, what=what))
    return listed, problems


# ----------------------------------------------------------------------------------- reading


def read_sequence(files: Files, key: str) -> Part:
    """The listed frames of a sequence ("train/MC1"), or what is wrong with a list ("train.txt")."""
    part, _, sequence = key.partition("/")
    if not sequence:
        return Part(columns={}, problems=read_list(files, part.removesuffix(".txt"))[1])
    found = Part(columns={}, dropped={"no hand labelled": 0})
    there = set(files.list(f"{key}/rgb"))
    first = _first_pose(files, key)
    rows: list[dict[str, Any]] = []
    for own, frame, position in read_list(files, part)[0]:
        if own != sequence:
            continue
        name = f"{key}/meta/{frame}.pkl"
        try:
            label = _read_meta(files, name, part)
            if label is None:
                found.dropped["no hand labelled"] += 1
                continue
            if not there & {f"{frame}.png", f"{frame}.jpg"}:
                image = files.place(f"{key}/rgb/{frame}")
                raise MissingFileError(f"{image}.png: there is no such file, nor {frame}.jpg")
        except HandholdError as error:
            found.problems.append(Problem(file=name, what=str(error)))
            continue
        pose = label["object_pose"]
        grasps = (-1, -1)
        if first is not None and np.isfinite(pose).all():
            grasps = tuple(int(is_grasped(first, pose, rule)) for rule in GRASP_METRES)
        rows.append(
            label
            | {
                "part": FOLDERS.index(part),
                "sequence": sequence,
                "position": position,
                "frame": frame,
                "png": f"{frame}.png" in there,
                "grasp10": grasps[0],
                "grasp50": grasps[1],
            }
        )
    found.columns = columns_of(rows, _TYPES)
    return found


_TYPES = {
    "part": "u1", "position": "u4", "png": "?", "thing": "u1", "grasp10": "i1", "grasp50": "i1",
    "intrinsics": "f8", "object_pose": "f4", "rest_box": "f4", "joints": "f4", "wrist": "f4",
    "pose": "f4", "translation": "f4", "betas": "f4", "box": "f4",
    "sequence": TEXT, "frame": TEXT,
}  # fmt: skip


def _first_pose(files: Files, folder: str) -> NDArray[np.float64] | None:
    """The object's pose (3, 4) in frame 0000, listed or not; None where there is none."""
    name = f"{folder}/meta/0000.pkl"
    try:
        pose = _object_pose(_meta(files, name), files.place(name))
    except HandholdError:
        return None
    return pose if np.isfinite(pose).all() else None


def _meta(files: Files, name: str) -> dict[str, Any]:
    where = files.place(name)
    found = read_foreign_pickle(files.read(name), where)
    return dict(mapping(found, where))


def _vector(value: Any, size: int, where: str) -> NDArray[np.float64]:
    """`size` numbers, also as one column or row."""
    try:
        given = np.asarray(value)
    except (TypeError, ValueError, OverflowError):
        return checked(value, (size,), where)  # says what is wrong with it
    return checked(
        given.reshape(size) if given.shape in ((size, 1), (1, size)) else given, (size,), where
    )


def _object_pose(found: dict[str, Any], where: str) -> NDArray[np.float64]:
    """(3, 4) in OpenCV's camera frame; NaN where the object is not annotated."""
    turned, moved = field(found, "objRot", where), field(found, "objTrans", where)
    if turned is None or moved is None:
        return np.full((3, 4), np.nan)
    rotation = Rotation.from_rotvec(_vector(turned, 3, f"{where}: objRot")).as_matrix()
    shift = _vector(moved, 3, f"{where}: objTrans")
    return np.diag(OPENGL_OPENCV) @ np.c_[rotation, shift]


def _class(found: dict[str, Any], where: str) -> int:
    """The class id of the object."""
    name = field(found, "objName", where)
    try:
        return info(name if isinstance(name, str) else repr(name)).dexycb_id
    except InputError as error:
        raise FileFormatError(f"{where}: objName: {error}") from error


def _read_meta(files: Files, name: str, part: str) -> dict[str, Any] | None:
    """One frame's labels in OpenCV's camera frame and the canonical order (MANO's parameters as
    they are); None where the hand is not annotated."""
    where = files.place(name)
    found = _meta(files, name)
    joints, wrist = np.full((21, 3), np.nan), np.full(3, np.nan)
    pose, moved, betas, box = (np.full(n, np.nan) for n in (48, 3, 10, 4))
    labelled = field(found, "handJoints3D", where)
    if labelled is None:
        return None
    if part == "train":
        joints = _joints(labelled, f"{where}: handJoints3D")
        wrist = joints[0]
        if any(field(found, key, where) is None for key in ("handPose", "handTrans", "handBeta")):
            return None
        pose = _vector(found["handPose"], 48, f"{where}: handPose")
        moved = _vector(found["handTrans"], 3, f"{where}: handTrans")
        betas = _vector(found["handBeta"], 10, f"{where}: handBeta")
    else:
        wrist = opengl_to_opencv(_vector(labelled, 3, f"{where}: handJoints3D"))
        box = _vector(field(found, "handBoundingBox", where), 4, f"{where}: handBoundingBox")
        if not (box[0] < box[2] and box[1] < box[3]):
            raise FileFormatError(
                f"{where}: handBoundingBox: expected x0 < x1 and y0 < y1, found {box.tolist()}"
            )
    if wrist[2] <= 0 or (joints[:, 2] <= 0).any():
        raise FileFormatError(
            f"{where}: handJoints3D: expected negative z (OpenGL's camera), found joints behind it"
        )
    if part == "train":
        check_hand(joints, f"{where}: handJoints3D")
    object_pose = _object_pose(found, where)
    thing = _class(found, where) if np.isfinite(object_pose).all() else 0
    corners = found.get("objCorners3DRest")
    rest = np.full((2, 3), np.nan)
    if corners is not None:
        corners = checked(corners, (8, 3), f"{where}: objCorners3DRest")
        rest = np.stack([corners.min(0), corners.max(0)])
    return {
        "intrinsics": _intrinsics(field(found, "camMat", where), f"{where}: camMat"),
        "thing": thing,
        "object_pose": object_pose,
        "rest_box": rest,
        "joints": joints,
        "wrist": wrist,
        "pose": pose,
        "translation": moved,
        "betas": betas,
        "box": box,
    }


def _joints(value: Any, where: str) -> NDArray[np.float64]:
    return opengl_to_opencv(reorder(checked(value, (21, 3), where), "ho3d", "canonical"))


def _intrinsics(value: Any, where: str) -> NDArray[np.float64]:
    matrix = checked(value, (3, 3), where)
    if matrix[0, 0] <= 0 or matrix[1, 1] <= 0 or matrix[2].tolist() != [0, 0, 1]:
        raise FileFormatError(f"{where}: expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]: {matrix}")
    return matrix


# ----------------------------------------------------------------------------------- the truth


def read_truth(files: Files, key: str) -> Part:
    """Joints and vertices of the evaluation in OpenCV's camera frame and the canonical order, one
    row a line of evaluation.txt; `known`: rows without damage."""
    lines = len(_lines(files, "evaluation.txt"))
    joints, wrong = read_rows(files, TRUTH[0], (21, 3), np.float32)
    columns = {"joints": opengl_to_opencv(reorder(joints, "ho3d", "canonical"))}
    problems = [Problem(file=TRUTH[0], what=what) for what in wrong.values()]
    if files.has(TRUTH[1]):
        vertices, wrong = read_rows(files, TRUTH[1], (778, 3), np.float32)
        columns["vertices"] = opengl_to_opencv(vertices)
        problems += [Problem(file=TRUTH[1], what=what) for what in wrong.values()]
    for name, column in zip(TRUTH, columns.values(), strict=False):
        if len(column) != lines:
            raise FileFormatError(
                f"{files.place(name)}: expected one entry a line of evaluation.txt ({lines}), "
                f"found {len(column)}"
            )
    known = [np.isfinite(column).all(axis=(1, 2)) for column in columns.values()]
    return Part(columns=columns | {"known": np.all(known, axis=0)}, problems=problems)
