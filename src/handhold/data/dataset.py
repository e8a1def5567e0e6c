"""What every published data set gives: records (labels alone) and Samples (with the image)."""

from __future__ import annotations

import abc
import dataclasses
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from handhold.data.files import Files, wrong_size
from handhold.data.index import Index, Scan, open_index
from handhold.data.object_points import ObjectPoints
from handhold.errors import FileFormatError
from handhold.hand.convention import TIP_JOINTS
from handhold.hand.model import HandModel
from handhold.scene import Camera, FloatArray, Hand, RigidObject, Sample, Side

if TYPE_CHECKING:
    from handhold.data.occlusion import Renderer

MISSING_IMAGES = "missing_images"  # in `skip`: leave out hands whose image is not there
DAMAGED_SEQUENCES = "damaged_sequences"  # and whole sequences whose common files are damaged
LENIENT = (MISSING_IMAGES, DAMAGED_SEQUENCES)
# labels that some sets lack, and how to call them
LABELS = {
    "side": "left or right",
    "pose": "the hand's 3D pose",
    "object": "pose and outline of a known object",
    "grasp": "whether the hand grasps",
    "visibility": "how much of the hand is hidden",
    "bare": "second images without the object",
}
AGREEMENT = 0.005  # metres between labelled joints and those of the hand model


@dataclass(frozen=True, kw_only=True)
class OpenOptions:
    """How a set is opened.

    mano: folder of the official hand models, whose parameters the labels are; the free hand
    otherwise. skip: fields of Sample that need not be read, and any of LENIENT. cache, workers,
    progress, thorough: of the index, as `open_index` explains.
    """

    mano: str | Path | None = None
    skip: Collection[str] = ()
    cache: Path | None = None
    workers: int | None = None
    progress: Callable[[int, int], None] | None = None
    thorough: bool = False

    def index(self, files: Files, scan: Scan) -> Index:
        """The index of a set, made first where there is none."""
        return open_index(
            files, scan, cache=self.cache, workers=self.workers, progress=self.progress,
            thorough=self.thorough,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Record:
    """The labels of one sample without its image, in the vocabulary of `Sample`.

    image: name of the image file in the official tree. grasping_10mm, grasping_50mm: the two rules
    of the literature (`data.labels`), None where the set says nothing about motion. extra: what
    only this set has, under names that its module explains. exported: labels of the (one) hand that
    `Hand` cannot hold, by the names of its fields, for `data export`: vertices, pose or betas of
    another hand model than the one at hand (`IndexedSet.fits`), joints of which some are NaN.
    """

    key: str
    image: str
    camera: Camera
    hands: tuple[Hand, ...]
    object: RigidObject | None = None
    hands_complete: bool = False
    grasping_10mm: bool | None = None
    grasping_50mm: bool | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    exported: dict[str, Any] = field(default_factory=dict)


class IndexedSet(abc.ABC):
    """The common part of the sets: rows of an index, chosen and ordered by a split.

    rows: of the index, in the split's order. Subclasses say how a row becomes a Record, and may
    add masks (`complete`).
    """

    size: tuple[int, int] | None = None  # of all images, where they are all alike

    def __init__(
        self,
        name: str,
        split: str,
        files: Files,
        index: Index,
        rows: NDArray[np.int64],
        options: OpenOptions,
    ) -> None:
        self.name, self.split = name, split
        self.files, self.index, self.rows = files, index, rows
        self.skip = frozenset(options.skip)
        self.object_points = ObjectPoints(files)
        self.renderer: Renderer | None = None  # fills labels that the set lacks
        self.assumed_side: Side | None = None  # of samples' hands where no label tells it
        self._mano = options.mano
        self._hand_models: dict[str, HandModel] = {}
        self._warned = False

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def hands(self) -> list[int]:
        """Labelled hands of each sample."""
        return [1] * len(self)

    def hand_key(self, record: Record, place: int) -> str:
        """The key of one hand: the sample's, with its number where the sample has several."""
        return f"{record.key}#{place}" if len(record.hands) > 1 else record.key

    def row(self, number: int) -> dict[str, Any]:
        """The columns of a sample."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        place = int(self.rows[number])
        return {name: column[place] for name, column in self.index.columns.items()}

    @abc.abstractmethod
    def record(self, number: int) -> Record:
        """The labels of a sample; no image is read."""

    def image_name(self, number: int) -> str:
        """The image file of a sample; sets whose records take work say it without them."""
        return self.record(number).image

    def image_size(self, number: int) -> tuple[int, int] | None:
        """Width and height that a sample's labels are for, without the record."""
        column = self.index.columns
        if self.size is not None or "width" not in column:
            return self.size
        place = int(self.rows[number])
        return int(column["width"][place]), int(column["height"][place])

    def complete(self, sample: Sample, record: Record, number: int) -> Sample:
        """The sample with what takes reading of more files, such as masks."""
        return sample

    def __getitem__(self, number: int) -> Sample:
        record = self.record(number)
        image = self.files.image(record.image)
        height, width = image.shape[:2]
        if (width, height) != (record.camera.width, record.camera.height):
            wanted = (record.camera.width, record.camera.height)
            place = self.files.place(record.image)
            raise FileFormatError(wrong_size(place, wanted, (width, height)))
        sample = Sample(
            key=record.key,
            image=image,
            camera=record.camera,
            hands=tuple(
                dataclasses.replace(hand, side=hand.side or self.assumed_side)
                for hand in record.hands
            ),
            object=record.object,
            hands_complete=record.hands_complete,
        )
        sample = self.complete(sample, record, number)
        return sample if self.renderer is None else self.renderer.add(self, sample, record)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def hand_model(self, side: str) -> HandModel:
        """The hand model of a side that the labels are read with."""
        if side not in self._hand_models:
            right_or_left = "left" if side == "left" else "right"
            self._hand_models[side] = HandModel.load(self._mano, right_or_left)
        return self._hand_models[side]

    def fits(self, model: HandModel, found: FloatArray, labelled: FloatArray) -> bool:
        """Whether a label's pose may be used with this hand model.

        found: joints (21, 3) of the model in the labelled pose; labelled: those of the label. With
        the free hand, parameters that were fitted with MANO give another hand: then only the
        labelled joints are used, and a warning says so once.
        """
        off = np.linalg.norm(found - labelled, axis=-1)
        return self._same_hand(model, float(np.delete(off, TIP_JOINTS).max()))

    def fits_mesh(
        self, vertices: FloatArray, joints: FloatArray, side: str = "right", *, warn: bool = True
    ) -> bool:
        """Whether labelled vertices (778, 3) are those of this hand model: with the free hand, its
        fingertip vertices must be the labelled tips; joints (21, 3): of the same hand. warn: say
        so once where they are not."""
        model = self.hand_model(side)
        off = np.linalg.norm(vertices[model.tips.numpy()] - joints[list(TIP_JOINTS)], axis=-1)
        return self._same_hand(model, float(off.max()), warn=warn)

    def _same_hand(self, model: HandModel, off: float, *, warn: bool = True) -> bool:
        if not model.is_free or off <= AGREEMENT:
            return True
        if warn and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.name}: the labels were made with another hand model than the free hand, "
                "so only their joints are used; give MANO's own files (--mano FOLDER) for pose, "
                "shape and vertices",
                stacklevel=4,
            )
        return False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_hand_models": {}}  # a worker process loads its own


@dataclass(frozen=True, kw_only=True)
class Count:
    """How many samples a split has here and in print, and what is held in how many of them by the
    papers' and the released rule (None: the set does not say)."""

    split: str
    found: int
    published: int | None
    source: str = ""
    holding_10mm: int | None = None
    holding_50mm: int | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """One published set, for the registry.

    tops: patterns of the top of its official tree. splits: their names; train, test: the ones taken
    where none is named. index: of all that is there. select: a split of that index; where a set
    refuses samples without an image or damaged sequences, LENIENT in `options.skip` leaves them
    out. labels: of LABELS, those that a training can learn from beside 2D joints. published: split
    -> (samples, where that is printed). missing: `missing(files)` -> what of a complete download is
    not there, in words.
    """

    title: str
    licence: str
    tops: tuple[str, ...]
    splits: tuple[str, ...]
    train: str
    test: str
    index: Callable[[Files, OpenOptions], Index]
    select: Callable[[Files, Index, str, OpenOptions], IndexedSet]
    labels: tuple[str, ...]
    published: dict[str, tuple[int, str]]
    missing: Callable[[Files], list[str]]

    def open(self, files: Files, split: str, options: OpenOptions) -> IndexedSet:
        """One split of the set in its official files."""
        return self.select(files, self.index(files, options), split, options)
