"""From a box to 21 joints, and from 21 joints to vertices and a translation (HandOS, section 3.3).

Every token has features (width) and a box (cx, cy, w, h) in 0..1.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.hand.convention import MANO_TO_CANONICAL
from handhold.models.handos.positions import logit
from handhold.models.nn.detr import Perceptron

JOINTS = 21


def offset_head(width: int, outputs: int) -> Perceptron:
    """Three linear layers; the last begins at zero, so that nothing is moved at first."""
    head = Perceptron((width, width, width, outputs))
    nn.init.zeros_(head.layers[-1].weight)  # pyright: ignore[reportArgumentType]
    nn.init.zeros_(head.layers[-1].bias)  # pyright: ignore[reportArgumentType]
    return head


class JointExpansion(nn.Module):
    """Eqs. of section 3.3: Q_2D = Q_inst + e^Q; box centres moved by an MLP, sizes shrunk by a
    learned factor. Every joint begins at the centre of the hand's box.

    instance: False leaves the instance's query out, so that all hands begin with the same queries
    (the paper's "unified" ablation as we read it).
    """

    def __init__(self, width: int, *, instance: bool = True) -> None:
        super().__init__()
        self.instance = instance
        self.embedding = nn.Parameter(torch.randn(JOINTS, width))
        self.size = nn.Parameter(torch.randn(JOINTS, 2))
        self.move = offset_head(width, 2)

    def forward(self, queries: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """queries (K, width), boxes (K, 4) -> tokens (K, 21, width), their boxes (K, 21, 4)."""
        tokens = self.embedding.expand(boxes.shape[0], -1, -1)
        if self.instance:
            tokens = tokens + queries[:, None]
        centre = torch.sigmoid(logit(boxes[:, None, :2]) + self.move(tokens))
        size = boxes[:, None, 2:] * self.size.sigmoid()
        return tokens, torch.cat((centre, size), dim=-1)


def lifting_matrix(weights: NDArray[np.floating], *, uniform_last: bool = True) -> Tensor:
    """First values (V + 1, 21) of the lifting from skinning weights (V, 16) in MANO's order.

    Columns in the canonical order; finger tips, which skinning does not know, get none. Last row,
    of the translation: 1/21 each, so that it begins in the middle of the hand (or zeros). Raises
    InputError for other shapes.
    """
    if weights.ndim != 2 or weights.shape[1] != 16:
        raise InputError(f"weights: expected (V, 16), found {weights.shape}")
    padded = np.concatenate([weights, np.zeros((len(weights), 5))], axis=1)
    rows = padded[:, MANO_TO_CANONICAL]
    last = np.full((1, JOINTS), 1 / JOINTS if uniform_last else 0.0)
    return torch.from_numpy(np.concatenate([rows, last])).float()


class Lifting(nn.Module):
    """Tokens of vertices and translation as learned mixtures of the joints' tokens and boxes."""

    def __init__(self, width: int, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix.clone())
        self.size = nn.Parameter(torch.zeros(len(matrix), 2))
        self.move = offset_head(width, 2)

    def forward(self, tokens: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (K, 21, width), boxes (K, 21, 4) -> (K, V + 1, width), (K, V + 1, 4)."""
        lifted, mixed = self.mix(tokens, boxes)
        centre = torch.sigmoid(logit(mixed[..., :2]) + self.move(lifted))
        return lifted, torch.cat((centre, mixed[..., 2:] * self.size.sigmoid()), dim=-1)

    def mix(self, tokens: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """The mixtures alone; boxes are held within [1e-4, 1 - 1e-4]. Those of boxes are no matrix
        product, which mixed precision would round to a few hundred places."""
        mixed = (self.matrix[:, :, None] * boxes[:, None]).sum(dim=2)
        return for_each(self.matrix, tokens) @ tokens, mixed.clamp(1e-4, 1 - 1e-4)


def for_each(matrix: Tensor, values: Tensor) -> Tensor:
    """The matrix (n, m) for every row of values (K, ..., m, C), to be multiplied from the left: as
    broadcasting does, but also in exported graphs, where none of K = 0 rows would be an error."""
    return matrix.expand(*values.shape[:-2], *matrix.shape)


def nearest_weights(points: NDArray[np.floating], chosen: NDArray[np.integer]) -> Tensor:
    """Upsampling (V, n): every one of the points (V, 3) from its three nearest of those chosen (n
    numbers), weighted by inverse distance; those chosen stay as they are."""
    far = np.linalg.norm(points[:, None] - points[chosen][None], axis=-1)
    near = np.argsort(far, axis=1, kind="stable")[:, :3]
    share = 1 / np.maximum(np.take_along_axis(far, near, axis=1), 1e-9)
    matrix = np.zeros(far.shape)
    np.put_along_axis(matrix, near, share / share.sum(1, keepdims=True), axis=1)
    matrix[chosen] = np.eye(len(chosen))
    return torch.from_numpy(matrix).float()
