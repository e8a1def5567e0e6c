"""SimpleHand: "A Simple Baseline for Efficient Hand Mesh Reconstruction" (Zhou et al., CVPR 2024),
read from the top: configuration, parts, network.

A backbone gives a coarse map; its mean gives the 2D joints; features of the enlarged map at those
joints are the first 21 tokens of the mesh head, which attends and grows them to the 778 vertices.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.hand.convention import tip_vertices
from handhold.hand.model import HandModel
from handhold.hand.regressor import joint_regressor
from handhold.models.nn.mesh_decoder import sample
from handhold.models.simplehand.fastvit import EXPANSION, HEAD, SQUEEZE, FastViT, drop_path
from handhold.scene import Batch, Prediction

JOINTS, VERTICES = 21, 778


@dataclass(frozen=True, kw_only=True)
class SimpleHandConfig:
    """The network's make. Defaults: SimpleHand with FastViT-MA36 as UniHOPE's authors retrained it.

    input_size: side of the crop. depths, widths: blocks and channels of FastViT's stages.
    drop_path: of the backbone's deepest block. token_widths: channels of 21, token_counts[0] and
    token_counts[1] tokens, each with `token_blocks` attention blocks of `heads` heads before it is
    enlarged to the next count and last to the 778 vertices. head_drop: dropout on attention weights
    and drop path of these blocks.
    channels: order in which the image, RGB in a batch, is fed: "rgb" (UniHOPE) or "bgr" (the
    authors' repository, whose reader never swaps them).
    tips: table of fingertip vertices, see `joint_regressor`: "unihope_helper" there, "freihand" in
    the authors' repository; "hand" for the hand model's own, with which labels are made.
    fold: in evaluation the backbone's branches run as one convolution each, the same numbers; off:
    one by one, as sizes are counted.
    """

    input_size: int = 224
    depths: tuple[int, int, int, int] = (6, 6, 18, 6)
    widths: tuple[int, int, int, int] = (76, 152, 304, 608)
    drop_path: float = 0.2
    token_counts: tuple[int, int] = (84, 336)
    token_widths: tuple[int, int, int] = (256, 128, 64)
    token_blocks: int = 1
    heads: int = 4
    head_drop: float = 0.1
    channels: Literal["rgb", "bgr"] = "rgb"
    tips: str = "unihope_helper"
    fold: bool = True

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field, length in (
            ("depths", 4),
            ("widths", 4),
            ("token_counts", 2),
            ("token_widths", 3),
        ):
            values = tuple(int(v) for v in getattr(self, field))
            object.__setattr__(self, field, values)  # lists come from JSON
            if len(values) != length or min(values) < 1:
                raise InputError(f"{name}.{field}: expected {length} positive, found {values}")
        if self.input_size < 32 or self.input_size % 32:
            raise InputError(
                f"{name}.input_size: expected a multiple of 32, found {self.input_size}"
            )
        doubles = all(b == 2 * a for a, b in itertools.pairwise(self.widths))
        if not doubles or self.widths[3] % HEAD or 2 * self.widths[3] < SQUEEZE:
            raise InputError(
                f"{name}.widths: expected each twice the one before and the last a multiple of "
                f"{HEAD}, found {self.widths}"
            )
        if self.heads < 1 or any(width % self.heads or width % 4 for width in self.token_widths):
            raise InputError(
                f"{name}.heads: token_widths {self.token_widths} must be multiples of 4 and of "
                f"heads, found {self.heads}"
            )
        if self.token_blocks < 1:
            raise InputError(f"{name}.token_blocks: expected positive, found {self.token_blocks}")
        for field in ("drop_path", "head_drop"):
            if not 0 <= getattr(self, field) < 1:
                raise InputError(f"{name}.{field}: expected 0 to 1, found {getattr(self, field)}")
        if self.tips != "hand":
            tip_vertices(self.tips)  # refuses unknown tables
        if self.channels not in ("rgb", "bgr"):
            raise InputError(f"{name}.channels: expected rgb or bgr, found {self.channels!r}")

    @classmethod
    def original(cls) -> SimpleHandConfig:
        """As in the authors' repository (trained on FreiHAND)."""
        return cls(channels="bgr", tips="freihand")

    @classmethod
    def small(cls) -> SimpleHandConfig:
        """The same structure for processors."""
        return cls(**SMALL)


SMALL: dict[str, Any] = {
    "input_size": 128,
    "depths": (2, 2, 4, 2),
    "widths": (24, 48, 96, 192),
    "drop_path": 0.0,
    "token_widths": (128, 64, 32),
    "head_drop": 0.0,
    "tips": "hand",
}


class SimpleHand(nn.Module):
    """The network. hand: the right hand model, whose regressor gives the joints of the vertices;
    None: the free hand of the package."""

    regressor: Tensor
    fits_one_hand = True  # its vertices are those of the hand model that it was trained with

    def __init__(
        self, config: SimpleHandConfig | None = None, hand: HandModel | None = None
    ) -> None:
        super().__init__()
        self.config = config = SimpleHandConfig() if config is None else config
        self.hand = HandModel.free() if hand is None else hand
        width = 2 * config.widths[3]
        self.backbone = FastViT(config.depths, config.widths, config.drop_path, config.fold)
        self.joints_head = nn.Linear(width, 2 * JOINTS)
        self.mesh_head = MeshHead(width, config)
        regressor = torch.from_numpy(joint_regressor(self.hand, config.tips))
        self.register_buffer("regressor", regressor, persistent=False)
        initialise(self)

    def forward(self, batch: Batch, capture: dict[str, Tensor] | None = None) -> Prediction:
        """Predict B right hands; needs `image` (B, 3, S, S) RGB in 0..1 of the batch.

        The result's joints and vertices have the wrist at the origin. Where the network itself
        puts the origin is a matter of its training (see the loss): features `vertices`, `joints`
        are as it says them. capture: receives every named activation. Raises InputError for images
        of another size.
        """
        size = self.config.input_size
        if tuple(batch.image.shape[1:]) != (3, size, size):
            raise InputError(
                f"Batch.image: expected (B, 3, {size}, {size}), found {tuple(batch.image.shape)}"
            )
        image = batch.image.flip(1) if self.config.channels == "bgr" else batch.image
        found = self.backbone(image - 0.5)
        found["global_feature"] = found["final_conv"].mean((2, 3))
        found["uv"] = self.joints_head(found["global_feature"]).float()
        joints2d = found["uv"].unflatten(1, (JOINTS, 2))
        found |= self.mesh_head(found["final_conv"], joints2d)
        vertices = found["verts"]
        with torch.autocast(vertices.device.type, enabled=False):
            joints = found["joints"] = self.regressor @ vertices
        if capture is not None:
            capture.update(found)
        wrist = joints[:, :1]
        return Prediction(
            joints=joints - wrist,
            vertices=vertices - wrist,
            joints2d=joints2d * size,
            features={"vertices": vertices, "joints": joints},
        )


class MeshHead(nn.Module):
    """From the map and the 2D joints to the mesh (paper section 3.2): tokens at the joints, then
    three times attention and more tokens."""

    def __init__(self, channels_in: int, config: SimpleHandConfig) -> None:
        super().__init__()
        counts = (JOINTS, *config.token_counts, VERTICES)
        widths = config.token_widths
        self.enlarge = nn.ConvTranspose2d(channels_in, widths[0], 4, 4, bias=False)
        self.enlarge_norm = nn.BatchNorm2d(widths[0])
        steps = zip((widths[0], *widths[:-1]), widths, counts, counts[1:], strict=False)
        self.steps = nn.ModuleList(TokenStep(*step, config) for step in steps)
        self.vertices = nn.Linear(widths[-1], 3)

    def forward(self, features: Tensor, joints2d: Tensor) -> dict[str, Tensor]:
        """Map (B, C, R, R), joints (B, 21, 2) as shares of the crop -> verts (B, 778, 3) in float32
        and the activations between. Gradients reach the joints."""
        enlarged = F.relu(self.enlarge_norm(self.enlarge(features)))
        code = sine_code(enlarged)
        found = {"deconv": enlarged, "pos2d": code}
        x = sample(enlarged + code, joints2d)
        for index, module in enumerate(self.steps):
            step = cast(TokenStep, module)
            tokens = x + step.position
            encoded = step.encode(tokens)
            x = step.grow(encoded)
            if index == 0:
                found["tokens_in"] = tokens
            found |= {f"encoder_{index + 1}": encoded, f"upsample_{index + 1}": x}
        return found | {"verts": self.vertices(x).float()}


class TokenStep(nn.Module):
    """(B, count, width_in) with learned positions -> other width, attention -> more tokens."""

    def __init__(
        self, width_in: int, width: int, count: int, next_count: int, config: SimpleHandConfig
    ) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, count, width_in))
        self.project = nn.Linear(width_in, width)
        self.blocks = nn.Sequential(
            *(TokenBlock(width, config.heads, config.head_drop) for _ in range(config.token_blocks))
        )
        self.more = nn.Linear(count, next_count)  # over the tokens, the same for every channel

    def encode(self, tokens: Tensor) -> Tensor:
        """(B, count, width_in) -> (B, count, width)."""
        return self.blocks(self.project(tokens))

    def grow(self, tokens: Tensor) -> Tensor:
        """(B, count, width) -> (B, next_count, width)."""
        return self.more(tokens.transpose(1, 2)).transpose(1, 2)


class TokenBlock(nn.Module):
    """Transformer block, norms first (Vaswani et al., 2017; Xiong et al., ICML 2020)."""

    def __init__(self, width: int, heads: int, drop: float) -> None:
        super().__init__()
        self.heads, self.drop = heads, drop
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.widen = nn.Linear(width, EXPANSION * width)
        self.narrow = nn.Linear(EXPANSION * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        split = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, share)
        chance = self.drop if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=chance)
        attended = self.out(attended.transpose(1, 2).flatten(2))
        x = x + drop_path(attended, self.drop, self.training)
        hidden = self.narrow(F.gelu(self.widen(self.norm2(x))))
        return x + drop_path(hidden, self.drop, self.training)


def sine_code(like: Tensor) -> Tensor:
    """(1, C, R, R) of fixed waves: the first half of the channels tells the row, the second the
    column, from 2 pi down in wavelengths up to 10000 times longer (DETR, Carion et al., ECCV 2020).
    """
    half, size = like.shape[1] // 2, like.shape[2]
    line = torch.arange(1, size + 1, device=like.device, dtype=torch.float32)
    line = line / (size + 1e-6) * (2 * math.pi)
    pair = torch.arange(half, device=like.device) // 2
    angle = line[:, None] / 10000 ** (2 * pair / half)  # (R, C / 2)
    even = torch.arange(half, device=like.device) % 2 == 0
    wave = torch.where(even, angle.sin(), angle.cos()).t()
    rows, columns = wave[:, :, None].expand(-1, -1, size), wave[:, None].expand(-1, size, -1)
    return torch.cat((rows, columns))[None].to(like.dtype)


def initialise(network: SimpleHand) -> None:
    """Positions and the backbone's matrices from N(0, 0.02), cut at two deviations, its biases 0;
    the rest as PyTorch makes it. The original's backbone comes from ImageNet."""
    for name, module in network.named_modules():
        if name.startswith("backbone.") and isinstance(module, nn.Conv2d | nn.Linear):
            if module.weight[0].numel() > 49:  # depthwise kernels stay as they are
                nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, TokenStep):
            nn.init.trunc_normal_(module.position, std=0.02)
