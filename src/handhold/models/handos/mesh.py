"""From mesh tokens to all 778 vertices: fewer tokens than vertices, and a learned way between."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handhold.geometry.farthest import farthest_points
from handhold.geometry.rotation import matrix_to_sixd, sixd_to_matrix
from handhold.hand.model import HandModel
from handhold.models.handos.lifting import for_each, nearest_weights


class CoarseMesh(nn.Module):
    """Tokens of `count` vertices, chosen by farthest points on the template of `hand`; their
    numbers stay with the weights.

    upsampling: "coord": the head speaks for the coarse vertices, whose coordinates the matrix
    (778, count) mixes; "feature": the matrix mixes the tokens, to which a learned embedding of each
    vertex is added before the head. It begins as inverse-distance weights of the three nearest.
    With 778 there is neither.
    """

    index: Tensor
    start: Tensor

    def __init__(
        self,
        hand: HandModel,
        count: int,
        width: int,
        upsampling: Literal["coord", "feature"] = "coord",
    ) -> None:
        super().__init__()
        self.on_features = upsampling == "feature"
        template = hand.arrays.v_template.astype(np.float64)
        self.full = count == len(template)
        index = np.arange(count) if self.full else np.sort(farthest_points(template, count))
        self.register_buffer("index", torch.from_numpy(np.asarray(index, np.int64)))
        if not self.full:
            start = nearest_weights(template, np.asarray(index))
            self.register_buffer("start", start, persistent=False)
            self.matrix = nn.Parameter(start.clone())
            if self.on_features:
                self.embedding = nn.Parameter(torch.randn(len(template), width))

    def coarse(self, values: NDArray[Any]) -> NDArray[Any]:
        """The rows of something known for every vertex that belong to the tokens."""
        return values[self.index.cpu().numpy()]

    def forward(self, tokens: Tensor, head: nn.Module) -> Tensor:
        """tokens (K, count, width) -> what the head says of every vertex (K, 778, 3)."""
        if self.full:
            return head(tokens)
        if self.on_features:
            return head(for_each(self.matrix, tokens) @ tokens + self.embedding)
        coarse = head(tokens)
        return for_each(self.matrix, coarse) @ coarse

    def drift(self) -> Tensor:
        """Sum of the squared changes of the matrix since its beginning."""
        if self.full:
            return torch.zeros((), device=self.index.device)
        return (self.matrix - self.start).square().sum()


class TemplatePose(nn.Module):
    """Ours: vertices as moves of the rest shape, so that meshes are like hands from the first step.

    The paper's vertices are free numbers: as long as a hand's turn is not recognised, the mean over
    all turns, a point, is their best answer.
    """

    NUMBERS = 7  # two axes of the turn, and how far palm and back are apart: 1 right, -1 left
    template: Tensor
    upright: Tensor

    def __init__(self, hand: HandModel) -> None:
        super().__init__()
        wrist = hand.arrays.J_regressor[:1] @ hand.arrays.v_template
        rest = hand.arrays.v_template - wrist
        self.register_buffer("template", torch.from_numpy(rest).float(), persistent=False)
        self.register_buffer("upright", matrix_to_sixd(torch.eye(3)), persistent=False)

    def forward(self, moves: Tensor, told: Tensor) -> Tensor:
        """moves (K, 778, 3) metres in the rest pose's axes, told (K, 7) -> vertices (K, 778, 3)
        about the wrist, in the camera's axes."""
        told = told.float()
        apart = torch.tanh(told[:, 6:])  # 0: undecided, and flat
        scale = torch.cat((torch.ones_like(apart), apart, torch.ones_like(apart)), dim=-1)
        rotation = sixd_to_matrix(told[:, :6] + self.upright)
        return ((self.template + moves) * scale[:, None]) @ rotation.transpose(1, 2)


def face_pairs(faces: Tensor) -> Tensor:
    """Pairs (P, 2) of the faces (F, 3) that share an edge."""
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).sort(dim=1).values.cpu().numpy()
    owner = np.repeat(np.arange(len(faces)), 3)
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    edges, owner = edges[order], owner[order]
    same = (edges[1:] == edges[:-1]).all(axis=1)
    pairs = np.stack((owner[:-1][same], owner[1:][same]), axis=1)
    return torch.from_numpy(pairs.astype(np.int64)).to(faces.device)
