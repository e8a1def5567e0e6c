"""What golden numbers of H2ONet cannot show: rotation, stop-gradients, losses, imports."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.official_file import Danger, made_up

from handhold.errors import InputError, WeightsError
from handhold.geometry.rotation import axis_angle_to_matrix_manopth, sixd_to_matrix
from handhold.hand.model import HandModel
from handhold.models.h2onet.loss import H2ONetLossConfig, canonical, loss
from handhold.models.h2onet.model import H2ONet, H2ONetConfig, rows_to_matrix
from handhold.models.h2onet.official import config_for, convert, load_official
from handhold.scene import Batch, Prediction

TINY = {
    "input_size": 64,
    "width": 16,
    "joints_width": 8,
    "latent_width": 16,
    "mesh_widths": (16, 16, 8, 8),
    "rotation_widths": (16, 8, 16, 16, 16, 16, 8),
    "init": "kaiming",
    "slope": 0.1,
}


def _batch(hand: HandModel, count: int = 2) -> Batch:
    draw = torch.Generator().manual_seed(0)
    pose = 0.4 * torch.randn(count, 16, 3, generator=draw)
    betas = 0.5 * torch.randn(count, 10, generator=draw)
    posed = hand(pose, betas)
    box = torch.tensor([[0.0, 0.0, 64.0, 64.0]]).expand(count, 4)
    return Batch(
        image=torch.rand(count, 3, 64, 64, generator=draw),
        hand_box=box,
        object_box=box,
        pose=pose,
        betas=betas,
        joints=posed.joints,
        vertices=posed.vertices,
        joints2d=64 * torch.rand(count, 21, 2, generator=draw),
    )


def _network(hand: HandModel, **changes: Any) -> H2ONet:
    torch.manual_seed(2)
    return H2ONet(H2ONetConfig(**(TINY | changes)), hand)


def test_six_numbers_are_rows() -> None:
    sixd = torch.tensor([[0.0, 0, 2, 3, 0, 5]])
    expected = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    torch.testing.assert_close(rows_to_matrix(sixd)[0], expected)
    many = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    found = rows_to_matrix(many)
    torch.testing.assert_close(found, sixd_to_matrix(many).mT)
    torch.testing.assert_close(found @ found.mT, torch.eye(3).expand(20, 3, 3))
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(20))
    assert bool(rows_to_matrix(torch.zeros(1, 6)).isfinite().all())


def test_canonical_hand_is_the_hand_without_global_rotation(hand: HandModel) -> None:
    batch = _batch(hand, 5)
    assert batch.pose is not None
    assert batch.joints is not None
    assert batch.vertices is not None
    rotation = axis_angle_to_matrix_manopth(batch.pose[:, 0])
    still = batch.pose.clone()
    still[:, 0] = 0
    expected = hand(still, batch.betas)
    vertices = canonical(batch.vertices, batch.joints, rotation)
    joints = canonical(batch.joints, batch.joints, rotation)
    torch.testing.assert_close(vertices, expected.vertices, atol=1e-6, rtol=0)
    torch.testing.assert_close(joints, expected.joints, atol=1e-6, rtol=0)


def test_rotation_turns_about_the_wrist(hand: HandModel) -> None:
    network, batch = _network(hand).eval(), _batch(hand)
    with torch.no_grad():
        found = network(batch)
    turn, still = found.features["rotation"], found.features["canonical_vertices"]
    root = found.features["canonical_joints"][:, :1]
    torch.testing.assert_close(found.joints[:, :1], root)
    expected = torch.einsum("bij,bvj->bvi", turn, still - root) + root
    torch.testing.assert_close(found.vertices, expected)


def test_loss_vanishes_for_the_truth(hand: HandModel) -> None:
    batch = _batch(hand)
    assert batch.pose is not None
    assert batch.joints is not None
    assert batch.vertices is not None
    rotation = axis_angle_to_matrix_manopth(batch.pose[:, 0])
    truth = Prediction(
        joints=batch.joints,
        vertices=batch.vertices,
        joints2d=batch.joints2d,
        features={
            "faces": hand.faces,
            "rotation": rotation,
            "canonical_vertices": canonical(batch.vertices, batch.joints, rotation),
            "canonical_joints": canonical(batch.joints, batch.joints, rotation),
        },
    )
    terms = loss(truth, batch)
    assert all(float(v) < 1e-7 for k, v in terms.items() if k not in ("normal", "total"))
    assert float(terms["normal"]) < 1e-5

    features = truth.features | {"rotation": rotation.mT}
    shift = torch.tensor([0.01, 0.0, -0.02])
    vertices = torch.stack((batch.vertices[0] + shift, batch.vertices[1] * 7))
    other = dataclasses.replace(truth, vertices=vertices, features=features)
    known = dataclasses.replace(batch, has_pose=torch.tensor([True, False]))
    terms = loss(other, known)
    torch.testing.assert_close(terms["turned_vertices"], torch.tensor(0.01))
    expected = ((rotation[0].T - rotation[0]) ** 2).mean()
    torch.testing.assert_close(terms["rotation"], expected)
    first = loss(other, known, H2ONetLossConfig.first_stage())
    assert set(first) == {"vertices", "joints", "normal", "edge", "joints2d", "total"}
    with pytest.raises(InputError, match=r"batch\.pose"):
        loss(truth, dataclasses.replace(batch, pose=None))
    with pytest.raises(InputError, match="rotation"):
        H2ONetLossConfig(rotation=-1.0)


def test_stop_gradients(hand: HandModel) -> None:
    """The rotated hand's losses reach the mesh only through the added root, the rotation's loss
    not at all; without `detach` they do."""
    weights = H2ONetLossConfig(vertices=0, joints=0, normal=0, edge=0, joints2d=0)
    only_rotation = dataclasses.replace(weights, turned_vertices=0, turned_joints=0)
    batch = _batch(hand)

    def reached(network: H2ONet, config: H2ONetLossConfig) -> set[str]:
        network.zero_grad()
        loss(network.train()(batch), batch, config)["total"].backward()
        return {
            ".".join(name.split(".")[:2])
            for name, p in network.named_parameters()
            if p.grad is not None and bool(p.grad.any())
        }

    network = _network(hand)
    found = reached(network, only_rotation)
    assert found == {"backbone.stack3", *(n for n in found if n.startswith("rotation."))}
    assert "rotation.last" in found
    assert {"decoder.head", "regressor"} <= reached(network, weights)
    loose = _network(hand, detach=False)
    assert "backbone.stack2" in reached(loose, only_rotation)

    complete = reached(network, H2ONetLossConfig())
    idle = network.parameters_without_gradient()
    expected = {
        ".".join(name.split(".")[:2])
        for name, _ in network.named_parameters()
        if not name.startswith(idle)
    }
    assert complete == expected


def test_constant_regressor(hand: HandModel) -> None:
    network = _network(hand, learn_regressor=False)
    assert "regressor" not in network.state_dict()
    assert "regressor" in _network(hand).state_dict()
    torch.testing.assert_close(network.regressor, _network(hand).regressor)


def test_fresh_rotation_for_the_second_stage(hand: HandModel) -> None:
    network = _network(hand)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.restart_rotation()
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(k.startswith("rotation.") and k.endswith("weight") for k in changed)


def test_bad_configurations() -> None:
    with pytest.raises(InputError, match="rotation_widths"):
        H2ONetConfig(rotation_widths=(1, 2))  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"H2ONetConfig\.mesh"):
        H2ONetConfig(mesh="file")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_import(hand: HandModel, tmp_path: Path, prefix: str) -> None:
    """A file in the original's layout with made-up numbers; DataParallel's prefix or none."""
    entries = {prefix + key: value for key, value in made_up("h2onet").items()}
    count = len([key for key in entries if "mano_layer" not in key])
    regressor = torch.rand(21, 778, generator=torch.Generator().manual_seed(0))
    entries[prefix + "mano_joint_reg"] = regressor
    path = tmp_path / "model.pth"
    torch.save({"state_dict": entries, "optimizer": {}, "epoch": 3}, path)
    network = load_official(path, template="hand", hand=hand)
    path.unlink()
    assert network.config == H2ONetConfig(mesh="stored")
    assert torch.equal(network.regressor, regressor)
    converted = convert(entries)
    assert len(converted) == count
    tables = [k for k in network.state_dict() if k not in converted]
    assert all(k.startswith(("decoder.up_", "decoder.spirals_")) for k in tables)
    assert len(tables) == 12


def test_refused_files(hand: HandModel, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {"decoder3d.rot_reg.x": torch.ones(1)}}, path)
    with pytest.raises(WeightsError, match=r"transform\.pkl"):
        load_official(path, hand=hand)
    with pytest.raises(WeightsError, match=r"lacks: decoder3d\.rot_reg\.x"):
        load_official(path, template="hand", hand=hand)
    torch.save({"state_dict": {"decoder3d.upsample": torch.ones(1)}}, path)
    with pytest.raises(WeightsError, match="none of H2ONet's"):
        load_official(path, template="hand", hand=hand)
    with pytest.raises(WeightsError, match="none of H2ONet's"):
        config_for({})
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": Danger()}, path)
    with pytest.raises(WeightsError, match="objects other than tensors"):
        load_official(path, template="hand", hand=hand)
    assert not Danger.ran
