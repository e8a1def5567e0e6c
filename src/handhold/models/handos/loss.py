"""HandOS's losses (section 3.5), on every layer's output."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from handhold.errors import InputError
from handhold.hand.convention import mirror_points
from handhold.hand.inverse_kinematics import InverseKinematics, InverseKinematicsConfig
from handhold.hand.model import HandModel
from handhold.models.handos.batch import HandOSPrediction, PhotoBatch
from handhold.models.handos.camera import project, to_pixels, to_shares
from handhold.models.nn.hope_losses import masked_mean, need
from handhold.models.nn.mesh_losses import edge_term, face_edges

# COCO-WholeBody's for hands, as recalled: check them before comparing figures
WHOLEBODY_SIGMAS = (
    *(0.029, 0.022, 0.035, 0.037, 0.047, 0.026, 0.025, 0.024, 0.035, 0.018, 0.024),
    *(0.022, 0.026, 0.017, 0.021, 0.021, 0.032, 0.020, 0.019, 0.022, 0.031),
)
UNIT_M = 0.2  # lengths are told in these
# of vectors shorter than these the direction counts less and less: a fresh network's mesh has faces
# without area, whose gradients would drown all others
SHORT_M, SMALL_M2 = 1e-3, 1e-6


@dataclass(frozen=True, kw_only=True)
class HandOSLossConfig:
    """Weights of the terms, the paper's; 0 leaves one out.

    joints2d, projected: L1 of the 2D joints, in shares of the photo's width and height; oks2d,
    oks_projected: 1 - OKS; vertices, joints, edge: in units of 0.2 m; normal; smooth: of 1 - cosine
    between neighbouring faces' normals; upsampling: of the squared changes of a learned upsampling
    (half a weight decay of 1e-4). hand_prior (ours, not the paper's): distance of the last layer's
    vertices to the hand model fitted to them (`hand_prior`), in units of 0.2 m.
    reduction2d: "mean" over a hand's joints, or the "sum" over them and x and y, as ED-Pose has it;
    better in the first stage, the mean in the second.
    sigmas: OKS's, "constant" (`sigma` for all) or "wholebody". Raises InputError.
    """

    joints2d: float = 10.0
    oks2d: float = 4.0
    vertices: float = 10.0
    joints: float = 10.0
    normal: float = 5.0
    edge: float = 10.0
    projected: float = 10.0
    oks_projected: float = 4.0
    smooth: float = 0.5
    upsampling: float = 5e-5
    hand_prior: float = 0.0
    reduction2d: Literal["mean", "sum"] = "mean"
    sigmas: Literal["constant", "wholebody"] = "constant"
    sigma: float = 0.025

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int | float) and not value >= 0:
                raise InputError(f"HandOSLossConfig.{name}: expected not negative, found {value}")
        if self.reduction2d not in ("mean", "sum") or self.sigmas not in ("constant", "wholebody"):
            raise InputError(
                "HandOSLossConfig: expected reduction2d mean or sum and sigmas constant or "
                f"wholebody, found {self.reduction2d!r}, {self.sigmas!r}"
            )


def loss(
    prediction: HandOSPrediction, batch: PhotoBatch, config: HandOSLossConfig | None = None
) -> dict[str, Tensor]:
    """Named, weighted terms and their sum `total`.

    Each is the mean over the positives that have the label (none: zero) and the sum over the
    layers. Hands of which only 2D is known take part in joints2d, oks2d, projected, oks_projected
    and smooth. Without any positive, all is zero, with a path to every parameter.
    Raises InputError where labels are missing.
    """
    config = HandOSLossConfig() if config is None else config
    rows, image = prediction.target, prediction.image
    if rows.numel() and int(rows.min()) < 0:
        raise InputError("HandOS loss: expected positives of SimOTA, found hands as in use")

    def label(name: str) -> Tensor:
        return need(f"batch.{name}", getattr(batch, name))[rows]

    terms: dict[str, Tensor] = {"joints2d": prediction.anchor}
    if len(rows):
        size = batch.valid_size[image].float()
        truth, valid = label("joints2d").float()[:, None], label("joints2d_valid").bool()[:, None]
        area = (label("boxes")[:, 2:] * size).prod(-1)
        planar = _Planar(truth, valid, size, area, config)
        l1, oks = planar(to_pixels(prediction.joints2d, size))
        terms = {"joints2d": config.joints2d * l1, "oks2d": config.oks2d * oks}
        if prediction.vertices is not None:
            terms |= _mesh_terms(prediction, label, config)
            joints, moved = prediction.joints, prediction.translation
            if joints is not None and moved is not None:
                pixels = project(joints + moved[:, :, None], batch.intrinsics[image])
                l1, oks = planar(pixels)
                terms["projected"] = config.projected * l1
                terms["oks_projected"] = config.oks_projected * oks
            terms["upsampling"] = config.upsampling * prediction.drift
    return terms | {"total": torch.stack(list(terms.values())).sum()}


class _Planar:
    """L1 and 1 - OKS of pixels (K, layers, 21, 2), summed over layers, against one truth."""

    def __init__(
        self, truth: Tensor, valid: Tensor, size: Tensor, area: Tensor, config: HandOSLossConfig
    ) -> None:
        self.truth, self.valid, self.size, self.config = truth, valid, size, config
        sigma = torch.full((21,), config.sigma)
        if config.sigmas == "wholebody":
            sigma = torch.tensor(WHOLEBODY_SIGMAS)
        self.spread = 2 * area.clamp(min=1.0)[:, None, None] * (2 * sigma.to(area)) ** 2

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        truth = torch.where(self.valid[..., None], self.truth, 0.0)
        count = self.valid.sum(-1)
        off = (to_shares(pixels, self.size) - to_shares(truth, self.size)).abs().sum(-1)
        off = torch.where(self.valid, off, 0.0).sum(-1)
        if self.config.reduction2d == "mean":
            off = off / (2 * count.clamp(min=1))
        near = torch.exp(-(pixels - truth).square().sum(-1) / self.spread)
        near = torch.where(self.valid, near, 0.0).sum(-1) / count.clamp(min=1)
        known = (count > 0).expand_as(off)
        layers = pixels.shape[1]
        return masked_mean(off, known) * layers, masked_mean(1 - near, known) * layers


def _mesh_terms(
    prediction: HandOSPrediction, label: Callable[[str], Tensor], config: HandOSLossConfig
) -> dict[str, Tensor]:
    vertices = need("prediction.vertices", prediction.vertices).float()
    joints = need("prediction.joints", prediction.joints).float()
    layers, faces = vertices.shape[1], prediction.faces
    known, known_joints = label("has_vertices").bool(), label("has_joints").bool()
    truth, true_joints = label("vertices").float(), label("joints").float()
    terms = {
        "vertices": config.vertices * _l1(vertices, truth, known),
        "joints": config.joints * _l1(joints, true_joints, known_joints),
    }
    flat, every = vertices.flatten(0, 1), known.repeat_interleave(layers)
    wanted = truth.repeat_interleave(layers, 0)
    terms["normal"] = config.normal * layers * normal_error(flat, wanted, faces, every)
    terms["edge"] = config.edge * layers * edge_term(flat, wanted, faces, every) / UNIT_M
    terms["smooth"] = config.smooth * layers * smoothness(flat, faces, prediction.face_pairs)
    if config.hand_prior:
        hand = prediction.hand
        if hand is None:
            raise InputError("HandOS loss: hand_prior needs prediction.hand, found None")
        right = label("right")
        inside_out = need("prediction.volume", prediction.volume)
        right = torch.where(right < 0, inside_out > 0, right > 0.5)
        terms["hand_prior"] = config.hand_prior * hand_prior(vertices[:, -1], right, hand) / UNIT_M
    return terms


def _l1(found: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """(K, layers, n, 3), (K, n, 3), (K,): mean over coordinates and hands, sum over layers."""
    off = (found - truth[:, None]).abs().mean(dim=(2, 3)) / UNIT_M
    return masked_mean(off, known[:, None].expand_as(off)) * found.shape[1]


def _direction(vectors: Tensor, short: float) -> Tensor:
    return vectors / (vectors.square().sum(-1, keepdim=True) + short**2).sqrt()


def _normals(vertices: Tensor, faces: Tensor) -> Tensor:
    edges = face_edges(vertices, faces)
    return _direction(edges[:, :, 0].cross(edges[:, :, 1], dim=-1), SMALL_M2)


def normal_error(found: Tensor, truth: Tensor, faces: Tensor, known: Tensor) -> Tensor:
    """Mean |predicted edge's direction . true face's normal| over faces, their edges and the known
    (N,) hands; found, truth (N, V, 3)."""
    edges = _direction(face_edges(found, faces), SHORT_M)
    cosine = (edges * _normals(truth, faces)[:, :, None]).sum(-1)
    return masked_mean(cosine.abs(), known)


def smoothness(vertices: Tensor, faces: Tensor, pairs: Tensor) -> Tensor:
    """Mean of 1 - cosine between the normals of neighbouring faces; vertices (N, V, 3)."""
    normals = _normals(vertices, faces)
    first, second = (normals.index_select(1, pairs[:, side]) for side in (0, 1))
    return (1 - (first * second).sum(-1)).mean()


def hand_prior(vertices: Tensor, right: Tensor, hand: HandModel) -> Tensor:
    """Mean distance along an axis, metres, of meshes to `fitted_hands`, which are taken as they
    are: no gradient goes through the fit."""
    return (vertices - fitted_hands(vertices, right, hand)).abs().mean()


@torch.no_grad()
def fitted_hands(vertices: Tensor, right: Tensor, hand: HandModel) -> Tensor:
    """Vertices (K, 778, 3) of the hand model of the side right (K,) bool, fitted to meshes (K, 778,
    3). hand: the right one. A mesh that cannot be fitted stays as it is."""
    fitter, side = _fitter(hand, str(vertices.device)), right[:, None, None]
    fitted = fitter(torch.where(side, vertices, mirror_points(vertices))).vertices
    fitted = torch.where(side, fitted, mirror_points(fitted))
    return torch.where(fitted.isfinite(), fitted, vertices)


@lru_cache(maxsize=2)
def _fitter(hand: HandModel, device: str) -> InverseKinematics:
    # a learning network's mesh is millimetres off, and its size is no reason for an odd shape
    config = InverseKinematicsConfig(vertex_noise=5e-3, shape_prior=10.0)
    return InverseKinematics(copy.deepcopy(hand), config).to(device)
