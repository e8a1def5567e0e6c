"""Deformable DETR, RT-DETRv2 and D-FINE from tiny configurations with random weights, against the
package's own forward pass; and the names of all detectors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from handhold.errors import InputError
from handhold.models.handos.detectors import GivenBoxes, build_detector
from handhold.models.handos.detectors.detr_family import CLASSES, DetrFamily

LABEL = 2


def tiny(kind: str, **changes: Any) -> Any:
    import transformers

    body = {
        "embedding_size": 8,
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_indices": [2, 3, 4],
    }
    fields = {
        "d_model": 32,
        "num_queries": 10,
        "num_labels": 3,
        "decoder_layers": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "disable_custom_kernels": True,
    }
    if kind == "deformable-detr":
        fields |= {"encoder_layers": 2, "use_timm_backbone": False, "with_box_refine": True}
        backbone = transformers.ResNetConfig(**body)
        return transformers.DeformableDetrConfig(backbone_config=backbone, **(fields | changes))
    fields |= {
        "encoder_hidden_dim": 16,
        "encoder_in_channels": [16, 24, 32],
        "decoder_in_channels": [16, 16, 16],
        "feat_strides": [8, 16, 32],
        "hidden_expansion": 1.0,
    }
    make = transformers.RTDetrV2Config if kind == "rt-detr-v2" else transformers.DFineConfig
    backbone = transformers.RTDetrResNetConfig(**body)
    return make(backbone_config=backbone, **(fields | changes))


CASES: list[tuple[str, dict[str, Any]]] = [
    ("deformable-detr", {}),
    ("deformable-detr", {"two_stage": True, "two_stage_num_proposals": 12}),
    ("rt-detr-v2", {}),
    ("d-fine", {}),
]


@pytest.mark.parametrize(("kind", "changes"), CASES, ids=["one-stage", "two-stage", "rt", "d-fine"])
def test_fields_are_the_packages_own(kind: Any, changes: dict[str, Any]) -> None:
    import transformers

    torch.manual_seed(0)
    whole = getattr(transformers, CLASSES[kind])(tiny(kind, **changes)).eval()
    detector = DetrFamily(kind=kind, config=tiny(kind, **changes), label=LABEL)
    detector._take(copy.deepcopy(whole), "none", "Apache-2.0")
    detector.train()
    images = torch.rand(2, 3, 64, 96)
    found = detector(images)
    flat = kind == "deformable-detr"
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (images - mean[:, None, None]) / std[:, None, None] if flat else images
    with torch.no_grad():
        told = whole(pixel_values=pixels, output_hidden_states=True)
        stages = whole.model.backbone(pixels, torch.ones(2, 64, 96))
    assert torch.equal(found.boxes, told.pred_boxes)
    assert torch.equal(found.scores, told.logits[..., LABEL].sigmoid())
    assert torch.equal(found.query_first, told.decoder_hidden_states[0])
    assert torch.equal(found.query_last, told.last_hidden_state)
    assert found.scores.shape[1] == detector.num_queries
    # the layers in their order, whatever axis the package stacks them on
    assert found.query_layers is not None and len(found.query_layers) == 2
    assert torch.equal(found.query_layers[-1], found.query_last)
    assert not torch.equal(found.query_layers[0], found.query_last)
    stages = stages[0] if isinstance(stages, tuple) else stages
    assert all(torch.equal(a, b[0]) for a, b in zip(found.shallow, stages, strict=True))
    assert detector.shallow_channels == (16, 24, 32)
    if flat:
        assert torch.equal(found.memory, told.encoder_last_hidden_state)
        assert detector.strides == (8, 16, 32, 64)
        assert found.memory_layers is not None
        assert torch.equal(found.memory_layers[0], told.encoder_hidden_states[1])
    else:
        place = 8 * 12 + 1 * 6 + 4  # row 1, column 4 of the second level
        expected = told.encoder_last_hidden_state[1][:, :, 1, 4]
        assert torch.equal(found.memory[:, place], expected)
        assert detector.strides == (8, 16, 32)
    assert found.shapes[:3] == [(8, 12), (4, 6), (2, 3)]
    assert found.memory.shape == (2, sum(h * w for h, w in found.shapes), detector.width)


@pytest.mark.parametrize("kind", list(CLASSES))
def test_boxes_with_padding_are_of_the_photo(kind: Any) -> None:
    """Deformable DETR takes the mask; to the others the box of a padded photo is stretched."""
    torch.manual_seed(1)
    detector = DetrFamily(kind=kind, config=tiny(kind))
    images, valid = torch.rand(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool)
    valid[:, :32, :72] = True
    found = detector(images, valid)
    other = torch.where(valid[:, None], images, torch.rand_like(images))
    torch.testing.assert_close(detector(other, valid).boxes, found.boxes)
    torch.testing.assert_close(found.valid_ratios[0, 0], torch.tensor([0.75, 0.5]))
    if kind != "deformable-detr":
        whole = detector(torch.where(valid[:, None], images, torch.zeros(())))
        stretch = torch.tensor([4 / 3, 2.0, 4 / 3, 2.0])
        torch.testing.assert_close(found.boxes, whole.boxes * stretch)


def test_detectors_by_name() -> None:
    given = build_detector("boxes", num_queries=4)
    assert isinstance(given, GivenBoxes) and given.num_queries == 4
    chosen = build_detector("rt-detr-v2", config=tiny("rt-detr-v2"), label=1)
    assert isinstance(chosen, DetrFamily) and chosen.label == 1
    with pytest.raises(
        InputError, match=r"detector: expected one of hand-detector, hand-detr, .*found 'yolo'"
    ):
        build_detector("yolo")
    with pytest.raises(InputError, match="label: expected 0 to 2"):
        build_detector("d-fine", config=tiny("d-fine"), label=3)
    with pytest.raises(InputError, match="d-fine: expected weights, or a configuration"):
        build_detector("d-fine")
