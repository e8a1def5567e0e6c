from __future__ import annotations

import numpy as np
import pytest

from handhold.errors import InputError
from handhold.objects.control_points import control_points, diameter

# one letter per axis: - minimum, 0 middle, + maximum
CORNERS = ["---", "+--", "-+-", "++-", "--+", "+-+", "-++", "+++"]
EDGES = ["-0-", "+0-", "0+-", "0--", "-0+", "+0+", "0++", "0-+", "-+0", "--0", "++0", "+-0"]
ORDER = [*CORNERS, *EDGES, "000"]


def test_order_as_written_down() -> None:
    vertices = np.random.default_rng(0).uniform([-1, -2, -3], [4, 5, 6], (400, 3))
    low, high = vertices.min(0), vertices.max(0)
    value = {"-": low, "0": (low + high) / 2, "+": high}
    expected = [[value[sign][axis] for axis, sign in enumerate(word)] for word in ORDER]
    assert control_points(vertices) == pytest.approx(np.array(expected))


def test_diameter_is_the_diagonal() -> None:
    assert diameter([[0, 0, 0], [3, 4, 0], [1, 1, 12]]) == pytest.approx(13)


def test_bad_vertices_are_told() -> None:
    with pytest.raises(InputError, match=r"\(V, 3\)"):
        control_points(np.zeros((0, 3)))
    with pytest.raises(InputError, match="NaN"):
        control_points([[0, 0, np.nan]])
