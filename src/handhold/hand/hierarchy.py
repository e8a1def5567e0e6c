"""The hand's mesh at several resolutions, for networks that grow a hand from coarse to fine.

Reduction by quadric edge collapse (Garland and Heckbert, SIGGRAPH 1997) and up-sampling from the
closest points of the coarser mesh, with the rules of the code that MobRecon was trained with. Built
for whatever hand is loaded, or read from the authors' own table. NumPy only.
"""

from __future__ import annotations

import functools
import heapq
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.hand.foreign_pickle import MAX_BYTES, read_foreign_pickle
from handhold.hand.topology import IntArray, edges, spirals

EdgeRule = Literal["official", "barycentric"]
LEVELS = 4  # reductions


@dataclass(frozen=True, kw_only=True)
class MeshHierarchy:
    """A mesh and its reductions, finest first; level i has V_i vertices.

    vertices[i] (V_i, 3) metres, faces[i] (F_i, 3): all levels. spirals[i] (V_i, length): all but
    the coarsest. columns[i], weights[i] (V_i, 3): a vertex of level i is the sum of these weights
    times these vertices of level i + 1.
    """

    vertices: tuple[NDArray[np.float64], ...]
    faces: tuple[IntArray, ...]
    spirals: tuple[IntArray, ...]
    columns: tuple[IntArray, ...]
    weights: tuple[NDArray[np.float64], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Vertices of every level, finest first."""
        return tuple(len(level) for level in self.vertices)


def build_hierarchy(
    vertices: NDArray[np.floating],
    faces: NDArray[np.integer],
    *,
    levels: int = LEVELS,
    spiral_length: int = 9,
    dilation: int = 1,
    edge_rule: EdgeRule = "official",
) -> MeshHierarchy:
    """Halve the mesh `levels` times: 778 vertices become 389, 195, 98, 49.

    vertices (V, 3), faces (F, 3). edge_rule: see `upsampling`. The same input gives the same object
    again. Raises InputError for meshes that cannot be reduced and unknown rules.
    """
    if edge_rule not in ("official", "barycentric"):
        raise InputError(f"edge_rule: expected official or barycentric, found {edge_rule!r}")
    positions = np.ascontiguousarray(vertices, np.float64)
    triangles = np.ascontiguousarray(faces, np.int64)
    return _build(
        positions.tobytes(), triangles.tobytes(), levels, spiral_length, dilation, edge_rule
    )


@functools.lru_cache(maxsize=8)
def _build(
    positions: bytes, triangles: bytes, levels: int, length: int, dilation: int, rule: EdgeRule
) -> MeshHierarchy:
    points = [np.frombuffer(positions, np.float64).reshape(-1, 3)]
    meshes = [np.frombuffer(triangles, np.int64).reshape(-1, 3)]
    columns: list[IntArray] = []
    weights: list[NDArray[np.float64]] = []
    for _ in range(levels):
        kept, coarse = reduce_mesh(points[-1], meshes[-1], (len(points[-1]) + 1) // 2)
        column, weight = upsampling(points[-1], kept, coarse, rule)
        points.append(points[-1][kept])
        meshes.append(coarse)
        columns.append(column)
        weights.append(weight)
    return MeshHierarchy(
        vertices=tuple(points),
        faces=tuple(meshes),
        spirals=tuple(
            spirals(p, f, length, dilation) for p, f in zip(points[:-1], meshes[:-1], strict=True)
        ),
        columns=tuple(columns),
        weights=tuple(weights),
    )


# ------------------------------------------------------------------------------------- reduction


def vertex_quadrics(vertices: NDArray[np.float64], faces: IntArray) -> NDArray[np.float64]:
    """Sum over a vertex's faces of p p^T with p = (unit normal, offset) of the plane: (V, 4, 4)."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    normal = np.divide(normal, length, out=np.zeros_like(normal), where=length > 0)
    plane = np.concatenate((normal, -(normal * a).sum(1, keepdims=True)), axis=1)
    outer = plane[:, :, None] * plane[:, None]
    result = np.zeros((len(vertices), 4, 4))
    for corner in range(3):
        np.add.at(result, faces[:, corner], outer)
    return result


def reduce_mesh(
    vertices: NDArray[np.float64], faces: IntArray, target: int
) -> tuple[IntArray, IntArray]:
    """Collapse the cheapest edges until at most `target` vertices are used.

    A kept vertex keeps its position. Returns the kept vertices in ascending order and the faces
    between them, counted anew. Raises InputError when the mesh runs out of edges.
    """
    quadrics = vertex_quadrics(vertices, faces)
    homogeneous = np.concatenate((vertices, np.ones((len(vertices), 1))), axis=1)

    def costs(first: int, second: int) -> tuple[float, float]:
        """Of the collapsed edge at the first and at the second vertex's place."""
        total = quadrics[first] + quadrics[second]
        one, other = homogeneous[first], homogeneous[second]
        return float(one @ total @ one), float(other @ total @ other)

    queue = [(min(costs(a, b)), (a, b)) for a, b in edges(faces).tolist()]
    heapq.heapify(queue)
    faces = faces.copy()
    while len(np.unique(faces)) > target:
        if not queue:
            raise InputError(f"mesh: cannot be reduced to {target} vertices")
        cost, (first, second) = heapq.heappop(queue)
        if first == second:
            continue
        at_first, at_second = costs(first, second)
        if min(at_first, at_second) > cost:
            heapq.heappush(queue, (min(at_first, at_second), (first, second)))
            continue
        kept, gone = (first, second) if at_first < at_second else (second, first)
        quadrics[first] = quadrics[second] = quadrics[first] + quadrics[second]
        # names change inside the queue without restoring its order, as in the released code
        for place, (value, (a, b)) in enumerate(queue):
            if gone in (a, b):
                queue[place] = (value, (kept if a == gone else a, kept if b == gone else b))
        faces[faces == gone] = kept
        a, b, c = faces.T
        faces = faces[(a != b) & (b != c) & (c != a)]
    used, again = np.unique(faces, return_inverse=True)
    return used, again.reshape(-1, 3).astype(np.int64)


# ------------------------------------------------------------------------------------ up-sampling


def closest_points(
    points: NDArray[np.float64], vertices: NDArray[np.float64], faces: IntArray
) -> tuple[IntArray, NDArray[np.float64]]:
    """For points (P, 3) the closest face (P,) and the closest point's barycentric coordinates (P,
    3) in it; a coordinate is exactly 0 where the point lies on an edge or vertex.

    Every face is tried (Ericson, Real-Time Collision Detection, section 5.1.5).
    """
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    ab, ac = b - a, c - a
    best_face = np.zeros(len(points), np.int64)
    best = np.zeros((len(points), 3))
    for index, point in enumerate(points):
        coordinates = _closest_in_faces(point, a, b, c, ab, ac)
        place = np.einsum("fk,fkc->fc", coordinates, np.stack((a, b, c), axis=1))
        face = int(((place - point) ** 2).sum(1).argmin())
        best_face[index], best[index] = face, coordinates[face]
    return best_face, best


def _closest_in_faces(
    point: NDArray[np.float64],
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    c: NDArray[np.float64],
    ab: NDArray[np.float64],
    ac: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Barycentric coordinates (F, 3) of the closest point in every face."""

    def dot(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return (x * y).sum(1)

    def share(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.divide(x, y, out=np.zeros_like(x), where=y != 0)

    ap, bp, cp = point - a, point - b, point - c
    d1, d2, d3, d4, d5, d6 = (dot(e, p) for p in (ap, bp, cp) for e in (ab, ac))
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    total = va + vb + vc
    zero, one = np.zeros_like(total), np.ones_like(total)
    on_ab, on_ac = share(d1, d1 - d3), share(d2, d2 - d6)
    on_bc = share(d4 - d3, (d4 - d3) + (d5 - d6))
    cases = (
        ((d1 <= 0) & (d2 <= 0), (one, zero, zero)),
        ((d3 >= 0) & (d4 <= d3), (zero, one, zero)),
        ((d6 >= 0) & (d5 <= d6), (zero, zero, one)),
        ((vc <= 0) & (d1 >= 0) & (d3 <= 0), (1 - on_ab, on_ab, zero)),
        ((vb <= 0) & (d2 >= 0) & (d6 <= 0), (1 - on_ac, zero, on_ac)),
        ((va <= 0) & (d4 >= d3) & (d5 >= d6), (zero, 1 - on_bc, on_bc)),
        (np.ones(len(a), bool), (1 - share(vb + vc, total), share(vb, total), share(vc, total))),
    )
    result = np.zeros((len(a), 3))
    open_ = np.ones(len(a), bool)
    for condition, values in cases:
        now = open_ & condition
        result[now] = np.stack(values, axis=1)[now]
        open_ &= ~condition
    return result


def upsampling(
    vertices: NDArray[np.float64], kept: IntArray, faces: IntArray, edge_rule: EdgeRule
) -> tuple[IntArray, NDArray[np.float64]]:
    """Columns (V, 3) and weights (V, 3) that give the V fine vertices from the kept ones.

    faces: of the coarse mesh, in its own counting. A kept vertex takes itself; one whose closest
    point lies inside a face that point's barycentric coordinates. edge_rule, where it lies on an
    edge: "official" solves for the fine vertex itself, by least squares on the two end positions,
    so that the weights depend on the origin and need not sum to 1; "barycentric" takes the closest
    point's coordinates, which do.
    """
    coarse = vertices[kept]
    columns = np.zeros((len(vertices), 3), np.int64)
    weights = np.zeros((len(vertices), 3))
    columns[kept, 0], weights[kept, 0] = np.arange(len(kept)), 1.0
    gone = np.setdiff1d(np.arange(len(vertices)), kept)
    face, found = closest_points(vertices[gone], coarse, faces)
    if edge_rule == "official":
        for row in np.flatnonzero((found == 0).sum(1) == 1):
            ends = np.flatnonzero(found[row])
            basis = coarse[faces[face[row], ends]].T  # (3, 2)
            found[row, ends] = np.linalg.lstsq(basis, vertices[gone[row]], rcond=None)[0]
    columns[gone], weights[gone] = faces[face], found
    return columns, weights


# ------------------------------------------------------------------------------ the authors' table


def read_hierarchy(
    path: str | Path, *, spiral_length: int = 9, dilation: int = 1, levels: int = LEVELS
) -> MeshHierarchy:
    """The hierarchy in the authors' `transform.pkl`; nothing in the file is executed.

    It holds `vertices`, `face` and `up_transform` (sparse matrices, fine from coarse), one entry a
    level. Raises MissingFileError, FileFormatError where it holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such mesh hierarchy (the authors' transform.pkl)")
    if path.stat().st_size > MAX_BYTES:
        raise FileFormatError(f"{path}: larger than {MAX_BYTES} bytes, not a mesh hierarchy")
    content = read_foreign_pickle(path.read_bytes(), str(path))
    if not isinstance(content, dict):
        raise FileFormatError(f"{path}: expected a dictionary, found {type(content).__name__}")
    points = [
        _numbers(path, f"vertices[{i}]", value, (None, 3), "f").astype(np.float64)
        for i, value in enumerate(_list(path, content, "vertices", levels + 1))
    ]
    meshes = [
        _numbers(path, f"face[{i}]", value, (None, 3), "iu").astype(np.int64)
        for i, value in enumerate(_list(path, content, "face", levels + 1))
    ]
    for i, (point, mesh) in enumerate(zip(points, meshes, strict=True)):
        if mesh.size == 0 or mesh.min() < 0 or mesh.max() >= len(point):
            raise FileFormatError(f"{path}: face[{i}]: expected vertex ids 0..{len(point) - 1}")
    columns: list[IntArray] = []
    weights: list[NDArray[np.float64]] = []
    for i, value in enumerate(_list(path, content, "up_transform", levels)):
        name = f"up_transform[{i}]"
        matrix = _numbers(path, name, value, (len(points[i]), len(points[i + 1])), "f")
        column, weight = _triples(path, name, matrix.astype(np.float64))
        columns.append(column)
        weights.append(weight)
    try:
        around = tuple(
            spirals(p, f, spiral_length, dilation)
            for p, f in zip(points[:-1], meshes[:-1], strict=True)
        )
    except InputError as error:
        raise FileFormatError(f"{path}: {error}") from None
    return MeshHierarchy(
        vertices=tuple(points),
        faces=tuple(meshes),
        spirals=around,
        columns=tuple(columns),
        weights=tuple(weights),
    )


def _list(path: Path, content: dict[Any, Any], name: str, count: int) -> list[Any]:
    value = content.get(name)
    if not isinstance(value, list | tuple) or len(value) < count:
        found = len(value) if isinstance(value, list | tuple) else type(value).__name__
        raise FileFormatError(f"{path}: {name}: expected a list of {count}, found {found}")
    return list(value[:count])


def _numbers(
    path: Path, name: str, value: Any, shape: tuple[int | None, ...], kinds: str
) -> NDArray[Any]:
    array = np.asarray(value)
    fits = array.dtype.kind in kinds and array.ndim == len(shape)
    fits = fits and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits or not np.isfinite(array).all():
        raise FileFormatError(
            f"{path}: {name}: expected finite numbers {shape}, found {array.dtype} {array.shape}"
        )
    return array


def _triples(
    path: Path, name: str, matrix: NDArray[np.float64]
) -> tuple[IntArray, NDArray[np.float64]]:
    """The (at most) three entries of every row."""
    if int((matrix != 0).sum(1).max(initial=0)) > 3:
        raise FileFormatError(f"{path}: {name}: expected at most three entries in a row")
    columns = np.argsort(matrix == 0, axis=1, kind="stable")[:, :3]
    return columns, np.take_along_axis(matrix, columns, axis=1)
