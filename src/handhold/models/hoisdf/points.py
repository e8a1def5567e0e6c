"""Points with signed distances to hand and object: what HOISDF learns its fields from.

Made on the fly from the labelled meshes instead of read from files of sampled points. Distances are
exact (the original's come from rendered views and differ by well under a millimetre near a
surface). The spread of the points is the original's: about the surface with two widths of noise,
and some anywhere. Camera frame, metres; of a mirrored crop everything is in the mirrored frame.
"""

from __future__ import annotations

from dataclasses import dataclass
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
        self.hand = MeshDistance(hand_vertices, closed_faces(np.asarray(hand_faces)))
        self.thing = thing
        self.mirrored = mirrored
        self.rotation = np.eye(3) if rotation is None else np.asarray(rotation, np.float64)
        self.translation = np.zeros(3) if translation is None else np.asarray(translation)

    def object_mesh(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The object's vertices in the crop's camera frame and its faces; InputError without."""
        if self.thing is None:
            raise InputError("Surfaces: there is no object")
        placed = self.thing.vertices @ self.rotation.T + self.translation
        return (mirror_points(placed) if self.mirrored else placed), self.thing.faces

    def hand_distance(self, points: FloatArray) -> NDArray[np.float64]:
        """Points (N, 3) -> (N,), metres, positive outside."""
        return self.hand.distance(points)

    def object_distance(self, points: FloatArray) -> NDArray[np.float64]:
        """Points (N, 3) -> (N,), metres, positive outside; InputError without an object."""
        if self.thing is None:
            raise InputError("Surfaces: there is no object")
        true = mirror_points(points) if self.mirrored else points
        return self.thing.distance((true - self.translation) @ self.rotation)


@dataclass(frozen=True, kw_only=True)
class DistanceSamples:
    """points (N, 3) camera frame, distances (N,): to the surface they were drawn about; metres."""

    points: NDArray[np.float64]
    distances: NDArray[np.float64]


def sample(
    surfaces: Surfaces, target: str, count: int, draw: np.random.Generator
) -> DistanceSamples:
    """`count` points about the surface of the target, "hand" or "object", with their distances.

    94 % of them on the surface, uniform by area, moved by Gaussian noise of one of two widths, the
    others uniform in the cube about both meshes. Raises InputError for an unknown target.
    """
    if target not in ("hand", "object"):
        raise InputError(f"target: expected hand or object, found {target!r}")
    hand = surfaces.hand.vertices
    both = [hand]
    if surfaces.thing is not None:
        both.append(surfaces.object_mesh()[0])
    centre = (hand.min(axis=0) + hand.max(axis=0)) / 2
    radius = MARGIN * max(float(np.linalg.norm(v - centre, axis=1).max()) for v in both)
    mesh = (hand, surfaces.hand.faces) if target == "hand" else surfaces.object_mesh()
    anywhere = round(UNIFORM * count)
    points = on_surface(*mesh, count - anywhere, draw)
    width = radius * draw.choice(NOISE, size=(len(points), 1))
    points = points + width * draw.standard_normal(points.shape)
    points = np.concatenate((points, centre + radius * draw.uniform(-1, 1, (anywhere, 3))))
    measure = surfaces.hand_distance if target == "hand" else surfaces.object_distance
    return DistanceSamples(points=points, distances=measure(points))


def on_surface(
    vertices: FloatArray, faces: NDArray[np.integer[Any]], count: int, draw: np.random.Generator
) -> NDArray[np.float64]:
    """`count` points (count, 3) on triangles, uniform by area."""
    corners = np.asarray(vertices, np.float64)[faces]
    sides = corners[:, 1:] - corners[:, :1]
    area = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1)
    chosen = draw.choice(len(faces), size=count, p=area / area.sum())
    u, v = draw.random((2, count, 1))
    over = u + v > 1
    u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
    return corners[chosen, 0] + u * sides[chosen, 0] + v * sides[chosen, 1]


def jitter_width(progress: float) -> float:
    """Half width of the query points' jitter, normalised units: it grows over an epoch.

    progress: share of the epoch's steps that are done, 0 to 1."""
    return next((width for end, width in JITTER if progress < end), JITTER[-1][1])


def gives_queries(epoch: int, draw: np.random.Generator) -> bool:
    """Whether a training step's pose stage takes the given points: in the first 40 epochs, then
    with a chance of 0.4; otherwise those of the grid, as in use."""
    return epoch < GIVEN_EPOCHS or bool(draw.random() < GIVEN_CHANCE)


def training_points(
    samples: DistanceSamples,
    origin: FloatArray,
    count: int,
    draw: np.random.Generator,
    *,
    scale: float = 3.1,
    progress: float = 0.0,
) -> dict[str, NDArray[np.float32]]:
    """What a batch needs of one target: sdf_points (count, 3), sdf (count,), query_points (count,
    3), metres, from the `origin` (3,).

    The first two are any rows, the query points rows within 5 cm of the surface plus uniform
    jitter. Rows are drawn without repeats where there are enough. Raises InputError where no row is
    near the surface.
    """

    def rows(among: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
        return draw.choice(among, size=count, replace=len(among) < count)

    near = np.flatnonzero(np.abs(samples.distances) < NEAR)
    if not len(near):
        raise InputError(f"samples: none lies within {NEAR} m of the surface")
    any_row = rows(np.arange(len(samples.points)))
    width = jitter_width(progress) / scale
    query = samples.points[rows(near)] + draw.uniform(-width, width, (count, 3))
    return {
        "sdf_points": (samples.points[any_row] - origin).astype(np.float32),
        "sdf": samples.distances[any_row].astype(np.float32),
        "query_points": (query - origin).astype(np.float32),
    }
