"""Round silhouettes for coarse meshes: Loop subdivision as one sparse matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.scene import FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Subdivision:
    """A finer mesh as a fixed linear function of a coarse one: vertices_fine = matrix @ vertices.

    matrix (V2, V) sparse float32; faces (F2, 3). The first V fine vertices are the coarse ones,
    moved.
    """

    matrix: scipy.sparse.csr_matrix
    faces: NDArray[np.int32]

    def __call__(self, values: FloatArray) -> FloatArray:
        """Fine values (V2, C) float32 of coarse ones (V, C)."""
        return np.asarray(self.matrix @ np.asarray(values, np.float32))

    def labels(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Fine labels (V2,): those of the coarse vertex with the largest share."""
        return np.asarray(labels)[np.asarray(self.matrix.argmax(axis=1)).ravel()]


def loop_subdivision(faces: NDArray[Any], count: int, levels: int = 1) -> Subdivision:
    """C. Loop's scheme (1987), `levels` times, for `count` vertices and faces (F, 3).

    Borders become cubic B-splines. Raises InputError where an edge has more than two faces.
    """
    faces = np.asarray(faces, np.int32)
    one = np.arange(count)
    matrix = scipy.sparse.csr_matrix((np.ones(count, np.float32), (one, one)))
    size = count
    for _ in range(levels):
        step, faces = _once(faces, size)
        matrix = scipy.sparse.csr_matrix(step @ matrix)
        size = matrix.get_shape()[0]
    return Subdivision(matrix=matrix, faces=faces)


def _once(
    faces: NDArray[np.int32], count: int
) -> tuple[scipy.sparse.csr_matrix, NDArray[np.int32]]:
    sides = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    opposite = np.concatenate([faces[:, 2], faces[:, 0], faces[:, 1]])
    edges, where, uses = np.unique(
        np.sort(sides, axis=1), axis=0, return_inverse=True, return_counts=True
    )
    where = where.ravel()
    if uses.max() > 2:
        raise InputError("loop_subdivision.faces: an edge has more than two faces")
    edge_count = len(edges)
    border = uses == 1
    rows, columns, shares = [], [], []

    def add(row: NDArray[Any], column: NDArray[Any], share: Any) -> None:
        rows.append(row)
        columns.append(column)
        shares.append(np.broadcast_to(np.asarray(share, float), row.shape))

    middle = count + np.arange(edge_count)
    for end in (0, 1):
        add(middle, edges[:, end], np.where(border, 0.5, 0.375))
    add(count + where, opposite, np.where(border[where], 0.0, 0.125))
    valence = np.bincount(edges.ravel(), minlength=count)
    on_border = np.zeros(count, np.bool_)
    on_border[edges[border].ravel()] = True
    safe = np.maximum(valence, 1)
    beta = (0.625 - (0.375 + 0.25 * np.cos(2 * np.pi / safe)) ** 2) / safe
    own = np.where(on_border, 0.75, 1 - valence * beta)
    add(np.arange(count), np.arange(count), np.where(valence == 0, 1.0, own))
    for start, end in ((0, 1), (1, 0)):
        inner = np.where(on_border[edges[:, start]], 0.0, beta[edges[:, start]])
        add(edges[:, start], edges[:, end], np.where(border, 0.125, inner))
    matrix = scipy.sparse.csr_matrix(
        (np.concatenate(shares), (np.concatenate(rows), np.concatenate(columns))),
        shape=(count + edge_count, count),
        dtype=np.float32,
    )
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    ab, bc, ca = (count + where).reshape(3, -1)
    a, b, c = faces.T
    fine = np.concatenate(
        [
            np.stack([a, ab, ca], axis=1),
            np.stack([ab, b, bc], axis=1),
            np.stack([ca, bc, c], axis=1),
            np.stack([ab, bc, ca], axis=1),
        ]
    )
    return matrix, fine.astype(np.int32)
