"""What is seen of hand and object, made from the labelled meshes where a set does not say it.

A hand's mesh comes with its labels; an object's from a folder of meshes, or from the models that
lie beside the set. Without them nothing is made up: the fields stay None.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from handhold.data.files import Files
from handhold.errors import FileFormatError, InputError
from handhold.objects.control_points import control_points
from handhold.objects.mesh import ObjectMesh, load_objects
from handhold.render.raycast import RenderMesh, Scene3D, boxes, cast
from handhold.scene import Camera, Hand, RigidObject, Sample

if TYPE_CHECKING:
    from handhold.data.dataset import IndexedSet, Record

Mask = NDArray[np.bool_]
WANTED = ("occlusion", "masks")
# sets whose hand_mask is the visible hand; what FreiHAND's shows besides it is not documented
ANNOTATED = ("dexycb", "ho3d-v2", "ho3d-v3", "obman")


def visible_share(visible: Mask, amodal: Mask) -> float | None:
    """The visible share of a hand, 1 = nothing hides it: the intersection over union of its
    visible mask and its whole one (UniHOPE, supplement: the annotated mask against the fully
    rendered hand). None where the whole hand lies outside the image."""
    if not amodal.any():
        return None
    return float((visible & amodal).sum() / (visible | amodal).sum())


@dataclass(frozen=True, kw_only=True)
class Seen:
    """visible, amodal (M, H, W): where each of M meshes is seen, and where it would be alone."""

    visible: Mask
    amodal: Mask


def see(meshes: Sequence[RenderMesh], camera: Camera, among: int | None = None) -> Seen:
    """Render the masks of meshes in one camera, pixel centres against triangles.

    among: the number of meshes, from the first, that matter; the others only hide them, and their
    own masks are known only where one of the first may be."""
    scene = Scene3D(meshes)
    found = [box for box in boxes(scene, camera)[:among] if box[2] > box[0] and box[3] > box[1]]
    shape = (len(meshes), camera.height, camera.width)
    visible, amodal = np.zeros(shape, bool), np.zeros(shape, bool)
    if found:
        left, top, right, bottom = (
            choose(values)
            for choose, values in zip((min, min, max, max), zip(*found, strict=True), strict=True)
        )
        intrinsics = camera.intrinsics.astype(np.float64)
        intrinsics[:2, 2] -= (left, top)
        window = Camera(intrinsics=intrinsics, width=right - left, height=bottom - top)
        hits = cast(scene, window)
        place = (slice(None), slice(top, bottom), slice(left, right))
        visible[place] = hits.mesh == np.arange(len(meshes))[:, None, None]
        amodal[place] = hits.amodal
    return Seen(visible=visible, amodal=amodal)


def hand_faces(samples: IndexedSet, hand: Hand) -> NDArray[np.int64] | None:
    """The triangles (F, 3) of a labelled hand's vertices; None where they are not known: no
    vertices, or MANO's, read without MANO's files."""
    if hand.side is None or hand.vertices is None or hand.joints is None:
        return None
    if not samples.fits_mesh(hand.vertices, hand.joints, hand.side, warn=False):
        return None
    return samples.hand_model(hand.side).faces.numpy()


class SetMeshes:
    """The objects' meshes of a set, in the frame in which RigidObject places them.

    folder: of meshes by name (`<name>.obj`, or the layout of YCB), first looked at; then the set's
    own `models`. Raises what reading raises.
    """

    def __init__(self, files: Files, folder: str | Path | None = None) -> None:
        self.files = files
        self._given: dict[str, ObjectMesh] = {} if folder is None else load_objects(folder)
        self._kept: dict[str, RenderMesh | None] = {}

    def of(self, samples: IndexedSet, record: Record) -> RenderMesh | None:
        """The mesh of a record's object; None where there is none."""
        name = None if record.object is None else record.object.name
        single = samples.name == "mow"  # every photo has an object of its own
        if name is None and not single:
            return None
        scale = float(record.extra.get("object_scale") or 1.0)
        key = record.key if single else f"{name} {scale:.6g}"
        if key not in self._kept:
            if len(self._kept) >= 64:
                self._kept.clear()
            found = self._own(record.key) if single else self._named(str(name))
            if found is not None and single:
                vertices = scale * (found[0] - found[0].mean(0)) * (1.0, -1.0, 1.0)
                found = vertices, found[1][:, ::-1]
            elif found is not None:
                found = scale * found[0], found[1]
            mesh = None if found is None else RenderMesh(vertices=found[0], faces=found[1])
            self._kept[key] = mesh
        return self._kept[key]

    def _named(self, name: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
        if name in self._given:
            return self._given[name].vertices.astype(np.float64), self._given[name].faces
        return self._own(f"{name}/textured_simple")

    def _own(self, name: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
        file = f"models/{name}.obj"
        if not self.files.has(file):
            return None
        return read_triangles(self.files.read(file), self.files.place(file))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": {}}  # search trees stay in their process


def read_triangles(data: bytes, where: str) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """Vertices (V, 3) and triangles (F, 3) of an OBJ file's bytes; None for points without faces.

    Raises FileFormatError."""
    import trimesh

    if not any(line.startswith(b"f ") for line in data.splitlines()):
        return None
    try:
        options = {"process": False, "force": "mesh", "skip_materials": True}
        mesh: Any = trimesh.load(io.BytesIO(data), file_type="obj", **options)
        vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
    except Exception as error:  # trimesh raises whatever its parsers raise
        raise FileFormatError(f"{where}: not a readable mesh ({error})") from error
    if not len(faces) or not np.isfinite(vertices).all():
        raise FileFormatError(f"{where}: expected triangles of finite vertices")
    return vertices, faces


class Renderer:
    """Fills a sample's missing labels when it is read.

    occlusion: `Hand.visibility`, from the set's own mask of the visible hand where it has one, else
    by rendering hand and object. masks: `hand_mask_amodal`, `hand_mask`, `object_mask`. Either also
    fills the object's control points from its mesh. What the set says itself is kept. Other things
    than the labelled hands and object, which only an annotated mask shows, hide nothing here.
    objects: folder of meshes by name. Raises InputError for unknown labels.
    """

    def __init__(
        self, files: Files, wanted: Iterable[str], objects: str | Path | None = None
    ) -> None:
        self.wanted = frozenset(wanted)
        if unknown := sorted(self.wanted - set(WANTED)):
            raise InputError(f"labels: found {', '.join(unknown)}, expected {' or '.join(WANTED)}")
        self.meshes = SetMeshes(files, objects)

    def add(self, samples: IndexedSet, sample: Sample, record: Record) -> Sample:
        """The sample with the labels that can be made."""
        hands = _hand_meshes(samples, sample.hands)
        mesh = self.meshes.of(samples, record)
        sample = dataclasses.replace(sample, object=_with_points(sample.object, mesh))
        if not hands:
            return sample
        thing = sample.object
        whole = mesh is not None and thing is not None  # all that is labelled can be drawn
        if mesh is not None and thing is not None:
            hands.append(mesh.placed(thing.rotation, thing.translation))
        count = len(sample.hands)
        masks = "masks" in self.wanted
        annotated = sample.hand_mask is not None and samples.name in ANNOTATED and count == 1
        amodal = sample.hand_mask_amodal
        if annotated and amodal is not None and not masks:
            return _with_shares(sample, [visible_share(_known(sample.hand_mask), amodal)])
        seen = see(hands, sample.camera, None if masks else count)
        added: dict[str, Any] = {}
        if "occlusion" in self.wanted and annotated:
            full = seen.amodal[0] if amodal is None else amodal
            sample = _with_shares(sample, [visible_share(_known(sample.hand_mask), full)])
        elif "occlusion" in self.wanted and whole:
            shares = [visible_share(seen.visible[i], seen.amodal[i]) for i in range(count)]
            sample = _with_shares(sample, shares)
        if masks:
            added["hand_mask_amodal"] = seen.amodal[:count].any(0)
            if whole:
                added["hand_mask"] = seen.visible[:count].any(0)
                added["object_mask"] = seen.visible[count]
        added = {
            name: mask
            for name, mask in added.items()
            if getattr(sample, name) is None and name not in samples.skip
        }
        return dataclasses.replace(sample, **added)


def _known(mask: Mask | None) -> Mask:
    if mask is None:
        raise InputError("hand_mask: expected a mask, found none")
    return mask


def _hand_meshes(samples: IndexedSet, hands: Sequence[Hand]) -> list[RenderMesh]:
    """All hands' meshes; none where one is lacking, as it might hide another."""
    found: list[RenderMesh] = []
    for hand in hands:
        faces = hand_faces(samples, hand)
        if faces is None or hand.vertices is None:
            return []
        found.append(RenderMesh(vertices=hand.vertices, faces=faces))
    return found


def _with_shares(sample: Sample, shares: Sequence[float | None]) -> Sample:
    hands = tuple(
        hand if hand.visibility is not None else dataclasses.replace(hand, visibility=share)
        for hand, share in zip(sample.hands, shares, strict=True)
    )
    return dataclasses.replace(sample, hands=hands)


def _with_points(thing: RigidObject | None, mesh: RenderMesh | None) -> RigidObject | None:
    if thing is None or mesh is None or thing.control_points is not None:
        return thing
    return dataclasses.replace(thing, control_points=control_points(mesh.vertices))
