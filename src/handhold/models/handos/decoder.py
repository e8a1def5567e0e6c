"""One layer of HandOS's decoder, for the joints alone or for all tokens of a hand, and what the
layers read (HandOS, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from handhold.models.handos.attention import HandAttention
from handhold.models.handos.config import HandOSConfig
from handhold.models.handos.positions import sine_code
from handhold.models.nn.deformable_attention import DeformableAttention
from handhold.models.nn.detr import Perceptron


@dataclass(frozen=True)
class Memory:
    """What all hands of B images look at. tokens (B, T, width), levels of sizes `shapes` one after
    another; valid (B, T) bool; ratios (B, levels, 2)."""

    tokens: Tensor
    shapes: list[tuple[int, int]]
    valid: Tensor
    ratios: Tensor


class PositionCode(nn.Module):
    """The sine code of a token's box through two linear layers; one for all layers (DINO)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.mlp = Perceptron((2 * width, width, width))

    def forward(self, boxes: Tensor) -> Tensor:
        """boxes (K, n, 4) -> (K, n, width)."""
        return self.mlp(sine_code(boxes, self.width))


class DecoderLayer(nn.Module):
    """Self-attention, deformable attention, two linear layers; each with residual and LayerNorm."""

    def __init__(self, config: HandOSConfig, memory_width: int, levels: int) -> None:
        super().__init__()
        width = config.width
        self.pre, self.dropout, self.pattern = (
            config.norm == "pre",
            config.dropout,
            config.attention,
        )
        self.self_attention = HandAttention(width, config.heads)
        self.memory_attention = DeformableAttention(
            width,
            heads=config.heads,
            levels=levels,
            points=config.points,
            memory_dim=memory_width,
        )
        self.widen = nn.Linear(width, config.feedforward)
        self.narrow = nn.Linear(config.feedforward, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(
        self, tokens: Tensor, boxes: Tensor, places: Tensor, memory: Memory, image: Tensor
    ) -> Tensor:
        """tokens, places (their position codes) (K, n, width), boxes (K, n, 4) -> (K, n, width).

        n is 21 joints, or these, the vertices and the translation. image (K,): whose memory a hand
        looks at.
        """
        joints = 21
        pattern = self.pattern if tokens.shape[1] > joints else "d"

        def mix(x: Tensor) -> Tensor:
            return self.self_attention(x, places, pattern=pattern, joints=joints)

        def look(x: Tensor) -> Tensor:
            values = self.memory_attention.project(memory.tokens, memory.valid)
            return self.memory_attention(
                x + places, boxes, values, memory.shapes, memory.ratios, image
            )

        def think(x: Tensor) -> Tensor:
            return self.narrow(self._drop(F.relu(self.widen(x))))

        for part, norm in ((mix, self.norm1), (look, self.norm2), (think, self.norm3)):
            if self.pre:
                tokens = tokens + self._drop(part(norm(tokens)))
            else:
                tokens = norm(tokens + self._drop(part(tokens)))
        return tokens

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)
