"""The pose of a known object from many uncertain image points of its control points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handhold.errors import InputError

Array = NDArray[np.floating[Any]]
MIN_POINTS = 6


@dataclass(frozen=True, kw_only=True)
class PoseEstimate:
    """x_camera = rotation @ x_object + translation (metres).

    score: mean confidence of the points that fit, 0 when failed. failed: True when too few points
    were
    sure or no pose fits them; the pose then only holds a place. error_px: median distance of the
    fitting points.
    """

    rotation: Array
    translation: Array
    score: float
    failed: bool
    error_px: float = 0.0


def select_points(
    points2d: ArrayLike, confidence: ArrayLike, *, rounds: int = 10, threshold: float = 0.5
) -> tuple[Array, NDArray[np.int64], Array]:
    """Pick the surest candidates of every control point.

    points2d: (N, P, 2) N candidates for each of P points; confidence: (N, P). In each of `rounds`
    rounds every point gives its surest remaining candidate, kept if its confidence > `threshold`
    (as in UniHOPE's released code). Returns pixels (M, 2), point indices (M,) and confidences (M,),
    ordered by round, then by point. Raises InputError for other shapes.
    """
    points2d, confidence = np.asarray(points2d), np.asarray(confidence)
    if points2d.ndim != 3 or points2d.shape != (*confidence.shape, 2):
        raise InputError(
            f"pnp: expected points (N, P, 2) and confidences (N, P), "
            f"found {points2d.shape}, {confidence.shape}"
        )
    order = np.argsort(-confidence, axis=0, kind="stable")[:rounds]
    chosen = np.take_along_axis(confidence, order, axis=0)
    row, point = np.nonzero(chosen > threshold)
    return points2d[order[row, point], point], point, chosen[row, point]


def solve_pose(
    points2d: ArrayLike,
    points3d: ArrayLike,
    intrinsics: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    variant: Literal["official", "sound"] = "official",
    distance: float | None = None,
    limit_px: float = 8.0,
) -> PoseEstimate:
    """Find the pose from pixels (M, 2) and object points (M, 3), metres; intrinsics (3, 3).

    official: EPnP inside OpenCV's RANSAC with its defaults (8 px, 100 iterations); fewer than 6
    points or failure gives the identity at (0, 0, 1) m. sound: after RANSAC (limit `limit_px`),
    weighted robust refinement on all points, poses behind or in the camera refused, and those less
    than half or more than twice `distance` (of the hand that holds the object, if known) away;
    failure is placed at `distance` (default 1 m) on the ray through the weighted mean of the
    points.
    """
    pixels = np.asarray(points2d, np.float64).reshape(-1, 2)
    model = np.asarray(points3d, np.float64).reshape(-1, 3)
    matrix = np.asarray(intrinsics, np.float64)
    if len(pixels) != len(model) or matrix.shape != (3, 3):
        raise InputError(
            f"pnp: expected M pixels, M points and a 3x3 matrix, "
            f"found {len(pixels)}, {len(model)}, {matrix.shape}"
        )
    share = np.ones(len(pixels)) if weights is None else np.asarray(weights, np.float64)
    limit = 8.0 if variant == "official" else limit_px
    found = _ransac(pixels, model, matrix, limit)
    if found is not None and variant == "sound":
        found = _refine(pixels, model, matrix, share, *found, limit)
        if found is not None and distance is not None:
            depth = float((model.mean(axis=0) @ found[0].T + found[1])[2])
            found = found if distance / 2 <= depth <= 2 * distance else None
    if found is None:
        place = np.array([0.0, 0.0, 1.0])
        if variant == "sound" and len(pixels) and share.sum() > 0:
            mean = share @ pixels / share.sum()
            place = (distance or 1.0) * np.linalg.solve(matrix, np.array([*mean, 1.0]))
        return PoseEstimate(rotation=np.eye(3), translation=place, score=0.0, failed=True)
    error = _errors(pixels, model, matrix, *found)
    fits = error <= limit
    if not fits.any():
        fits = error <= np.median(error)
    return PoseEstimate(
        rotation=found[0],
        translation=found[1],
        score=float(share[fits].mean()),
        failed=False,
        error_px=float(np.median(error[fits])),
    )


def _ransac(pixels: Array, model: Array, matrix: Array, limit: float) -> tuple[Array, Array] | None:
    if len(pixels) < MIN_POINTS:
        return None
    import cv2

    try:
        good, turn, shift, _ = cv2.solvePnPRansac(
            model, pixels, matrix, None, flags=cv2.SOLVEPNP_EPNP, reprojectionError=limit
        )
    except cv2.error:  # degenerate sets (all points equal) make EPnP throw
        return None
    if not good or not (np.isfinite(turn).all() and np.isfinite(shift).all()):
        return None
    return np.asarray(cv2.Rodrigues(turn)[0], np.float64), np.asarray(shift, np.float64).reshape(3)


def _errors(pixels: Array, model: Array, matrix: Array, turn: Array, shift: Array) -> Array:
    moved = (model @ turn.T + shift) @ matrix.T
    depth = np.where(np.abs(moved[:, 2:]) < 1e-9, 1e-9, moved[:, 2:])
    return np.linalg.norm(moved[:, :2] / depth - pixels, axis=-1)


def _refine(
    pixels: Array,
    model: Array,
    matrix: Array,
    share: Array,
    turn: Array,
    shift: Array,
    limit: float,
) -> tuple[Array, Array] | None:
    """Minimise the weighted pixel distance with a soft L1 loss; None if the object is not in
    front.
    """
    import cv2
    from scipy.optimize import least_squares

    weight = np.sqrt(share / max(share.mean(), 1e-12))[:, None]

    def residual(state: Array) -> Array:
        rotation = np.asarray(cv2.Rodrigues(state[:3])[0])
        moved = (model @ rotation.T + state[3:]) @ matrix.T
        depth = np.maximum(moved[:, 2:], 1e-3)
        return (weight * (moved[:, :2] / depth - pixels)).reshape(-1)

    start = np.concatenate([np.asarray(cv2.Rodrigues(turn)[0]).reshape(3), shift])
    result = least_squares(residual, start, loss="soft_l1", f_scale=limit / 4, max_nfev=30)
    rotation = np.asarray(cv2.Rodrigues(result.x[:3])[0], np.float64)
    place = np.asarray(result.x[3:], np.float64)
    if (model @ rotation[2] + place[2]).min() < 0.02:
        return None
    return rotation, place
