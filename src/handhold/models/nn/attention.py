"""Attention between feature maps, and the token mapper of UniHOPE's adaptation layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MapAttention(nn.Module):
    """HFL-Net's interaction block (Lin et al., CVPR 2023, section 3.3): multi-head attention of a
    query map to a source map, residual, then LayerNorm and a GELU network, residual.

    No output projection, no positions, no dropout. Head h owns channels [h dim/H, (h + 1) dim/H).
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Conv2d(dim, dim, 1)
        self.key = nn.Conv2d(dim, dim, 1)
        self.value = nn.Conv2d(dim, dim, 1)
        self.norm = nn.LayerNorm(dim)
        self.mlp_in = nn.Linear(dim, mlp_ratio * dim)
        self.mlp_out = nn.Linear(mlp_ratio * dim, dim)

    def _tokens(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, heads, H * W, C / heads)."""
        return head_tokens(x, self.heads)

    def forward(self, query: Tensor, source: Tensor, read: int | None = None) -> Tensor:
        """query (B, dim, H, W), source (B, dim, H', W') -> (B, dim, H, W).

        read: how many of the result's channels are read, from the first; in an exported graph the
        others are left out.
        """
        attended = F.scaled_dot_product_attention(
            self._tokens(self.query(query)),
            self._tokens(self.key(source)),
            self._tokens(self.value(source)),
        )  # (B, heads, N, dim / heads)
        attended = attended.transpose(1, 2).flatten(2)  # (B, N, dim)
        tokens = query.permute(0, 2, 3, 1).flatten(1, 2) + attended  # channels last, as above

        def as_map(tokens: Tensor) -> Tensor:
            return tokens.unflatten(1, query.shape[-2:]).permute(0, 3, 1, 2)

        hidden = F.gelu(self.mlp_in(self.norm(tokens)))
        last = self.mlp_out
        if torch.compiler.is_compiling():  # exported: engines are faster at a 1x1 convolution
            x = F.conv2d(as_map(hidden), last.weight[:read, :, None, None], last.bias[:read])
            return as_map(tokens[..., :read]) + x
        return as_map(tokens + last(hidden))


def head_tokens(x: Tensor, heads: int) -> Tensor:
    """(B, C, H, W) -> (B, heads, H * W, C / heads), row by row; head h owns channels [h C / heads,
    (h + 1) C / heads)."""
    if torch.compiler.is_compiling():  # exported: channels last, as engines fuse attention
        return x.permute(0, 2, 3, 1).flatten(1, 2).unflatten(2, (heads, -1)).transpose(1, 2)
    return x.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)


class TokenMapper(nn.Module):
    """Self-attention over tokens with projection, dropout, residual and LayerNorm (eps 1e-6).

    Vaswani et al., 2017. No biases in the projections; heads * head_dim may differ from dim.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(dim, inner, bias=False)
        self.key = nn.Linear(dim, inner, bias=False)
        self.value = nn.Linear(dim, inner, bias=False)
        self.out = nn.Linear(inner, dim, bias=False)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        chance = self.dropout if self.training else 0.0
        q, k, v = (
            layer(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=chance)
        mapped = self.out(mixed.transpose(1, 2).flatten(2))
        return self.norm(F.dropout(mapped, chance, self.training) + tokens)
