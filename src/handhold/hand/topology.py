"""What a triangle mesh is made of: edges, neighbours, holes. NumPy, no positions needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from handhold.errors import InputError

IntArray = NDArray[np.int64]


def _faces(faces: NDArray[np.integer]) -> IntArray:
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        raise InputError(f"faces: expected integers (F, 3), found {faces.dtype} {faces.shape}")
    return faces.astype(np.int64)


def directed_edges(faces: NDArray[np.integer]) -> IntArray:
    """The three edges of every face (F, 3), in its winding: (3 F, 2)."""
    checked = _faces(faces)
    return np.concatenate((checked[:, [0, 1]], checked[:, [1, 2]], checked[:, [2, 0]]))


def edges(faces: NDArray[np.integer]) -> IntArray:
    """Every edge once, smaller vertex first, sorted: (E, 2)."""
    return np.unique(np.sort(directed_edges(faces), axis=1), axis=0)


def neighbours(faces: NDArray[np.integer], count: int) -> tuple[IntArray, ...]:
    """For each of `count` vertices the sorted vertices that share an edge with it."""
    pairs = edges(faces)
    if pairs.size and pairs.max() >= count:
        raise InputError(f"faces: vertex {pairs.max()} does not exist among {count}")
    both = np.concatenate((pairs, pairs[:, ::-1]))
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    starts = np.searchsorted(both[:, 0], np.arange(1, count))
    return tuple(np.split(both[:, 1], starts))


def boundary_loops(faces: NDArray[np.integer]) -> list[IntArray]:
    """The rims of the holes, each as its vertices in the winding of the faces beside it.

    Empty for a closed surface. Raises InputError when two holes touch in a vertex or an edge has
    more than two faces.
    """
    directed = directed_edges(faces)
    size = int(directed.max(initial=0)) + 1
    codes, counts = np.unique(directed[:, 0] * size + directed[:, 1], return_counts=True)
    if (counts > 1).any():
        raise InputError("faces: an edge is used twice in the same direction")
    rim = codes[~np.isin((codes % size) * size + codes // size, codes)]
    following = dict(zip((rim // size).tolist(), (rim % size).tolist(), strict=True))
    if len(following) != len(rim):
        raise InputError("faces: two holes touch in a vertex")
    loops: list[IntArray] = []
    while following:
        first = min(following)
        loop = [first]
        while (vertex := following.pop(loop[-1])) != first:
            loop.append(vertex)
        loops.append(np.asarray(loop, np.int64))
    return loops


def closed_faces(faces: NDArray[np.integer]) -> IntArray:
    """The faces and a fan of triangles over every hole, no vertex added.

    MANO's mesh is open at the wrist (1538 faces); 14 triangles close it. Winding is kept, so the
    result has an inside and an outside.
    """
    parts = [_faces(faces)]
    for loop in boundary_loops(faces):
        fan = np.stack((np.full(len(loop) - 2, loop[0]), loop[2:], loop[1:-1]), axis=1)
        parts.append(fan)
    return np.concatenate(parts)
