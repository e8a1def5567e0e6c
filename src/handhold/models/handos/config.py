"""Every choice of HandOS, the paper's and those that it leaves open."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from handhold.errors import InputError
from handhold.models.handos.attention import PATTERNS, Pattern


@dataclass(frozen=True, kw_only=True)
class HandOSConfig:
    """HandOS (paper section 3; where it is silent the card says what was chosen and why).

    detector: the frozen one, detector_options: what it is made of (`bases.build_base`).
    input_size: long edge in pixels to which a photo is brought. square: pad to input_size on both
    edges, else to the smallest multiple the detector takes.

    width, heads, points, feedforward, dropout, norm ("post" or "pre"): of the decoder's layers.
    layers_2d: layers of the 21 joint queries alone, layers_mesh: of all queries; none of the second
    kind is the 2D model of the paper's first training stage. vertices: queries of the mesh; fewer
    than 778 are chosen by farthest points and upsampled by a learned matrix, on their coordinates
    or before that on their features ("coord", "feature"). attention: who sees whom (`allowed`).
    queries: "instance", or "unified": the same for all hands.

    side_tuning: its maps beside the detector's memory along the channels, as further levels, or
    none. side_width: its output's channels, side_hidden: those inside, side_kernels: of its three
    convolutions. memory_layer: None for the encoder's last layer, else the number of one from 1
    (4 for the paper's F4).

    candidates, eps, min_iou, max_positives (None: no limit): of SimOTA (`filtering.simota`; the
    formula taken literally is min_iou=0, max_positives=None). score_threshold, nms_iou, max_hands:
    of use.

    unit_m: metres that a vertex head's output of one means. decoder: "free": vertices are the
    heads' numbers, in the camera's axes; "template": moves of the hand's rest shape, which the
    translation's token turns and, for left hands, turns inside out. translation: "box": relative to
    the detected box (`translations`), "direct": the three numbers are metres. hand_width_m: with
    "box", the real size that a box's longer side stands for at first. lift_translation: the
    translation's first row of the lifting is the joints' mean; False: zeros. update_mesh_boxes:
    boxes of vertices and translation move from layer to layer as those of joints do. detach_boxes:
    no gradient through the joints' boxes of earlier layers. shared_heads: one head of a kind for
    all layers.
    Raises InputError for values that cannot work.
    """

    detector: str = "grounding-dino"
    detector_options: dict[str, Any] = field(default_factory=dict)
    input_size: int = 1280
    square: bool = False
    width: int = 256
    heads: int = 8
    points: int = 4
    feedforward: int = 2048
    dropout: float = 0.0
    norm: Literal["post", "pre"] = "post"
    layers_2d: int = 2
    layers_mesh: int = 4
    vertices: int = 778
    upsampling: Literal["coord", "feature"] = "coord"
    attention: Pattern = "c"
    queries: Literal["instance", "unified"] = "instance"
    side_tuning: Literal["channels", "levels", "none"] = "channels"
    side_width: int = 256
    side_hidden: int = 256
    side_kernels: tuple[int, int, int] = (1, 3, 3)
    memory_layer: int | None = None
    candidates: int = 10
    eps: float = 1e-8
    min_iou: float = 0.1
    max_positives: int | None = 4
    score_threshold: float = 0.1
    nms_iou: float = 0.9
    max_hands: int = 20
    unit_m: float = 0.2
    decoder: Literal["free", "template"] = "free"
    translation: Literal["box", "direct"] = "box"
    hand_width_m: float = 0.18
    lift_translation: bool = True
    update_mesh_boxes: bool = True
    detach_boxes: bool = True
    shared_heads: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "side_kernels", tuple(self.side_kernels))
        options = self.detector_options.items()  # as a weights file's header holds them
        plain = {key: list(v) if isinstance(v, tuple) else v for key, v in options}
        object.__setattr__(self, "detector_options", plain)
        choices = {
            "norm": ("post", "pre"),
            "upsampling": ("coord", "feature"),
            "attention": PATTERNS,
            "queries": ("instance", "unified"),
            "side_tuning": ("channels", "levels", "none"),
            "translation": ("box", "direct"),
            "decoder": ("free", "template"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"HandOSConfig.{name}: expected one of {', '.join(known)}, "
                    f"found {getattr(self, name)!r}"
                )
        for name in ("width", "heads", "points", "feedforward", "layers_2d", "candidates"):
            if getattr(self, name) < 1:
                raise InputError(f"HandOSConfig.{name}: expected 1 or more: {getattr(self, name)}")
        if self.width % self.heads or self.width % 4:
            raise InputError(
                "HandOSConfig.width: expected a multiple of heads and of 4, found "
                f"{self.width} with {self.heads} heads"
            )
        if self.input_size < 32 or not 1 <= self.vertices <= 778 or self.layers_mesh < 0:
            raise InputError(
                "HandOSConfig: expected input_size >= 32, 1..778 vertices and layers_mesh >= 0, "
                f"found {self.input_size}, {self.vertices}, {self.layers_mesh}"
            )
        if not (0 <= self.score_threshold < 1 and 0 < self.nms_iou <= 1 and self.max_hands >= 1):
            raise InputError(
                "HandOSConfig: expected score_threshold in 0..1, nms_iou in 0..1 and max_hands >= 1"
            )
        if not (0 <= self.dropout < 1 and self.unit_m > 0 and self.hand_width_m > 0):
            raise InputError(
                "HandOSConfig: expected dropout in 0..1, positive unit_m and hand_width_m"
            )

    @classmethod
    def paper(cls) -> HandOSConfig:
        """The paper's, read literally: [Q0; Q6] and [F6; Fs] are 512 wide, and so is all else."""
        return cls(width=512)

    @classmethod
    def base(cls) -> HandOSConfig:
        """As wide as the detector's queries."""
        return cls()

    @classmethod
    def small(cls) -> HandOSConfig:
        """For processors: our own detector, photos of 320 pixels, 195 coarse vertices."""
        return cls(
            detector="hand-detector",
            score_threshold=0.28,  # the detector's own
            nms_iou=0.6,  # its neighbouring places tell the same hand
            input_size=320,
            square=True,
            width=128,
            heads=4,
            feedforward=512,
            layers_mesh=2,
            vertices=195,
            side_width=128,
            side_hidden=64,
            side_kernels=(1, 3, 1),
        )

    @property
    def layers(self) -> int:
        """Of both kinds together."""
        return self.layers_2d + self.layers_mesh

    def first_stage(self) -> HandOSConfig:
        """The 2D model that the paper trains first: as many layers, all of joints alone. Its layers
        have the names of this one's, so that training here can start from it."""
        return dataclasses.replace(self, layers_2d=self.layers, layers_mesh=0)
