"""What a sample does not say teaches nothing: filled values may be anything, the loss is the same.

For every method of the registry, by its own processor; a labelled hand beside it shows that the
same values do teach where they are labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from handhold.models.loading import build_model
from handhold.models.nn.hope_losses import mapped_pixels, masked_mean
from handhold.models.nn.hope_processor import HopeProcessor
from handhold.models.processors import make_processor
from handhold.models.registry import MODELS
from handhold.models.switched.loss import loss as grasp_loss
from handhold.scene import Batch, Prediction, Sample

MakeItems = Callable[..., list[Any]]
TRAINED = [name for name in MODELS if f"{name}-small" not in MODELS]
HAND = ("pose", "betas", "joints", "vertices", "root", "hand_sdf", "vote_joints")
OBJECT = ("object_sdf", "object_rotation", "object_translation", "object_corners",
          "object_corners2d")  # fmt: skip
PIXELS = ("object_mask", "hand_pixels", "object_pixels")
NO_MASKS = {"hand_mask": None, "object_mask": None}
ONLY_2D = {"pose": None, "betas": None, "joints": None, "vertices": None}
UNSAID = {"grasping": None, "visibility": None}
# what is not labelled: fields of the hand, of the sample; the batch's fields that mean nothing then
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "2D joints": (ONLY_2D | UNSAID, {"object": None} | NO_MASKS, (*HAND, *OBJECT, *PIXELS)),
    "some 2D joints": (
        ONLY_2D | UNSAID | {"joints2d_valid": np.arange(21) % 4 > 0},
        {"object": None} | NO_MASKS,
        (*HAND, *OBJECT, *PIXELS, "joints2d"),
    ),
    "hand": (UNSAID, {"object": None} | NO_MASKS, (*OBJECT, *PIXELS)),
    "joints and object": (
        {"pose": None, "betas": None, "vertices": None},
        {},
        ("pose", "betas", "joints", "vertices", "hand_sdf", "object_sdf"),
    ),
    "pose without place": ({"joints": None, "vertices": None}, {}, ("hand_sdf", "object_sdf")),
}


def without(sample: Sample, hand: dict[str, Any], rest: dict[str, Any]) -> Sample:
    """The sample without some of its labels."""
    return dataclasses.replace(
        sample, hands=(dataclasses.replace(sample.hands[0], **hand),), **rest
    )


def other(batch: Batch, row: int, names: tuple[str, ...], seed: int = 0) -> Batch:
    """The batch with other values in these fields of one row; of 2D joints the unlabelled ones."""
    draw = torch.Generator().manual_seed(seed)
    changes: dict[str, Any] = {}
    if batch.has_grasping is not None and not batch.has_grasping[row]:
        names = (*names, "grasping")
    for name in names:
        value: Tensor | None = getattr(batch, name, None)
        if value is None:
            continue
        value = value.clone()
        if value.dtype == torch.bool:
            value[row] = ~value[row]
        elif name in PIXELS:
            value[row] = (torch.rand(value[row].shape, generator=draw) > 0.5).float()
        else:
            moved = value[row] + 0.3 * torch.randn(value[row].shape, generator=draw)
            if name == "joints2d" and batch.joints2d_valid is not None:
                moved = torch.where(batch.joints2d_valid[row][:, None], value[row], 30 * moved)
            value[row] = moved
        changes[name] = value
    return dataclasses.replace(batch, **changes)


@pytest.mark.parametrize("name", TRAINED)
def test_filled_values_teach_nothing(name: str, make_items: MakeItems) -> None:
    model, entry = build_model(name, seed=3), MODELS[name]
    processor = make_processor(model.processor.config, model.config, model.network.hand)
    (first, _), (second, _) = make_items(2)
    network, weights = model.network.train(), entry.loss_config()
    for kind, (hand, rest, fields) in KINDS.items():
        items = [(without(first, hand, rest), 0), (second, 0)]
        rng = np.random.default_rng(0)
        batch = entry.targets(network, processor.encode(items, rng))
        with torch.no_grad():
            prediction = network(batch)
            expected = entry.loss(prediction, batch, weights)
            found = entry.loss(prediction, other(batch, 0, fields), weights)
            labelled = entry.loss(prediction, other(batch, 1, HAND), weights)
        assert all(bool(term.isfinite()) for term in expected.values()), kind
        for term, value in expected.items():
            torch.testing.assert_close(
                found[term], value, rtol=1e-5, atol=1e-6, msg=f"{kind}: {term}"
            )
        assert abs(float(labelled["total"] / expected["total"]) - 1) > 1e-3, kind
        # labels of the other hand alone: nothing was added either
        alone = {term for term, value in expected.items() if float(value) != 0}
        assert "joints2d" in alone or "heatmap" in alone, kind


def test_an_unknown_outline_teaches_no_object(make_items: MakeItems) -> None:
    (sample, _), _ = make_items(2)
    unknown = dataclasses.replace(sample, object_mask=None)
    model, entry = build_model("hflnet-small", seed=3), MODELS["hflnet-small"]
    for item, taught in ((sample, True), (unknown, False)):
        batch = entry.targets(model.network, model.processor.encode([(item, 0)]))
        with torch.no_grad():
            terms = entry.loss(model.network(batch), batch, entry.loss_config())
        assert (float(terms["object_points"]) > 0) is taught
        assert (float(terms["object_confidence"]) > 0) is taught


def test_unknown_visibility_teaches_no_occlusion(make_items: MakeItems) -> None:
    (sample, _), _ = make_items(2)
    unknown = without(sample, {"visibility": None}, {})
    entry = MODELS["unihope"]
    for item, taught in ((sample, True), (unknown, False)):
        batch = HopeProcessor().encode([(item, 0)])
        config = dataclasses.replace(
            entry.loss_config(),
            **dict.fromkeys(("switch", "object_points", "object_confidence"), 0),
        )
        assert config.occlusion > 0
        logits = torch.tensor([[0.3, -0.2]])
        value = entry.loss(_nothing(batch, occlusion_logits=logits), _labelled(batch), config)
        assert (float(value["occlusion"]) > 0) is taught


def _nothing(batch: Batch, **features: Tensor) -> Prediction:
    count = len(batch)
    return Prediction(
        joints=torch.zeros(count, 21, 3),
        vertices=torch.zeros(count, 778, 3),
        rotations=torch.eye(3).expand(count, 16, 3, 3),
        betas=torch.zeros(count, 10),
        grasp_logits=torch.zeros(count, 2),
        object_confidence=torch.zeros(count, 4, 21),
        features={
            "joints2d_box": torch.zeros(count, 21, 2),
            "object_box_points": torch.zeros(count, 4, 21, 2),
            **features,
        },
    )


def _labelled(batch: Batch) -> Batch:
    count = len(batch)
    return dataclasses.replace(
        batch, joints=torch.zeros(count, 21, 3), vertices=torch.zeros(count, 778, 3)
    )


def test_classifier_without_grasp_label(make_items: MakeItems) -> None:
    (first, _), (second, _) = make_items(2)
    items = [(without(first, {"grasping": None}, {}), 0), (second, 0)]
    batch = HopeProcessor().encode(items)
    prediction = _nothing(batch)
    prediction = dataclasses.replace(
        prediction, grasp_logits=torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    )
    expected = torch.log(1 + torch.exp(torch.tensor(1.0)))  # the second hand grasps nothing
    for changed in (batch, other(batch, 0, ())):
        torch.testing.assert_close(grasp_loss(prediction, changed)["grasp"], expected)
    assert batch.grasping is not None and not bool(batch.grasping[1])


def test_a_map_of_some_joints_says_nothing_beside_them() -> None:
    """One joint of two labelled: only the pixels of its bell count."""
    bells = torch.zeros(2, 8, 8)
    bells[:, 2, 3] = 255.0
    valid = torch.tensor([[True, True], [True, False]])
    known = mapped_pixels(bells, valid)
    assert bool(known[0].all()) and known[1].nonzero().tolist() == [[2, 3]]
    error = torch.ones(2, 8, 8)
    error[1] = 5.0
    error[1, 2, 3] = 3.0
    assert float(masked_mean(error, known)) == pytest.approx((64 + 3) / 65)
