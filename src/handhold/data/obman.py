"""ObMan (Hasson et al., CVPR 2019): rendered hands that grasp ShapeNet objects, 256x256.

`{train,val,test}/meta/<number>.pkl` and, of the same number, `rgb`, `segm` and `depth`. One camera
took all images; the labels' frame has y up and looks along negative z, both are turned here. The
pickles are read without being executed. How their `hand_pose` relates to MANO's mean is not
documented, so Hand.pose and betas stay None; joints and vertices are exact.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.data.coco import missing_images
from handhold.data.dataset import DatasetEntry, IndexedSet, OpenOptions, Record
from handhold.data.files import Files
from handhold.data.index import Index, Part, Problem, Scan, chosen_rows
from handhold.data.sanity import check_hand
from handhold.errors import FileFormatError, HandholdError, MissingFileError
from handhold.fields import checked, field, mapping
from handhold.geometry.boxes import box_from_points
from handhold.hand.convention import OPENGL_OPENCV, opengl_to_opencv
from handhold.hand.foreign_pickle import read_foreign_pickle
from handhold.scene import Camera, Hand, RigidObject, Sample

PARTS = {"train": 141_550, "val": 6_463, "test": 6_285}
SPLITS = (*PARTS, "all")
SIZE = 256
INTRINSICS = ((480.0, 0.0, 128.0), (0.0, 480.0, 128.0), (0.0, 0.0, 1.0))
HAND_VALUES = {"right": (22, 24), "left": (21, 23)}  # of the segmentation
OBJECT_VALUE = 100
SLICE = 1000  # samples in one part of the scan


def index_obman(files: Files, options: OpenOptions) -> Index:
    """The samples that are there."""
    return options.index(files, _scan(files))


def select_obman(files: Files, index: Index, split: str, options: OpenOptions) -> ObMan:
    """One split: `train`, `val`, `test`, or `all`: what is there of them. Raises
    MissingFileError where a split's labels are missing; what reading raises."""
    there = [part for part in PARTS if _numbers(files, f"{part}/meta")]
    wanted = there if split == "all" else [split]
    if not wanted or not set(wanted) <= set(there):
        lacking = f"{split if split in PARTS else 'test'}/meta"
        raise MissingFileError(f"{files.place(lacking)}: no such folder; {split} needs it")
    rows = chosen_rows(index, "part", [list(PARTS).index(part) for part in wanted])
    return ObMan("obman", split, files, index, rows, options)


class ObMan(IndexedSet):
    """The images of one split by number. The object is named by its ShapeNet id (`sample_id`); its
    own frame is ShapeNet's model times Record.extra's `object_scale`, without a mesh here. It is
    None where the labelled matrix is more than a rotation, a scale and a shift.

    Record.extra: `affine_transform` (4, 4) as it is stored, `class_id`, `depth_range` (nearest and
    farthest in metres; None where the labels do not say), and, unchanged, `hand_pose`, `pca_pose`
    and `obj_scale`.
    """

    size = (SIZE, SIZE)

    def image_name(self, number: int) -> str:
        return self._name(number, "rgb", "jpg")

    def _name(self, number: int, folder: str, ending: str) -> str:
        place, column = self.rows[number], self.index.columns
        part = list(PARTS)[column["part"][place]]
        return f"{part}/{folder}/{int(column['number'][place]):08d}.{ending}"

    def record(self, number: int) -> Record:
        if not 0 <= number < len(self):
            raise IndexError(number)
        meta = read_meta(self.files, self._name(number, "meta", "pkl"))
        joints2d = meta["coords_2d"]
        hand = Hand(
            side=meta["side"],
            box=box_from_points(joints2d),
            joints2d=joints2d,
            joints2d_valid=np.ones(21, bool),
            joints=opengl_to_opencv(meta["coords_3d"]),
            vertices=opengl_to_opencv(meta["verts_3d"]),
        )
        thing, scale = _placed(meta["affine_transform"], meta["sample_id"])
        unchanged = ("affine_transform", "class_id", "hand_pose", "pca_pose", "obj_scale")
        part, _, stem = self._name(number, "rgb", "jpg").split("/")
        return Record(
            key=f"{part}/{stem.removesuffix('.jpg')}",
            image=self.image_name(number),
            camera=Camera(
                intrinsics=np.array(INTRINSICS), width=SIZE, height=SIZE, source="dataset"
            ),
            hands=(hand,),
            object=thing,
            extra={name: meta.get(name) for name in unchanged}
            | {"depth_range": meta["depth_range"], "object_scale": scale},
        )

    def complete(self, sample: Sample, record: Record, number: int) -> Sample:
        """Adds masks (visible pixels, and the hand without the object) and depth where their files
        are there, unless `skip` names them."""
        added: dict[str, Any] = {}
        segm, depth = (self._name(number, folder, "png") for folder in ("segm", "depth"))
        masks = {"hand_mask", "object_mask", "hand_mask_amodal"}
        whole = 0
        if self.files.has(segm) and not masks | {"depth"} <= self.skip:
            image = self._image(segm)
            whole = scene_channel(image)
            parts = HAND_VALUES[str(sample.hands[0].side)]
            added = {
                "hand_mask": np.isin(image[..., whole], parts),
                "object_mask": image[..., whole] == OBJECT_VALUE,
            }
            if image.shape[2] >= 3:
                added["hand_mask_amodal"] = np.isin(image[..., 1], parts)
        span = record.extra["depth_range"]
        if span is not None and "depth" not in self.skip and self.files.has(depth):
            image = self._image(depth)
            grey = image[..., min(whole, image.shape[2] - 1)].astype(np.float32)
            metres = span[1] - (grey - 1) / 254 * (span[1] - span[0])
            added["depth"] = np.where(grey > 0, metres, 0).astype(np.float32)
        added = {name: value for name, value in added.items() if name not in self.skip}
        return dataclasses.replace(sample, **added)

    def _image(self, name: str) -> NDArray[Any]:
        image = self.files.raw_image(name)
        if image.shape[:2] != (SIZE, SIZE) or image.dtype != np.uint8:
            raise FileFormatError(
                f"{self.files.place(name)}: expected {SIZE}x{SIZE} bytes, found {image.dtype} of "
                f"{image.shape}"
            )
        return image if image.ndim == 3 else image[..., None]


def scene_channel(segm: NDArray[Any]) -> int:
    """Which channel shows the whole scene: the first or the last, as the image was written with
    blue or red first. The one at the other end shows the object alone, without hand values."""
    hands = [value for values in HAND_VALUES.values() for value in values]
    if segm.shape[2] < 3 or np.isin(segm[..., 0], hands).any():
        return 0
    return 2 if np.isin(segm[..., 2], hands).any() else 0


def _placed(matrix: NDArray[np.float64], name: str) -> tuple[RigidObject | None, float | None]:
    """The object of a matrix, and its scale."""
    linear = matrix[:3, :3]
    scale = float(np.cbrt(np.linalg.det(linear)))
    if scale < 1e-9 or np.abs(linear @ linear.T / scale**2 - np.eye(3)).max() > 1e-2:
        return None, None
    signs = np.array(OPENGL_OPENCV)
    return RigidObject(
        name=name, rotation=signs[:, None] * linear / scale, translation=signs * matrix[:3, 3]
    ), scale


# ----------------------------------------------------------------------------------- reading


def _numbers(files: Files, folder: str) -> list[str]:
    """Names without ending of a folder's files, in order."""
    ending = {"meta": ".pkl", "rgb": ".jpg"}.get(folder.rpartition("/")[2], ".png")
    stems = (name.removesuffix(ending) for name in files.list(folder) if name.endswith(ending))
    return [stem for stem in stems if len(stem) == 8 and stem.isdecimal()]


def _scan(files: Files) -> Scan:
    parts: list[str] = []
    labels: list[str] = []
    for part in PARTS:
        numbers = _numbers(files, f"{part}/meta")
        parts += [f"{part} {start}" for start in range(0, len(numbers), SLICE)]
        labels += [f"{part}/meta/{number}.pkl" for number in numbers]
    folders = [f"{part}/{folder}" for part in PARTS for folder in ("meta", "rgb")]
    return Scan(
        name="obman",
        version=1,
        parts=tuple(parts),
        watched=tuple(folders),
        labels=lambda: labels,
        read=read_slice,
    )


def read_slice(files: Files, key: str) -> Part:
    """Some samples of a split. key: "<split> <first>"."""
    part, _, first = key.rpartition(" ")
    numbers = _numbers(files, f"{part}/meta")
    images = set(_numbers(files, f"{part}/rgb"))
    found = Part(columns={})
    if int(first) == 0:
        unlabelled = [f"{part}/meta/{n}.pkl" for n in sorted(images - set(numbers))]
        lacking = [f"{part}/rgb/{n}.jpg" for n in numbers if n not in images]
        found.dropped = {"no image": len(lacking)}
        found.problems = missing_images(lacking, "its labels are there")
        for problem in missing_images(unlabelled, "its image is there"):
            what = problem.what.replace("such image", "such file").replace("images", "label files")
            found.problems.append(Problem(file=problem.file, what=what))
    rows: list[int] = []
    for number in numbers[int(first) : int(first) + SLICE]:
        name = f"{part}/meta/{number}.pkl"
        if number not in images:
            continue
        try:
            read_meta(files, name)
        except HandholdError as error:
            found.problems.append(Problem(file=name, what=str(error)))
            continue
        rows.append(int(number))
    place = np.full(len(rows), list(PARTS).index(part), np.uint8)
    found.columns = {"part": place, "number": np.array(rows, np.uint32)}
    return found


def read_meta(files: Files, name: str) -> dict[str, Any]:
    """A sample's labels, checked, in the file's own frame. Raises FileFormatError that names the
    field."""
    where = files.place(name)
    found = read_foreign_pickle(files.read(name), where)
    meta = dict(mapping(found, where))
    shapes = {
        "coords_2d": (21, 2), "coords_3d": (21, 3), "verts_3d": (778, 3), "affine_transform": (4, 4)
    }  # fmt: skip
    for name, shape in shapes.items():
        meta[name] = checked(field(meta, name, where), shape, f"{where}: {name}")
    check_hand(opengl_to_opencv(meta["coords_3d"]), f"{where}: coords_3d (y and z negated)")
    for name in ("side", "sample_id"):
        text = field(meta, name, where)
        meta[name] = text.decode("latin1") if isinstance(text, bytes) else text
    if meta["side"] not in ("left", "right"):
        raise FileFormatError(f"{where}: side: expected left or right, found {meta['side']!r:.60}")
    if not isinstance(meta["sample_id"], str) or not meta["sample_id"]:
        raise FileFormatError(f"{where}: sample_id: expected a text: {meta['sample_id']!r:.60}")
    if np.abs(meta["affine_transform"][3] - (0, 0, 0, 1)).max() > 1e-6:
        raise FileFormatError(f"{where}: affine_transform: expected a last row of 0, 0, 0, 1")
    meta["depth_range"] = None
    if "depth_min" in meta and "depth_max" in meta:
        span = [float(checked(meta[k], (), f"{where}: {k}")) for k in ("depth_min", "depth_max")]
        if 0 < span[0] <= span[1]:
            meta["depth_range"] = (span[0], span[1])
    return meta


def missing(files: Files) -> list[str]:
    """What of the complete download is not there."""
    told: list[str] = []
    for part, wanted in PARTS.items():
        for folder in ("meta", "rgb", "segm", "depth"):
            count = len(_numbers(files, f"{part}/{folder}"))
            if count < wanted:
                told.append(f"{wanted - count} of {wanted} files of {part}/{folder}")
    return told


ENTRY = DatasetEntry(
    title="ObMan (Hasson et al., CVPR 2019)",
    licence="the set's own terms; ShapeNet's for the objects",
    tops=tuple(PARTS),
    splits=SPLITS,
    train="train",
    test="test",
    index=index_obman,
    select=select_obman,
    labels=("side",),
    published={
        part: (count, "the count generally given (not checked against the files)")
        for part, count in PARTS.items()
    },
    missing=missing,
)
