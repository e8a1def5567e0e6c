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
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import machine
import numpy as np
import torch
from effect_tables import GROUPS, MEASURES, save, table
from safetensors.torch import save_file
from scipy.spatial.transform import Rotation

from handhold.atomic import write_text
from handhold.hand.anatomy import sample_betas
from handhold.hand.model import HandModel
from handhold.inference.estimator import Estimator
from handhold.models.loading import load_model
from handhold.objects.catalogue import YCB_NAMES
from handhold.objects.sources import CATALOGUE, mesh_loaders
from handhold.scene import Sample
from handhold.synthesis.diffusion.images import ImageConfig
from handhold.synthesis.diffusion.images import write_part as write_photos
from handhold.synthesis.filtering import FilterConfig, Judge, filter_images
from handhold.synthesis.grasps.files import fill
from handhold.synthesis.grasps.generate import GraspConfig
from handhold.synthesis.grasps.hand import GraspHand
from handhold.synthesis.grasps.solid import prepare
from handhold.synthesis.holding import hold
from handhold.synthesis.novel import NovelConditions, NovelConfig, Reference, made_grasps
from handhold.synthesis.placement import random_orientation, random_view
from handhold.synthesis.props import Body, Prop
from handhold.synthesis.scenes import Grasp, SceneConfig, make_scene, show_grasp
from handhold.synthesis.shards import ShardDataset, shard_path, write_shards
from handhold.training.build import build_task
from handhold.training.recipes import RECIPES
from handhold.training.run import train

OBJECTS = ("003_cracker_box", "005_tomato_soup_can", "006_mustard_bottle")
GRASPS, VIEWS, SHAPES = 2, 4, 2  # of an object; of the narrow set
NARROW_DEG, WIDE_DEG = 8.0, 20.0  # deviation of the turns about the views
FEATURES = ("backbone", "hand_attention", "hand_head")  # of the shipped network, kept as they are
PALM = (0, 5, 9, 13, 17)
SIDE, SHARD = 128, 50
SCENE = SceneConfig(width=SIDE, height=SIDE, occluder=0.0)
PAIRED = SceneConfig(
    width=SIDE, height=SIDE, occluder=0.0, holding=0.8, near=0.0, hand_size=(0.45, 0.7), paired=True
)
TEST_SERIES = 1_000_003


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How large everything is."""

    seeds: tuple[int, ...]
    steps: int
    batch: int
    size: int
    real: int
    novel: int
    made: int
    test: int
    pool: int
    kept: int
    photo_steps: int


def fill_shards(out: Path, count: int, make: Callable[[int], Sample]) -> Path:
    """Write samples 0 to count - 1; shards that are there stay."""
    for first in range(0, count, SHARD):
        if not shard_path(out, first // SHARD).exists():
            numbers = range(first, min(count, first + SHARD))
            write_shards((make(n) for n in numbers), out, SHARD, first, depth=False)
    return out


# ------------------------------------------------------------------------------------ the photos


@cache
def prop(name: str) -> Prop:
    """An object of the catalogue."""
    return Prop(Body(mesh_loaders(CATALOGUE)[name]()))


@cache
def model() -> HandModel:
    """The free right hand."""
    return HandModel.free()


def held(rng: np.random.Generator, name: str, betas: np.ndarray) -> Any:
    """A closed grip of an object."""
    body = prop(name).plain
    for _ in range(20):
        found = hold(model(), betas, body.mesh, body.distance, rng)
        if found is not None:
            return found
    raise RuntimeError(f"{name}: no grip found")


@cache
def narrow_grasp(name: str, which: int, shape: int) -> tuple[Any, np.ndarray]:
    """One of the few grasps of the real set, by one of its hands."""
    betas = 0.8 * sample_betas(np.random.default_rng([11, shape]), 1)[0]
    rng = np.random.default_rng([12, OBJECTS.index(name), which])
    return held(rng, name, betas), betas


def shown(
    rng: np.random.Generator, key: str, name: str, grip: Any, betas: Any, deg: float
) -> Sample:
    """A grip before a camera: one of the views, turned a little."""
    view = random_view(rng, SIDE, SIDE, share=(0.45, 0.7), distance=(0.3, 2.0))
    base = random_orientation(np.random.default_rng([13, int(rng.integers(VIEWS))]))
    turn = Rotation.from_rotvec(np.radians(rng.normal(0, deg, 3))).as_matrix() @ base
    with torch.inference_mode():
        rest = model()(torch.from_numpy(np.float32(grip.pose)), torch.from_numpy(np.float32(betas)))
    joints = rest.joints.double().numpy()
    offset = view.centre - turn @ joints[list(PALM)].mean(0)
    grasp = Grasp(
        pose=np.concatenate([Rotation.from_matrix(turn).as_rotvec()[None], grip.pose[1:]]),
        betas=np.asarray(betas),
        wrist=turn @ joints[0] + offset,
        prop=prop(name),
        object_rotation=turn @ grip.rotation,
        object_translation=turn @ grip.translation + offset,
    )
    return show_grasp(rng, SCENE, key, view.camera, grasp)


def real_photo(number: int) -> Sample:
    """Photo `number` of the narrow set."""
    rng = np.random.default_rng([14, number])
    name = OBJECTS[int(rng.integers(len(OBJECTS)))]
    grip, betas = narrow_grasp(name, int(rng.integers(GRASPS)), int(rng.integers(SHAPES)))
    return shown(rng, f"real-{number:06d}", name, grip, betas, NARROW_DEG)


def test_photo(number: int) -> Sample:
    """Photo `number` of the test: any object, a grasp and a hand of its own."""
    rng = np.random.default_rng([15, number])
    betas = 0.8 * sample_betas(rng, 1)[0]
    name = YCB_NAMES[int(rng.integers(len(YCB_NAMES)))]
    return shown(rng, f"test-{number:06d}", name, held(rng, name, betas), betas, WIDE_DEG)


@dataclass(frozen=True, kw_only=True)
class Photos:
    """The folders of shards of one experiment, filled when they are asked for."""

    out: Path
    budget: Budget
    generator: Path | None

    def real(self) -> Path:
        """The narrow set."""
        return fill_shards(self.out / "real", self.budget.real, real_photo)

    def test(self) -> Path:
        """What everything of it is measured on."""
        return fill_shards(self.out / "test", self.budget.test, test_photo)

    def grasps(self) -> Path:
        """The made grasps of the real set's objects."""
        hand, config = GraspHand(HandModel.load(None)), GraspConfig()
        for name in OBJECTS:
            solid = prepare(mesh_loaders(CATALOGUE)[name](), points=config.points)
            fill(hand, solid, self.out / "grasps" / name, self.budget.pool, 0, config)
        return self.out / "grasps"

    def rendered(self, intra: bool = True, cross: bool = True) -> Path:
        """Novel conditions, as `handhold synth novel` makes them."""
        name = f"rendered_{'intra' if intra else 'any'}_{'cross' if cross else 'alike'}"
        config = NovelConfig(intra=intra, cross=cross, made_count=self.budget.kept)

        @cache
        def series() -> NovelConditions:
            real = ShardDataset(self.real())
            reference = Reference.of(real[n] for n in range(len(real)))
            made = made_grasps(self.grasps())
            return NovelConditions(
                reference, made, {n: prop(n).mesh for n in made}, config, scene=SCENE
            )

        return fill_shards(self.out / name, self.budget.novel, lambda n: series()[n])

    def made(self) -> Path | str:
        """Photos that the denoiser makes of the rendered conditions, filtered; or why not."""
        if self.generator is None:
            return "no denoiser was given (--generator)"
        conditions, images = self.rendered(), self.out / "images"
        config = ImageConfig(steps=self.budget.photo_steps)
        for first in range(0, self.budget.made, SHARD):
            if not shard_path(images, first // SHARD).exists():
                stop = min(self.budget.made, first + SHARD)
                write_photos(self.generator, conditions, images, first, stop, SHARD, 0, config)
        report = filter_images(images, self.out / "accepted", config=FilterConfig())
        print(report)
        return self.out / "accepted" if report.accepted else f"none was accepted: {report}"

    def twins(self) -> Path:
        """Scenes with exact second images."""
        return fill_shards(
            self.out / "twins", self.budget.real, lambda n: make_scene(21, n, PAIRED)
        )

    def hidden(self) -> Path:
        """Held-out scenes for the pairs."""
        return fill_shards(
            self.out / "hidden", self.budget.test, lambda n: make_scene(TEST_SERIES, n, PAIRED)
        )


# -------------------------------------------------------------------------------------- the runs


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


Arms = dict[str, dict[str, Any] | str]  # changes of the recipe, or why it is left out


def mixed(real: Path, other: Path | str) -> dict[str, Any] | str:
    """Half of both, or why not."""
    if isinstance(other, str):
        return other
    return {"data": (f"shards:{real}=0.5", f"shards:{other}=0.5")}


def data_arms(photos: Photos) -> Arms:
    """Without, with rendered, with made photos."""
    real = photos.real()
    return {
        "narrow set alone": {"data": (f"shards:{real}",)},
        "with rendered photos": mixed(real, photos.rendered()),
        "with made, filtered photos": mixed(real, photos.made()),
    }


def sampling_arms(photos: Photos) -> Arms:
    """Both ways of sampling, on and off."""
    real = photos.real()
    return {
        "neither": mixed(real, photos.rendered(False, False)),
        "intra": mixed(real, photos.rendered(True, False)),
        "cross": mixed(real, photos.rendered(False, True)),
        "intra and cross": mixed(real, photos.rendered(True, True)),
    }


def pair_arms(photos: Photos) -> Arms:
    """UniHOPE's training: photos, pairs, and features pulled together."""
    data = (f"shards:{photos.twins()}",)
    drawn = {name: deoccluded(photos, name) for name in ("nothing", "worse")}

    def enhanced(folder: Path | str) -> dict[str, Any] | str:
        if isinstance(folder, str):
            return folder
        return {"data": (f"shards:{folder}",), "pairs": True, "loss": {"enhancement": True}}

    return {
        "photos alone": {"data": data},
        "exact pairs": {"data": data, "pairs": True},
        "exact pairs, enhancement": enhanced(photos.twins()),
        "drawn pairs, enhancement": enhanced(drawn["nothing"]),
        "drawn pairs, filtered, enhancement": enhanced(drawn["worse"]),
    }


def deoccluded(photos: Photos, drop: str) -> Path | str:
    """Second images drawn without a downloaded model, all of them or those that help."""
    from handhold.cli import synth

    command = synth.COMMANDS.get("deocclude")
    if command is None:
        return "`handhold synth deocclude` is not there"
    out = photos.out / f"drawn_{drop}"
    data = f"shards:{photos.twins()}"
    return out if command(data, out, free=True, drop=drop, shard_size=SHARD) == 0 else "no pairs"


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


def experiment(name: str, photos: Photos, network: str) -> dict[str, Any]:
    """All runs of a table, seed by seed."""
    base, told, make = TABLES[name]
    pairs, budget = name == "pairs", photos.budget
    test = photos.hidden() if pairs else photos.test()
    label = f"{network}_{budget.size}_{budget.steps}x{budget.batch}"
    arms: dict[str, Any] = {}
    given = make(photos)
    for seed in budget.seeds:
        for arm, changes in given.items():
            if isinstance(changes, str):
                arms[arm] = {"left_out": changes}
                continue
            parts = "_".join(Path(part.split("=")[0]).name for part in changes["data"])
            ways = "".join(f"_{key}" for key in ("pairs", "loss") if key in changes)
            folder = photos.out / "runs" / f"{label}_{parts}{ways}_seed{seed}"
            start = {} if pairs else features(photos.out)
            found = run(network, folder, test, budget, seed=seed, **start, **changes)
            arms.setdefault(arm, {"runs": {}})["runs"][str(seed)] = found
    return {
        "told": told,
        "base": base,
        "groups": pairs,
        "arms": {arm: arms[arm] for arm in given},
        "conditions": dict(_conditions(photos, network, pairs)),
    }


def _conditions(photos: Photos, network: str, pairs: bool) -> Iterator[tuple[str, Any]]:
    budget = photos.budget
    start = "from random weights"
    if not pairs:
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
    if pairs:
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
    if report.is_file():
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
    found = experiment(asked.table, photos, network)
    found["conditions"] |= {"processor": machine.processor(), "load": machine.load()}
    print("\n".join(table(found)))
    if asked.save:
        save(asked.table, found)


if __name__ == "__main__":
    main()
