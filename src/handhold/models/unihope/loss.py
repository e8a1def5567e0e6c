"""UniHOPE's losses (paper section 3.5; weights of the released code) and optional ones of ours."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from handhold.errors import InputError
from handhold.models.hflnet.loss import SMALL, HFLNetLossConfig, hand_losses, weighted
from handhold.models.nn.hope_losses import (
    labelled_object,
    masked_mean,
    need,
    object_terms,
    with_hand_targets,
)
from handhold.models.unihope.model import second_of
from handhold.scene import Batch, Prediction

__all__ = ["UniHOPELossConfig", "loss", "with_hand_targets"]


@dataclass(frozen=True, kw_only=True)
class UniHOPELossConfig(HFLNetLossConfig):
    """HFLNetLossConfig's weights, and:

    switch, occlusion: cross-entropies of the two classifiers. occlusion_threshold: a hand counts as
    occluded when its visible share is at most this (0.9 on DexYCB, 0.8 on HO3D).
    enhancement: the second stage's three terms for pairs (c3, roi, mano; 1, 1, 1 on HO3D).
    """

    switch: float = 10.0
    occlusion: float = 1.0
    occlusion_threshold: float = 0.9
    enhancement: bool = False
    c3: float = 0.1
    roi: float = 0.1
    mano: float = 0.5

    @classmethod
    def small(cls) -> UniHOPELossConfig:
        """For the small network and mixed data (synthetic scenes and photos with 2D labels)."""
        return dataclasses.replace(cls(switch=0.2), **SMALL)


def loss(
    prediction: Prediction,
    batch: Batch,
    config: UniHOPELossConfig | None = None,
    *,
    second: Prediction | None = None,
    second_batch: Batch | None = None,
) -> dict[str, Tensor]:
    """Named, weighted terms and their sum `total`.

    prediction, batch: of the photos, with `joints` and `vertices` of the hand model
    (`with_hand_targets`). second: prediction for the other images of the pairs
    (`UniHOPE.forward_pair`), second_batch: its labels where they differ. The hand's terms are then
    the mean of both images'; object, switch and occlusion look at the photo only. Object terms:
    samples labelled grasping, with a labelled object. Raises InputError for missing labels, and
    when enhancement is on without pairs.
    """
    config = UniHOPELossConfig() if config is None else config
    terms = hand_losses(prediction, batch, config)
    if second is not None:
        if second_batch is None:
            second_batch = second_of(batch)
        other = hand_losses(second, second_batch, config)
        terms = {name: (value + other[name]) / 2 for name, value in terms.items()}

    grasping = need("batch.grasping", batch.grasping).bool()
    known = grasping.new_ones(len(batch)) if batch.has_grasping is None else batch.has_grasping
    known = known.bool()
    held = grasping & known & labelled_object(batch)
    terms |= weighted(object_terms(prediction, batch, held), config)
    logits = need("prediction.grasp_logits", prediction.grasp_logits).float()
    switch = F.cross_entropy(logits, grasping.long(), reduction="none")
    terms |= weighted({"switch": masked_mean(switch, known)}, config)
    occlusion_logits = prediction.features.get("occlusion_logits")
    if occlusion_logits is not None:
        visible = need("batch.visibility", batch.visibility)
        hidden = visible <= config.occlusion_threshold
        occlusion = F.cross_entropy(occlusion_logits.float(), hidden.long(), reduction="none")
        terms |= weighted({"occlusion": masked_mean(occlusion, ~visible.isnan())}, config)
    if config.enhancement:
        if second is None:
            raise InputError("loss: enhancement needs pairs (second), found None")
        filtered = batch.is_filtered
        chosen = grasping if filtered is None else grasping & ~filtered.bool()
        terms |= weighted(enhancement_terms(prediction, second, chosen), config)
    return terms | {"total": sum(terms.values(), start=prediction.joints.new_zeros(()))}


def enhancement_terms(
    prediction: Prediction, second: Prediction, chosen: Tensor
) -> dict[str, Tensor]:
    """Mean |F - F'| over the chosen (B,) samples, without gradient in F' (paper section 3.4).

    c3: the hand's stage 2; roi: its RoI crop; mano: F mapped, F' not (so the code; the paper maps
    both). 0 when no sample is chosen."""
    pairs = {
        "c3": ("c3_hand", "c3_hand"),
        "roi": ("roi_hand", "roi_hand"),
        "mano": ("mano_mapped", "mano_encoding"),
    }
    terms: dict[str, Tensor] = {}
    for name, (mine, other) in pairs.items():
        if mine not in prediction.features:
            raise InputError(f"loss: enhancement needs features[{mine!r}] (adaptation, enhance)")
        feature = prediction.features[mine].float()
        target = second.features[other].detach().float().reshape(feature.shape)
        terms[name] = masked_mean((feature - target).abs(), chosen)
    return terms
