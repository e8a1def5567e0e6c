"""What golden numbers of HFL-Net cannot show: rules, gradients, statistics, losses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.models.hflnet.loss import HFLNetLossConfig, loss
from handhold.models.hflnet.model import HFLNet, HFLNetConfig, in_pixels, intersection
from handhold.models.nn.attention import MapAttention
from handhold.models.nn.hope_losses import (
    heatmap_divergence,
    masked_mean,
    object_mask,
    reprojection,
)
from handhold.models.nn.soft_argmax import soft_argmax
from handhold.scene import Batch, Prediction

MakeBatch = Callable[..., Batch]


def _attention_twin(block: MapAttention, query: Tensor, source: Tensor) -> np.ndarray:
    """The block written out in float64: heads are slices of channels, exact GELU, eps 1e-5."""
    weights = {k: v.detach().double().numpy() for k, v in block.state_dict().items()}

    def convolution(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{name}.weight"].reshape(x.shape[-1], -1).T + weights[f"{name}.bias"]

    tokens = query[0].double().flatten(1).T.numpy()
    keys = source[0].double().flatten(1).T.numpy()
    q, k, v = convolution("query", tokens), convolution("key", keys), convolution("value", keys)
    dim = tokens.shape[1]
    share = dim // block.heads
    out = np.zeros_like(tokens)
    for head in range(block.heads):
        part = slice(head * share, (head + 1) * share)
        scores = q[:, part] @ k[:, part].T / math.sqrt(share)
        chance = np.exp(scores - scores.max(1, keepdims=True))
        out[:, part] = chance / chance.sum(1, keepdims=True) @ v[:, part]
    tokens = tokens + out
    centred = tokens - tokens.mean(1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    normed = normed * weights["norm.weight"] + weights["norm.bias"]
    hidden = normed @ weights["mlp_in.weight"].T + weights["mlp_in.bias"]
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return tokens + hidden @ weights["mlp_out.weight"].T + weights["mlp_out.bias"]


@pytest.mark.parametrize("scale", [1.0, 0.003])  # small tokens: the norm's epsilon counts
def test_attention_against_its_formula(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block = MapAttention(12, 3)
    with torch.no_grad():
        for layer in (block.query, block.key, block.value):
            layer.weight.mul_(3)
            layer.bias.mul_(scale)
    query, source = scale * torch.randn(1, 12, 4, 6), scale * torch.randn(1, 12, 3, 5)
    expected = _attention_twin(block, query, source)
    with torch.no_grad():
        found = block(query, source)[0].flatten(1).T.numpy()
        np.testing.assert_allclose(found, expected, atol=2e-6)
        # as an exported graph has it
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        for read in (None, 5):
            found = block(query, source, read)[0].flatten(1).T.numpy()
            np.testing.assert_allclose(found, expected[:, :read], atol=2e-6)


def test_intersection_needs_both_axes() -> None:
    first = torch.tensor([[0.0, 0, 10, 10]]).expand(4, 4)
    second = torch.tensor(
        [[5.0, 5, 15, 15], [5.0, 20, 15, 30], [20.0, 5, 30, 15], [10.0, 2, 20, 8]]
    )
    box, exists = intersection(first, second)
    assert exists.tolist() == [1, 0, 0, 0]  # both, only x, only y, touching
    assert box[0].tolist() == [5, 5, 10, 10]


def test_no_intersection_gives_constant_keys(
    tiny_hflnet: HFLNetConfig, make_batch: MakeBatch
) -> None:
    """Boxes apart in y only: the object's attention must see zeros, whatever the image is."""
    network = HFLNet(tiny_hflnet).eval()
    seen: list[Tensor] = []
    network.object_attention.key.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    batch = make_batch(tiny_hflnet)
    apart = torch.tensor([[10.0, 50, 40, 60]]).expand(2, 4)
    network(dataclasses.replace(batch, object_box=apart))
    network(batch)
    assert not seen[0].any()
    assert seen[1].any()


def test_soft_argmax_of_one_hot() -> None:
    logits = torch.zeros(1, 1, 8, 8)
    logits[0, 0, 6, 1] = 100.0
    _, point = soft_argmax(logits)
    torch.testing.assert_close(point[0, 0], torch.tensor([1.5 / 8, 6.5 / 8]))


def _gradients(network: nn.Module, value: Tensor, prefix: str) -> float:
    network.zero_grad()
    value.backward(retain_graph=True)
    return sum(
        float(p.grad.abs().sum())
        for n, p in network.named_parameters()
        if n.startswith(prefix) and p.grad is not None
    )


@pytest.mark.parametrize("detach", [True, False])
def test_stop_gradients(tiny_hflnet: HFLNetConfig, make_batch: MakeBatch, detach: bool) -> None:
    network = HFLNet(dataclasses.replace(tiny_hflnet, detach=detach))
    batch = make_batch(tiny_hflnet)
    capture: dict[str, Tensor] = {}
    prediction = network(batch, capture)
    assert (prediction.vertices is not None) and capture
    hand, thing = prediction.vertices.square().sum(), capture["obj_x"].square().sum()
    assert _gradients(network, hand, "backbone.hand_stage2.") > 0
    assert _gradients(network, thing, "backbone.object_stage2.") > 0
    assert (_gradients(network, hand, "backbone.object_stage2.") == 0) is detach
    assert (_gradients(network, thing, "backbone.hand_stage2.") == 0) is detach


def test_confidence_target_has_no_gradient(
    tiny_hflnet: HFLNetConfig, make_batch: MakeBatch
) -> None:
    batch = make_batch(tiny_hflnet)
    prediction = HFLNet(tiny_hflnet)(batch)
    points = prediction.features["object_box_points"].detach().requires_grad_()
    changed = dataclasses.replace(
        prediction, features=prediction.features | {"object_box_points": points}
    )
    terms = loss(changed, batch)
    (gradient,) = torch.autograd.grad(terms["object_confidence"], points, allow_unused=True)
    assert gradient is None
    assert torch.autograd.grad(terms["object_points"], points)[0].any()


def test_shared_stage_sees_hand_then_object(
    tiny_hflnet: HFLNetConfig, make_batch: MakeBatch
) -> None:
    network = HFLNet(tiny_hflnet).train()
    norm = network.backbone.stage4[0].norm1
    inputs: list[Tensor] = []
    norm.register_forward_hook(lambda _, given, __: inputs.append(given[0].detach()))
    firsts: list[Tensor] = []
    network.backbone.stage4.register_forward_hook(lambda _, given, __: firsts.append(given[0]))
    capture: dict[str, Tensor] = {}
    network(make_batch(tiny_hflnet), capture)
    assert firsts[0] is capture["c4_hand"]
    assert firsts[1] is capture["c4_obj"]
    mean = torch.zeros(norm.num_features)
    for given in inputs:
        mean = 0.9 * mean + 0.1 * given.mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, mean)
    assert int(norm.num_batches_tracked) == 2
    assert int(network.backbone.stem.norm.num_batches_tracked) == 1


def test_small_features_start_at_unit_scale(
    tiny_hflnet: HFLNetConfig, make_batch: MakeBatch
) -> None:
    """However large the backbone's maps are: attention on larger ones saturates."""
    network = HFLNet(tiny_hflnet).train()
    with torch.no_grad():
        for pyramid in (network.backbone.hand_pyramid, network.backbone.object_pyramid):
            pyramid.smooth.weight.mul_(300)
    capture: dict[str, Tensor] = {}
    network(make_batch(tiny_hflnet, 4), capture)
    for name in ("P2_hand", "P2_obj"):
        deviation = capture[name].std(dim=(0, 2, 3))
        torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=0.02, rtol=0)


def test_object_stream_starts_as_the_hands(tiny_hflnet: HFLNetConfig) -> None:
    backbone = HFLNet(tiny_hflnet).backbone
    for index in (2, 3):
        hand = getattr(backbone, f"hand_stage{index}").state_dict()
        thing = getattr(backbone, f"object_stage{index}").state_dict()
        assert all(torch.equal(hand[k], thing[k]) for k in hand)
        assert hand["0.conv1.weight"].data_ptr() != thing["0.conv1.weight"].data_ptr()


def _changed(prediction: Prediction, **features: Tensor) -> Prediction:
    return dataclasses.replace(prediction, features=prediction.features | features)


def _bells(points: Tensor, size: int) -> Tensor:
    """Scores whose soft-max is a bell of one cell's width at each point, cell by cell."""
    scores = torch.zeros(*points.shape[:2], size, size)
    for row in range(size):
        for column in range(size):
            cell = torch.tensor([column + 0.5, row + 0.5])
            away = (points.clamp(0, 1) * size - cell).square().sum(-1)
            scores[..., row, column] = -away / 2
    return scores


def test_perfect_prediction_costs_nothing(tiny_hflnet: HFLNetConfig, make_batch: MakeBatch) -> None:
    from handhold.geometry.rotation import axis_angle_to_matrix_manopth

    batch = make_batch(tiny_hflnet)
    assert batch.pose is not None
    assert batch.joints is not None
    assert batch.joints2d is not None
    assert batch.object_points2d is not None
    low, size = (
        batch.hand_box[:, None, :2],
        (batch.hand_box[:, 2:] - batch.hand_box[:, :2])[:, None],
    )
    object_low = batch.object_box[:, None, :2]
    points = (batch.object_points2d - object_low) / size
    cells = tiny_hflnet.roi_size**2
    mask = object_mask(batch, cells)[:, :, None].expand(-1, -1, 21)
    prediction = Prediction(
        joints=batch.joints,
        vertices=batch.vertices,
        rotations=axis_angle_to_matrix_manopth(batch.pose),
        betas=batch.betas,
        object_confidence=mask,
        features={
            "joints2d_box": (batch.joints2d - low) / size,
            "heatmap_scores": _bells((batch.joints2d - low) / size, 8),
            "object_box_points": points[:, None].expand(-1, cells, -1, -1),
        },
    )
    every = {f.name: 1.0 for f in dataclasses.fields(HFLNetLossConfig)}
    config = HFLNetLossConfig(**(every | {"pose_prior": 0.0}))
    for name, value in loss(prediction, batch, config).items():
        assert float(value) < 1e-4, name
    assert float(loss(_changed(prediction, joints2d_box=points), batch, config)["joints2d"]) > 1e-3


def test_unlabelled_parts_do_not_count(tiny_hflnet: HFLNetConfig, make_batch: MakeBatch) -> None:
    """The second hand has 2D labels only, for half of its joints, and no labelled object."""
    batch = make_batch(tiny_hflnet)
    prediction = HFLNet(tiny_hflnet).eval()(batch)
    valid = torch.ones(2, 21, dtype=torch.bool)
    valid[1, 10:] = False
    assert batch.joints2d is not None
    assert batch.object_points2d is not None
    partly = dataclasses.replace(
        batch,
        has_pose=torch.tensor([True, False]),
        joints2d_valid=valid,
        object_points2d=torch.cat((batch.object_points2d[:1], torch.zeros(1, 21, 2))),
    )
    config = HFLNetLossConfig.small()
    terms = loss(prediction, partly, config)
    other = dataclasses.replace(
        partly,
        joints=torch.cat((partly.joints[:1], torch.full((1, 21, 3), 7.0))),
        vertices=torch.cat((partly.vertices[:1], torch.full((1, 778, 3), 7.0))),
        pose=torch.cat((partly.pose[:1], torch.ones(1, 16, 3))),
        betas=torch.cat((partly.betas[:1], torch.ones(1, 10))),
        joints2d=torch.where(valid[..., None], partly.joints2d, 1e4),
        object_mask=torch.cat((partly.object_mask[:1], torch.ones(1, 32, 32))),
    )
    for name, value in loss(prediction, other, config).items():
        torch.testing.assert_close(value, terms[name], msg=name)
    alone = loss(_first(prediction), _first(batch), config)
    for name in ("joints", "rotations", "relative_vertices", "object_points", "object_confidence"):
        torch.testing.assert_close(terms[name], alone[name], msg=name)


def _first(value: Any) -> Any:
    return value.map(lambda tensor: tensor[:1])


def test_loss_names_what_is_missing(tiny_hflnet: HFLNetConfig, make_batch: MakeBatch) -> None:
    batch = make_batch(tiny_hflnet)
    prediction = HFLNet(tiny_hflnet).eval()(batch)
    with pytest.raises(InputError, match=r"batch\.vertices"):
        loss(prediction, dataclasses.replace(batch, vertices=None))


def test_masked_mean_of_nothing() -> None:
    values = torch.ones(2, 3, requires_grad=True)
    mean = masked_mean(values, torch.zeros(2, dtype=torch.bool))
    mean.backward()
    assert float(mean.detach()) == 0
    assert not values.grad.any()


def test_reprojection_against_least_squares() -> None:
    draw = np.random.default_rng(0)
    joints = 0.05 * draw.standard_normal((3, 21, 3))
    points = 5 * joints[..., :2] + 0.3 + 0.02 * draw.standard_normal((3, 21, 2))
    valid = draw.random((3, 21)) > 0.4
    valid[2, 5:] = False  # too few
    errors: list[np.ndarray] = []
    for x, u, ok in zip(joints[:2], points[:2], valid[:2], strict=True):
        n = int(ok.sum())
        columns = np.zeros((2 * n, 3))
        columns[:, 0] = x[ok, :2].reshape(-1)
        columns[0::2, 1] = columns[1::2, 2] = 1
        solved = np.linalg.lstsq(columns, u[ok].reshape(-1), rcond=None)[0]
        errors.append(np.abs(columns @ solved - u[ok].reshape(-1)))
    found = reprojection(*(torch.from_numpy(v) for v in (joints, points, valid)))
    np.testing.assert_allclose(float(found), np.concatenate(errors).mean(), rtol=1e-5)


def test_reprojection_refuses_mirrored_hands() -> None:
    joints = 0.05 * torch.randn(1, 21, 3, generator=torch.Generator().manual_seed(1))
    valid = torch.ones(1, 21, dtype=torch.bool)
    assert float(reprojection(joints, 5 * joints[..., :2], valid)) < 1e-5
    assert float(reprojection(joints, -5 * joints[..., :2], valid)) > 0.1


def test_heatmap_term_is_zero_at_a_bell_on_the_joint() -> None:
    points = torch.tensor([[[0.3, 0.7], [0.9, 0.1]]])
    centre = (torch.arange(16) + 0.5) / 16
    valid = torch.tensor([[True, False]])

    def term(x: float, y: float) -> float:
        column, row = (-0.5 * ((v - centre) * 16) ** 2 for v in (x, y))
        scores = 3.0 + (row[:, None] + column).expand(1, 2, 16, 16)
        return float(heatmap_divergence(scores, points, valid))

    assert term(0.3, 0.7) == pytest.approx(0.0, abs=1e-6)
    # two equal bells d cells apart: d squared / 2
    assert term(0.3 + 2 / 16, 0.7) == pytest.approx(2.0, rel=0.02)
    assert term(0.7, 0.3) > 10
    # a flat map: log of the cells less the entropy of the bell
    flat = float(heatmap_divergence(torch.zeros(1, 2, 16, 16), points, valid))
    assert flat == pytest.approx(math.log(256) - 1 - math.log(2 * math.pi), rel=1e-3)


def test_predictions_are_in_crop_pixels(tiny_hflnet: HFLNetConfig, make_batch: MakeBatch) -> None:
    batch = make_batch(tiny_hflnet)
    prediction = HFLNet(tiny_hflnet).eval()(batch)
    assert prediction.joints2d is not None
    box = batch.hand_box[:, None]
    assert bool(((prediction.joints2d > box[..., :2]) & (prediction.joints2d < box[..., 2:])).all())
    expected = in_pixels(prediction.features["object_box_points"], batch.object_box)
    torch.testing.assert_close(prediction.object_points2d, expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("heads", 3),
        ("input_size", 100),
        ("roi_size", 12),
        ("hourglass_depth", 9),
        ("depths", (1, 2, 3)),
        ("block", "dense"),
        ("coord_factor", 0.0),
    ],
)
def test_bad_configuration(field: str, value: object) -> None:
    with pytest.raises(InputError, match=field.split("_")[0]):
        dataclasses.replace(HFLNetConfig.small(), **{field: value})


def test_wrong_image_size(tiny_hflnet: HFLNetConfig, make_batch: MakeBatch) -> None:
    batch = make_batch(tiny_hflnet)
    with pytest.raises(InputError, match=r"Batch\.image"):
        HFLNet(tiny_hflnet)(dataclasses.replace(batch, image=batch.image[..., :32]))
