"""What HandOS reads of a frozen detector, the same for every detector.

Boxes are in shares of the valid (unpadded) part of the images, which is their upper left corner.
Tokens run fine to coarse and row-major within a level.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from handhold.errors import InputError

Shape = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class DetectorOutput:
    """B images, Q queries, `levels` feature levels of T tokens together.

    scores (B, Q): probability of "hand", 0..1. boxes (B, Q, 4): cx, cy, w, h in 0..1 of the valid
    area. query_first, query_last (B, Q, query_width): queries before the first and after the last
    decoder layer; query_layers: after every layer. memory (B, T, width): the encoder's output;
    memory_layers: after every encoder layer. shallow: the backbone's maps (B, C_l, H_l, W_l) before
    the encoder. shapes: sizes (H_l, W_l) of the memory's levels; their products sum to T.
    token_valid (B, T) bool: False on padding. valid_ratios (B, levels, 2): share of each level's
    width and height that is image.
    """

    scores: Tensor
    boxes: Tensor
    query_first: Tensor
    query_last: Tensor
    query_layers: tuple[Tensor, ...] | None = None
    memory: Tensor
    memory_layers: tuple[Tensor, ...] | None = None
    shallow: list[Tensor]
    shapes: list[Shape]
    token_valid: Tensor
    valid_ratios: Tensor


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a photo becomes the detector's input; `FrozenDetector.forward` does what is left of it.

    mean, std: of RGB in 0..1. resize: "long" brings the long edge to `size`; "short" the short
    edge, but the long one to at most `longest`; "stretch" both, whatever the aspect. multiple:
    edges are padded right and below to a multiple of it. padding: grey beside the photo, 0..1
    before normalisation; None for 0 after it.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    resize: Literal["long", "short", "stretch"] = "long"
    size: int = 320
    longest: int | None = None
    multiple: int = 32
    padding: float | None = None

    def normalise(self, images: Tensor, valid_mask: Tensor | None) -> Tensor:
        """images (B, 3, H, W), uint8 or 0..1, valid_mask (B, H, W) bool -> normalised, padded."""
        if images.dtype == torch.uint8:
            images = images.to(torch.get_default_dtype()) / 255
        mean, std = (images.new_tensor(value)[:, None, None] for value in (self.mean, self.std))
        if valid_mask is None:
            return (images - mean) / std
        valid = valid_mask[:, None]
        if self.padding is not None:
            images = torch.where(valid, images, images.new_tensor(self.padding))
            return (images - mean) / std
        return torch.where(valid, (images - mean) / std, images.new_zeros(()))


class FrozenDetector(nn.Module, ABC):
    """Base of every detector: it never moves while something is trained on top of it.

    width: channels of the memory. strides, levels: of the memory's levels, fine to coarse.
    shallow_channels: of the backbone's maps; where there are fewer maps than levels, the last
    levels come from the last map by strides of two. query_width, num_queries: of the queries.
    preprocess: what the images must be. licence, weights_id: of the weights in use.

    A subclass sets these, builds its network and calls `freeze()` at the end of its constructor.
    """

    width: int
    strides: tuple[int, ...]
    levels: int
    shallow_channels: tuple[int, ...]
    query_width: int
    num_queries: int
    preprocess: Preprocess
    licence: str
    weights_id: str

    def freeze(self) -> Self:
        """No parameter has a gradient, batch norms and dropout are those of use."""
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode whatever a parent module asks for: batch-norm statistics, dropout and
        drop-path must not move."""
        del mode
        return super().train(False)

    @abstractmethod
    def load(self, weights: str | Path) -> Self:
        """Put weights in (a file, a folder or a public name, as the detector says); sets
        `weights_id`. Raises WeightsError where they do not fit."""

    @abstractmethod
    def features(self, images: Tensor, valid_mask: Tensor | None = None) -> DetectorOutput:
        """The detector itself, on images that `preprocess` has normalised."""

    def forward(self, images: Tensor, valid_mask: Tensor | None = None) -> DetectorOutput:
        """images (B, 3, H, W) RGB, uint8 or float 0..1, edges multiples of `preprocess.multiple`;
        valid_mask (B, H, W) bool, None where nothing is padded. No gradient.

        Raises InputError for images or masks of other shapes.
        """
        check_images(images, valid_mask, self.preprocess.multiple)
        images = self.preprocess.normalise(images, valid_mask)
        if not torch.is_grad_enabled():  # also while exporting, where the switch is no operator
            return self.features(images, valid_mask)
        with torch.no_grad():
            return self.features(images, valid_mask)


def check_images(images: Tensor, valid_mask: Tensor | None, multiple: int) -> None:
    """Raises InputError where these cannot be a detector's input."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise InputError(f"images: expected (B, 3, H, W), found {tuple(images.shape)}")
    height, width = images.shape[-2:]
    if height % multiple or width % multiple:
        raise InputError(
            f"images: expected height and width to be multiples of {multiple}, found "
            f"{height} x {width}; pad the photo right and below and give valid_mask"
        )
    expected = (images.shape[0], height, width)
    if valid_mask is not None and tuple(valid_mask.shape) != expected:
        raise InputError(f"valid_mask: expected {expected}, found {tuple(valid_mask.shape)}")


def level_padding(
    images: Tensor, valid_mask: Tensor | None, shapes: list[Shape]
) -> tuple[Tensor, Tensor]:
    """`token_valid` (B, T) and `valid_ratios` (B, levels, 2) of levels of the given sizes.

    A token is valid where the image pixel under it is (nearest neighbour); the ratios are counted
    on the first row and column of each level, as Deformable DETR does.
    """
    count = images.shape[0]
    if valid_mask is None:
        tokens = sum(height * width for height, width in shapes)
        ones = torch.ones(count, tokens, dtype=torch.bool, device=images.device)
        return ones, images.new_ones(count, len(shapes), 2)
    valid, ratios = [], []
    for shape in shapes:
        level = functional.interpolate(valid_mask[:, None].float(), size=shape)[:, 0] > 0.5
        valid.append(level.flatten(1))
        across, down = level[:, 0].float().mean(dim=-1), level[:, :, 0].float().mean(dim=-1)
        ratios.append(torch.stack([across, down], dim=-1).to(images.dtype))
    return torch.cat(valid, dim=1), torch.stack(ratios, dim=1)


def in_valid_area(boxes: Tensor, valid_mask: Tensor | None) -> Tensor:
    """Boxes (B, Q, 4) in shares of the padded input -> in shares of its valid part."""
    if valid_mask is None:
        return boxes
    share_x = valid_mask[:, 0].to(boxes).mean(dim=-1)
    share_y = valid_mask[:, :, 0].to(boxes).mean(dim=-1)
    return boxes / torch.stack([share_x, share_y, share_x, share_y], dim=-1)[:, None]


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """values (B, T, C), index (B, Q) -> (B, Q, C)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
