"""Points with signed distances to hand and object: what HOISDF learns its fields from.

Made on the fly from the labelled meshes instead of read from files of sampled points. Distances are
exact (the original's come from rendered views and differ by well under a millimetre near a
surface). The spread of the points is the original's: about the surface with two widths of noise,
and some anywhere. Camera frame, metres; of a mirrored crop everything is in the mirrored frame.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.geometry.signed_distance import MeshDistance
from handhold.hand.convention import mirror_points
from handhold.hand.topology import closed_faces
from handhold.scene import FloatArray

NOISE = (0.005**0.5, 0.0005**0.5)  # of the radius of hand and object together
UNIFORM = 0.06  # share of points anywhere in the cube about both
MARGIN = 1.03
NEAR = 0.05  # metres: query points lie this near to their surface before the jitter
JITTER = ((0.3, 0.03), (0.7, 0.05), (1.0, 0.07))  # progress of the epoch, half width, normalised
GIVEN_EPOCHS, GIVEN_CHANCE = 40, 0.4


@lru_cache(maxsize=4)
def _closed(faces: bytes) -> NDArray[np.int64]:
    """A hand's int64 faces closed at the wrist: the same for all its poses."""
    return closed_faces(np.frombuffer(faces, np.int64).reshape(-1, 3))


class Surfaces:
    """The labelled hand and object of one crop.

    hand_vertices (778, 3), hand_faces of the hand model (closed here at the wrist). thing: the
    object in its own frame (made once a model, the distance does not change with the pose), with
    rotation (3, 3) and translation (3,) to the camera; None: no object. mirrored: hand_vertices are
    those of the mirrored crop, pose and mesh of the object the true ones.
    """

    def __init__(
        self,
        hand_vertices: FloatArray,
        hand_faces: NDArray[np.integer[Any]],
        thing: MeshDistance | None = None,
        rotation: FloatArray | None = None,
        translation: FloatArray | None = None,
        *,
        mirrored: bool = False,
    ) -> None:
        if thing is not None and (rotation is None or translation is None):
            raise InputError("Surfaces: an object needs its rotation and translation")
        faces = np.ascontiguousarray(hand_faces, np.int64)
        self.hand = MeshDistance(hand_vertices, _closed(faces.tobytes()), once=True)
        self.thing = thing
        self.mirrored = mirrored
        self.rotation = np.eye(3) if rotation is None else np.asarray(rotation, np.float64)
        self.translation = np.zeros(3) if translation is None else np.asarray(translation)

    def mesh(self, target: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Vertices in the crop's camera frame and faces of the target, "hand" (closed) or "object".

        Raises InputError for an unknown target and without an object."""
        measure = self._measure(target)
        if target == "hand":
            return measure.vertices, measure.faces
        placed = measure.vertices @ self.rotation.T + self.translation
        return (mirror_points(placed) if self.mirrored else placed), measure.faces

    def distance(self, target: str, points: FloatArray) -> NDArray[np.float64]:
        """Points (N, 3) -> (N,), metres, positive outside; errors as of `mesh`."""
        return self._measure(target).distance(self._own_frame(target, points))

    def near(self, target: str, points: FloatArray, reach: float) -> NDArray[np.bool_]:
        """Whether points (N, 3) are less than `reach` metres from the surface; errors as of
        `mesh`."""
        return self._measure(target).near(self._own_frame(target, points), reach)

    def _measure(self, target: str) -> MeshDistance:
        if target not in ("hand", "object"):
            raise InputError(f"target: expected hand or object, found {target!r}")
        if target == "hand":
            return self.hand
        if self.thing is None:
            raise InputError("Surfaces: there is no object")
        return self.thing

    def _own_frame(self, target: str, points: FloatArray) -> FloatArray:
        if target == "hand":
            return points
        true = mirror_points(points) if self.mirrored else points
        return (true - self.translation) @ self.rotation


def sample(
    surfaces: Surfaces, target: str, count: int, draw: np.random.Generator
) -> NDArray[np.float64]:
    """`count` points (count, 3) about the surface of the target, "hand" or "object".

    94 % of them on the surface, uniform by area, moved by Gaussian noise of one of two widths, the
    others uniform in the cube about both meshes. Camera frame, metres. Raises InputError for an
    unknown target and without an object.
    """
    mesh = surfaces.mesh(target)
    hand = surfaces.hand.vertices
    both = [hand]
    if surfaces.thing is not None:
        both.append(surfaces.mesh("object")[0])
    centre = (hand.min(axis=0) + hand.max(axis=0)) / 2
    radius = MARGIN * max(float(np.linalg.norm(v - centre, axis=1).max()) for v in both)
    anywhere = round(UNIFORM * count)
    points = on_surface(*mesh, count - anywhere, draw)
    width = radius * draw.choice(NOISE, size=(len(points), 1))
    points = points + width * draw.standard_normal(points.shape)
    return np.concatenate((points, centre + radius * draw.uniform(-1, 1, (anywhere, 3))))


def on_surface(
    vertices: FloatArray, faces: NDArray[np.integer[Any]], count: int, draw: np.random.Generator
) -> NDArray[np.float64]:
    """`count` points (count, 3) on triangles, uniform by area."""
    first, second, third = np.asarray(vertices, np.float64)[faces.T]
    along, across = second - first, third - first
    (a, b, c), (d, e, f) = along.T, across.T
    area = np.sqrt((b * f - c * e) ** 2 + (c * d - a * f) ** 2 + (a * e - b * d) ** 2)
    chosen = draw.choice(len(faces), size=count, p=area / area.sum())
    u, v = draw.random((2, count, 1))
    over = u + v > 1
    u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
    return first[chosen] + u * along[chosen] + v * across[chosen]


def jitter_width(progress: float) -> float:
    """Half width of the query points' jitter, normalised units: it grows over an epoch.

    progress: share of the epoch's steps that are done, 0 to 1."""
    return next((width for end, width in JITTER if progress < end), JITTER[-1][1])


def gives_queries(epoch: int, draw: np.random.Generator) -> bool:
    """Whether a training step's pose stage takes the given points: in the first 40 epochs, then
    with a chance of 0.4; otherwise those of the grid, as in use."""
    return epoch < GIVEN_EPOCHS or bool(draw.random() < GIVEN_CHANCE)


def training_points(
    surfaces: Surfaces,
    target: str,
    points: FloatArray,
    origin: FloatArray,
    count: int,
    draw: np.random.Generator,
    *,
    scale: float = 3.1,
    progress: float = 0.0,
) -> dict[str, NDArray[np.float32]]:
    """What a batch needs of one target: sdf_points (count, 3), sdf (count,), query_points (count,
    3), metres, from the `origin` (3,).

    Of the `points` (N, 3), the first two are any rows with their distances, the query points rows
    within 5 cm of the surface plus uniform jitter. Rows are drawn without repeats where there are
    enough; only those that need it are measured. Raises InputError where no row is near the
    surface.
    """

    def rows(among: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
        return draw.choice(among, size=count, replace=len(among) < count)

    chosen = rows(np.arange(len(points)))
    sdf = surfaces.distance(target, points[chosen])
    near = np.zeros(len(points), dtype=np.bool_)
    others = ~near
    others[chosen] = False
    near[chosen] = np.abs(sdf) < NEAR
    near[others] = surfaces.near(target, points[others], NEAR)
    if not near.any():
        raise InputError(f"points: none lies within {NEAR} m of the surface")
    width = jitter_width(progress) / scale
    query = points[rows(np.flatnonzero(near))] + draw.uniform(-width, width, (count, 3))
    return {
        "sdf_points": (points[chosen] - origin).astype(np.float32),
        "sdf": sdf.astype(np.float32),
        "query_points": (query - origin).astype(np.float32),
    }
