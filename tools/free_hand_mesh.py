"""Reading the source hand and thinning its mesh, for ``build_free_hand.py``."""

import heapq
import json
import struct
from pathlib import Path

import numpy as np

# Source axes: fingers -y, palm -x, thumb -z.  MANO's right hand: fingers -x, palm -y, thumb +z.
TO_MANO = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
_DTYPES = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def read_glb(path: Path) -> dict[str, np.ndarray]:
    """Welded vertices, faces, weights (V, 25), joints (25, 3) and frames (25, 3, 3) by name.

    Everything is in MANO's axes; a frame's columns are WebXR's x, y, z of that joint.
    """
    data = path.read_bytes()
    length = struct.unpack_from("<I", data, 12)[0]
    head = json.loads(data[20 : 20 + length])
    blob = data[28 + length :]

    def accessor(index: int) -> np.ndarray:
        entry = head["accessors"][index]
        view = head["bufferViews"][entry["bufferView"]]
        width = _WIDTHS[entry["type"]]
        raw = np.frombuffer(
            blob, _DTYPES[entry["componentType"]], entry["count"] * width, view["byteOffset"]
        )
        return raw.reshape(entry["count"], width)

    primitive = head["meshes"][0]["primitives"][0]
    attributes = primitive["attributes"]
    position = accessor(attributes["POSITION"]).astype(np.float64)
    welded, first, inverse = np.unique(
        np.round(position, 6), axis=0, return_index=True, return_inverse=True
    )
    weights = np.zeros((len(position), 25))
    rows = np.arange(len(position))[:, None]
    np.add.at(weights, (rows, accessor(attributes["JOINTS_0"])), accessor(attributes["WEIGHTS_0"]))
    nodes = [head["nodes"][i] for i in head["skins"][0]["joints"]]
    joints = np.array([node["translation"] for node in nodes])
    frames = np.stack([TO_MANO @ _quaternion(node["rotation"]) for node in nodes])
    return {
        "vertices": welded @ TO_MANO.T,
        "faces": inverse[accessor(primitive["indices"]).astype(np.int64).reshape(-1, 3)],
        "weights": weights[first] / weights[first].sum(1, keepdims=True),
        "joints": joints @ TO_MANO.T,
        "frames": frames,
    }


def _quaternion(xyzw: list[float]) -> np.ndarray:
    x, y, z, w = np.asarray(xyzw) / np.linalg.norm(xyzw)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def thin(
    vertices: np.ndarray,
    faces: np.ndarray,
    count: int,
    importance: np.ndarray,
    locked: set[int],
    *,
    length_weight: float = 2e-3,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Collapse edges to ``count`` vertices (Garland and Heckbert 1997, with a length term).

    ``importance`` (V,) scales a vertex's cost; ``locked`` vertices neither move nor vanish.  Only
    collapses that keep the surface a closed manifold, flip no face and leave no sliver are done.
    Returns vertices, faces and, for each kept vertex, its source index.
    """
    points = vertices.astype(np.float64).copy()
    around: list[set[int]] = [set() for _ in points]
    table = {i: tuple(int(v) for v in face) for i, face in enumerate(faces)}
    for i, face in table.items():
        for v in face:
            around[v].add(i)
    quadrics = np.zeros((len(points), 4, 4))
    for face in table.values():
        a, b, c = points[list(face)]
        normal = np.cross(b - a, c - a)
        area = np.linalg.norm(normal)
        plane = np.append(normal / area, -np.dot(normal / area, a))
        for v in face:
            quadrics[v] += np.outer(plane, plane) * area
    stamp = np.zeros(len(points), dtype=np.int64)
    alive = np.ones(len(points), dtype=bool)

    def neighbours(v: int) -> set[int]:
        return {u for i in around[v] for u in table[i]} - {v}

    def proposal(u: int, v: int) -> tuple[float, np.ndarray]:
        quadric = quadrics[u] + quadrics[v]
        length = float(np.sum((points[u] - points[v]) ** 2))
        if u in locked:
            place = points[u]
        else:
            middle = (points[u] + points[v]) / 2
            soft = quadric[:3, :3] + np.eye(3) * 0.02 * np.trace(quadric[:3, :3])
            pull = 0.02 * np.trace(quadric[:3, :3]) * middle
            place = np.linalg.solve(soft, pull - quadric[:3, 3])
            if np.sum((place - middle) ** 2) > length:
                place = middle
        extended = np.append(place, 1.0)
        error = float(extended @ quadric @ extended)
        factor = float(max(importance[u], importance[v]))
        valence = len(neighbours(u) | neighbours(v)) - 4
        return factor * (error + length_weight * length**2) * (1 + max(0, valence - 6)), place

    queue: list[tuple[float, int, int, int, int]] = []

    def push(u: int, v: int) -> None:
        if v in locked:
            u, v = v, u
        if v not in locked:
            heapq.heappush(queue, (proposal(u, v)[0], u, v, int(stamp[u]), int(stamp[v])))

    for u in range(len(points)):
        for v in sorted(neighbours(u)):
            if u < v:
                push(u, v)

    def allowed(u: int, v: int, place: np.ndarray) -> bool:
        shared = neighbours(u) & neighbours(v)
        if len(shared) != 2 or len(around[u] | around[v]) - 4 > 9:
            return False
        if any(len(neighbours(w)) <= 4 for w in shared):
            return False
        for w in (u, v):
            for i in around[w] - (around[u] & around[v]):
                old = points[list(table[i])]
                new = np.array([place if x == w else points[x] for x in table[i]])
                before = np.cross(old[1] - old[0], old[2] - old[0])
                after = np.cross(new[1] - new[0], new[2] - new[0])
                size = np.linalg.norm(after)
                if before @ after < 0.6 * np.linalg.norm(before) * size:
                    return False
                longest = max(np.sum((new[k] - new[k - 1]) ** 2) for k in range(3))
                if size < 0.22 * longest:
                    return False
        return True

    left = len(points)
    while left > count:
        _, u, v, at_u, at_v = heapq.heappop(queue)
        if not (alive[u] and alive[v] and stamp[u] == at_u and stamp[v] == at_v):
            continue
        place = proposal(u, v)[1]
        if not allowed(u, v, place):
            continue
        for i in around[u] & around[v]:
            for w in table[i]:
                around[w].discard(i)
            del table[i]
        for i in around[v]:
            table[i] = tuple(u if w == v else w for w in table[i])
        around[u] |= around[v]
        points[u], alive[v] = place, False
        quadrics[u] += quadrics[v]
        importance[u] = max(importance[u], importance[v])
        left -= 1
        ring = neighbours(u)
        for w in ring | {u}:
            stamp[w] += 1
        for w in sorted(ring | {u}):
            for x in sorted(neighbours(w)):
                if w == u or x == u or w < x or x not in ring:
                    push(w, x)
    kept = np.flatnonzero(alive)
    index = np.full(len(points), -1)
    index[kept] = np.arange(len(kept))
    return points[kept], index[np.array([table[i] for i in sorted(table)])], kept
