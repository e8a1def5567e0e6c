"""Mesh topology on solids whose numbers are known."""

import numpy as np
import pytest
import trimesh

from handhold.errors import InputError
from handhold.hand.topology import boundary_loops, closed_faces, edges, neighbours, rings, spirals

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


def test_rings_of_closed_and_open_meshes():
    """Each ring: all neighbours, each next to its follower, clockwise seen from outside."""
    points, faces = np.asarray(BALL.vertices), np.asarray(BALL.faces)
    opened = faces[(points[faces][:, :, 2] < 0.9).all(axis=1)]
    for mesh, rim in ((faces, set()), (opened, set(boundary_loops(opened)[0].tolist()))):
        around = rings(mesh, len(points))
        pairs = {tuple(p) for p in edges(mesh).tolist()}
        for vertex, expected in enumerate(neighbours(mesh, len(points))):
            ring = around[vertex]
            assert sorted(ring) == expected.tolist()
            if not ring:
                continue
            follow = list(zip(ring, ring[1:] + ring[:1], strict=True))
            if vertex in rim:  # an open fan: from one border neighbour to the other
                assert {ring[0], ring[-1]} <= rim
                follow = follow[:-1]
            for a, b in follow:
                assert (min(a, b), max(a, b)) in pairs
                turn = np.cross(points[a] - points[vertex], points[b] - points[vertex])
                assert turn @ points[vertex] < 0


def test_spirals_of_a_grid():
    """A plane grid seen from above: the second ring goes on where the first began."""
    number = np.arange(25).reshape(5, 5)
    faces = []
    for r in range(4):
        for c in range(4):
            a, b, d, e = number[r, c], number[r, c + 1], number[r + 1, c], number[r + 1, c + 1]
            faces += [(a, d, e), (a, e, b)]
    flat = np.stack((np.arange(25) % 5, -(np.arange(25) // 5), np.zeros(25)), axis=1).astype(float)
    found = spirals(flat, np.array(faces), length=19)
    # 12 is the centre; its ring in the triangulation, clockwise from the last face's neighbour
    ring = found[12, 1:7].tolist()
    assert ring == [18, 17, 11, 6, 7, 13]
    assert found[12, 0] == 12
    assert sorted(found[12].tolist()) == sorted(set(range(25)) - {3, 4, 9, 15, 20, 21})
    np.testing.assert_array_equal(found[:, :9], spirals(flat, np.array(faces)))
    np.testing.assert_array_equal(
        spirals(flat, np.array(faces), length=6, dilation=3), found[:, :18:3]
    )


def test_spirals_fall_back_to_the_nearest():
    tetrahedron = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
    points = np.array([[0.0, 0, 0], [1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0]])
    found = spirals(points, tetrahedron, length=3)
    assert found[0].tolist() == [0, 1, 2]
    assert found[3].tolist() == [3, 0, 1]
    with pytest.raises(InputError, match="spirals"):
        spirals(points, tetrahedron)
