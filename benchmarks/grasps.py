"""Valid grasps a second on one core, and milliseconds a step of 64 hands and 2,000 object points.

    OMP_NUM_THREADS=1 python benchmarks/grasps.py [--rounds 5] [--objects 5] [--save]

A step is all of it: another pose and other contacts for every hand, all energies and slopes,
acceptance. Its plain form evaluates the same energies by `energies.energies` (all pairs of object
points and vertices, exact distances, autograd); both are measured in turn in the same run, from
grips already closed on a can, and the ratio is that of their medians. Valid grasps are those of
`handhold synth grasps` as it is, its checks included: penetration at most 2 mm everywhere, contact
from opposite sides, 0.5 cm^3 shared at most; making an object ready (once an object) is given
apart. Times are of the processor, what one free core gives. --save writes
benchmarks/results/grasps.json and grasps.png.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import machine
import numpy as np
import torch
from torch import Tensor

from handhold.atomic import write_text
from handhold.hand.model import HandModel
from handhold.objects.procedural import make_object
from handhold.synthesis.grasps.energies import EnergyConfig, energies
from handhold.synthesis.grasps.fast import Evaluation, FastEnergies
from handhold.synthesis.grasps.generate import GraspConfig, make_batch
from handhold.synthesis.grasps.hand import GraspHand
from handhold.synthesis.grasps.optimise import ContactChoice, optimise
from handhold.synthesis.grasps.solid import Solid, prepare
from handhold.synthesis.grasps.starts import from_grips

RESULTS = Path(__file__).parent / "results" / "grasps.json"
OBJECTS = (
    "005_tomato_soup_can",
    "006_mustard_bottle",
    "003_cracker_box",
    "011_banana",
    "025_mug",
    "024_bowl",
    "035_power_drill",
    "040_large_marker",
)


class PlainEnergies(FastEnergies):
    """The same energies and slopes the plain way."""

    def __init__(self, hand: GraspHand, solid: Solid, config: EnergyConfig) -> None:
        super().__init__(hand, solid, config)
        self.plain = hand

    def __call__(self, pose: Tensor, indices: Tensor, planes: Tensor | None = None) -> Evaluation:
        """As `FastEnergies`."""
        with torch.enable_grad():
            leaf = pose.detach().requires_grad_()
            vertices, joints = self.plain.posed(leaf)
            terms = energies(
                vertices,
                joints,
                self.plain.faces,
                leaf[:, 6:],
                self.candidates[indices],
                self.solid.field,
                self.solid.points,
                self.prior,
                self.config,
                planes,
            )
            total = terms.total(self.config)
            (slope,) = torch.autograd.grad(total.sum(), leaf)
        values = type(terms)(*(term.detach() for term in terms))
        return Evaluation(values, total.detach(), slope, vertices.detach())


def seconds(work: Callable[[], Any]) -> float:
    """Processor time of one call."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def step_times(hand: GraspHand, rounds: int) -> dict[str, Any]:
    """Milliseconds a step, fast and plain in turn, and the parts of the fast one."""
    solid = prepare(make_object("005_tomato_soup_can", np.random.default_rng(0)))
    vectors, _ = from_grips(hand, solid, np.random.default_rng(1), 64)
    poses = torch.tensor(vectors, dtype=torch.float32)
    config = GraspConfig()
    schedule = config.anneal
    choice = ContactChoice(hand, solid, config.contacts, config.nearness)
    fast = FastEnergies(hand, solid, config.energy)
    plain = PlainEnergies(hand, solid, config.energy)

    def steps(of: FastEnergies, count: int) -> float:
        from dataclasses import replace

        whole = seconds(lambda: optimise(of, choice, poses, replace(schedule, steps=count), 0))
        start = seconds(lambda: optimise(of, choice, poses, replace(schedule, steps=0), 0))
        return 1e3 * (whole - start) / count

    steps(fast, 2)
    found: dict[str, list[float]] = {"fast": [], "plain": []}
    for _ in range(rounds):
        found["fast"].append(steps(fast, 10))
        found["plain"].append(steps(plain, 1))
    medians = {name: float(np.median(values)) for name, values in found.items()}
    return {
        "hands": len(poses),
        "object_points": len(solid.points),
        "fast_ms": round(medians["fast"], 1),
        "fast_slowest_and_fastest": [round(max(found["fast"]), 1), round(min(found["fast"]), 1)],
        "plain_ms": round(medians["plain"], 1),
        "plain_slowest_and_fastest": [round(max(found["plain"]), 1), round(min(found["plain"]), 1)],
        "times_as_fast": round(medians["plain"] / medians["fast"], 1),
    }


def rates(hand: GraspHand, names: tuple[str, ...]) -> dict[str, Any]:
    """Valid grasps a second of processor time, one batch an object."""
    config = GraspConfig()
    out: dict[str, Any] = {}
    for name in names:
        mesh = make_object(name, np.random.default_rng(0))
        solids: list[Solid] = []
        ready = seconds(lambda mesh=mesh, solids=solids: solids.append(prepare(mesh)))
        begun = time.process_time()
        batch = make_batch(hand, solids[0], config, 0, 0)
        spent = time.process_time() - begun
        depth = batch.penetration
        out[name] = {
            "valid_a_second": round(len(batch.vectors) / spent, 2),
            "valid": len(batch.vectors),
            "tried": batch.attempts,
            "fallen": batch.fallen,
            "mean_penetration_mm": round(float(depth.mean()) * 1e3, 2) if len(depth) else None,
            "deepest_penetration_mm": round(float(depth.max()) * 1e3, 2) if len(depth) else None,
            "made_ready_s": round(ready, 2),
        }
        print(name, out[name], flush=True)
    return out


def draw(figures: dict[str, Any], path: Path) -> None:
    """Valid grasps a second by object."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(figures["objects"])
    values = [figures["objects"][name]["valid_a_second"] for name in names]
    figure, axes = pyplot.subplots(figsize=(7, 0.4 * len(names) + 1.2))
    axes.barh(names, values, color="#4472a8")
    axes.axvline(1.0, color="#b03030", linestyle="--", label="aim: 1 a second")
    axes.invert_yaxis()
    axes.set_xlabel("valid grasps a second of processor time, one core")
    axes.legend()
    figure.tight_layout()
    unfinished = path.with_name(f".{path.name}")
    figure.savefig(unfinished, format="png", dpi=110)
    unfinished.replace(path)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--objects", type=int, default=len(OBJECTS), help="how many objects")
    parser.add_argument("--save", action="store_true", help="write the figures down")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    hand = GraspHand(HandModel.free())
    conditions = machine.conditions("torch", "numpy", threads=1)
    step = step_times(hand, arguments.rounds)
    print(step, flush=True)
    objects = rates(hand, OBJECTS[: arguments.objects])
    values = [item["valid_a_second"] for item in objects.values()]
    figures = {
        "step": step,
        "valid_a_second_median_and_lowest": [round(float(np.median(values)), 2), min(values)],
        "objects": objects,
        "rounds": arguments.rounds,
        "conditions": conditions,
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.save:
        RESULTS.parent.mkdir(exist_ok=True)
        write_text(RESULTS, text + "\n")
        draw(figures, RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main()
