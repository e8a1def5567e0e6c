"""Pose correctives and pose statistics of the free hand, for ``build_free_hand.py``."""

import numpy as np
from scipy.spatial.transform import Rotation

from handhold.hand import anatomy, shapes

POSES = 900
RIDGE = 12.0  # strong enough to stay tame far from natural poses


def pose_correctives(
    vertices: np.ndarray,
    weights: np.ndarray,
    joints: np.ndarray,
    frames: np.ndarray,
) -> np.ndarray:
    """posedirs (778, 3, 135) that make linear skinning follow dual-quaternion skinning.

    Linear skinning flattens knuckles and pinches folds; dual quaternions (Kavan et al. 2008) keep
    flesh at its distance from the joint.  The difference, in rest coordinates, is fitted by ridge
    regression on the entries of R - I of the joints that move a vertex.
    """
    rng = np.random.default_rng(0)
    natural = np.stack([shapes.random_shape(rng, 1.5) for _ in range(2 * POSES // 3)])
    low, high = anatomy.LIMITS[..., 0], anatomy.LIMITS[..., 1]
    wild = rng.uniform(low, high, (POSES // 3, 15, 3))
    angles = np.clip(np.concatenate([natural, wild]), low, high)
    poses = anatomy.pose_from_angles(angles, frames)
    rotations = Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().reshape(-1, 16, 3, 3)
    features = (rotations[:, 1:] - np.eye(3)).reshape(len(poses), 135)
    residuals = np.zeros((len(poses), *vertices.shape))
    for i, rotation in enumerate(rotations):
        linear, target = skin(vertices, weights, joints, rotation)
        moved = np.einsum("vab,vb->va", linear[:, :, :3], vertices) + linear[:, :, 3]
        residuals[i] = np.linalg.solve(linear[:, :, :3], (target - moved)[..., None])[..., 0]
    out = np.zeros((len(vertices), 3, 135))
    for v, row in enumerate(weights):
        movers = [j for j in range(1, 16) if 0.02 < row[_subtree(j)].sum() < 0.98]
        if not movers:
            continue
        columns = np.concatenate([np.arange(9 * (j - 1), 9 * j) for j in movers])
        a = features[:, columns]
        gram = a.T @ a + RIDGE * np.eye(len(columns))
        out[v][:, columns] = np.linalg.solve(gram, a.T @ residuals[:, v]).T
    fitted = np.einsum("vkf,pf->pvk", out, features)
    before, after = (np.sqrt(np.mean(r**2)) * 1e3 for r in (residuals, residuals - fitted))
    print(f"pose correctives: rms {before:.2f} mm before, {after:.2f} mm left")
    return out


def _subtree(joint: int) -> list[int]:
    last = 3 * ((joint - 1) // 3) + 3
    return list(range(joint, last + 1))


def skin(
    vertices: np.ndarray, weights: np.ndarray, joints: np.ndarray, rotations: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Linear blend matrices (V, 3, 4) and dual-quaternion-skinned vertices (V, 3)."""
    turn, shift = np.zeros((16, 3, 3)), np.zeros((16, 3))
    place = joints.copy()
    for j, parent in enumerate(anatomy.PARENTS):
        turn[j] = rotations[j] if parent < 0 else turn[parent] @ rotations[j]
        if parent >= 0:
            place[j] = place[parent] + turn[parent] @ (joints[j] - joints[parent])
        shift[j] = place[j] - turn[j] @ joints[j]
    linear = np.einsum("vj,jab->vab", weights, np.concatenate([turn, shift[..., None]], axis=2))
    real = Rotation.from_matrix(turn).as_quat()
    for j, parent in enumerate(anatomy.PARENTS[1:], start=1):  # the short way from the parent
        if real[j] @ real[parent] < 0:
            real[j] = -real[j]
    dual = 0.5 * _product(np.concatenate([shift, np.zeros((16, 1))], axis=1), real)
    q, d = weights @ real, weights @ dual
    norm = np.linalg.norm(q, axis=1, keepdims=True)
    q, d = q / norm, d / norm
    translation = 2 * _product(d, q * np.array([-1, -1, -1, 1]))[:, :3]
    return linear, Rotation.from_quat(q).apply(vertices) + translation


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamilton product of quaternions (N, 4), scalar last."""
    vector = a[:, 3:] * b[:, :3] + b[:, 3:] * a[:, :3] + np.cross(a[:, :3], b[:, :3])
    scalar = a[:, 3:] * b[:, 3:] - (a[:, :3] * b[:, :3]).sum(1, keepdims=True)
    return np.concatenate([vector, scalar], axis=1)


def pose_statistics(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """hands_mean (45,) = the relaxed hand; hands_components (45, 45), orthonormal PCA rows.

    The principal directions are those of 4000 random shapes about their own mean.
    """
    rng = np.random.default_rng(1)
    drawn = np.stack([shapes.random_shape(rng, 1.0) for _ in range(4000)])
    drawn = np.clip(drawn, anatomy.LIMITS[..., 0], anatomy.LIMITS[..., 1])
    poses = anatomy.pose_from_angles(drawn, frames)[:, 1:].reshape(len(drawn), 45)
    _, components = np.linalg.eigh(np.cov(poses.T))
    components = components.T[::-1]
    strongest = np.abs(components).argmax(axis=1)
    components = components * np.sign(components[np.arange(45), strongest])[:, None]
    relaxed = anatomy.pose_from_angles(shapes.angles(shapes.SHAPES["relaxed"]), frames)
    return relaxed[1:].reshape(45), components
