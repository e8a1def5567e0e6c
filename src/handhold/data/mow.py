"""MOW (Cao et al., ICCV 2021): 512 photos of the web with a right hand, the object it manipulates,
and both in 3D.

`poses.json`, a list with one entry a photo; `images/<image_id>.jpg`, and `models/<image_id>.obj`
for the objects' extent. The hand is MANO's with the mean shape, posed by `hand_pose` (mean not in
it) and `trans`, then moved as x' = hand_s (hand_R x) + hand_t. Without MANO's own files the free
hand takes its place, which a warning says: its surface lies millimetres off. There are no splits.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from handhold.data.coco import is_image, missing_images
from handhold.data.dataset import DatasetEntry, IndexedSet, OpenOptions, Record
from handhold.data.files import Files, plain_name
from handhold.data.images import checked_size
from handhold.data.index import TEXT, Index, Part, Problem, Scan, columns_of
from handhold.data.object_points import read_points
from handhold.data.sanity import check_rotation
from handhold.errors import FileFormatError, HandholdError
from handhold.fields import checked, field, read_json
from handhold.geometry.boxes import box_from_points
from handhold.hand.convention import change_frame, mean_to_flat
from handhold.objects.control_points import control_points
from handhold.scene import Camera, Hand, RigidObject

TOPS = ("poses.json", "images", "models")
LABELS = "poses.json"
ENTRIES = 512
ENDINGS = (".jpg", ".jpeg", ".png", "")
# field of an entry -> numbers in it
NUMBERS = {
    "hand_pose": 48, "trans": 3, "hand_s": 1, "hand_R": 9, "hand_t": 3, "R": 9, "t": 3, "s": 1,
}  # fmt: skip


def index_mow(files: Files, options: OpenOptions) -> Index:
    """The photos that are there."""
    folders = ("images", "models")
    watched = [f"{folder}/{name}" for folder in folders for name in files.list(folder)]
    scan = Scan(
        name="mow", version=1, parts=("all",), watched=(LABELS, *folders, *watched), read=read_all
    )
    return options.index(files, scan)


def select_mow(files: Files, index: Index, split: str, options: OpenOptions) -> Mow:
    """All of it (`all`), in the label file's order."""
    return Mow("mow", split, files, index, np.arange(len(index), dtype=np.int64), options)


class Mow(IndexedSet):
    """The photos. Metres as far as the labels go: hand and object are placed to each other, their
    distance from the camera is the one that fits the assumed focal length.

    Hand.pose is turned with the hand; Hand.translation is None where hand_s is not 1, as no
    translation then gives the labelled vertices. The object's own frame is its mesh centred on the
    mean of its vertices, y negated, scaled by `s`; its control points are known where the mesh is
    there. Record.extra: `hand_scale`, `object_scale`, `object_url`.
    """

    def image_name(self, number: int) -> str:
        return bytes(self.index.columns["image"][self.rows[number]]).decode()

    def record(self, number: int) -> Record:
        row = self.row(number)
        width, height = int(row["width"]), int(row["height"])
        longer = float(max(width, height))
        view = Camera(
            intrinsics=np.array([[longer, 0, longer / 2], [0, longer, longer / 2], [0, 0, 1]]),
            width=width,
            height=height,
            source="dataset",
        )
        key = bytes(row["key"]).decode()
        return Record(
            key=key,
            image=self.image_name(number),
            camera=view,
            hands=(self._hand(row, view),),
            object=self._object(row, view, key),
            extra={
                "hand_scale": float(row["hand_s"][0]),
                "object_scale": float(row["s"][0]),
                "object_url": bytes(row["url"]).decode(),
            },
        )

    def _hand(self, row: dict[str, Any], view: Camera) -> Hand:
        model = self.hand_model("right")
        if model.is_free and not self._warned:
            self._warned = True
            warnings.warn(
                "mow: the labels are parameters of MANO; the free hand poses them, its joints and "
                "vertices lie millimetres off; give MANO's own files (--mano FOLDER)",
                stacklevel=3,
            )
        pose = mean_to_flat(
            np.array(row["hand_pose"], np.float64).reshape(16, 3),
            model.hands_mean.double().numpy(),
        )
        moved, shift = (np.array(row[name], np.float64) for name in ("trans", "hand_t"))
        turn, scale = np.array(row["hand_R"], np.float64).reshape(3, 3), float(row["hand_s"][0])
        with torch.no_grad():
            posed = model(torch.from_numpy(pose), None, torch.from_numpy(moved))
        vertices, joints = (
            scale * points.double().numpy() @ turn.T + shift
            for points in (posed.vertices, posed.joints)
        )
        root = model.rest_joints()[0].double().numpy()
        pose, translation = change_frame(pose, moved, root, turn, shift)
        joints2d = view.project(joints) if joints[:, 2].min() > 1e-3 else None
        return Hand(
            side="right",
            box=None if joints2d is None else box_from_points(joints2d),
            joints2d=joints2d,
            joints2d_valid=None if joints2d is None else np.ones(21, bool),
            joints=joints,
            vertices=vertices,
            pose=pose,
            betas=np.zeros(10),
            translation=translation if abs(scale - 1) < 1e-6 else None,
        )

    def _object(self, row: dict[str, Any], view: Camera, key: str) -> RigidObject:
        rotation, translation = row["R"].reshape(3, 3).astype(np.float64), row["t"].astype(float)
        vertices = _mesh_points(self.files, key)
        points: NDArray[Any] | None = None
        box: NDArray[Any] | None = None
        if vertices is not None:
            own = float(row["s"][0]) * (vertices - vertices.mean(0)) * (1.0, -1.0, 1.0)
            points = control_points(own)
            placed = points @ rotation.T + translation
            box = box_from_points(view.project(placed)) if placed[:, 2].min() > 1e-3 else None
        return RigidObject(
            name=bytes(row["object"]).decode() or None,
            rotation=rotation,
            translation=translation,
            box=box,
            control_points=points,
        )


# ----------------------------------------------------------------------------------- reading


_TYPES = dict.fromkeys(NUMBERS, "f8") | {
    "width": "u4", "height": "u4", "key": TEXT, "object": TEXT, "url": TEXT, "image": TEXT,
}  # fmt: skip


def _mesh_points(files: Files, key: str) -> NDArray[Any] | None:
    """The vertices of an object's mesh, None where it is not there."""
    name = f"models/{key}.obj"
    return read_points(files.read(name), files.place(name), obj=True) if files.has(name) else None


def _by_name(files: Files) -> dict[str, str]:
    """The images: name with a lower-case ending -> name."""
    split = ((name, *name.rpartition(".")) for name in files.list("images"))
    return {f"{stem}{dot}{end.lower()}": name for name, stem, dot, end in split}


def read_all(files: Files, _: str) -> Part:
    """The whole label file."""
    place = files.place(LABELS)
    entries = read_json(files.read(LABELS), place)
    if not isinstance(entries, list):
        raise FileFormatError(f"{place}: expected a list, found {type(entries).__name__}")
    part = Part(columns={}, dropped={"no image": 0})
    ids = Counter(repr(entry.get("image_id")) for entry in entries if isinstance(entry, dict))
    there = _by_name(files)
    rows: list[dict[str, Any]] = []
    lacking: list[str] = []
    for number, entry in enumerate(entries):
        file = LABELS
        try:
            row = _read_entry(entry, f"{place}[{number}]")
            if ids[repr(row["key"])] > 1:
                raise FileFormatError(f"{place}[{number}].image_id: {row['key']} occurs twice")
            names = [there[key] for key in (row["key"] + x for x in ENDINGS) if key in there]
            if not names:
                lacking.append(f"images/{row['key']}.jpg")
                continue
            file = f"images/{names[0]}"
            size = checked_size(files.read(file), files.place(file))
            _mesh_points(files, row["key"])
        except HandholdError as error:
            part.problems.append(Problem(file=file, what=str(error)))
            continue
        rows.append(row | {"image": file, "width": size[0], "height": size[1]})
    part.dropped["no image"] = len(lacking)
    part.problems += missing_images(lacking, "it belongs to MOW's images")
    part.columns = columns_of(rows, _TYPES)
    return part


def _read_entry(entry: Any, where: str) -> dict[str, Any]:
    key = plain_name(field(entry, "image_id", where), f"{where}.image_id")
    where = f"{where} ({key})"
    row: dict[str, Any] = {"key": key}
    for name, count in NUMBERS.items():
        found = field(entry, name, where)
        try:
            flat = np.asarray(found).reshape(-1)
        except (TypeError, ValueError, OverflowError) as error:
            raise FileFormatError(f"{where}.{name}: expected numbers: {error}") from error
        row[name] = checked(flat, (count,), f"{where}.{name}")
    for name in ("hand_s", "s"):
        if row[name][0] <= 0:
            raise FileFormatError(f"{where}.{name}: expected a positive scale: {row[name][0]}")
    for name in ("hand_R", "R"):
        check_rotation(row[name].reshape(3, 3), f"{where}.{name}")
    for name, told in (("object", "obj_name"), ("url", "obj_url")):
        row[name] = entry.get(told) or ""
        if not isinstance(row[name], str):
            raise FileFormatError(f"{where}.{told}: expected a text, found {row[name]!r:.60}")
    return row


def missing(files: Files) -> list[str]:
    """What of the complete download is not there."""
    told = [] if files.has(LABELS) else [LABELS]
    images = sum(map(is_image, files.list("images")))
    if images < ENTRIES:
        told.append(f"{ENTRIES - images} of {ENTRIES} images")
    if not any(name.endswith(".obj") for name in files.list("models")):
        told.append("models (the objects' meshes; their boxes are then not known)")
    return told


ENTRY = DatasetEntry(
    title="MOW (Cao et al., ICCV 2021)",
    licence="the set's own terms",
    tops=TOPS,
    splits=("all",),
    train="all",
    test="all",
    index=index_mow,
    select=select_mow,
    labels=("side", "pose"),
    published={"all": (ENTRIES, "the published poses.json")},
    missing=missing,
)
