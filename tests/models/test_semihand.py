"""What golden numbers of Liu et al.'s network cannot show: variants, gradients, losses, files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.official_file import Danger, entries_of, made_up, write
from torch import Tensor

from handhold.errors import InputError, WeightsError
from handhold.hand.model import HandModel
from handhold.models.semihand.loss import SemiHandLossConfig, loss, regularisers
from handhold.models.semihand.model import SemiHand, SemiHandConfig
from handhold.models.semihand.official import config_for, convert, load_official
from handhold.models.weights import OfficialFile, fit
from handhold.scene import Batch, Prediction

MakeBatch = Callable[..., Batch]
DATA = Path(__file__).parents[1] / "golden" / "data"
TINY = {
    "input_size": 64,
    "depths": (1, 1, 1, 1),
    "widths": (8, 8, 16, 16),
    "stem_width": 8,
    "pyramid_width": 16,
    "roi_size": 8,
    "sampling_ratio": 0,
    "hourglass_depth": 2,
    "mano_widths": (32, 16),
    "object_classes": 3,
    "spare_smoothing": "kept",
}


@pytest.fixture(scope="module")
def tiny() -> SemiHandConfig:
    return dataclasses.replace(SemiHandConfig.small(), **TINY)


def _network(config: SemiHandConfig, hand: HandModel | None = None) -> SemiHand:
    torch.manual_seed(0)
    return SemiHand(config, hand)


def test_spare_layers_change_nothing_but_the_work(
    tiny: SemiHandConfig, make_batch: MakeBatch
) -> None:
    kept, ran = _network(tiny).eval(), 0
    runs, none = (
        _network(dataclasses.replace(tiny, spare_smoothing=how)).eval() for how in ("run", "none")
    )
    runs.load_state_dict(kept.state_dict())
    spare = kept.parameters_without_gradient()
    none.load_state_dict({k: v for k, v in kept.state_dict().items() if not k.startswith(spare)})

    def count(*_: Any) -> None:
        nonlocal ran
        ran += 1

    for network in (kept, runs):
        for layer in (network.backbone.pyramid.smooth_p4, network.backbone.pyramid.smooth_p3):
            assert layer is not None
            layer.register_forward_hook(count)
    batch = make_batch(tiny)
    with torch.no_grad():
        expected = kept(batch).vertices
        assert ran == 0
        assert torch.equal(runs(batch).vertices, expected)
        assert ran == 2
        assert torch.equal(none(batch).vertices, expected)


def test_small_crops_are_smoothed_alone(tiny: SemiHandConfig, make_batch: MakeBatch) -> None:
    """Instead of the whole map, which `capture` still shows, and with the same result."""
    config = dataclasses.replace(tiny, roi_size=4)
    network, batch = _network(config).eval(), make_batch(config)
    calls: list[Any] = []
    network.backbone.pyramid.smooth.register_forward_hook(lambda *told: calls.append(told))
    with torch.no_grad():
        found = network(batch)
        assert not calls
        expected = network(batch, {})
    assert len(calls) == 1
    for name in ("vertices", "joints2d", "object_points2d", "object_confidence"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))


def test_gradients(tiny: SemiHandConfig, make_batch: MakeBatch) -> None:
    network, batch = _network(tiny).train(), make_batch(tiny)
    weights = dataclasses.replace(SemiHandLossConfig.sound(), object_class=1.0)
    terms = loss(network(batch), batch, weights)
    assert all(bool(torch.isfinite(value)) for value in terms.values())
    terms["total"].backward()
    spare = network.parameters_without_gradient()
    for name, parameter in network.named_parameters():
        if name.startswith(spare):
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name
            assert bool(torch.isfinite(parameter.grad).all()), name
            moves = name.endswith("weight") and "key" not in name
            assert not moves or bool(parameter.grad.any()), name


@pytest.mark.parametrize("detach", [False, True])
def test_the_object_reads_the_hand(
    tiny: SemiHandConfig, make_batch: MakeBatch, detach: bool
) -> None:
    """With gradient in the original, unlike HFL-Net; `detach` stops it."""
    network = _network(dataclasses.replace(tiny, detach=detach)).train()
    found: dict[str, Tensor] = {}
    prediction = network(make_batch(tiny), found)
    found["roi_inter"].retain_grad()
    prediction.object_confidence.sum().backward()
    gradient = found["roi_inter"].grad
    assert (gradient is None) == detach
    assert detach or bool(gradient.any())


def test_boxes_that_overlap_in_x_only(tiny: SemiHandConfig, make_batch: MakeBatch) -> None:
    network, batch = _network(tiny).eval(), make_batch(tiny)
    shift = torch.tensor([[2.0, 60, 2, 60], [2.0, 3, 2, 3]])  # the second pair overlaps
    batch = dataclasses.replace(batch, object_box=batch.hand_box + shift)
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        network(batch, found)
        blind = network.object_attention(found["roi_obj"], torch.zeros_like(found["roi_obj"]))
    torch.testing.assert_close(found["fused_obj"][0], blind[0])
    assert not torch.allclose(found["fused_obj"][1], blind[1])


def test_hand_of_the_original(tiny: SemiHandConfig, make_batch: MakeBatch, hand: HandModel) -> None:
    """Wrist at the origin, HO3D's fingertips; the free hand keeps its own fingertips."""
    config = dataclasses.replace(tiny, mano_center=0, tips="ho3d")
    made_up = HandModel.from_file(DATA / "synthetic_mano_right.npz", "right")
    batch = make_batch(config)
    with torch.no_grad():
        found = _network(config, made_up).eval()(batch)
        free = _network(config, hand).eval()(batch)
    assert SemiHandConfig.original().tips == "ho3d"
    assert SemiHandConfig.original().mano_center == 0
    assert float(found.joints[:, 0].abs().max()) < 1e-7
    ends = found.joints[:, [4, 8, 12, 16, 20]]
    torch.testing.assert_close(ends, found.vertices[:, [728, 353, 442, 576, 694]])
    torch.testing.assert_close(free.joints[:, [4, 8, 12, 16, 20]], free.vertices[:, hand.tips])


def _prediction(rotations: Tensor, betas: Tensor) -> Prediction:
    return Prediction(joints=torch.zeros(len(betas), 21, 3), rotations=rotations, betas=betas)


def _turns(angles: Tensor) -> Tensor:
    """Rotations about x by angles (...): written out, not by the package."""
    zero, one = torch.zeros_like(angles), torch.ones_like(angles)
    c, s = angles.cos(), angles.sin()
    rows = (one, zero, zero, zero, c, -s, zero, s, c)
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def test_regularisers() -> None:
    """The original's of the pose is 1/3 and teaches nothing; that of the angles acts."""
    draw = torch.Generator().manual_seed(0)
    angles = (torch.rand(3, 16, generator=draw) - 0.5).requires_grad_()
    betas = torch.randn(3, 10, generator=draw)
    box = torch.zeros(3, 4)
    known = torch.tensor([True, False, True])
    batch = Batch(image=torch.zeros(3, 3, 8, 8), hand_box=box, object_box=box, has_pose=known)
    prediction = _prediction(_turns(angles), betas)

    terms = regularisers(prediction, batch, SemiHandLossConfig())
    assert float(terms["pose_regulariser"].detach()) == pytest.approx(1 / 3, abs=1e-6)
    torch.testing.assert_close(terms["shape_regulariser"], (betas**2).mean())
    (gradient,) = torch.autograd.grad(terms["pose_regulariser"], angles)
    assert float(gradient.abs().max()) < 1e-7

    prediction = _prediction(_turns(angles), betas)
    sound = regularisers(prediction, batch, SemiHandLossConfig.sound())
    expected = (angles[1, 1:] ** 2).sum() / 45
    torch.testing.assert_close(sound["pose_regulariser"], expected)
    torch.testing.assert_close(sound["shape_regulariser"], (betas[1] ** 2).mean())
    (gradient,) = torch.autograd.grad(sound["pose_regulariser"], angles)
    torch.testing.assert_close(gradient[1, 1:], 2 * angles.detach()[1, 1:] / 45)
    assert not bool(gradient[[0, 2]].any())
    assert not bool(gradient[:, 0].any())  # the wrist is free

    everybody = dataclasses.replace(batch, has_pose=None)
    none = regularisers(prediction, everybody, SemiHandLossConfig.sound())
    assert float(none["pose_regulariser"].detach()) == 0.0


def test_a_sample_without_pose(tiny: SemiHandConfig, make_batch: MakeBatch) -> None:
    """Its 3D labels take no part; its 2D joints and regularisers do."""
    network, batch = _network(tiny).eval(), make_batch(tiny)
    with torch.no_grad():
        prediction = network(batch)
        first = batch.map(lambda t: t[:1])
        alone = loss(prediction.map(lambda t: t[:1]), first)
        batch = dataclasses.replace(batch, has_pose=torch.tensor([True, False]))
        terms = loss(prediction, batch)
    for name in ("vertices", "joints", "rotations", "shape"):
        torch.testing.assert_close(terms[name], alone[name])
    assert not torch.isclose(terms["joints2d"], alone["joints2d"])
    expected = 100 * (prediction.betas**2).mean()
    torch.testing.assert_close(terms["shape_regulariser"], expected)
    parts = sum(value for name, value in terms.items() if name != "total")
    torch.testing.assert_close(terms["total"], parts)


@pytest.mark.parametrize(
    ("field", "value"),
    [("spare_smoothing", "yes"), ("tips", "mine"), ("block", "dense"), ("heads", 3)],
)
def test_bad_configuration(field: str, value: object) -> None:
    with pytest.raises(InputError, match=field):
        dataclasses.replace(SemiHandConfig.small(), **{field: value})


def test_bad_loss_configuration() -> None:
    with pytest.raises(InputError, match="regularised_pose"):
        SemiHandLossConfig(regularised_pose="vector")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="shape_regulariser"):
        SemiHandLossConfig(shape_regulariser=-1.0)


# ------------------------------------------------------------------------ the authors' files


@pytest.fixture(scope="module")
def entries() -> dict[str, Tensor]:
    """A whole made-up checkpoint of the original repository, without the copy's doubled buffers."""
    return entries_of("semihand")


def test_keys_map_one_to_one(hand: HandModel) -> None:
    whole = made_up("semihand", "meta")
    converted = convert(whole)
    with torch.device("meta"):
        own = SemiHand(SemiHandConfig(), hand).state_dict()
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in own.items()}
    dropped = [k for k in whole if "mano_layer" in k or k.endswith((".uu", ".vv"))]
    assert len(converted) == len(whole) - len(dropped)


def test_file_of_the_original(entries: dict[str, Tensor], hand: HandModel, tmp_path: Path) -> None:
    path = write(tmp_path / "snapshot.pth.tar", "semihand", entries)
    network = load_official(path, hand=hand)
    assert network.config == SemiHandConfig.original()
    assert not network.training
    state = network.state_dict()
    assert not [key for key in state if "mano_layer" in key or ".th_" in key]
    for ours, theirs in {
        "backbone.stem.norm.running_var": "base_net.layer0.1.running_var",
        "backbone.stage3.5.conv2.weight": "base_net.layer3.0.5.conv2.weight",
        "backbone.stage2.0.shortcut.0.weight": "base_net.layer2.0.0.downsample.0.weight",
        "backbone.pyramid.smooth_p4.weight": "base_net.smooth1.weight",
        "backbone.pyramid.smooth_p3.weight": "base_net.smooth2.weight",
        "backbone.pyramid.smooth.weight": "base_net.smooth3.weight",
        "object_attention.key.weight": "transformer.layers.0.encode_key.weight",
        "hand_encoder.units.5.norm2.running_mean": "hand_encoder.reg.5.bn1.running_mean",
    }.items():
        assert torch.equal(state[ours], entries[theirs]), ours


def test_gaps_and_leftovers(entries: dict[str, Tensor], hand: HandModel) -> None:
    with pytest.raises(WeightsError, match=r"lacks: surplus\.weight"):
        convert(entries | {"surplus.weight": torch.zeros(1)})
    gap = {k: v for k, v in entries.items() if k != "base_net.smooth1.bias"}
    with torch.device("meta"):
        network = SemiHand(SemiHandConfig(), hand)
    with pytest.raises(WeightsError, match=r"missing backbone\.pyramid\.smooth_p4\.bias"):
        fit(network, convert(gap), "file")


def test_origin() -> None:
    def file(keys: list[str], *wrapper: str) -> OfficialFile:
        values = {key: torch.zeros(1) for key in keys}
        return OfficialFile(path=Path("x.pth"), entries=values, wrapper=frozenset(wrapper))

    key, original, copied = "hand_head.betas", SemiHandConfig.original(), SemiHandConfig()
    assert config_for(file([f"honet.module.{key}"])) == original
    assert config_for(file([key, "mano_branch.coord_change_mat"])) == original
    assert config_for(file([key, "mano_layer.th_faces"])) == copied
    assert config_for(file([f"module.{key}", "module.mano_layer.th_faces"])) == copied
    assert config_for(file([key], "optimizer", "step")) == copied
    assert config_for(file([key]), "original") == original
    with pytest.raises(InputError, match="origin original or unihope"):
        config_for(file([key]))
    with pytest.raises(InputError, match="origin: expected"):
        config_for(file([key]), "mine")  # pyright: ignore[reportArgumentType]


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {"honet.module.a": torch.ones(2)}, "epoch": Danger()}, path)
    with pytest.raises(WeightsError, match="objects other than tensors"):
        load_official(path)
    assert not Danger.ran
