"""Signed distances to triangle meshes: exact (libigl) and from a grid (fast, for searching).

Outside is positive, inside negative, metres. The sign is the generalised winding number (Jacobson
et al., 2013; fast evaluation: Barill et al., 2018), so small holes, overlapping closed pieces and
repeated vertices do no harm. The hand must be closed at the wrist before it is measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.scene import FloatArray

_INSIDE = 0.5  # winding number above which a point is inside
_ROUGH = 1.2  # libigl's accuracy of a first look, off by up to 0.07 (2: its default)
_DOUBT = 0.25  # a first look this near to one half is repeated
_ABOVE = 2e-5  # metres: "just outside of a face"


def _libigl() -> Any:
    """libigl's untyped module, loaded when first needed."""
    import igl

    return igl


def _points(points: FloatArray) -> NDArray[np.float64]:
    array = np.ascontiguousarray(points, dtype=np.float64)
    if array.ndim < 1 or array.shape[-1] != 3:
        raise InputError(f"points: expected (..., 3), found {array.shape}")
    return array.reshape(-1, 3)


def _normals(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit normals (F, 3) of triangles (F, 3, 3); zero without area."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return normals / np.where(length > 0, length, 1.0)


class MeshDistance:
    """Exact signed distance to a mesh.

    vertices (V, 3) metres, faces (F, 3) integers, wound outward. Faces that lie wholly inside
    another piece of the same mesh do not count as surface. once: for a mesh that is asked a few
    points only, as a posed hand: such faces are looked for only when a point's closest point turns
    out to be one of theirs. Raises InputError for wrong shapes or indices and for NaN.
    """

    def __init__(
        self, vertices: FloatArray, faces: NDArray[np.integer[Any]], *, once: bool = False
    ) -> None:
        self.vertices = np.ascontiguousarray(vertices, dtype=np.float64)
        self.faces = np.ascontiguousarray(faces, dtype=np.int64)
        if self.vertices.ndim != 2 or self.vertices.shape[1] != 3:
            raise InputError(f"vertices: expected (V, 3), found {self.vertices.shape}")
        if self.faces.ndim != 2 or self.faces.shape[1] != 3 or not len(self.faces):
            raise InputError(f"faces: expected (F, 3), F > 0, found {self.faces.shape}")
        if self.faces.min() < 0 or self.faces.max() >= len(self.vertices):
            raise InputError(f"faces: an index is outside 0 to {len(self.vertices) - 1}")
        if not np.isfinite(self.vertices).all():
            raise InputError("vertices: NaN or infinite numbers, expected finite metres")
        self._outer, self._settled = self.faces, not once
        self._order = 1 if once else 2  # of the winding number's expansions
        self._prepare()
        if not once:
            self._drop_buried(np.ones(len(self.faces), dtype=np.bool_))

    def _prepare(self) -> None:
        igl = _libigl()
        self._tree: Any = igl.AABB()
        self._tree.init(self.vertices, self._outer)
        self._pieces: Any = igl.FastWindingNumberBVH()  # of all faces
        self._pieces.init(self.vertices, self.faces, self._order)
        self._low, self._high = self.vertices.min(axis=0), self.vertices.max(axis=0)
        self._corners: Any = None  # only when asked for

    def _drop_buried(self, among: NDArray[np.bool_]) -> bool:
        """Leave out the faces, `among` the outer ones, that are inside another piece: just outside
        of the others lies empty space. Whether there were any."""
        corners = self.vertices[self._outer[among]]
        centre = corners.mean(axis=1, keepdims=True)
        above = _ABOVE * _normals(corners)[:, None]
        buried = self.inside((centre + above)[:, 0])
        if buried.any():
            probes = (0.98 * corners + 0.02 * centre + above)[buried]
            buried[buried] = self.inside(probes).all(axis=1)
        kept = np.ones(len(self._outer), dtype=np.bool_)
        kept[among] = ~buried
        if kept.all() or not kept.any():
            return False
        self._outer = self._outer[kept]
        self._tree = _libigl().AABB()
        self._tree.init(self.vertices, self._outer)
        return True

    def _drop_around(self, points: NDArray[np.float64]) -> bool:
        """`_drop_buried` in the box about points (N, 3) and a centimetre around."""
        low, high = points.min(axis=0) - 0.01, points.max(axis=0) + 0.01
        boxed = ((self.vertices > low) & (self.vertices < high)).all(axis=1)
        return self._drop_buried(boxed[self._outer].any(axis=1))

    def __getstate__(self) -> dict[str, Any]:
        names = ("vertices", "faces", "_outer", "_settled", "_order")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def winding(self, points: FloatArray) -> NDArray[np.float64]:
        """Winding number (...) of points (..., 3): 0 outside, 1 inside, 2 in two; to 0.02."""
        flat = _points(points)
        found = self._pieces.winding_number(flat)
        return np.asarray(found, dtype=np.float64).reshape(np.shape(points)[:-1])

    def inside(self, points: FloatArray) -> NDArray[np.bool_]:
        """Whether points (..., 3) are inside (...): the winding number is above one half."""
        flat = _points(points)
        result = ((flat >= self._low) & (flat <= self._high)).all(axis=1)
        boxed = np.flatnonzero(result)
        if len(boxed):
            rough = np.asarray(self._pieces.winding_number(flat[boxed], _ROUGH)).reshape(-1)
            doubtful = np.flatnonzero(np.abs(rough - _INSIDE) < _DOUBT)
            if len(doubtful):
                rough[doubtful] = self.winding(flat[boxed[doubtful]])
            result[boxed] = rough > _INSIDE
        return result.reshape(np.shape(points)[:-1])

    def near(self, points: FloatArray, reach: float) -> NDArray[np.bool_]:
        """Whether points (..., 3) are less than `reach` metres from the surface (...), faces inside
        another piece included."""
        flat = _points(points)
        if self._corners is None:
            from scipy.spatial import KDTree

            used = np.bincount(self.faces.reshape(-1), minlength=len(self.vertices)) > 0
            self._corners = KDTree(self.vertices[used], leafsize=8)
        near = self._corners.query(flat, distance_upper_bound=reach)[0] < reach
        rest = np.flatnonzero(~near)  # near to a face's middle, perhaps
        if len(rest):
            squared = self._tree.squared_distance(self.vertices, self._outer, flat[rest])[0]
            near[rest] = squared < reach**2
        return near.reshape(np.shape(points)[:-1])

    def query(
        self, points: FloatArray
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Signed distance (N,), closest surface point (N, 3), and outward unit direction (N, 3).

        points: (N, 3) metres; any leading shape is kept. The direction is that of the distance's
        gradient; on the surface itself it is the normal of the nearest face.
        """
        flat = _points(points)
        shape = np.shape(points)[:-1]
        if not len(flat):
            return np.zeros(shape), np.zeros((*shape, 3)), np.zeros((*shape, 3))
        squared, index, closest = self._tree.squared_distance(self.vertices, self._outer, flat)
        index, inside = np.asarray(index).reshape(-1), self.inside(flat)
        sign = np.where(inside, -1.0, 1.0)
        length = np.sqrt(np.maximum(squared, 0.0))
        normal = (flat - closest) * (sign / np.maximum(length, 1e-12))[:, None]
        on = length < 1e-7
        normal[on] = _normals(self.vertices[self._outer[index[on]]])
        # from outside, no buried face is ever the closest; from inside, empty space must follow
        if not self._settled:
            buried = np.zeros_like(inside)
            buried[inside] = self.inside((closest + _ABOVE * normal)[inside])
            if buried.any() and self._drop_around(closest[buried]):
                return self.query(points)
        return (
            (sign * length).reshape(shape),
            np.asarray(closest).reshape((*shape, 3)),
            normal.reshape((*shape, 3)),
        )

    def distance(self, points: FloatArray) -> NDArray[np.float64]:
        """Signed distance (...) of points (..., 3)."""
        return self.query(points)[0]


class GridDistance:
    """Signed distance on a regular grid, read off by trilinear interpolation.

    resolution: cells along the longest side. margin: metres of space around the mesh. Nodes near
    the surface are exact, the others interpolated from a grid four times as coarse. Points outside
    the grid get the distance at the grid's border plus the way to it (an upper bound).
    `exact` is the MeshDistance it was made from.
    """

    def __init__(
        self,
        vertices: FloatArray,
        faces: NDArray[np.integer[Any]],
        resolution: int = 64,
        margin: float = 0.02,
    ) -> None:
        if not 8 <= resolution <= 256:
            raise InputError(f"resolution: expected 8 to 256, found {resolution}")
        if not (np.isfinite(margin) and margin > 0):
            raise InputError(f"margin: expected a positive length in metres, found {margin}")
        self.exact = MeshDistance(vertices, faces)
        used = self.exact.vertices[np.unique(self.exact.faces)]
        self.low, self.high = used.min(axis=0), used.max(axis=0)
        span = self.high - self.low + 2.0 * margin
        self.spacing = float(span.max() / resolution)
        cells = np.maximum(np.ceil(span / self.spacing / 4).astype(int) * 4, 4)
        self.origin = (self.low + self.high) / 2.0 - cells * self.spacing / 2.0
        self.values = self._fill([int(n) + 1 for n in cells])
        slopes: Any = np.gradient(self.values, self.spacing)
        gradient = np.stack(slopes, axis=-1)
        # one table with (distance, gradient) a node: one gather a corner
        self._table = np.concatenate([self.values[..., None], gradient], axis=-1).astype(np.float32)
        self._flat = self._table.reshape(-1, 4)
        size = np.asarray(self.values.shape)
        self._last = (size - 1).astype(np.float32)
        stride = np.asarray([size[1] * size[2], size[2], 1])
        corner = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(8, 3)
        self._stride = stride.astype(np.int32)
        self._corner = (corner @ stride).astype(np.int32)

    def _nodes(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        return self.origin + index * self.spacing

    def _fill(self, shape: list[int]) -> NDArray[np.float32]:
        from scipy.ndimage import map_coordinates

        axes = [np.arange(0, n, 4) for n in shape]
        coarse_index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        coarse = self.exact.distance(self._nodes(coarse_index))
        where = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=0) / 4.0
        values = np.asarray(map_coordinates(coarse, where, order=1), dtype=np.float32)
        # off by about one fine cell near ridges; exact where a query near the surface reads
        band = np.abs(values) < 3.0 * self.spacing
        index = np.argwhere(band)
        values[band] = self.exact.distance(self._nodes(index))
        return values

    def query(self, points: FloatArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Distance (...) in metres and unit gradient (..., 3) of points (..., 3)."""
        mixed, outside = self._interpolate(points, self._flat)
        gradient = mixed[..., 1:]
        length = np.linalg.norm(gradient, axis=-1, keepdims=True)
        gradient = gradient / np.maximum(length, np.float32(1e-9))
        return mixed[..., 0] + outside, gradient

    def distance(self, points: FloatArray) -> NDArray[np.float32]:
        """Distance (...) in metres of points (..., 3), without the gradient: faster."""
        mixed, outside = self._interpolate(points, self.values.reshape(-1))
        return mixed + outside

    def _interpolate(
        self, points: FloatArray, table: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        shape = np.shape(points)
        if not shape or shape[-1] != 3:
            raise InputError(f"points: expected (..., 3), found {shape}")
        start, step = self.origin.astype(np.float32), np.float32(self.spacing)
        scaled = (np.asarray(points, dtype=np.float32).reshape(-1, 3) - start) / step
        inside = np.clip(scaled, np.float32(0), self._last)
        beyond = scaled - inside
        outside = np.sqrt(np.einsum("ni,ni->n", beyond, beyond)) * np.float32(self.spacing)
        cell = np.minimum(inside, self._last - 1).astype(np.int32)
        part = inside - cell.astype(np.float32)
        rest = 1 - part
        step_x, step_y, step_z = self._stride
        base = cell[:, 0] * step_x + cell[:, 1] * step_y + cell[:, 2] * step_z
        low_x, high_x = rest[:, 0], part[:, 0]
        weights = (
            rest[:, 1] * rest[:, 2],
            rest[:, 1] * part[:, 2],
            part[:, 1] * rest[:, 2],
            part[:, 1] * part[:, 2],
        )
        several = table.ndim > 1
        total = np.zeros((len(base), *table.shape[1:]), dtype=np.float32)
        for number, offset in enumerate(self._corner):
            weight = (high_x if number >= 4 else low_x) * weights[number % 4]
            total += (weight[:, None] if several else weight) * table[base + offset]
        leading = shape[:-1]
        return total.reshape(*leading, *table.shape[1:]), outside.reshape(leading)
