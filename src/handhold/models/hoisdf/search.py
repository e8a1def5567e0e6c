"""The grid points nearest to a surface without asking its field at all of them.

Every second point along each axis is asked first, in bfloat16 where the processor has it. Between
them the field is interpolated: a guess at every point. The field itself, in full precision, is then
asked only where the guess leaves a doubt. How far a guess can be off is not assumed but measured,
on the points that are asked anyway and on some drawn at random; see `smallest`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

SAFETY = 1.5  # a guess may be off by this times the largest error seen
PROBES = 256  # points drawn at random whose guesses are checked
_SEED = 0
# nodes along one period of the code's fastest wave, at least, for guesses to be worth their price
_NODES = 4


def worthwhile(size: int, fastest: float, points: int, count: int) -> bool:
    """Whether guessing can pay: on a grid of size^3 points in [-1, 1] whose field has waves of at
    most `fastest` radians a unit, to find `count` of `points`."""
    spacing = 4 / (size - 1)
    return spacing * fastest <= 2 * torch.pi / _NODES and points >= 8 * count


def smallest(guess: Tensor, exact: Callable[[Tensor], Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Which `count` of N values are smallest in magnitude, smallest first: indices and values.

    guess (N,): of each value; exact: indices (M,) -> the values there (M,). Ties go to the lower
    index.

    Asked are the smallest guesses and PROBES at random. Of the values asked so far the count-th
    magnitude t is at least the true one, and with e the largest error of their guesses every index
    with |guess| <= t + SAFETY * e is asked too, until there is no such left. What was never asked
    could belong to the smallest only with an error above SAFETY * e. Where guesses are bad, e is
    large and in the end all are asked.
    """
    draw = torch.Generator().manual_seed(_SEED)
    asked = torch.zeros_like(guess, dtype=torch.bool)
    asked[torch.randperm(len(guess), generator=draw)[:PROBES]] = True
    asked[guess.abs().argsort()[: count + count // 2]] = True
    values = torch.zeros_like(guess)
    doubtful = asked.nonzero()[:, 0]
    while len(doubtful):
        values[doubtful] = exact(doubtful)
        asked[doubtful] = True
        seen = values[asked]
        reach = SAFETY * (seen - guess[asked]).abs().max()
        limit = seen.abs().kthvalue(count).values + reach
        doubtful = (~(guess.abs() > limit) & ~asked).nonzero()[:, 0]  # also where a guess is NaN
    index = asked.nonzero()[:, 0]
    order = torch.sort(values[index].abs(), stable=True).indices[:count]
    return index[order], values[index[order]]


# ----------------------------------------------------------------------------------- the guesses


def node_positions(size: int, kind: Literal["sheared", "regular"], device: torch.device) -> Tensor:
    """Normalised positions (n, n, n, 3) of every second grid point, n = size // 2 + 1; with an even
    size the last of them lie one step outside the grid."""
    line = 2.0 * torch.arange(size // 2 + 1, device=device)
    x, y, z = torch.meshgrid(line, line, line, indexing="ij")
    if kind == "sheared":
        y = y + z / size
        x = x + y / size
    return torch.stack((x, y, z), dim=-1) * (2 / (size - 1)) - 1


def guesses(inside: Tensor, size: int, ask: Callable[[Tensor], Tensor]) -> Tensor:
    """What the field is about (M,) at the grid's points `inside` (M,), indices with z fastest.

    ask: (n, n, n) bool, which nodes -> the field there; nodes are asked beside every point.
    """
    wanted = torch.zeros((size + 1 - size % 2,) * 3, device=inside.device)
    where = (inside // size**2, inside // size % size, inside % size)
    wanted[where] = 1
    needed = F.max_pool3d(wanted[None], 3, stride=2, padding=1)[0] > 0
    nodes = torch.full(needed.shape, torch.nan, device=inside.device)
    nodes[needed] = ask(needed)
    for axis in range(3):
        nodes = _doubled(nodes.movedim(axis, -1)).movedim(-1, axis)
    return nodes[where]


def _doubled(nodes: Tensor) -> Tensor:
    """Values (..., n) -> (..., 2n - 1), with a value between every two: on the cubic through four,
    at the border of what is known (else NaN) on the parabola through three or the line."""
    left, right = nodes[..., :-1], nodes[..., 1:]
    before = F.pad(nodes[..., :-2], (1, 0), value=torch.nan)
    after = F.pad(nodes[..., 2:], (0, 1), value=torch.nan)
    between = (left + right) / 2
    for better in (
        (6 * left + 3 * right - before) / 8,
        (3 * left + 6 * right - after) / 8,
        (9 * (left + right) - before - after) / 16,
    ):
        between = torch.where(better.isnan(), between, better)
    result = nodes.new_zeros((*nodes.shape[:-1], 2 * nodes.shape[-1] - 1))
    result[..., ::2], result[..., 1::2] = nodes, between
    return result


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16."""
    told = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(told.get("avx512_bf16") or told.get("amx_bf16"))
