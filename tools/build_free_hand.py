"""Build ``src/handhold/hand/assets/free_hand.npz``, the hand model that ships with handhold.

The source is the rigged right hand of the npm package ``@webxr-input-profiles/assets`` 1.0.20
(MIT licence, Copyright (c) 2019 Amazon).  To get it and run this script::

    npm pack @webxr-input-profiles/assets@1.0.20
    tar xzf webxr-input-profiles-assets-1.0.20.tgz
    python tools/build_free_hand.py package/dist/profiles/generic-hand/right.glb

The result depends on the source file and this repository only.  Steps: weld and turn to MANO's
axes; adjust the rest shape; thin the mesh to 778 vertices; carry over and smooth the skinning
weights; describe ten shapes; fit the joint regressor and the pose correctives.
"""

import sys
from pathlib import Path

import numpy as np
import scipy.optimize
import scipy.sparse
import trimesh
from free_hand_mesh import read_glb, thin
from free_hand_pose import pose_correctives, pose_statistics

from handhold.atomic import replacing
from handhold.hand.anatomy import BETA_NAMES, PARENTS, anatomical_frames

SOURCE_JOINTS = [0, 6, 7, 8, 11, 12, 13, 21, 22, 23, 16, 17, 18, 1, 2, 3]  # MANO's order
# source joint -> the MANO joint that takes its weight (finger metacarpals belong to the wrist)
MERGE = [0, 13, 14, 15, 15, 0, 1, 2, 3, 3, 0, 4, 5, 6, 6, 0, 10, 11, 12, 12, 0, 7, 8, 9, 9]
SOURCE_TIPS = [4, 9, 14, 19, 24]  # thumb, index, middle, ring, little
DISTAL = [15, 3, 6, 12, 9]  # distal joint of thumb, index, middle, ring, little
COUNT = 778
WRIST_AT = np.array([0.0957, 0.0064, 0.0062])  # where the wrist joint stands in the rest pose
DORSAL = np.array([0.0, 1.0, 0.0])


def affine_field(
    points: np.ndarray, weights: np.ndarray, joints: np.ndarray, maps: dict[int, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Displacement of points and joints when each bone is deformed by ``I + maps[joint]``.

    The linear part of skinning with affine maps: it moves joints and flesh consistently.
    """
    shifts = np.zeros((16, 3))
    for joint in range(1, 16):
        parent = PARENTS[joint]
        if parent in maps:
            shifts[joint] = maps[parent] @ (joints[joint] - joints[parent])
        shifts[joint] += shifts[parent]
    field = weights @ shifts
    for joint, matrix in maps.items():
        field += weights[:, joint, None] * ((points - joints[joint]) @ matrix.T)
    return field, shifts


def smooth(values: np.ndarray, faces: np.ndarray, rounds: int, step: float = 0.5) -> np.ndarray:
    """Average values (V, ...) over the mesh's neighbours, ``rounds`` times."""
    operator = averaging(len(values), faces)
    flat = values.reshape(len(values), -1)
    for _ in range(rounds):
        flat = (1 - step) * flat + step * (operator @ flat)
    return flat.reshape(values.shape)


def averaging(count: int, faces: np.ndarray) -> scipy.sparse.csr_matrix:
    """The matrix (V, V) whose rows average a vertex's neighbours."""
    i = faces[:, [0, 1, 2, 1, 2, 0]].ravel()
    j = faces[:, [1, 2, 0, 0, 1, 2]].ravel()
    graph = scipy.sparse.csr_matrix((np.ones(len(i)), (i, j)), shape=(count, count))
    graph.data[:] = 1.0
    return scipy.sparse.diags(1.0 / np.asarray(graph.sum(1)).ravel()) @ graph


def rim(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Ordered vertex ids of the sharp loop round the cut end of the forearm."""
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    edges = mesh.face_adjacency_edges[mesh.face_adjacency_angles > np.radians(40)]
    ends = vertices[:, 0].max() - 0.03
    edges = edges[(vertices[edges, 0] > ends).all(axis=1)]
    links: dict[int, list[int]] = {}
    for a, b in edges.tolist():
        links.setdefault(a, []).append(b)
        links.setdefault(b, []).append(a)
    loop = [min(links)]
    loop.append(min(links[loop[0]]))
    while len(loop) < len(links):
        loop.append(next(v for v in links[loop[-1]] if v != loop[-2]))
    return np.array(loop, dtype=np.int32)


def rest_shape(source: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Vertices, 16 joints, 5 tip centres and weights (V, 16) of the adjusted full mesh.

    The thumb is swung 12 degrees towards the plane of the palm; fingers 6 % and the palm 5 % wider.
    """
    weights = np.zeros((len(source["vertices"]), 16))
    np.add.at(weights.T, np.array(MERGE), source["weights"].T)
    weights = smooth(weights, source["faces"], 3)
    joints, tips = source["joints"][SOURCE_JOINTS], source["joints"][SOURCE_TIPS]
    vertices = source["vertices"].copy()
    bone = joints[14] - joints[13]
    axis = np.cross(bone, DORSAL) / np.linalg.norm(np.cross(bone, DORSAL))
    swing = trimesh.transformations.rotation_matrix(np.radians(12), axis)[:3, :3]
    thumb = weights[:, 13:].sum(1, keepdims=True)
    turned = (vertices - joints[13]) @ swing.T + joints[13]
    vertices += thumb * (turned - vertices)
    joints[14:] = (joints[14:] - joints[13]) @ swing.T + joints[13]
    tips[0] = (tips[0] - joints[13]) @ swing.T + joints[13]
    maps = thicken(joints, tips, range(1, 16), 0.06)
    maps[0] = np.diag([0.0, 0.0, 0.05])
    field, shifts = affine_field(vertices, weights, joints, maps)
    tips = tips + shifts[DISTAL]
    move = WRIST_AT - joints[0]
    return vertices + field + move, joints + shifts + move, tips + move, weights


def knuckles(
    vertices: np.ndarray, weights: np.ndarray, joints: np.ndarray, frames: np.ndarray
) -> np.ndarray:
    """Vertices with the fingers a little wider at their joints and slimmer between them."""
    out = vertices.copy()
    for first in (1, 4, 7, 10, 13):
        chain = [first + 1, first + 2]
        mine = weights[:, first : first + 3].sum(1)
        gain = np.zeros(len(vertices))
        for joint, amount in zip(chain, (0.065, 0.04), strict=True):
            along = (vertices - joints[joint]) @ frames[joint, :, 2]
            gain += amount * np.exp(-0.5 * (along / 0.006) ** 2)
        bone = [first + int(k) for k in range(3)]
        owner = np.array(bone)[weights[:, bone].argmax(1)]
        offset = vertices - joints[owner]
        axis = frames[owner, :, 2]
        across = offset - (offset * axis).sum(1, keepdims=True) * axis
        side = frames[owner, :, 0]
        lateral = (across * side).sum(1, keepdims=True) * side
        fade = np.clip(mine * 2 - 1, 0, 1)[:, None]
        out += fade * (gain - 0.015)[:, None] * (lateral + 0.5 * (across - lateral))
    return out


def thicken(
    joints: np.ndarray, tips: np.ndarray, which: range | list[int], amount: float
) -> dict[int, np.ndarray]:
    """Maps that widen bones across their long axis."""
    frames = anatomical_frames(joints, tips)
    return {j: amount * (np.eye(3) - np.outer(frames[j, :, 2], frames[j, :, 2])) for j in which}


def lengthen(
    joints: np.ndarray, tips: np.ndarray, which: range | list[int], amount: float
) -> dict[int, np.ndarray]:
    """Maps that stretch bones along their long axis."""
    frames = anatomical_frames(joints, tips)
    return {j: amount * np.outer(frames[j, :, 2], frames[j, :, 2]) for j in which}


def shapes(
    mesh: trimesh.Trimesh, weights: np.ndarray, joints: np.ndarray, tips: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """shapedirs (778, 3, 10) and the joints' displacements (16, 3, 10); see ``BETA_NAMES``."""
    vertices = np.asarray(mesh.vertices)
    fingers, thumb = range(1, 13), range(13, 16)
    taper: dict[int, np.ndarray] = {}
    for first, amount in zip((1, 2, 3), (-0.015, 0.015, 0.055), strict=True):
        taper |= thicken(joints, tips, list(range(first, 16, 3)), amount)
    maps = {
        "size": {j: np.eye(3) * 0.05 for j in range(16)},
        "finger length": lengthen(joints, tips, fingers, 0.04),
        "finger thickness": thicken(joints, tips, range(1, 16), 0.06),
        "palm width": {0: np.diag([0.0, 0.0, 0.04])},
        "palm length": {0: np.diag([0.035, 0.0, 0.0])},
        "palm thickness": {0: np.diag([0.0, 0.06, 0.0])},
        "thumb length": lengthen(joints, tips, thumb, 0.05),
        "finger taper": taper,
    }
    fields = {k: affine_field(vertices, weights, joints, v) for k, v in maps.items()}
    # the wrist: only across the forearm, fading out 25 mm into the palm
    along = vertices[:, 0] - joints[0, 0]
    fade = np.clip((along + 0.025) / 0.035, 0, 1)
    fade = (fade * fade * (3 - 2 * fade))[:, None]
    ring = np.abs(along) < 0.006
    middle = vertices[ring].mean(0)
    across = (vertices - middle) * np.array([0.0, 1.0, 1.0])
    fields["wrist width"] = (0.06 * fade * across, np.zeros((16, 3)))
    # flesh: pads between the joints and the balls of thumb and little finger, along the normals
    gap = np.linalg.norm(vertices[:, None] - joints[None, 1:], axis=2).min(1)
    normals = smooth(mesh.vertex_normals.copy(), mesh.faces, 2)
    palmar = np.clip(0.35 - 0.65 * normals[:, 1], 0, 1)
    amount = 0.0009 * palmar * np.clip(gap / 0.012, 0, 1.3) - 0.0002 * (gap < 0.009)
    amount *= np.clip(-(along - 0.01) / 0.02, 0, 1)
    amount = smooth(amount, mesh.faces, 3)
    fields["flesh"] = (amount[:, None] * normals, np.zeros((16, 3)))
    chosen = [fields[name] for name in BETA_NAMES]
    return np.stack([f[0] for f in chosen], -1), np.stack([f[1] for f in chosen], -1)


def regressor(
    vertices: np.ndarray,
    weights: np.ndarray,
    joints: np.ndarray,
    shapedirs: np.ndarray,
    moves: np.ndarray,
) -> np.ndarray:
    """J_regressor (16, 778): non-negative, near each joint, right at rest and under every shape."""
    out = np.zeros((16, len(vertices)))
    for j in range(16):
        parent = PARENTS[j]
        reach = np.linalg.norm(vertices - joints[j], axis=1)
        near = (weights[:, j] + (weights[:, parent] if j else 0)) > 0.5
        order = np.argsort(np.where(near, reach, np.inf))[: 60 if j in (0, 13) else 36]
        local = (vertices[order] - joints[j]).T
        extra = (shapedirs[order] - moves[j]).reshape(len(order), -1).T
        rows = [local * 1e3, np.ones((1, len(order))) * 1e2, extra * 1e3]
        rows.append(np.eye(len(order)) * 0.05)
        goal = np.zeros(sum(len(r) for r in rows))
        goal[3] = 1e2
        goal[-len(order) :] = 0.05 / len(order)
        found = scipy.optimize.nnls(np.vstack(rows), goal)[0]
        out[j, order] = found / found.sum()
    return out


def nails(
    mesh: trimesh.Trimesh, joints: np.ndarray, tips: np.ndarray, ends: np.ndarray
) -> dict[str, np.ndarray]:
    """Where the five finger nails lie in the rest pose (thumb, index, middle, ring, little)."""
    frames = anatomical_frames(joints, tips)
    centres, normals, axes, halves = [], [], [], []
    for digit, joint in enumerate(DISTAL):
        _side, dorsal, along = frames[joint].T
        reach = (ends[digit] - joints[joint]) @ along
        width, start = (0.0062, 0.0105) if digit == 0 else (0.0052 - 0.0007 * (digit == 4), 0.0085)
        origin = joints[joint] + along * (reach - start)
        hit = mesh.ray.intersects_location([origin], [dorsal])[0]
        surface = hit[np.argmax((hit - origin) @ dorsal)]
        centres.append(surface)
        normals.append(dorsal)
        axes.append(along)
        halves.append([width, width * 1.25])
    return {
        "nail_joints": np.array(DISTAL, dtype=np.int32),
        "nail_centres": np.array(centres),
        "nail_normals": np.array(normals),
        "nail_axes": np.array(axes),
        "nail_half_sizes": np.array(halves),  # across, along
    }


def creases(mesh: trimesh.Trimesh, joints: np.ndarray, tips: np.ndarray) -> dict[str, np.ndarray]:
    """Palm-side folds: a point and the joint's two in-surface axes, for the 15 finger joints."""
    frames = anatomical_frames(joints, tips)[1:]
    points = []
    for joint, frame in zip(joints[1:], frames, strict=True):
        hit = mesh.ray.intersects_location([joint], [-frame[:, 1]])[0]
        reach = np.linalg.norm(hit - joint, axis=1)
        points.append(hit[np.argmin(reach)] if len(hit) else joint)
    return {
        "crease_points": np.array(points),
        "crease_normals": frames[:, :, 2],  # along the bone: a fold is where this coordinate is 0
        "crease_axes": frames[:, :, 0],
    }


def carry_over(values: np.ndarray, v: np.ndarray, f: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values (V, K) of a mesh at its nearest places to the points (N, 3)."""
    out = np.zeros((len(points), values.shape[1]))
    for i, point in enumerate(points):
        places = trimesh.triangles.closest_point(v[f], np.tile(point, (len(f), 1)))
        k = np.argmin(np.sum((places - point) ** 2, axis=1))
        share = trimesh.triangles.points_to_barycentric(v[f[k]][None], places[k][None])[0]
        out[i] = np.clip(share, 0, 1) @ values[f[k]]
    return out


def build(path: Path) -> dict[str, np.ndarray]:
    """Every array of the asset."""
    source = read_glb(path)
    full, joints, tips, full_weights = rest_shape(source)
    loop = rim(full, source["faces"])
    own = full_weights[:, 1:].max(1)
    importance = 1.0 + 5.0 * np.clip(own * 1.5, 0, 1)
    importance[full[:, 0] > WRIST_AT[0] - 0.01] = 1.0
    frames = anatomical_frames(joints, tips)
    apex = []
    for digit, joint in enumerate(DISTAL):
        along = frames[joint, :, 2]
        mine = np.flatnonzero(full_weights[:, joint] > 0.5)
        apex.append(int(mine[np.argmax((full[mine] - tips[digit]) @ along)]))
    vertices, faces, kept = thin(
        full, source["faces"], COUNT, importance, set(loop.tolist()) | set(apex)
    )
    index = {int(v): i for i, v in enumerate(kept)}
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    if not mesh.is_watertight or mesh.euler_number != 2 or len(vertices) != COUNT:
        raise SystemExit("the thinned mesh is not a closed manifold of 778 vertices")
    weights = carry_over(full_weights, full, source["faces"], vertices)
    weights = smooth(weights, faces, 1)
    weights[weights < 0.01] = 0
    weights /= weights.sum(1, keepdims=True)
    ends = np.array([index[a] for a in apex])
    vertices = knuckles(vertices, weights, joints, frames)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    shapedirs, moves = shapes(mesh, weights, joints, tips)
    j_regressor = regressor(vertices, weights, joints, shapedirs, moves)
    regressed = j_regressor @ vertices
    print("joint regression error, mm:", np.abs(regressed - joints).max() * 1e3)
    error = np.einsum("jv,vkb->jkb", j_regressor, shapedirs) - moves
    print("its error per unit of beta, mm:", np.abs(error).max() * 1e3)
    ring = np.array([index[int(v)] for v in loop], dtype=np.int32)
    frames = anatomical_frames(regressed, vertices[ends])
    posedirs = pose_correctives(vertices, weights, regressed, frames)
    mean, components = pose_statistics(frames)
    return {
        "v_template": vertices,
        "f": faces.astype(np.int32),
        "shapedirs": shapedirs,
        "posedirs": posedirs,
        "J_regressor": j_regressor,
        "weights": weights,
        "kintree_table": np.array([[-1, *PARENTS[1:]], list(range(16))], dtype=np.int32),
        "hands_mean": mean,
        "hands_components": components,
        "tips": ends.astype(np.int32),
        "wrist_ring": ring,
        "forearm_axis": forearm_axis(vertices, ring),
        "palm_direction": -DORSAL,
        **nails(mesh, regressed, vertices[ends], vertices[ends]),
        **creases(mesh, regressed, vertices[ends]),
    }


def forearm_axis(vertices: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Unit vector from the wrist joint's cross-section to the middle of the cut end."""
    middle = vertices[ring].mean(0)
    band = np.abs(vertices[:, 0] - WRIST_AT[0]) < 0.006
    axis = middle - vertices[band].mean(0)
    return axis / np.linalg.norm(axis)


def save(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Write the npz with half-precision rounding of the large fields (they compress better)."""
    rounded = {}
    for key, value in arrays.items():
        if value.dtype.kind == "f":
            value = value.astype(np.float32)
            if key in ("posedirs", "shapedirs"):
                value = (np.round(value / 2e-7) * 2e-7).astype(np.float32)
            elif key == "weights":
                value = np.round(value * 4096) / 4096
                value[np.arange(len(value)), value.argmax(1)] += 1 - value.sum(1)
                value = value.astype(np.float32)
        rounded[key] = value
    rounded["part"] = rounded["weights"].argmax(1).astype(np.int32)
    with replacing(path) as unfinished:
        np.savez_compressed(unfinished, **rounded)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    target = Path(__file__).parents[1] / "src/handhold/hand/assets/free_hand.npz"
    target.parent.mkdir(parents=True, exist_ok=True)
    save(build(Path(sys.argv[1])), target)
    print(target, f"{target.stat().st_size / 1e6:.2f} MB")
