"""How a hand may take hold: places on an object to hold it by, and the motions of fingers closing.

Right hand, in the hand model's rest frame without global rotation; objects in their own frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.geometry.signed_distance import GridDistance
from handhold.hand.anatomy import anatomical_frames
from handhold.hand.clearance import Capsules
from handhold.hand.model import HandModel
from handhold.hand.shapes import Finger, Shape, Thumb, angles

Array: TypeAlias = NDArray[Any]

DIGITS = ("thumb", "index", "middle", "ring", "little")
FIRST_JOINT = {"index": 1, "middle": 4, "little": 7, "ring": 10, "thumb": 13}


@dataclass(frozen=True, kw_only=True)
class Sites:
    """Pairs of opposite surface points of one object, between which it can be held.

    centre (N, 3) between the points; axis (N, 3) from one to the other; width (N,) metres;
    weight (N,) sums to one: larger near the middle of the object, for thin walls far from it.
    """

    centre: Array
    axis: Array
    width: Array
    weight: Array


@dataclass(frozen=True, kw_only=True)
class Grip:
    """A way of holding. start, stop: (15, 3) angles of the open and the closed hand, degrees.

    active: digits that must end on the object; the others stay near the start. palm: the object is
    pushed into the palm before the fingers close. widest, thinnest: of what can be held so, metres.
    """

    name: str
    start: Array
    stop: Array
    active: tuple[str, ...]
    palm: bool
    thinnest: float
    widest: float


def _hand(thumb: Thumb, fingers: dict[str, Finger]) -> Array:
    return angles(Shape(thumb=thumb, **fingers))


def _each(finger: Finger) -> dict[str, Finger]:
    middle = finger._replace(spread=0)
    return {"index": finger, "middle": middle, "ring": finger, "little": finger}


_ALL = DIGITS
_REST = Finger(28, 32, 18, 1)
_EASY = Finger(10, 14, 8, 3)
_TUCKED = Finger(62, 74, 40)

_OPEN_THUMB = Thumb(-2, 46, -18, 0, 2)
_WRAP_STOP = _hand(Thumb(42, 34, -40, 52, 55), _each(Finger(88, 106, 66)))
_PINCH_OPEN, _PINCH_STOP = Thumb(18, 42, -28, 0, 0), Thumb(45, 24, -34, 14, 22)


def _pinch(name: str, used: tuple[str, ...], other: Finger, widest: float) -> Grip:
    opened, closed = Finger(24, 22, 10, 2), Finger(64, 62, 38, 0)
    start = {d: (opened if d in used else other) for d in DIGITS[1:]}
    stop = {d: (closed if d in used else other) for d in DIGITS[1:]}
    start["middle"], stop["middle"] = (
        start["middle"]._replace(spread=0),
        stop["middle"]._replace(spread=0),
    )
    return Grip(
        name=name,
        start=_hand(_PINCH_OPEN, start),
        stop=_hand(_PINCH_STOP, stop),
        active=("thumb", *used),
        palm=False,
        thinnest=0.001,
        widest=widest,
    )


GRIPS: tuple[Grip, ...] = (
    Grip(
        name="wrap",
        start=_hand(_OPEN_THUMB, _each(Finger(8, 12, 6, 5))),
        stop=_WRAP_STOP,
        active=_ALL,
        palm=True,
        thinnest=0.012,
        widest=0.105,
    ),
    Grip(
        name="hook",
        start=_hand(Thumb(0, 20, -10, 5, 5), _each(Finger(4, 26, 14, 3))),
        stop=_hand(Thumb(42, 14, -30, 50, 50), _each(Finger(60, 110, 70))),
        active=_ALL,
        palm=True,
        thinnest=0.008,
        widest=0.045,
    ),
    _pinch("pinch", ("index",), _REST, 0.055),
    _pinch("open pinch", ("index",), _EASY, 0.045),
    _pinch("tucked pinch", ("index",), _TUCKED, 0.035),
    _pinch("tripod", ("index", "middle"), _REST._replace(knuckle=50, middle=55), 0.065),
    Grip(
        name="five fingers",
        start=_hand(_OPEN_THUMB, _each(Finger(18, 16, 8, 6))),
        stop=_hand(Thumb(46, 40, -40, 24, 26), _each(Finger(76, 62, 36, -1))),
        active=_ALL,
        palm=False,
        thinnest=0.010,
        widest=0.105,
    ),
    Grip(
        name="platform",
        start=_hand(Thumb(-8, 20, -6, 0, 0), _each(Finger(6, 8, 6, 5))),
        stop=_hand(Thumb(30, 20, -30, 40, 40), _each(Finger(50, 60, 40, 3))),
        active=_ALL,
        palm=True,
        thinnest=0.004,
        widest=1.0,
    ),
)


@dataclass(frozen=True, kw_only=True)
class HoldConfig:
    """tries: grips closed before giving up. candidates: placements compared for each.

    touch: a digit is closed until it is this deep in the object (soft flesh), metres.
    max_penetration: of any vertex or triangle centre of the hand into the object, metres.
    max_self_penetration: of the hand's bones, as capsules, into each other, metres.
    contact: a part of the hand nearer than this touches, metres. gap: nearest and farthest
    distance between hand and object in a near miss, metres.
    Raises InputError for values out of range.
    """

    tries: int = 6
    candidates: int = 20
    touch: float = 0.0005
    max_penetration: float = 0.0018
    max_self_penetration: float = 0.004
    contact: float = 0.0025
    gap: tuple[float, float] = (0.012, 0.08)

    def __post_init__(self) -> None:
        if self.tries < 1 or self.candidates < 1:
            raise InputError("HoldConfig: tries and candidates must be at least 1")
        if not 0 <= self.touch < self.max_penetration:
            raise InputError(
                "HoldConfig: expected 0 <= touch < max_penetration,"
                f" found {self.touch} and {self.max_penetration}"
            )
        if not 0 < self.gap[0] <= self.gap[1]:
            raise InputError(f"HoldConfig.gap: expected 0 < nearest <= farthest, found {self.gap}")


@dataclass(frozen=True, kw_only=True)
class HoldResult:
    """A right hand and an object: x_hand = rotation @ x_object + translation (metres).

    pose (16, 3): axis-angle, flat convention, zero root. contacts: "palm" and digits that touch.
    penetration_mm: deepest vertex or triangle centre of the hand in the object (0 = none).
    kind: the grip's name, or the sort of near miss. gap_mm: the hand's distance to the object.
    """

    pose: Array
    rotation: Array
    translation: Array
    contacts: tuple[str, ...] = ()
    penetration_mm: float = 0.0
    kind: str = ""
    gap_mm: float = field(default=0.0)


def checked_shape(hand: HandModel, betas: Array) -> Array:
    if hand.side != "right":
        raise InputError("hand: expected a right hand (mirror the object for a left one)")
    shape = np.asarray(betas, dtype=np.float64)
    if shape.shape != (10,) or not np.isfinite(shape).all():
        raise InputError(f"betas: expected ten finite numbers, found shape {shape.shape}")
    return shape


class HandParts:
    """Which vertices of a hand model belong to what, and posing it for many angles at once."""

    def __init__(self, hand: HandModel) -> None:
        self.hand = hand
        owner = hand.weights.argmax(dim=1).numpy()
        self.owner = owner
        vertices = hand.template.numpy().astype(np.float64)
        joints = hand.rest_joints().numpy().astype(np.float64)
        forward = joints[4] - joints[0]
        self.forward = forward / np.linalg.norm(forward)
        normal = np.cross(joints[1] - joints[0], joints[7] - joints[0])
        normal -= self.forward * (normal @ self.forward)
        self.palm_direction = normal / np.linalg.norm(normal)  # out of the palm
        self.faces = hand.faces.numpy()
        corners = vertices[self.faces]
        face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals = np.zeros_like(vertices)
        for k in range(3):
            np.add.at(normals, self.faces[:, k], face_normals)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        along = (vertices - joints[0]) @ self.forward
        ahead = (owner == 0) & (along > 0.012)
        self.palm = np.flatnonzero(ahead & (normals @ self.palm_direction > 0.35))
        self.segments = {
            name: [np.flatnonzero(owner == FIRST_JOINT[name] + k) for k in range(3)]
            for name in DIGITS
        }
        self.tips = hand.tips.numpy()
        self.frames = anatomical_frames(joints, vertices[self.tips])
        self.capsules = Capsules.from_mesh(
            vertices, owner.astype(np.int32), joints, vertices[self.tips]
        )

    def vertices(self, pose: Array, betas: Array) -> Array:
        """(..., 778, 3) float32 of axis-angle poses (..., 16, 3) and one shape (10,)."""
        with torch.inference_mode():
            posed = self.hand(
                torch.from_numpy(np.asarray(pose, dtype=np.float32)),
                torch.from_numpy(np.asarray(betas, dtype=np.float32)),
            )
        return posed.vertices.numpy()


_PARTS: WeakKeyDictionary[HandModel, HandParts] = WeakKeyDictionary()
_SITES: WeakKeyDictionary[GridDistance, Sites] = WeakKeyDictionary()


def parts_of(hand: HandModel) -> HandParts:
    """The parts of a hand model, made once."""
    if hand not in _PARTS:
        _PARTS[hand] = HandParts(hand)
    return _PARTS[hand]


def sites_of(distance: GridDistance, widest: float = 0.105) -> Sites:
    """Opposite pairs of an object, made once (the same for every caller: own fixed seed)."""
    if distance not in _SITES:
        _SITES[distance] = _find_sites(distance, np.random.default_rng(7), widest)
    return _SITES[distance]


def _find_sites(distance: GridDistance, rng: np.random.Generator, widest: float) -> Sites:
    mesh = distance.exact
    corners = mesh.vertices[mesh.faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1)
    face = rng.choice(len(area), size=900, p=area / area.sum())
    mix = rng.dirichlet((1.0, 1.0, 1.0), size=900)
    point = (corners[face] * mix[..., None]).sum(axis=1)
    normal = cross[face] / np.maximum(area[face], 1e-15)[:, None]
    start = np.abs(mesh.distance(point)) < 1e-5  # not buried in another piece
    point, normal = point[start], normal[start]
    # the way through, in steps of 1.5 mm, then the exact exit
    steps = np.arange(0.0015, widest + 0.003, 0.0015)
    inside = distance.distance(point[:, None] - steps[:, None] * normal[:, None]) < 0
    inside[:, 0] = True
    width = steps[np.argmin(inside, axis=1)]
    _, exit_point, exit_normal = mesh.query(point - width[:, None] * normal)
    width = np.linalg.norm(exit_point - point, axis=1)
    good = (~inside.all(axis=1)) & ((normal * exit_normal).sum(axis=1) < -0.8) & (width > 5e-4)
    if not good.any():
        none = np.zeros((0, 3))
        return Sites(centre=none, axis=none, width=np.zeros(0), weight=np.zeros(0))
    point, exit_point, width = point[good], exit_point[good], width[good]
    centre = (point + exit_point) / 2.0
    axis = (point - exit_point) / width[:, None]
    middle = (distance.low + distance.high) / 2.0
    reach = np.linalg.norm(centre - middle, axis=1) / np.linalg.norm(distance.high - distance.low)
    weight = np.exp(-((reach / 0.28) ** 2))
    wall = width < 0.2 * (distance.high - distance.low).min()
    weight = np.where(wall, 4.0 * reach**3, weight)  # vessels are taken by the rim or handle
    return Sites(centre=centre, axis=axis, width=width, weight=weight / weight.sum())
