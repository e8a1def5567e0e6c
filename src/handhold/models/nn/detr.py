"""The transformer of DETR (Carion et al., ECCV 2020, supplement A.3): post-norm layers, queries.

Tokens are batch first, (B, N, dim). Masks are bool, True = may not look there. There are no
positions here: the networks that use these layers put them into the tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Perceptron(nn.Module):
    """Linear layers with ReLU between them, and after the last one where `last_relu`.

    widths: input, hidden ones, output.
    """

    def __init__(self, widths: Sequence[int], *, last_relu: bool = False) -> None:
        super().__init__()
        self.last_relu = last_relu
        pairs = itertools.pairwise(widths)
        self.layers = nn.ModuleList(nn.Linear(inside, out) for inside, out in pairs)

    def forward(self, x: Tensor) -> Tensor:
        """(..., widths[0]) -> (..., widths[-1])."""
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if self.last_relu or index + 1 < len(self.layers):
                x = F.relu(x)
        return x


class EncoderLayer(nn.Module):
    """Self-attention, then two linear layers with ReLU; each with residual and LayerNorm after."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.widen = nn.Linear(dim, feedforward)
        self.narrow = nn.Linear(feedforward, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = dropout

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        """tokens (B, N, dim), padding (B, N) bool -> (B, N, dim)."""
        mixed, _ = self.self_attention(
            tokens, tokens, tokens, key_padding_mask=padding, need_weights=False
        )
        tokens = self.norm1(tokens + self._drop(mixed))
        wide = self._drop(F.relu(self.widen(tokens)))
        return self.norm2(tokens + self._drop(self.narrow(wide)))


class DecoderLayer(nn.Module):
    """Self-attention of the queries, attention to the memory, two linear layers; post-norm.

    The query embedding is added to queries and keys of the first and to the queries of the second.
    """

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.widen = nn.Linear(dim, feedforward)
        self.narrow = nn.Linear(feedforward, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = dropout

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def forward(
        self,
        target: Tensor,
        memory: Tensor,
        queries: Tensor,
        *,
        target_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        padding: Tensor | None = None,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """target, queries (B, Q, dim), memory (B, N, dim) -> (B, Q, dim) and, if asked for, the
        attention to the memory (B, Q, N), the mean over heads.

        target_mask (Q, Q), memory_mask (Q, N) or (B * heads, Q, N), padding (B, N): bool.
        """
        asking = target + queries
        mixed, _ = self.self_attention(
            asking, asking, target, attn_mask=target_mask, need_weights=False
        )
        target = self.norm1(target + self._drop(mixed))
        mixed, weights = self.cross_attention(
            target + queries,
            memory,
            memory,
            attn_mask=memory_mask,
            key_padding_mask=padding,
            need_weights=need_weights,
        )
        target = self.norm2(target + self._drop(mixed))
        wide = self._drop(F.relu(self.widen(target)))
        return self.norm3(target + self._drop(self.narrow(wide))), weights


class Encoder(nn.Module):
    """Layers one after another; `norm` is for the intermediate outputs only."""

    def __init__(
        self, layers: int, dim: int, heads: int, feedforward: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(dim, heads, feedforward, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """tokens (B, N, dim), padding (B, N) bool -> the memory (B, N, dim) as the last layer
        leaves it, and every layer's output through the norm (B, layers, N, dim)."""
        outputs: list[Tensor] = []
        for layer in self.layers:
            tokens = layer(tokens, padding)
            outputs.append(self.norm(tokens))
        return tokens, torch.stack(outputs, dim=1)


class Decoder(nn.Module):
    """Learned queries (Q, dim) that read a memory; starts from zeros."""

    def __init__(
        self, layers: int, dim: int, heads: int, feedforward: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(dim, heads, feedforward, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        queries: Tensor,
        memory: Tensor,
        *,
        target_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        padding: Tensor | None = None,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """queries (Q, dim), memory (B, N, dim) -> every layer's output through the norm (B, layers,
        Q, dim) and, if asked for, the last layer's attention to the memory (B, Q, N).

        Masks as in `DecoderLayer`.
        """
        queries = queries.expand(memory.shape[0], -1, -1)
        target, weights = torch.zeros_like(queries), None
        outputs: list[Tensor] = []
        for layer in self.layers:
            target, weights = layer(
                target,
                memory,
                queries,
                target_mask=target_mask,
                memory_mask=memory_mask,
                padding=padding,
                need_weights=need_weights,
            )
            outputs.append(self.norm(target))
        return torch.stack(outputs, dim=1), weights


def first_look(decoder: str) -> tuple[str, ...]:
    """Names of the weights of the `decoder` that get no gradient while its biases are zero: its
    first layer mixes the queries' contents, which all begin as zeros."""
    layer = f"{decoder}.layers.0"
    attention = f"{layer}.self_attention"
    return f"{attention}.in_proj_weight", f"{attention}.out_proj.weight", f"{layer}.norm1.weight"
