"""What HandBooster's data and UniHOPE's pairs change, in a form for one processor core.

    OMP_NUM_THREADS=1 python benchmarks/boost_effect.py --table data --out runs/effect \
        --generator handbooster.safetensors [--seeds 0 1] [--steps 100] [--save]

--table data: a small network trained on a narrow "real" set (3 objects, 2 grasps of each, 4 views,
2 hand shapes) alone, with rendered novel conditions, and with photos that a denoiser made of these
and a network filtered; as many steps each. --table sampling: the rendered conditions with intra-
and cross-distribution sampling on and off. --table pairs: UniHOPE with and without pairs,
enhancement and filtering, by visible share of the hand. Measured on photos that no training saw:
all 21 objects of the catalogue, a new grasp and a new hand each, wider views.

The small network is hflnet-small. Its features are those of the shipped unihope-small, which knows
many hands already, and stay as they are; encoder and MANO head begin anew: from nothing, a hundred
steps teach no network anything.

There is no real photo in it: the "real" set, the rendered photos and the test come from the same
ray-caster, so rendered photos have no gap to close, which the paper's denoiser is for. The grasps
of the real set and of the test are closed grips (`holding.hold`), the made ones those of `handhold
synth grasps`. Every run keeps its folder and result under --out: started again, finished ones are
read. --save puts the table into benchmarks/results/boost_effect.*.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import machine
import numpy as np
import torch
from effect_photos import GRASPS, OBJECTS, SHAPES, VIEWS, Budget, Photos
from effect_tables import GROUPS, MEASURES, save, table
from safetensors.torch import save_file

from handhold.atomic import write_text
from handhold.inference.estimator import Estimator
from handhold.models.loading import load_model
from handhold.objects.catalogue import YCB_NAMES
from handhold.synthesis.filtering import Judge
from handhold.synthesis.shards import ShardDataset
from handhold.training.build import build_task
from handhold.training.recipes import RECIPES
from handhold.training.run import train

FEATURES = ("backbone", "hand_attention", "hand_head")  # of the shipped network, kept as they are


def measured(name: str, weights: Path, test: Path) -> dict[str, Any]:
    """Mean errors of a network that is given box and side, and those by visible share."""
    judge = Judge(Estimator(name, detector="none", weights=weights))
    rows, shares = [], []
    samples = ShardDataset(test)
    for number in range(len(samples)):
        sample = samples[number]
        if sample.hands:
            rows.append(judge(sample)[0])
            shares.append(sample.hands[0].visibility or 0.0)
    seen = np.minimum((np.array(shares) * len(GROUPS)).astype(int), len(GROUPS) - 1)
    aligned = np.array([row["pa_mpjpe_mm"] for row in rows])
    means = {key: round(float(np.mean([row[key] for row in rows])), 3) for key in MEASURES}
    groups = [
        round(float(aligned[seen == n].mean()), 3) if (seen == n).any() else None
        for n in range(len(GROUPS))
    ]
    counts = [int((seen == n).sum()) for n in range(len(GROUPS))]
    return means | {"groups": groups, "counts": counts, "photos": len(rows)}


def features(out: Path) -> dict[str, Any]:
    """Settings for a network whose FEATURES are those of the shipped unihope-small."""
    path = out / "features.safetensors"
    if not path.exists():
        kept = load_model("unihope-small").network.state_dict()
        chosen = {k: v.contiguous() for k, v in kept.items() if k.split(".")[0] in FEATURES}
        save_file(chosen, path)
    return {"start_from": str(path), "frozen": FEATURES}


def run(name: str, folder: Path, test: Path, budget: Budget, **changes: Any) -> dict[str, Any]:
    """Train and measure, or read what an earlier call measured."""
    path = folder / "result.json"
    config = RECIPES[name](
        **{
            "steps": budget.steps,
            "batch_size": budget.batch,
            "warmup": 20,
            "network": {"input_size": budget.size},
            "precision": "bf16",
            "workers": 0,
            "validate_steps": budget.steps,
            "validation_items": 16,
            "checkpoint_minutes": 1.0,
        }
        | changes
    )
    if path.exists():
        return json.loads(path.read_text())
    begun = time.process_time()
    result = train(config, build_task, folder)
    if result.stopped is not None:
        raise SystemExit(130)
    found = measured(name, result.weights, test)
    found["processor_seconds"] = round(time.process_time() - begun)
    write_text(path, json.dumps(found) + "\n")
    print(f"{folder.name}: {found}", flush=True)
    return found


# by name, what makes the changes of the recipe, or says why the arm is left out
Arms = dict[str, Callable[[], dict[str, Any] | str]]


def mixed(photos: Photos, other: Path | str) -> dict[str, Any] | str:
    """Half of the narrow set and half of others, or why not."""
    if isinstance(other, str):
        return other
    return {"data": (f"shards:{photos.real()}=0.5", f"shards:{other}=0.5")}


def data_arms(photos: Photos) -> Arms:
    """Without, with rendered, with made photos."""
    return {
        "narrow set alone": lambda: {"data": (f"shards:{photos.real()}",)},
        "with rendered photos": lambda: mixed(photos, photos.rendered()),
        "with made, filtered photos": lambda: mixed(photos, photos.made()),
    }


def sampling_arms(photos: Photos) -> Arms:
    """Both ways of sampling, on and off."""
    return {
        "neither": lambda: mixed(photos, photos.rendered(False, False)),
        "intra": lambda: mixed(photos, photos.rendered(True, False)),
        "cross": lambda: mixed(photos, photos.rendered(False, True)),
        "intra and cross": lambda: mixed(photos, photos.rendered(True, True)),
    }


def pair_arms(photos: Photos) -> Arms:
    """UniHOPE's training: photos, pairs, and features pulled together."""

    def alone() -> dict[str, Any]:
        return {"data": (f"shards:{photos.twins()}",)}

    def enhanced(folder: Path | str) -> dict[str, Any] | str:
        if isinstance(folder, str):
            return folder
        return {"data": (f"shards:{folder}",), "pairs": True, "loss": {"enhancement": True}}

    return {
        "photos alone": alone,
        "exact pairs": lambda: alone() | {"pairs": True},
        "exact pairs, enhancement": lambda: enhanced(photos.twins()),
        "drawn pairs, enhancement": lambda: enhanced(photos.drawn(False)),
        "drawn pairs, filtered, enhancement": lambda: enhanced(photos.drawn(True)),
    }


TABLES: dict[str, tuple[str, str, Callable[[Photos], Arms]]] = {
    "data": (
        "narrow set alone",
        "A small network with and without made data; half of each batch is made.",
        data_arms,
    ),
    "sampling": (
        "neither",
        "Which made poses are shown: far from each other (intra), unlike the real ones (cross).",
        sampling_arms,
    ),
    "pairs": (
        "photos alone",
        "UniHOPE with and without second images of the same hand without its object. A step with "
        "pairs looks at twice as many images.",
        pair_arms,
    ),
}


def experiment(name: str, photos: Photos, network: str, asked: list[str] | None) -> dict[str, Any]:
    """The runs of a table, seed by seed; asked: of these arms only."""
    base, told, make = TABLES[name]
    pairs, budget = name == "pairs", photos.budget
    test = photos.hidden() if pairs else photos.test()
    label = f"{network}_{budget.size}_{budget.steps}x{budget.batch}"
    arms: dict[str, Any] = {}
    ways = make(photos)
    if unknown := set(asked or ways) - set(ways):
        raise ValueError(f"--arms: expected some of {', '.join(ways)}; found {', '.join(unknown)}")
    given = {arm: way() if arm in (asked or ways) else "not run yet" for arm, way in ways.items()}
    for seed in budget.seeds:
        for arm, changes in given.items():
            if isinstance(changes, str):
                arms[arm] = {"left_out": changes}
                continue
            parts = "_".join(Path(part.split("=")[0]).name for part in changes["data"])
            parts += "".join(f"_{key}" for key in ("pairs", "loss") if key in changes)
            folder = photos.out / "runs" / f"{label}_{parts}_seed{seed}"
            start = {} if pairs else features(photos.out)
            found = run(network, folder, test, budget, seed=seed, **start, **changes)
            arms.setdefault(arm, {"runs": {}})["runs"][str(seed)] = found
    return {
        "told": told,
        "base": base,
        "groups": pairs,
        "arms": {arm: arms[arm] for arm in given},
        "conditions": dict(_conditions(photos, network, name)),
    }


def _conditions(photos: Photos, network: str, name: str) -> Iterator[tuple[str, Any]]:
    budget = photos.budget
    start = "from random weights"
    if name != "pairs":
        start = f"{', '.join(FEATURES)} of the shipped unihope-small, frozen, the rest random"
    yield "network", f"{network}, {start}; crops of {budget.size}"
    yield (
        "training",
        f"{budget.steps} steps of {budget.batch}, bf16, recipe's rate and augmentation",
    )
    yield (
        "seeds",
        ", ".join(map(str, budget.seeds)) + " (weights and order; the photos are the same)",
    )
    if name == "pairs":
        yield "photos", f"{budget.real} scenes with held objects, {budget.test} others to measure"
        return
    yield (
        "narrow set",
        f"{budget.real} photos: {len(OBJECTS)} objects, {GRASPS} grasps each, {VIEWS} views, "
        f"{SHAPES} hands",
    )
    yield (
        "novel conditions",
        f"{budget.novel}; {budget.kept} poses an object of {budget.pool} or more",
    )
    yield "test", f"{budget.test} photos: {len(YCB_NAMES)} objects, a grasp and a hand each"
    report = photos.out / "accepted" / "report.json"
    if name == "data" and report.is_file():
        told = json.loads(report.read_text())
        yield (
            "made photos",
            f"{told['accepted']} of {told['photos']} accepted (HO3D's limits), "
            f"{budget.photo_steps} steps of DDIM",
        )


def agree(out: Path, budget: Budget) -> None:
    """Keep the sizes of the photos with them. Raises ValueError where they were others."""
    sizes = {
        name: value
        for name, value in dataclasses.asdict(budget).items()
        if name not in ("seeds", "steps", "batch", "size", "made")
    }
    path = out / "budget.json"
    if path.exists() and (earlier := json.loads(path.read_text())) != sizes:
        raise ValueError(f"{out}: was begun with {earlier}, now asked for {sizes}")
    out.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(sizes) + "\n")


def main() -> None:
    """Make, train, measure, print and write down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--table", choices=list(TABLES), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of photos and runs")
    parser.add_argument("--generator", type=Path, help="weights of handbooster-small")
    parser.add_argument("--network", help="recipe; hflnet-small, for pairs unihope-small")
    parser.add_argument("--arms", nargs="+", help="of the table; all if not given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    for name, value in {
        "steps": 100,
        "batch": 8,
        "size": 128,
        "real": 300,
        "novel": 300,
        "made": 100,
        "test": 150,
        "pool": 150,
        "kept": 40,
        "photo-steps": 10,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--save", action="store_true", help="write the table down")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sizes = {name: getattr(asked, name) for name in Budget.__dataclass_fields__ if name != "seeds"}
    budget = Budget(seeds=tuple(asked.seeds), **sizes)
    agree(asked.out, budget)
    photos = Photos(out=asked.out, budget=budget, generator=asked.generator)
    network = asked.network or ("unihope-small" if asked.table == "pairs" else "hflnet-small")
    found = experiment(asked.table, photos, network, asked.arms)
    found["conditions"] |= {"processor": machine.processor(), "load": machine.load()}
    print("\n".join(table(found)))
    if asked.save:
        save(asked.table, found)


if __name__ == "__main__":
    main()
