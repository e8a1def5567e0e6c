"""What golden numbers of MobRecon cannot show: meshes of other hands, losses, imports, variants."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from tests.models.official_file import Danger, write

from handhold.cli.weights import import_weights
from handhold.errors import FileFormatError, InputError, MissingFileError, WeightsError
from handhold.hand.hierarchy import build_hierarchy, read_hierarchy
from handhold.hand.model import HandModel
from handhold.hand.regressor import joint_regressor
from handhold.models.loading import load_model
from handhold.models.mobrecon.loss import MobReconLossConfig, loss
from handhold.models.mobrecon.model import MobRecon, MobReconConfig
from handhold.models.mobrecon.official import config_for, convert, load_backbone, load_official
from handhold.models.nn.dense_stack import ConvNorm, DenseStackBackbone, SqueezeExcite
from handhold.models.nn.hope_config import HopeProcessorConfig
from handhold.models.nn.mesh_decoder import MeshDecoder, SeparableSpiralConv, SpiralConv, sample
from handhold.models.nn.mesh_losses import edge_term, normal_term
from handhold.models.weights import read_official
from handhold.scene import Batch, Prediction

TINY = {
    "input_size": 64,
    "width": 16,
    "joints_width": 8,
    "latent_width": 16,
    "mesh_widths": (16, 16, 8, 8),
}


def _batch(count: int = 2, size: int = 64, **targets: Any) -> Batch:
    image = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[0.0, 0.0, size, size]]).expand(count, 4)
    return Batch(image=image, hand_box=box, object_box=box, **targets)


@pytest.fixture(scope="module")
def tiny(hand: HandModel) -> MobRecon:
    torch.manual_seed(1)
    return MobRecon(MobReconConfig(**TINY, init="kaiming"), hand).eval()


# ------------------------------------------------------------------------------------- blocks


def test_spiral_convolutions_against_loops() -> None:
    torch.manual_seed(0)
    x, spiral = torch.randn(2, 5, 3), torch.tensor([[0, 1, 2], [1, 4, 0], [4, 3, 3]])
    plain, separable = SpiralConv(3, 2, 3), SeparableSpiralConv(3, 2, 3)
    with torch.no_grad():
        found, other = plain(x, spiral), separable(x, spiral)
        for b in range(2):
            for v, places in enumerate(spiral.tolist()):
                stacked = torch.cat([x[b, p] for p in places])  # spiral-major
                expected = plain.linear.weight @ stacked + plain.linear.bias
                torch.testing.assert_close(found[b, v], expected)
                summed = sum(separable.spatial[:, i] * x[b, p] for i, p in enumerate(places))
                torch.testing.assert_close(other[b, v], separable.linear.weight @ summed)


def test_samples_lie_at_the_centres_of_the_outermost_cells() -> None:
    ramp = torch.arange(4.0)[None, None, None].expand(1, 1, 4, 4)
    places = torch.tensor([[[0.0, 0.5], [1.0, 0.5], [0.5, 0.0], [-3.0, 9.0], [1.7, 0.2]]])
    assert sample(ramp, places)[0, :, 0].tolist() == [0.0, 3.0, 1.5, 0.0, 3.0]


def test_squeeze_clamps_between_its_layers() -> None:
    torch.manual_seed(0)
    block = SqueezeExcite(4).eval()
    x = 20 * torch.randn(3, 4, 2, 2)
    with torch.no_grad():
        hidden = x.mean((2, 3)) @ block.down.weight.t() / (1 + 1e-5) ** 0.5
        assert bool((hidden > 4).any())
        assert bool((hidden < 0).any())
        scale = torch.sigmoid(hidden.clip(0, 4) @ block.up.weight.t() / (1 + 1e-5) ** 0.5)
        torch.testing.assert_close(block(x), x * scale[:, :, None, None])


# ---------------------------------------------------------------------------------- the network


def test_outputs(tiny: MobRecon, hand: HandModel) -> None:
    batch = _batch()
    with torch.no_grad():
        found = tiny(batch)
        alone = tiny(batch.map(lambda t: t[1:]))
    assert found.vertices is not None
    assert found.joints2d is not None
    assert found.vertices.shape == (2, 778, 3)
    torch.testing.assert_close(found.vertices[1:], alone.vertices, atol=1e-6, rtol=1e-4)
    # the free hand's own tips, whatever table the original names
    canonical_tips = (4, 8, 12, 16, 20)
    torch.testing.assert_close(found.joints[:, canonical_tips], found.vertices[:, hand.tips])
    with pytest.raises(InputError, match=r"image: expected \(B, 3, 64, 64\)"):
        tiny(_batch(size=96))


def test_tips_of_manos_hand() -> None:
    """The original's regressor takes 445 for the middle tip where labels take 444."""
    data = Path(__file__).parents[1] / "golden" / "data" / "synthetic_mano_right.npz"
    mano = HandModel.from_file(data)
    official, sound = (joint_regressor(mano, name) for name in ("unihope_helper", "hand"))
    changed = np.flatnonzero((official != sound).any(1))
    assert changed.tolist() == [12]
    assert np.flatnonzero(official[12]).tolist() == [445]
    assert np.flatnonzero(sound[12]).tolist() == [444]
    rest = mano(torch.zeros(16, 3))
    found = torch.from_numpy(sound) @ rest.vertices
    torch.testing.assert_close(found, rest.joints, atol=1e-6, rtol=1e-4)
    with pytest.raises(InputError, match="tips"):
        joint_regressor(mano, "nobody")


def test_variants(hand: HandModel) -> None:
    """Range, unit and what the vertices are added to."""
    torch.manual_seed(0)
    plain = MobRecon(MobReconConfig(**TINY), hand).eval()
    batch = _batch()

    def run(**changes: Any) -> Prediction:
        other = MobRecon(dataclasses.replace(plain.config, **changes), hand).eval()
        other.load_state_dict(plain.state_dict())
        with torch.no_grad():
            return other(batch)

    base = run()
    torch.testing.assert_close(run(unit=0.2).vertices, base.vertices * 0.2)
    symmetric = dataclasses.replace(batch, image=batch.image * 2 - 1)
    with torch.no_grad():
        torch.testing.assert_close(run(image_range="symmetric").joints, plain(symmetric).joints)
    added = run(template_offsets=True)
    torch.testing.assert_close(added.vertices - base.vertices, hand.template.expand(2, 778, 3))
    centred = run(template_offsets=True, mano_center=0, unit=0.2).vertices - base.vertices * 0.2
    expected = hand(torch.zeros(16, 3), center=0).vertices
    torch.testing.assert_close(centred[0], expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh_conv": "graph"}, "mesh_conv"),
        ({"input_size": 100}, "input_size"),
        ({"mesh_widths": (1, 2)}, "mesh_widths"),
        ({"unused": "some"}, "unused"),
        ({"unit": 0.0}, "unit"),
        ({"slope": 1.0}, "slope"),
        ({"mano_center": 21}, "mano_center"),
        ({"width": 12}, "width"),
        ({"image_range": "bytes"}, "image_range"),
    ],
)
def test_bad_configurations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MobReconConfig(**changes)


# ------------------------------------------------------------------------------------- losses


def test_mesh_terms_against_a_triangle() -> None:
    faces = torch.tensor([[0, 1, 2]])
    target = torch.tensor([[[0.0, 0, 0], [3.0, 0, 0], [0.0, 4, 0]]])
    found = target.clone()
    found[0, 1, 2] = 4.0  # (3, 0, 4): edges 5, |(-3, 4, -4)| = sqrt 41, 4
    known = torch.tensor([True])
    edge = ((5 - 3) + (41**0.5 - 5) + 0) / 3
    torch.testing.assert_close(edge_term(found, target, faces, known), torch.tensor(edge))
    normal = (4 / 5 + 4 / 41**0.5 + 0) / 3
    torch.testing.assert_close(normal_term(found, target, faces, known), torch.tensor(normal))
    nobody = torch.tensor([False])
    assert float(edge_term(found, target, faces, nobody)) == 0


def test_loss(hand: HandModel) -> None:
    pose = 0.3 * torch.randn(2, 16, 3, generator=torch.Generator().manual_seed(3))
    posed = hand(pose)
    joints2d = torch.full((2, 21, 2), 32.0)
    valid = torch.ones(2, 21, dtype=torch.bool)
    valid[0, 5] = False
    batch = _batch(
        vertices=posed.vertices,
        joints=posed.joints,
        joints2d=joints2d,
        joints2d_valid=valid,
        has_pose=torch.tensor([True, False]),
    )
    shift = torch.tensor([0.01, -0.02, 0.03])
    guess = joints2d + 6.4
    guess[0, 5] = 1e4
    broken = torch.cat((posed.vertices[:1] + shift, posed.vertices[1:] * 9))
    prediction = Prediction(
        joints=posed.joints, vertices=broken, joints2d=guess, features={"faces": hand.faces}
    )
    terms = loss(prediction, batch)
    torch.testing.assert_close(terms["vertices"], torch.tensor(0.02))
    torch.testing.assert_close(terms["joints2d"], torch.tensor(0.1))
    assert float(terms["edge"]) < 1e-7
    assert float(terms["normal"]) < 1e-5
    assert set(terms) == {"vertices", "joints2d", "normal", "edge", "total"}
    torch.testing.assert_close(terms["total"], torch.tensor(0.12), atol=1e-5, rtol=0)
    handmesh = loss(prediction, batch, MobReconLossConfig.handmesh())
    torch.testing.assert_close(handmesh["vertices"], torch.tensor(0.1))
    torch.testing.assert_close(handmesh["joints2d"], torch.tensor(0.1))
    with pytest.raises(InputError, match=r"batch\.vertices"):
        loss(prediction, _batch(joints2d=joints2d))
    with pytest.raises(InputError, match="edge"):
        MobReconLossConfig(edge=-1.0)


def test_every_used_parameter_learns(hand: HandModel) -> None:
    torch.manual_seed(0)
    network = MobRecon(MobReconConfig(**TINY, init="kaiming", slope=0.1), hand).train()
    posed = hand(torch.zeros(4, 16, 3))
    batch = _batch(4, vertices=posed.vertices, joints2d=torch.full((4, 21, 2), 30.0))
    loss(network(batch), batch)["total"].backward()
    idle = network.parameters_without_gradient()
    assert idle == ("backbone.stack1.encoder.squeeze3.",)
    for name, parameter in network.named_parameters():
        if name.startswith(idle):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name


# ------------------------------------------------------------------------------------ imports


def _table(path: Path, hand: HandModel, *, scale: float = 1.0) -> None:
    """A made-up transform.pkl: the hierarchy of a stretched hand, as sparse matrices."""
    arrays = hand.arrays
    made = build_hierarchy(arrays.v_template * (1.0, scale, 1.0), arrays.faces)
    matrices = []
    for level, (columns, weights) in enumerate(zip(made.columns, made.weights, strict=True)):
        rows = np.repeat(np.arange(len(columns)), 3)
        shape = (made.sizes[level], made.sizes[level + 1])
        matrices.append(
            scipy.sparse.csc_matrix((weights.ravel(), (rows, columns.ravel())), shape=shape)
        )
    content = {
        "vertices": list(made.vertices),
        "face": [faces.astype(np.uint32) for faces in made.faces],
        "adj": [scipy.sparse.csc_matrix(np.eye(3))],
        "down_transform": [],
        "up_transform": matrices,
    }
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in UniHOPE's layout with made-up numbers, hand data and a wrapper dictionary."""
    return write(tmp_path_factory.mktemp("mobrecon") / "model.pth", "mobrecon")


def test_import_needs_the_authors_table(checkpoint: Path, hand: HandModel, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"transform\.pkl"):
        load_official(checkpoint, hand=hand)
    with pytest.raises(MissingFileError, match="nowhere"):
        load_official(checkpoint, template=tmp_path / "nowhere.pkl", hand=hand)
    table = tmp_path / "transform.pkl"
    _table(table, hand, scale=1.3)
    network = load_official(checkpoint, template=table, hand=hand)
    assert network.config == MobReconConfig(mesh="stored")
    file = read_official(checkpoint).entries
    state = network.state_dict()
    for ours, theirs in {
        "backbone.stack2.encoder.dense3.units.2.depthwise.0.conv.weight": (
            "backbone.dense_stack2.dense3.conv3.conv3x3.0.0.weight"
        ),
        "backbone.stack1.squeeze6.up_norm.running_var": (
            "backbone.dense_stack1.senet6.fc2.1.running_var"
        ),
        "backbone.stack1.narrow2.1.pointwise.norm.bias": (
            "backbone.dense_stack1.thrink2.1.conv1x1.1.bias"
        ),
        "decoder.layers.2.linear.weight": "decoder3d.de_layer.2.conv.channel_layer.weight",
        "backbone.joints.layers.1.weight": "backbone.uv_reg.1.0.weight",
    }.items():
        assert torch.equal(state[ours], file[f"module.{theirs}"]), ours
    spatial = file["module.decoder3d.de_layer.0.conv.spatial_layer.weight"]
    assert torch.equal(state["decoder.layers.0.spatial"], spatial.reshape(256, 9))
    # the table is kept with the weights: the same numbers under any hand
    given = read_hierarchy(table)
    own = build_hierarchy(hand.arrays.v_template, hand.arrays.faces)
    assert not np.array_equal(given.spirals[1], own.spirals[1])
    for level in range(4):
        assert torch.equal(
            state[f"decoder.spirals_{level}"], torch.from_numpy(given.spirals[level])
        )
    again = MobRecon(network.config, hand)
    again.load_state_dict(state)
    batch = _batch(size=128)
    with torch.no_grad():
        expected, found = network(batch), again.eval()(batch)
    assert torch.equal(expected.vertices, found.vertices)
    built = load_official(checkpoint, template="hand", hand=hand)
    torch.testing.assert_close(built.decoder.up_weights_0, torch.from_numpy(own.weights[0]).float())


def test_through_the_command(
    checkpoint: Path, hand: HandModel, other_mano: Path, tmp_path: Path
) -> None:
    out, table = tmp_path / "mobrecon.safetensors", tmp_path / "transform.pkl"
    with pytest.raises(WeightsError, match=r"transform\.pkl"):
        import_weights("mobrecon", checkpoint, out=out)
    assert not out.exists()
    _table(table, hand, scale=1.3)
    import_weights("mobrecon", checkpoint, out=out, template=str(table))
    with pytest.raises(WeightsError, match=r"trained with MANO .*pass --mano FOLDER"):
        load_model("mobrecon", weights=out)
    model = load_model("mobrecon", weights=out, mano=other_mano)
    assert model.config == MobReconConfig(mesh="stored")
    assert model.processor.config == HopeProcessorConfig.unihope(128, hand=True)
    assert model.extra["source"]["file"] == checkpoint.name
    with torch.no_grad():
        assert bool(model.network(_batch(size=128)).vertices.isfinite().all())


def test_gaps_leftovers_and_other_methods(
    checkpoint: Path, hand: HandModel, tmp_path: Path
) -> None:
    entries = read_official(checkpoint).entries
    path = tmp_path / "broken.pth"
    gap = {k: v for k, v in entries.items() if "senet5.fc2.0" not in k}
    torch.save(gap, path)
    with pytest.raises(WeightsError, match=r"missing backbone\.stack1\.squeeze5\.up\.weight"):
        load_official(path, template="hand", hand=hand)
    torch.save(entries | {"module.backbone.dense_stack9.x": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match=r"lacks: module\.backbone\.dense_stack9\.x"):
        load_official(path, template="hand", hand=hand)
    with pytest.raises(WeightsError, match="none of MobRecon's"):
        config_for({"decoder3d.x": torch.ones(1)})
    with pytest.raises(InputError, match="origin"):
        config_for(entries, "elsewhere")  # pyright: ignore[reportArgumentType]


def test_nothing_in_a_file_is_executed(hand: HandModel, checkpoint: Path, tmp_path: Path) -> None:
    path, table = tmp_path / "model.pth", tmp_path / "transform.pkl"
    torch.save({"state_dict": {"decoder3d.upsample": torch.ones(2)}, "epoch": Danger()}, path)
    with pytest.raises(WeightsError, match="objects other than tensors"):
        load_official(path, template="hand", hand=hand)
    table.write_bytes(pickle.dumps({"vertices": Danger()}))
    with pytest.raises(FileFormatError, match="refused"):
        load_official(checkpoint, template=table, hand=hand)
    assert not Danger.ran


def test_other_tables_are_refused(hand: HandModel, tmp_path: Path) -> None:
    path = tmp_path / "transform.pkl"
    _table(path, hand)
    content = pickle.loads(path.read_bytes())  # noqa: S301, TID251 - written just above
    for changes, message in (
        ({"up_transform": content["up_transform"][:3]}, "up_transform: expected a list of 4"),
        ({"vertices": None}, "vertices: expected a list of 5"),
        ({"face": [f + 700 for f in content["face"]]}, r"face\[0\]: expected vertex ids"),
        (
            {"up_transform": [scipy.sparse.csc_matrix(np.ones((778, 389)))] * 4},
            "at most three entries",
        ),
        ({"up_transform": [m.T for m in content["up_transform"]]}, r"expected finite numbers"),
    ):
        path.write_bytes(pickle.dumps(content | changes))
        with pytest.raises(FileFormatError, match=message):
            read_hierarchy(path)
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(FileFormatError, match="dictionary"):
        read_hierarchy(path)


def test_backbone_of_the_authors(checkpoint: Path, tmp_path: Path) -> None:
    """densestack.pth: the backbone's keys without prefix."""
    entries = read_official(checkpoint).entries
    prefix = "module.backbone."
    bare = {k.removeprefix(prefix): v for k, v in entries.items() if k.startswith(prefix)}
    path = tmp_path / "densestack.pth"
    torch.save(bare, path)
    backbone = DenseStackBackbone(unused="none", rotation=True)
    before = backbone.stack3.dense1.units[0].pointwise.conv.weight.clone()
    kept = load_backbone(backbone, path)
    assert kept
    assert all(key.startswith("stack3.") for key in kept)
    assert torch.equal(backbone.stack3.dense1.units[0].pointwise.conv.weight, before)
    assert isinstance(backbone.fold, ConvNorm)
    assert torch.equal(backbone.fold.conv.weight, bare["thrink.0.weight"])
    torch.save({"classifier.weight": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match="classifier"):
        load_backbone(backbone, path)


def test_keys_map_one_to_one(checkpoint: Path, hand: HandModel) -> None:
    entries = read_official(checkpoint).entries
    converted = convert(entries)
    assert len(converted) == len([k for k in entries if "mano_layer" not in k])
    with torch.device("meta"):
        own = MobRecon(MobReconConfig(), hand).state_dict()
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in own.items()}


def test_decoder_follows_the_given_mesh(hand: HandModel) -> None:
    """Without convolutions the up-sampling alone gives back linear functions of position."""
    made = build_hierarchy(hand.arrays.v_template, hand.arrays.faces, edge_rule="barycentric")
    decoder = MeshDecoder(made, latent_width=4, widths=(4, 4, 4, 4))
    ones = torch.ones(1, made.sizes[1], 1)
    columns, weights = decoder.get_buffer("up_columns_0"), decoder.get_buffer("up_weights_0")
    torch.testing.assert_close((ones[0, columns, 0] * weights).sum(1), torch.ones(778))
