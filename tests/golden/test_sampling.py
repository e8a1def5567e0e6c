"""Pose vectors, farthest pose sampling and cross-distribution sampling against stored numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from handhold.synthesis.sampling import (
    draw_poses,
    farthest_poses,
    novelty,
    pose_vectors,
    similarities,
)


def test_every_output(golden: Callable[[str], Any]) -> None:
    stored = golden("sampling")
    given = {name: np.asarray(value, np.float64) for name, value in stored.inputs.items()}
    vectors, kept = {}, {}
    for kind, count in (
        ("real", stored.json["config"]["M"]),
        ("synth", stored.json["config"]["N"]),
    ):
        rotations = Rotation.from_rotvec(given[f"{kind}_obj_rot"]).as_matrix()
        fingers = given[f"{kind}_hand"].reshape(-1, 15, 3)
        vectors[kind] = pose_vectors(fingers, rotations, given[f"{kind}_obj_trans"])
        stored.compare(f"vec_{kind}", vectors[kind], 1e-6)
        start = int(given[f"start_{kind}"])
        for literal, ending in ((True, "_literal"), (False, "")):
            kept[kind + ending] = farthest_poses(vectors[kind], count, start=start, literal=literal)
            stored.compare(f"fps_{kind}{ending}", kept[kind + ending], 0)
    made, real = vectors["synth"][kept["synth"]], vectors["real"][kept["real"]]
    matrix = similarities(made, real)
    stored.compare("similarity", matrix, 1e-6)
    score = (1 - matrix).sum(1)
    stored.compare("score", score, 1e-6)
    chances = novelty(made, real)
    stored.compare("probability", chances, 1e-5)
    stored.compare("minmax", chances / chances.max(), 1e-5)
    literal = vectors["synth"][kept["synth_literal"]], vectors["real"][kept["real_literal"]]
    stored.compare("probability_literal_fps", novelty(*literal), 1e-5)
    stored.compare("draws", draw_poses(chances, uniforms=given["uniforms"]), 0)
    assert stored.forgotten() == ["probability_wrong_sign"]
    assert stored.error("probability_wrong_sign", chances) > 0.1
