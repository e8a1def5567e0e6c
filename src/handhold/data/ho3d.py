"""HO3D v2 and v3 (Hampali et al., CVPR 2020): right hands and 10 YCB objects, by sequence.

The official tree is read in place: `train.txt` and `evaluation.txt` say which frames are samples
and in which order; png and jpg images are read in either version. A download may lack sequences.
The labels are OpenGL's camera frame and HO3D's joint order; here they are turned as everywhere.
Evaluation frames know the wrist and a box; their joints and vertices come from
`evaluation_xyz.json` and `evaluation_verts.json` where these lie beside the lists.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from handhold.data.dataset import DatasetEntry, IndexedSet, OpenOptions, Record
from handhold.data.files import Files
from handhold.data.ho3d_files import FOLDERS, TRUTH, read_list, read_sequence, read_truth
from handhold.data.index import Index, Scan
from handhold.errors import FileFormatError, MissingFileError
from handhold.geometry.boxes import box_from_points
from handhold.hand.convention import ho3d_parameters
from handhold.objects.catalogue import info
from handhold.objects.control_points import control_points_of_box
from handhold.scene import Camera, FloatArray, Hand, RigidObject, Sample

TOPS = (
    "train", "evaluation", "train.txt", "evaluation.txt", "evaluation_*.json", "calibration",
    "manual_annotations", "models",
)  # fmt: skip
WIDTH, HEIGHT = 640, 480
SPLITS = (*FOLDERS, "all")
DEPTH_METRES = 0.00012498664727900177  # of one step of the stored depth
MASK_ABOVE = 200  # of the segmentation's red (hand) and blue (object)
SAME_WRIST = 0.005  # metres between the wrist of a frame's meta and that of evaluation_xyz.json
GRASP_RULE = "the object's pose against frame 0000; a stand-in, the published flags are manual"
PUBLISHED = {
    "v2": {
        "train": (66_034, "UniHOPE, Table I"),
        "evaluation": (11_524, "the server's list; UniHOPE, Table I"),
    },
    "v3": {
        "train": (83_325, "the 103,462 frames of v3 less the server's 20,137"),
        "evaluation": (20_137, "the server's list"),
    },
}


def index_ho3d(files: Files, options: OpenOptions, *, version: str) -> Index:
    """What is known about the listed frames of the sequences that are there."""
    return options.index(files, _scan(files, f"ho3d-{version}", _listed(files)))


def select_ho3d(
    files: Files, index: Index, split: str, options: OpenOptions, *, version: str
) -> HO3D:
    """One split in the order of its list: `train`, `evaluation`, or `all`: one after the other.

    Raises MissingFileError where a split's list or all its sequences
    are missing, FileFormatError where the evaluation's truth does not belong to its list; what
    reading raises.
    """
    name = f"ho3d-{version}"
    there = _listed(files)
    wanted = FOLDERS if split == "all" else (split,)
    if split == "all" and any(there.values()):
        wanted = tuple(part for part in FOLDERS if there.get(part))
    for part in wanted:
        if part not in there:
            raise MissingFileError(f"{files.place(f'{part}.txt')}: there is no such file")
        if not there[part]:
            raise MissingFileError(
                f"{files.place(part)}: none of the sequences of {part}.txt is there"
            )
    truth = None
    if "evaluation" in wanted and files.has(TRUTH[0]):
        alone = dataclasses.replace(options, workers=0, progress=None)
        truth = alone.index(files, _truth_scan(name))
        index = dataclasses.replace(index, problems=index.problems + truth.problems)
    rows = [np.zeros(0, np.int64)]
    for part in wanted if len(index) else ():
        own = np.flatnonzero(index.columns["part"] == FOLDERS.index(part))
        own = own[np.argsort(index.columns["position"][own], kind="stable")]
        if part == "evaluation" and truth is not None:
            own = own[_known_truth(files, index, truth, own)]
        rows.append(own)
    chosen = np.concatenate(rows)
    return HO3D(name, split, files, index, chosen, options, truth=truth)


class HO3D(IndexedSet):
    """The samples of one split. Record.extra: `position` in the list, `wrist` (3,) metres, OpenCV
    camera, `depth` (file), `segmentation` (file, without its ending), `grasp_rule`: what the grasp
    labels are.

    truth: joints and vertices of the evaluation, one row a line of its list."""

    size = (WIDTH, HEIGHT)

    def __init__(self, *args: Any, truth: Index | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.truth = truth

    def image_name(self, number: int) -> str:
        """The image file of a sample."""
        place, column = int(self.rows[number]), self.index.columns
        folder, frame = self._place(number)
        return f"{folder}/rgb/{frame}.{'png' if column['png'][place] else 'jpg'}"

    def _place(self, number: int) -> tuple[str, str]:
        """Folder of the sequence, and the frame."""
        place, column = int(self.rows[number]), self.index.columns
        folder = FOLDERS[int(column["part"][place])]
        sequence, frame = (bytes(column[name][place]).decode() for name in ("sequence", "frame"))
        return f"{folder}/{sequence}", frame

    def record(self, number: int) -> Record:
        row = self.row(number)
        folder, frame = self._place(number)
        view = Camera(
            intrinsics=np.array(row["intrinsics"]), width=WIDTH, height=HEIGHT, source="dataset"
        )
        grasps = [None if row[name] < 0 else bool(row[name]) for name in ("grasp10", "grasp50")]
        train = row["part"] == 0
        exported: dict[str, Any] = {}
        make = self._train_hand if train else self._evaluation_hand
        known = make(row, exported)
        joints, box = known.get("joints"), None
        if joints is not None:
            known["joints2d"] = view.project(joints)
            known["joints2d_valid"] = np.ones(21, bool)
            box = box_from_points(known["joints2d"])
        else:  # the wrist alone
            exported["joints"], exported["joints2d"] = np.full((2, 21, 3), np.nan)
            exported["joints2d"] = exported["joints2d"][:, :2]
            exported["joints"][0] = row["wrist"]
            exported["joints2d"][0] = view.project(np.array(row["wrist"]))
        hand = Hand(
            side="right",
            box=box if train else np.array(row["box"], np.float64),
            grasping=grasps[1],
            **known,
        )
        return Record(
            key=f"{folder.partition('/')[2]}/{frame}",
            image=self.image_name(number),
            camera=view,
            hands=(hand,),
            object=self._object(row, view, held=grasps[1]),
            grasping_10mm=grasps[0],
            grasping_50mm=grasps[1],
            extra={
                "position": int(row["position"]),
                "wrist": np.array(row["wrist"]),
                "depth": f"{folder}/depth/{frame}.png",
                "segmentation": f"{folder}/seg/{frame}",
                "grasp_rule": GRASP_RULE,
            },
            exported=exported,
        )

    def _train_hand(self, row: dict[str, Any], exported: dict[str, Any]) -> dict[str, Any]:
        joints = np.array(row["joints"])
        model = self.hand_model("right")
        betas = np.array(row["betas"], np.float64)
        root = model.rest_joints(torch.from_numpy(betas))[0].double().numpy()
        pose, translation = ho3d_parameters(
            np.array(row["pose"], np.float64), np.array(row["translation"], np.float64), root
        )
        with torch.no_grad():
            posed = model(*(torch.from_numpy(x) for x in (pose, betas, translation)))
        if not self.fits(model, posed.joints.numpy(), joints):
            exported |= {"pose": pose, "betas": betas}
            return {"joints": joints}
        return {
            "joints": joints,
            "vertices": posed.vertices.numpy().astype(np.float32),
            "pose": pose,
            "betas": betas,
            "translation": translation,
        }

    def _evaluation_hand(self, row: dict[str, Any], exported: dict[str, Any]) -> dict[str, Any]:
        if self.truth is None:
            return {}
        columns, place = self.truth.columns, int(row["position"])
        joints, known = np.array(columns["joints"][place]), {}
        if np.isfinite(joints).all():
            known["joints"] = joints
            vertices = np.array(columns["vertices"][place]) if "vertices" in columns else None
            if vertices is not None:
                fits = self.fits_mesh(vertices, joints)
                (known if fits else exported)["vertices"] = vertices
        return known

    def _object(
        self, row: dict[str, Any], view: Camera, *, held: bool | None
    ) -> RigidObject | None:
        pose = np.array(row["object_pose"], np.float64)
        if not np.isfinite(pose).all():
            return None
        name = info(int(row["thing"])).name
        low, high = np.array(row["rest_box"], np.float64)
        if self.object_points.points(name) is None and np.isfinite(low).all():
            points = control_points_of_box(low, high)
        else:
            points = self.object_points.of(name)
        placed = points @ pose[:, :3].T + pose[:, 3]
        ahead = placed[:, 2].min() > 1e-3
        return RigidObject(
            name=name,
            rotation=pose[:, :3],
            translation=pose[:, 3],
            box=box_from_points(view.project(placed)) if ahead else None,
            control_points=points,
            held=held,
        )

    def complete(self, sample: Sample, record: Record, number: int) -> Sample:
        """Adds masks (visible pixels) and depth where they are there, unless `skip` names them."""
        added: dict[str, Any] = {}
        if not {"hand_mask", "object_mask"} <= self.skip:
            stem = record.extra["segmentation"]
            found = next((f for f in (f"{stem}.png", f"{stem}.jpg") if self.files.has(f)), None)
            if found is not None:
                colours = self._full_size(self.files.image(found), found)
                added["hand_mask"] = colours[..., 0] > MASK_ABOVE
                added["object_mask"] = colours[..., 2] > MASK_ABOVE
        if "depth" not in self.skip and self.files.has(record.extra["depth"]):
            added["depth"] = self._depth(record.extra["depth"])
        added = {name: value for name, value in added.items() if name not in self.skip}
        return dataclasses.replace(sample, **added)

    def _full_size(self, image: NDArray[np.uint8], name: str) -> NDArray[Any]:
        """A segmentation, stored at half size, at the size of the photo."""
        if image.shape[:2] == (HEIGHT, WIDTH):
            return image
        if image.shape[:2] != (HEIGHT // 2, WIDTH // 2):
            raise FileFormatError(
                f"{self.files.place(name)}: expected {WIDTH // 2}x{HEIGHT // 2} or {WIDTH}x{HEIGHT}"
                f" pixels, found {image.shape[1]}x{image.shape[0]}"
            )
        return cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)

    def _depth(self, name: str) -> FloatArray:
        """Metres: red and green are the low and the high byte."""
        stored = self.files.raw_image(name)
        if stored.shape != (HEIGHT, WIDTH, 3) or stored.dtype != np.uint8:
            raise FileFormatError(
                f"{self.files.place(name)}: expected {WIDTH}x{HEIGHT} pixels of 3 bytes, found "
                f"shape {stored.shape}, {stored.dtype}"
            )
        steps = stored[..., 2].astype(np.float64) + 256.0 * stored[..., 1]
        return (steps * DEPTH_METRES).astype(np.float32)


# ----------------------------------------------------------------------------------- opening


def _listed(files: Files) -> dict[str, list[str]]:
    """The sequences that are there of each list that is there."""
    return {part: _sequences(files, part) for part in FOLDERS if files.has(f"{part}.txt")}


def _sequences(files: Files, part: str) -> list[str]:
    """The listed sequences that are there, in the list's order."""
    listed = dict.fromkeys(sequence for sequence, _, _ in read_list(files, part)[0])
    return [x for x in listed if {"meta", "rgb"} & set(files.list(f"{part}/{x}"))]


def _scan(files: Files, name: str, there: dict[str, list[str]]) -> Scan:
    """there: the sequences of each list that is there."""
    lists = [f"{part}.txt" for part in there]
    folders = [f"{part}/{sequence}" for part, sequences in there.items() for sequence in sequences]
    watched = lists + [f"{folder}/{kind}" for folder in folders for kind in ("meta", "rgb")]
    return Scan(
        name=name,
        version=2,
        parts=(*lists, *folders),
        watched=tuple(watched),
        labels=lambda: (f"{f}/meta/{x}" for f in folders for x in files.list(f"{f}/meta")),
        read=read_sequence,
    )


def _truth_scan(name: str) -> Scan:
    watched = ("evaluation.txt", *TRUTH)
    return Scan(
        name=f"{name}-truth", version=1, parts=("evaluation",), watched=watched, read=read_truth
    )


def _known_truth(
    files: Files, index: Index, truth: Index, rows: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which rows have a truth. FileFormatError where its wrist is not that of the frame's own
    label: then the files are of another version, order or camera frame."""
    position = index.columns["position"][rows]
    known = np.asarray(truth.columns["known"])[position]
    off = np.asarray(truth.columns["joints"])[position, 0] - index.columns["wrist"][rows]
    wrong = np.flatnonzero(known & (np.linalg.norm(off, axis=-1) > SAME_WRIST))
    if len(wrong):
        place = position[wrong[0]]
        raise FileFormatError(
            f"{files.place(TRUTH[0])}[{place}]: the wrist lies "
            f"{1000 * np.linalg.norm(off[wrong[0]]):.0f} mm from that of the frame's own label "
            "(handJoints3D): expected HO3D's joint order, OpenGL's camera and the order of "
            "evaluation.txt"
        )
    return known


def missing(files: Files, version: str) -> list[str]:
    """What of the complete download is not there."""
    told: list[str] = []
    for part in FOLDERS:
        if not files.has(f"{part}.txt"):
            told.append(f"{part}.txt")
            continue
        listed = {sequence for sequence, _, _ in read_list(files, part)[0]}
        lacking = sorted(listed - set(_sequences(files, part)))
        told += [f"{part}: sequence {sequence}" for sequence in lacking]
        for kind in ("rgb", "meta", "depth"):
            without = [
                s for s in listed.difference(lacking) if not files.list(f"{part}/{s}/{kind}")
            ]
            told += [f"{part}/{sequence}: {kind}" for sequence in sorted(without)]
    told += [f"{name} (the truth of the evaluation)" for name in TRUTH if not files.has(name)]
    if version == "v3" and not files.list("calibration"):
        told.append("calibration (not needed for the samples)")
    if not files.list("models"):
        told.append("models (the objects; the boxes of the labels stand in)")
    return told


def _entry(version: str) -> DatasetEntry:
    return DatasetEntry(
        title=f"HO3D {version} (Hampali et al., CVPR 2020)",
        licence="see the download's page",
        tops=TOPS,
        splits=SPLITS,
        train="train",
        test="evaluation",
        index=functools.partial(index_ho3d, version=version),
        select=functools.partial(select_ho3d, version=version),
        labels=("side", "pose", "object", "grasp"),
        published=PUBLISHED[version],
        missing=functools.partial(missing, version=version),
    )


V2, V3 = _entry("v2"), _entry("v3")
