"""HandOS (Chen et al.): every hand of a whole photo in one pass, on a frozen detector.

detector -> side tuning -> which queries are hands -> 21 joint tokens each -> 2D layers -> lifted to
vertices and a translation -> interactive layers -> heads. Section numbers are the paper's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.hand.model import HandModel
from handhold.hand.regressor import joint_regressor
from handhold.models.handos.bases import build_base
from handhold.models.handos.batch import HandOSPrediction, PhotoBatch
from handhold.models.handos.camera import translations
from handhold.models.handos.config import HandOSConfig
from handhold.models.handos.decoder import DecoderLayer, Memory, PositionCode
from handhold.models.handos.detectors import DetectorOutput, FrozenDetector, GivenBoxes
from handhold.models.handos.filtering import simota, suppress
from handhold.models.handos.lifting import (
    JointExpansion,
    Lifting,
    for_each,
    lifting_matrix,
    offset_head,
)
from handhold.models.handos.mesh import CoarseMesh, TemplatePose, face_pairs
from handhold.models.handos.positions import logit
from handhold.models.handos.side_tuning import SideTuning
from handhold.models.handos.sides import normalised_volume

JOINTS = 21


@dataclass(frozen=True)
class Chosen:
    """K of the detector's queries: image, target (K,), scores (K,), boxes (K, 4), queries [first;
    last] (K, 2 * query_width)."""

    image: Tensor
    target: Tensor
    scores: Tensor
    boxes: Tensor
    queries: Tensor

    def take(self, rows: Tensor) -> Chosen:
        """Those of the rows (n,)."""
        return Chosen(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


class HandOS(nn.Module):
    """`network(batch) -> HandOSPrediction`.

    In training mode and with labels the hands are the positives of SimOTA, else those that the
    detector finds. hand: the right hand whose numbering, faces and joints the mesh has (None: the
    free hand); detector: None builds the one that the configuration names.
    """

    fits_one_hand = True  # its vertices are numbered as those of the hand it was trained with
    regressor: Tensor
    face_pairs: Tensor

    def __init__(
        self,
        config: HandOSConfig | None = None,
        hand: HandModel | None = None,
        detector: FrozenDetector | None = None,
    ) -> None:
        super().__init__()
        self.config = config = HandOSConfig() if config is None else config
        self.hand = hand = HandModel.free("right") if hand is None else hand
        if detector is None:
            detector = build_base(config.detector, config.detector_options)
        self.detector = detector
        width, levels = config.width, detector.levels
        memory_width, memory_levels = detector.width, levels
        if config.side_tuning != "none":
            side_width = config.side_width if config.side_tuning == "channels" else detector.width
            self.side_tuning = SideTuning(
                detector.shallow_channels,
                levels,
                width=side_width,
                hidden=config.side_hidden,
                kernels=config.side_kernels,
            )
            if config.side_tuning == "channels":
                memory_width += side_width
            else:
                memory_levels *= 2
        both = 2 * detector.query_width
        as_they_are = both == width or config.queries == "unified"
        self.project = nn.Identity() if as_they_are else nn.Linear(both, width)
        self.expand = JointExpansion(width, instance=config.queries == "instance")
        self.position = PositionCode(width)
        self.layers = nn.ModuleList(
            DecoderLayer(config, memory_width, memory_levels) for _ in range(config.layers)
        )
        self.joint_heads = self._heads(config.layers, 4)
        if config.layers_mesh:
            self.mesh = CoarseMesh(hand, config.vertices, width, config.upsampling)
            matrix = lifting_matrix(
                self.mesh.coarse(hand.arrays.weights), uniform_last=config.lift_translation
            )
            self.lift = Lifting(width, matrix)
            self.vertex_heads = self._heads(config.layers_mesh, 3, zero=False)
            placed = config.decoder == "template"
            self.place = TemplatePose(hand) if placed else None
            numbers = 3 + (TemplatePose.NUMBERS if placed else 0)
            self.translation_heads = self._heads(config.layers_mesh, numbers)
            if config.update_mesh_boxes:  # after the last layer nothing reads them
                self.box_heads = self._heads(config.layers_mesh - 1, 4)
        regressor = torch.from_numpy(joint_regressor(hand))
        self.register_buffer("regressor", regressor, persistent=False)
        self.register_buffer("face_pairs", face_pairs(hand.faces), persistent=False)

    def _heads(self, count: int, outputs: int, *, zero: bool = True) -> nn.ModuleList:
        def make() -> nn.Module:
            head = offset_head(self.config.width, outputs)
            if not zero:
                head.layers[-1].reset_parameters()  # pyright: ignore[reportCallIssue]
            return head

        if self.config.shared_heads:
            return nn.ModuleList([make()] * count)
        return nn.ModuleList(make() for _ in range(count))

    # -------------------------------------------------------------------------------- the road

    def forward(
        self, batch: PhotoBatch, thin: Callable[[Chosen], Tensor] | None = None
    ) -> HandOSPrediction:
        """Photos to hands. thin: in use, which (rows) of the hands found are worth a mesh."""
        found = self.detect(batch)
        learning = self.training and batch.boxes is not None
        chosen = self.assign(found, batch) if learning else self.select(found)
        if thin is not None and not learning:
            chosen = chosen.take(thin(chosen))
        if not len(chosen.image):
            return self._nothing(chosen)
        return self.decode(self.memory(found), chosen, batch.valid_size, batch.intrinsics)

    def detect(self, batch: PhotoBatch) -> DetectorOutput:
        """Section 3.1: the frozen detector's."""
        if isinstance(self.detector, GivenBoxes):
            self.detector.give(batch.given_boxes, batch.given_scores)
        height, width = batch.image.shape[-2:]
        across = torch.arange(width, device=batch.image.device) < batch.valid_size[:, :1]
        down = torch.arange(height, device=batch.image.device) < batch.valid_size[:, 1:]
        return self.detector(batch.image, across[:, None] & down[:, :, None])

    def memory(self, found: DetectorOutput) -> Memory:
        """Section 3.1: [F6; Fs], the encoder's output and the side tuning's."""
        tokens, which = found.memory, self.config.memory_layer
        if which is not None:
            layers = found.memory_layers or ()
            if not 1 <= which <= len(layers):
                raise InputError(
                    f"HandOSConfig.memory_layer: {which}, but the detector gives {len(layers)} "
                    "encoder layers"
                )
            tokens = layers[which - 1]
        shapes, valid, ratios = found.shapes, found.token_valid, found.valid_ratios
        if self.config.side_tuning == "none":
            return Memory(tokens, shapes, valid, ratios)
        side = self.side_tuning(found.shallow, shapes)
        if self.config.side_tuning == "channels":
            return Memory(torch.cat((tokens, side), dim=-1), shapes, valid, ratios)
        return Memory(
            torch.cat((tokens, side), dim=1),
            [*shapes, *shapes],
            torch.cat((valid, valid), dim=1),
            torch.cat((ratios, ratios), dim=1),
        )

    @torch.no_grad()
    def _rows(self, found: DetectorOutput, batch: PhotoBatch) -> list[tuple[Tensor, Tensor]]:
        config, rows = self.config, []
        owner, truth = batch.owner, batch.boxes
        if owner is None or truth is None:
            raise InputError("HandOS: expected a batch with labels to train on, found none")
        for image, (scores, boxes) in enumerate(zip(found.scores, found.boxes, strict=True)):
            mine = (owner == image).nonzero()[:, 0]
            assigned = simota(
                scores.float(),
                boxes.float(),
                truth[mine],
                candidates=config.candidates,
                eps=config.eps,
                min_iou=config.min_iou,
                most=config.max_positives,
            ).assigned
            queries = (assigned >= 0).nonzero()[:, 0]
            rows.append((queries, mine[assigned[queries]]))
        return rows

    def assign(self, found: DetectorOutput, batch: PhotoBatch) -> Chosen:
        """Section 3.2, in training: SimOTA's positives of all photos."""
        return self._take(found, self._rows(found, batch))

    def select(self, found: DetectorOutput) -> Chosen:
        """Section 3.2, in use: by score, without what overlaps a better one."""
        config, rows = self.config, []
        for scores, boxes in zip(found.scores, found.boxes, strict=True):
            kept = suppress(
                scores,
                boxes,
                threshold=config.score_threshold,
                overlap=config.nms_iou,
                most=config.max_hands,
            )
            rows.append((kept, torch.full_like(kept, -1)))
        return self._take(found, rows)

    @staticmethod
    def _take(found: DetectorOutput, rows: list[tuple[Tensor, Tensor]]) -> Chosen:
        counts = torch.tensor([len(queries) for queries, _ in rows], device=found.scores.device)
        image = torch.arange(len(rows), device=counts.device).repeat_interleave(counts)
        query = torch.cat([queries for queries, _ in rows])
        queries = torch.cat((found.query_first, found.query_last), dim=-1)[image, query]
        return Chosen(
            image=image,
            target=torch.cat([target for _, target in rows]),
            scores=found.scores[image, query],
            boxes=found.boxes[image, query],
            queries=queries,
        )

    def decode(
        self, memory: Memory, chosen: Chosen, valid_size: Tensor, intrinsics: Tensor
    ) -> HandOSPrediction:
        """Sections 3.3 and 3.4: the chosen queries to joints and meshes. valid_size (B, 2),
        intrinsics (B, 3, 3)."""
        config, image = self.config, chosen.image
        tokens, boxes = self.expand(self.project(chosen.queries), chosen.boxes)
        joints2d: list[Tensor] = []
        vertices: list[Tensor] = []
        raw: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            mesh = number - config.layers_2d
            if mesh == 0:
                lifted, lifted_boxes = self.lift(tokens, boxes)
                tokens = torch.cat((tokens, lifted), dim=1)
                boxes = torch.cat((boxes, lifted_boxes), dim=1)
            tokens = layer(tokens, boxes, self.position(boxes), memory, image)
            joint_boxes, others = boxes[:, :JOINTS], boxes[:, JOINTS:]
            moved = self.joint_heads[number](tokens[:, :JOINTS])
            refined = torch.sigmoid(logit(joint_boxes) + moved)
            joints2d.append(refined[..., :2])
            boxes = refined.detach() if config.detach_boxes else refined
            if mesh < 0:
                continue
            last = number + 1 == config.layers
            if self.training or last:
                points = config.unit_m * self.mesh(tokens[:, JOINTS:-1], self.vertex_heads[mesh])
                told = self.translation_heads[mesh](tokens[:, -1])
                if self.place is not None:
                    points = self.place(points, told[:, 3:])
                vertices.append(points)
                raw.append(told[:, :3])
            if config.update_mesh_boxes and not last:
                moved = self.box_heads[mesh](tokens[:, JOINTS:])
                others = torch.sigmoid(logit(others) + moved)
            # no loss says where the mesh's boxes should be: detached, they would never learn it
            boxes = torch.cat((boxes, others), dim=1)
        found = self._prediction(chosen, torch.stack(joints2d, dim=1))
        if not vertices:
            return found
        return self._with_mesh(
            found,
            torch.stack(vertices, dim=1),
            torch.stack(raw, dim=1),
            valid_size[image],
            intrinsics[image],
        )

    # -------------------------------------------------------------------------------- results

    def _with_mesh(
        self,
        found: HandOSPrediction,
        vertices: Tensor,
        raw: Tensor,
        valid_size: Tensor,
        intrinsics: Tensor,
    ) -> HandOSPrediction:
        """vertices (K, m, 778, 3), raw (K, m, 3), the rest (K, ...): of each hand's photo."""
        fields: dict[str, Any] = vars(found) | {
            "vertices": vertices,
            "joints": for_each(self.regressor, vertices) @ vertices,
            "translation": raw
            if self.config.translation == "direct"
            else translations(raw, found.boxes, valid_size, intrinsics, self.config.hand_width_m),
            "volume": normalised_volume(vertices[:, -1].float(), self.hand.faces),
        }
        return HandOSPrediction(**fields)

    def _prediction(self, chosen: Chosen, joints2d: Tensor) -> HandOSPrediction:
        zero = joints2d.new_zeros(())
        drift = self.mesh.drift() if self.config.layers_mesh else zero
        return HandOSPrediction(
            image=chosen.image,
            target=chosen.target,
            scores=chosen.scores,
            boxes=chosen.boxes,
            joints2d=joints2d,
            faces=self.hand.faces,
            face_pairs=self.face_pairs,
            anchor=zero,
            drift=drift,
            hand=self.hand,
        )

    def _nothing(self, chosen: Chosen) -> HandOSPrediction:
        """No hand: empty, and in training zeros that every parameter takes part in."""
        config = self.config
        layers = config.layers
        made = self._prediction(chosen, chosen.boxes.new_zeros(0, layers, JOINTS, 2))
        fields: dict[str, Any] = vars(made)
        if self.training:
            parts = [0 * p.sum() for p in self.parameters() if p.requires_grad]
            fields = fields | {"anchor": torch.stack(parts).sum()}
        if config.layers_mesh:
            steps = config.layers_mesh if self.training else 1
            vertices = chosen.boxes.new_zeros(0, steps, 778, 3)
            fields = fields | {
                "vertices": vertices,
                "joints": vertices[:, :, :JOINTS],
                "translation": vertices[:, :, 0],
                "volume": vertices[:, 0, 0, 0],
            }
        return HandOSPrediction(**fields)
