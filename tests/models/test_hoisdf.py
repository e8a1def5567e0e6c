"""What golden numbers of HOISDF cannot show: rules, variants, gradients, losses, files."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from handhold.errors import InputError, WeightsError
from handhold.geometry.rotation import axis_angle_to_matrix
from handhold.hand.model import HandModel
from handhold.models.hoisdf import official
from handhold.models.hoisdf.field import (
    PixelTable,
    SDFDecoder,
    WeightNormLinear,
    density,
    read_pixels,
)
from handhold.models.hoisdf.grid import candidates, grid_points, nearest_points
from handhold.models.hoisdf.heads import mean_rotation, query_masks
from handhold.models.hoisdf.inputs import HOISDFBatch
from handhold.models.hoisdf.kinematics import align, pose_from_joints, shortest_rotation
from handhold.models.hoisdf.loss import HOISDFLossConfig, heatmap_target, loss, terms
from handhold.models.hoisdf.model import HOISDF, HOISDFConfig
from handhold.models.nn.detr import Perceptron

DATA = Path(__file__).parents[1] / "golden" / "data"
TINY = HOISDFConfig(
    input_size=64,
    depths=(1, 1, 1, 1),
    widths=(8, 8, 16, 16),
    stem_width=8,
    sdf_features=16,
    sdf_hidden=64,
    sdf_dropout=0.0,
    grid=8,
    hand_points=12,
    object_points=8,
    dim=40,
    heads=2,
    hidden=32,
    dropout=0.0,
    hand_layers=2,
    decoder_layers=2,
    object_layers=2,
    init="kaiming",
)


def _network(config: HOISDFConfig, hand: HandModel, seed: int = 0) -> HOISDF:
    torch.manual_seed(seed)
    return HOISDF(config, hand).eval()


@pytest.fixture(scope="module")
def batch(hand: HandModel) -> HOISDFBatch:
    """Two hands and objects half a metre away, with all targets."""
    draw = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    pose, betas = 0.3 * noise(2, 16, 3), 0.5 * noise(2, 10)
    posed = hand(pose, betas, center=0)
    return HOISDFBatch(
        image=torch.rand(2, 3, 64, 64, generator=draw),
        hand_box=torch.tensor([[8.0, 8, 56, 56], [10, 4, 60, 50]]),
        object_box=torch.tensor([[4.0, 10, 50, 60], [20, 20, 60, 60]]),
        intrinsics=torch.tensor([[100.0, 0, 31.5], [0, 100, 31.5], [0, 0, 1]]).expand(2, 3, 3),
        root=torch.tensor([[0.0, 0, 0.55], [0.02, -0.01, 0.6]]),
        object_center=torch.tensor([[0.03, 0.01, 0.56], [-0.01, 0.02, 0.6]]),
        pose=pose,
        betas=betas,
        joints=posed.joints,
        vertices=posed.vertices,
        joints2d=64 * torch.rand(2, 21, 2, generator=draw),
        hand_sdf_points=0.05 * noise(2, 20, 3),
        hand_sdf=0.03 * noise(2, 20),
        object_sdf_points=0.05 * noise(2, 10, 3),
        object_sdf=0.03 * noise(2, 10),
        hand_query_points=posed.joints[:, 1:13] + 0.01 * noise(2, 12, 3),
        object_query_points=0.04 * noise(2, 8, 3),
        hand_pixels=(torch.rand(2, 32, 32, generator=draw) > 0.5).float(),
        object_pixels=(torch.rand(2, 32, 32, generator=draw) > 0.5).float(),
        object_rotation=noise(2, 3),
        object_translation=0.05 * noise(2, 3),
    )


# ------------------------------------------------------------------------- the grid and the search


def test_both_grids() -> None:
    size = 8
    regular = grid_points(size, "regular", torch.device("cpu"))
    line = np.linspace(-1, 1, size)
    expected = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    np.testing.assert_allclose(regular, expected, atol=1e-6)
    sheared = grid_points(size, "sheared", torch.device("cpu"))
    steps = np.rint((expected + 1) * (size - 1) / 2)  # x, y, z in cells
    y = steps[:, 1] + steps[:, 2] / size
    x = steps[:, 0] + y / size
    wanted = np.stack((x, y, steps[:, 2]), -1) * 2 / (size - 1) - 1
    np.testing.assert_allclose(sheared, wanted, atol=1e-6)
    assert sheared[:, 1].max() > 1
    assert float(grid_points(64, "sheared", torch.device("cpu")).max()) == pytest.approx(
        1 + 2 * (63 / 64 + 63 / 4096) / 63, abs=1e-5
    )


def test_box_is_strict_and_fills_up() -> None:
    pixels = torch.tensor([[1.0, 5], [1.01, 5], [5, 9], [5, 8.99], [5, 12], [0, 5]])
    box = torch.tensor([1.0, 1, 9, 9])
    assert candidates(pixels, box, 1).tolist() == [1, 3]
    # the two on the border, then the one a pixel away
    assert candidates(pixels, box, 4).tolist() == [0, 1, 2, 3]
    assert candidates(pixels, box, 5).tolist() == [0, 1, 2, 3, 5]


class _Plane(SDFDecoder):
    """Distance to the plane z = 0.1, normalised, as the decoder's stand-in."""

    def __init__(self) -> None:
        super().__init__(1, 64, 0.0)

    def forward(self, features: Tensor, points: Tensor) -> Tensor:
        return points[:, 2] - 0.1


@pytest.mark.parametrize("kind", ["sheared", "regular"])
def test_nearest_points_lie_on_the_surface(hand: HandModel, batch: Any, kind: Any) -> None:
    config = dataclasses.replace(TINY, grid=21, grid_kind=kind)
    network = _network(config, hand)
    maps = [torch.zeros(c, 2, 2) for c in network.decoder.channels]
    table = PixelTable(maps, network.sdf_mlp, config.input_size)
    box = torch.tensor([20.0, 20, 45, 45])
    found = nearest_points(config, _Plane(), table, batch.root[0], batch.intrinsics[0], box, 30)
    distances = found["distances"].numpy()
    assert (np.diff(np.abs(distances)) >= 0).all()
    np.testing.assert_allclose(distances, found["points"][:, 2] - 0.1, atol=1e-6)
    # brute force over all points in the box
    grid = grid_points(21, kind, torch.device("cpu")).numpy()
    camera = grid / config.scale + batch.root[0].numpy()
    pixels = 100 * camera[:, :2] / camera[:, 2:] + 31.5
    inside = ((pixels > 20) & (pixels < 45)).all(axis=1)
    assert len(found["all_distances"]) == inside.sum()
    ranked = np.sort(np.abs(grid[inside, 2] - 0.1))
    np.testing.assert_allclose(np.abs(distances), ranked[:30], atol=1e-6)


def test_search_ranks_before_it_clamps(hand: HandModel, batch: Any) -> None:
    """With every distance beyond the clamp the order is still that of the distances."""
    network = _network(TINY, hand)
    with torch.no_grad():
        network.hand_field.out.bias.fill_(1.0)
    free = dataclasses.replace(batch, hand_query_points=None)
    seen: dict[str, Tensor] = {}
    network(free, seen)
    every = seen["hand_grid_0"].abs().sort().values
    assert float(every[0]) > TINY.clamp
    torch.testing.assert_close(
        seen["hand_distances"], torch.full((2, 12), TINY.clamp), rtol=0, atol=0
    )
    # the same distances again, each point read on its own
    given = dataclasses.replace(batch, hand_query_points=seen["hand_points"] / TINY.scale)
    again: dict[str, Tensor] = {}
    network(given, again)
    torch.testing.assert_close(again["hand_queried"][0].abs(), every[:12], atol=1e-5, rtol=0)


def test_table_reads_what_pixels_give() -> None:
    draw = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, c, s, s, generator=draw) for c, s in ((3, 32), (5, 16), (7, 8))]
    mlp = Perceptron((15, 4, 3), last_relu=True)
    pixels = 90 * torch.rand(1, 300, 2, generator=draw) - 13  # also beyond the borders
    expected = mlp(read_pixels(maps, pixels, 64))[0]
    found = PixelTable([m[0] for m in maps], mlp, 64).read(pixels[0])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


# -------------------------------------------------------------------------------- fields, densities


def test_weight_norm_against_pytorchs() -> None:
    torch.manual_seed(0)
    ours, plain = WeightNormLinear(5, 3), nn.Linear(5, 3)
    with torch.no_grad():
        ours.gain.mul_(torch.tensor([[2.0], [0.5], [1.5]]))
        plain.weight.copy_(ours.direction)
        plain.bias.copy_(ours.bias)
    theirs: Any = nn.utils.parametrizations.weight_norm(plain)
    with torch.no_grad():
        theirs.parametrizations.weight.original0.copy_(ours.gain)
    x = torch.randn(4, 5)
    torch.testing.assert_close(ours(x), theirs(x))


def test_sign_of_the_density(hand: HandModel, batch: Any) -> None:
    """The released code is dense outside, the paper inside; at the surface they agree."""
    distances, width = torch.tensor([-0.1, 0.0, 0.1]), torch.tensor([0.05])
    code, paper = density(distances, width, 1), density(distances, width, -1)
    assert code[2] > code[1] > code[0]
    torch.testing.assert_close(paper, code.flip(0))
    assert float(code[1]) == pytest.approx(0.5 / 0.05)
    assert float(paper[0]) == pytest.approx(1 / (1 + math.exp(-2)) / 0.05)
    tokens = {}
    for sign in (1, -1):
        seen: dict[str, Tensor] = {}
        _network(dataclasses.replace(TINY, density_sign=sign), hand)(batch, seen)
        tokens[sign] = seen
    own, other = (tokens[s]["hand_tokens"] for s in (1, -1))
    torch.testing.assert_close(own[..., :33], other[..., :33])
    away = torch.sigmoid(2 * tokens[1]["hand_distances"] / 0.1)[..., None]
    assert bool((away != 0.5).all())
    ratio = torch.sigmoid(tokens[1]["hand_distances"] / 0.1)[..., None]
    expected = own[:, :12, 33:] * (1 - ratio) / ratio
    torch.testing.assert_close(other[:, :12, 33:], expected, atol=1e-5, rtol=1e-4)


def test_each_transformer_takes_its_own_density(hand: HandModel, batch: Any) -> None:
    """Hints of the object's points for the hand ask the hand's field and take the hand's width,
    which never falls below 0.002."""
    network, before = _network(TINY, hand), {}
    network(batch, before)
    with torch.no_grad():
        network.hand_density_width.fill_(0.03)
    after: dict[str, Tensor] = {}
    network(batch, after)
    assert bool((before["hand_tokens"] != after["hand_tokens"])[:, :12, 33:].any())
    assert bool((before["hand_tokens"] != after["hand_tokens"])[:, 12:, 33:].any())
    torch.testing.assert_close(before["object_tokens"], after["object_tokens"], rtol=0, atol=0)
    crossed = after["hand_crossed"].clamp(-0.15, 0.15)
    expected = after["object_features"] * density(crossed, torch.tensor([0.03]), 1)[..., None]
    torch.testing.assert_close(after["hand_tokens"][:, 12:, 33:], expected)
    # positions: the object's points seen from the wrist
    shift = (batch.object_center - batch.root)[:, None]
    torch.testing.assert_close(
        after["hand_tokens"][:, 12:, :3], batch.object_query_points + shift, atol=1e-6, rtol=0
    )
    floors = []
    for value in (0.002, 0.0005):
        with torch.no_grad():
            network.hand_density_width.fill_(value)
        network(batch, seen := {})
        floors.append(seen["hand_tokens"])
    torch.testing.assert_close(floors[0], floors[1], rtol=0, atol=0)
    network.train()(batch)
    assert network.hand_density_width.item() == pytest.approx(0.002)


def test_gradients(hand: HandModel, batch: Any) -> None:
    """The pose stage teaches the fields nothing, hints pass no gradient; else all learn."""
    network = _network(TINY, hand).train()
    prediction = network(batch)
    found = terms(prediction, batch, HOISDFLossConfig())
    (found["vertices"] + found["object_rotation"]).backward(retain_graph=True)
    assert all(p.grad is None for p in network.hand_field.parameters())
    assert network.hand_density_width.grad is not None
    network.zero_grad()
    loss(prediction, batch)["total"].backward()
    for name, parameter in network.named_parameters():
        if name.startswith(network.parameters_without_gradient()) or not parameter.requires_grad:
            assert parameter.grad is None or not parameter.grad.any(), name
        else:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
    frozen = {n for n, p in network.named_parameters() if not p.requires_grad}
    assert "backbone.stage2.0.norm1.weight" in frozen
    assert not any("shortcut" in n or not n.startswith("backbone.") for n in frozen)


# ---------------------------------------------------------------------------------------- the heads


def test_masks() -> None:
    own, memory = query_masks(TINY)
    assert (~own[0]).nonzero()[:, 0].tolist() == [0]
    assert (~own[5]).nonzero()[:, 0].tolist() == [4, 5, 6]
    assert (~own[15]).nonzero()[:, 0].tolist() == [13, 14, 15]
    assert (~own[16]).nonzero()[:, 0].tolist() == [16]
    assert not memory[:, :12].any()
    assert bool(memory[:, 12:].all())
    own, memory = query_masks(dataclasses.replace(TINY, hand_head="kinematics"))
    assert own.tolist() == [[False]]


def test_mean_of_rotations_near_a_half_turn() -> None:
    """Axis-angles pi - e and -(pi - e) are nearly the same rotation; their mean vector is none."""
    near = math.pi - 0.05
    vectors = torch.tensor([[[0.0, 0, near], [0, 0, -near]]])
    half = torch.diag(torch.tensor([-1.0, -1, 1]))
    torch.testing.assert_close(mean_rotation(vectors)[0], half, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        axis_angle_to_matrix(vectors.mean(dim=1))[0], torch.eye(3), atol=1e-6, rtol=0
    )


def test_rotation_mean_of_the_network(hand: HandModel, batch: Any) -> None:
    plain = _network(TINY, hand)(batch).features
    sound = _network(dataclasses.replace(TINY, rotation_mean="matrices"), hand)(batch).features
    vectors = plain["point_rotations"][:, -1]
    expected = axis_angle_to_matrix(vectors.mean(dim=1))
    torch.testing.assert_close(plain["object_rotation"], expected)
    torch.testing.assert_close(sound["object_rotation"], mean_rotation(vectors))
    moved = plain["point_translations"][:, -1].mean(dim=1) + batch.object_center
    torch.testing.assert_close(plain["object_translation"], moved)


def test_kinematics_finds_the_pose_of_joints(hand: HandModel) -> None:
    """The joints of any pose come back: bones keep their lengths, twist moves no joint."""
    draw = torch.Generator().manual_seed(1)
    pose, betas = 0.4 * torch.randn(3, 16, 3, generator=draw), torch.randn(3, 10, generator=draw)
    given = hand(pose, betas, center=0)
    rest = hand(torch.zeros(16, 3), betas, center=0).joints
    rotations = pose_from_joints(given.joints[:, 1:], rest)
    found = hand(rotations, betas, rotation_type="matrix", center=0)
    torch.testing.assert_close(found.joints16, given.joints16, atol=1e-5, rtol=0)
    torch.testing.assert_close(rotations[:, 0], axis_angle_to_matrix(pose[:, 0]), atol=1e-4, rtol=0)


def test_kinematics_of_a_mirrored_hand() -> None:
    source = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    mirrored = source * torch.tensor([-1.0, 1, 1])
    torch.testing.assert_close(align(source, mirrored, "identity"), torch.eye(3))
    proper = align(source, mirrored, "rotation")
    assert float(torch.linalg.det(proper)) == pytest.approx(1, abs=1e-5)
    assert not torch.allclose(proper, torch.eye(3), atol=1e-3)
    turn = shortest_rotation(torch.tensor([2.0, 0, 0]), torch.tensor([0.0, 0, 3]))
    torch.testing.assert_close(turn @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 1]))


def test_kinematics_head(hand: HandModel, batch: Any) -> None:
    config = dataclasses.replace(TINY, hand_head="kinematics")
    network = _network(config, hand)
    assert network.hand_head.queries.weight.shape == (1, 40)
    prediction = network(batch)
    rest = hand(torch.zeros(16, 3), prediction.betas, center=0).joints
    expected = pose_from_joints(prediction.features["voted_joints"], rest)
    torch.testing.assert_close(prediction.rotations, expected, atol=1e-5, rtol=0)
    found = loss(prediction, batch, HOISDFLossConfig.kinematics())
    assert "rotations" not in found
    assert "shape_prior" in found
    found["total"].backward()


# --------------------------------------------------------------------------------------- the losses


def test_perfect_prediction_costs_nothing(hand: HandModel, batch: Any) -> None:
    prediction = _network(TINY, hand)(batch)
    rotations = axis_angle_to_matrix(batch.pose)
    joints = (batch.joints - batch.joints[:, :1])[:, 1:]
    points = prediction.features["query_points"]
    many = {
        "hand_sdf": batch.hand_sdf,
        "object_sdf": batch.object_sdf,
        "hand_pixels": 200 * batch.hand_pixels - 100,
        "object_pixels": 200 * batch.object_pixels - 100,
        "heatmap": heatmap_target(batch.joints2d / 2, torch.ones(2, 21), 32),
        "vote_offsets": (joints[:, None] - points[:, :, None])[:, None],
        "layer_voted_joints": joints[:, None],
        "layer_vertices": (batch.vertices - batch.joints[:, :1])[:, None],
        "layer_joints": (batch.joints - batch.joints[:, :1])[:, None],
        "layer_rotations": rotations[:, None],
        "layer_betas": batch.betas[:, None],
        "point_rotations": batch.object_rotation[:, None, None],
        "point_translations": batch.object_translation[:, None, None],
    }
    near = (many["vote_offsets"].norm(dim=-1) < 0.04).float()
    assert 0 < float(near.mean()) < 1
    many["vote_logits"] = 200 * near - 100
    perfect = dataclasses.replace(prediction, features=prediction.features | many)
    found = terms(perfect, batch, HOISDFLossConfig())
    assert len(found) == 15
    for name, value in found.items():
        assert name == "shape_prior" or float(value) < 1e-5, name


def test_terms_by_hand(hand: HandModel, batch: Any) -> None:
    prediction = _network(TINY, hand)(batch)
    features = dict(prediction.features)
    config = HOISDFLossConfig()
    # distances: 30 mm and 100 mm (clamped to 0.15 / 3.1) against 0
    features["hand_sdf"] = torch.tensor([[0.03], [0.1]])
    # one layer, two points, all offsets 0: votes are where the points are
    joints = torch.zeros(2, 21, 3)
    joints[:, 1:] += torch.tensor([1.0, 0, 0])
    joints[:, 7] = torch.tensor([0.03, 0.0, 0.0])  # 30 mm from the points
    features["query_points"] = torch.zeros(2, 2, 3)
    features["vote_offsets"] = torch.zeros(2, 1, 2, 20, 3)
    features["vote_logits"] = torch.zeros(2, 1, 2, 20)
    features["layer_voted_joints"] = joints[:, None, 1:] + torch.tensor([0.0, 0.002, 0.0])
    labels = dataclasses.replace(
        batch, hand_sdf=torch.zeros(2, 1), vote_joints=joints, has_pose=torch.tensor([True, True])
    )
    found = terms(dataclasses.replace(prediction, features=features), labels, config)
    assert float(found["hand_sdf"]) == pytest.approx((0.093 + 0.15) / 2, rel=1e-5)
    assert float(found["votes"]) == pytest.approx((30 - 0.5) / 3, rel=1e-5)
    assert float(found["vote_class"]) == pytest.approx(math.log(2), rel=1e-5)
    assert float(found["voted_joints"]) == pytest.approx((2 - 0.5) / 3, rel=1e-4)
    nobody = dataclasses.replace(labels, vote_joints=joints + 2)
    assert (
        float(terms(dataclasses.replace(prediction, features=features), nobody, config)["votes"])
        == 0
    )
    bells = heatmap_target(torch.tensor([[[3.0, 5], [3, 5]]]), torch.tensor([[True, True]]), 8)
    assert float(bells[0, 5, 3]) == pytest.approx(510)
    assert float(bells[0, 5, 4]) == pytest.approx(510 * math.exp(-1 / (2 * 1.25**2)))


def test_unlabelled_samples_take_no_part(hand: HandModel, batch: Any) -> None:
    prediction = _network(TINY, hand)(batch)
    known = torch.tensor([True, False])
    partly = dataclasses.replace(
        batch,
        has_pose=known,
        has_object=known,
        has_pixels=known,
        joints2d_valid=known[:, None].expand(2, 21),
    )
    found = loss(prediction, partly)
    spoilt = {
        name: torch.cat((getattr(batch, name)[:1], getattr(batch, name)[1:] + 7))
        for name in (
            *("pose", "betas", "joints2d", "hand_sdf", "object_sdf", "object_rotation"),
            *("object_translation", "vertices", "hand_pixels"),
        )
    }
    for name, value in loss(prediction, dataclasses.replace(partly, **spoilt)).items():
        torch.testing.assert_close(value, found[name], msg=name)
    first = loss(prediction.map(lambda t: t[:1]), batch.map(lambda t: t[:1]))
    for name, value in first.items():
        torch.testing.assert_close(value, found[name], msg=name, rtol=1e-4, atol=1e-5)
    bare = dataclasses.replace(
        batch, hand_sdf=None, object_sdf=None, joints2d=None, object_rotation=None, hand_pixels=None
    )
    assert not {"hand_sdf", "heatmap", "object_rotation", "hand_pixels"} & set(
        loss(prediction, bare)
    )


# ---------------------------------------------------------------------- errors, files, predictions


def test_prediction_is_in_the_crop(hand: HandModel, batch: Any) -> None:
    prediction = _network(TINY, hand)(batch)
    # the hand stands where its joints have the votes' mean
    voted = prediction.features["voted_joints"]
    place = batch.root[:, None] + voted.mean(1, keepdim=True)
    camera = prediction.joints - prediction.joints[:, 1:].mean(1, keepdim=True) + place
    expected = 100 * camera[..., :2] / camera[..., 2:] + 31.5
    torch.testing.assert_close(prediction.joints2d, expected)
    assert not prediction.joints[:, 0].any()
    posed = hand(prediction.rotations, prediction.betas, rotation_type="matrix", center=0)
    torch.testing.assert_close(posed.vertices, prediction.vertices)


@pytest.mark.parametrize("missing", ["intrinsics", "root", "object_center"])
def test_what_is_missing_is_named(hand: HandModel, batch: Any, missing: str) -> None:
    network = _network(TINY, hand)
    with pytest.raises(InputError, match=missing):
        network(dataclasses.replace(batch, **{missing: None}))
    with pytest.raises(InputError, match="image"):
        network(dataclasses.replace(batch, image=batch.image[..., :32]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("input_size", 100), ("decoder", "huge"), ("density_sign", 0), ("dim", 30)),
        *(("sdf_hidden", 40), ("grid", 2), ("depths", (1, 2)), ("dropout", 1.5), ("heads", 3)),
        *(("rotation_mean", "median"), ("hand_points", 0)),
    ],
)
def test_bad_configuration(field: str, value: object) -> None:
    with pytest.raises(InputError, match="dim" if field == "heads" else field):
        dataclasses.replace(TINY, **{field: value})


def _keys(name: str) -> dict[str, tuple[int, ...]]:
    told = json.loads((DATA / f"{name}.json").read_text())["state_dict"]
    return {key: tuple(shape) for key, shape in told.items()}


@pytest.mark.parametrize("name", ["hoisdf", "hoisdf_ho3d"])
def test_keys_map_one_to_one(hand: HandModel, name: str) -> None:
    shapes = _keys(name)
    entries = {k: torch.zeros(s, device="meta") for k, s in shapes.items()}
    config = official.config_for(entries)
    assert config.decoder == ("big" if name == "hoisdf_ho3d" else "small")
    with torch.device("meta"):
        own = HOISDF(config, hand).state_dict()
    converted = official.convert(entries)
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in own.items()}
    assert len(converted) == len([k for k in shapes if not k.startswith("mano_head.")])


def test_authors_file(hand: HandModel, tmp_path: Path) -> None:
    """Wrapper, prefix, hand model's arrays; every number ends where it belongs."""
    shapes = _keys("hoisdf")
    # one stored number a key keeps the file small
    values = {
        f"module.{key}": torch.tensor(1 + index / 1024).expand(shape)
        for index, (key, shape) in enumerate(shapes.items())
    }
    path = tmp_path / "snapshot_69.pth.tar"
    torch.save({"epoch": 69, "network": values, "optimizer": {}, "lr_scheduler": {}}, path)
    network = official.load_official(path, hand=hand)
    state = network.state_dict()
    for ours, theirs in (
        ("hand_field.hidden.2.gain", "hand_sdf_decoder.linh2.weight_g"),
        ("object_head.encoder.norm.weight", "obj_transformer.encoder.inter_norm.weight"),
        ("decoder.up.8.0.weight", "decoder_net.resnet_decoder.deconv2.0.weight"),
        ("backbone.stage3.0.shortcut.0.weight", "backbone_net.resnet.layer3.0.downsample.0.weight"),
        (
            "hand_head.decoder.layers.3.cross_attention.out_proj.bias",
            "hand_transformer.decoder.layers.3.multihead_attn.out_proj.bias",
        ),
    ):
        assert float(state[ours].flatten()[0]) == float(values[f"module.{theirs}"].flatten()[0])
    assert not [key for key in state if "th_" in key or "mano" in key]

    del values["module.linear_shape.layers.1.bias"]
    values["module.surprise"] = torch.zeros(1)
    with pytest.raises(WeightsError, match="surprise"):
        official.convert(values)
    del values["module.surprise"]
    torch.save({"network": values}, path)
    with pytest.raises(WeightsError, match=r"hand_head\.shape\.layers\.1\.bias"):
        official.load_official(path, hand=hand)


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def test_file_with_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.pth"
    torch.save({"network": {"module.norm1.weight": _Code()}}, path)
    with pytest.raises(WeightsError, match="code"):
        official.load_official(path)
    assert not capsys.readouterr().out


def test_foreign_queries_are_named() -> None:
    with pytest.raises(WeightsError, match="queries"):
        official.config_for({"mano_query_embed.weight": torch.zeros(36, 256)})
    one = {"mano_query_embed.weight": torch.zeros(1, 256)}
    assert official.config_for(one).hand_head == "kinematics"


def test_sound_configuration_differs() -> None:
    sound = HOISDFConfig.sound()
    assert (sound.grid_kind, sound.density_sign, sound.rotation_mean) == ("regular", -1, "matrices")
    assert HOISDFConfig.ho3d().decoder == "big"
