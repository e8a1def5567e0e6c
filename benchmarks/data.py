"""Training samples a second: read, decoded, cropped and augmented, for every method's processor.

    OMP_NUM_THREADS=1 python benchmarks/data.py [--methods hflnet unihope] [--rounds 5] [--save]

Scenes of 640 x 480 pixels are rendered, given a camera's noise and written as shards: a JPEG,
labels and the object's mask each. Timed is all that training does with them: reading the tar file,
decoding image, labels and mask, boxes, mirroring, crop of 256 x 256 and augmentation as the
method's own processor does it, and the tensors of a batch of 16. Rates are those of one process by
processor time (what one free core gives, whatever else the machine does), and by the clock with one
process and with two. `jpegs` is the time of a sample in units of decoding its JPEG alone, in the
same run.

Two more figures: signed distances to hand and object together (each query asks both, and the hand's
search tree, which every frame makes anew, is in the time), with the error against a sphere and a
box; and the visible share of a hand rendered at 640 x 480. --save writes benchmarks/results/data.*.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import machine
import numpy as np
import torch
import trimesh

from handhold.atomic import write_text
from handhold.data.occlusion import see, visible_share
from handhold.geometry.signed_distance import MeshDistance
from handhold.hand.model import HandModel
from handhold.hand.topology import closed_faces
from handhold.models.hoisdf.points import Surfaces
from handhold.models.processors import Processor, make_processor
from handhold.models.registry import MODELS, entry
from handhold.render.raycast import RenderMesh
from handhold.scene import Sample
from handhold.synthesis.scenes import SceneConfig, make_scene
from handhold.synthesis.shards import ShardDataset, write_shards

RESULTS = Path(__file__).parent / "results" / "data.json"
SIZE, BATCH, GOAL = 256, 16, 150  # the goal: samples a second on two cores
NOISE = 4.0  # grey levels; the JPEGs get about as large as a camera's
SKIP = ("bare_image", "hand_mask", "hand_mask_amodal", "depth")
QUERIES = 20_000


def scenes(count: int) -> Iterator[Sample]:
    """Rendered scenes with a hand, noisy as a camera's."""
    draw, given = np.random.default_rng(0), 0
    for number in range(10 * count):
        sample = make_scene(0, number, SceneConfig(width=640, height=480))
        if sample.hands and given < count:
            noise = NOISE * draw.standard_normal(sample.image.shape)
            image = np.clip(np.rint(sample.image + noise), 0, 255).astype(np.uint8)
            given += 1
            yield dataclasses.replace(sample, image=image)


@lru_cache(maxsize=1)
def quiet() -> None:
    """One thread."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def method(name: str) -> Processor:
    """Its own processor, for crops of SIZE."""
    told = entry(name)
    return make_processor(told.processor(), told.config(), HandModel.free(), input_size=SIZE)


def spent(name: str, folder: str, rounds: int) -> tuple[list[float], list[float]]:
    """Processor and clock seconds of every round of all samples; one round unmeasured before."""
    quiet()
    processor, samples = method(name), ShardDataset(folder, skip=SKIP)
    draw = np.random.default_rng(0)

    def once() -> None:
        for first in range(0, len(samples), BATCH):
            numbers = range(first, min(first + BATCH, len(samples)))
            processor.encode([(samples[number], 0) for number in numbers], draw)

    return machine.times(once, rounds)


def jpegs(folder: str, rounds: int) -> tuple[float, float]:
    """Seconds of decoding one JPEG, and its bytes."""
    samples = ShardDataset(folder, skip=SKIP)
    data = []
    for places in samples._places:
        offset, size = places["image"]
        data.append(os.pread(samples._descriptor(0), size, offset))

    def once() -> None:
        for part in data:
            cv2.imdecode(np.frombuffer(part, np.uint8), cv2.IMREAD_COLOR_RGB)

    busy, _ = machine.times(once, rounds)
    return median(busy) / len(data), float(np.mean([len(x) for x in data]))


def distances(rounds: int) -> dict[str, Any]:
    """Queries a second against hand and object, and the largest errors against closed forms."""
    model = HandModel.free()
    vertices, faces = model.template.double().numpy(), model.faces.numpy()
    closed = closed_faces(faces)
    can = trimesh.creation.cylinder(radius=0.033, height=0.1, sections=64).subdivide().subdivide()
    thing = MeshDistance(can.vertices, can.faces)
    place = vertices.mean(0) + (0.0, 0.0, 0.05)
    draw = np.random.default_rng(0)
    points = vertices[draw.integers(0, 778, QUERIES)]
    points = points + 0.02 * draw.standard_normal(points.shape)

    def once() -> None:
        both = Surfaces(vertices, faces, thing, np.eye(3), place)
        both.distance("hand", points)
        both.distance("object", points)

    def hand() -> None:
        MeshDistance(vertices, closed, once=True)

    anywhere = draw.uniform(-0.08, 0.08, (QUERIES, 3))
    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.05)
    box = trimesh.creation.box([0.06, 0.1, 0.04])
    outside = np.abs(anywhere) - np.array([0.03, 0.05, 0.02])
    truth = np.linalg.norm(np.maximum(outside, 0), axis=-1) + np.minimum(outside.max(-1), 0)
    off = {
        "sphere": MeshDistance(ball.vertices, ball.faces).distance(anywhere)
        - (np.linalg.norm(anywhere, axis=-1) - 0.05),
        "box": MeshDistance(box.vertices, box.faces).distance(anywhere) - truth,
    }
    seconds = median(machine.times(once, rounds)[0])
    return {
        "queries_a_second_against_both": round(QUERIES / seconds),
        "queries": QUERIES,
        "hand_search_tree_ms": round(1e3 * median(machine.times(hand, rounds)[0]), 2),
        "hand_faces": len(closed),
        "object_faces": len(can.faces),
        "largest_error_mm": {
            name: float(f"{1e3 * np.abs(value).max():.2g}") for name, value in off.items()
        },
    }


def occlusion(folder: str, rounds: int) -> dict[str, Any]:
    """Milliseconds of rendering one hand behind one object and its visible share."""
    samples = [sample for sample in ShardDataset(folder, skip=SKIP) if sample.object is not None]
    if not samples:
        raise SystemExit("none of the scenes has an object: give more --samples")
    box = trimesh.creation.box([0.07, 0.2, 0.07])
    for _ in range(3):
        box = box.subdivide()
    thing = RenderMesh(vertices=box.vertices, faces=box.faces)
    sides = {"left": HandModel.free("left"), "right": HandModel.free("right")}
    faces = {side: model.faces.numpy() for side, model in sides.items()}

    def once() -> None:
        for sample in samples:
            known, hand = sample.object, sample.hands[0]
            if known is None or hand.vertices is None:
                raise ValueError("a scene lacks its object or its hand's mesh")
            hand_mesh = RenderMesh(vertices=hand.vertices, faces=faces[str(hand.side)])
            moved = thing.placed(known.rotation, known.translation)
            seen = see([hand_mesh, moved], sample.camera, 1)
            visible_share(seen.visible[0], seen.amodal[0])

    seconds = median(machine.times(once, rounds)[0]) / len(samples)
    return {"ms_a_sample": round(1e3 * seconds, 2), "object_faces": len(box.faces)}


def measure(names: list[str], folder: str, rounds: int) -> dict[str, Any]:
    """The rates of every method."""
    unit, size = jpegs(folder, rounds)
    count = len(ShardDataset(folder))
    figures: dict[str, Any] = {"jpeg_ms": round(1e3 * unit, 2), "jpeg_bytes": round(size)}
    print(f"JPEG of {size / 1e3:.0f} kB: {1e3 * unit:.2f} ms; {count} samples a round")
    print(f"{'samples a second':27}{'by processor':>13}{'1 process':>11}{'2':>7}{'jpegs':>7}")
    methods: dict[str, Any] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context) as pool:
        for name in names:
            busy, clock = spent(name, folder, rounds)
            pair = [pool.submit(spent, name, folder, rounds) for _ in range(2)]
            slowest = max(sum(future.result()[1]) for future in pair)
            second = count / median(busy)
            methods[name] = {
                "samples_a_second_of_processor_time": round(second, 1),
                "slowest_and_fastest_round": [
                    round(count / value, 1) for value in (max(busy), min(busy))
                ],
                "samples_a_second_1_process": round(count / median(clock), 1),
                "samples_a_second_2_processes": round(2 * count * rounds / slowest, 1),
                "in_jpegs": round(median(busy) / count / unit, 2),
                "twice_the_processor_rate_reaches_goal": bool(2 * second >= GOAL),
            }
            row = list(methods[name].values())
            print(f"{name:27}{row[0]:13.0f}{row[2]:11.0f}{row[3]:7.0f}{row[4]:7.1f}", flush=True)
    return figures | {"methods": methods}


def plot(figures: dict[str, Any], path: Path) -> None:
    """Samples a second of processor time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    methods = figures["methods"]
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    rates = [row["samples_a_second_of_processor_time"] for row in methods.values()]
    axes.bar(range(len(rates)), rates, 0.6)
    for place, rate in enumerate(rates):
        axes.text(place, rate, f"{rate:.0f}", ha="center", va="bottom", fontsize=7)
    axes.axhline(GOAL / 2, color="black", linewidth=1)
    axes.set_xticks(range(len(rates)), list(methods), rotation=30, ha="right", fontsize=8)
    axes.set_ylabel("samples / second of one core's time")
    axes.set_title(f"640x480 JPEGs to {SIZE}x{SIZE} crops; line: the goal of one core", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--methods", nargs="+", default=list(MODELS))
    parser.add_argument("--samples", type=int, default=48, help="samples of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write the figures down")
    asked = parser.parse_args()
    quiet()
    conditions = machine.conditions("numpy", "opencv-python-headless", threads=1)
    with tempfile.TemporaryDirectory() as folder:
        write_shards(scenes(asked.samples), folder)
        figures = measure(asked.methods, folder, asked.rounds)
        figures["signed_distances"] = distances(asked.rounds)
        figures["visible_share"] = occlusion(folder, asked.rounds)
    for name in ("signed_distances", "visible_share"):
        print(f"{name.replace('_', ' ')}: {figures[name]}")
    figures["conditions"] = {
        "photo": "640x480",
        "crop": f"{SIZE}x{SIZE}",
        "batch": BATCH,
        "samples_a_round": asked.samples,
        "rounds": asked.rounds,
        "goal": f"{GOAL} samples a second on two cores",
        **conditions,
    }
    if asked.save:
        RESULTS.parent.mkdir(exist_ok=True)
        write_text(RESULTS, json.dumps(figures, indent=2) + "\n")
        plot(figures, RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main()
