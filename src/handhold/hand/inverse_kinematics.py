"""From points back to the hand: pose, shape and place of a model that explain vertices or joints.

1. First guess in closed form: see `bonewise_alignment`.
2. Levenberg-Marquardt steps (Nocedal and Wright, Numerical Optimization, 2nd ed., section 10.3) on
   the distance of all points and on mild priors, with exact gradients. Where all vertices are known
   the curvature is taken from some 400 only, each standing for its neighbours, and not renewed at
   every step; the solution does not depend on that.

Results are differentiable with respect to points, weights and known betas. The search itself is not
recorded; a few further steps with fixed curvature, recorded, follow from the solution found. Their
derivatives are the first terms of the Neumann series of the implicit function theorem's (as in
Lorraine, Vicol, Duvenaud, AISTATS 2020); each further step leaves less of an error.

Metres and radians. Float32, or whatever the hand model is in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.geometry.rotation import matrix_to_axis_angle
from handhold.hand.angle_prior import AnglePrior
from handhold.hand.bonewise_alignment import BonewiseAlignment
from handhold.hand.convention import mirror_points, mirror_pose
from handhold.hand.model import HandModel
from handhold.hand.skinning_derivatives import (
    BETAS,
    UNKNOWNS,
    Points,
    SkinningDerivatives,
    State,
)


@dataclass(frozen=True, kw_only=True)
class InverseKinematicsConfig:
    """How to fit. The priors are in units of half a squared standard deviation.

    iterations: most steps of the search when all vertices are known. sparse_iterations: otherwise.
    vertex_noise, joint_noise: metres, how far points are expected to lie off; the larger, the more
    the priors count. shape_prior: weight of the betas' standard normal distribution. pose_prior:
    weight of the distance of the joint angles from the relaxed hand, in units of half their range
    (`anatomy.LIMITS`). limit_prior: weight of the angles' excess over that range, in units of 5
    degrees. tolerance: a chunk's search ends when a step changes no hand's energy by more (of large
    energies: by more than a hundredth of that share). damping: of the first step, relative.
    representatives: number of vertices from which the curvature is taken when all are known.
    gradient_steps: recorded steps. chunk: hands fitted at a time; 32 suits a processor's cache, a
    GPU wants more.
    """

    iterations: int = 4
    sparse_iterations: int = 12
    vertex_noise: float = 1e-3
    joint_noise: float = 5e-4
    shape_prior: float = 1.0
    pose_prior: float = 0.1
    limit_prior: float = 0.1
    tolerance: float = 1e-3
    damping: float = 1e-4
    representatives: int = 400
    gradient_steps: int = 4
    chunk: int = 32

    def __post_init__(self) -> None:
        for name in ("iterations", "sparse_iterations", "gradient_steps", "chunk"):
            value = getattr(self, name)
            if value < 1:
                raise InputError(f"{name}: expected at least 1, found {value}")
        for name in ("vertex_noise", "joint_noise", "damping"):
            value = getattr(self, name)
            if not (0 < value < math.inf):
                raise InputError(f"{name}: expected a positive number, found {value}")
        for name in ("shape_prior", "pose_prior", "limit_prior", "tolerance"):
            value = getattr(self, name)
            if not (0 <= value < math.inf):
                raise InputError(f"{name}: expected a number that is not negative, found {value}")
        if not 50 <= self.representatives <= 778:
            raise InputError(f"representatives: expected 50..778, found {self.representatives}")


@dataclass(frozen=True, kw_only=True)
class HandFit:
    """pose (..., 16, 3) axis-angle, flat convention; betas (..., 10); translation (..., 3), added
    as `HandModel` does; what these give: vertices (..., 778, 3), joints (..., 21, 3) canonical
    order; error (...): root of the mean squared distance to the points given, by their weights.
    Metres, in the frame of the points."""

    pose: Tensor
    betas: Tensor
    translation: Tensor
    vertices: Tensor
    joints: Tensor
    error: Tensor


class _Given(NamedTuple):
    """target (B, 3, N), weight (B, N), betas (B, 10) when known."""

    target: Tensor
    weight: Tensor
    betas: Tensor | None

    def take(self, part: slice) -> _Given:
        """Some of the hands."""
        betas = None if self.betas is None else self.betas[part]
        return _Given(self.target[part], self.weight[part], betas)


class _Setup(NamedTuple):
    """What is used of the hand's 799 points.

    everything: all of them; chosen: the N that are given, which are `points`; probe: those whose
    numbers among them are `where`, for the curvature (None: all); shares (N, n): which of the probe
    stands for which point; parts (16, N): of `BonewiseAlignment`; noise (N,) metres; steps: of the
    search.
    """

    everything: Points
    chosen: slice
    points: Points
    probe: Points
    where: Tensor | None
    shares: Tensor | None
    parts: Tensor
    noise: Tensor
    steps: int


class _Local(NamedTuple):
    """Energy (B,), gradient (B, 61), curvature (B, 61, 61) of a state."""

    energy: Tensor
    gradient: Tensor
    curvature: Tensor


class InverseKinematics(nn.Module):
    """Fits a hand model of either side.

    hand: the model; its own tips are the tips of the joints. Frames of the joint angles come from
    its rest joints by the rule of `anatomy.anatomical_frames`, which expects MANO's axes.
    """

    index: Tensor
    shares: Tensor

    def __init__(self, hand: HandModel, config: InverseKinematicsConfig | None = None) -> None:
        super().__init__()
        self.config = config or InverseKinematicsConfig()
        self.side = hand.side
        self.hand = hand if hand.side == "right" else hand.mirrored()
        self.skinning = SkinningDerivatives(self.hand)
        limits = self.config.limit_prior
        self.prior = AnglePrior(self.hand, relaxed=self.config.pose_prior, limits=limits)
        self.alignment = BonewiseAlignment(self.hand, self.prior.rotations)
        template = self.hand.template.detach().cpu().double().numpy()
        index, nearest = _representatives(template, self.config.representatives)
        shares = torch.from_numpy(np.eye(len(index))[nearest]).to(self.hand.template)
        self.register_buffer("shares", shares, persistent=False)
        numbers = torch.from_numpy(index).to(self.hand.template.device)
        self.register_buffer("index", numbers, persistent=False)

    # ---------------------------------------------------------------------------------- forward

    def forward(
        self,
        vertices: Tensor | None = None,
        joints: Tensor | None = None,
        *,
        vertex_weights: Tensor | None = None,
        joint_weights: Tensor | None = None,
        betas: Tensor | None = None,
    ) -> HandFit:
        """Fit vertices (..., 778, 3), joints (..., 21, 3) in the canonical order, or both.

        vertex_weights (..., 778), joint_weights (..., 21): not negative, 0 for points that are not
        known (then anything, also NaN, may stand in their place), 1 for the configured noise. betas
        (..., 10): the known shape, which is then kept. Batch shapes are broadcast. Raises
        InputError when neither kind of points is given, for wrong shapes, for values that are not
        finite, and for a hand of which all weights are zero.
        """
        with torch.autocast(self.hand.template.device.type, enabled=False):
            return self._forward(vertices, joints, vertex_weights, joint_weights, betas)

    def _forward(
        self,
        vertices: Tensor | None,
        joints: Tensor | None,
        vertex_weights: Tensor | None,
        joint_weights: Tensor | None,
        betas: Tensor | None,
    ) -> HandFit:
        kinds = (
            self._read("vertices", vertices, vertex_weights, 778),
            self._read("joints", joints, joint_weights, 21),
        )
        present = [kind for kind in kinds if kind is not None]
        if not present:
            raise InputError("vertices, joints: expected at least one of them, found neither")
        leads = [weight.shape[:-1] for _, weight in present]
        if betas is not None:
            betas = self._checked("betas", betas, 10)
            leads.append(betas.shape[:-1])
        lead = _broadcast("points, betas", *leads)
        if betas is not None:
            betas = betas.expand(*lead, 10).reshape(-1, 10)
        points = torch.cat([p.expand(*lead, *p.shape[-2:]) for p, _ in present], dim=-2)[None]
        weight = torch.cat([w.expand(*lead, w.shape[-1]) for _, w in present], dim=-1)[None]
        points, weight = points.flatten(0, -3), weight.flatten(0, -2)
        total = weight.sum(-1)
        if not bool((total > 0).all()):
            raise InputError("weights: expected a positive one in each hand, found a hand of zeros")
        if self.side == "left":
            points = mirror_points(points)
        centre = (points * weight[..., None]).sum(1) / total[:, None]
        target = (points - centre[:, None]).transpose(1, 2)
        setup = self._setup(kinds[0], kinds[1] is not None)
        given = _Given(target, weight / setup.noise**2, betas)
        guess = self.alignment(setup.points, setup.parts, target, given.weight)
        if betas is not None:
            guess = guess._replace(betas=betas.detach())
        size = self.config.chunk
        if kinds[0] is not None and setup.where is None:  # twice the vertices for the curvature
            size = max(size // 2, 1)
        chunks = []
        for start in range(0, max(len(target), 1), size):
            part = slice(start, start + size)
            chunks.append(self._fit(setup, given.take(part), State(*(v[part] for v in guess))))
        rotations, betas, translation, found = (
            torch.cat(parts) for parts in zip(*chunks, strict=True)
        )
        pose, translation = matrix_to_axis_angle(rotations), translation + centre
        off = ((found[..., setup.chosen] - target) ** 2).sum(1)
        error = ((off * weight).sum(-1) / total + 1e-20).sqrt()
        found = found.transpose(1, 2) + centre[:, None]
        if self.side == "left":
            pose, translation = mirror_pose(pose), mirror_points(translation)
            found = mirror_points(found)
        return HandFit(
            pose=pose.reshape(*lead, 16, 3),
            betas=betas.reshape(*lead, 10),
            translation=translation.reshape(*lead, 3),
            vertices=found[:, :778].reshape(*lead, 778, 3),
            joints=found[:, 778:].reshape(*lead, 21, 3),
            error=error.reshape(lead),
        )

    # ------------------------------------------------------------------------------------- input

    def _read(
        self, name: str, points: Tensor | None, weights: Tensor | None, count: int
    ) -> tuple[Tensor, Tensor] | None:
        """Points (..., count, 3), unknown ones zero, and weights (..., count), same batch shape."""
        label = "vertex_weights" if name == "vertices" else "joint_weights"
        if points is None:
            if weights is not None:
                raise InputError(f"{label}: found without {name}")
            return None
        points = self._checked(name, points, count, 3, finite=weights is None)
        if weights is None:
            return points, points.new_ones(points.shape[:-1])
        weights = self._checked(label, weights, count)
        if bool((weights < 0).any()):
            raise InputError(f"{label}: expected none below 0, found {float(weights.min())}")
        lead = _broadcast(f"{name}, {label}", points.shape[:-2], weights.shape[:-1])
        points, weights = points.expand(*lead, count, 3), weights.expand(*lead, count)
        points = torch.where(weights[..., None] > 0, points, 0.0)
        return self._checked(name, points, count, 3), weights

    def _checked(self, name: str, value: Tensor, *tail: int, finite: bool = True) -> Tensor:
        """The value in the model's type, or InputError."""
        if not isinstance(value, Tensor):
            raise InputError(f"{name}: expected a tensor, found {type(value).__name__}")
        if tuple(value.shape[-len(tail) :]) != tail:
            shape = ", ".join(str(n) for n in tail)
            raise InputError(f"{name}: expected shape (..., {shape}), found {tuple(value.shape)}")
        if value.is_complex() or value.dtype == torch.bool:
            raise InputError(f"{name}: expected real numbers, found {value.dtype}")
        value = value.to(self.hand.template)
        if finite and not bool(torch.isfinite(value).all()):
            raise InputError(f"{name}: expected finite values, found NaN or infinity")
        return value

    def _setup(self, vertices: tuple[Tensor, Tensor] | None, joints: bool) -> _Setup:
        """What is used of the 799 points when these kinds are given."""
        chosen = slice(778 if vertices is None else 0, 799 if joints else 778)
        everything = self.skinning.points()
        points = everything.take(chosen)
        noise = points.template.new_full((points.skin.shape[1],), self.config.joint_noise)
        index = shares = None
        steps = self.config.sparse_iterations
        if vertices is not None:
            noise[:778] = self.config.vertex_noise
            if _even(vertices[1]):  # only then some vertices can stand for their neighbours
                index, shares, steps = self.index, self.shares, self.config.iterations
        if joints and index is not None and shares is not None:  # each joint stands for itself
            index = torch.cat((index, torch.arange(778, 799).to(index)))
            shares = torch.block_diag(shares, torch.eye(21).to(shares))
        probe = points if index is None else points.take(index)
        parts = self.alignment.shares[:, chosen]
        return _Setup(everything, chosen, points, probe, index, shares, parts, noise, steps)

    # -------------------------------------------------------------------------------------- search

    def _fit(
        self, setup: _Setup, given: _Given, guess: State
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rotations, betas, translation of a chunk, and its 799 points (B, 3, 799)."""
        record = torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in given)
        with torch.no_grad():
            state = self._search(setup, given, guess)
        if record:
            whole = setup._replace(where=None, shares=None, probe=setup.points)
            with torch.no_grad():
                factor = _factor(self._local(whole, given, state, curve=True).curvature)
            if given.betas is not None:
                state = state._replace(betas=given.betas)
            for _ in range(self.config.gradient_steps):
                gradient = self._local(setup, given, state, curve=False).gradient
                state = state.moved(_solve(factor, gradient))
        found = self.skinning.pose(state, setup.everything).positions
        return state.rotations, state.betas, state.translation, found

    def _search(self, setup: _Setup, given: _Given, state: State) -> State:
        """Levenberg-Marquardt, each hand with its own damping, until the chunk has settled."""
        here = self._local(setup, given, state, curve=True)
        curvature = here.curvature
        damping = torch.full_like(here.energy, self.config.damping)
        for step in range(1, setup.steps + 1):
            trial = state.moved(_solve(_factor(curvature, damping), here.gradient))
            renew = step < setup.steps and (setup.where is None or step % 4 == 1)
            there = self._local(setup, given, trial, curve=renew)
            better = there.energy <= here.energy
            state = State(*_choose(better, trial, state))
            gain = (here.energy - there.energy).abs()
            if bool((gain <= self.config.tolerance * (1 + 0.01 * here.energy)).all()):
                break
            energy, gradient = _choose(better, there[:2], here[:2])
            here = here._replace(energy=energy, gradient=gradient)
            if renew:
                (curvature,) = _choose(better, (there.curvature,), (curvature,))
            damping = torch.where(better, 0.1 * damping, (10.0 * damping).clamp_min(0.1))
        return state

    def _local(self, setup: _Setup, given: _Given, state: State, *, curve: bool) -> _Local:
        """Energy, gradient and (else zeros) curvature of points and priors."""
        config = self.config
        posed = self.skinning.pose(state, setup.points)
        off = posed.positions - given.target
        force = off * given.weight[:, None]
        energy = 0.5 * (off * force).sum((1, 2))
        gradient = self.skinning.pull_back(state, posed, setup.points, force)
        prior, slope, rises = self.prior(state.rotations)
        energy = energy + prior + 0.5 * config.shape_prior * (state.betas**2).sum(-1)
        turns = torch.cat((torch.zeros_like(slope[:, :1]), slope), dim=1).flatten(1)
        pull = config.shape_prior * state.betas
        gradient = gradient + torch.cat((turns, pull, torch.zeros_like(state.translation)), dim=-1)
        free = gradient.new_ones(UNKNOWNS)
        if given.betas is not None:
            free[BETAS] = 0.0
        gradient = gradient * free
        if not curve:
            return _Local(energy, gradient, energy)
        weight = given.weight if setup.shares is None else given.weight @ setup.shares
        columns = self.skinning.jacobian(state, posed, setup.probe, setup.where)
        columns = columns.mul_(weight.sqrt()[:, None, None]).flatten(2)
        curvature = columns @ columns.transpose(1, 2)
        for joint in range(15):
            block = slice(3 * joint + 3, 3 * joint + 6)
            curvature[:, block, block] += rises[:, joint]
        diagonal = torch.diagonal(curvature, dim1=1, dim2=2)
        diagonal[:, BETAS] += config.shape_prior
        curvature = curvature * free * free[:, None] + torch.diag(1 - free)
        return _Local(energy, gradient, curvature)


def _factor(curvature: Tensor, damping: Tensor | None = None) -> Tensor:
    """Cholesky factors, float64, of (B, 61, 61) with the diagonal raised by a share (B,)."""
    matrix = curvature.to(torch.float64, copy=True)
    diagonal = torch.diagonal(matrix, dim1=1, dim2=2)
    share = 1e-9 if damping is None else damping.double()[:, None]
    diagonal += share * diagonal + 1e-12 * diagonal.sum(-1, keepdim=True)
    return torch.linalg.cholesky_ex(matrix).L


def _solve(factor: Tensor, gradient: Tensor) -> Tensor:
    """The step (B, 61) down the gradient."""
    step = torch.cholesky_solve(-gradient.double()[..., None], factor).squeeze(-1)
    return step.to(gradient)


def _choose(better: Tensor, new: tuple[Tensor, ...], old: tuple[Tensor, ...]) -> list[Tensor]:
    """Of each hand the new values where they are better."""
    pairs = zip(new, old, strict=True)
    return [torch.where(better.view(-1, *(1,) * (a.ndim - 1)), a, b) for a, b in pairs]


def _even(weights: Tensor) -> bool:
    """True when the weights (..., N) of each hand differ by a factor of 10 at most."""
    return bool((10 * weights.amin(-1) >= weights.amax(-1)).all())


def _broadcast(names: str, *leads: torch.Size) -> torch.Size:
    try:
        return torch.broadcast_shapes(*leads)
    except RuntimeError:
        found = ", ".join(str(tuple(lead)) for lead in leads)
        raise InputError(f"{names}: batch shapes {found} do not fit") from None


def _representatives(
    vertices: NDArray[np.float64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Vertices far from one another (n,), and for each vertex the number of the nearest (778,)."""
    chosen = [int(((vertices - vertices.mean(0)) ** 2).sum(1).argmax())]
    distance = np.full(len(vertices), np.inf)
    nearest = np.zeros(len(vertices), np.int64)
    for number in range(count):
        from_it = ((vertices - vertices[chosen[number]]) ** 2).sum(1)
        nearest[from_it < distance] = number
        distance = np.minimum(distance, from_it)
        chosen.append(int(distance.argmax()))
    return np.asarray(chosen[:count], np.int64), nearest
