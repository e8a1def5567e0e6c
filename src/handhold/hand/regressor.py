"""Joints of a mesh: the linear regressor that networks without pose parameters use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from handhold.hand.convention import MANO_TO_CANONICAL, tip_vertices
from handhold.hand.model import HandModel


def joint_regressor(hand: HandModel, tips: str = "hand") -> NDArray[np.float32]:
    """The (21, 778) matrix that gives 21 joints (canonical order) of 778 vertices.

    16 rows of the hand model's own regressor and one vertex for each tip. tips: "hand" for the
    model's, or a table of `TIP_VERTICES`, which names vertices of MANO: hands that bring their own
    tips along (the free one) always use those. Raises InputError for unknown tables.

    On a posed hand the 16 rows give almost, not exactly, the joints that skinning turns about.
    """
    own = hand.is_free or "tips" in hand.extras
    named = tip_vertices(tips, hand.side) if tips != "hand" else ()
    ids = hand.tips.tolist() if own or tips == "hand" else named
    rows = np.zeros((21, 778), np.float32)
    rows[:16] = hand.arrays.J_regressor
    rows[np.arange(16, 21), list(ids)] = 1.0
    return rows[MANO_TO_CANONICAL]
