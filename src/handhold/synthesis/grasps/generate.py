"""From an object to valid grasps: starts, annealing, checks, in batches that repeat by seed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.synthesis.grasps.anneal import AnnealConfig
from handhold.synthesis.grasps.energies import Energies, EnergyConfig
from handhold.synthesis.grasps.fast import FastEnergies
from handhold.synthesis.grasps.hand import GraspHand
from handhold.synthesis.grasps.lift import FELL, displacement
from handhold.synthesis.grasps.optimise import ContactChoice, optimise
from handhold.synthesis.grasps.solid import Solid
from handhold.synthesis.grasps.starts import from_grips, from_hull, resting_poses
from handhold.synthesis.grasps.validate import ValidationConfig, Verdict, judge

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class GraspConfig:
    """How grasps are made.

    start: "grips" closes a human grip on the object and anneals it briefly; "hull" is the published
    start far out, which needs the published schedule. batch: grasps annealed together. contacts: of
    a grasp. nearness: metres, see ContactChoice; None draws uniformly, as published. table: a plane
    under the object where it came to rest when dropped; hands stay above it. coupled_prior: the
    pose prior with the couplings of the fingers, False for one deviation an angle, as published.
    points: of the object's surface. lift: grasps from which the object falls in MuJoCo fall too;
    gravity points to the table, or to where the object rests most often. Raises InputError for
    values out of range.
    """

    start: Literal["grips", "hull"] = "grips"
    batch: int = 64
    contacts: int = 4
    nearness: float | None = 0.004
    table: bool = False
    lift: bool = False
    coupled_prior: bool = True
    points: int = 2000
    energy: EnergyConfig = field(
        default_factory=lambda: EnergyConfig(inside=200.0, self_distance=0.012)
    )
    anneal: AnnealConfig = field(
        default_factory=lambda: AnnealConfig(
            steps=60,
            step_size=0.0015,
            step_period=15,
            temperature=0.2,
            decay=0.8,
            temperature_period=10,
            switch=0.1,
        )
    )
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        for name in ("batch", "contacts", "points"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"GraspConfig.{name}: expected 1 or more, found {getattr(self, name)}"
                )

    @classmethod
    def published(cls) -> GraspConfig:
        """Start, energies, schedule and in-line check of the released code."""
        return cls(
            start="hull",
            nearness=None,
            coupled_prior=False,
            energy=EnergyConfig(released_self_form=True),
            anneal=AnnealConfig(),
            validation=ValidationConfig.generator(),
        )


class Batch(NamedTuple):
    """What one batch gave: valid grasps as rows of arrays, and why the others fell.

    vectors (N, 51) float32: translation, root axis-angle, 15 finger axis-angles (flat hand = zero),
    of a right hand in the object's frame. contacts (N, K): vertex ids. touching: a bit a digit,
    thumb to little, then palm. rests (N, 4, 4): object to table, zeros
    without table. energies (N, 7). attempt (N,): number of the attempt in the run. attempts: tried.
    fallen: how many fell for which reason.
    """

    vectors: Array
    contacts: Array
    touching: Array
    penetration: Array
    volume: Array
    rests: Array
    energies: Array
    attempt: Array
    attempts: int
    fallen: dict[str, int]


def batch_seed(seed: int, name: str, number: int) -> int:
    """The seed of a batch: from the run's seed, the object's name and the batch's number."""
    if seed < 0 or number < 0:
        raise InputError(f"seed: expected 0 or more, found {seed}")
    words = np.random.SeedSequence([seed, zlib.crc32(name.encode()), number]).generate_state(2)
    return int(words[0]) << 31 | int(words[1]) >> 1


def make_batch(hand: GraspHand, solid: Solid, config: GraspConfig, seed: int, number: int) -> Batch:
    """Batch `number` of an object: always the same for the same hand, mesh, settings and seed."""
    state = batch_seed(seed, solid.mesh.name, number)
    rng = np.random.default_rng(state)
    rests = resting_poses(solid, rng, config.batch) if config.table else None
    planes = None if rests is None else rests[:, 2]
    if config.start == "grips":
        vectors, _ = from_grips(hand, solid, rng, config.batch)
        planes = None if planes is None else planes[: len(vectors)]
    else:
        vectors = from_hull(hand, solid, rng, config.batch, planes)
    fallen: dict[str, int] = {}
    if config.batch > len(vectors):
        fallen["no start"] = config.batch - len(vectors)
    if not len(vectors):
        return _packed([], config, fallen)
    prior = hand.prior if config.coupled_prior else hand.diagonal_prior()
    energies = FastEnergies(hand, solid, config.energy, prior)
    choice = ContactChoice(hand, solid, config.contacts, config.nearness)
    tables = None if planes is None else torch.tensor(planes, dtype=torch.float32)
    found = optimise(
        energies, choice, torch.tensor(vectors, dtype=torch.float32), config.anneal, state, tables
    )
    with torch.no_grad():
        vertices = energies.hand(found.poses)[0].transpose(1, 2).numpy()
    rows: list[dict[str, Any]] = []
    for k in range(len(vectors)):
        vector = found.poses[k].numpy()
        verdict = judge(hand, solid, vector.astype(np.float64), vertices[k], config.validation)
        reason = verdict.reason
        if not reason and config.lift:
            normal = _likeliest_up(solid) if planes is None else planes[k, :3]
            reason = "" if displacement(hand, solid, vertices[k], -normal) < FELL else "dropped"
        if reason:
            fallen[reason] = fallen.get(reason, 0) + 1
            continue
        rows.append(
            {
                "vectors": vector,
                "contacts": hand.candidates[found.contacts[k]].numpy(),
                "touching": _bits(verdict),
                "penetration": verdict.penetration,
                "volume": verdict.volume,
                "rests": np.zeros((4, 4)) if rests is None else rests[k],
                "energies": np.array([float(term[k]) for term in found.terms]),
                "attempt": number * config.batch + k,
            }
        )
    return _packed(rows, config, fallen)


ARRAYS: dict[str, tuple[tuple[int, ...], Any]] = {
    "vectors": ((51,), np.float32),
    "contacts": ((), np.int16),
    "touching": ((), np.uint8),
    "penetration": ((), np.float32),
    "volume": ((), np.float32),
    "rests": ((4, 4), np.float32),
    "energies": ((len(Energies._fields),), np.float32),
    "attempt": ((), np.int32),
}
PARTS = ("thumb", "index", "middle", "ring", "little", "palm")


def _likeliest_up(solid: Solid) -> Array:
    """The upward direction (3,) in the object's frame where it comes to rest most often."""
    drawn = resting_poses(solid, np.random.default_rng(0), 64)[:, 2, :3]
    directions, counts = np.unique(np.round(drawn, 4), axis=0, return_counts=True)
    return directions[np.argmax(counts)]


def _bits(verdict: Verdict) -> int:
    return sum(1 << PARTS.index(name) for name in verdict.contacts)


def _packed(rows: list[dict[str, Any]], config: GraspConfig, fallen: dict[str, int]) -> Batch:
    arrays = {
        name: np.array([row[name] for row in rows], dtype=kind).reshape(-1, *shape)
        for name, (shape, kind) in ARRAYS.items()
    }
    arrays["contacts"] = arrays["contacts"].reshape(-1, config.contacts)
    return Batch(**arrays, attempts=config.batch, fallen=dict(sorted(fallen.items())))
