"""Does the object stay in the hand when nothing else carries it?  A test in MuJoCo.

The hand is still: its phalanges and five strips of the palm as convex bodies, with two millimetres
of soft flesh that press and rub. The object, cut into convex pieces, falls under gravity. How far
it moves is the "simulation displacement" of Hasson et al. (CVPR 2019).
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.spatial import ConvexHull, KDTree

from handhold.errors import InputError, MissingExtraError
from handhold.synthesis.grasps.hand import GraspHand
from handhold.synthesis.grasps.solid import Solid

Array = NDArray[np.float64]

MASS = 0.2  # kg
FRICTION = 1.0
FLESH = 0.002  # metres
SECONDS = 0.5
FELL = 0.03  # metres
_STEP = 0.002
_COUNTS = (1, 12, 32, 64)
_LARGER = 1.25
_OVERLAP = 1.2


def _mujoco() -> Any:
    try:
        import mujoco
    except ImportError as error:
        raise MissingExtraError(
            "the lift test needs MuJoCo: pip install 'handhold[physics]'"
        ) from error
    return mujoco


_PIECES: WeakKeyDictionary[Solid, list[Array]] = WeakKeyDictionary()


def convex_pieces(solid: Solid) -> list[Array]:
    """The object as convex pieces, vertices (N, 3) each; cut once and kept.

    Points of its surface and inside are grouped by k-means, neighbouring groups sharing their
    border, into the fewest groups of `_COUNTS` whose hulls together are at most a quarter larger
    than the object; else into the most.
    """
    if solid not in _PIECES:
        inside = np.argwhere(solid.grid.values < 0) * solid.grid.spacing + solid.grid.origin
        surface = solid.points.cpu().numpy().astype(np.float64)
        points = np.concatenate([surface, inside])
        volume = abs(float(_signed_volume(solid)))
        pieces: list[Array] = []
        for count in _COUNTS:
            pieces = _grouped(points, count)
            if sum(ConvexHull(piece).volume for piece in pieces) < _LARGER * volume:
                break
        _PIECES[solid] = pieces
    return _PIECES[solid]


def _signed_volume(solid: Solid) -> float:
    corners = solid.grid.exact.vertices[solid.grid.exact.faces]
    return float(np.linalg.det(corners).sum()) / 6.0


def _grouped(points: Array, count: int) -> list[Array]:
    """Hull vertices of the groups; borders belong to both sides."""
    if count == 1:
        return [points[ConvexHull(points).vertices]]
    centres, _ = kmeans2(points, count, iter=12, minit="++", rng=np.random.default_rng(0))
    found: tuple[Any, Any] = KDTree(centres).query(points, k=2)
    distance, index = found
    second = distance[:, 1] < _OVERLAP * distance[:, 0]
    pieces: list[Array] = []
    for number in range(count):
        mine = points[(index[:, 0] == number) | (second & (index[:, 1] == number))]
        if len(mine) < 8 or np.linalg.matrix_rank(mine - mine[0], tol=1e-4) < 3:
            continue
        pieces.append(mine[ConvexHull(mine).vertices])
    return pieces


def hand_groups(hand: GraspHand) -> list[NDArray[np.int64]]:
    """Vertex ids of the hand's convex bodies: 15 phalanges, then the palm in five strips."""
    owner = hand.parts.owner
    groups = [np.flatnonzero(owner == joint) for joint in range(1, 16)]
    vertices = hand.model.template.numpy().astype(np.float64)
    rest = hand.model.rest_joints().numpy().astype(np.float64)
    palm = np.flatnonzero(owner == 0)
    distance = []
    for joint in (13, 1, 4, 10, 7):
        way = rest[joint] - rest[0]
        share = np.clip((vertices[palm] - rest[0]) @ way / (way @ way), 0, 1)
        distance.append(np.linalg.norm(vertices[palm] - rest[0] - share[:, None] * way, axis=1))
    strip = np.argmin(distance, axis=0)
    return [g for g in [*groups, *(palm[strip == k] for k in range(5))] if len(g) >= 4]


def displacement(
    hand: GraspHand,
    solid: Solid,
    vertices: Array,
    down: Array,
    seconds: float = SECONDS,
) -> float:
    """How far (metres) the object's centre of mass moves in a still hand (778, 3), in its frame.

    down (3,): the direction of gravity. Ends early once the object has moved `FELL`. Raises
    MissingExtraError without MuJoCo, InputError for a zero direction.
    """
    mujoco = _mujoco()
    length = float(np.linalg.norm(down))
    if not length > 0:
        raise InputError("down: expected a direction, found zero")
    gravity = 9.81 * np.asarray(down, dtype=np.float64) / length
    pieces = [np.asarray(vertices, dtype=np.float64)[group] for group in hand_groups(hand)]
    model = mujoco.MjModel.from_xml_string(_world(pieces, convex_pieces(solid), gravity))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    start = data.subtree_com[1].copy()
    moved = 0.0
    for _ in range(int(seconds / _STEP)):
        mujoco.mj_step(model, data)
        moved = float(np.linalg.norm(data.subtree_com[1] - start))
        if not moved < FELL:  # also when the simulation broke down
            return FELL
    return moved


def _world(hand: list[Array], pieces: list[Array], gravity: Array) -> str:
    meshes: list[str] = []
    still: list[str] = []
    free: list[str] = []
    for kind, parts, geoms in (("hand", hand, still), ("piece", pieces, free)):
        for number, part in enumerate(parts):
            words = " ".join(f"{x:.6f}" for x in part.reshape(-1))
            meshes.append(f'<mesh name="{kind}{number}" vertex="{words}"/>')
            extra = f'mass="{MASS / len(parts):.6f}"' if kind == "piece" else f'margin="{FLESH}"'
            geoms.append(f'<geom type="mesh" mesh="{kind}{number}" {extra}/>')
    words = " ".join(f"{x:.6f}" for x in gravity)
    return f"""<mujoco>
  <option timestep="{_STEP}" gravity="{words}" cone="elliptic" impratio="10"
    integrator="implicitfast"/>
  <default><geom condim="4" friction="{FRICTION} 0.005 0.0001" solref="0.01 1"/></default>
  <asset>{"".join(meshes)}</asset>
  <worldbody>{"".join(still)}<body><freejoint/>{"".join(free)}</body></worldbody>
</mujoco>"""


__all__ = ("FELL", "convex_pieces", "displacement", "hand_groups")
