"""What golden numbers of Keypoint Transformer cannot show: rules, variants, gradients."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from tests.models.keypoint_batch import TINIES, TINY, labels_from, tiny_network
from torch import Tensor

from handhold.errors import InputError
from handhold.hand.convention import reorder
from handhold.hand.model import HandModel
from handhold.models.keypoint_transformer.batch import ORDER, KeypointBatch
from handhold.models.keypoint_transformer.keypoints import greedy_peaks, labelled_object
from handhold.models.keypoint_transformer.loss import (
    loss,
)
from handhold.models.keypoint_transformer.readout import joints_from_vectors, query_mask
from handhold.scene import Batch


@pytest.fixture
def make_labels(make_batch: Callable[..., Batch]) -> Callable[..., KeypointBatch]:
    return labels_from(make_batch)


def _peaks_twin(image: np.ndarray, threshold: float, radius: float) -> list[tuple[int, int]]:
    """Pixel by pixel: the first highest one, then away with its disc."""
    left = {
        (y, x): float(v) for (y, x), v in np.ndenumerate(image) if v > threshold
    }  # raster order
    found: list[tuple[int, int]] = []
    while left:
        y, x = max(left, key=lambda place: left[place])  # the first of equals
        found.append((x, y))
        left = {p: v for p, v in left.items() if (p[0] - y) ** 2 + (p[1] - x) ** 2 > radius**2}
    return found


@pytest.mark.parametrize("radius", [1.0, 2.5, 5.0])
def test_peaks_against_a_plain_search(radius: float) -> None:
    draw = np.random.default_rng(3)
    smooth = draw.normal(size=(3, 20, 31)).cumsum(1).cumsum(2).astype(np.float32)
    smooth[1] = np.round(smooth[1])  # with ties
    limits = np.quantile(smooth, 0.5, axis=(1, 2)).astype(np.float32)
    limits[2] = smooth[2].max()  # nothing is higher than the highest
    maps, threshold = torch.from_numpy(smooth), torch.from_numpy(limits)
    twins = [_peaks_twin(m, t, radius) for m, t in zip(smooth, limits, strict=True)]
    assert len(twins[0]) > 3
    assert not twins[2]
    for rounds in (None, 3, 200):
        xy, found = greedy_peaks(maps, threshold, radius, rounds)
        for sample, twin in enumerate(twins):
            ours = [tuple(map(int, p)) for p in xy[sample][found[sample]].tolist()]
            assert ours == twin[:rounds]
            assert not xy[sample][~found[sample]].any()


def test_exported_peaks_are_the_same() -> None:
    """In OpenVINO, where the highest value and its place are sought apart: ties, a flat map, one
    with nothing above the threshold, one that the discs use up, infinities."""
    draw = np.random.default_rng(4)
    maps = torch.from_numpy(draw.normal(size=(5, 18, 21)).cumsum(1).cumsum(2)).float()
    maps[0] = maps[0].round()
    maps[1] = 30.0
    maps[3] = torch.where(maps[3] > maps[3].quantile(0.97), maps[3], -math.inf)
    maps[4, 5, 6] = maps[4, 12, 3] = math.inf
    threshold = torch.tensor([1.0, 20.0, 1e6, -1e6, 0.0])

    class Search(torch.nn.Module):
        def forward(self, maps: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
            return greedy_peaks(maps, threshold, 5.0, 14)

    traced = torch.export.export(Search(), (maps, threshold))
    program = torch.onnx.export(traced, dynamo=True, verbose=False, optimize=False)
    assert program is not None
    file = io.BytesIO(program.model_proto.SerializeToString())
    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    search = core.compile_model(core.read_model(file), "CPU", exact)
    found = search([maps.numpy(), threshold.numpy()]).values()
    expected = greedy_peaks(maps, threshold, 5.0, 14)
    assert expected[1].any(dim=1).tolist() == [True, True, False, True, True]
    assert not expected[1][3].all()
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs.numpy())


def test_a_mask_keeps_its_last_points_last_first() -> None:
    mask = torch.zeros(2, 30, 30)
    mask[0, 3:27, 5:29] = 1.0
    mask[1, 10, 10] = 1.0
    twin = _peaks_twin(mask[0].numpy(), 0.0, 5.0)
    assert len(twin) > 8
    slots = labelled_object(mask, 5.0, 8, 43)
    assert [tuple(map(int, p)) for p in slots.xy[0].tolist()] == twin[: -len(twin) - 1 : -1][:8]
    assert slots.found[1].tolist() == [True] + 7 * [False]
    assert slots.label[1].tolist() == [43] + 7 * [0]
    assert slots.xy[1, 0].tolist() == [10, 10]
    nothing = labelled_object(torch.zeros(1, 30, 30), 5.0, 8, 43)
    assert not nothing.found.any()
    assert nothing.xy.shape == (1, 8, 2)


def test_no_key_point_at_all(hand: HandModel, make_labels: Callable[..., KeypointBatch]) -> None:
    """Then the padding is looked at, and only the maps are supervised."""
    network, batch = tiny_network(TINY, hand).eval(), make_labels(TINY)
    with torch.no_grad():
        for head in network.decoder.heads.values():
            head[-1].weight.zero_()
            head[-1].bias.zero_()
        prediction = network(batch)
    assert not prediction.features["tokens_found"].any()
    assert prediction.joints.isfinite().all()
    terms = loss(prediction, batch)
    silent = {name for name, value in terms.items() if float(value) == 0}
    assert set(terms) - silent == {"heatmap", "object_map", "total"}


def test_labels_are_the_key_points_while_training(
    hand: HandModel, make_labels: Callable[..., KeypointBatch]
) -> None:
    network, batch = tiny_network(TINY, hand).train(), make_labels(TINY)
    assert batch.joints2d is not None
    valid = torch.ones(2, 21, dtype=torch.bool)
    valid[0, 7] = False
    batch = dataclasses.replace(batch, joints2d_valid=valid)
    features = network(batch).features
    last = TINY.classes - 1
    expected = reorder(batch.joints2d, "canonical", ORDER) / 2
    torch.testing.assert_close(features["tokens_xy"][1, :21], expected[1])
    assert features["tokens_label"][1, :21].tolist() == list(range(1, 22))
    assert int((features["tokens_label"][0] != last).logical_and(
        features["tokens_found"][0]).sum()) == 20  # fmt: skip
    things = features["tokens_label"][1] == last
    x, y = features["tokens_xy"][1][things].long().T
    assert len(x) >= 2
    assert batch.object_map is not None
    assert batch.object_map[1, y, x].all()

    predicted = network.eval()(batch).features
    assert not torch.equal(predicted["tokens_xy"], features["tokens_xy"])
    torch.testing.assert_close(
        network(batch, labelled=True).features["tokens_xy"], features["tokens_xy"]
    )
    network.train().labelled_keypoints = False
    assert int(network(batch).features["tokens_label"].max()) in (0, 1, last)
    bare = dataclasses.replace(batch, joints2d=None)
    with pytest.raises(InputError, match="joints2d"):
        network(bare, labelled=True)


def test_object_rotation_sees_the_object_only(
    hand: HandModel, make_labels: Callable[..., KeypointBatch]
) -> None:
    network, batch = tiny_network(TINY, hand).eval(), make_labels(TINY)
    assert batch.object_map is not None
    only_first = batch.object_map * torch.tensor([1.0, 0])[:, None, None]
    batch = dataclasses.replace(batch, object_map=only_first)
    found: dict[str, Tensor] = {}
    network(batch, found, labelled=True)
    row = found["attention_last"][:, TINY.rows["object_rotation"]]
    thing = found["label"] == TINY.classes - 1
    assert not row[0][~thing[0]].any()
    torch.testing.assert_close(row[0][thing[0]].sum(), torch.tensor(1.0))
    hands = found["found"][1]
    torch.testing.assert_close(row[1][hands].sum(), torch.tensor(1.0))  # no object: all tokens


def test_object_rotation_variants(
    hand: HandModel, make_labels: Callable[..., KeypointBatch]
) -> None:
    """The original's matrix is a rotation only of perpendicular vectors; ours always."""
    batch = make_labels(TINY)
    found = {}
    for kind in ("official", "orthonormal"):
        network = tiny_network(dataclasses.replace(TINY, object_rotation=kind), hand).eval()
        found[kind] = network(batch, labelled=True).features["object_rotation"]
        right = torch.tensor([[2.0, 0, 0, 0, 0.5, 0]])
        torch.testing.assert_close(network.object_matrix(right), torch.eye(3)[None])
    gram = {kind: value.mT @ value for kind, value in found.items()}
    torch.testing.assert_close(gram["orthonormal"], torch.eye(3).expand(2, 3, 3))
    away = (gram["official"] - torch.eye(3)).abs().amax(dim=(1, 2))
    assert (away > 0.01).all()
    # first column the same; the others the same directions, too short by the sine of the angle
    official, sound = found["official"], found["orthonormal"]
    torch.testing.assert_close(official[..., 0], sound[..., 0])
    shrink = official[..., 1:].norm(dim=1)
    torch.testing.assert_close(shrink[:, 0], shrink[:, 1])
    assert (shrink < 1).all()
    torch.testing.assert_close(official[..., 1:] / shrink[:, None], sound[..., 1:])


def test_mean_pose_variants(hand: HandModel, make_labels: Callable[..., KeypointBatch]) -> None:
    """With `flat` the hand that costs no pose error is the labelled hand. As released, it is not:
    the mean pose of the hand model comes on top of it."""
    arrays = dataclasses.replace(hand.arrays, hands_mean=np.full(45, 0.1, np.float32))
    bent = HandModel(arrays, side="right", tips=tuple(hand.tips.tolist()))
    for flat in (False, True):
        config = dataclasses.replace(TINY, flat=flat)
        network, batch = tiny_network(config, bent).eval(), make_labels(TINY)
        assert batch.pose is not None
        assert batch.betas is not None
        pose, betas = batch.pose, batch.betas
        heads = {
            "hand_angles": pose[:, None],
            "shapes": betas[:, None],
            "cameras": torch.ones(2, 1, 3),
            "object_sixd": torch.ones(2, 1, 6),
            "object_translations": torch.zeros(2, 1, 3),
        }
        prediction = network._prediction(batch, heads)
        labelled = bent(pose, betas)
        assert torch.allclose(prediction.joints, labelled.joints, atol=1e-6) is flat
        assert prediction.rotations is not None
        again = bent(prediction.rotations, betas, rotation_type="matrix")
        torch.testing.assert_close(again.joints, prediction.joints)


def test_queries_of_one_hand_or_two(hand: HandModel) -> None:
    sizes = {"angles": (36, 44), "vectors": (43, 44), "one hand": (20, 23)}
    sizes["one hand, vectors"] = (23, 23)
    for name, config in TINIES.items():
        assert (config.rows["all"], config.classes) == sizes[name]
        mask = query_mask(config)
        assert not mask.diagonal().any()
        assert not mask[config.rows["object_rotation"] :].any()
        if config.output == "angles":
            assert mask[0, :20].tolist() == [False] + 19 * [True] if config.two_hands else True
            assert (~mask[2, :16]).nonzero().flatten().tolist() == [1, 2, 3]
        else:
            assert (~mask[2]).nonzero().flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", TINIES)
def test_learns_and_reaches_every_weight(
    name: str, hand: HandModel, make_labels: Callable[..., KeypointBatch]
) -> None:
    config = TINIES[name]
    network, batch = tiny_network(config, hand).train(), make_labels(config)
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 2e-3)
    totals: list[float] = []
    for _ in range(12):
        optimiser.zero_grad()
        total = loss(network(batch), batch)["total"]
        total.backward()
        optimiser.step()
        totals.append(float(total.detach()))
    assert all(math.isfinite(t) for t in totals)
    assert totals[-1] < 0.9 * totals[0]
    # heads that only the original's terms of weight 0 (or of the left hand) would train
    idle = ("between_head.", "corner_head.", "hand_type.")
    if config.output == "vectors":
        idle = (*idle, "shape_head.")
    for key, parameter in network.named_parameters():
        if key.startswith(idle):
            assert parameter.grad is None or not parameter.grad.any(), key
        elif parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.any() or "in_proj_bias" in key, key
    frozen = [k for k, p in network.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(k.startswith("backbone.") and "norm" in k for k in frozen)
    assert not any("shortcut" in k for k in frozen)


def test_prediction_is_the_last_layer(
    hand: HandModel, make_labels: Callable[..., KeypointBatch]
) -> None:
    network, batch = tiny_network(TINY, hand).eval(), make_labels(TINY)
    with torch.no_grad():
        full = network(batch)
        bare = network(dataclasses.replace(batch, pose=None))
    assert full.features["layer_joints"].shape == (2, 2, 21, 3)
    assert bare.features["layer_joints"].shape == (2, 1, 21, 3)
    torch.testing.assert_close(full.joints, bare.joints)
    torch.testing.assert_close(full.joints, full.features["layer_joints"][:, -1])
    camera = full.features["cameras"][:, -1, None]
    seen = 2 * (camera[..., :1] * full.joints[..., :2] + camera[..., 1:])
    torch.testing.assert_close(full.joints2d, seen)
    # without labels only the last layer's heads are read
    for key in ("hand_angles", "shapes", "cameras", "object_sixd", "token_logits"):
        torch.testing.assert_close(bare.features[key], full.features[key][:, -1:])
    with pytest.raises(InputError, match=r"Batch\.image"):
        network(dataclasses.replace(batch, image=batch.image[..., :32]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input_size", 100),
        ("depths", (1, 2, 3)),
        ("appearance", (0,)),
        ("decoder", "huge"),
        ("output", "meshes"),
        ("object_rotation", "quaternion"),
        ("heads", 3),
        ("code_width", 30),
        ("decoder_layers", 0),
        ("object_levels", 6),
        ("dropout", 1.0),
        ("count", 20),
    ],
)
def test_wrong_settings(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=field):
        dataclasses.replace(TINY, **{field: value})


def test_vectors_chain_from_the_wrist() -> None:
    draw = torch.Generator().manual_seed(0)
    joints = torch.randn(2, 21, 3, generator=draw)
    joints[:, 0] = 0
    theirs = reorder(joints, "canonical", ORDER)
    parent = [20 if k % 4 == 3 else k + 1 for k in range(20)]
    torch.testing.assert_close(joints_from_vectors(theirs[:, :20] - theirs[:, parent]), joints)
