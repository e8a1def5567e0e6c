"""What golden numbers of SimpleHand cannot show: folding, gradients, losses, importing."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.models.official_file import Danger, entries_of, write
from torch import Tensor, nn

from handhold.errors import InputError, WeightsError
from handhold.hand.model import HandModel
from handhold.models.simplehand.fastvit import FastViT, MultiBranch, RepMixer, drop_path
from handhold.models.simplehand.loss import SimpleHandLossConfig, loss, with_hand_targets
from handhold.models.simplehand.model import SimpleHand, SimpleHandConfig, TokenBlock, sine_code
from handhold.models.simplehand.official import config_for, convert, load_official
from handhold.models.weights import OfficialFile, fit
from handhold.scene import Batch, Prediction

KEYS = Path(__file__).parents[1] / "golden" / "data" / "simplehand.json"
TINY = dataclasses.replace(
    SimpleHandConfig.small(),
    input_size=64,
    depths=(1, 1, 1, 1),
    widths=(8, 16, 32, 64),
    token_counts=(30, 60),
    token_widths=(32, 16, 16),
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
        root=torch.tensor([0.1, -0.05, 0.6]).expand(count, 3),
        joints2d=64 * torch.rand(count, 21, 2, generator=draw),
    )
    return with_hand_targets(batch, hand)


def _stir(network: nn.Module) -> None:
    """Numbers that hide nothing: statistics, factors and layer scales away from 0 and 1."""
    draw = torch.Generator().manual_seed(3)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=draw))
        elif name.endswith(("running_mean", "bias", "gamma")):
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=draw))
        elif tensor.ndim == 1:
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=draw))


# ------------------------------------------------------------------------------ the backbone


@pytest.mark.parametrize(
    "layer",
    [
        MultiBranch(3, 8, 3, stride=2),
        MultiBranch(8, 8, 3, stride=2, groups=8),
        MultiBranch(8, 8, 1),
        MultiBranch(8, 8, 3, groups=2),
        MultiBranch(16, 32, 3, groups=16, squeeze=True),
        RepMixer(8, True),
    ],
)
def test_folded_equals_the_sum_of_branches(layer: nn.Module) -> None:
    _stir(layer.eval())
    inputs = layer.get_parameter("branches.main.conv.weight" if isinstance(layer, RepMixer)
                                 else "main.conv.weight").shape  # fmt: skip
    groups = (layer.branches if isinstance(layer, RepMixer) else layer).main.conv.groups
    x = torch.randn(2, inputs[1] * groups, 9, 9)
    with torch.no_grad():
        folded = layer(x)
        for module in layer.modules():
            if hasattr(module, "fold"):
                module.fold = False
        plain = layer(x)
    torch.testing.assert_close(folded, plain, atol=1e-5, rtol=1e-5)


def test_whole_backbone_folds() -> None:
    torch.manual_seed(0)
    network = FastViT((1, 2, 1, 2), (8, 16, 32, 64), 0.0).eval()
    _stir(network)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        folded = network(image)
        for module in network.modules():
            if hasattr(module, "fold"):
                module.fold = False
        plain = network(image)
    for name, value in plain.items():
        torch.testing.assert_close(folded[name], value, atol=1e-4, rtol=1e-4, msg=name)
    assert folded["final_conv"].shape == (1, 128, 2, 2)


def test_drop_path_is_linear_in_depth_and_keeps_the_mean() -> None:
    network = FastViT((1, 2, 1, 1), (8, 16, 32, 64), 0.2)
    chances = [m.drop_path for m in network.modules() if hasattr(m, "drop_path")]
    np.testing.assert_allclose(chances, [0, 0.05, 0.1, 0.15, 0.2])
    torch.manual_seed(0)
    x = torch.ones(4000, 3, 1)
    found = drop_path(x, 0.25, True)
    assert found.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(found[:, 0], found[:, 2])  # a sample as a whole
    assert float(found.mean()) == pytest.approx(1.0, abs=0.05)
    assert drop_path(x, 0.25, False) is x


# ------------------------------------------------------------------------------ the mesh head


def test_sine_code_against_its_formula() -> None:
    found = sine_code(torch.zeros(1, 12, 5, 5))[0].numpy()
    for channel in range(12):
        index, down = channel % 6, channel < 6
        for row in range(5):
            for column in range(5):
                place = ((row if down else column) + 1) / (5 + 1e-6) * 2 * math.pi
                angle = place / 10000 ** (2 * (index // 2) / 6)
                expected = math.cos(angle) if index % 2 else math.sin(angle)
                assert found[channel, row, column] == pytest.approx(expected, abs=1e-5)


def test_token_block_against_the_library() -> None:
    """PyTorch's own encoder layer, norms first, as an independent twin."""
    torch.manual_seed(0)
    ours = TokenBlock(16, 4, 0.1).eval()
    twin = nn.TransformerEncoderLayer(
        16, 4, 64, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    names = {
        "self_attn.in_proj_weight": "qkv.weight",
        "self_attn.in_proj_bias": "qkv.bias",
        "self_attn.out_proj.weight": "out.weight",
        "self_attn.out_proj.bias": "out.bias",
        "linear1.weight": "widen.weight",
        "linear1.bias": "widen.bias",
        "linear2.weight": "narrow.weight",
        "linear2.bias": "narrow.bias",
    }
    _stir(ours)
    state = ours.state_dict()
    twin.load_state_dict({k: state[names.get(k, k)] for k in twin.state_dict()})
    x = torch.randn(2, 7, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), twin(x), atol=1e-5, rtol=1e-5)


def test_gradients_flow_into_the_joints(hand: HandModel) -> None:
    head = SimpleHand(TINY, hand).eval().mesh_head
    joints2d = torch.rand(1, 21, 2).requires_grad_()
    found = head(torch.rand(1, 128, 2, 2), joints2d)["verts"]
    (gradient,) = torch.autograd.grad(found.square().sum(), joints2d)
    assert bool(gradient.any(dim=2).all())


def test_every_parameter_learns_and_the_loss_falls(hand: HandModel) -> None:
    torch.manual_seed(1)
    network = SimpleHand(TINY, hand).train()
    batch = _batch(hand)
    config = SimpleHandLossConfig.sound()
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    totals: list[float] = []
    for _ in range(80):
        optimiser.zero_grad()
        total = loss(network(batch), batch, config)["total"]
        total.backward()
        totals.append(float(total.detach()))
        optimiser.step()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.any()) or name.endswith("bias"), name
    assert totals[-1] < 0.3 * totals[0]
    # the vertices as a user gets them: wrist at the origin
    with torch.no_grad():
        found = network(batch)
    assert float(found.joints[:, 0].abs().max()) == 0
    assert batch.joints is not None
    truth = batch.joints - batch.joints[:, :1]
    assert float((found.joints - truth).norm(dim=-1).mean()) < 0.03


def test_colours_of_the_two_origins(hand: HandModel) -> None:
    torch.manual_seed(0)
    network = SimpleHand(TINY, hand).eval()
    swapped = SimpleHand(dataclasses.replace(TINY, channels="bgr"), hand).eval()
    swapped.load_state_dict(network.state_dict())
    batch = _batch(hand)
    turned = dataclasses.replace(batch, image=batch.image[:, [2, 1, 0]])
    with torch.no_grad():
        expected = network(batch)
        found, other = swapped(turned), swapped(batch)
    torch.testing.assert_close(found.joints2d, expected.joints2d)
    assert not torch.allclose(other.joints2d, expected.joints2d)


# --------------------------------------------------------------------------------- the losses


def _told(batch: Batch, origin: Tensor) -> Prediction:
    """A perfect network whose origin is given."""
    assert batch.joints is not None
    assert batch.vertices is not None
    return Prediction(
        joints=batch.joints - batch.joints[:, :1],
        joints2d=batch.joints2d,
        features={"joints": batch.joints - origin, "vertices": batch.vertices - origin},
    )


def test_origins(hand: HandModel) -> None:
    batch = _batch(hand)
    assert batch.joints is not None
    assert batch.root is not None
    origins = {
        "camera_wrist": batch.root[:, None],
        "middle": batch.joints[:, 9:10],
        "wrist": batch.joints[:, :1],
    }
    named = {
        "camera_wrist": SimpleHandLossConfig(),
        "middle": SimpleHandLossConfig.original(),
        "wrist": SimpleHandLossConfig.sound(),
    }
    for name, config in named.items():
        assert config.origin == name
        for other, origin in origins.items():
            total = float(loss(_told(batch, origin), batch, config)["total"])
            assert (total < 1e-5) == (other == name), (name, other)


def test_terms_against_their_definition(hand: HandModel) -> None:
    """Hand 0: one 2D joint outside the crop, one unlabelled. Hand 1: wrist and middle finger's
    first joint both outside. Hand 2: no 3D pose. Hand 3: no valid 2D joint."""
    batch = _batch(hand, 4)
    assert batch.joints2d is not None
    joints2d = batch.joints2d.clone()
    valid = torch.ones(4, 21, dtype=torch.bool)
    joints2d[0, 3], valid[0, 5] = torch.tensor([70.0, 10.0]), False
    joints2d[1, 0] = joints2d[1, 9] = torch.tensor([10.0, -1.0])
    valid[3] = False
    batch = dataclasses.replace(
        batch,
        joints2d=joints2d,
        joints2d_valid=valid,
        has_pose=torch.tensor([True, True, False, True]),
    )
    draw = torch.Generator().manual_seed(5)
    found = Prediction(
        joints=torch.zeros(4, 21, 3),
        joints2d=64 * torch.rand(4, 21, 2, generator=draw),
        features={
            "joints": torch.randn(4, 21, 3, generator=draw),
            "vertices": torch.randn(4, 778, 3, generator=draw),
        },
    )
    terms = loss(found, batch, SimpleHandLossConfig())
    assert batch.root is not None
    root = batch.root.numpy()[:, None]
    taken = valid.numpy().copy()
    taken[0, 3] = taken[1, 0] = taken[1, 9] = False
    assert found.joints2d is not None
    pixels = np.abs(found.joints2d.numpy() - joints2d.numpy()).sum(2) * taken / 64
    flag = np.array([1.0, 0, 1, 0])

    def term(name: str) -> float:
        error = found.features[name].numpy() - (getattr(batch, name).numpy() - root)
        each = np.abs(error).sum(2).mean(1) * flag
        return 10 * float(each[[0, 1, 3]].mean())

    expected = {
        "joints2d": float(pixels.mean(1)[:3].mean()),
        "joints": term("joints"),
        "vertices": term("vertices"),
    }
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(value, rel=1e-5), name
    assert float(terms["total"]) == pytest.approx(sum(expected.values()), rel=1e-5)
    with pytest.raises(InputError, match=r"batch\.root"):
        loss(found, dataclasses.replace(batch, root=None))
    only = loss(
        found, dataclasses.replace(batch, root=None), SimpleHandLossConfig(joints=0, vertices=0)
    )
    assert set(only) == {"joints2d", "total"}
    with pytest.raises(InputError, match="origin"):
        SimpleHandLossConfig(origin="tip")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="joints2d"):
        SimpleHandLossConfig(joints2d=-1)


# ---------------------------------------------------------------------------------- importing


def test_file_in_the_originals_layout(hand: HandModel, tmp_path: Path) -> None:
    entries = entries_of("simplehand")
    network = load_official(write(tmp_path / "epoch_200", "simplehand"), hand=hand)
    assert network.config == SimpleHandConfig.original()
    assert not network.training
    state = network.state_dict()
    pairs = {
        "backbone.stem.1.point.conv.weight": "backbone.stem.1.conv_scale.conv.weight",
        "backbone.stages.2.blocks.17.mixer.branches.identity.running_var": (
            "backbone.stages.2.blocks.17.token_mixer.mixer.identity.running_var"
        ),
        "backbone.stages.2.blocks.17.mixer.norm.weight": (
            "backbone.stages.2.blocks.17.token_mixer.norm.identity.weight"
        ),
        "backbone.stages.0.blocks.3.mixer.scale.gamma": (
            "backbone.stages.0.blocks.3.token_mixer.layer_scale.gamma"
        ),
        "backbone.stages.0.blocks.3.scale.gamma": "backbone.stages.0.blocks.3.layer_scale.gamma",
        "backbone.stages.3.blocks.5.scale2.gamma": "backbone.stages.3.blocks.5.layer_scale_2.gamma",
        "backbone.stages.1.down.0.small.norm.bias": (
            "backbone.stages.1.downsample.proj.0.small_conv.bn.bias"
        ),
        "mesh_head.steps.2.blocks.0.qkv.weight": (
            "mesh_head.encoder_3.0.token_mixer.in_proj_weight"
        ),
        "mesh_head.steps.0.position": "mesh_head.pos_emb_1",
        "mesh_head.steps.1.more.bias": "mesh_head.upsample_2.upsample.bias",
    }
    for ours, theirs in pairs.items():
        assert torch.equal(state[ours], entries[theirs]), ours
    assert len(state) == len(entries) - 2  # ImageNet's classifier
    copied = {f"module.{key}": value for key, value in entries.items()}
    copied["module.mano_layer.th_betas"] = torch.zeros(1, 10)
    assert set(convert(copied)) == set(state)


def test_refused_files(hand: HandModel, tmp_path: Path) -> None:
    path = tmp_path / "epoch_200"
    torch.save({"state_dict": {"mesh_head.pos_emb_1": torch.ones(1)}, "epoch": Danger()}, path)
    with pytest.raises(WeightsError, match="objects other than tensors"):
        load_official(path, hand=hand)
    assert not Danger.ran
    converted = convert(entries_of("simplehand"))
    with torch.device("meta"):
        network = SimpleHand(SimpleHandConfig(), hand)
    converted.pop("joints_head.bias")
    with pytest.raises(WeightsError, match=r"missing joints_head\.bias"):
        fit(network, converted, "file")
    with pytest.raises(WeightsError, match=r"lacks: backbone\.stages\.0\.pool\.weight"):
        convert({"backbone.stages.0.pool.weight": torch.ones(1)})


def test_origin_of_a_file() -> None:
    def told(*wrapper: str, key: str = "joints") -> OfficialFile:
        entries = {key: torch.zeros(1)}
        return OfficialFile(path=Path("x.pth"), entries=entries, wrapper=frozenset(wrapper))

    original, copied = SimpleHandConfig.original(), SimpleHandConfig()
    assert (original.channels, original.tips) == ("bgr", "freihand")
    assert config_for(told("epoch", "optimizer_state_dict", "scaler_state_dict")) == original
    assert config_for(told("epoch", "optimizer", "scheduler")) == copied
    assert config_for(told(key="module.mano_layer.th_betas")) == copied
    assert config_for(told(), "original") == original
    with pytest.raises(InputError, match="colours"):
        config_for(told())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input_size", 100),
        ("depths", (1, 2, 3)),
        ("widths", (8, 16, 32, 65)),
        ("widths", (4, 8, 16, 48)),
        ("heads", 3),
        ("token_blocks", 0),
        ("drop_path", 1.0),
        ("channels", "gbr"),
        ("tips", "none"),
    ],
)
def test_bad_configuration(field: str, value: object) -> None:
    with pytest.raises(InputError, match=field):
        dataclasses.replace(SimpleHandConfig(), **{field: value})


def test_wrong_image_size(hand: HandModel) -> None:
    batch = _batch(hand)
    with pytest.raises(InputError, match=r"Batch\.image"):
        SimpleHand(TINY, hand)(dataclasses.replace(batch, image=batch.image[..., :32]))
