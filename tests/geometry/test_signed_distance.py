"""Signed distances against closed forms: box, sphere, cylinder, overlapping pieces."""

import copy

import igl
import numpy as np
import pytest
import torch
import trimesh

from handhold.errors import InputError
from handhold.geometry.signed_distance import GridDistance, MeshDistance
from handhold.hand.model import HandModel
from handhold.hand.topology import closed_faces

HALF = np.array([0.03, 0.05, 0.02])


def box_distance(points: np.ndarray, half: np.ndarray) -> np.ndarray:
    q = np.abs(points) - half
    return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(axis=-1), 0)


def cylinder_distance(points: np.ndarray, radius: float, half: float) -> np.ndarray:
    q = np.stack([np.hypot(points[:, 0], points[:, 1]) - radius, np.abs(points[:, 2]) - half], -1)
    return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(axis=-1), 0)


SOLIDS = {
    "box": (trimesh.creation.box(2 * HALF), lambda p: box_distance(p, HALF)),
    "sphere": (
        trimesh.creation.icosphere(subdivisions=4, radius=0.04),
        lambda p: np.linalg.norm(p, axis=-1) - 0.04,
    ),
    "cylinder": (
        trimesh.creation.cylinder(radius=0.03, height=0.1, sections=128),
        lambda p: cylinder_distance(p, 0.03, 0.05),
    ),
}


@pytest.fixture(params=sorted(SOLIDS))
def solid(request):
    mesh, truth = SOLIDS[request.param]
    points = np.random.default_rng(5).uniform(-0.07, 0.07, (4000, 3))
    return np.asarray(mesh.vertices), np.asarray(mesh.faces), points, truth(points)


def test_exact_distance_matches_the_closed_form(solid):
    vertices, faces, points, truth = solid
    distance, closest, normal = MeshDistance(vertices, faces).query(points)
    assert np.abs(distance - truth).max() < 1e-4  # facets of the round ones
    assert (np.sign(distance) == np.sign(truth))[np.abs(truth) > 2e-4].all()
    assert np.allclose(closest + distance[:, None] * normal, points, atol=1e-9)


def test_grid_distance_is_within_half_a_millimetre_near_the_surface(solid):
    vertices, faces, points, truth = solid
    near = np.abs(truth) < 0.006
    distance, gradient = GridDistance(vertices, faces, 80).query(points)
    error = np.abs(distance - truth)[near]
    assert np.percentile(error, 97) < 5e-4
    assert error.max() < 1.5e-3  # the edges' medial axis
    alone = GridDistance(vertices, faces, 80).distance(points)
    assert np.allclose(alone, distance, atol=1e-6)
    assert np.allclose(np.linalg.norm(gradient[near], axis=-1), 1, atol=1e-4)


def test_gradient_points_away_from_the_surface():
    mesh, _ = SOLIDS["sphere"]
    points = np.random.default_rng(1).normal(size=(2000, 3))
    points *= np.random.default_rng(2).uniform(0.03, 0.055, (2000, 1)) / np.linalg.norm(
        points, axis=1, keepdims=True
    )
    outward = points / np.linalg.norm(points, axis=1, keepdims=True)
    _, gradient = GridDistance(mesh.vertices, mesh.faces).query(points)
    assert ((gradient * outward).sum(-1) > 0.98).all()
    _, _, normal = MeshDistance(mesh.vertices, mesh.faces).query(points)
    assert ((normal * outward).sum(-1) > 0.98).all()


def test_far_points_get_roughly_the_way_to_the_object():
    mesh, _ = SOLIDS["sphere"]
    grid = GridDistance(mesh.vertices, mesh.faces)
    points = np.array([[0.5, 0, 0], [0.2, 0.3, -0.1]])
    truth = np.linalg.norm(points, axis=1) - 0.04
    found = grid.distance(points)
    assert (found >= truth - 1e-3).all()
    assert (found <= truth + 0.03).all()


def test_overlapping_pieces_are_one_solid():
    """Two boxes: a face of one inside the other is no surface."""
    first = trimesh.creation.box([0.04, 0.04, 0.1])
    second = trimesh.creation.box([0.1, 0.02, 0.02])
    both = trimesh.util.concatenate([first, second])
    points = np.random.default_rng(3).uniform(-0.06, 0.06, (3000, 3))
    a = box_distance(points, np.array([0.02, 0.02, 0.05]))
    b = box_distance(points, np.array([0.05, 0.01, 0.01]))
    union = np.minimum(a, b)
    found = MeshDistance(both.vertices, both.faces).distance(points)
    assert (np.sign(found) == np.sign(union)).all()
    outside = union > 0
    assert np.allclose(found[outside], union[outside], atol=1e-9)


def test_a_handle_through_a_wall_is_no_surface_inside_it():
    """Whether buried faces are looked for at once or when a point meets one; against boxes."""
    body = trimesh.creation.box([0.08, 0.08, 0.1])
    for _ in range(3):
        body = body.subdivide()
    bar = trimesh.creation.box([0.06, 0.01, 0.01])
    for _ in range(3):
        bar = bar.subdivide()
    bar.apply_translation((0.055, 0, 0))  # two of its eight rings are inside of the body
    both = trimesh.util.concatenate([body, bar])
    points = np.random.default_rng(9).uniform((0, -0.02, -0.02), (0.08, 0.02, 0.02), (1500, 3))
    inside_body = box_distance(points, np.array([0.04, 0.04, 0.05]))
    beyond = box_distance(points - (0.055, 0, 0), np.array([0.03, 0.005, 0.005]))
    both_boxes = np.minimum(inside_body, beyond)
    deep = (inside_body < -1e-4) & (np.hypot(points[:, 1], points[:, 2]) > 0.012)
    for once in (False, True):
        found = MeshDistance(both.vertices, both.faces, once=once)
        distance, closest, normal = found.query(points)
        assert np.abs(distance - inside_body)[deep].max() < 1e-9
        assert np.abs(distance - both_boxes)[both_boxes > 0].max() < 1e-9
        assert np.allclose(closest + distance[:, None] * normal, points, atol=1e-9)
        assert (found.inside(points) == (both_boxes < 0)).all()


def posed_hands() -> list[tuple[np.ndarray, np.ndarray]]:
    """An open hand, a fist whose fingers go into the palm, random poses; closed at the wrist."""
    model = HandModel.free()
    draw = torch.Generator().manual_seed(2)
    pose = 0.5 * torch.randn(4, 16, 3, generator=draw)
    pose[0], pose[1] = 0.0, 0.0
    pose[1, 1:13, 2] = 1.5  # all joints of the four fingers
    betas = torch.randn(4, 10, generator=draw)
    faces = closed_faces(model.faces.numpy())
    return [(v.double().numpy(), faces) for v in model(pose, betas).vertices]


@pytest.mark.parametrize("number", range(4))
def test_posed_hands_as_by_exact_winding_numbers(number):
    """Sign everywhere; outside the distance of all faces, inside that of the visible ones."""
    vertices, faces = posed_hands()[number]
    draw = np.random.default_rng(number)
    points = vertices[draw.integers(0, 778, 2500)] + 0.012 * draw.standard_normal((2500, 3))
    points[:200] = draw.uniform(-0.3, 0.3, (200, 3))
    winding = igl.winding_number(vertices, faces, points)
    squared, _, closest = igl.point_mesh_squared_distance(points, vertices, faces)
    unsigned = np.sqrt(squared)
    found = MeshDistance(vertices, faces, once=True)
    distance = found.distance(points)
    away, inside = unsigned > 1e-6, winding > 0.5
    assert (np.sign(distance) == np.where(inside, -1, 1))[away].all()
    assert inside.sum() > 100
    assert np.abs(distance - unsigned)[~inside].max() < 1e-9
    step = (closest - points) / np.maximum(unsigned, 1e-12)[:, None]
    free = igl.winding_number(vertices, faces, closest + 2e-5 * step) < 0.5
    assert np.abs(-distance - unsigned)[inside & free & away].max() < 1e-9
    assert (-distance >= unsigned - 1e-9)[inside].all()
    eager = MeshDistance(vertices, faces).distance(points)
    assert np.abs(distance - eager)[away].max() < 1e-4
    for reach in (0.004, 0.05):
        assert (found.near(points, reach) == (unsigned < reach))[~inside].all()


def test_open_hand_keeps_its_inside_away_from_the_hole():
    vertices, faces = posed_hands()[0]
    rim = np.unique(faces[1538:])
    points = vertices[np.random.default_rng(5).integers(0, 778, 2000)]
    points = points + 0.01 * np.random.default_rng(6).standard_normal((2000, 3))
    away = np.linalg.norm(points[:, None] - vertices[rim], axis=-1).min(axis=1) > 0.05
    closed = MeshDistance(vertices, faces, once=True).distance(points)
    found = MeshDistance(vertices, faces[:1538], once=True).distance(points)
    exact = igl.winding_number(vertices, faces[:1538], points)
    clear = np.abs(exact - 0.5) > 0.05
    assert ((found < 0) == (exact > 0.5))[clear].all()
    assert (closed[away] < 0).sum() > 100
    assert np.abs(found - closed)[away].max() < 1e-9


def test_open_and_inverted_meshes():
    """A missing face does not turn the rest inside out."""
    mesh, truth = SOLIDS["box"]
    open_box = MeshDistance(mesh.vertices, mesh.faces[1:])
    points = np.random.default_rng(4).uniform(-0.1, 0.1, (500, 3))
    far = np.abs(truth(points)) > 0.012
    assert (np.sign(open_box.distance(points)) == np.sign(truth(points)))[far].mean() > 0.98


def test_survives_copying_and_any_leading_shape():
    mesh, truth = SOLIDS["box"]
    grid = copy.deepcopy(GridDistance(mesh.vertices, mesh.faces, 32))  # goes the way of pickles
    points = np.random.default_rng(6).uniform(-0.06, 0.06, (2, 3, 5, 3))
    assert np.allclose(grid.exact.distance(points), truth(points), atol=1e-9)
    assert grid.query(points)[1].shape == (2, 3, 5, 3)
    assert grid.exact.query(np.zeros((0, 3)))[0].shape == (0,)


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (np.zeros((3, 2)), [[0, 1, 2]], "vertices"),
        (np.zeros((3, 3)), np.zeros((0, 3), int), "faces"),
        (np.zeros((3, 3)), [[0, 1, 3]], "outside"),
        (np.full((3, 3), np.nan), [[0, 1, 2]], "NaN"),
    ],
)
def test_bad_meshes_are_refused(vertices, faces, message):
    with pytest.raises(InputError, match=message):
        MeshDistance(vertices, np.asarray(faces))


def test_bad_grids_are_refused():
    mesh, _ = SOLIDS["box"]
    with pytest.raises(InputError, match="resolution"):
        GridDistance(mesh.vertices, mesh.faces, 2)
    with pytest.raises(InputError, match="margin"):
        GridDistance(mesh.vertices, mesh.faces, margin=float("nan"))
