"""Key points of Keypoint Transformer (paper section 3.1): peaks of maps, labels, position codes.

Map coordinates: x, y in pixels of the heat map, (0, 0) the centre of its top-left pixel.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING, HAND = 0, 1  # kinds of tokens; objects have the number of classes - 1


@dataclass(frozen=True, kw_only=True)
class Slots:
    """K places for key points of one kind. xy (B, K, 2) map pixels, found (B, K) bool, label (B, K)
    int64: the token's kind; where not found, all three are 0."""

    xy: Tensor
    found: Tensor
    label: Tensor


def greedy_peaks(
    maps: Tensor, threshold: Tensor, radius: float, rounds: int | None
) -> tuple[Tensor, Tensor]:
    """The highest pixel above the threshold, then the highest outside its disc, and so on; at most
    `rounds` of them, None: to the end.

    maps (N, H, W), threshold (N,), radius: in pixels, the rim belongs to the disc. Equal values:
    the first in raster order. Returns xy (N, K, 2) in the order found, which is that of
    falling values, and found (N, K) bool. No gradient.
    """
    width = maps.shape[2]
    margin = math.floor(radius)
    across = width + 2 * margin
    # a margin all around, so that a disc never leaves the map
    flat = F.pad(maps.detach(), (margin,) * 4, value=-math.inf).flatten(1)
    step = torch.arange(-margin, margin + 1, device=maps.device)
    dy, dx = torch.meshgrid(step, step, indexing="ij")
    disc = (dy * across + dx)[dx**2 + dy**2 <= radius**2]  # offsets in `flat`
    places: list[Tensor] = []
    values: list[Tensor] = []
    for _ in itertools.count() if rounds is None else range(rounds):
        value, place = _highest(flat)
        if rounds is None and not bool((value > threshold[:, None]).any()):
            break
        places.append(place)
        values.append(value)
        # an exhausted map has its maximum anywhere: the index is kept within bounds
        around = (place + disc).clamp(0, flat.shape[1] - 1)
        flat = flat.scatter(1, around, -math.inf)
    none = flat.new_zeros(maps.shape[0], 0)
    place, value = torch.cat((none.long(), *places), dim=1), torch.cat((none, *values), dim=1)
    found = value > threshold[:, None]
    x, y = place % across - margin, place // across - margin
    xy = torch.stack((x, y), dim=-1).to(maps.dtype)
    return torch.where(found[..., None], xy, 0.0), found


def _highest(flat: Tensor) -> tuple[Tensor, Tensor]:
    """The highest values (N, 1) of (N, P), and the first places that have them."""
    if not torch.compiler.is_compiling():
        return flat.max(dim=1, keepdim=True)
    # exported: engines find a value far faster than its place
    value = flat.amax(dim=1, keepdim=True)
    place = torch.arange(flat.shape[1], device=flat.device)
    return value, torch.where(flat == value, place, flat.shape[1]).amin(dim=1, keepdim=True)


def predicted_slots(
    heatmap: Tensor,
    object_map: Tensor,
    thresholds: tuple[float, float],
    radius: float,
    count: int,
    object_label: int,
) -> tuple[Slots, Slots]:
    """The `count` highest peaks of the heat map and of the object map (B, H, W)."""
    size = heatmap.shape[0]
    limit = torch.cat([heatmap.new_full((size,), threshold) for threshold in thresholds])
    xy, found = greedy_peaks(torch.cat((heatmap, object_map)).float(), limit, radius, count)
    hand = Slots(xy=xy[:size], found=found[:size], label=found[:size] * HAND)
    thing = Slots(xy=xy[size:], found=found[size:], label=found[size:] * object_label)
    return hand, thing


def labelled_joints(joints: Tensor, valid: Tensor, count: int) -> Slots:
    """The labelled joints (B, J, 2), J <= count, valid (B, J) bool; their labels: 1 to J."""
    empty = count - valid.shape[1]
    number = torch.arange(1, valid.shape[1] + 1, device=valid.device)
    return Slots(
        xy=F.pad(torch.where(valid[..., None], joints, 0.0), (0, 0, 0, empty)),
        found=F.pad(valid, (0, empty)),
        label=F.pad(valid * number, (0, empty)),
    )


def labelled_object(mask: Tensor, radius: float, count: int, object_label: int) -> Slots:
    """Points of the labelled object, mask (B, H, W): what is positive belongs to it.

    A mask is flat: its greedy peaks fill it in raster order. As in the original the last `count` of
    them are kept, the last first.
    """
    flat = (mask > 0).to(mask.dtype)
    xy, found = greedy_peaks(flat, flat.new_zeros(flat.shape[0]), radius, None)
    xy = F.pad(xy, (0, 0, 0, max(count - xy.shape[1], 0)))
    number = found.sum(dim=1, keepdim=True)
    place = torch.arange(count, device=mask.device).expand(mask.shape[0], count)
    taken = torch.where(number > count, number - 1 - place, place)
    kept = place < number
    xy = xy.gather(1, taken[..., None].expand(-1, -1, 2))
    return Slots(xy=torch.where(kept[..., None], xy, 0.0), found=kept, label=kept * object_label)


def sine_map(size: int, channels: int, temperature: float = 100.0) -> Tensor:
    """Position code (channels, size, size): the first half tells y, the second x.

    Positions 1..size become angles up to 2 pi; feature k has the angle over temperature ** (2
    floor(k / 2) / (channels / 2)), its sine where k is even, its cosine where odd.
    """
    half = channels // 2
    angle = torch.arange(1, size + 1, dtype=torch.float32) / (size + 1e-6) * (2 * math.pi)
    k = torch.arange(half, dtype=torch.float32)
    divisor = temperature ** (2 * torch.floor(k / 2) / half)
    scaled = angle[None, :] / divisor[:, None]  # (half, size)
    code = torch.where((k % 2 == 0)[:, None], scaled.sin(), scaled.cos())
    y, x = code[:, :, None].expand(-1, -1, size), code[:, None, :].expand(-1, size, -1)
    return torch.cat((y, x), dim=0)
