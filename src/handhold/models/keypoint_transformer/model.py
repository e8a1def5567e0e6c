"""Keypoint Transformer: "Keypoint Transformer: Solving Joint Identification in Challenging Hands
and Object Interactions for Accurate 3D Pose Estimation" (Hampali et al., CVPR 2022), read from the
top: configuration, parts, network.

A U-Net finds key points of hand and object as peaks of two maps, without knowing which joint each
of them is; a transformer's encoder tells them apart, its decoder reads poses with learned queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.geometry.rotation import axis_angle_to_matrix_manopth, sixd_to_matrix
from handhold.hand.convention import reorder
from handhold.hand.model import HandModel
from handhold.models.keypoint_transformer.batch import ORDER, KeypointBatch
from handhold.models.keypoint_transformer.keypoints import (
    Slots,
    labelled_joints,
    labelled_object,
    predicted_slots,
)
from handhold.models.keypoint_transformer.readout import (
    joints_from_vectors,
    query_mask,
    sixd_official,
)
from handhold.models.keypoint_transformer.tokens import Tokens
from handhold.models.nn.detr import Decoder, Encoder, Perceptron, first_look
from handhold.models.nn.unet import ResNetMaps, UNetDecoder
from handhold.scene import Batch, Prediction


@dataclass(frozen=True, kw_only=True)
class KeypointTransformerConfig:
    """The network's make. Defaults: the baseline of UniHOPE's tables.

    input_size: side of the crop. depths, widths, stem_width: of the ResNet. freeze_norms: the
    ResNet's norms keep scale and shift (code of the original; it starts from ImageNet).
    decoder: "small" has 1x1 skips and pyramid_width channels at stride 2 (twice as many a level
    further down), "big" raw skips and the ResNet's own channels (the released HO-3D checkpoint).
    output: "angles" of the hand model (origin: that of the hand model, wrist at J0(betas)) or
    "vectors" from each joint's parent (origin: the wrist, no mesh).
    flat: the angles are in the flat convention. False, as released: the hand model's mean pose is
    added, although labels (HO-3D's too) are compared without it, so that the losses on angles and
    on joints contradict each other; True is sound, and what UniHOPE's authors set.
    two_hands: queries and joint classes of both hands stay in the network although only the right
    one is read (original code); False: those of one hand (as the tables of UniHOPE say).
    object_rotation: "official" divides the third column by the length of the second vector instead
    of that of the cross product, which gives no rotation unless both vectors are perpendicular;
    "orthonormal" is Zhou et al.'s.
    object_from_left: a head for the object relative to the left hand (H2O-3D's checkpoint).
    dim, heads, feedforward, encoder_layers, decoder_layers, dropout: of the transformer.
    code_width: channels of a token that tell its place; the others tell its appearance.
    appearance, object_appearance: hidden widths of the tokens' networks, object_appearance None:
    as released with the decoder. object_levels: the object's tokens look at that many coarse levels
    of the pyramid. count: tokens of each kind, at most. hand_threshold, object_threshold: a peak is
    higher (maps run from 0 to 255). radius: of a peak, pixels of the map. map_gain: what the heads
    of the maps and of the camera say is multiplied by it; 1 as released, more learns large numbers
    faster.
    """

    input_size: int = 256
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    stem_width: int = 64
    freeze_norms: bool = True
    decoder: Literal["small", "big"] = "small"
    pyramid_width: int = 32
    output: Literal["angles", "vectors"] = "angles"
    flat: bool = False
    two_hands: bool = True
    object_rotation: Literal["official", "orthonormal"] = "official"
    object_from_left: bool = False
    dim: int = 256
    heads: int = 8
    feedforward: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    dropout: float = 0.1
    code_width: int = 32
    appearance: tuple[int, ...] = (1024, 512, 256)
    object_appearance: tuple[int, ...] | None = None
    object_levels: int = 2
    count: int = 50
    hand_threshold: float = 20.0
    object_threshold: float = 15.0
    radius: float = 5.0
    map_gain: float = 1.0

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field in ("depths", "widths", "appearance", "object_appearance"):
            value = getattr(self, field)
            if field == "object_appearance" and value is None:
                continue
            value = tuple(int(v) for v in value or ())  # JSON has lists
            object.__setattr__(self, field, value)
            fits = len(value) == 4 or field in ("appearance", "object_appearance")
            if not fits or any(v < 1 for v in value):
                wanted = "four positive" if field in ("depths", "widths") else "positive"
                raise InputError(f"{name}.{field}: expected {wanted} numbers, found {value}")
        choices: dict[str, tuple[str, ...]] = {
            "decoder": ("small", "big"),
            "output": ("angles", "vectors"),
            "object_rotation": ("official", "orthonormal"),
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise InputError(
                    f"{name}.{field}: expected one of {', '.join(allowed)}, "
                    f"found {getattr(self, field)!r}"
                )
        if self.input_size < 32 or self.input_size % 32:
            raise InputError(
                f"{name}.input_size: expected a multiple of 32, found {self.input_size}"
            )
        if self.heads < 1 or self.dim % self.heads:
            raise InputError(f"{name}.heads: dim {self.dim} must be a multiple, found {self.heads}")
        if not 0 < self.code_width < self.dim or self.code_width % 4:
            raise InputError(
                f"{name}.code_width: expected a multiple of 4 below dim {self.dim}, "
                f"found {self.code_width}"
            )
        for field in (
            "stem_width",
            "pyramid_width",
            "feedforward",
            "encoder_layers",
            "decoder_layers",
        ):
            if getattr(self, field) < 1:
                raise InputError(f"{name}.{field}: expected positive, found {getattr(self, field)}")
        if not 1 <= self.object_levels <= 5:
            raise InputError(f"{name}.object_levels: expected 1 to 5, found {self.object_levels}")
        if not 0 <= self.dropout < 1 or self.radius < 1:
            raise InputError(
                f"{name}: expected dropout in 0..1 and radius from 1, found {self.dropout}, "
                f"{self.radius}"
            )
        if self.count < 21:
            raise InputError(f"{name}.count: expected at least 21, one a joint, found {self.count}")

    @classmethod
    def unihope(cls) -> KeypointTransformerConfig:
        """As UniHOPE's authors trained it: flat hand convention throughout."""
        return cls(flat=True)

    @classmethod
    def ho3d(cls) -> KeypointTransformerConfig:
        """The released HO-3D checkpoint: big decoder, joints as vectors from their parents."""
        return cls(decoder="big", output="vectors")

    @classmethod
    def small(cls) -> KeypointTransformerConfig:
        """For processors: one right hand, sound variants, 128 pixels."""
        return cls(
            input_size=128,
            depths=(1, 1, 1, 1),
            widths=(16, 32, 64, 128),
            stem_width=16,
            freeze_norms=False,
            pyramid_width=16,
            flat=True,
            two_hands=False,
            object_rotation="orthonormal",
            dim=128,
            heads=4,
            feedforward=256,
            encoder_layers=2,
            decoder_layers=2,
            dropout=0.0,
            appearance=(256, 128),
            object_appearance=(256, 128),
            count=30,
            radius=3.0,
            map_gain=50.0,
        )

    @property
    def map_size(self) -> int:
        """M, the side of the heat map."""
        return self.input_size // 2

    @property
    def hands(self) -> int:
        return 2 if self.two_hands else 1

    @property
    def mano_center(self) -> int | None:
        """The joint at the origin of 3D labels and predictions, None: as the hand model has it."""
        return None if self.output == "angles" else 0

    @property
    def hand_queries(self) -> int:
        """Of one hand: 16 rotations, or 20 vectors."""
        return 16 if self.output == "angles" else 20

    @property
    def classes(self) -> int:
        """Of a token: none, each joint of each hand, object."""
        return 21 * self.hands + 2

    @property
    def rows(self) -> dict[str, int]:
        """Query numbers: `shape` (also translation between hands, camera), `object_rotation`,
        `object_translation`, and `all`."""
        shape = self.hands * self.hand_queries
        turn = shape + (2 if self.output == "angles" else 1)  # angles: one query is not used
        return {
            "shape": shape,
            "object_rotation": turn,
            "object_translation": turn + 1,
            "all": turn + 2,
        }


class KeypointTransformer(nn.Module):
    """The network. hand: the right hand model, None: the free hand of the package."""

    query_mask: Tensor

    def __init__(
        self, config: KeypointTransformerConfig | None = None, hand: HandModel | None = None
    ) -> None:
        super().__init__()
        config = KeypointTransformerConfig() if config is None else config
        self.config = config
        self.hand = HandModel.free() if hand is None else hand
        self.backbone = ResNetMaps(
            "bottleneck",
            config.depths,
            config.widths,
            config.stem_width,
            frozen_norms=config.freeze_norms,
        )
        width = config.pyramid_width if config.decoder == "small" else None
        self.decoder = UNetDecoder(self.backbone.channels, width, ("heatmap", "object_map"))
        self.tokens = Tokens(config, self.decoder.channels)
        dim = config.dim
        layers = (dim, config.heads, config.feedforward, config.dropout)
        self.encoder = Encoder(config.encoder_layers, *layers)
        self.reader = Decoder(config.decoder_layers, *layers)
        self.queries = nn.Embedding(config.rows["all"], dim)
        self.token_class = Perceptron((dim, dim, dim, dim, config.classes))
        self.hand_head = Perceptron((dim, dim, dim, 3))  # angles or vectors
        self.shape_head = Perceptron((dim, dim, dim, 10))
        self.camera_head = Perceptron((dim, dim, dim, 3))
        self.between_head = Perceptron((dim, dim, dim, 3))
        self.rotation_head = Perceptron((dim, dim, dim, 6))
        self.translation_head = Perceptron((dim, dim, dim, 3))
        self.corner_head = Perceptron((dim, dim, dim, 16))
        self.left_translation_head = None
        if config.object_from_left:
            self.left_translation_head = Perceptron((dim, dim, dim, 3))
        self.hand_type = Perceptron((self.backbone.channels[-1], 512, 2))
        self.register_buffer("query_mask", query_mask(config), persistent=False)
        # While training: key points of the labels, as in the original's first 25 epochs (HO-3D).
        # Later a recipe switches it off. Not part of the weights.
        self.labelled_keypoints = True
        _initialise(self)

    def parameters_without_gradient(self) -> tuple[str, ...]:
        """Beginnings of the names of parameters that the default losses do not reach with fresh
        weights: heads of the second hand and of terms with weight 0, and the decoder's first look
        from query to query, where all that they could tell each other is still zero."""
        heads = ("between_head.", "corner_head.", "hand_type.", "left_translation_head.")
        return (*heads, *first_look("reader"))

    def forward(
        self,
        batch: Batch,
        capture: dict[str, Tensor] | None = None,
        *,
        labelled: bool | None = None,
    ) -> Prediction:
        """Predict B right hands and their objects; needs `image` of the batch.

        labelled: take key points from `joints2d` and `object_map` of the batch instead of the
        predicted maps, which show nothing at first; None: while training, where the batch has them
        and `labelled_keypoints` is set. capture: receives every named activation, batch first.
        Raises InputError for images of another size and missing labels.

        In the prediction: joints2d by the weak-perspective camera; features for the loss and the
        processor, L decoder layers, the last of which counts (L = 1 in evaluation where the batch
        has no pose and nothing is captured; token_logits likewise): heatmap, object_map (B, M, M),
        0 to 255; tokens_xy (B, N, 2) map pixels, tokens_found (B, N), tokens_label (B, N),
        token_logits (B, encoder layers, N, classes); hand_angles (B, L, 16 or 32, 3) or
        hand_vectors (B, L, 20 or 40, 3); shapes (B, L, 10), cameras (B, L, 3), between (B, L, 3),
        object_sixd (B, L, 6), object_translations (B, L, 3), object_corners2d (B, L, 8, 2) map
        pixels, hand_type_logits (B, 2); layer_joints (B, L or 1, 21, 3), of all layers where the
        batch has a pose; object_rotation (B, 3, 3) and object_translation (B, 3) of the last layer.
        """
        size = self.config.input_size
        if tuple(batch.image.shape[1:]) != (3, size, size):
            raise InputError(
                f"Batch.image: expected (B, 3, {size}, {size}), found {tuple(batch.image.shape)}"
            )
        maps = self.backbone(batch.image)
        pyramid, found_maps = self.decoder(maps)
        found_maps = {name: self.config.map_gain * x for name, x in found_maps.items()}
        if labelled is None:
            labelled = self.training and self.labelled_keypoints and batch.joints2d is not None
        hand, thing = self._slots(found_maps, batch, labelled)
        tokens = self.tokens(list(pyramid.values()), hand, thing)

        # Without any key point the padding takes its place.
        padding = ~tokens["found"] & tokens["found"].any(dim=1, keepdim=True)
        memory, encoded = self.encoder(tokens["tokens"], padding)
        memory_mask = self._memory_mask(tokens["label"])
        read, attention = self.reader(
            self.queries.weight,
            memory,
            target_mask=self.query_mask,
            memory_mask=memory_mask,
            padding=padding,
            need_weights=capture is not None,
        )
        # the loss reads all layers, everybody else the last
        every = self.training or batch.pose is not None or capture is not None
        layers = slice(None) if every else slice(-1, None)
        heads = self._heads(read[:, layers])
        heads |= {
            "token_logits": self.token_class(encoded[:, layers]),
            "hand_type_logits": self.hand_type(maps[32].mean((2, 3))),
            "tokens_xy": tokens["xy"],
            "tokens_found": tokens["found"],
            "tokens_label": tokens["label"],
            **found_maps,
        }
        if capture is not None:
            capture.update({f"backbone/stride{stride}": x for stride, x in maps.items()})
            capture.update({f"pyramid/stride{stride}": x for stride, x in pyramid.items()})
            capture.update(tokens | heads)
            capture.update(memory_mask=memory_mask, memory=memory, encoder_layers=encoded)
            capture.update(decoder_layers=read)
            if attention is not None:
                capture["attention_last"] = attention
        return self._prediction(batch, heads)

    # ------------------------------------------------------------------------------- tokens

    def _slots(self, maps: dict[str, Tensor], batch: Batch, labelled: bool) -> tuple[Slots, Slots]:
        """Places of hand and object tokens, `count` of each."""
        config = self.config
        mask = batch.object_map if isinstance(batch, KeypointBatch) else None
        make = (config.radius, config.count, config.classes - 1)
        if not labelled or mask is None:
            limits = (config.hand_threshold, config.object_threshold)
            hand, thing = predicted_slots(maps["heatmap"], maps["object_map"], limits, *make)
        else:
            hand = thing = labelled_object(mask, *make)
        if labelled:
            if batch.joints2d is None:
                raise InputError("labelled key points: need batch.joints2d, found None")
            joints = reorder(batch.joints2d, "canonical", ORDER) / 2  # map pixels
            valid = torch.ones_like(joints[..., 0], dtype=torch.bool)
            if batch.joints2d_valid is not None:
                valid = reorder(batch.joints2d_valid[..., None], "canonical", ORDER)[..., 0].bool()
            hand = labelled_joints(joints, valid, config.count)
        return hand, thing

    def _memory_mask(self, label: Tensor) -> Tensor:
        """(B * heads, Q, N) bool: the query of the object's rotation sees the object only, where
        the image has one."""
        rows = self.config.rows
        other = label != self.config.classes - 1  # (B, N)
        other = other & ~other.all(dim=1, keepdim=True)
        row = torch.arange(rows["all"], device=label.device) == rows["object_rotation"]
        mask = row[None, :, None] & other[:, None]
        return mask.repeat_interleave(self.config.heads, dim=0)

    # -------------------------------------------------------------------------------- heads

    def _heads(self, read: Tensor) -> dict[str, Tensor]:
        """Decoder outputs (B, L, Q, dim) -> what the heads say, in float32."""
        rows = self.config.rows
        shape = read[:, :, rows["shape"]]
        turn, move = read[:, :, rows["object_rotation"]], read[:, :, rows["object_translation"]]
        name = "hand_angles" if self.config.output == "angles" else "hand_vectors"
        found = {
            name: self.hand_head(read[:, :, : rows["shape"]]),
            "shapes": self.shape_head(shape),
            "cameras": self.config.map_gain * self.camera_head(shape),
            "between": self.between_head(shape),
            "object_sixd": self.rotation_head(turn),
            "object_translations": self.translation_head(move),
            "object_corners2d": self.corner_head(move).unflatten(-1, (8, 2)),
        }
        if self.left_translation_head is not None:
            found["object_left_translations"] = self.left_translation_head(move)
        return {key: value.float() for key, value in found.items()}

    def object_matrix(self, sixd: Tensor) -> Tensor:
        """(..., 6) -> (..., 3, 3) as the configuration says."""
        if self.config.object_rotation == "official":
            return sixd_official(sixd)
        return torch.nan_to_num(sixd_to_matrix(sixd))

    def _prediction(self, batch: Batch, heads: dict[str, Tensor]) -> Prediction:
        layers = slice(None) if batch.pose is not None else slice(-1, None)
        vertices = rotations = betas = None
        if self.config.output == "angles":
            angles = heads["hand_angles"][:, layers, :16]
            posed = self.hand(angles, heads["shapes"][:, layers], flat=self.config.flat)
            joints, vertices = posed.joints, posed.vertices[:, -1]
            betas = heads["shapes"][:, -1]
            flat = self.hand.full_pose(angles[:, -1], flat=self.config.flat)
            rotations = axis_angle_to_matrix_manopth(flat)
        else:
            joints = joints_from_vectors(heads["hand_vectors"][:, layers, :20])
        camera = heads["cameras"][:, -1, None]
        joints2d = 2 * (camera[..., :1] * joints[:, -1, :, :2] + camera[..., 1:])
        features = heads | {
            "layer_joints": joints,
            "object_rotations": self.object_matrix(heads["object_sixd"]),
        }
        features |= {
            "object_rotation": features["object_rotations"][:, -1],
            "object_translation": features["object_translations"][:, -1],
        }
        return Prediction(
            joints=joints[:, -1],
            vertices=vertices,
            joints2d=joints2d,
            rotations=rotations,
            betas=betas,
            features=features,
        )


def _initialise(network: KeypointTransformer) -> None:
    """Starting weights: Kaiming for convolutions, Xavier in the transformer as in DETR; the
    original's backbone comes from ImageNet."""
    for module in (network.backbone, network.decoder):
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
    for module in (network.encoder, network.reader):
        for weight in module.parameters():
            if weight.ndim > 1:
                nn.init.xavier_uniform_(weight)
