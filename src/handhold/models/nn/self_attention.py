"""Multi-head self-attention and a sine code of places, written out: what PyTorch's own transformer
layers do in eval mode neither exports nor compiles everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SelfAttention(nn.Module):
    """Vaswani et al. 2017, with biases; the position is added to queries and keys, not to values
    (Carion et al., ECCV 2020, supplement A.3).
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """tokens (B, N, dim), position (B or 1, N, dim) -> (B, N, dim)."""
        placed = tokens + position
        parts = (self.query(placed), self.key(placed), self.value(tokens))
        heads = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in parts)
        attended = functional.scaled_dot_product_attention(*heads)
        return self.out(attended.transpose(1, 2).flatten(2))


def sine_code(height: int, width: int, dim: int, temperature: float = 10_000.0) -> Tensor:
    """(height * width, dim), row-major: sines and cosines of column and row, a quarter each.

    Angle i of dim / 4: index / temperature ** (i / (dim / 4)).
    """
    rate = temperature ** -(torch.arange(dim // 4, dtype=torch.float32) / (dim // 4))
    columns = torch.arange(width, dtype=torch.float32)[None, :, None] * rate
    rows = torch.arange(height, dtype=torch.float32)[:, None, None] * rate
    columns, rows = columns.expand(height, -1, -1), rows.expand(-1, width, -1)
    code = torch.cat([columns.sin(), columns.cos(), rows.sin(), rows.cos()], dim=-1)
    return code.reshape(height * width, dim)
