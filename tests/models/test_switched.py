"""The grasp classifier and pairs of networks: who answers for which hand, and with what."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.models.hflnet.model import HFLNet, HFLNetConfig
from handhold.models.semihand.model import SemiHand, SemiHandConfig
from handhold.models.switched.loss import GraspLossConfig, loss
from handhold.models.switched.model import (
    GraspClassifier,
    GraspClassifierConfig,
    Switched,
    SwitchedConfig,
)
from handhold.models.switched.routing import from_size, layout, merge, resized
from handhold.scene import Batch, Prediction

MakeBatch = Callable[..., Batch]
SIDE = 16


class _Judge(GraspClassifier):
    """Says the mean brightness of the image, so that a test decides who grasps."""

    def __init__(self, side: int = SIDE) -> None:
        nn.Module.__init__(self)
        self.config = _Sized(side)  # pyright: ignore[reportAttributeAccessIssue]

    def logits(self, image: Tensor, capture: dict[str, Tensor] | None = None) -> Tensor:
        bright = image.mean((1, 2, 3))
        return torch.stack((torch.zeros_like(bright), bright), dim=1)


class _Sized:
    def __init__(self, side: int) -> None:
        self.input_size = side


class _Stub(nn.Module):
    """A network that answers with numbers of the hand's own label; counts whom it was asked."""

    def __init__(self, sign: float, without: tuple[str, ...] = (), side: int = SIDE) -> None:
        super().__init__()
        self.config = _Sized(side)
        self.sign = sign
        self.without = without
        self.asked: list[Batch] = []

    def forward(self, batch: Batch) -> Prediction:
        self.asked.append(batch)
        assert batch.visibility is not None
        label = self.sign * batch.visibility

        def make(*shape: int) -> Tensor:
            return label.reshape(-1, *([1] * len(shape))).expand(len(batch), *shape).clone()

        fields: dict[str, Any] = {
            "joints": make(21, 3),
            "vertices": make(778, 3),
            "joints2d": make(21, 2),
            "rotations": make(16, 3, 3),
            "betas": make(10),
            "grasp_logits": make(2),
            "object_points2d": make(4, 21, 2),
            "object_confidence": make(4, 21),
            "object_class_logits": make(3),
        }
        fields = {name: value for name, value in fields.items() if name not in self.without}
        features = {"both": make(5), "odd": make(3 if self.sign > 0 else 4), "own": make(1)}
        if self.sign > 0:
            del features["own"]
        return Prediction(**fields, features=features)


HAND_ONLY = ("object_points2d", "object_confidence", "object_class_logits", "grasp_logits")


def _batch(bright: list[float]) -> Batch:
    """Hand i has the label i + 1 and the given brightness."""
    count = len(bright)
    return Batch(
        image=torch.tensor(bright).reshape(-1, 1, 1, 1).expand(-1, 3, SIDE, SIDE).clone(),
        hand_box=torch.zeros(count, 4),
        object_box=torch.zeros(count, 4),
        visibility=torch.arange(1.0, count + 1),
        keys=tuple(f"hand{i}" for i in range(count)),
    )


def _pair(without: tuple[str, ...] = HAND_ONLY, **changes: Any) -> Switched:
    return Switched(_Stub(-1.0, without), _Stub(1.0), _Judge(), SwitchedConfig(**changes)).eval()


ROUTES = ([-1.0, 1.0, -0.5, 2.0], [1.0, 1.0], [-1.0, -1.0, -1.0])


@pytest.mark.parametrize("bright", ROUTES)
def test_every_hand_has_its_own_network(bright: list[float]) -> None:
    pair, batch = _pair(), _batch(bright)
    found = pair(batch)
    grasping = torch.tensor(bright) > 0
    expected = torch.where(grasping, 1.0, -1.0) * batch.visibility
    for name in ("joints", "vertices", "joints2d", "rotations", "betas"):
        value = getattr(found, name).flatten(1)
        assert torch.equal(value, expected[:, None].expand_as(value)), name
    for name in ("object_points2d", "object_confidence", "object_class_logits"):
        value = getattr(found, name).flatten(1)
        held = torch.where(grasping, batch.visibility, 0.0)
        assert torch.equal(value, held[:, None].expand_as(value)), name
    assert torch.equal(found.grasp_logits[:, 1], torch.tensor(bright))
    assert set(found.features) == {"both"}
    assert torch.equal(found.features["both"][:, 0], expected)


@pytest.mark.parametrize("bright", ROUTES)
@pytest.mark.parametrize("fresh", [True, False])
def test_the_same_fields_wherever_the_hands_go(bright: list[float], fresh: bool) -> None:
    """A network that has not run yet is asked once what it gives, never again."""
    pair = _pair()
    if not fresh:
        pair(_batch([-1.0, 1.0]))
    stubs = (pair.hand_only, pair.hand_object)
    before = [len(stub.asked) for stub in stubs]
    told = {name: shape for name, (shape, _) in layout(pair(_batch(bright))).items()}
    assert told == {
        "joints": (21, 3),
        "vertices": (778, 3),
        "joints2d": (21, 2),
        "rotations": (16, 3, 3),
        "betas": (10,),
        "grasp_logits": (2,),
        "object_points2d": (4, 21, 2),
        "object_confidence": (4, 21),
        "object_class_logits": (3,),
        "features.both": (5,),
    }
    pair(_batch(bright))
    goes = [any(b <= 0 for b in bright), any(b > 0 for b in bright)]
    for stub, once, chosen in zip(stubs, before, goes, strict=True):
        tried = 1 if fresh and not chosen else 0
        assert len(stub.asked) - once == 2 * chosen + tried


@pytest.mark.parametrize("bright", ROUTES)
def test_what_one_network_lacks(bright: list[float]) -> None:
    """A vertex method has no pose: then the pair has none, but the parts keep theirs."""
    pair = _pair((*HAND_ONLY, "rotations", "betas"))
    found = pair(_batch(bright))
    assert found.rotations is None
    assert found.betas is None
    assert found.vertices is not None
    routed = pair.route(_batch(bright))
    if routed.hand_object is not None:
        assert len(routed.hand_object.rotations) == len(routed.hand_object_rows)
    both = torch.cat((routed.hand_only_rows, routed.hand_object_rows)).sort().values
    assert both.tolist() == list(range(len(bright)))


def test_objects_of_the_hand_only_network_are_not_used() -> None:
    found = _pair(without=())(_batch([-1.0, 1.0]))
    assert not bool(found.object_confidence[0].any())
    assert bool(found.object_confidence[1].all())
    plain = Switched(_Stub(-1.0), _Stub(1.0, HAND_ONLY), _Judge())(_batch([-1.0, 1.0]))
    assert plain.object_confidence is None


def test_what_each_network_is_given() -> None:
    pair = _pair()
    pair(_batch([-1.0, 1.0, -0.5, 2.0]))
    for stub, rows in ((pair.hand_only, (0, 2)), (pair.hand_object, (1, 3))):
        (given,) = stub.asked
        assert given.keys == tuple(f"hand{i}" for i in rows)
        assert given.visibility.tolist() == [i + 1.0 for i in rows]
        assert len(given) == 2


def test_threshold() -> None:
    """A tie is no grasp, as in an arg-max; a probability of 0.9 has the logit ln 9."""
    assert _pair().route(_batch([0.0, 1e-3])).hand_object_rows.tolist() == [1]
    bound = math.log(9)
    careful = _pair(threshold=0.9)
    assert careful.route(_batch([bound - 0.01, bound + 0.01])).hand_object_rows.tolist() == [1]
    with pytest.raises(InputError, match="threshold"):
        SwitchedConfig(threshold=1.0)


def test_types_meet() -> None:
    routed = _pair().route(_batch([-1.0, 1.0]))
    half = routed.hand_object.map(lambda t: t.half())
    routed = dataclasses.replace(routed, hand_object=half)
    found = merge(routed, layout(routed.hand_only), layout(half))
    assert found.joints.dtype == torch.float32
    assert found.joints[:, 0, 0].tolist() == [-1.0, 2.0]
    assert "both" not in found.features  # another type may mean another thing


def test_refused() -> None:
    pair = _pair()
    with pytest.raises(InputError, match="at least one hand"):
        pair(_batch([1.0]).map(lambda t: t[:0]))
    routed = pair.route(_batch([-1.0, 1.0]))
    short = dataclasses.replace(routed.hand_only, betas=torch.zeros(1, 9))
    with pytest.raises(InputError, match=r"Prediction\.betas.*\(9,\).*\(10,\)"):
        merge(routed, layout(short), layout(routed.hand_object))
    with pytest.raises(InputError, match=r"Prediction\.joints"):
        merge(routed, {}, layout(routed.hand_object))
    with pytest.raises(InputError, match=r"hand_only.*input_size"):
        Switched(nn.Linear(1, 1), _Stub(1.0), _Judge())
    assert not pair.train().hand_only.training


# ------------------------------------------------------------------------- crops of other sizes


def test_resizing_moves_points_with_the_picture() -> None:
    """In a picture of its own coordinates every moved point still reads the same place."""
    size, side = 64, 32
    line = torch.arange(float(size))
    ramp = torch.stack((line.expand(size, size), line[:, None].expand(size, size)))
    image = torch.cat((ramp, ramp[:1]))[None]
    points = torch.tensor([[[10.0, 20.0], [40.5, 7.25]]])
    intrinsics = torch.tensor([[[80.0, 0, 30], [0, 90, 25], [0, 0, 1]]])
    crop = torch.tensor([[[0.5, 0, -3], [0, 0.5, 4], [0, 0, 1]]])
    batch = Batch(
        image=image,
        hand_box=torch.tensor([[10.0, 20.0, 40.5, 7.25]]),
        object_box=torch.zeros(1, 4),
        joints2d=points,
        object_points2d=torch.stack((points[0], torch.zeros(2, 2))),
        intrinsics=intrinsics,
        crop=crop,
        paired_image=image,
    )
    small = resized(batch, side)
    assert small.image.shape == small.paired_image.shape == (1, 3, side, side)
    assert torch.equal(small.hand_box.reshape(2, 2), small.joints2d[0])
    grid = ((small.joints2d + 0.5) / side * 2 - 1)[:, None]
    read = nn.functional.grid_sample(small.image, grid, align_corners=False)[0, :2, 0].T
    torch.testing.assert_close(read, points[0], atol=1e-4, rtol=0)
    assert not bool(small.object_points2d[1].any())  # not labelled
    torch.testing.assert_close(small.object_points2d[0], small.joints2d[0])

    solid = torch.tensor([0.1, -0.2, 0.8])
    before, after = ((k[0] @ solid)[:2] / solid[2] for k in (intrinsics, small.intrinsics))
    torch.testing.assert_close(after, (before + 0.5) * side / size - 0.5)
    place = torch.tensor([33.0, 44.0, 1.0])
    before, after = ((m[0] @ place)[:2] for m in (crop, small.crop))
    torch.testing.assert_close(after, (before + 0.5) * side / size - 0.5)

    told = Prediction(joints=torch.zeros(1, 21, 3), joints2d=small.joints2d)
    torch.testing.assert_close(from_size(told, side, size).joints2d, points)
    assert resized(batch, size) is batch


def test_networks_of_other_sizes() -> None:
    """Each is given crops of its own side; what it says comes back in the batch's pixels."""
    pair = Switched(_Stub(-1.0, HAND_ONLY, side=8), _Stub(1.0, side=32), _Judge(side=4))
    found = pair(_batch([-1.0, 1.0]))
    assert pair.hand_only.asked[0].image.shape[-1] == 8
    assert pair.hand_object.asked[0].image.shape[-1] == 32
    assert float(found.joints2d[0, 0, 0]) == pytest.approx((-1 + 0.5) * 2 - 0.5)
    assert float(found.joints2d[1, 0, 0]) == pytest.approx((2 + 0.5) / 2 - 0.5)
    assert float(found.object_points2d[1, 0, 0, 0]) == pytest.approx((2 + 0.5) / 2 - 0.5)
    assert not bool(found.object_points2d[0].any())
    assert found.joints[:, 0, 0].tolist() == [-1.0, 2.0]


# -------------------------------------------------------------------------------- real networks

TINY = {
    "input_size": 64,
    "block": "basic",
    "depths": (1, 1, 1, 1),
    "widths": (8, 8, 16, 16),
    "stem_width": 8,
    "pyramid_width": 16,
}
HEADS = {
    "roi_size": 8,
    "sampling_ratio": 0,
    "heads": 2,
    "hourglass_depth": 2,
    "mano_widths": (32, 16),
    "init": "kaiming",
}


def _classifier(**changes: Any) -> GraspClassifier:
    torch.manual_seed(1)
    return GraspClassifier(GraspClassifierConfig(**TINY, switch_width=4, **changes))


def test_a_pair_of_networks(make_batch: MakeBatch) -> None:
    """Liu et al.'s network for bare hands, HFL-Net for the others: row by row what each says."""
    torch.manual_seed(0)
    bare = SemiHand(SemiHandConfig(**TINY, **HEADS)).eval()
    held = HFLNet(HFLNetConfig(**TINY, **HEADS, object_classes=3)).eval()
    judge = _classifier().eval()
    batch = make_batch(held.config, 4)
    with torch.no_grad():
        logits = judge(batch).grasp_logits
        judge.head.out.bias[1] -= (logits[:, 1] - logits[:, 0]).sort().values[1:3].mean()
        found = Switched(bare, held, judge)(batch)
        one, two, logits = bare(batch), held(batch), judge(batch).grasp_logits
    grasping = logits.argmax(1) == 1
    assert grasping.sum() == 2
    for name in ("joints", "vertices", "joints2d", "rotations", "betas"):
        a, b, value = (getattr(p, name).flatten(1) for p in (one, two, found))
        expected = torch.where(grasping[:, None], b, a)
        torch.testing.assert_close(value, expected, atol=2e-5, rtol=1e-3)
    confidence = two.object_confidence * grasping[:, None, None]
    torch.testing.assert_close(found.object_confidence, confidence, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(found.grasp_logits, logits)


def test_the_hand_stream_of_the_classifier(make_batch: MakeBatch) -> None:
    network, twin = _classifier(), _classifier(hand_stream="run")
    batch = make_batch(HFLNetConfig(**TINY, **HEADS))
    ran = 0

    def count(*_: Any) -> None:
        nonlocal ran
        ran += 1

    network.backbone.hand_stage3.register_forward_hook(count)
    with torch.no_grad():
        expected = twin.eval()(batch).grasp_logits
        assert torch.equal(network.eval()(batch).grasp_logits, expected)
    assert ran == 0
    prediction = network.train()(batch)
    assert prediction.joints.shape == (2, 0, 3)
    assert ran == 1
    norms = [m for m in network.backbone.stage4.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(int(norm.num_batches_tracked) == 2 for norm in norms)  # both streams
    loss(prediction, batch)["total"].backward()
    unused = network.parameters_without_gradient()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == name.startswith(unused), name


def test_loss() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)], [5.0, -5.0]])
    box = torch.zeros(3, 4)
    batch = Batch(
        image=torch.zeros(3, 3, 8, 8),
        hand_box=box,
        object_box=box,
        grasping=torch.tensor([True, False, True]),
        has_grasping=torch.tensor([True, True, False]),
    )
    prediction = Prediction(joints=torch.zeros(3, 0, 3), grasp_logits=logits)
    expected = (math.log(4 / 3) + math.log(4)) / 2
    assert float(loss(prediction, batch)["total"]) == pytest.approx(expected)
    assert float(loss(prediction, batch, GraspLossConfig(grasp=2))["grasp"]) == pytest.approx(
        2 * expected
    )
    with pytest.raises(InputError, match=r"batch\.grasping"):
        loss(prediction, dataclasses.replace(batch, grasping=None))
    with pytest.raises(InputError, match="grasp"):
        GraspLossConfig(grasp=-1)


@pytest.mark.parametrize(
    ("field", "value"), [("input_size", 100), ("hand_stream", "no"), ("depths", (1, 2))]
)
def test_bad_configuration(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"GraspClassifierConfig\.{field}"):
        GraspClassifierConfig(**{field: value})


def test_wrong_image_size() -> None:
    with pytest.raises(InputError, match=r"Batch\.image"):
        _classifier()(_batch([1.0]))
