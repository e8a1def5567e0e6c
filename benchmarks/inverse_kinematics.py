"""Hands fitted a second, and how near the fitted hands come to the true ones.

    OMP_NUM_THREADS=1 python benchmarks/inverse_kinematics.py [--hands 256] [--save] [--mano FILE]

Hands are drawn by `anatomy.sample_pose` and `sample_betas` with uniformly random global rotations
and places within half a metre. Errors are millimetres: the mean over all points, the mean over
a hand's points of the worst hand, and the worst point of all. Rates are counted per second of
processor time of one thread (what one free core gives, whatever else the machine does) and by the
clock; both are medians over several rounds of the same hands. The cost of a fit is also given as a
multiple of posing the same hands once with the hand model, in the same run. --mano: a second
right-hand model to fit (an npz or pkl). --save writes benchmarks/results/inverse_kinematics.json.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import machine
import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from handhold.atomic import write_text
from handhold.hand.anatomy import anatomical_frames, sample_betas, sample_pose
from handhold.hand.inverse_kinematics import InverseKinematics
from handhold.hand.model import HandModel

RESULTS = Path(__file__).parent / "results" / "inverse_kinematics.json"


def parameters(hand: HandModel, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random pose, betas and translation, with the anatomical axes of the hand itself."""
    rng = np.random.default_rng(seed)
    rest, tips = hand.rest_joints().numpy(), hand.template[hand.tips].numpy()
    pose = sample_pose(rng, count, frames=anatomical_frames(rest, tips))
    pose[:, 0] = Rotation.random(count, rng=rng).as_rotvec()
    values = (pose, sample_betas(rng, count), rng.uniform(-0.5, 0.5, (count, 3)))
    pose, betas, translation = (torch.tensor(v, dtype=torch.float32) for v in values)
    return pose, betas, translation


def millimetres(found: Tensor, truth: Tensor) -> dict[str, float]:
    """Distances of two sets of points (B, N, 3)."""
    distance = 1e3 * (found - truth).norm(dim=-1)
    return {
        "mean": round(float(distance.mean()), 4),
        "worst_hand": round(float(distance.mean(-1).max()), 4),
        "worst_point": round(float(distance.max()), 4),
    }


def accuracy(hand: HandModel, count: int) -> dict[str, Any]:
    """Errors of fits to several kinds of points of one hand model."""
    pose, betas, translation = parameters(hand, count, seed=1)
    truth = hand(pose, betas, translation)
    fit = InverseKinematics(hand)
    generator = torch.Generator().manual_seed(2)
    noise = 0.002 * torch.randn(truth.vertices.shape, generator=generator)
    known = (torch.rand(778, generator=generator) < 0.3).float()
    by_joints = fit(joints=truth.joints)
    return {
        "vertices": millimetres(fit(truth.vertices).vertices, truth.vertices),
        "noisy_vertices_given": millimetres(truth.vertices + noise, truth.vertices),
        "noisy_vertices_fitted": millimetres(fit(truth.vertices + noise).vertices, truth.vertices),
        "vertices_when_a_third_is_known": millimetres(
            fit(truth.vertices, vertex_weights=known).vertices, truth.vertices
        ),
        "joints_from_joints": millimetres(by_joints.joints, truth.joints),
        "vertices_from_joints": millimetres(by_joints.vertices, truth.vertices),
    }


def speed(hand: HandModel, count: int, rounds: int) -> dict[str, Any]:
    """Rates and the cost as a multiple of one forward pass."""
    pose, betas, translation = parameters(hand, count, seed=3)
    truth = hand(pose, betas, translation)
    fit = InverseKinematics(hand)
    known = torch.ones(778)
    known[::3] = 0.0
    works: dict[str, Callable[[], Any]] = {
        "vertices": lambda: fit(truth.vertices),
        "joints_alone": lambda: fit(joints=truth.joints),
        "vertices_a_third_unknown": lambda: fit(truth.vertices, vertex_weights=known),
    }
    forward = float(np.median(machine.times(lambda: hand(pose, betas, translation), rounds)[0]))
    figures = {}
    for name, work in works.items():
        busy, clock = machine.times(work, rounds)
        figures[name] = {
            "hands_a_second_of_processor_time": round(count / float(np.median(busy))),
            "slowest_and_fastest_round": [round(count / max(busy)), round(count / min(busy))],
            "hands_a_second_by_the_clock": round(count / float(np.median(clock))),
            "as_many_forward_passes": round(float(np.median(busy)) / forward, 1),
        }
    return figures


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hands", type=int, default=256, help="hands of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mano", type=Path, help="file of a second right hand model")
    parser.add_argument("--save", action="store_true", help="write the figures down")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    conditions = machine.conditions("torch", "numpy", threads=1)
    free = HandModel.free()
    errors = {"free_hand": accuracy(free, arguments.hands)}
    if arguments.mano:
        errors[arguments.mano.stem] = accuracy(
            HandModel.from_file(arguments.mano, "right"), arguments.hands
        )
    figures = {
        "millimetres": errors,
        "speed": speed(free, arguments.hands, arguments.rounds),
        "hands": arguments.hands,
        "rounds": arguments.rounds,
        "conditions": conditions,
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.save:
        RESULTS.parent.mkdir(exist_ok=True)
        write_text(RESULTS, text + "\n")


if __name__ == "__main__":
    main()
