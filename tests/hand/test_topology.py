"""Mesh topology on solids whose numbers are known."""

import numpy as np
import pytest
import trimesh

from handhold.errors import InputError
from handhold.hand.topology import boundary_loops, closed_faces, edges, neighbours

BALL = trimesh.creation.icosphere(subdivisions=2)


def test_closed_surface():
    faces = np.asarray(BALL.faces)
    assert len(edges(faces)) == len(BALL.vertices) + len(faces) - 2  # Euler
    np.testing.assert_array_equal(
        edges(faces),
        np.sort(BALL.edges_unique, axis=1)[np.lexsort(np.sort(BALL.edges_unique, axis=1).T[::-1])],
    )
    assert boundary_loops(faces) == []
    np.testing.assert_array_equal(closed_faces(faces), faces)


def test_neighbours():
    faces = np.asarray(BALL.faces)
    ours = neighbours(faces, len(BALL.vertices) + 1)
    assert [sorted(n) for n in BALL.vertex_neighbors] == [n.tolist() for n in ours[:-1]]
    assert ours[-1].size == 0
    with pytest.raises(InputError, match="does not exist"):
        neighbours(faces, 5)


def test_holes_are_found_and_closed():
    faces = np.asarray(BALL.faces)
    heights = BALL.vertices[:, 2]
    kept = faces[(np.abs(heights[faces]) < 0.9).all(axis=1)]
    loops = boundary_loops(kept)
    assert len(loops) == 2
    assert sorted(np.sign(heights[loop]).sum() > 0 for loop in loops) == [False, True]
    closed = closed_faces(kept)
    assert len(closed) == len(kept) + sum(len(loop) - 2 for loop in loops)
    mesh = trimesh.Trimesh(BALL.vertices, closed, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert 0.8 * BALL.volume < mesh.volume < BALL.volume


def test_bad_faces():
    with pytest.raises(InputError, match="touch in a vertex"):
        boundary_loops(np.array([[0, 1, 2], [0, 3, 4]]))
    with pytest.raises(InputError, match="same direction"):
        boundary_loops(np.array([[0, 1, 2], [0, 1, 3]]))
    with pytest.raises(InputError, match="integers"):
        edges(np.zeros((4, 3)))
