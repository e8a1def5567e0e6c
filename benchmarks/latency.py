"""What a network costs, as multiples of a plain ResNet-50 forward pass of the same run.

    python benchmarks/latency.py [--methods hflnet mobrecon] [--threads 2] [--rounds 15]

For every method: latency with one hand and throughput with 16, of the network as it is (eager
PyTorch) and of `handhold.inference.fast`, with the largest difference of their results, relative to
the largest value of each. The unit is ResNet-50 (He et al., CVPR 2016) with its classification
head, eager, with crops of the same side, as many of them, and as many threads; all take turns in a
rotating order and medians over the rounds are compared. Weights are made up from a seed, norms
have half of the statistics of a batch. Cropping and decoding are outside, the hand model is inside.

"original" is the authors' code against the same kind of ResNet-50, measured beforehand with two
threads of an AMD EPYC and PyTorch 2.13; `needed` is the share of it that the fast path is to stay
below. The C library is told to keep its memory (the process starts itself anew for that), as it was
for the originals. Writes benchmarks/results/latency.json and latency.png; with --methods it only
prints, unless --out says where to.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine

KEPT = (
    "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736:glibc.malloc.top_pad=268435456"
)
RESULTS = Path(__file__).parent / "results" / "latency.json"
BATCH = 16
MAKE = {"unihope": {"input_size": 128}}  # as in the paper, where the default is another
# the authors' code: ratio with one hand, ratio with eight
ORIGINALS: dict[str, tuple[float, float | None]] = {
    "hflnet": (4.94, 4.96),
    "unihope": (6.34, 11.7),
    "semihand": (1.99, 1.72),
    "handoccnet": (3.98, 4.07),
    "mobrecon": (0.79, 0.92),
    "h2onet": (1.17, 1.37),
    "simplehand": (2.27, 2.33),
    "keypoint-transformer": (2.49, None),
    "hoisdf": (29.0, None),
}
NEEDED = {"hoisdf": 0.2}  # of the original's ratio; the others: half


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", help="names of the registry; default: all")
    parser.add_argument("--hands", type=int, nargs="+", default=[1, BATCH], help="at once")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=15, help="at most, of each measurement")
    parser.add_argument("--seconds", type=float, default=10.0, help="about, of each measurement")
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall",
                        help="processor: what is left of a shared core does not count")  # fmt: skip
    parser.add_argument("--engine", help="of the fast path, instead of the best")
    parser.add_argument("--out", type=Path, help="the JSON file; the plot goes beside it")
    return parser.parse_args()


def restart(threads: int) -> None:
    """Replace this process by one whose C library keeps its memory."""
    wanted = {"GLIBC_TUNABLES": KEPT, "OMP_NUM_THREADS": str(threads)}
    if any(os.environ.get(key) != value for key, value in wanted.items()):
        os.environ.update(wanted)
        os.execv(sys.executable, [sys.executable, *sys.argv])


def resnet50() -> Any:
    """Plain ResNet-50 with its classifier, eager."""
    from torch import nn

    from handhold.models.nn.resnet import Stem, stage

    inputs, widths, depths = (64, 256, 512, 1024), (64, 128, 256, 512), (3, 4, 6, 3)
    stages = [
        stage("bottleneck", inside, width, depth, 1 if index == 0 else 2, 0.0)
        for index, (inside, width, depth) in enumerate(zip(inputs, widths, depths, strict=True))
    ]
    pool, flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(Stem(64, 7, 0.0), *stages, pool, flat, nn.Linear(2048, 1000)).eval()


def made_up_batch(model: Any, count: int) -> Any:
    """`count` crops of smooth noise with a hand box and an object box each."""
    import numpy as np
    import torch

    from handhold.scene import Camera

    side = 256
    draw = np.random.default_rng(0)
    crops = []
    for _ in range(count):
        coarse = torch.from_numpy(draw.random((1, 3, 24, 24))).float()
        smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")[0]
        image = (smooth.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        focal = np.array([[400.0, 0, side / 2], [0, 400.0, side / 2], [0, 0, 1]])
        camera = Camera(intrinsics=focal, width=side, height=side)
        box = np.array([0.25, 0.25, 0.7, 0.65]) * side + draw.uniform(-20, 20, 4)
        encoded = model.processor.encode_boxes(image, [box], ["right"], [box + 20], camera)
        crops.append(encoded)
    from handhold.inference.estimator import join

    return join(crops)


def settle(network: Any, batch: Any) -> None:
    """Move the norms half of the way to the statistics of a batch, so that nothing explodes."""
    import torch
    from torch import nn

    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 0.5  # not all: a tiny variance would enlarge rounding
        norm.train()
    with torch.no_grad():
        network(batch)
    network.eval()


def median(values: list[float]) -> float:
    """The middle value."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def race(
    works: dict[str, Callable[[], Any]], rounds: int, seconds: float, clock: Callable[[], float]
) -> tuple[dict[str, list[float]], int]:
    """Seconds of every round of each work, which take turns; the first call is not counted."""
    once = 0.0
    for work in works.values():
        work()
        start = clock()
        work()
        once += clock() - start
    rounds = max(3, min(rounds, int(seconds / once)))
    names, spent = list(works), {name: [] for name in works}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            time.sleep(0.002)  # the threads of the one before go to rest
            start = clock()
            works[name]()
            spent[name].append(clock() - start)
    return spent, rounds


def difference(found: Any, expected: Any) -> dict[str, float]:
    """By result: the largest difference over the largest value. Object points without confidence
    mean nothing."""
    import torch

    def given(prediction: Any) -> dict[str, Any]:
        named = {f.name: getattr(prediction, f.name) for f in dataclasses.fields(prediction)}
        if prediction.object_confidence is not None:
            shown = prediction.object_confidence > 0
            named["object_points2d"] = prediction.object_points2d * shown[..., None]
        return {key: value for key, value in named.items() if isinstance(value, torch.Tensor)}

    mine, theirs = given(found), given(expected)
    return {
        key: float((mine[key] - theirs[key]).abs().max() / theirs[key].abs().max().clamp_min(1e-9))
        for key in theirs
    }


def measure(name: str, asked: argparse.Namespace, unit: Any) -> dict[str, Any]:
    """All figures of one method."""
    import torch

    from handhold.inference.fast import best_engine, fast
    from handhold.models.loading import build_model
    from handhold.models.registry import MODELS

    config = dataclasses.replace(MODELS[name].config(), **MAKE.get(name, {}))
    model = build_model(name, config=config, seed=0)
    settle(model.network, made_up_batch(model, 4))
    engine = asked.engine or best_engine(model.network)
    quick = fast(model.network, engine, threads=asked.threads)
    clock = time.perf_counter if asked.clock == "wall" else time.process_time
    figures: dict[str, Any] = {"input_size": config.input_size, "engine": engine}
    begun = time.perf_counter()
    for count in asked.hands:
        batch = made_up_batch(model, count)
        with torch.inference_mode():
            expected = model.network(batch)
        off = difference(quick(batch), expected)
        if "preparation_seconds" not in figures:
            figures["preparation_seconds"] = round(time.perf_counter() - begun, 1)

        def eager(batch: Any = batch) -> Any:
            with torch.inference_mode():
                return model.network(batch)

        def reference(image: Any = batch.image) -> Any:
            with torch.inference_mode():
                return unit(image)

        works = {"resnet50": reference, "eager": eager, "fast": lambda batch=batch: quick(batch)}
        spent, rounds = race(works, asked.rounds, asked.seconds, clock)
        middle = {key: median(values) for key, values in spent.items()}
        figures[f"batch_{count}"] = {
            "rounds": rounds,
            "eager_ratio": round(middle["eager"] / middle["resnet50"], 3),
            "fast_ratio": round(middle["fast"] / middle["resnet50"], 3),
            "resnet50_ms": round(1e3 * middle["resnet50"], 2),
            "eager_ms": round(1e3 * middle["eager"], 2),
            "fast_ms": round(1e3 * middle["fast"], 2),
            "fast_hands_a_second": round(count / middle["fast"], 1),
            "largest_relative_difference": float(f"{max(off.values()):.2g}"),
            "of": max(off, key=lambda key: off[key]),
        }
    if name in ORIGINALS and 1 in asked.hands:
        one, eight = ORIGINALS[name]
        share = figures["batch_1"]["fast_ratio"] / one
        needed = NEEDED.get(name, 0.5)
        figures["original"] = {"ratio": one, "ratio_with_8": eight, "needed": needed}
        figures["share_of_the_original"] = round(share, 3)
        figures["reached"] = share <= needed
    return figures


def line(name: str, figures: dict[str, Any], hands: list[int]) -> str:
    """One line of the printed table."""
    parts = [figures[f"batch_{count}"] for count in hands]
    text = f"{name:27}{figures['input_size']:5} {figures['engine']:9}"
    for part in parts:
        text += f"{part['eager_ratio']:8.2f}{part['fast_ratio']:7.2f}"
    text += f"{max(part['largest_relative_difference'] for part in parts):11.1e}"
    if "original" in figures:
        original, verdict = figures["original"], "yes" if figures["reached"] else "NO"
        text += f"{original['ratio']:10.2f}{figures['share_of_the_original']:7.2f}"
        text += f" <= {original['needed']}? {verdict}"
    return text


def plot(figures: dict[str, Any], path: Path) -> None:
    """Ratios of the methods with an original."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = {name: row for name, row in figures.items() if "original" in row}
    if not shown:
        return
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    kinds = {
        "original": [row["original"]["ratio"] for row in shown.values()],
        "eager": [row["batch_1"]["eager_ratio"] for row in shown.values()],
        "fast": [row["batch_1"]["fast_ratio"] for row in shown.values()],
    }
    for offset, (kind, values) in zip((-0.27, 0.0, 0.27), kinds.items(), strict=True):
        places = [index + offset for index in range(len(values))]
        axes.bar(places, values, 0.25, label=kind)
        for place, value in zip(places, values, strict=True):
            axes.text(place, value, f"{value:.2g}", ha="center", va="bottom", fontsize=7)
    goals = [row["original"]["ratio"] * row["original"]["needed"] for row in shown.values()]
    for index, goal in enumerate(goals):
        axes.hlines(goal, index - 0.42, index + 0.42, color="black", linewidth=1)
    axes.set_yscale("log")
    labels = [f"{name}\n{row['input_size']}" for name, row in shown.items()]
    axes.set_xticks(range(len(labels)), labels, rotation=25, fontsize=8)
    axes.set_ylabel("latency of one hand / plain ResNet-50")
    axes.set_title("bars: original code, ours eager, ours fast; lines: the goal", fontsize=9)
    axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def conditions(asked: argparse.Namespace) -> dict[str, Any]:
    """Where and how it was measured."""
    packages = ("torch", "onnxruntime", "onnxscript", "onnx", "numpy")
    found = machine.conditions(*packages, threads=asked.threads)
    return found | {"clock": asked.clock, "memory": KEPT, "most_rounds": asked.rounds}


def main() -> None:
    """Measure, print and write down."""
    asked = options()
    restart(asked.threads)
    import torch

    from handhold.models.registry import MODELS, entry

    torch.set_num_threads(asked.threads)
    names = asked.methods or list(MODELS)
    for name in names:
        entry(name)
    state = conditions(asked)
    torch.manual_seed(0)
    unit = resnet50()
    head = "".join(f"{f'{count}: eager':>8}{'fast':>7}" for count in asked.hands)
    print(f"{'':42}{head} difference  original  share")
    figures: dict[str, Any] = {}
    out = asked.out or (None if asked.methods else RESULTS)
    for name in names:
        figures[name] = measure(name, asked, unit)
        print(line(name, figures[name], asked.hands), flush=True)
    text = json.dumps({"conditions": state, "methods": figures}, indent=2) + "\n"
    if out is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    from handhold.atomic import write_text

    write_text(out, text)
    plot(figures, out.with_suffix(".png"))


if __name__ == "__main__":
    main()
