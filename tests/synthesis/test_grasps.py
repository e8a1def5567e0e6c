"""Grasps: the fast energies against the plain ones, checks against closed forms, files, resume."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from handhold.cli.main import main
from handhold.errors import InputError, WriteError
from handhold.geometry.signed_distance import MeshDistance
from handhold.hand.anatomy import LIMITS, angles_from_pose
from handhold.hand.model import HandModel
from handhold.objects.mesh import ObjectMesh
from handhold.synthesis.grasps.anneal import AnnealConfig
from handhold.synthesis.grasps.energies import EnergyConfig, PosePrior, energies
from handhold.synthesis.grasps.fast import FastEnergies
from handhold.synthesis.grasps.files import fill, read_grasps
from handhold.synthesis.grasps.generate import GraspConfig, make_batch
from handhold.synthesis.grasps.hand import GraspHand
from handhold.synthesis.grasps.optimise import ContactChoice, optimise
from handhold.synthesis.grasps.solid import prepare, repaired
from handhold.synthesis.grasps.starts import from_grips, from_hull, resting_poses
from handhold.synthesis.grasps.validate import (
    ValidationConfig,
    intersects_itself,
    is_held,
    judge,
    shared_volume,
)


def as_mesh(shape, name="thing"):
    return ObjectMesh(name=name, vertices=shape.vertices, faces=shape.faces)


@pytest.fixture(scope="module")
def hand():
    return GraspHand(HandModel.free())


@pytest.fixture(scope="module")
def can():
    shape = trimesh.creation.cylinder(radius=0.033, height=0.1, sections=32)
    return prepare(as_mesh(shape, "can"), points=500)


@pytest.fixture(scope="module")
def starts(hand, can):
    vectors, names = from_grips(hand, can, np.random.default_rng(0), 6)
    assert len(vectors) == len(names) == 6
    return torch.tensor(vectors, dtype=torch.float32)


SMALL = GraspConfig(batch=4, points=300, anneal=replace(GraspConfig().anneal, steps=10))


# ---- energies ----


@pytest.mark.parametrize("reach", [float("inf"), 0.02])
def test_fast_energies_and_slopes_equal_the_plain_ones(hand, can, starts, reach):
    config = EnergyConfig(table=40.0, inside=70.0)
    generator = torch.Generator().manual_seed(0)
    jitter = torch.randn(starts.shape, generator=generator) * torch.tensor([0.006] * 3 + [0.1] * 48)
    pose = starts + jitter  # deep in the object, fingers crossed
    indices = torch.randint(len(hand.candidates), (6, 4), generator=generator)
    planes = torch.tensor([[0.0, 0.6, 0.8, 0.04]]).expand(6, 4)
    fast = FastEnergies(hand, can, config, reach=reach)(pose, indices, planes)
    leaf = pose.clone().requires_grad_()
    vertices, joints = hand.posed(leaf)
    plain = energies(
        vertices,
        joints,
        hand.faces,
        leaf[:, 6:],
        hand.candidates[indices],
        can.field,
        can.points,
        hand.prior,
        config,
        planes,
    )
    for name in plain._fields:
        assert torch.allclose(getattr(fast.terms, name), getattr(plain, name), rtol=1e-4), name
        assert getattr(plain, name).max() > 0, name
    (slope,) = torch.autograd.grad(plain.total(config).sum(), leaf)
    assert (fast.slope - slope).abs().max() < 1e-4 * slope.abs().max()


def test_the_grid_gives_distance_and_normal_of_a_ball():
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.04)
    field = prepare(as_mesh(ball), points=50).field
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(300, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = rng.uniform(0.034, 0.052, 300)
    points = torch.tensor(direction * radius[:, None], dtype=torch.float32)
    distance, normal = field(points)
    assert np.abs(distance.numpy() - (radius - 0.04)).max() < 4e-4
    assert ((normal.numpy() * direction).sum(axis=1)).min() > 0.98
    assert ((field.rough(points) - distance).abs() <= field.roughness + 1e-6).all()


# ---- hand and starts ----


def test_candidates_lie_on_the_side_that_closes(hand):
    """Closing the fingers moves their candidates into the palm's half space, never backs."""
    counts = np.bincount(hand.digit_of, minlength=6)
    assert (counts[:5] >= 11).all() and counts[5] >= 4
    assert len(set(hand.candidates.tolist())) == len(hand.candidates)
    ids = hand.candidates.numpy()
    shape = trimesh.Trimesh(hand.model.template.numpy(), hand.faces.numpy(), process=False)
    facing = shape.vertex_normals[ids] @ hand.parts.palm_direction
    assert facing[hand.digit_of > 0].min() > 0


def test_the_prior_whitens_natural_poses(hand):
    from handhold.hand.anatomy import sample_pose

    poses = sample_pose(np.random.default_rng(77), 300, frames=hand.parts.frames)
    angles = torch.tensor(poses[:, 1:].reshape(-1, 45), dtype=torch.float32)
    for prior in (hand.prior, hand.diagonal_prior()):
        z = (angles - prior.mean) @ prior.whitening.T
        assert z.std(dim=0).max() < 1.4
        assert z.norm(dim=1).mean() < 8
    wide = PosePrior.diagonal(torch.zeros(45), torch.full((45,), 2.0))
    assert torch.equal(wide.whitening, 0.5 * torch.eye(45))


def test_published_starts_face_the_object_from_outside(hand, can):
    vectors = from_hull(hand, can, np.random.default_rng(0), 12)
    with torch.no_grad():
        vertices, _ = hand.posed(torch.tensor(vectors, dtype=torch.float32))
    vertices = vertices.numpy()
    middle = vertices.mean(axis=1)
    root = Rotation.from_rotvec(vectors[:, 3:6])
    palm = root.apply(hand.parts.palm_direction)
    toward = -middle / np.linalg.norm(middle, axis=1, keepdims=True)
    facing = (palm * toward).sum(axis=1)
    assert facing.min() > 0.35 and facing.mean() > 0.7
    away = can.grid.distance(vertices).min(axis=1)
    assert away.min() > 0 and np.median(away) > 0.08


def test_starts_above_a_table_come_from_above(hand, can):
    rests = resting_poses(can, np.random.default_rng(0), 12)
    corners = can.mesh.vertices @ rests[:, 2, :3].T + rests[:, 2, 3]
    assert np.abs(corners.min(axis=0)).max() < 1e-6  # each rests on its table
    vectors = from_hull(hand, can, np.random.default_rng(1), 12, rests[:, 2])
    with torch.no_grad():
        vertices, _ = hand.posed(torch.tensor(vectors, dtype=torch.float32))
    height = np.einsum("bvc,bc->bv", vertices.numpy(), rests[:, 2, :3]) + rests[:, 2, 3:]
    assert (height.mean(axis=1) > 0.05).all()


def test_annealing_lowers_the_energy_and_repeats(hand, can, starts):
    fast = FastEnergies(hand, can, GraspConfig().energy)
    choice = ContactChoice(hand, can, 4, 0.004)
    schedule = replace(GraspConfig().anneal, steps=40)
    first, again = (optimise(fast, choice, starts, schedule, 3) for _ in range(2))
    assert torch.equal(first.poses, again.poses) and torch.equal(first.contacts, again.contacts)
    before = optimise(fast, choice, starts, replace(schedule, steps=0), 3)
    config = fast.config
    assert first.terms.total(config).mean() < 0.8 * before.terms.total(config).mean()
    now = fast(first.poses, first.contacts)
    assert torch.allclose(now.total, first.terms.total(config), rtol=1e-5)  # kept ones are theirs


# ---- checks ----


def test_shared_volume_of_two_balls_is_the_lens():
    ball = prepare(as_mesh(trimesh.creation.icosphere(subdivisions=4, radius=0.03)), points=50)
    other = trimesh.creation.icosphere(subdivisions=4, radius=0.01)
    gap = 0.0385
    moved = other.vertices + [gap, 0.0, 0.0]
    entered = moved[ball.grid.distance(moved) < 0]
    volume = shared_volume(moved, other.faces, ball, entered)
    a, b = 0.03, 0.01
    lens = np.pi * (a + b - gap) ** 2 * (gap**2 + 2 * gap * (a + b) - 3 * (a - b) ** 2) / 12 / gap
    assert volume == pytest.approx(lens, rel=0.15)
    assert shared_volume(moved + 0.1, other.faces, ball, np.zeros((0, 3))) == 0.0


def test_a_mesh_through_itself_is_found():
    box = trimesh.creation.box((0.02, 0.02, 0.02))
    two = trimesh.util.concatenate([box, box.copy().apply_translation([0.015, 0.003, 0.004])])
    assert intersects_itself(two.vertices, two.faces)
    apart = trimesh.util.concatenate([box, box.copy().apply_translation([0.025, 0.0, 0.0])])
    assert not intersects_itself(apart.vertices, apart.faces)


def test_official_checks_differ_where_their_sources_do(hand, can, starts):
    generator, script = ValidationConfig.generator(), ValidationConfig.script()
    assert (generator.max_volume, script.max_volume) == (5e-7, 1e-6)
    far = np.zeros(51)
    far[:3] = 0.5
    with torch.no_grad():
        vertices = hand.posed(torch.tensor(far[None], dtype=torch.float32))[0][0].numpy()
    assert judge(hand, can, far, vertices, generator).reason == ""
    assert judge(hand, can, far, vertices, script).reason == "no contact"
    assert judge(hand, can, far, vertices, ValidationConfig()).reason == "no contact"
    assert is_held({"thumb": np.array([1.0, 0, 0]), "index": np.array([-1.0, 0, 0])})
    assert not is_held({"thumb": np.array([1.0, 0, 0]), "index": np.array([1.0, 0, 0])})
    with torch.no_grad():
        deep = starts[0].clone()
        middle = hand.posed(deep[None])[0][0].mean(dim=0)
        deep[:3] -= middle  # the can runs through the hand
        vertices = hand.posed(deep[None])[0][0].numpy()
    own = replace(ValidationConfig(), max_self_penetration=1.0)
    assert judge(hand, can, deep.numpy(), vertices, own).reason == "penetration"
    assert (
        judge(hand, can, deep.numpy(), vertices, replace(own, max_penetration=None)).reason
        == "volume"
    )


def test_valid_grasps_hold_by_an_independent_measure(hand, can):
    batch = make_batch(hand, can, replace(SMALL, batch=12), 0, 0)
    assert len(batch.vectors) >= 5
    assert len(batch.vectors) + sum(batch.fallen.values()) == 12
    exact = MeshDistance(*can.mesh.surface)
    for vector, deepest in zip(batch.vectors, batch.penetration, strict=True):
        out = hand.model(torch.tensor(vector[None, 3:]), translation=torch.tensor(vector[None, :3]))
        vertices = out.vertices[0].numpy().astype(np.float64)
        points = np.concatenate([vertices, vertices[hand.model.faces.numpy()].mean(axis=1)])
        distance, _, normal = exact.query(points)
        assert -distance.min() < 0.002 and abs(max(0.0, -distance.min()) - deepest) < 1e-5
        touching = normal[distance < 0.003]
        assert (touching @ touching.T).min() < 0.3  # from more than one side
        angles = angles_from_pose(vector[3:].reshape(16, 3).astype(np.float64), hand.parts.frames)
        assert np.maximum(LIMITS[..., 0] - angles, angles - LIMITS[..., 1]).max() < 16


# ---- objects ----


def test_a_repair_is_said_aloud():
    box = trimesh.creation.box((0.05, 0.06, 0.07))
    holed = ObjectMesh(name="holed", vertices=box.vertices, faces=box.faces[1:])
    vertices, faces, notes = repaired(holed)
    assert len(faces) == 12 and "1 triangles added, closed" in notes[0]
    assert trimesh.Trimesh(vertices, faces).volume == pytest.approx(0.05 * 0.06 * 0.07)
    turned = ObjectMesh(name="turned", vertices=box.vertices, faces=box.faces[:, ::-1])
    assert "inside out" in repaired(turned)[2][0]
    assert repaired(as_mesh(box))[2] == ()


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (trimesh.creation.box((0.3, 0.3, 0.3)), "larger than a hand"),
        (trimesh.creation.box((50, 60, 70)), "in metres"),
        (trimesh.Trimesh([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]], [[0, 1, 2]]), "encloses no volume"),
    ],
)
def test_impossible_objects_are_refused_by_name(shape, words):
    with pytest.raises(InputError, match=f"thing.*{words}"):
        prepare(as_mesh(shape), points=50)


# ---- files ----


def test_shards_repeat_byte_for_byte_and_refuse_other_settings(hand, can, tmp_path):
    outcome = fill(hand, can, tmp_path / "a", 4, 5, SMALL)
    assert outcome.valid >= 4 and outcome.attempts == outcome.valid + sum(outcome.fallen.values())
    shards = sorted((tmp_path / "a").glob("shard-*"))
    assert len(shards) >= 2
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / shards[1].name).write_bytes(shards[1].read_bytes())  # the first is missing
    fill(hand, can, tmp_path / "b", 4, 5, SMALL)
    for shard in shards:
        assert shard.read_bytes() == (tmp_path / "b" / shard.name).read_bytes()
    assert len(read_grasps(tmp_path / "a")["vectors"]) == outcome.valid
    with pytest.raises(InputError, match="another seed"):
        fill(hand, can, tmp_path / "a", 4, 6, SMALL)
    with pytest.raises(InputError, match="another config"):
        fill(hand, can, tmp_path / "a", 4, 5, replace(SMALL, nearness=0.01))


def test_a_full_disk_leaves_finished_shards(hand, can, tmp_path, monkeypatch):
    from pathlib import Path

    fill(hand, can, tmp_path, 1, 5, SMALL)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WriteError, match=r"shard-.*No space left"):
        fill(hand, can, tmp_path, 99, 5, SMALL)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_command_survives_bad_meshes(tmp_path, capsys):
    meshes = tmp_path / "meshes"
    meshes.mkdir()
    trimesh.creation.cylinder(radius=0.03, height=0.1, sections=16).export(meshes / "can.ply")
    trimesh.creation.box((0.4, 0.4, 0.4)).export(meshes / "crate.ply")
    (meshes / "broken.ply").write_bytes(b"ply\nnot a mesh")
    options = ["--objects", str(meshes), "--count", "6", "--batch", "4", "--steps", "4"]
    whole = tmp_path / "whole"
    arguments = ["synth", "grasps", *options]
    assert main([*arguments, "--out", str(whole), "--json-files"]) == 1
    errors = capsys.readouterr().err
    assert errors.count("handhold:") == 2
    assert "broken.ply" in errors and "crate: larger than a hand" in errors
    shards = sorted((whole / "can").glob("shard-*"))
    assert shards and (whole / "can" / "sheet.png").stat().st_size > 10_000
    arrays = read_grasps(whole / "can")
    records = sorted((whole / "can" / "json").glob("*.json"))
    assert len(records) == len(arrays["vectors"]) >= 6
    record = json.loads(records[0].read_text())
    assert record["mano_trans"] + record["mano_pose"] == pytest.approx(
        arrays["vectors"][0].tolist()
    )
    report = json.loads((whole / "report.json").read_text())
    assert report["objects"]["can"]["valid"] == len(arrays["vectors"])
    assert set(report["failed"]) == {"broken", "crate"}


def test_an_empty_folder_is_one_error(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["synth", "grasps", "--objects", str(tmp_path), "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("handhold:") == 1
    assert not out.exists()


def test_published_settings_are_the_released_ones():
    config = GraspConfig.published()
    energy, schedule = config.energy, config.anneal
    assert schedule == AnnealConfig() and schedule.steps == 6000 and schedule.temperature == 18
    weights = (energy.distance, energy.penetration, energy.prior, energy.self_penetration)
    assert weights == (100, 100, 0.5, 10) and energy.inside == 0 and energy.released_self_form


def test_a_can_falls_from_a_hand_that_is_away_and_stays_in_one_that_holds(hand, can):
    from handhold.synthesis.grasps.lift import FELL, displacement

    batch = make_batch(hand, can, SMALL, 1, 0)
    with torch.no_grad():
        vertices = hand.posed(torch.tensor(batch.vectors))[0].numpy()
    down = np.array([0.0, 0.0, -1.0])
    assert displacement(hand, can, vertices[0] + 1.0, down) == FELL
    assert min(displacement(hand, can, v, down, 0.3) for v in vertices) < 0.01
