"""What golden numbers of Keypoint Transformer cannot show: rules, gradients, losses, files."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from handhold.errors import InputError, WeightsError
from handhold.hand.convention import reorder
from handhold.hand.model import HandModel
from handhold.models.keypoint_transformer import official
from handhold.models.keypoint_transformer.batch import ORDER, KeypointBatch
from handhold.models.keypoint_transformer.keypoints import greedy_peaks, labelled_object
from handhold.models.keypoint_transformer.loss import (
    KeypointTransformerLossConfig,
    fit_camera,
    heat_target,
    loss,
)
from handhold.models.keypoint_transformer.model import (
    KeypointTransformer,
    KeypointTransformerConfig,
)
from handhold.models.keypoint_transformer.readout import joints_from_vectors, query_mask
from handhold.scene import Batch, Prediction

DATA = Path(__file__).parents[1] / "golden" / "data"
TINY = KeypointTransformerConfig(
    input_size=64,
    depths=(1, 1, 1, 1),
    widths=(8, 8, 16, 16),
    stem_width=8,
    pyramid_width=8,
    dim=32,
    heads=4,
    feedforward=64,
    encoder_layers=2,
    decoder_layers=2,
    dropout=0.0,
    code_width=8,
    appearance=(32,),
    object_appearance=(32,),
    count=25,
)
VECTORS = dataclasses.replace(TINY, output="vectors", decoder="big")
TINIES = {
    "angles": TINY,
    "vectors": VECTORS,
    "one hand": dataclasses.replace(TINY, two_hands=False),
    "one hand, vectors": dataclasses.replace(VECTORS, two_hands=False),
}


@dataclasses.dataclass(frozen=True)
class _Like:
    """What `make_batch` looks at."""

    input_size: int
    mano_center: int | None
    object_classes: int = 0


@pytest.fixture
def make_labels(make_batch: Callable[..., Batch]) -> Callable[..., KeypointBatch]:
    """make_labels(config, count): all labels, a disc for the object, objects 3 and 10."""

    def make(config: KeypointTransformerConfig, count: int = 2) -> KeypointBatch:
        plain = make_batch(_Like(config.input_size, config.mano_center), count)
        draw = torch.Generator().manual_seed(1)
        line = torch.arange(config.map_size)
        disc = ((line[:, None] - 20) ** 2 + (line - 12) ** 2 <= 36).float()
        sign = torch.tensor([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1.0, 1)])
        turn = torch.linalg.qr(torch.randn(count, 3, 3, generator=draw)).Q
        turn = turn * torch.linalg.det(turn)[:, None, None]
        return KeypointBatch(
            **{f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)},
            object_map=disc.expand(count, -1, -1),
            object_rotation=turn,
            object_translation=0.1 * torch.randn(count, 3, generator=draw),
            object_corners=(sign * torch.tensor([0.05, 0.08, 0.1])).expand(count, 8, 3),
            object_corners2d=config.input_size * torch.rand(count, 8, 2, generator=draw),
            object_number=torch.where(torch.arange(count) % 2 == 0, 3, 10),
        )

    return make


def _network(config: KeypointTransformerConfig, hand: HandModel) -> KeypointTransformer:
    torch.manual_seed(0)
    return KeypointTransformer(config, hand)


# ----------------------------------------------------------------------------------- key points


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
    network, batch = _network(TINY, hand).eval(), make_labels(TINY)
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
    network, batch = _network(TINY, hand).train(), make_labels(TINY)
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
    network, batch = _network(TINY, hand).eval(), make_labels(TINY)
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


# ----------------------------------------------------------------- where code and paper differ


def test_object_rotation_variants(
    hand: HandModel, make_labels: Callable[..., KeypointBatch]
) -> None:
    """The original's matrix is a rotation only of perpendicular vectors; ours always."""
    batch = make_labels(TINY)
    found = {}
    for kind in ("official", "orthonormal"):
        network = _network(dataclasses.replace(TINY, object_rotation=kind), hand).eval()
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
        network, batch = _network(config, bent).eval(), make_labels(TINY)
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


# ------------------------------------------------------------------------------- whole network


@pytest.mark.parametrize("name", TINIES)
def test_learns_and_reaches_every_weight(
    name: str, hand: HandModel, make_labels: Callable[..., KeypointBatch]
) -> None:
    config = TINIES[name]
    network, batch = _network(config, hand).train(), make_labels(config)
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
    network, batch = _network(TINY, hand).eval(), make_labels(TINY)
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


# ---------------------------------------------------------------------------------------- loss


def _perfect(config: KeypointTransformerConfig, batch: KeypointBatch) -> Prediction:
    """What the labels say, in one decoder and one encoder layer; maps and classes as labelled."""
    assert batch.joints is not None
    assert batch.joints2d is not None
    assert batch.pose is not None
    assert batch.betas is not None
    assert batch.object_map is not None
    assert batch.object_rotation is not None
    assert batch.object_translation is not None
    size, joints2d = len(batch), reorder(batch.joints2d, "canonical", ORDER) / 2
    joints = reorder(batch.joints, "canonical", ORDER)
    valid = torch.ones(size, 21, dtype=torch.bool)
    scale, shift = fit_camera(joints, joints2d, valid, 1e-4)
    logits = torch.full((size, 1, 21, config.classes), -50.0)
    logits[:, 0, torch.arange(21), torch.arange(1, 22)] = 50.0
    features = {
        "heatmap": heat_target(joints2d, valid, config.map_size, 1.25),
        "object_map": 255 * batch.object_map,
        "tokens_xy": joints2d,
        "tokens_found": valid,
        "tokens_label": torch.arange(1, 22).expand(size, 21),
        "token_logits": logits,
        "shapes": batch.betas[:, None],
        "cameras": torch.cat((scale, shift), dim=1)[:, None],
        "layer_joints": batch.joints[:, None],
        "object_rotations": batch.object_rotation[:, None],
        "object_translations": batch.object_translation[:, None],
        "object_corners2d": torch.zeros(size, 1, 8, 2),
        "hand_type_logits": torch.tensor([50.0, -50.0]).expand(size, 2),
    }
    if config.output == "angles":
        features["hand_angles"] = batch.pose[:, None]
    else:
        parent = [20 if k % 4 == 3 else k + 1 for k in range(20)]
        features["hand_vectors"] = (joints[:, :20] - joints[:, parent])[:, None]
    return Prediction(joints=batch.joints, features=features)


def _with(prediction: Prediction, **features: Tensor) -> Prediction:
    return dataclasses.replace(prediction, features=prediction.features | features)


@pytest.mark.parametrize("config", [TINY, VECTORS], ids=["angles", "vectors"])
def test_perfect_prediction_costs_nothing_but_the_flat_view(
    config: KeypointTransformerConfig, make_labels: Callable[..., KeypointBatch]
) -> None:
    batch = make_labels(config)
    # joints far from each other, so that each token has one name
    place = torch.arange(21.0)
    spread = torch.stack((4 + 12 * (place % 5), 6 + 12 * torch.floor(place / 5)), dim=-1)
    batch = dataclasses.replace(batch, joints2d=spread.expand(2, 21, 2))
    perfect = _perfect(config, batch)
    terms = loss(perfect, batch)
    weights = KeypointTransformerLossConfig()
    assert set(terms) - {"total"} <= {f.name for f in dataclasses.fields(weights)}
    assert {n for n, v in terms.items() if v > 1e-4} == {"joints2d", "total"}
    torch.testing.assert_close(terms["total"], terms["joints2d"])


def test_hand_terms_by_hand(make_labels: Callable[..., KeypointBatch]) -> None:
    """Errors put in by hand, weights 1."""
    unit = KeypointTransformerLossConfig(
        joints=1, pose=1, shape=1, camera_scale=1, camera_shift=1, heatmap=1, object_map=1,
        hand_type=1,
    )  # fmt: skip
    batch = make_labels(TINY)
    perfect = _perfect(TINY, batch)
    before, features = loss(perfect, batch, unit), perfect.features
    moved = features["layer_joints"].clone()
    moved[0, 0, 5:7] += 0.01  # two joints, 10 mm on three axes
    moved[1] += 1.0  # the whole hand: not seen from its wrist
    changed = _with(
        perfect,
        layer_joints=moved,
        hand_angles=features["hand_angles"] + 0.2 * torch.tensor([1.0, 0])[:, None, None, None],
        shapes=features["shapes"] + 0.3,
        cameras=features["cameras"] + torch.tensor([2.0, 1.0, -3.0]),
        heatmap=features["heatmap"] + 3.0,
        object_map=features["object_map"] - 2.0,
        hand_type_logits=torch.zeros(2, 2),
    )
    terms = loss(changed, batch, unit)
    expected = {
        "joints": 2 * 10.0 / 42 / 2,
        "pose": 48 * 0.2 / 32 / 2,
        "shape": 0.3,
        "camera_scale": 2.0,
        "camera_shift": 2.0,
        "heatmap": 9.0,
        "object_map": 4.0,
        "hand_type": math.log(2),
    }
    for name, value in expected.items():
        assert float(terms[name] - before[name]) == pytest.approx(value, rel=2e-4), name


def test_unlabelled_samples_take_no_part(
    hand: HandModel, make_labels: Callable[..., KeypointBatch]
) -> None:
    """Sample 1 has no 3D pose and no object: what is said of it changes only 2D terms."""
    network, batch = _network(TINY, hand).eval(), make_labels(TINY)
    assert batch.object_map is not None
    partial = dataclasses.replace(
        batch,
        has_pose=torch.tensor([True, False]),
        object_number=torch.tensor([3, -1]),
        object_map=torch.stack((batch.object_map[0], torch.full_like(batch.object_map[1], -1))),
    )
    prediction = network(batch, labelled=True)
    alone = loss(
        Prediction(
            joints=prediction.joints[:1],
            features={k: v[:1] for k, v in prediction.features.items()},
        ),
        batch.map(lambda tensor: tensor[:1]),
    )
    both = loss(prediction, partial)
    shared = ("heatmap", "token_class", "joints2d", "total")
    for name in set(alone) - set(shared):
        torch.testing.assert_close(both[name], alone[name], msg=name)
    for name in shared:
        assert not torch.allclose(both[name], alone[name]), name
    plain = Batch(**{f.name: getattr(batch, f.name) for f in dataclasses.fields(Batch)})
    assert not {"object_map", "object_corners"} & set(loss(prediction, plain))


def test_symmetric_and_heavy_objects(make_labels: Callable[..., KeypointBatch]) -> None:
    """A half turn about z costs nothing for number 3, and 5 does not have it; 10 counts 4 times."""
    batch = make_labels(TINY)
    perfect = _perfect(TINY, batch)
    assert batch.object_rotation is not None
    half = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    turned = _with(perfect, object_rotations=(batch.object_rotation @ half)[:, None])

    def corners(prediction: Prediction, *numbers: int) -> float:
        told = dataclasses.replace(batch, object_number=torch.tensor(numbers))
        return float(loss(prediction, told)["object_corners"])

    assert corners(turned, 3, 10) == pytest.approx(0, abs=1e-4)
    assert corners(turned, 5, 5) > 1
    moved = _with(perfect, object_translations=perfect.features["object_translations"] + 0.01)
    assert corners(moved, 5, 5) == pytest.approx(0.1 * 10, rel=1e-4)  # 10 mm, weight 0.1
    assert corners(moved, 5, 24) == pytest.approx(0.1 * 10 * 2.5, rel=1e-4)


def test_tokens_are_named_by_the_nearest_joint_to_the_camera(
    make_labels: Callable[..., KeypointBatch],
) -> None:
    batch = make_labels(TINY, 1)
    perfect = _perfect(TINY, batch)
    assert batch.joints is not None
    assert batch.joints2d is not None
    place = torch.full((21, 2), 60.0)  # crop pixels: 30 on the map
    place[4], place[8] = torch.tensor([20.0, 20.0]), torch.tensor([24.0, 20.0])
    joints = batch.joints.clone()
    joints[0, 4, 2], joints[0, 8, 2] = 0.2, -0.2  # the index tip lies in front
    thumb, index = 1, 5  # their numbers: tips of the first and the second finger
    batch = dataclasses.replace(batch, joints2d=place[None], joints=joints)

    def cost(xy: tuple[float, float], label: int, wanted: int) -> float:
        logits = torch.zeros(1, 1, 1, TINY.classes)
        logits[..., wanted] = 30.0
        said = _with(
            perfect,
            tokens_xy=torch.tensor([[xy]]),
            tokens_found=torch.ones(1, 1, dtype=torch.bool),
            tokens_label=torch.tensor([[label]]),
            token_logits=logits,
        )
        return float(loss(said, batch)["token_class"])

    assert cost((10.0, 10.0), 1, index) < 1e-3  # both are within reach
    assert cost((8.0, 10.0), 1, thumb) < 1e-3  # only the thumb is
    assert cost((10.0, 14.0), 1, 0) < 1e-3  # none is
    last = TINY.classes - 1
    assert cost((12.0, 20.0), last, last) < 1e-3  # the middle of the disc
    assert cost((10.0, 10.0), last, 0) < 1e-3  # an object's token has no joint's name


def test_vectors_chain_from_the_wrist() -> None:
    draw = torch.Generator().manual_seed(0)
    joints = torch.randn(2, 21, 3, generator=draw)
    joints[:, 0] = 0
    theirs = reorder(joints, "canonical", ORDER)
    parent = [20 if k % 4 == 3 else k + 1 for k in range(20)]
    torch.testing.assert_close(joints_from_vectors(theirs[:, :20] - theirs[:, parent]), joints)


# --------------------------------------------------------------------------------------- files


def _checkpoint(name: str) -> dict[str, Tensor]:
    """The original's keys and shapes, each entry one made-up number."""
    told = json.loads((DATA / f"{name}.json").read_text())["state_dict"]
    entries: dict[str, Tensor] = {}
    for index, (key, shape) in enumerate(told.items()):
        if key.endswith("num_batches_tracked"):
            entries[key] = torch.tensor(7)
        else:
            entries[key] = torch.tensor(0.5 + index % 97 / 97).expand(shape)
    return entries


@pytest.mark.parametrize("name", ["kypt", "kypt_ho3d"])
def test_keys_map_one_to_one(name: str, hand: HandModel) -> None:
    entries = {k: v.to("meta") for k, v in _checkpoint(name).items()}
    converted = official.convert(entries)
    config = official.config_for(converted)
    with torch.device("meta"):
        own = KeypointTransformer(config, hand).state_dict()
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in own.items()}
    dropped = [k for k in entries if k.startswith(("norm1.", "linear_hand_type."))]
    assert len(dropped) == 6
    assert len(converted) == len(entries) - len(dropped)
    h2o3d = {
        k.replace("linear_rel_trans", "linear_obj_left_rel_trans"): v
        for k, v in entries.items()
        if k.startswith("linear_rel_trans")
    }
    assert official.config_for(official.convert(entries | h2o3d)).object_from_left
    with pytest.raises(WeightsError, match="queries"):
        official.config_for(converted | {"queries.weight": torch.zeros(30, 256)})
    with pytest.raises(WeightsError, match="lacks"):
        official.config_for({})


class _Danger:
    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (_Danger, "ran", True))


def test_files(tmp_path: Path, hand: HandModel) -> None:
    """The original's wrapper and prefix, the older keys without `resnet_decoder.`, and what must
    be refused."""
    entries = _checkpoint("kypt")
    path = tmp_path / "snapshot.pth.tar"

    def write(network: dict[str, Tensor], **more: Any) -> None:
        wrapped = {f"module.{key}": value for key, value in network.items()}
        told = {"epoch": 149, "optimizer": {"lr": np.float64(1e-4)}, "lr_scheduler": {"step": 3}}
        torch.save({**told, "network": wrapped, **more}, path)

    old = {k.replace("resnet_decoder.", ""): v for k, v in entries.items()}
    write(old)
    network = official.load_official(path, origin="unihope", hand=hand)
    assert network.config == KeypointTransformerConfig.unihope()
    assert not network.training
    state = network.state_dict()
    pairs = {
        "backbone.stage3.4.norm2.running_var": "backbone_net.resnet.layer3.4.bn2.running_var",
        "backbone.stage2.0.shortcut.1.weight": "backbone_net.resnet.layer2.0.downsample.1.weight",
        "decoder.up.16.0.weight": "decoder_net.resnet_decoder.deconv1.0.weight",
        "decoder.lateral.2.0.bias": "decoder_net.resnet_decoder.conv4d.0.bias",
        "decoder.heads.object_map.3.bias": "decoder_net.resnet_decoder.convOut_seg.3.bias",
        "reader.layers.3.cross_attention.in_proj_weight":
            "transformer.decoder.layers.3.multihead_attn.in_proj_weight",
        "tokens.object_appearance.layers.1.weight": "linear1_obj.layers.1.weight",
        "between_head.layers.2.weight": "linear_rel_trans.layers.2.weight",
    }  # fmt: skip
    for ours, theirs in pairs.items():
        assert torch.equal(state[ours], entries[theirs]), ours
    del network, state

    write(entries | {"linear_extra.layers.0.bias": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"linear_extra\.layers\.0\.bias"):
        official.load_official(path, hand=hand)
    write({k: v for k, v in entries.items() if k != "linear_cam.layers.1.bias"})
    with pytest.raises(WeightsError, match=r"missing camera_head\.layers\.1\.bias"):
        official.load_official(path, hand=hand)
    write({"a": torch.zeros(1)}, optimizer=_Danger())
    with pytest.raises(WeightsError, match="objects other than tensors"):
        official.load_official(path, hand=hand)
    assert not _Danger.ran
