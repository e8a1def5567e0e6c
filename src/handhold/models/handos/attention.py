"""Self-attention of one hand's tokens [2D joints | vertices | translation] and who sees whom.

HandOS, section 3.4 and its Fig. 8. Hands are the batch axis: they do not see each other.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handhold.errors import InputError

Pattern: TypeAlias = Literal["a", "b", "c", "d"]
PATTERNS: tuple[Pattern, ...] = ("a", "b", "c", "d")


def allowed(pattern: Pattern, joints: int, vertices: int) -> Tensor:
    """(n, n) bool, n = joints + vertices + 1: whether the row's token may look at the column's.

    a: each kind sees itself. b: vertices also see joints, the translation sees all. c (the
    paper's choice): joints and vertices see each other, the translation sees all and is seen by
    none but itself. d: all see all. Raises InputError for other patterns.
    """
    sees = {
        "a": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
        "b": ((1, 0, 0), (1, 1, 0), (1, 1, 1)),
        "c": ((1, 1, 0), (1, 1, 0), (1, 1, 1)),
        "d": ((1, 1, 1), (1, 1, 1), (1, 1, 1)),
    }
    if pattern not in sees:
        raise InputError(f"attention: expected one of {', '.join(PATTERNS)}, found {pattern!r}")
    counts = torch.tensor((joints, vertices, 1))
    kinds = torch.tensor(sees[pattern], dtype=torch.bool)
    return kinds.repeat_interleave(counts, 0).repeat_interleave(counts, 1)


class HandAttention(nn.Module):
    """Attention among the tokens of a hand; positions go into queries and keys, not into values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, tokens: Tensor, positions: Tensor, *, pattern: Pattern = "d", joints: int = 0
    ) -> Tensor:
        """tokens, positions (K, n, dim) -> (K, n, dim). pattern: see `allowed`; the first `joints`
        tokens are joints, the last is the translation ("d" makes no difference between them)."""
        dim = tokens.shape[-1]
        weight, bias = self.in_proj.weight, self.in_proj.bias
        both = F.linear(tokens + positions, weight[: 2 * dim], bias[: 2 * dim])
        value = self._split(F.linear(tokens, weight[2 * dim :], bias[2 * dim :]))
        query, key = (self._split(part) for part in both.chunk(2, dim=-1))
        if pattern == "d":
            mixed = F.scaled_dot_product_attention(query, key, value)
        elif pattern == "c":  # nobody sees the translation: no mask is needed for the others
            asks, answers, says = (part[:, :, :-1] for part in (query, key, value))
            mixed = F.scaled_dot_product_attention(asks, answers, says)
            last = F.scaled_dot_product_attention(query[:, :, -1:], key, value)
            mixed = torch.cat((mixed, last), dim=2)
        else:
            mask = allowed(pattern, joints, tokens.shape[1] - joints - 1).to(tokens.device)
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """(K, n, dim) -> (K, heads, n, dim / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)
