"""Signed distances against closed forms: box, sphere, cylinder, overlapping pieces."""

import copy

import numpy as np
import pytest
import trimesh

from handhold.errors import InputError
from handhold.geometry.signed_distance import GridDistance, MeshDistance

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
