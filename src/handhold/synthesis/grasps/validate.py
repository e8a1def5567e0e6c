"""Which grasps are kept: contact, shared volume, depth, self-penetration, and a hold.

Default: our own rules. `ValidationConfig.generator` and `.script` are the two official places, the
generator's in-line check and the separate validation script of HandBooster, which differ in the
largest volume (0.5 and 1 cm^3) and in what an empty intersection means (kept and refused).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from handhold.errors import InputError
from handhold.geometry.signed_distance import MeshDistance
from handhold.hand.anatomy import LIMITS, angles_from_pose
from handhold.synthesis.grasps.hand import GraspHand
from handhold.synthesis.grasps.solid import Solid
from handhold.synthesis.grips import DIGITS

Array: TypeAlias = NDArray[np.float64]

REASONS = (
    "unnatural joint",
    "self-penetration",
    "penetration",
    "volume",
    "no contact",
    "not held",
    "dropped",
)


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """What a grasp must satisfy; metres, cubic metres, degrees.

    max_volume: shared by hand and object. must_meet: hand and object must share some volume.
    max_penetration: depth of any vertex or triangle centre of the hand in the object, None for any.
    contact: a part nearer than this touches. must_hold: thumb and a finger, or palm and two
    fingers, touch from opposite sides. self_test: "capsules": bones as capsules may overlap by
    `max_self_penetration`; "mesh": no two triangles of the closed hand may intersect, as published
    (skinned hands fail it in every deep crease). max_excess: of a joint beyond its limits, None
    for any. Raises InputError for negative limits.
    """

    max_volume: float = 5e-7
    must_meet: bool = False
    max_penetration: float | None = 0.002
    contact: float = 0.002
    must_hold: bool = True
    self_test: Literal["capsules", "mesh"] = "capsules"
    max_self_penetration: float = 0.004
    max_excess: float | None = 15.0

    def __post_init__(self) -> None:
        for name in ("max_volume", "contact", "max_self_penetration"):
            if not getattr(self, name) >= 0:
                raise InputError(
                    f"ValidationConfig.{name}: expected 0 or more, found {getattr(self, name)}"
                )

    @classmethod
    def generator(cls) -> ValidationConfig:
        """The check inside HandBooster's generator: 0.5 cm^3, an empty intersection passes."""
        return cls(max_penetration=None, must_hold=False, self_test="mesh", max_excess=None)

    @classmethod
    def script(cls) -> ValidationConfig:
        """HandBooster's separate script: 1 cm^3, an empty intersection is refused."""
        return cls(
            max_volume=1e-6,
            must_meet=True,
            max_penetration=None,
            must_hold=False,
            self_test="mesh",
            max_excess=None,
        )


class Verdict(NamedTuple):
    """reason: "" for a valid grasp, else one of REASONS. penetration (metres, 0 = none) and volume
    (cubic metres) as measured; volume is NaN where an earlier rule already refused. contacts:
    digits and "palm" that touch."""

    reason: str
    penetration: float
    volume: float
    contacts: tuple[str, ...]


def judge(
    hand: GraspHand, solid: Solid, vector: Array, vertices: Array, config: ValidationConfig
) -> Verdict:
    """The verdict on one grasp (51,) with its posed vertices (778, 3) in the object's frame."""
    parts = hand.parts
    pose = np.concatenate([np.zeros(3), vector[6:]]).reshape(16, 3)
    vertices = np.asarray(vertices, dtype=np.float64)
    if config.max_excess is not None:
        angles = angles_from_pose(pose, parts.frames)
        excess = np.maximum(LIMITS[..., 0] - angles, angles - LIMITS[..., 1]).max()
        if excess > config.max_excess:
            return Verdict("unnatural joint", np.nan, np.nan, ())
    crossing = (
        parts.capsules.penetration(pose[None])[0] > config.max_self_penetration
        if config.self_test == "capsules"
        else intersects_itself(vertices, hand.faces.numpy())
    )
    if crossing:
        return Verdict("self-penetration", np.nan, np.nan, ())
    points = np.concatenate([vertices, vertices[parts.faces].mean(axis=1)])
    distance, normals = _distances(solid, points, config.contact)
    depth = max(0.0, -float(distance.min()))
    touching = _touching(hand, distance, config.contact)
    names = tuple(touching)
    if config.max_penetration is not None and depth > config.max_penetration:
        return Verdict("penetration", depth, np.nan, names)
    volume = shared_volume(vertices, hand.faces.numpy(), solid, points[distance < 0])
    if volume > config.max_volume:
        return Verdict("volume", depth, volume, names)
    if config.must_meet and volume == 0.0:
        return Verdict("no contact", depth, volume, names)
    if config.must_hold:
        if not names:
            return Verdict("no contact", depth, volume, names)
        if not is_held({name: normals[row] for name, row in touching.items()}):
            return Verdict("not held", depth, volume, names)
    return Verdict("", depth, volume, names)


def _distances(solid: Solid, points: Array, near: float) -> tuple[Array, Array]:
    """Signed distances (N,), exact where they matter, and directions (N, 3)."""
    distance = solid.grid.distance(points).astype(np.float64)
    normals = np.zeros_like(points)
    close = np.flatnonzero(distance < near + 2.0 * solid.grid.spacing)
    if len(close):
        distance[close], _, normals[close] = solid.grid.exact.query(points[close])
    return distance, normals


def _touching(hand: GraspHand, distance: Array, near: float) -> dict[str, int]:
    """The nearest vertex of every digit, and of the palm, that touches."""
    groups = {digit: np.concatenate(hand.parts.segments[digit]) for digit in DIGITS}
    groups["palm"] = hand.parts.palm
    lowest = {name: int(rows[np.argmin(distance[rows])]) for name, rows in groups.items()}
    return {name: row for name, row in lowest.items() if distance[row] < near}


def is_held(normals: dict[str, Array]) -> bool:
    """Do parts that touch an object there (outward normals (3,) by name) hold it: thumb against a
    finger, or palm against two fingers?"""
    fingers = [name for name in normals if name not in ("thumb", "palm")]
    if "thumb" in normals and any(normals["thumb"] @ normals[f] < -0.3 for f in fingers):
        return True
    if "palm" not in normals:
        return False
    return len(fingers) >= 2 and any(bool(normals["palm"] @ normals[f] < 0.3) for f in fingers)


def shared_volume(
    vertices: Array,
    faces: NDArray[np.int64],
    solid: Solid,
    entered: Array,
    cell: float = 0.0005,
    margin: float = 0.003,
) -> float:
    """Volume (m^3) that a closed hand (778, 3) shares with an object, by counting cells.

    entered (N, 3): points of the hand's surface inside the object; cells within `margin` of one of
    them are counted where their middle is in both. Instead of the published mesh boolean, which
    needs two meshes without any fault; deeper overlaps than `margin` are counted in part, which
    is far beyond every limit.
    """
    if not len(entered):
        return 0.0
    reach = int(np.ceil(margin / cell))
    steps = np.arange(-reach, reach + 1)
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    offsets = offsets[(offsets**2).sum(axis=1) <= reach**2]
    seeds = np.unique(np.floor(entered / (2 * cell)).astype(np.int64), axis=0) * 2
    low = seeds.min(axis=0) - reach
    size = seeds.max(axis=0) + reach - low + 1
    flat = np.zeros(int(size.prod()), dtype=bool)
    stride = np.array([size[1] * size[2], size[2], 1])
    flat[((seeds - low) @ stride)[:, None] + offsets @ stride] = True
    index = np.flatnonzero(flat)
    nodes = np.stack(np.unravel_index(index, tuple(size)), axis=1) + low
    middle = (nodes + 0.5) * cell
    middle = middle[solid.grid.distance(middle) < 0]
    if not len(middle):
        return 0.0
    inside = MeshDistance(vertices, faces).winding(middle) > 0.5
    return float(inside.sum()) * cell**3


def intersects_itself(vertices: Array, faces: NDArray[np.int64]) -> bool:
    """Does an edge of a mesh pass through a triangle that shares no vertex with it?"""
    corners = vertices[faces]
    centre = corners.mean(axis=1)
    radius = np.linalg.norm(corners - centre[:, None], axis=2).max(axis=1)
    tree = KDTree(centre)
    pairs = tree.query_pairs(2.0 * float(radius.max()), output_type="ndarray")
    apart = np.linalg.norm(centre[pairs[:, 0]] - centre[pairs[:, 1]], axis=1)
    pairs = pairs[apart < radius[pairs].sum(axis=1)]
    shared = (faces[pairs[:, 0], :, None] == faces[pairs[:, 1], None]).any(axis=(1, 2))
    pairs = pairs[~shared]
    for first, second in ((pairs[:, 0], pairs[:, 1]), (pairs[:, 1], pairs[:, 0])):
        triangle = corners[first]
        for k in range(3):
            if _crosses(corners[second, k], corners[second, (k + 1) % 3], triangle).any():
                return True
    return False


def _crosses(start: Array, end: Array, triangle: Array) -> NDArray[np.bool_]:
    """Which segments (N, 3) pass through triangles (N, 3, 3) (Moeller and Trumbore, 1997)."""
    way = end - start
    first, second = triangle[:, 1] - triangle[:, 0], triangle[:, 2] - triangle[:, 0]
    normal = np.cross(way, second)
    slope = (first * normal).sum(axis=1)
    safe = np.where(np.abs(slope) > 1e-18, slope, np.inf)
    offset = start - triangle[:, 0]
    u = (offset * normal).sum(axis=1) / safe
    side = np.cross(offset, first)
    v = (way * side).sum(axis=1) / safe
    t = (second * side).sum(axis=1) / safe
    hit = (u > 0) & (v > 0) & (u + v < 1) & (t > 0) & (t < 1)
    return hit & np.isfinite(safe)


def root_rotation(vector: Array) -> Array:
    """The rotation matrix (3, 3) of a grasp's root."""
    return Rotation.from_rotvec(vector[3:6]).as_matrix()
