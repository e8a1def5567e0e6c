"""The two transformers of HOISDF and what is read from them (paper section 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from handhold.geometry.rotation import axis_angle_to_matrix, sixd_to_matrix
from handhold.hand.model import HandModel
from handhold.models.hoisdf.kinematics import pose_from_joints
from handhold.models.nn.detr import Decoder, Encoder, Perceptron

if TYPE_CHECKING:
    from handhold.models.hoisdf.model import HOISDFConfig

NUM_ROTATIONS = 16
VOTED = 20  # joints without the wrist


class HandHead(nn.Module):
    """Votes of the tokens for the joints, and queries that read the hand model's parameters."""

    def __init__(self, config: HOISDFConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        make = (dim, config.heads, config.hidden, config.dropout)
        self.encoder = Encoder(config.hand_layers, *make)
        self.decoder = Decoder(config.decoder_layers, *make)
        self.queries = nn.Embedding(config.queries, dim)
        self.pose = Perceptron((dim, dim, dim, 6)) if config.hand_head == "queries" else None
        self.shape = Perceptron((dim, dim, dim, 10))
        self.vote = Perceptron((dim, dim, dim, dim, 3 * VOTED))
        self.vote_class = Perceptron((dim, dim, dim, VOTED))
        own, memory = query_masks(config)
        self.own_mask: Tensor
        self.memory_mask: Tensor
        self.register_buffer("own_mask", own, persistent=False)
        self.register_buffer("memory_mask", memory, persistent=False)

    def forward(
        self, tokens: Tensor, points: Tensor, hand: HandModel, *, need_weights: bool = False
    ) -> dict[str, Tensor]:
        """tokens (B, N, dim), the hand's own first; points (B, hand_points, 3) of those, metres.

        vote_offsets (B, layers, hand_points, 20, 3), metres, vote_logits (B, layers, hand_points,
        20), layer_voted_joints (B, layers, 20, 3); by decoder layer: layer_sixd (queries only),
        layer_rotations (B, layers, 16, 3, 3), layer_betas, layer_vertices, layer_joints, wrist at
        the origin; and the transformer's activations, attention_last (B, queries, N) if asked for.
        """
        memory, layers = self.encoder(tokens)
        decoded, attention = self.decoder(
            self.queries.weight,
            memory,
            target_mask=self.own_mask,
            memory_mask=self.memory_mask,
            need_weights=need_weights,
        )
        found = {"hand_memory": memory, "hand_layers": layers, "decoder_layers": decoded}
        if attention is not None:
            found["attention_last"] = attention
        own = layers[:, :, : self.config.hand_points]
        offsets = self.vote(own).unflatten(-1, (VOTED, 3))
        logits = self.vote_class(own)
        votes = points[:, None, :, None] + offsets
        voted = (logits.softmax(dim=2)[..., None] * votes).sum(dim=2)
        betas = self.shape(decoded[:, :, -1]).float()
        if self.pose is not None:
            sixd = self.pose(decoded[:, :, :NUM_ROTATIONS]).float()
            found["layer_sixd"] = sixd
            rotations = torch.nan_to_num(sixd_to_matrix(sixd))
        else:
            rotations = self._kinematics(voted[:, -1].float(), betas, hand)
        posed = hand(rotations, betas, rotation_type="matrix", center=0)
        return found | {
            "vote_offsets": offsets,
            "vote_logits": logits,
            "layer_voted_joints": voted,
            "layer_rotations": rotations,
            "layer_betas": betas,
            "layer_vertices": posed.vertices,
            "layer_joints": posed.joints,
        }

    @torch.no_grad()
    def _kinematics(self, joints: Tensor, betas: Tensor, hand: HandModel) -> Tensor:
        """The pose of voted joints (B, 20, 3), for every layer's betas; the votes have their own
        terms of the loss, so no gradient."""
        rest = hand(betas.new_zeros(16, 3), betas, center=0).joints
        joints = joints[:, None].expand(-1, betas.shape[1], -1, -1)
        return pose_from_joints(joints, rest, self.config.reflection)


class ObjectHead(nn.Module):
    """Every token of the object gives a rotation and a translation."""

    def __init__(self, config: HOISDFConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        make = (dim, config.heads, config.hidden, config.dropout)
        self.encoder = Encoder(config.object_layers, *make)
        self.rotation = Perceptron((dim, dim, dim, 3))
        self.translation = Perceptron((dim, dim, dim, 3))

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """tokens (B, N, dim), the object's own first -> point_rotations (axis-angle) and
        point_translations (metres from the centre), both (B, layers, object_points, 3), of the last
        layer their means rotation_mean and translation_mean (B, 3), and rotation (B, 3, 3)."""
        memory, layers = self.encoder(tokens)
        own = layers[:, :, : self.config.object_points]
        rotations, translations = self.rotation(own).float(), self.translation(own).float()
        mean = rotations[:, -1].mean(dim=1)
        matrix = axis_angle_to_matrix(mean)
        if self.config.rotation_mean == "matrices":
            matrix = mean_rotation(rotations[:, -1])
        return {
            "object_memory": memory,
            "object_layers": layers,
            "point_rotations": rotations,
            "point_translations": translations,
            "rotation_mean": mean,
            "translation_mean": translations[:, -1].mean(dim=1),
            "rotation": matrix,
        }


def query_masks(config: HOISDFConfig) -> tuple[Tensor, Tensor]:
    """Where the decoder's queries must not look (True): at each other (Q, Q) and at tokens (Q, N).

    The global rotation and the shape see only themselves, the three joints of a finger each other;
    everyone sees only the hand's own tokens.
    """
    count = config.queries
    own = torch.ones(count, count, dtype=torch.bool)
    own[0, 0] = own[-1, -1] = False
    for finger in range(1, count - 1, 3):
        own[finger : finger + 3, finger : finger + 3] = False
    memory = torch.zeros(count, config.hand_points + config.object_points, dtype=torch.bool)
    memory[:, config.hand_points :] = True
    return own, memory


def mean_rotation(axis_angles: Tensor) -> Tensor:
    """Axis-angles (B, N, 3) -> the rotations (B, 3, 3) nearest to their mean matrices."""
    u, _, vh = torch.linalg.svd(axis_angle_to_matrix(axis_angles).mean(dim=1))
    turn = torch.ones_like(axis_angles[:, 0])
    turn[:, 2] = torch.linalg.det(u @ vh)
    return (u * turn[:, None]) @ vh
