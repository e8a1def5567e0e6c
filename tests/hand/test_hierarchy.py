"""Mesh hierarchies: what must hold on any mesh, closed or open."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from handhold.errors import InputError
from handhold.hand.hierarchy import (
    MeshHierarchy,
    build_hierarchy,
    closest_points,
    reduce_mesh,
    upsampling,
    vertex_quadrics,
)
from handhold.hand.model import HandModel
from handhold.hand.topology import boundary_loops


def _without(faces: np.ndarray, candidates: list[int], count: int) -> np.ndarray:
    """Leave out `count` of the candidates so that every vertex keeps a face."""
    kept, uses = np.ones(len(faces), bool), np.bincount(faces.ravel())
    for face in candidates:
        if (~kept).sum() < count and (uses[faces[face]] > 2).all():
            kept[face] = False
            uses[faces[face]] -= 1
    return faces[kept]


@pytest.fixture(scope="module", params=["closed", "open"])
def made(request: pytest.FixtureRequest) -> MeshHierarchy:
    """The free hand's, also with a hole at the wrist as MANO's mesh has it."""
    arrays = HandModel.free().arrays
    faces = arrays.faces
    if request.param == "open":
        wrist = arrays.J_regressor[0] @ arrays.v_template
        centres = arrays.v_template[faces].mean(1)
        outward = wrist - arrays.v_template.mean(0)
        order = np.argsort((centres - wrist) @ outward)[::-1]
        faces = _without(faces, order[:60].tolist(), 14)
        assert len(faces) == len(arrays.faces) - 14
        assert len(np.unique(faces)) == 778
    return build_hierarchy(arrays.v_template, faces)


def test_levels(made: MeshHierarchy) -> None:
    assert made.sizes == (778, 389, 195, 98, 49)
    for level in range(4):
        fine, coarse = made.vertices[level], made.vertices[level + 1]
        same = (fine[:, None] == coarse[None]).all(-1)
        assert bool((same.sum(0) >= 1).all())  # kept vertices keep their place
        assert np.unique(made.faces[level + 1]).tolist() == list(range(len(coarse)))
        spirals = made.spirals[level]
        assert spirals.shape == (len(fine), 9)
        assert spirals[:, 0].tolist() == list(range(len(fine)))
        assert all(len(set(row)) == 9 for row in spirals.tolist())
    assert build_hierarchy(made.vertices[0], made.faces[0]) is made


def test_upsampling_puts_vertices_near_their_places(made: MeshHierarchy) -> None:
    for level in range(2):
        coarse = made.vertices[level + 1]
        place = np.einsum("vk,vkc->vc", made.weights[level], coarse[made.columns[level]])
        assert np.linalg.norm(place - made.vertices[level], axis=1).mean() < 0.002


def test_closest_points_against_trimesh() -> None:
    ball = trimesh.creation.icosphere(subdivisions=1)
    vertices, faces = np.asarray(ball.vertices, np.float64), np.asarray(ball.faces, np.int64)
    points = np.random.default_rng(0).normal(size=(200, 3)) * 1.5
    face, weights = closest_points(points, vertices, faces)
    found = np.einsum("pk,pkc->pc", weights, vertices[faces[face]])
    expected, distance, _ = trimesh.proximity.closest_point_naive(ball, points)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(found - points, axis=1), distance, atol=1e-9)
    assert {1, 2, 3} == set((weights > 0).sum(1).tolist())
    np.testing.assert_allclose(weights.sum(1), 1)


def test_edge_rules() -> None:
    """On an edge the original's weights depend on the origin, barycentric ones do not."""
    coarse = np.array([[0.0, 0, 0], [2.0, 0, 0], [0, 2.0, 0], [2.0, 2.0, 0]])
    fine = np.concatenate((coarse, [[1.0, -0.5, 0.0]]))  # beside the edge 0-1
    faces, kept = np.array([[0, 1, 2], [1, 3, 2]]), np.arange(4)

    def row(shift: float, rule: str) -> dict[int, float]:
        columns, weights = upsampling(fine + shift, kept, faces, rule)  # pyright: ignore
        return {int(c): float(w) for c, w in zip(columns[4], weights[4], strict=True) if w}

    for shift in (0.0, 1.0, 5.0):
        assert row(shift, "barycentric") == pytest.approx({0: 0.5, 1: 0.5})
    # least squares of (x, x - 1.5, x) - like positions on the two ends
    ends, point = coarse[:2] + 5.0, fine[4] + 5.0
    solved = np.linalg.lstsq(ends.T, point, rcond=None)[0]
    assert row(5.0, "official") == pytest.approx({0: solved[0], 1: solved[1]})
    assert sum(row(5.0, "official").values()) != pytest.approx(1.0, abs=1e-3)


def test_flat_parts_cost_nothing() -> None:
    """A quadric is the squared distance to the planes; a cube keeps its corners."""
    box = trimesh.creation.box().subdivide()
    vertices, faces = np.asarray(box.vertices), np.asarray(box.faces, np.int64)
    quadric = vertex_quadrics(vertices, faces)
    corner = int(np.abs(vertices).sum(1).argmax())
    point = np.append(vertices[corner] + [0.1, 0.2, 0.3], 1.0)
    count = (faces == corner).sum()
    assert 0.01 <= float(point @ quadric[corner] @ point) / count <= 0.09
    kept, coarse = reduce_mesh(vertices, faces, 8)
    assert sorted(np.abs(vertices[kept]).sum(1).tolist()) == pytest.approx([1.5] * 8)
    assert len(coarse) == 12
    assert boundary_loops(coarse) == []


def test_bad_input() -> None:
    with pytest.raises(InputError, match="edge_rule"):
        build_hierarchy(np.zeros((3, 3)), np.array([[0, 1, 2]]), edge_rule="x")  # pyright: ignore
