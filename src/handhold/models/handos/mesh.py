"""From mesh tokens to all 778 vertices: fewer tokens than vertices, and a learned way between."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handhold.geometry.farthest import farthest_points
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


def face_pairs(faces: Tensor) -> Tensor:
    """Pairs (P, 2) of the faces (F, 3) that share an edge."""
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).sort(dim=1).values.cpu().numpy()
    owner = np.repeat(np.arange(len(faces)), 3)
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    edges, owner = edges[order], owner[order]
    same = (edges[1:] == edges[:-1]).all(axis=1)
    pairs = np.stack((owner[:-1][same], owner[1:][same]), axis=1)
    return torch.from_numpy(pairs.astype(np.int64)).to(faces.device)
