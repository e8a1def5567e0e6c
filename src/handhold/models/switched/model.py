"""The grasp classifier and the pairs "A + B", baselines of the UniHOPE paper (Wang et al., CVPR
2025), read from the top: configuration, classifier, pair.

A classifier looks at the crop; hands that grasp nothing go to a network A that knows hands only,
the others to a network B that knows hands with objects.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.models.hflnet.model import TwoStreamBackbone, check_batch
from handhold.models.nn.starting_weights import start_weights
from handhold.models.switched.routing import (
    Layout,
    Routed,
    from_size,
    layout,
    merge,
    resized,
    rows_of,
)
from handhold.models.unihope.model import UniHOPEConfig, WholeCropClassifier
from handhold.scene import Batch, Prediction


@dataclass(frozen=True, kw_only=True)
class GraspClassifierConfig:
    """The classifier's make. Defaults: the original's, which knows no others.

    input_size: side of the crop. block, depths, widths, stem_width, stem_kernel: the ResNet's;
    slope: of its LeakyReLU. pyramid_width; switch_width: channels that the last layer looks at.
    hand_stream: the original computes HFL-Net's two streams and uses the object's alone. "kept":
    the hand's stream runs in training only, where it moves the statistics of the norms that both
    share; "run": always, as the original does. Answers are the same.
    """

    input_size: int = 128
    block: Literal["bottleneck", "basic"] = "bottleneck"
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    stem_width: int = 64
    stem_kernel: int = 7
    slope: float = 0.01
    pyramid_width: int = 256
    switch_width: int = 64
    hand_stream: Literal["kept", "run"] = "kept"

    def __post_init__(self) -> None:
        for name in ("depths", "widths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists come from JSON
        if self.hand_stream not in ("kept", "run"):
            raise InputError(
                f"GraspClassifierConfig.hand_stream: expected kept or run, "
                f"found {self.hand_stream!r}"
            )
        try:
            self.as_unihope()
        except InputError as error:
            told = str(error).replace("UniHOPEConfig", "GraspClassifierConfig")
            raise InputError(told) from error

    def as_unihope(self) -> UniHOPEConfig:
        """The configuration of the network that the classifier is a part of."""
        return UniHOPEConfig(
            input_size=self.input_size,
            block=self.block,
            depths=self.depths,
            widths=self.widths,
            stem_width=self.stem_width,
            stem_kernel=self.stem_kernel,
            slope=self.slope,
            pyramid_width=self.pyramid_width,
            switch_width=self.switch_width,
            heads=1,
        )

    @classmethod
    def counted(cls) -> GraspClassifierConfig:
        """The default with all the operations of the original."""
        return cls(hand_stream="run")


class GraspClassifier(nn.Module):
    """Does the hand in the crop hold something? HFL-Net's backbone and UniHOPE's switch."""

    def __init__(self, config: GraspClassifierConfig | None = None) -> None:
        super().__init__()
        self.config = GraspClassifierConfig() if config is None else config
        whole = self.config.as_unihope()
        self.backbone = TwoStreamBackbone(whole)
        self.head = WholeCropClassifier(whole, legacy=False)
        start_weights(self, "official")
        self.backbone.object_stage2 = copy.deepcopy(self.backbone.hand_stage2)  # start alike
        self.backbone.object_stage3 = copy.deepcopy(self.backbone.hand_stage3)

    def forward(self, batch: Batch, capture: dict[str, Tensor] | None = None) -> Prediction:
        """grasp_logits (B, 2) of B crops; of the batch it reads `image` alone.

        There are no hands in the result: `joints` is (B, 0, 3). capture: receives every named
        activation. Raises InputError for images of another size.
        """
        check_batch(batch, self.config.as_unihope())
        logits = self.logits(batch.image, capture)
        return Prediction(joints=logits.new_zeros(len(batch), 0, 3), grasp_logits=logits)

    def logits(self, image: Tensor, capture: dict[str, Tensor] | None = None) -> Tensor:
        """Crops (B, 3, S, S) in 0..1 -> [not grasping, grasping] (B, 2)."""
        both = self.training or capture is not None or self.config.hand_stream == "run"
        maps = self.backbone(image) if both else self._object_stream(image)
        logits, reduced = self.head(maps["P2_obj"])
        if capture is not None:
            grasping = logits.argmax(dim=1) == 1
            capture.update(maps, reduced=reduced, logits=logits, grasping=grasping)
        return logits

    def _object_stream(self, image: Tensor) -> dict[str, Tensor]:
        parts = self.backbone
        c2 = parts.stage1(parts.stem(image))
        c3 = parts.object_stage2(c2)
        c4 = parts.object_stage3(c3)
        return {"P2_obj": parts.object_pyramid(c2, c3, c4, parts.stage4(c4))}

    def parameters_without_gradient(self) -> tuple[str, ...]:
        """Prefixes of the parameters that no loss reaches."""
        return ("backbone.hand_stage2.", "backbone.hand_stage3.", "backbone.hand_pyramid.")


@dataclass(frozen=True, kw_only=True)
class SwitchedConfig:
    """How a pair decides.

    threshold: a hand grasps when its probability is above this (original: the larger logit, 0.5).
    antialias: average over what a smaller crop leaves out, where the three networks take crops of
    different size; the original does not.
    """

    threshold: float = 0.5
    antialias: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise InputError(
                f"SwitchedConfig.threshold: expected a number between 0 and 1, "
                f"found {self.threshold}"
            )


class Switched(nn.Module):
    """The pair "A + B". hand_only: A, hand_object: B, classifier: each `network(batch)`, with a
    `config.input_size`.

    A pair is not trained as a whole (the original's loss is a placeholder): its parts are trained
    one by one, and here always evaluate. Not for export: where a hand goes depends on the image.
    """

    def __init__(
        self,
        hand_only: nn.Module,
        hand_object: nn.Module,
        classifier: GraspClassifier,
        config: SwitchedConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = SwitchedConfig() if config is None else config
        self.hand_only = hand_only
        self.hand_object = hand_object
        self.classifier = classifier
        parts = {"hand_only": hand_only, "hand_object": hand_object, "classifier": classifier}
        self._sides = {name: _side(name, part) for name, part in parts.items()}
        self._layouts: dict[str, Layout] = {}
        self.eval()

    def train(self, mode: bool = True) -> Switched:
        """Stays in evaluation mode whatever `mode` says."""
        return super().train(False)

    def forward(self, batch: Batch, capture: dict[str, Tensor] | None = None) -> Prediction:
        """Predict B right hands; see `routing.merge` for what the two networks do not share.

        batch: crops of one size, resized for networks that take another; it needs what both
        networks need. capture: receives the classifier's activations. Raises InputError for empty
        batches, and where the networks' predictions cannot be put together.
        """
        routed = self.route(batch, capture)
        return merge(routed, *(self._layout(name, batch) for name in ("hand_only", "hand_object")))

    def route(self, batch: Batch, capture: dict[str, Tensor] | None = None) -> Routed:
        """What each network says of the hands that the classifier sends to it."""
        if len(batch) == 0:
            raise InputError("Batch: expected at least one hand, found none")
        seen = resized(batch, self._sides["classifier"], self.config.antialias)
        logits = self.classifier.logits(seen.image, capture)
        bound = math.log(self.config.threshold / (1 - self.config.threshold))
        grasping = logits[:, 1] - logits[:, 0] > bound
        rows = {"hand_only": (~grasping).nonzero()[:, 0], "hand_object": grasping.nonzero()[:, 0]}
        found = {name: self._run(name, batch, chosen) for name, chosen in rows.items()}
        return Routed(
            grasp_logits=logits,
            hand_only=found["hand_only"],
            hand_object=found["hand_object"],
            hand_only_rows=rows["hand_only"],
            hand_object_rows=rows["hand_object"],
        )

    def _run(self, name: str, batch: Batch, rows: Tensor) -> Prediction | None:
        if len(rows) == 0:
            return None
        given = resized(rows_of(batch, rows), self._sides[name], self.config.antialias)
        prediction: Prediction = self.get_submodule(name)(given)
        self._layouts[name] = layout(prediction)
        return from_size(prediction, self._sides[name], int(batch.image.shape[-1]))

    def _layout(self, name: str, batch: Batch) -> Layout:
        """What a network gives a hand. One that has not run yet is tried on the first hand, so that
        the same fields come out wherever the hands go."""
        if name not in self._layouts:
            with torch.no_grad():
                self._run(name, batch, torch.zeros(1, dtype=torch.int64, device=batch.image.device))
        return self._layouts[name]


def _side(name: str, network: Any) -> int:
    side = getattr(getattr(network, "config", None), "input_size", None)
    if not isinstance(side, int):
        raise InputError(f"Switched.{name}: expected a network with config.input_size, found none")
    return side
