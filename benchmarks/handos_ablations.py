"""HandOS's ablations in small: one command a table.

    python benchmarks/handos_ablations.py TABLE --out FOLDER [--steps 200] [--seeds 0 1 2] [--save]

TABLE: attention, side-tuning, surface-losses, queries, hand-prior, or all. Scenes with two hands
are rendered once (--photos of them and a quarter as many to measure on, other series) and kept in
FOLDER. Every run is a `handhold train` of a narrow HandOS on a frozen detector, from fresh weights
and in one stage; it goes on where it was stopped, and is not begun again when it is finished. The
runs that tables share are trained once. Seeds are of first weights, order and augmentation; the
photos are the same for all.

Writes TABLE.json, TABLE.md and TABLE.png into FOLDER; --save: also into
benchmarks/results/handos_ablations.json. A difference is told as such only where it is larger than
the spread (largest minus smallest) of either side's seeds, and all seeds agree on its sign.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import machine
import numpy as np
import torch
from torch import Tensor

from handhold.atomic import replacing, write_text
from handhold.geometry.alignment import procrustes
from handhold.models.handos.batch import HandOSPrediction
from handhold.models.handos.camera import project, to_pixels
from handhold.models.handos.loss import fitted_hands
from handhold.models.nn.mesh_losses import face_edges
from handhold.synthesis.scenes import SceneConfig, make_scene
from handhold.synthesis.shards import shard_path, write_shards
from handhold.training.build import build_task
from handhold.training.config import TrainConfig
from handhold.training.photo_measures import matched
from handhold.training.run import train
from handhold.training.stream import validation_batches

RESULTS = Path(__file__).parent / "results" / "handos_ablations.json"
NETWORK: dict[str, Any] = {
    "width": 64,
    "feedforward": 128,
    "vertices": 98,
    "layers_mesh": 2,
    "side_width": 64,
    "side_hidden": 32,
    "points": 2,
    "max_positives": 1,
    "nms_iou": 0.5,
    "max_hands": 4,
}
Changes = dict[str, dict[str, Any]]
# table -> row -> what it changes; the first row of each is what the others are compared with
TABLES: dict[str, dict[str, Changes]] = {
    "attention": {
        "c (the paper's)": {},
        "a": {"network": {"attention": "a"}},
        "b": {"network": {"attention": "b"}},
        "d": {"network": {"attention": "d"}},
    },
    "side-tuning": {"with": {}, "without": {"network": {"side_tuning": "none"}}},
    "surface-losses": {"edge and normal": {}, "neither": {"loss": {"edge": 0.0, "normal": 0.0}}},
    "queries": {"instance": {}, "unified": {"network": {"queries": "unified"}}},
    "hand-prior": {"without (the paper)": {}, "with": {"loss": {"hand_prior": 10.0}}},
}
# name -> unit, and whether more is better
MEASURES = {
    "PA-MPVPE": ("mm", False),
    "MPVPE": ("mm", False),
    "2D": ("% of the box", False),
    "projected": ("% of the box", False),
    "sides": ("%", True),
    "off a hand": ("mm", False),
    "edges": ("%", False),
    "folds": ("%", False),
}


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=[*TABLES, "all"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--size", type=int, default=192, help="of the photos, pixels")
    parser.add_argument("--input", type=int, default=128, help="the network's, pixels")
    parser.add_argument("--batch", type=int, default=4, help="photos a step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true")
    return parser.parse_args()


# ------------------------------------------------------------------------------------- photos


def photos(folder: Path, count: int, size: int, seed: int) -> Path:
    """Scenes of the series `seed`, two bare hands in nearly all; rendered where they are not yet
    there."""
    where = folder / f"scenes-{size}-{count}-{seed}"
    if not shard_path(where, 0).exists():
        told = SceneConfig(
            width=size,
            height=size,
            holding=0.0,
            near=0.0,
            occluder=0.0,
            second_hand=1.0,
            hand_size=(0.4, 0.8),
        )
        scenes = (make_scene(seed, number, told) for number in range(count))
        write_shards(scenes, where, shard_size=count, depth=False)
    return where


# --------------------------------------------------------------------------------------- runs


def configuration(asked: argparse.Namespace, changes: Changes, seed: int) -> TrainConfig:
    """Of one run."""
    shown = photos(asked.out, asked.photos, asked.size, seed=1)
    held_out = photos(asked.out, max(1, asked.photos // 4), asked.size, seed=2)
    network = NETWORK | {"input_size": asked.input} | changes.get("network", {})
    return TrainConfig(
        model="handos-small",
        recipe="handos-ablation",
        network=network,
        loss=changes.get("loss", {}),
        data=(f"shards:{shown}",),
        validation=(f"shards:{held_out}",),
        validation_items=4,  # `measure` looks at all of them
        validate_steps=asked.steps,
        steps=asked.steps,
        batch_size=asked.batch,
        lr=2e-3,
        lr_factors={"mesh.matrix": 0.05, "lift.matrix": 10.0},  # the recipe's
        schedule="one_cycle",
        clip_norm=1.0,
        seed=seed,
        checkpoint_minutes=1.0,
    )


def slug(changes: Changes, seed: int) -> str:
    """The folder of a run."""
    parts = [f"{k}={v}" for part in changes.values() for k, v in part.items()]
    return "-".join([*parts, f"seed{seed}"] if parts else ["base", f"seed{seed}"])


def run(asked: argparse.Namespace, changes: Changes, seed: int) -> dict[str, float]:
    """What a run reaches on the held-out photos; trained, gone on with, or read."""
    setting = f"runs-{asked.size}-{asked.input}-{asked.photos}-{asked.steps}x{asked.batch}"
    folder = asked.out / setting / slug(changes, seed)
    told = folder / "measures.json"
    if told.exists():
        return json.loads(told.read_text(encoding="utf-8"))
    config = configuration(asked, changes, seed)
    kept: list[Any] = []

    def task(config: TrainConfig) -> Any:
        kept.append(build_task(config))
        return kept[-1]

    ended = train(config, task, folder)
    if ended.stopped:  # half a training is no result
        raise SystemExit(f"{folder}: stopped at step {ended.done} of {ended.total}; run it again")
    network = kept[-1].network.eval()
    found = measure(network, config, kept[-1])
    write_text(told, json.dumps(found, indent=1))
    print(f"{folder.name}: {shown_row(found)}", flush=True)
    return found


# ----------------------------------------------------------------------------------- measures


@torch.no_grad()
def measure(network: Any, config: TrainConfig, task: Any) -> dict[str, float]:
    """Means over the hands that the detector finds (the same ones for every run).

    PA-MPVPE, MPVPE: with and without the similarity that fits best; the latter from the wrist. 2D,
    projected: mean error of joints by the 2D layers and of the mesh's, in shares of the longer side
    of the hand's box (grown as the detector's). sides: share of meshes of the right side. off a
    hand: mean distance of vertices to the hand model fitted to them. edges: mean difference of an
    edge's length from the true one, by the true mean. folds: share of neighbouring faces that meet
    at a sharper angle than 90 degrees.
    """
    sums: dict[str, list[float]] = {name: [] for name in MEASURES}
    labels = truths = 0
    own: dict[str, list[float]] = {"off a hand": [], "folds": []}  # of the true meshes
    whole = dataclasses.replace(config, validation_items=1_000_000, batch_size=25)
    for _, batch in validation_batches(whole, task):
        found: HandOSPrediction = network(batch)
        rows, mine = matched(found, batch)
        truths, labels = truths + len(batch.owner), labels + len(rows)
        if len(rows):
            for name, values in _errors(found, batch, rows, mine).items():
                sums[name] += values.tolist()
            truth, right = batch.vertices[mine], batch.right[mine] > 0.5
            own["off a hand"] += _off_hand(truth, right, found).tolist()
            own["folds"] += _folds(truth, found).tolist()
    result = {name: float(np.mean(values)) for name, values in sums.items()}
    return result | {
        "hands": labels,
        "recall": labels / truths,
        **{f"true {name}": float(np.mean(values)) for name, values in own.items()},
    }


def _errors(found: HandOSPrediction, batch: Any, rows: Tensor, mine: Tensor) -> dict[str, Tensor]:
    vertices, joints, moved = found.vertices, found.joints, found.translation
    if vertices is None or joints is None or moved is None or found.volume is None:
        raise SystemExit("expected a network with mesh layers")
    mesh, truth = vertices[rows, -1], batch.vertices[mine]
    aligned = torch.from_numpy(procrustes(mesh.double().numpy(), truth.double().numpy()).aligned)
    image = batch.owner[mine]
    size = batch.valid_size[image]
    side = (batch.boxes[mine, 2:] * size).amax(-1)
    valid = batch.joints2d_valid[mine]

    def planar(pixels: Tensor) -> Tensor:
        off = (pixels - batch.joints2d[mine]).norm(dim=-1) * valid
        return 100 * off.sum(-1) / valid.sum(-1).clamp(min=1) / side

    seen = project((joints[rows, -1] + moved[rows, -1, None])[:, None], batch.intrinsics[image])
    right = found.volume[rows] > 0
    lengths, true_lengths = (face_edges(v, found.faces).norm(dim=-1) for v in (mesh, truth))
    return {
        "PA-MPVPE": 1000 * (aligned - truth).norm(dim=-1).mean(-1),
        "MPVPE": 1000 * (mesh - joints[rows, -1, :1] - truth).norm(dim=-1).mean(-1),
        "2D": planar(to_pixels(found.joints2d[rows, -1], size)),
        "projected": planar(seen[:, 0]),
        "sides": 100.0 * (right == (batch.right[mine] > 0.5)),
        "off a hand": _off_hand(mesh, right, found),
        "edges": 100 * (lengths - true_lengths).abs().mean((1, 2)) / true_lengths.mean((1, 2)),
        "folds": _folds(mesh, found),
    }


def _off_hand(vertices: Tensor, right: Tensor, found: HandOSPrediction) -> Tensor:
    if found.hand is None:
        raise SystemExit("expected a prediction that tells its hand model")
    return 1000 * (vertices - fitted_hands(vertices, right, found.hand)).norm(dim=-1).mean(-1)


def _folds(vertices: Tensor, found: HandOSPrediction) -> Tensor:
    edges = face_edges(vertices, found.faces)
    normals = edges[:, :, 0].cross(edges[:, :, 1], dim=-1)
    first, second = (normals[:, found.face_pairs[:, side]] for side in (0, 1))
    return 100 * ((first * second).sum(-1) < 0).float().mean(-1)


# ------------------------------------------------------------------------------------- tables


def shown_row(found: dict[str, float]) -> str:
    """One run on one line."""
    return ", ".join(f"{name} {found[name]:.2f}" for name in MEASURES)


def verdict(name: str, first: list[float], other: list[float]) -> str:
    """What the difference to the first row amounts to: "better", "worse" or "within the spread"."""
    gap = float(np.mean(other) - np.mean(first))
    spread = max(np.ptp(first), np.ptp(other))
    agree = len({np.sign(b - a) for a, b in zip(first, other, strict=True)}) == 1
    if len(first) < 2 or abs(gap) <= spread or not agree:
        return "within the spread"
    return "better" if (gap > 0) == MEASURES[name][1] else "worse"


def tabulate(asked: argparse.Namespace, table: str) -> dict[str, Any]:
    """Run what is left of a table, and write it."""
    rows = {
        row: [run(asked, changes, seed) for seed in asked.seeds]
        for row, changes in TABLES[table].items()
    }
    base = next(iter(rows.values()))
    values = {
        row: {name: [one[name] for one in runs] for name in MEASURES} for row, runs in rows.items()
    }
    first = next(iter(values.values()))
    result = {
        "command": f"python benchmarks/handos_ablations.py {table} --out FOLDER "
        f"--steps {asked.steps} --photos {asked.photos} --size {asked.size} "
        f"--input {asked.input} --batch {asked.batch} --seeds {' '.join(map(str, asked.seeds))}",
        "processor": machine.processor(),
        "hands": base[0]["hands"],
        "recall": base[0]["recall"],
        "of_the_truth": {
            name: round(base[0][f"true {name}"], 3) for name in ("off a hand", "folds")
        },
        "rows": {
            row: {
                name: {
                    "seeds": [round(x, 3) for x in found],
                    "mean": round(float(np.mean(found)), 3),
                    "verdict": None if own is first else verdict(name, first[name], found),
                }
                for name, found in own.items()
            }
            for row, own in values.items()
        },
    }
    write_text(asked.out / f"{table}.json", json.dumps(result, indent=1) + "\n")
    write_text(asked.out / f"{table}.md", markdown(table, result))
    with replacing(asked.out / f"{table}.png") as path:
        plot(table, values, path)
    return result


def markdown(table: str, result: dict[str, Any]) -> str:
    """Mean and half the spread of the seeds; bold where a difference is larger than the spread."""
    names = [f"{name}, {unit}" for name, (unit, _) in MEASURES.items()]
    lines = [f"| {table} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for row, own in result["rows"].items():
        cells = []
        for found in own.values():
            half = np.ptp(found["seeds"]) / 2
            text = f"{found['mean']:.2f} ± {half:.2f}"
            told = found["verdict"] in ("better", "worse")
            cells.append(f"**{text}** ({found['verdict']})" if told else text)
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\n`{result['command']}`\n"


def plot(table: str, values: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Every seed as a dot, a panel for each measure."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(13, 5), layout="constrained")
    for axis, (name, (unit, _)) in zip(axes.flat, MEASURES.items(), strict=True):
        for place, own in enumerate(values.values()):
            axis.plot(own[name], [place] * len(own[name]), "o", alpha=0.7)
            axis.plot(np.mean(own[name]), place, "|", color="black", markersize=18)
        axis.set_yticks(range(len(values)), list(values))
        axis.set_ylim(len(values) - 0.5, -0.5)
        axis.set_title(f"{name} [{unit}]", fontsize=10)
    figure.suptitle(f"{table}: dots are seeds")
    figure.savefig(path, dpi=90, format="png")
    plt.close(figure)


def main() -> None:
    """Run the tables that were asked for and print them."""
    asked = options()
    torch.set_num_threads(asked.threads)
    asked.out.mkdir(parents=True, exist_ok=True)
    for table in TABLES if asked.table == "all" else [asked.table]:
        result = tabulate(asked, table)
        print(markdown(table, result))
        if asked.save:
            known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            write_text(RESULTS, json.dumps(known | {table: result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
