"""Key points as tokens: what they look like and where they are (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handhold.models.keypoint_transformer.keypoints import Slots, sine_map
from handhold.models.nn.detr import Perceptron
from handhold.models.nn.unet import point_features

if TYPE_CHECKING:
    from handhold.models.keypoint_transformer.model import KeypointTransformerConfig


class Tokens(nn.Module):
    """Hand tokens look at all levels of the pyramid, object tokens at the coarse ones.

    channels: of the pyramid's levels, fine to coarse.
    """

    position_map: Tensor

    def __init__(self, config: KeypointTransformerConfig, channels: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        look = config.dim - config.code_width
        hidden = config.object_appearance
        if hidden is None:
            hidden = (512, 256, 256) if config.decoder == "small" else (1024, 512, 256)
        coarse = sum(channels[-config.object_levels :])
        self.appearance = Perceptron((sum(channels), *config.appearance, look), last_relu=True)
        self.object_appearance = Perceptron((coarse, *hidden, look), last_relu=True)
        code = sine_map(config.map_size, config.code_width)
        self.register_buffer("position_map", code, persistent=False)

    def forward(self, levels: Sequence[Tensor], hand: Slots, thing: Slots) -> dict[str, Tensor]:
        """xy (B, N, 2), found (B, N), label (B, N), appearance (B, N, C), position (B, N, C'),
        tokens (B, N, dim): hand, then object, then padding at pixel (0, 0); N = 2 `count`."""
        count = self.config.count
        # one more place at pixel (0, 0): all padding looks like it
        corner = torch.zeros_like(hand.xy[:, :1])
        grid = self._grid(torch.cat((hand.xy, corner), dim=1))
        look = self.appearance(point_features(levels, grid))
        look, padding = look[:, :count], look[:, count:]
        coarse = levels[-self.config.object_levels :]
        thing_look = self.object_appearance(point_features(coarse, self._grid(thing.xy)))
        look = torch.cat((look, thing_look), dim=1)
        found = torch.cat((hand.found, thing.found), dim=1)
        look = torch.where(found[..., None], look, padding)
        xy = torch.cat((hand.xy, thing.xy), dim=1)
        label = torch.cat((hand.label, thing.label), dim=1)

        # those found first, each kind in its order
        places = torch.arange(found.shape[1], device=found.device)
        order = torch.argsort(torch.where(found, places, places + found.shape[1]), dim=1)
        wide = order[..., None]
        xy, look = xy.gather(1, wide.expand_as(xy)), look.gather(1, wide.expand_as(look))
        codes = self.position_map.to(look.dtype).expand(xy.shape[0], -1, -1, -1)
        grid = self._grid(xy)[:, None].to(look.dtype)
        code = F.grid_sample(codes, grid, mode="nearest", align_corners=True)
        code = code.squeeze(2).transpose(1, 2)
        return {
            "xy": xy,
            "found": found.gather(1, order),
            "label": label.gather(1, order),
            "appearance": look,
            "position": code,
            "tokens": torch.cat((look, code), dim=2),
        }

    def _grid(self, xy: Tensor) -> Tensor:
        """Map pixels -> -1..1 from the first pixel's centre to the last one's."""
        middle = (self.config.map_size - 1) / 2
        return (xy - middle) / middle
