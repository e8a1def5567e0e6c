"""Loss terms of networks that put out vertices: Ge et al., CVPR 2019 (normals), Wang et al., ECCV
2018 (edges), as MobRecon and H2ONet use them. Each is a scalar without its weight."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from handhold.models.nn.hope_losses import masked_mean, need
from handhold.scene import Batch, Prediction


def face_edges(vertices: Tensor, faces: Tensor) -> Tensor:
    """The three edges (B, F, 3, 3) of every face, from vertices (B, V, 3) and faces (F, 3)."""
    corners = vertices.index_select(1, faces.flatten()).unflatten(1, tuple(faces.shape))
    return corners.roll(-1, dims=2) - corners


def normal_term(found: Tensor, target: Tensor, faces: Tensor, known: Tensor) -> Tensor:
    """Mean |unit predicted edge . unit true face normal| over faces and their edges.

    found, target (B, V, 3); faces (F, 3); known (B,): samples that take part."""
    edges, true_edges = face_edges(found, faces), face_edges(target, faces)
    normal = F.normalize(true_edges[:, :, 0].cross(true_edges[:, :, 1], dim=-1), dim=-1)
    cosine = (F.normalize(edges, dim=-1) * normal[:, :, None]).sum(-1)
    return masked_mean(cosine.abs(), known)


def edge_term(found: Tensor, target: Tensor, faces: Tensor, known: Tensor) -> Tensor:
    """Mean |predicted length - true length| over faces and their edges; arguments as above."""
    length, true_length = (face_edges(v, faces).norm(dim=-1) for v in (found, target))
    return masked_mean((length - true_length).abs(), known)


def joints2d_term(prediction: Prediction, batch: Batch) -> Tensor:
    """Mean absolute error of the labelled 2D joints, as shares of the crop's side."""
    target = need("batch.joints2d", batch.joints2d).float()
    found = need("prediction.joints2d", prediction.joints2d).float()
    valid = batch.joints2d_valid
    valid = torch.ones_like(target[..., 0], dtype=torch.bool) if valid is None else valid.bool()
    return masked_mean((found - target).abs() / batch.image.shape[-1], valid)
