"""What a triangle mesh is made of: edges, neighbours, holes, rings, spirals. NumPy only."""

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


# -------------------------------------------------------------------------------------- spirals


def rings(faces: NDArray[np.integer], count: int) -> list[list[int]]:
    """For each of `count` vertices its neighbours in clockwise order, seen from outside.

    An inner vertex's ring starts at the neighbour that follows it in the last face that holds it; a
    border vertex's at the end of the fan from which clockwise steps cover all of it. Where several
    fans meet in one vertex, they follow each other. A face that would use an edge a second time in
    the same direction is left out (reduced meshes may have such; libraries that store half-edges do
    the same). Raises InputError when a vertex does not exist.
    """
    checked = _faces(faces)
    if checked.size and checked.max() >= count:
        raise InputError(f"faces: vertex {checked.max()} does not exist among {count}")
    clockwise: list[dict[int, int]] = [{} for _ in range(count)]
    starts = [-1] * count
    used: set[tuple[int, int]] = set()
    for a, b, c in checked.tolist():
        if used & {(a, b), (b, c), (c, a)}:
            continue
        used |= {(a, b), (b, c), (c, a)}
        for vertex, after, before in ((a, b, c), (b, c, a), (c, a, b)):
            clockwise[vertex][before] = after
            starts[vertex] = after
    return [_walk(steps, start) for steps, start in zip(clockwise, starts, strict=True)]


def _walk(steps: dict[int, int], start: int) -> list[int]:
    """All vertices of `steps` (one -> next) in order: open fans first, else from `start`."""
    inner = set(steps.values())
    ends = [vertex for vertex in steps if vertex not in inner]
    order: list[int] = []
    seen: set[int] = set()
    for first in (*ends, start, *steps):
        vertex: int | None = first
        while vertex is not None and vertex >= 0 and vertex not in seen:
            seen.add(vertex)
            order.append(vertex)
            vertex = steps.get(vertex)
    return order


def _next_ring(around: list[list[int]], last: list[int], inside: set[int]) -> list[int]:
    """The ring outside `last`; `inside`: the vertices within `last`.

    Each vertex of `last` gives its new neighbours, from its first neighbour in `last` onwards.
    """
    known = inside | set(last)
    on_ring = set(last)
    result: list[int] = []
    for vertex in last:
        ring = around[vertex]
        first = next((i for i, neighbour in enumerate(ring) if neighbour in on_ring), 0)
        for neighbour in (*ring[first:], *ring[:first]):
            if neighbour not in known:
                known.add(neighbour)
                result.append(neighbour)
    return result


def spirals(
    vertices: NDArray[np.floating], faces: NDArray[np.integer], length: int = 9, dilation: int = 1
) -> IntArray:
    """Every vertex with those around it, ring by ring, clockwise: (V, length).

    SpiralNet++ (Gong, Chen, Bronstein, Zafeiriou, ICCV workshops 2019), as released. vertices (V,
    3): used only where a mesh is too small for a further ring: its vertex takes the nearest ones
    instead. dilation: take `length * dilation` and keep every dilation-th. Raises InputError for
    fewer vertices than that.
    """
    wanted, count = length * dilation, len(vertices)
    if length < 1 or dilation < 1 or wanted > count:
        raise InputError(
            f"spirals: length * dilation must be 1 to {count} (vertices), found {wanted}"
        )
    around = rings(faces, count)
    result = np.zeros((count, wanted), np.int64)
    for vertex in range(count):
        spiral, ring = [vertex], around[vertex]
        while True:
            following = _next_ring(around, ring, set(spiral))
            spiral = spiral + ring
            if not following or len(spiral) + len(following) >= wanted:
                break
            ring = following
        if following:
            result[vertex] = (spiral + following)[:wanted]
        else:
            distance = np.linalg.norm(vertices - vertices[vertex], axis=1)
            distance[vertex] = -1.0
            result[vertex] = np.argsort(distance, kind="stable")[:wanted]
    return result[:, ::dilation]
