"""How long the complete table of hand errors takes, against a loop over samples in the same run.

    python benchmarks/metrics.py                      78,768 predictions, as DexYCB's S0 test
    python benchmarks/metrics.py --count 4000 --out benchmark.json

The table: joints and 778 vertices, root-relative and after Procrustes, each with mean error and AUC
of 100 thresholds; F at 5 and 15 mm of raw and aligned meshes. The loop does the same sample by
sample with SciPy, as the official scripts do (a k-d tree for each mesh and threshold, a list of
errors for each point, one comparison for each threshold), on `--loop` of the samples. Both must
agree within 1e-6 there.

Predictions are made up: posed hands of the free model (`--pool` pairs of truth and prediction,
whose errors are those of published methods), each used again under other rotations.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import machine

RESULTS = Path(__file__).parent / "results" / "metrics.json"
COUNT = 78_768  # labelled hands of DexYCB's S0 test
GOAL = 60.0  # seconds on two cores
SIZES = (0.02, 0.05, 0.1)  # of the count, for the plot


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=COUNT, help="predictions")
    parser.add_argument("--loop", type=int, default=200, help="of them in the loop over samples")
    parser.add_argument("--pool", type=int, default=2048, help="different pairs of hands")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the JSON file; the plot goes beside it")
    return parser.parse_args()


def made_up(count: int, pool: int, seed: int) -> dict[str, Any]:
    """Joints (N, 21, 3) and vertices (N, 778, 3), found and true, float32 metres."""
    import numpy as np
    import torch
    from scipy.spatial.transform import Rotation

    from handhold.hand.model import HandModel

    draw, model = np.random.default_rng(seed), HandModel.free("right")

    def posed(*parts: Any) -> Any:
        with torch.inference_mode():
            return model(*(torch.from_numpy(part).float() for part in parts))

    pose = 0.25 * draw.standard_normal((pool, 16, 3))
    betas = 0.5 * draw.standard_normal((pool, 10))
    place = 0.1 * draw.standard_normal((pool, 3)) + (0, 0, 0.7)
    truth = posed(pose, betas, place)
    guess = pose + 0.09 * draw.standard_normal(pose.shape)
    found = posed(guess, betas + 0.3 * draw.standard_normal(betas.shape), place)
    base = {
        "joints": found.joints, "true_joints": truth.joints,
        "vertices": found.vertices, "true_vertices": truth.vertices,
    }  # fmt: skip
    base = {name: part.numpy() for name, part in base.items()}
    result = {name: np.zeros((count, *part.shape[1:]), np.float32) for name, part in base.items()}
    for start in range(0, count, pool):
        rows = slice(start, min(start + pool, count))
        size = rows.stop - rows.start
        turn = Rotation.random(size, rng=draw).as_matrix().astype(np.float32)
        for name, part in base.items():
            result[name][rows] = part[:size] @ np.swapaxes(turn, 1, 2)
    return result


def loop(hands: dict[str, Any]) -> dict[str, float]:
    """The same table sample by sample."""
    import numpy as np
    from scipy.linalg import orthogonal_procrustes
    from scipy.spatial import KDTree

    def align(points: Any, truth: Any) -> Any:
        middle, other = truth.mean(0), points.mean(0)
        g, p = truth - middle, points - other
        s1, s2 = np.linalg.norm(g) + 1e-8, np.linalg.norm(p) + 1e-8
        turn, scale = orthogonal_procrustes(g / s1, p / s2)
        return (p / s2) @ turn.T * scale * s1 + middle

    thresholds = np.linspace(0, 0.05, 100)
    numbers: dict[str, float] = {}
    for name, short in (("joints", "mpjpe"), ("vertices", "mpvpe")):
        for prefix in ("", "pa_"):
            errors: list[list[float]] = [[] for _ in range(hands[name].shape[1])]
            scores: dict[int, list[float]] = {5: [], 15: []}
            for i in range(len(hands[name])):
                roots = [np.float64(hands[key][i, 0]) for key in ("joints", "true_joints")]
                p, g = (np.float64(hands[key][i]) for key in (name, f"true_{name}"))
                p, g = (p - roots[0], g - roots[1]) if not prefix else (align(p, g), g)
                for j, error in enumerate(np.sqrt(((p - g) ** 2).sum(1))):
                    errors[j].append(float(error))
                for limit in scores if name == "vertices" else ():
                    precision = (KDTree(p).query(g)[0] < limit / 1000).mean()
                    recall = (KDTree(g).query(p)[0] < limit / 1000).mean()
                    total = precision + recall
                    scores[limit].append(2 * precision * recall / total if total else 0.0)
            columns = [np.array(column) for column in errors]
            curves = [[(c <= t).mean() for t in thresholds] for c in columns]
            areas = [np.trapezoid(curve, thresholds) / 0.05 for curve in curves]
            numbers[f"{prefix}{short}_mm"] = 1000 * float(np.mean([c.mean() for c in columns]))
            numbers[f"{prefix}{short}_auc"] = float(np.mean(areas))
            if name == "vertices":
                for limit, values in scores.items():
                    numbers[f"{prefix}f@{limit}"] = float(np.mean(values))
    return numbers


def timed(work: Any) -> tuple[Any, float, float]:
    """What work gives, its wall time and its processor time in seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - processor


def plot(state: dict[str, Any], path: Path) -> None:
    """Processor time over predictions of the table, and what the loop would take."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    sizes = [row["predictions"] for row in state["sizes"]]
    axes.plot(sizes, [row["processor_seconds"] for row in state["sizes"]], "o-", label="table")
    few, seconds = state["loop"]["predictions"], state["loop"]["processor_seconds"]
    axes.plot(sizes, [seconds / few * size for size in sizes], "--", label="loop, extrapolated")
    axes.plot([few], [seconds], "x", label="loop")
    axes.axhline(2 * GOAL, color="black", linewidth=1, label=f"{GOAL:.0f} s on two cores")
    axes.set(xscale="log", yscale="log", xlabel="predictions", ylabel="seconds of processor time")
    threads = state["conditions"]["threads"]
    axes.set_title(f"complete hand table, {threads} thread{'s' if threads > 1 else ''}")
    axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def conditions(asked: argparse.Namespace) -> dict[str, Any]:
    """Where and how it was measured."""
    found = machine.conditions("numpy", "scipy", threads=asked.threads)
    return found | {"seed": asked.seed, "pool": asked.pool}


def main() -> None:
    """Measure, print and write down."""
    asked = options()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # threads are ours: each works on hands of its own
    from handhold.evaluation.metrics.hand_table import hand_table

    state: dict[str, Any] = {"conditions": conditions(asked)}
    hands = made_up(asked.count, asked.pool, asked.seed)
    few = {name: part[: asked.loop] for name, part in hands.items()}
    hand_table(**few, workers=asked.threads)  # warm
    expected, wall, processor = timed(lambda: loop(few))
    state["loop"] = {
        "predictions": len(few["joints"]),
        "wall_seconds": round(wall, 3),
        "processor_seconds": round(processor, 3),
    }
    quick, table_wall, table_processor = timed(lambda: hand_table(**few, workers=1))
    off = max(abs(quick.numbers[key] - value) for key, value in expected.items())
    state["same_samples"] = {
        "wall_seconds": round(table_wall, 3),
        "processor_seconds": round(table_processor, 3),
        "loop_over_table_processor": round(processor / table_processor, 2),
        "largest_difference": float(f"{off:.2g}"),
    }
    if off > 1e-6:
        raise SystemExit(f"the table differs from the loop by {off:.3g}")
    sizes = [max(1, round(share * asked.count)) for share in SIZES] + [asked.count]
    rows = []
    for size in sizes:
        part = {name: values[:size] for name, values in hands.items()}
        table, wall, processor = timed(lambda part=part: hand_table(**part, workers=asked.threads))
        rows.append(
            {
                "predictions": size,
                "wall_seconds": round(wall, 2),
                "processor_seconds": round(processor, 2),
            }
        )
        print(f"{size:>7,} predictions: {wall:7.2f} s, processor {processor:7.2f} s", flush=True)
        state["numbers"] = {key: round(value, 6) for key, value in table.numbers.items()}
    state["sizes"] = rows
    state["goal"] = {"seconds": GOAL, "predictions": COUNT, "threads": 2}
    each = state["loop"]["processor_seconds"] / state["loop"]["predictions"]
    state["loop_over_table_processor"] = round(
        each * asked.count / max(rows[-1]["processor_seconds"], 1e-9), 2
    )
    print(
        f"loop: {each * 1000:.2f} ms a sample, {state['loop_over_table_processor']:.1f} times the "
        f"table's processor time; largest difference {off:.1e}"
    )
    out = asked.out or (RESULTS if asked.count == COUNT else None)
    if out is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_suffix(".tmp")
    temporary.write_text(json.dumps(state, indent=2) + "\n")
    temporary.replace(out)
    plot(state, out.with_suffix(".png"))


if __name__ == "__main__":
    main()
