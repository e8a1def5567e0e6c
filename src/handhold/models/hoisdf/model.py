"""HOISDF: "HOISDF: Constraining 3D Hand-Object Pose Estimation with Global Signed Distance Fields"
(Qi et al., CVPR 2024), read from the top: configuration, network.

A U-Net, whose pixels condition a signed distance field of the hand and one of the object; points
near the two surfaces become tokens of a transformer, with the other one's field as a hint; heads
for the hand model's parameters, votes for joints, and the object's pose.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.hand.model import HandModel
from handhold.models.hoisdf.field import (
    CODE,
    PixelTables,
    SDFDecoder,
    decoder_input,
    density,
    positional_code,
    project,
    read_pixels,
)
from handhold.models.hoisdf.grid import nearest_points
from handhold.models.hoisdf.heads import NUM_ROTATIONS, HandHead, ObjectHead
from handhold.models.hoisdf.inputs import given
from handhold.models.hoisdf.starting_weights import initialise
from handhold.models.nn.detr import Perceptron, first_look
from handhold.models.nn.resnet import BLOCKS
from handhold.models.nn.unet import ResNetMaps, UNetDecoder
from handhold.scene import Batch, Prediction

MAPS = ("heatmap", "hand_pixels", "object_pixels")
ORIGIN = {"hand": "root", "object": "object_center"}
SMALLEST_DENSITY_WIDTH = 0.002


@dataclass(frozen=True, kw_only=True)
class HOISDFConfig:
    """The network's make. Defaults: the original's setting for DexYCB.

    input_size: side of the crop. block, depths, widths, stem_width: the ResNet; frozen_norms: its
    norms' scale and shift are not trained (as the original, whose backbone comes from ImageNet).
    decoder: "small" (DexYCB, HO3D with synthetic images) or "big" (HO3D). sdf_features: of a pixel,
    for the distance fields; sdf_hidden, sdf_dropout: of their decoders. scale: normalised units a
    metre; clamp: largest normalised distance (0.15 = 4.84 cm). grid: points an axis of the search
    grid; hand_points, object_points: tokens of each.
    grid_kind: "sheared" as the released code makes it, "regular" as the paper says.
    search: "dense" asks the field at every grid point in the box, "coarse_to_fine", in use on
    processors, fewer and finds the same points (`search.py`).
    density_sign: 1 as the released code (dense outside the surface), -1 as the paper (inside).
    dim, heads, hidden, dropout, hand_layers, decoder_layers, object_layers: the transformers.
    hand_head: "queries" (one a joint, 6 numbers each) or "kinematics" (joints of the votes, the
    pose in closed form; original's setting for HO3D with synthetic images).
    reflection: kinematics only, what a global rotation becomes that comes out mirrored: "identity"
    as the original, "rotation": the nearest rotation. rotation_mean: of the points' object
    rotations: "vectors" averages axis-angles, as the original (wrong near half turns), "matrices"
    takes the rotation nearest to the mean matrix.
    map_gain: the heat map (0 to 255) is the head's output times this; 1 as released, more learns
    the large numbers faster.
    unread: build the parts that the original's checkpoints hold and nothing reads.
    init: "official" (U-Net N(0, 0.001), linear layers N(0, 0.01)) or "kaiming" for training without
    a pretrained backbone.
    """

    input_size: int = 256
    block: Literal["bottleneck", "basic"] = "bottleneck"
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    stem_width: int = 64
    frozen_norms: bool = True
    decoder: Literal["small", "big"] = "small"
    sdf_features: int = 256
    sdf_hidden: int = 512
    sdf_dropout: float = 0.2
    scale: float = 3.1
    clamp: float = 0.15
    grid: int = 64
    grid_kind: Literal["sheared", "regular"] = "sheared"
    search: Literal["coarse_to_fine", "dense"] = "coarse_to_fine"
    hand_points: int = 600
    object_points: int = 200
    density_sign: Literal[1, -1] = 1
    dim: int = 256
    heads: int = 4
    hidden: int = 1024
    dropout: float = 0.1
    hand_layers: int = 6
    decoder_layers: int = 4
    object_layers: int = 3
    hand_head: Literal["queries", "kinematics"] = "queries"
    reflection: Literal["identity", "rotation"] = "identity"
    rotation_mean: Literal["vectors", "matrices"] = "vectors"
    unread: bool = True
    map_gain: float = 1.0
    init: Literal["official", "kaiming"] = "official"

    def __post_init__(self) -> None:
        for field in ("depths", "widths"):
            values = tuple(int(v) for v in getattr(self, field))
            object.__setattr__(self, field, values)  # lists come from JSON
            if len(values) != 4 or min(values) < 1:
                raise InputError(f"HOISDFConfig.{field}: expected 4 positive, found {values}")
        choices = {
            "block": tuple(BLOCKS),
            "decoder": ("small", "big"),
            "grid_kind": ("sheared", "regular"),
            "search": ("coarse_to_fine", "dense"),
            "density_sign": (1, -1),
            "hand_head": ("queries", "kinematics"),
            "reflection": ("identity", "rotation"),
            "rotation_mean": ("vectors", "matrices"),
            "init": ("official", "kaiming"),
        }
        for field, known in choices.items():
            if getattr(self, field) not in known:
                raise InputError(
                    f"HOISDFConfig.{field}: expected one of {known}, found {getattr(self, field)!r}"
                )
        if self.input_size < 64 or self.input_size % 32:
            raise InputError(
                "HOISDFConfig.input_size: expected a multiple of 32 from 64, "
                f"found {self.input_size}"
            )
        if self.heads < 1 or self.dim % self.heads or self.dim <= CODE + 3:
            raise InputError(
                f"HOISDFConfig.dim: expected a multiple of heads ({self.heads}) above "
                f"{CODE + 3}, found {self.dim}"
            )
        if self.sdf_hidden <= self.sdf_features + CODE + 3:
            raise InputError(
                "HOISDFConfig.sdf_hidden: expected more than sdf_features + "
                f"{CODE + 3} = {self.sdf_features + CODE + 3}, found {self.sdf_hidden}"
            )
        for field in (
            *("stem_width", "sdf_features", "hidden", "hand_points", "object_points"),
            *("hand_layers", "decoder_layers", "object_layers", "scale", "clamp"),
        ):
            if not getattr(self, field) > 0:
                raise InputError(
                    f"HOISDFConfig.{field}: expected positive, found {getattr(self, field)}"
                )
        for field in ("dropout", "sdf_dropout"):
            if not 0 <= getattr(self, field) < 1:
                raise InputError(
                    f"HOISDFConfig.{field}: expected 0 to 1, found {getattr(self, field)}"
                )
        if self.grid < 2 or self.grid**3 < max(self.hand_points, self.object_points):
            raise InputError(
                f"HOISDFConfig.grid: {self.grid}^3 points are fewer than the tokens, "
                f"{max(self.hand_points, self.object_points)}"
            )

    @property
    def queries(self) -> int:
        """Decoder queries: 16 rotations and the shape, or the shape alone."""
        return NUM_ROTATIONS + 1 if self.hand_head == "queries" else 1

    @property
    def appearance(self) -> int:
        """Image features of a token, beside its position (3) and code."""
        return self.dim - CODE - 3

    @classmethod
    def ho3d(cls) -> HOISDFConfig:
        """The original's setting for HO3D alone."""
        return cls(decoder="big")

    @classmethod
    def ho3d_render(cls) -> HOISDFConfig:
        """The original's setting for HO3D with synthetic images."""
        return cls(hand_head="kinematics")

    @classmethod
    def sound(cls) -> HOISDFConfig:
        """As the paper describes it: regular grid, dense inside; and rotations averaged soundly."""
        return cls(grid_kind="regular", density_sign=-1, rotation_mean="matrices")

    @classmethod
    def small(cls) -> HOISDFConfig:
        """For processors: sound variants, 128 pixels, a coarser grid."""
        return dataclasses.replace(
            cls.sound(),
            input_size=128,
            block="basic",
            depths=(1, 1, 1, 1),
            widths=(16, 32, 64, 128),
            stem_width=16,
            frozen_norms=False,
            sdf_features=64,
            sdf_hidden=128,
            sdf_dropout=0.0,
            grid=24,
            hand_points=128,
            object_points=64,
            dim=96,
            hidden=192,
            dropout=0.0,
            hand_layers=2,
            decoder_layers=2,
            object_layers=2,
            unread=False,
            map_gain=50.0,
            init="kaiming",
        )


class HOISDF(nn.Module):
    """The network. hand: the right hand model, None: the free hand of the package.

    exportable: False, as the number of grid points it looks at depends on the boxes.
    """

    exportable = False

    def __init__(self, config: HOISDFConfig | None = None, hand: HandModel | None = None) -> None:
        super().__init__()
        self.config = config = HOISDFConfig() if config is None else config
        self.hand = HandModel.free() if hand is None else hand
        make = (config.block, config.depths, config.widths, config.stem_width)
        self.backbone = ResNetMaps(*make, frozen_norms=config.frozen_norms)
        width = config.stem_width // 2 if config.decoder == "small" else None
        self.decoder = UNetDecoder(self.backbone.channels, width, MAPS)
        total, dim = sum(self.decoder.channels), config.dim
        # a pixel's features: for the fields, and for the tokens
        self.sdf_mlp = Perceptron(
            (total, 2 * config.sdf_features, config.sdf_features), last_relu=True
        )
        self.token_mlp = Perceptron(
            (total, 4 * dim, 2 * dim, dim, config.appearance), last_relu=True
        )
        self.hand_field = SDFDecoder(config.sdf_features, config.sdf_hidden, config.sdf_dropout)
        self.object_field = SDFDecoder(config.sdf_features, config.sdf_hidden, config.sdf_dropout)
        self.hand_density_width = nn.Parameter(torch.full((1,), 0.1))
        self.object_density_width = nn.Parameter(torch.full((1,), 0.1))
        self.hand_head = HandHead(config)
        self.object_head = ObjectHead(config)
        self.unread = None
        if config.unread:
            self.unread = nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(total),
                    "corner_vote": Perceptron((dim, dim, dim, dim, 24)),
                    "corner_class": Perceptron((dim, dim, dim, 8)),
                }
            )
        initialise(self, config)

    def parameters_without_gradient(self) -> tuple[str, ...]:
        """Prefixes of the parameters that no loss reaches with fresh weights: the unread ones, and
        the decoder's first look from query to query, where they have nothing to tell yet."""
        return ("unread.", *first_look("hand_head.decoder"))

    def forward(self, batch: Batch, capture: dict[str, Tensor] | None = None) -> Prediction:
        """Predict B right hands and objects; needs `image`, `hand_box`, `object_box`, `intrinsics`,
        `root` and `object_center` of the batch (a HOISDFBatch).

        joints and vertices have the wrist as origin. joints2d are those of the hand where the
        points' votes put it: at `root`, or beside it where that was an estimate. features:
        object_rotation (B, 3, 3) and object_translation (B, 3) metres, camera frame; voted_joints
        (B, 20, 3) metres from the root; and what the loss reads, with a layer axis behind the
        batch's. capture: receives every named activation.
        """
        config = self.config
        self._check(batch)
        seen: dict[str, Tensor] = {}
        if self.training:
            with torch.no_grad():  # as the original: what a step took below the floor returns
                self.hand_density_width.clamp_(min=SMALLEST_DENSITY_WIDTH)
                self.object_density_width.clamp_(min=SMALLEST_DENSITY_WIDTH)

        # image features and signed distance fields (section 3.2)
        maps = self.backbone(batch.image)
        levels, features = self.decoder(maps)
        features["heatmap"] = config.map_gain * features["heatmap"]
        pyramid = list(levels.values())
        features |= self._supervised(batch, pyramid, seen)

        # points near the surfaces, and the features at them (section 3.3)
        tables = PixelTables(pyramid, self.sdf_mlp, config.input_size)
        dense = capture is not None or self.training or batch.image.device.type != "cpu"
        hand = self._points("hand", batch, tables, seen, dense)
        thing = self._points("object", batch, tables, seen, dense)
        # every point also asks the other's field: a hint of what is there, without gradient
        shift = config.scale * (given(batch, "object_center") - given(batch, "root"))[:, None]
        hand_hints = self._cross("hand", thing, thing["points"] + shift, seen)
        object_hints = self._cross("object", hand, hand["points"] - shift, seen)
        hand_tokens = torch.cat((self._describe("hand", hand), hand_hints.detach()), dim=1)
        object_tokens = torch.cat((self._describe("object", thing), object_hints.detach()), dim=1)

        near = hand["points"] / config.scale
        posed = self.hand_head(hand_tokens, near, self.hand, need_weights=capture is not None)
        placed = self.object_head(object_tokens)
        if capture is not None:
            capture.update({f"backbone_{stride}": x for stride, x in maps.items()})
            capture.update({f"pyramid_{stride}": x for stride, x in levels.items()})
            capture.update({f"hand_{name}": x for name, x in hand.items()})
            capture.update({f"object_{name}": x for name, x in thing.items()})
            capture.update(features | posed | placed | seen)
            capture.update(hand_tokens=hand_tokens, object_tokens=object_tokens)

        joints = posed["layer_joints"][:, -1]
        # the votes are joints from the root: with the true wrist as root this moves next to nothing
        moved = (posed["layer_voted_joints"][:, -1] - joints[:, 1:]).mean(dim=1, keepdim=True)
        camera_joints = joints + moved + given(batch, "root")[:, None]
        features |= {name: posed[name] for name in _READ_BY_LOSS if name in posed}
        features |= {name: placed[name] for name in _READ_BY_LOSS if name in placed}
        features |= {
            "query_points": near,
            "voted_joints": posed["layer_voted_joints"][:, -1],
            "object_rotation": placed["rotation"],
            "object_translation": given(batch, "object_center") + placed["translation_mean"],
        }
        return Prediction(
            joints=joints,
            vertices=posed["layer_vertices"][:, -1],
            joints2d=project(camera_joints, given(batch, "intrinsics")),
            rotations=posed["layer_rotations"][:, -1],
            betas=posed["layer_betas"][:, -1],
            features=features,
        )

    def _check(self, batch: Batch) -> None:
        size = self.config.input_size
        if tuple(batch.image.shape[1:]) != (3, size, size):
            raise InputError(
                f"Batch.image: expected (B, 3, {size}, {size}), found {tuple(batch.image.shape)}"
            )

    # ------------------------------------------------------------------------- the distance fields

    def _field(self, target: str) -> SDFDecoder:
        return self.hand_field if target == "hand" else self.object_field

    def _read(self, batch: Batch, pyramid: list[Tensor], target: str, points: Tensor) -> Tensor:
        """All maps' features (B, N, C) at the target's normalised points (B, N, 3)."""
        origin = given(batch, ORIGIN[target])
        camera = points / self.config.scale + origin[:, None]
        pixels = project(camera, given(batch, "intrinsics"))
        return read_pixels(pyramid, pixels, self.config.input_size)

    def _supervised(
        self, batch: Batch, pyramid: list[Tensor], seen: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """hand_sdf, object_sdf (B, N), metres, at the batch's own points, where it has some."""
        features = {}
        for target in ORIGIN:
            points = getattr(batch, f"{target}_sdf_points", None)
            if points is None:
                continue
            points = points * self.config.scale
            read = self.sdf_mlp(self._read(batch, pyramid, target, points))
            found = self._field(target)(read, points)
            seen[f"{target}_supervised"] = found
            seen[f"{target}_supervised_input"] = decoder_input(read[:1, :8], points[:1, :8])[0]
            features[f"{target}_sdf"] = found / self.config.scale
        return features

    def _points(
        self, target: str, batch: Batch, tables: PixelTables, seen: dict[str, Tensor], dense: bool
    ) -> dict[str, Tensor]:
        """The pose stage's normalised points (B, N, 3), and of each: distances (B, N), clamped,
        sdf_features for the fields, features for the tokens."""
        config = self.config
        points, distances = getattr(batch, f"{target}_query_points", None), None
        if points is None:
            points, distances = self._search(target, batch, tables, seen, dense)
        else:
            points = points * config.scale
        read = self._read(batch, tables.pyramid, target, points)
        sdf_features = self.sdf_mlp(read)
        if distances is None:
            distances = self._field(target)(sdf_features, points)
            seen[f"{target}_queried"] = distances
        return {
            "points": points,
            "distances": distances.clamp(-config.clamp, config.clamp),
            "sdf_features": sdf_features,
            "features": self.token_mlp(read),
        }

    @torch.no_grad()
    def _search(
        self, target: str, batch: Batch, tables: PixelTables, seen: dict[str, Tensor], dense: bool
    ) -> tuple[Tensor, Tensor]:
        """The grid points (B, N, 3) in the target's box with the smallest distances (B, N)."""
        config = self.config
        origin, intrinsics = given(batch, ORIGIN[target]), given(batch, "intrinsics")
        boxes = batch.hand_box if target == "hand" else batch.object_box
        chosen: list[tuple[Tensor, Tensor]] = []
        for index in range(len(batch)):
            found = nearest_points(
                config,
                self._field(target),
                tables.of(index),
                origin[index],
                intrinsics[index],
                boxes[index],
                config.hand_points if target == "hand" else config.object_points,
                dense=dense or config.search == "dense",
            )
            chosen.append((found.pop("points"), found.pop("distances")))
            if dense:
                seen[f"{target}_grid_{index}"] = found["all_distances"]
                seen[f"{target}_grid_input_{index}"] = found["first_inputs"]
        points, distances = zip(*chosen, strict=True)
        return torch.stack(points), torch.stack(distances)

    def _describe(self, target: str, own: dict[str, Tensor]) -> Tensor:
        """Tokens (B, N, dim) of points in the target's frame: position (metres), code, features
        times the target's density (equation 3)."""
        width = self.hand_density_width if target == "hand" else self.object_density_width
        sigma = density(
            own["distances"], width.clamp_min(SMALLEST_DENSITY_WIDTH), self.config.density_sign
        )
        points = own["points"]
        position = (points / self.config.scale, positional_code(points))
        return torch.cat((*position, own["features"] * sigma[..., None]), dim=-1)

    def _cross(
        self, target: str, other: dict[str, Tensor], points: Tensor, seen: dict[str, Tensor]
    ) -> Tensor:
        """Tokens of the other's points, which are `points` in the target's frame."""
        read = other["sdf_features"]
        distances = self._field(target)(read, points)
        seen[f"{target}_crossed"] = distances
        seen[f"{target}_crossed_input"] = decoder_input(read[:1, :8], points[:1, :8])[0]
        distances = distances.clamp(-self.config.clamp, self.config.clamp)
        return self._describe(target, other | {"points": points, "distances": distances})


_READ_BY_LOSS = (
    *("vote_offsets", "vote_logits", "layer_voted_joints", "layer_vertices", "layer_joints"),
    *("layer_rotations", "layer_betas", "point_rotations", "point_translations"),
)
