"""What golden numbers of HandOccNet cannot show: formulas, gradients, losses, importing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.models.official_file import Danger, entries_of, write
from torch import Tensor

from handhold.errors import InputError, WeightsError
from handhold.geometry.rotation import axis_angle_to_matrix_manopth
from handhold.hand.convention import flat_to_mean
from handhold.hand.model import HandModel
from handhold.models.handoccnet.loss import HandOccNetLossConfig, loss, with_hand_targets
from handhold.models.handoccnet.model import HandOccNet, HandOccNetConfig, TransformerLayer
from handhold.models.handoccnet.official import config_for, convert, load_official
from handhold.models.nn.hope_losses import heatmap_divergence
from handhold.models.weights import OfficialFile, fit
from handhold.scene import Batch, Prediction

KEYS = Path(__file__).parents[1] / "golden" / "data" / "handoccnet.json"
TINY = dataclasses.replace(
    HandOccNetConfig.small(),
    input_size=64,
    widths=(8, 8, 16, 16),
    stem_width=8,
    pyramid_width=16,
    hourglass_depth=2,
    mano_widths=(32, 16),
)


def _batch(hand: HandModel, count: int = 2) -> Batch:
    draw = torch.Generator().manual_seed(0)
    box = torch.tensor([[4.0, 4, 60, 60]]).expand(count, 4)
    batch = Batch(
        image=F.interpolate(torch.rand(count, 3, 4, 4, generator=draw), 64, mode="bilinear"),
        hand_box=box,
        object_box=box,
        pose=0.3 * torch.randn(count, 16, 3, generator=draw),
        betas=0.5 * torch.randn(count, 10, generator=draw),
        joints2d=64 * torch.rand(count, 21, 2, generator=draw),
    )
    return with_hand_targets(batch, hand)


def _softmax(scores: np.ndarray) -> np.ndarray:
    chance = np.exp(scores - scores.max(1, keepdims=True))
    return chance / chance.sum(1, keepdims=True)


def _layer_twin(layer: TransformerLayer, query: Tensor, key: Tensor) -> np.ndarray:
    """The layer written out in float64, with the whole matrices of both similarities."""
    weights = {k: v.detach().double().numpy() for k, v in layer.state_dict().items()}

    def tokens(x: Tensor) -> np.ndarray:
        return x[0].detach().double().flatten(1).T.numpy()

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{name}.weight"].reshape(-1, x.shape[1]).T + weights[f"{name}.bias"]

    placed_q, placed_k = tokens(query + layer.query_embedding), tokens(key + layer.key_embedding)
    q, k, v = linear("query", placed_q), linear("key", placed_k), linear("value", tokens(key))
    share = q.shape[1] // layer.heads
    out = np.zeros_like(q)
    for head in range(layer.heads):
        part = slice(head * share, (head + 1) * share)
        attention = _softmax(q[:, part] @ k[:, part].T / math.sqrt(share))
        if layer.injects:
            q2, k2 = linear("gate_query", placed_q)[:, part], linear("gate_key", placed_k)[:, part]
            score = (q2 @ k2.T / math.sqrt(share)).sum(1, keepdims=True)
            attention = attention / (1 + np.exp(-score))
        out[:, part] = attention @ v[:, part]
    if not layer.injects:
        out = out + tokens(query)
    centred = out - out.mean(1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    hidden = linear("mlp_in", normed * weights["norm.weight"] + weights["norm.bias"])
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return out + linear("mlp_out", hidden)


@pytest.mark.parametrize("injects", [True, False])
@pytest.mark.parametrize("literal", [True, False])
def test_transformer_layer_against_its_formula(injects: bool, literal: bool) -> None:
    torch.manual_seed(0)
    layer = TransformerLayer(dataclasses.replace(TINY, literal=literal), injects)
    query, key = torch.randn(1, 16, 8, 8), torch.randn(1, 16, 8, 8)
    with torch.no_grad():
        for parameter in layer.parameters():  # gates half open, biases that count
            parameter.add_(0.1 * torch.randn_like(parameter))
        found = layer(query, key)[0].flatten(1).T.numpy()
    np.testing.assert_allclose(found, _layer_twin(layer, query, key), atol=2e-5)


def test_gate_parts_the_map(hand: HandModel) -> None:
    network = HandOccNet(TINY, hand).eval()
    capture: dict[str, Tensor] = {}
    with torch.no_grad():
        network(_batch(hand), capture)
    pooled, primary = capture["fpn_pooled"], capture["primary"]
    torch.testing.assert_close(primary + capture["secondary"], pooled)
    told = torch.stack((pooled.max(1).values, pooled.mean(1)), dim=1)
    with torch.no_grad():
        share = torch.sigmoid(network.backbone.gate.norm(network.backbone.gate.conv(told)))
    torch.testing.assert_close(primary, pooled * share)


def test_every_parameter_learns_and_the_loss_falls(hand: HandModel) -> None:
    torch.manual_seed(1)
    network = HandOccNet(TINY, hand).train()
    batch = _batch(hand)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    totals: list[float] = []
    for _ in range(60):
        optimiser.zero_grad()
        terms = loss(network(batch), batch)
        terms["total"].backward()
        totals.append(float(terms["total"].detach()))
        optimiser.step()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        if name.endswith("weight"):
            assert bool(parameter.grad.any()), name
    assert totals[-1] < 0.5 * totals[0]
    assert float(terms["vertices"].detach()) < 1.0  # a root mean square error of 10 mm


def test_single_precision_under_autocast(hand: HandModel) -> None:
    network = HandOccNet(TINY, hand).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = network(_batch(hand))
    assert found.joints.dtype == found.rotations.dtype == torch.float32


def test_terms_against_their_definition(hand: HandModel) -> None:
    """One hand with everything, one with half of its 2D joints only."""
    mean_pose = dataclasses.replace(TINY, mean_pose=True)
    torch.manual_seed(2)
    network = HandOccNet(mean_pose, hand).eval()
    batch = _batch(hand)
    valid = torch.ones(2, 21, dtype=torch.bool)
    valid[1, 10:] = False
    partly = dataclasses.replace(batch, has_pose=torch.tensor([True, False]), joints2d_valid=valid)
    with torch.no_grad():
        found = network(batch)
        terms = loss(found, partly)
    assert batch.pose is not None
    # the target of the rotations is the annotation without the mean pose
    relative = flat_to_mean(batch.pose[0].numpy(), hand.hands_mean.numpy())
    target = axis_angle_to_matrix_manopth(torch.from_numpy(relative))

    def mse(first: Any, second: Any) -> float:
        return float(np.mean((np.asarray(first, np.float64) - np.asarray(second)) ** 2))

    pixels = np.asarray(found.joints2d - batch.joints2d, np.float64) / 64
    expected = {
        "vertices": 1e4 * mse(found.vertices[0], batch.vertices[0]),
        "joints": 1e4 * mse(found.joints[0], batch.joints[0]),
        "rotations": 10 * mse(found.features["relative_rotations"][0], target),
        "shape": 0.1 * mse(found.betas[0], batch.betas[0]),
        "joints2d": 100 * float((pixels[valid.numpy()] ** 2).mean()),
    }
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(value, rel=1e-4), name
    assert float(terms["total"]) == pytest.approx(sum(expected.values()), rel=1e-4)
    other = loss(found, partly, HandOccNetLossConfig(rotations=0.0, heatmap=2.0))
    assert "rotations" not in other
    bells = heatmap_divergence(found.features["heatmap_scores"], partly.joints2d / 64, valid)
    torch.testing.assert_close(other["heatmap"], 2 * bells)
    with pytest.raises(InputError, match=r"batch\.vertices"):
        loss(found, dataclasses.replace(batch, vertices=None))
    with pytest.raises(InputError, match="shape"):
        HandOccNetLossConfig(shape=-1.0)


@pytest.mark.parametrize("mean_pose", [True, False])
def test_perfect_prediction_costs_nothing(hand: HandModel, mean_pose: bool) -> None:
    """What the head must say for a labelled pose, through the network's own last step."""
    network = HandOccNet(dataclasses.replace(TINY, mean_pose=mean_pose), hand)
    batch = _batch(hand)
    assert batch.pose is not None
    assert batch.betas is not None
    assert batch.joints2d is not None
    told = flat_to_mean(batch.pose, hand.hands_mean) if mean_pose else batch.pose
    found: dict[str, Tensor] = {
        "rotations": axis_angle_to_matrix_manopth(told),
        "shape": batch.betas,
        "joints2d": batch.joints2d / 64,
        "heatmap_scores": torch.zeros(2, 21, 8, 8),
    }
    prediction: Prediction = network._hand(found)
    assert float(loss(prediction, batch)["total"]) < 1e-6
    torch.testing.assert_close(
        prediction.rotations, axis_angle_to_matrix_manopth(batch.pose), atol=1e-5, rtol=0
    )


# ---------------------------------------------------------------------------------- importing


def test_file_in_the_originals_layout(hand: HandModel, tmp_path: Path) -> None:
    entries = entries_of("handoccnet")
    network = load_official(write(tmp_path / "snapshot.pth.tar", "handoccnet"), hand=hand)
    assert network.config == HandOccNetConfig()
    assert not network.training
    state = network.state_dict()
    pairs = {
        "backbone.stages.2.4.norm2.weight": "backbone.layer3.0.4.bn2.weight",
        "backbone.pyramid.smooth.weight": "backbone.smooth3.weight",
        "inject.1.gate_key.bias": "FIT.layers.1.encode_key2.bias",
        "inject_tail.conv2.weight": "FIT.conv1.2.weight",
        "enhance.0.query_embedding": "SET.layers.0.q_embedding",
        "hand_head.hourglass.levels.3.2.conv1.weight": (
            "regressor.hand_regHead.hg.0.hg.3.2.0.conv1.weight"
        ),
        "hand_encoder.units.5.norm2.running_mean": (
            "regressor.hand_Encoder.reg.5.bn1.running_mean"
        ),
        "mano_head.hidden2.weight": "regressor.mano_regHead.mano_base_layer.2.weight",
    }
    for ours, theirs in pairs.items():
        assert torch.equal(state[ours], entries[theirs]), ours
    dropped = [k for k in entries if "mano_layer" in k or k.endswith((".uu", ".vv"))]
    dropped += [k for k in entries if k.startswith("fitting_loss.") or ".smooth2." in k]
    assert len(state) == len(entries) - len(dropped)
    with torch.device("meta"):
        literal = HandOccNet(HandOccNetConfig(literal=True, init="pytorch"), hand)
    assert set(convert(entries, keep_unused=True)) == set(literal.state_dict())


def test_refused_files(hand: HandModel, tmp_path: Path) -> None:
    path = tmp_path / "snapshot.pth.tar"
    torch.save({"network": {"FIT.conv1.0.bias": torch.ones(256)}, "epoch": Danger()}, path)
    with pytest.raises(WeightsError, match="objects other than tensors"):
        load_official(path, hand=hand)
    assert not Danger.ran
    converted = convert(entries_of("handoccnet"))
    with torch.device("meta"):
        network = HandOccNet(HandOccNetConfig(init="pytorch"), hand)
    converted.pop("mano_head.shape.bias")
    with pytest.raises(WeightsError, match=r"missing mano_head\.shape\.bias"):
        fit(network, converted, "file")
    with pytest.raises(WeightsError, match=r"lacks: module\.SET\.conv1\.0\.bias"):
        convert({"module.SET.conv1.0.bias": torch.ones(1)})


def test_origin() -> None:
    def told(*wrapper: str, key: str = "SET.layers.0.q_embedding") -> OfficialFile:
        entries = {key: torch.zeros(1)}
        return OfficialFile(path=Path("x.pth"), entries=entries, wrapper=frozenset(wrapper))

    original, copied = HandOccNetConfig(), HandOccNetConfig.unihope()
    assert original.mean_pose
    assert not copied.mean_pose
    assert config_for(told("epoch", "optimizer")) == original
    assert config_for(told(key="module.fitting_loss.data_weight")) == original
    assert config_for(told("epoch", "optimizer", "scheduler", "step")) == copied
    assert config_for(told(), "unihope") == copied
    with pytest.raises(InputError, match="relative to"):
        config_for(told())
    wrong: Callable[..., Any] = config_for
    with pytest.raises(InputError, match="elsewhere"):
        wrong(told(), "elsewhere")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("heads", 3),
        ("input_size", 96),
        ("input_size", 250),
        ("hourglass_depth", 6),
        ("depths", (1, 2, 3)),
        ("block", "dense"),
        ("init", "zeros"),
        ("slope", 1.0),
        ("stem_kernel", 4),
        ("transformer_depth", 0),
    ],
)
def test_bad_configuration(field: str, value: object) -> None:
    with pytest.raises(InputError, match=field):
        dataclasses.replace(HandOccNetConfig(), **{field: value})


def test_wrong_image_size(hand: HandModel) -> None:
    batch = _batch(hand)
    with pytest.raises(InputError, match=r"Batch\.image"):
        HandOccNet(TINY, hand)(dataclasses.replace(batch, image=batch.image[..., :32]))
