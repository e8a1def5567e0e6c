"""What the registry says of a method, and what it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from handhold.models.nn.hope_losses import with_hand_targets
from handhold.models.processors import Processor
from handhold.scene import Batch


def hand_targets(network: Any, batch: Batch) -> Batch:
    """The batch with joints and vertices of its pose and betas, centred as the network's are."""
    return with_hand_targets(batch, network.hand, getattr(network.config, "mano_center", None))


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A method.

    network, config: the module's class and default configuration. processor: what the default
    configuration eats; the class of this configuration decides the processor (PROCESSORS).
    trained_on: the same for a `TrainConfig.preparation` (deployable, dexycb, ho3d). loss:
    (prediction, batch, loss_config) -> named terms with `total`; targets: (network, batch) -> the
    batch that it needs. parameters: of the default configuration.
    paper_config: what the paper's sizes (paper_parameters, paper_gmacs by the paper's counting)
    belong to; size_note: what that counting leaves out. importer: (file, options) -> the network
    of the authors' checkpoint; imported: what a network of that configuration eats, None: what
    `processor` says. prepare: (network, batch, epoch) -> the batch of a training step, for what
    changes as training goes on. unused_labels: members of shards that its processor does not read.
    uses: labels of `data.dataset.LABELS` that its loss reads beside the 2D joints.
    """

    summary: str
    paper: str
    licence: str
    network: type[nn.Module]
    config: Callable[[], Any]
    processor: Callable[[], Any]
    trained_on: Callable[[str], Any]
    loss: Callable[..., dict[str, Tensor]]
    loss_config: Callable[[], Any]
    parameters: int
    targets: Callable[[Any, Batch], Batch] = hand_targets
    paper_config: Callable[[], Any] | None = None
    paper_parameters: int | None = None
    paper_gmacs: float | None = None
    size_note: str = ""
    importer: Callable[..., nn.Module] | None = None
    imported: Callable[[Any], Any] | None = None
    prepare: Callable[[Any, Batch, float], Batch] | None = None
    unused_labels: frozenset[str] = frozenset({"hand_mask", "hand_mask_amodal", "depth"})
    uses: tuple[str, ...] = ("pose",)


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A network in eval mode and the processor that belongs to it.

    extra: what the weights file tells besides (training, measurements); empty without weights.
    """

    name: str
    network: Any
    processor: Processor
    config: Any
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
