"""HandOccNet: "HandOccNet: Occlusion-Robust 3D Hand Mesh Estimation Network" (Park et al., CVPR
2022), read from the top: configuration, parts, network.

A gate parts the feature map of the crop into what shows the hand (primary) and what hides it
(secondary). The feature injecting transformer (FIT) brings hand information to the hidden places,
the self-enhancing transformer (SET) refines the result; heat maps and the hand model follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.geometry.rotation import axis_angle_to_matrix_manopth, matrix_to_axis_angle
from handhold.hand.model import HandModel
from handhold.models.nn.attention import head_tokens
from handhold.models.nn.fpn import Pyramid
from handhold.models.nn.hand_head import HandEncoder, HandHead
from handhold.models.nn.mano_head import ManoHead
from handhold.models.nn.resnet import BLOCKS, Stem, stage
from handhold.models.nn.starting_weights import start_weights
from handhold.scene import Batch, Prediction

STRIDE = 8  # crop pixels per cell of the maps that the transformers see


@dataclass(frozen=True, kw_only=True)
class HandOccNetConfig:
    """The network's make. Defaults: the authors' repository.

    input_size: side of the crop; the maps have input_size / 8 cells a side, which must be a power
    of two. block, depths, widths: the ResNet's stages. stem_width, stem_kernel: its stem. slope: of
    every LeakyReLU. pyramid_width: channels of the pyramid and of everything after it.
    transformer_depth: layers of FIT and of SET. heads, mlp_ratio: of their layers. hourglass_depth;
    mano_widths: hidden layers before pose and shape.
    mean_pose: the predicted finger rotations are relative to the hand model's mean pose, which is
    added to their axis-angles (the original); False: they are the pose itself, so that neither
    axis-angles nor their jumps at half turns are needed (UniHOPE's copy, equivalent when trained
    that way).
    literal: do the original's work to the letter: a second smoothing convolution whose result
    nothing reads, the first one before the map is halved, and FIT's gates from their whole
    similarity maps. Same results, only slower: for counting sizes as the papers do.
    init: "official" starts all but the backbone almost at zero (convolutions N(0, 0.001), linear
    N(0, 0.01)), for an ImageNet backbone; "pytorch": the library's own, as UniHOPE's copy in effect
    does; "kaiming" suits training without a pretrained backbone.
    """

    input_size: int = 256
    block: Literal["bottleneck", "basic"] = "bottleneck"
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    stem_width: int = 64
    stem_kernel: int = 7
    slope: float = 0.01
    pyramid_width: int = 256
    transformer_depth: int = 2
    heads: int = 4
    mlp_ratio: int = 4
    hourglass_depth: int = 4
    mano_widths: tuple[int, int] = (1024, 512)
    mean_pose: bool = True
    literal: bool = False
    init: Literal["official", "pytorch", "kaiming"] = "official"

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field, length in (("depths", 4), ("widths", 4), ("mano_widths", 2)):
            values = tuple(int(v) for v in getattr(self, field))
            object.__setattr__(self, field, values)  # lists come from JSON
            if len(values) != length or min(values) < 1:
                raise InputError(f"{name}.{field}: expected {length} positive, found {values}")
        if self.block not in BLOCKS:
            known = ", ".join(BLOCKS)
            raise InputError(f"{name}.block: expected one of {known}, found {self.block!r}")
        cells = self.input_size // STRIDE
        if self.input_size % 32 or cells < 4 or cells & (cells - 1):
            raise InputError(
                f"{name}.input_size: expected 8 times a power of two from 4, found "
                f"{self.input_size}"
            )
        if self.hourglass_depth < 1 or 2**self.hourglass_depth > cells:
            raise InputError(
                f"{name}.hourglass_depth: expected at least 1 and no more halvings than {cells} "
                f"cells allow, found {self.hourglass_depth}"
            )
        if self.heads < 1 or self.pyramid_width % self.heads or self.pyramid_width % 2:
            raise InputError(
                f"{name}.heads: pyramid_width {self.pyramid_width} must be even and a multiple of "
                f"heads, found {self.heads}"
            )
        for field in ("stem_width", "transformer_depth", "mlp_ratio"):
            if getattr(self, field) < 1:
                raise InputError(f"{name}.{field}: expected positive, found {getattr(self, field)}")
        if self.stem_kernel < 1 or self.stem_kernel % 2 == 0:
            raise InputError(f"{name}.stem_kernel: expected odd, found {self.stem_kernel}")
        if not 0 <= self.slope < 1:
            raise InputError(f"{name}.slope: expected 0 to 1, found {self.slope}")
        if self.init not in ("official", "pytorch", "kaiming"):
            raise InputError(
                f"{name}.init: expected official, pytorch or kaiming, found {self.init!r}"
            )

    @property
    def cells(self) -> int:
        """Side of the maps that the transformers see."""
        return self.input_size // STRIDE

    @property
    def channels(self) -> tuple[int, ...]:
        """Of c2, c3, c4, c5."""
        return tuple(width * BLOCKS[self.block].expansion for width in self.widths)

    @classmethod
    def unihope(cls) -> HandOccNetConfig:
        """As UniHOPE's authors retrained it."""
        return cls(mean_pose=False, init="pytorch")

    @classmethod
    def small(cls) -> HandOccNetConfig:
        """The same structure for processors."""
        return cls(**SMALL)


SMALL: dict[str, Any] = {
    "input_size": 128,
    "block": "basic",
    "depths": (1, 1, 1, 1),
    "widths": (32, 64, 96, 128),
    "stem_width": 32,
    "pyramid_width": 64,
    "heads": 2,
    "mlp_ratio": 2,
    "hourglass_depth": 3,
    "mano_widths": (256, 128),
    "mean_pose": False,
    "init": "kaiming",
}


class Backbone(nn.Module):
    """ResNet, feature pyramid, and the spatial gate (paper section 3.2)."""

    def __init__(self, config: HandOccNetConfig) -> None:
        super().__init__()
        out, width = config.channels, config.pyramid_width
        self.stem = Stem(config.stem_width, config.stem_kernel, config.slope)
        inputs = (config.stem_width, *out[:3])
        self.stages = nn.ModuleList(
            stage(config.block, channels, wide, depth, 1 if index == 0 else 2, config.slope)
            for index, (channels, wide, depth) in enumerate(
                zip(inputs, config.widths, config.depths, strict=True)
            )
        )
        self.literal = config.literal
        self.pyramid = Pyramid(out, width, halve=not config.literal)
        self.unused = nn.Conv2d(width, width, 3, padding=1) if config.literal else None
        self.gate = SpatialGate()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S) -> c1 to c5; fpn_pooled, primary, secondary (B, C, S/8, S/8)."""
        c1 = self.stem(image)
        maps = [c1]
        for block in self.stages:
            maps.append(block(maps[-1]))
        pooled = self.pyramid(*maps[1:])
        if self.literal:
            pooled = F.avg_pool2d(pooled, 2)
        if self.unused is not None:
            self.unused(pooled)  # of P3's size; counted, never read
        share = self.gate(pooled)
        names = ("c1", "c2", "c3", "c4", "c5")
        return dict(zip(names, maps, strict=True)) | {
            "fpn_pooled": pooled,
            "primary": pooled * share,
            "secondary": pooled * (1 - share),
        }


class SpatialGate(nn.Module):
    """How much of every place shows the hand, from the largest and the mean channel (CBAM, Woo et
    al., ECCV 2018, section 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 1, H, W) in 0..1."""
        told = torch.cat((x.amax(1, keepdim=True), x.mean(1, keepdim=True)), dim=1)
        return torch.sigmoid(self.norm(self.conv(told)))


class TransformerLayer(nn.Module):
    """Attention of a query map to a key map, with learned positions on both but not on the values,
    then LayerNorm and a GELU network with residual (paper sections 3.3 and 3.4).

    injects: FIT's layer, whose attention has no residual but a gate per head and query: the
    sigmoid of a second similarity summed over all keys. SET's layer has the residual and no gate.
    Head h owns channels [h dim / H, (h + 1) dim / H).
    """

    def __init__(self, config: HandOccNetConfig, injects: bool) -> None:
        super().__init__()
        dim, cells, mlp_ratio = config.pyramid_width, config.cells, config.mlp_ratio
        self.heads = config.heads
        self.literal = config.literal
        self.injects = injects
        self.query_embedding = nn.Parameter(torch.randn(1, dim, cells, cells))
        self.key_embedding = nn.Parameter(torch.randn(1, dim, cells, cells))
        self.query = nn.Conv2d(dim, dim, 1)
        self.key = nn.Conv2d(dim, dim, 1)
        self.value = nn.Conv2d(dim, dim, 1)
        self.gate_query = nn.Conv2d(dim, dim, 1) if injects else None
        self.gate_key = nn.Conv2d(dim, dim, 1) if injects else None
        self.norm = nn.LayerNorm(dim)
        self.mlp_in = nn.Linear(dim, mlp_ratio * dim)
        self.mlp_out = nn.Linear(mlp_ratio * dim, dim)

    def _tokens(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, heads, H * W, C / heads), row by row."""
        return head_tokens(x, self.heads)

    def _gate(self, query: Tensor, key: Tensor) -> Tensor:
        """Two maps (B, dim, H, W) -> (B, heads, H * W, 1): sigmoid of the sum over all keys k of
        (Q x) . (K k) / sqrt(dim / H), with Q, K the gate's projections.

        The sum is x . Q^T (K sum(k)), so that neither projection runs on the whole map.
        """
        ask, offer = cast(nn.Conv2d, self.gate_query), cast(nn.Conv2d, self.gate_key)
        if self.literal:
            scores = self._tokens(ask(query)) @ self._tokens(offer(key)).transpose(2, 3)
            total = scores.sum(dim=3, keepdim=True)
        else:
            share = query.shape[1] // self.heads
            # float64 costs nothing here; where a gate is all but shut, LayerNorm enlarges rounding
            exact = torch.float32 if query.device.type == "mps" else torch.float64
            matrix = ask.weight.to(exact).reshape(self.heads, share, -1)
            mean = key.to(exact).mean((2, 3))
            offered = mean @ offer.weight.to(exact).flatten(1).T + cast(Tensor, offer.bias)
            summed = key[0, 0].numel() * offered.reshape(-1, self.heads, share)
            constant = (summed * cast(Tensor, ask.bias).reshape(self.heads, share)).sum(2)
            direction = torch.einsum("hsc,bhs->bhc", matrix, summed)
            total = constant[..., None] + direction @ query.to(exact).flatten(2)
            total = total[..., None]
        return torch.sigmoid(total / (query.shape[1] / self.heads) ** 0.5).to(query.dtype)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Two maps (B, dim, H, W) -> (B, dim, H, W)."""
        placed_query, placed_key = query + self.query_embedding, key + self.key_embedding
        attended = F.scaled_dot_product_attention(
            self._tokens(self.query(placed_query)),
            self._tokens(self.key(placed_key)),
            self._tokens(self.value(key)),
        )  # (B, heads, N, dim / heads)
        if self.gate_query is not None and self.gate_key is not None:
            attended = attended * self._gate(placed_query, placed_key)
        tokens = attended.transpose(1, 2).flatten(2)  # (B, N, dim)
        if not self.injects:
            tokens = tokens + query.flatten(2).transpose(1, 2)
        tokens = tokens + self.mlp_out(F.gelu(self.mlp_in(self.norm(tokens))))
        return tokens.transpose(1, 2).unflatten(2, query.shape[-2:])


class Tail(nn.Module):
    """FIT's end: the primary map and the injected one, side by side, to one map."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2 * dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)
        self.shortcut = nn.Conv2d(2 * dim, dim, 1)

    def forward(self, primary: Tensor, injected: Tensor) -> Tensor:
        both = torch.cat((primary, injected), dim=1)
        return self.conv2(F.relu(self.conv1(both))) + self.shortcut(both)


class HandOccNet(nn.Module):
    """The network. hand: the right hand model, None: the free hand of the package."""

    def __init__(
        self, config: HandOccNetConfig | None = None, hand: HandModel | None = None
    ) -> None:
        super().__init__()
        config = HandOccNetConfig() if config is None else config
        width, size = config.pyramid_width, config.cells
        self.config = config
        self.hand = HandModel.free() if hand is None else hand
        self.backbone = Backbone(config)

        def layers(injects: bool) -> nn.ModuleList:
            return nn.ModuleList(
                TransformerLayer(config, injects) for _ in range(config.transformer_depth)
            )

        self.inject = layers(True)
        self.inject_tail = Tail(width)
        self.enhance = layers(False)
        self.hand_head = HandHead(width, config.hourglass_depth, config.slope)
        self.hand_encoder = HandEncoder(width, size, config.slope)
        self.mano_head = ManoHead(4 * width, config.mano_widths, config.slope)
        if config.init != "pytorch":
            start_weights(self, config.init)

    def forward(self, batch: Batch, capture: dict[str, Tensor] | None = None) -> Prediction:
        """Predict B right hands; needs `image` (B, 3, S, S) RGB in 0..1 of the batch.

        capture: receives every named activation. The result's joints and vertices are in the hand
        model's own frame, not centred; features: relative_rotations (B, 16, 3, 3), what the head
        says, and added_pose (B, 16, 3), the mean axis-angles that were added to it; heatmap_scores.
        Raises InputError for images of another size.
        """
        config = self.config
        expected = (3, config.input_size, config.input_size)
        if tuple(batch.image.shape[1:]) != expected:
            raise InputError(
                f"Batch.image: expected (B, {', '.join(map(str, expected))}), "
                f"found {tuple(batch.image.shape)}"
            )
        found = self.backbone(batch.image)
        x = found["secondary"]
        for index, layer in enumerate(self.inject):
            x = found[f"fit_layer{index}"] = layer(x, found["primary"])
        x = found["fit"] = self.inject_tail(found["primary"], x)
        source = x
        for index, layer in enumerate(self.enhance):
            x = found[f"set_layer{index}"] = layer(x, source)
        found |= self.hand_head(x)
        encoding = self.hand_encoder(found["heatmaps"], found["hand_encoding"])
        found |= self.mano_head(encoding) | {"encoder_vector": encoding}
        prediction = self._hand(found)
        if capture is not None:
            capture.update(found)
        return prediction

    def _hand(self, found: dict[str, Tensor]) -> Prediction:
        relative, betas = found["rotations"], found["shape"]
        if self.config.mean_pose:
            told = torch.nan_to_num(matrix_to_axis_angle(relative))
            pose = self.hand.full_pose(told, flat=False)
            added = self.hand.full_pose(torch.zeros_like(told), flat=False)
            posed = self.hand(pose, betas)
            rotations = axis_angle_to_matrix_manopth(pose)
        else:
            added = relative.new_zeros(*relative.shape[:2], 3)
            posed = self.hand(relative, betas, rotation_type="matrix")
            rotations = relative
        return Prediction(
            joints=posed.joints,
            vertices=posed.vertices,
            joints2d=found["joints2d"] * self.config.input_size,
            rotations=rotations,
            betas=betas,
            features={
                "relative_rotations": relative,
                "added_pose": added,
                "heatmap_scores": found["heatmap_scores"],
            },
        )
