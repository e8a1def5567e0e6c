"""What a hand brings to a grasp: where it may touch, which poses come easily, a closed surface."""

from __future__ import annotations

import itertools
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handhold.errors import InputError
from handhold.geometry.farthest import farthest_points
from handhold.hand.anatomy import sample_pose
from handhold.hand.model import HandModel
from handhold.hand.topology import closed_faces
from handhold.render.mesh import vertex_normals
from handhold.synthesis.grasps.energies import PosePrior
from handhold.synthesis.grips import DIGITS, FIRST_JOINT, HandParts, parts_of

PER_PHALANX = (3, 5, 7)  # candidates from knuckle to tip; the thumb's first bone is its ball
IN_PALM = 8
_PRIOR_POSES = 3000
_COVER_POSES = 100
_COVER_MARGIN = 0.002  # metres
_COVER_SPACING = 0.018
_LEAST_DEVIATION = 0.04  # radians; joints that hardly turn keep this much room


class Balls(NamedTuple):
    """Balls that cover the flesh of every pose: centres mix (C, 21) @ joints, radius (C,)."""

    mix: Tensor
    radius: Tensor


class GraspHand:
    """A right hand model prepared for grasping, mean shape unless `betas` (10,) is given.

    candidates (C,): vertex ids where it may touch: of every phalanx, those whose rest normal
    points to the side that the joint curls to, thinned by farthest points, denser towards the tip;
    then a few of the palm. digit_of (C,): "thumb" to "little" = 0 to 4, palm = 5. prior: of the 45
    finger angles. balls: a cover of the flesh. faces (F, 3): closed at the wrist. Raises
    InputError for left hands.
    """

    def __init__(self, model: HandModel, betas: NDArray[np.float64] | None = None) -> None:
        if model.side != "right":
            raise InputError("hand: expected a right hand (mirror the object for a left one)")
        self.model = model
        self.parts: HandParts = parts_of(model)
        self.betas = np.zeros(10) if betas is None else np.asarray(betas, dtype=np.float64)
        if self.betas.shape != (10,) or not np.isfinite(self.betas).all():
            raise InputError(f"betas: expected ten finite numbers, found {self.betas.shape}")
        self.faces = torch.from_numpy(closed_faces(model.faces.numpy()))
        self.candidates, self.digit_of = self._choose_candidates()
        self.prior = self._fit_prior()
        self.balls = self._cover()
        shape = torch.tensor(self.betas, dtype=torch.float32)
        self.root = model.rest_joints(shape)[0].numpy().astype(np.float64)

    def _choose_candidates(self) -> tuple[Tensor, NDArray[np.int64]]:
        vertices = self.model.template.numpy().astype(np.float64)
        rounded = vertices.astype(np.float32)
        normals = vertex_normals(vertices, self.faces.numpy())
        tips = set(self.parts.tips.tolist())
        chosen: list[NDArray[np.int64]] = []
        digits: list[int] = []
        for number, digit in enumerate(DIGITS):
            for k, rows in enumerate(self.parts.segments[digit]):
                curl = -self.parts.frames[FIRST_JOINT[digit] + k][:, 1]
                facing = rows[normals[rows] @ curl > (0.5 if k < 2 else 0.3)]
                facing = np.array([row for row in facing if row not in tips], dtype=np.int64)
                if not len(facing):
                    continue
                kept = facing[farthest_points(rounded[facing], PER_PHALANX[k])]
                chosen.append(kept)
                digits += [number] * len(kept)
        palm = self.parts.palm
        chosen.append(palm[farthest_points(rounded[palm], IN_PALM)])
        digits += [5] * len(chosen[-1])
        return torch.from_numpy(np.concatenate(chosen)), np.asarray(digits)

    def _fit_prior(self) -> PosePrior:
        """Normal distribution of the natural poses that `anatomy` draws, couplings included."""
        poses = _natural_angles(self.parts)
        mean = poses.mean(axis=0)
        values, axes = np.linalg.eigh(np.cov(poses.T))
        whitening = (axes / np.sqrt(np.maximum(values, _LEAST_DEVIATION**2))).T
        return PosePrior(
            torch.tensor(mean, dtype=torch.float32), torch.tensor(whitening, dtype=torch.float32)
        )

    def diagonal_prior(self) -> PosePrior:
        """The published form of the prior: every angle by itself."""
        poses = _natural_angles(self.parts)
        deviation = np.maximum(poses.std(axis=0), _LEAST_DEVIATION)
        mean, deviation = (
            torch.tensor(x, dtype=torch.float32) for x in (poses.mean(axis=0), deviation)
        )
        return PosePrior.diagonal(mean, deviation)

    def _cover(self) -> Balls:
        """Balls about points on the bones, as large as the natural poses need, and a margin."""
        place = self.posed(torch.zeros(1, 51))[1][0]
        spokes = [torch.eye(21)[[0, first]] for first in range(1, 21, 4)]
        between = [torch.stack((a[0], (a[1] + b[1]) / 2)) for a, b in itertools.pairwise(spokes)]
        bones = [torch.eye(21)[[k, k + 1]] for k in range(1, 21) if k % 4]
        rows = []
        for ends in (*spokes, *between, *bones):
            length = float((ends @ place).diff(dim=0).norm())
            share = torch.linspace(0, 1, 2 + int(length / _COVER_SPACING))[:, None]
            rows.append((1 - share) * ends[:1] + share * ends[1:])
        weights = torch.unique(torch.cat(rows), dim=0)
        poses = torch.zeros(_COVER_POSES, 51)
        natural = _natural_angles(self.parts)[:_COVER_POSES]
        poses[:, 6:] = torch.tensor(natural, dtype=torch.float32)
        with torch.no_grad():
            vertices, joints = self.posed(poses)
        centres = torch.einsum("kj,bjc->bkc", weights, joints)
        distance = torch.cdist(vertices, centres)
        nearest, which = distance.min(dim=2)
        radius = torch.zeros(len(weights)).scatter_reduce(
            0, which.flatten(), nearest.flatten(), "amax"
        )
        return Balls(weights, radius + _COVER_MARGIN)

    def posed(self, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Vertices (B, 778, 3) and joints (B, 21, 3) of grasp vectors (B, 51)."""
        betas = None
        if self.betas.any():
            betas = torch.tensor(self.betas, dtype=pose.dtype)
        out = self.model(pose[:, 3:], betas, pose[:, :3])
        return out.vertices, out.joints


_NATURAL: WeakKeyDictionary[HandParts, NDArray[np.float64]] = WeakKeyDictionary()


def _natural_angles(parts: HandParts) -> NDArray[np.float64]:
    """Finger angles (N, 45), axis-angle, of random natural poses; always the same ones."""
    if parts not in _NATURAL:
        rng = np.random.default_rng(5)
        poses = sample_pose(rng, _PRIOR_POSES, frames=parts.frames)
        _NATURAL[parts] = poses[:, 1:].reshape(-1, 45)
    return _NATURAL[parts]
