"""What golden numbers of UniHOPE cannot show: the gate's four cases, pairs, mixed labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from handhold.errors import InputError
from handhold.models.nn.attention import TokenMapper
from handhold.models.unihope.loss import UniHOPELossConfig, loss
from handhold.models.unihope.model import UniHOPE, UniHOPEConfig, WholeCropClassifier
from handhold.scene import Batch

MakeBatch = Callable[..., Batch]


def _say(classifier: WholeCropClassifier | None, yes: bool) -> None:
    """Make a classifier always give one answer."""
    assert classifier is not None
    with torch.no_grad():
        classifier.out.weight.zero_()
        classifier.out.bias.copy_(torch.tensor([0.0, 1.0] if yes else [1.0, 0.0]))
        if classifier.context is not None:
            classifier.context[-1].weight.zero_()
            classifier.context[-1].bias.zero_()


@pytest.mark.parametrize("gate", ["official", "paper"])
@pytest.mark.parametrize("grasping", [True, False])
@pytest.mark.parametrize("hidden", [True, False])
def test_gate(
    tiny_unihope: UniHOPEConfig, make_batch: MakeBatch, gate: str, grasping: bool, hidden: bool
) -> None:
    network = UniHOPE(dataclasses.replace(tiny_unihope, fusion_gate=gate)).eval()
    _say(network.switch, grasping)
    _say(network.occlusion, hidden)
    queries: list[Tensor] = []
    network.hand_attention.query.register_forward_pre_hook(lambda _, g: queries.append(g[0]))
    capture: dict[str, Tensor] = {}
    prediction = network(make_batch(tiny_unihope), capture)
    fused = grasping and (gate == "paper" or not hidden)
    second = capture["roi_hand_from_obj"] if fused else capture["roi_hand"]
    assert torch.equal(queries[0], torch.cat((capture["roi_hand"], second), dim=1))
    assert not torch.equal(capture["roi_hand"], capture["roi_hand_from_obj"])
    assert prediction.features["fused"].tolist() == [fused] * 2
    assert bool(prediction.object_confidence.any())  # the code always gives the object


def test_gate_is_chosen_per_hand(tiny_unihope: UniHOPEConfig, make_batch: MakeBatch) -> None:
    """Each hand of a batch gets what it gets alone."""
    network = UniHOPE(dataclasses.replace(tiny_unihope, fusion_gate="paper")).eval()
    batch = make_batch(tiny_unihope, 4)
    with torch.no_grad():
        logits = network(batch).grasp_logits
        middle = (logits[:, 1] - logits[:, 0]).median()
        network.switch.out.bias[0] += middle + 1e-4
        together = network(batch)
        assert 0 < int(together.features["fused"].sum()) < 4
        for i in range(4):
            alone = network(batch.map(lambda t, i=i: t[i : i + 1]))
            torch.testing.assert_close(
                alone.vertices[0], together.vertices[i], atol=1e-5, rtol=1e-4
            )


def test_gate_passes_no_gradient_to_the_switch(
    tiny_unihope: UniHOPEConfig, make_batch: MakeBatch
) -> None:
    network = UniHOPE(tiny_unihope)
    network(make_batch(tiny_unihope)).vertices.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in network.switch.parameters())


@pytest.mark.parametrize("legacy", [True, False])
def test_switch_is_affine(tiny_unihope: UniHOPEConfig, legacy: bool) -> None:
    """No activation between its layers."""
    torch.manual_seed(0)
    switch = WholeCropClassifier(tiny_unihope, legacy=legacy)
    a, b = torch.randn(2, 1, 16, 16, 16)
    middle, first, second = (switch(x)[0] for x in ((a + b) / 2, a, b))
    torch.testing.assert_close(middle, (first + second) / 2)


def test_switch_of_cells_and_context(tiny_unihope: UniHOPEConfig) -> None:
    """Means over cells first, and what the whole crop's vector adds."""
    config = dataclasses.replace(tiny_unihope, switch_cells=4)
    torch.manual_seed(0)
    switch = WholeCropClassifier(config, legacy=False)
    feature, context = torch.randn(2, 16, 16, 16), torch.randn(2, config.channels[3])
    found, reduced = switch(feature, context)
    cells = switch.reduce(feature).unflatten(2, (4, 4)).unflatten(4, (4, 4)).mean((3, 5))
    torch.testing.assert_close(reduced, cells)
    alone = switch(feature)[0]
    torch.testing.assert_close(alone, cells.flatten(1) @ switch.out.weight.T + switch.out.bias)
    torch.testing.assert_close(found - alone, switch.context(context))


def test_switch_looks_into_the_hand_box(tiny_unihope: UniHOPEConfig, make_batch: MakeBatch) -> None:
    """What both maps show there adds to the logits; the hand's stream does not learn from it."""
    network = UniHOPE(dataclasses.replace(tiny_unihope, contact=True)).eval()
    batch = make_batch(tiny_unihope)
    seen: dict[str, Tensor] = {}
    found = network(batch, seen).grasp_logits
    alone = network.switch(seen["P2_obj"], seen["c5_obj"].mean((2, 3)))[0]
    added = network.contact(torch.cat((seen["roi_hand"], seen["roi_hand_from_obj"]), dim=1))
    assert bool((added.detach().abs() > 1e-4).all())
    torch.testing.assert_close(found, alone + added)
    added.sum().backward(retain_graph=True)
    assert bool(network.backbone.hand_pyramid.smooth.weight.grad.any())  # were it not detached
    network.zero_grad()
    found.sum().backward()
    assert network.backbone.hand_pyramid.smooth.weight.grad is None
    assert bool(network.backbone.object_pyramid.smooth.weight.grad.any())


def test_suppressed_object(tiny_unihope: UniHOPEConfig, make_batch: MakeBatch) -> None:
    config = dataclasses.replace(tiny_unihope, skip_object=True)
    network = UniHOPE(config).eval()
    batch = make_batch(config)
    _say(network.switch, False)
    ran: list[bool] = []
    network.object_head.register_forward_hook(lambda *_: ran.append(True))
    prediction = network(batch)
    assert not prediction.object_confidence.any()
    assert prediction.object_points2d.shape == (2, 64, 21, 2)
    assert not ran
    _say(network.switch, True)
    assert bool(network(batch).object_confidence.all())
    _say(network.switch, False)
    assert bool(network.train()(batch).object_confidence.all())  # training needs it


def test_pairs_are_two_passes(tiny_unihope: UniHOPEConfig, make_batch: MakeBatch) -> None:
    network = UniHOPE(tiny_unihope).train()
    batch = make_batch(tiny_unihope)
    means: list[Tensor] = []
    norm = network.backbone.stem.norm
    norm.register_forward_hook(lambda _, given, __: means.append(given[0].mean((0, 2, 3))))
    first, second = network.forward_pair(batch)
    assert len(means) == int(norm.num_batches_tracked) == 2
    expected = 0.9 * (0.1 * means[0]) + 0.1 * means[1]  # the photo first
    torch.testing.assert_close(norm.running_mean, expected.detach())
    assert not torch.equal(first.joints, second.joints)
    with pytest.raises(InputError, match="paired_image"):
        network.forward_pair(dataclasses.replace(batch, paired_image=None))


def test_enhancement(tiny_unihope: UniHOPEConfig, make_batch: MakeBatch) -> None:
    """Only grasping, unfiltered pairs; gradient only through the photo."""
    network = UniHOPE(tiny_unihope).eval()
    batch = dataclasses.replace(
        make_batch(tiny_unihope, 4), is_filtered=torch.tensor([False, False, True, False])
    )
    config = UniHOPELossConfig(enhancement=True)
    first, second = network.forward_pair(batch)
    leaf = second.features["roi_hand"].detach().requires_grad_()
    second = dataclasses.replace(second, features=second.features | {"roi_hand": leaf})
    terms = loss(first, batch, config, second=second)
    mine, other = first.features["roi_hand"][0], second.features["roi_hand"][0]
    torch.testing.assert_close(terms["roi"], 0.1 * (mine - other).abs().mean())
    mapped, plain = first.features["mano_mapped"][0, 0], second.features["mano_encoding"][0]
    torch.testing.assert_close(terms["mano"], 0.5 * (mapped - plain).abs().mean())
    assert torch.autograd.grad(terms["roi"], leaf, allow_unused=True)[0] is None
    none = dataclasses.replace(batch, grasping=torch.zeros(4, dtype=torch.bool))
    terms = loss(first, none, config, second=second)
    assert all(float(terms[name].detach()) == 0 for name in ("c3", "roi", "mano", "object_points"))
    with pytest.raises(InputError, match="pairs"):
        loss(first, batch, config)


def test_hand_terms_are_the_mean_of_both(
    tiny_unihope: UniHOPEConfig, make_batch: MakeBatch
) -> None:
    network = UniHOPE(tiny_unihope).eval()
    batch = make_batch(tiny_unihope)
    first, second = network.forward_pair(batch)
    both = loss(first, batch, second=second)
    one, two = loss(first, batch), loss(second, batch)
    for name in ("vertices", "joints", "rotations", "shape", "joints2d"):
        torch.testing.assert_close(both[name], (one[name] + two[name]) / 2)
    for name in ("switch", "occlusion", "object_points", "object_confidence"):
        torch.testing.assert_close(both[name], one[name])


def test_object_counts_only_when_grasping(
    tiny_unihope: UniHOPEConfig, make_batch: MakeBatch
) -> None:
    batch = make_batch(tiny_unihope)  # hand 0 grasps
    prediction = UniHOPE(tiny_unihope).eval()(batch)
    terms = loss(prediction, batch)
    alone = loss(prediction.map(lambda t: t[:1]), batch.map(lambda t: t[:1]))
    torch.testing.assert_close(terms["object_points"], alone["object_points"])
    torch.testing.assert_close(terms["object_confidence"], alone["object_confidence"])


def test_unknown_grasping(tiny_unihope: UniHOPEConfig, make_batch: MakeBatch) -> None:
    batch = make_batch(tiny_unihope)
    prediction = UniHOPE(tiny_unihope).eval()(batch)
    known = dataclasses.replace(batch, has_grasping=torch.tensor([True, False]))
    terms = loss(prediction, known)
    alone = loss(prediction.map(lambda t: t[:1]), batch.map(lambda t: t[:1]))
    torch.testing.assert_close(terms["switch"], alone["switch"])
    nothing = dataclasses.replace(batch, has_grasping=torch.zeros(2, dtype=torch.bool))
    terms = loss(prediction, nothing)
    assert float(terms["switch"]) == float(terms["object_points"]) == 0
    assert float(terms["total"]) > 0


def test_switch_and_occlusion_labels(tiny_unihope: UniHOPEConfig, make_batch: MakeBatch) -> None:
    batch = dataclasses.replace(
        make_batch(tiny_unihope),
        grasping=torch.tensor([True, True]),
        visibility=torch.tensor([0.9, 0.91]),  # the threshold itself counts as occluded
    )
    network = UniHOPE(tiny_unihope).eval()
    _say(network.switch, True)
    _say(network.occlusion, True)
    terms = loss(network(batch), batch)
    right = float(torch.log1p(torch.exp(torch.tensor(-1.0))))
    wrong = 1 + right
    assert float(terms["switch"]) == pytest.approx(10 * right, rel=1e-5)
    assert float(terms["occlusion"]) == pytest.approx((right + wrong) / 2, rel=1e-5)


def test_one_token_attends_to_itself() -> None:
    mapper = TokenMapper(8, 2, 4).eval()
    x = torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(0))
    expected = mapper.norm(mapper.out(mapper.value(x)) + x)
    torch.testing.assert_close(mapper(x), expected)
    assert mapper.norm.eps == 1e-6
    assert not torch.equal(mapper.train()(x), mapper(x))  # dropout


@pytest.mark.parametrize(
    ("field", "value"),
    [("fusion_gate", "soft"), ("adaptation", "all"), ("occlusion", False), ("switch_width", 0)],
)
def test_bad_configuration(tiny_unihope: UniHOPEConfig, field: str, value: object) -> None:
    with pytest.raises(InputError, match="UniHOPEConfig"):
        dataclasses.replace(tiny_unihope, **{field: value})
