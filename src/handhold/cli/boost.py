"""`handhold boost`: HandBooster's whole road, from object meshes to a better trained network."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from handhold.errors import InputError, MissingExtraError, MissingFileError
from handhold.fields import mapping, read_json

Step = Literal["grasps", "conditions", "maps", "generator", "images", "filter", "plain", "network"]
STATE = "boost.json"
# do not change what comes out, or may be added or grow: a run may go on with other ones
_HOW = ("out", "skip", "workers", "ray", "threads", "device", "test", "test_count")
_GROW = ("plain", "steps")


@dataclass(frozen=True, kw_only=True)
class Boost:
    """Options of `handhold boost`."""

    data: str
    """The real set: NAME/SPLIT:FOLDER, such as dexycb/s0-train:DOWNLOADS/dexycb, or shards:FOLDER.
    It lends cameras, turns and shapes, and is what the network is trained on beside the made
    photos."""
    out: Path
    """Folder of the run; goes on where it stopped."""
    network: str = "mobrecon-small"
    """Recipe of the network to train (`handhold train list`)."""
    objects: str = "catalogue"
    """Folder of object meshes in metres, or `catalogue`: look-alikes of the 21 YCB objects."""
    photos: Literal["made", "rendered"] = "made"
    """`made` by the denoiser and filtered, or the ray-caster's own, which need neither."""
    generator: Path | None = None
    """Weights of the denoiser; without them handbooster-small is trained on the real set first."""
    generator_steps: int | None = None
    """Length of that training; the recipe's if not given."""
    grasps: int = 64
    """Valid grasps of each object, at least."""
    count: int = 2000
    """Conditions, and photos made of them."""
    share: float = 0.5
    """Share of made photos in the training."""
    judge: str = "unihope-small"
    """Network that looks at the made photos; those in which it sees another hand are left out."""
    limits: Literal["ho3d", "dexycb"] = "ho3d"
    """How far it may be off: HandBooster's limits for either set. DexYCB's are for judges whose own
    error is well below 10 mm, which the shipped one's is not."""
    steps: int | None = None
    """Length of the network's training; the recipe's if not given."""
    plain: bool = False
    """Also train the network without made photos, to compare: as many steps, from the same seed."""
    test: str | None = None
    """What the trained networks are measured on, as `handhold eval --data`."""
    test_count: int | None = None
    """Samples of it at most."""
    skip: tuple[Step, ...] = ()
    """Steps to leave out; what they would have made is taken as it lies in the folder (without
    `filter` all made photos are taken)."""
    seed: int = 0
    """Of everything that is drawn."""
    mano: Path | None = None
    """Folder with the official MANO files, whose hands the real set's labels are."""
    workers: int = 1
    """Processes for grasps, conditions and photos."""
    ray: str | None = None
    """Address of a Ray cluster for these steps, or `local`; it must see the same folders."""
    threads: int | None = None
    """Processor threads of the trainings."""
    device: str = "cpu"
    """Where photos are made and looked at: cpu, cuda, mps."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"--share: expected a number between 0 and 1, found {self.share}")
        for name in ("grasps", "count", "workers"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name}: expected 1 or more, found {getattr(self, name)}")


def boost(options: Annotated[Boost, tyro.conf.arg(name="")]) -> int:
    """From object meshes to a network trained on photos of novel grasps (HandBooster).

    Grasps of the objects, conditions that show them to the real set's cameras, photos of these,
    without those in which a network sees another hand, and a training on both: each step is a
    command of its own with a folder in the run's, and goes on where it stopped. Objects that no
    grasp was found of are told and left out. `boost.json` keeps the settings, `report.json` counts
    and errors.

    handhold boost --data dexycb/s0-train:DEXYCB --objects MESHES --mano MANO --out runs/boost

    handhold boost --data shards:scenes --photos rendered --plain --test synthetic --out runs/trial
    """
    _check(options)
    steps = _steps(options)
    settings = _settings(options)
    _agree(options.out / STATE, settings)
    report: dict[str, Any] = {"settings": settings}
    for number, (name, work) in enumerate(steps.items(), 1):
        if name in options.skip:
            print(f"[{number}/{len(steps)}] {name}: left out")
            continue
        print(f"[{number}/{len(steps)}] {name}")
        code = work()
        if code in (2, 130):  # nothing done, or interrupted; 1: some objects have no grasps
            return code
    report["errors"] = _measured(options, steps)
    for name in ("grasps", "accepted"):
        told = options.out / name / "report.json"
        if told.is_file():
            report[name] = json.loads(told.read_text())
    _write(options.out / "report.json", report)
    print(f"report in {options.out / 'report.json'}")
    return 0


def _check(options: Boost) -> None:
    """Raise what a later step would raise after hours."""
    from importlib.util import find_spec

    from handhold.data.sources import FORM, SetSpec
    from handhold.models.registry import MODELS
    from handhold.objects.sources import CATALOGUE, mesh_loaders
    from handhold.synthesis.diffusion.images import open_conditions
    from handhold.synthesis.shards import shard_files
    from handhold.training.recipes import RECIPES

    if options.network not in RECIPES:
        raise InputError(
            f"--network: there is no recipe {options.network!r} of one training; `handhold train "
            "list` names them"
        )
    recipe = RECIPES[options.network]()
    if recipe.model not in MODELS:
        raise InputError(
            f"--network {options.network}: expected a recipe of a method that sees crops, found "
            f"{recipe.model}; `handhold models` lists them"
        )
    if options.plain and options.steps is None and not recipe.steps:
        raise InputError(
            f"--plain: {options.network} counts epochs, which made photos lengthen; give --steps"
        )
    kind, _, place = options.data.partition(":")
    if SetSpec.parse(options.data) is None and (kind != "shards" or not place):
        raise InputError(f"--data {options.data!r}: expected shards:FOLDER or {FORM}")
    if kind == "shards":
        shard_files(place)
    told = options.test or "synthetic"
    known = told.partition(":")[0] in ("synthetic", "shards", "photos")
    if not known and SetSpec.parse(told) is None:
        raise InputError(
            f"--test {told!r}: expected synthetic, shards:FOLDER, photos:FOLDER or {FORM}"
        )
    mesh_loaders(options.objects)
    needed = [("lightning", "train")]
    if options.photos == "made":
        needed.append(("diffusers", "diffusion"))
        if options.judge not in MODELS:
            raise InputError(
                f"--judge: expected one of {', '.join(MODELS)}, found {options.judge!r}"
            )
        if options.generator is not None and not options.generator.is_file():
            raise MissingFileError(f"--generator {options.generator}: no such file")
        if options.generator is None and "generator" not in options.skip:
            if kind == "shards":
                open_conditions(Path(place))
            elif options.objects == CATALOGUE and "maps" not in options.skip:
                raise InputError(
                    "--objects: the denoiser is learned from the real set's own objects; give the "
                    "folder of their meshes, or a denoiser with --generator"
                )
    for module, extra in needed:
        if find_spec(module) is None:
            raise MissingExtraError(f"boost needs: pip install 'handhold[{extra}]'")


def _steps(options: Boost) -> dict[str, Callable[[], int | None]]:
    """What is to be done, in order."""
    from handhold.cli.synth import images, novel
    from handhold.cli.synth_filter import filter_photos
    from handhold.cli.synth_grasps import grasps
    from handhold.synthesis.filtering import FilterConfig

    out, seed, where = options.out, options.seed, {"workers": options.workers, "ray": options.ray}
    folder = {name: out / name for name in ("grasps", "conditions", "maps", "images", "accepted")}
    made = options.photos == "made"
    found: dict[str, Callable[[], int | None]] = {
        "grasps": lambda: grasps(
            folder["grasps"], options.objects, options.grasps, seed, options.mano, **where
        ),
        "conditions": lambda: novel(
            folder["grasps"],
            options.data,
            folder["conditions"],
            options.objects,
            options.count,
            seed,
            options.mano,
            **where,
        ),
    }
    if made and options.generator is None:
        if not options.data.startswith("shards:"):
            found["maps"] = lambda: _maps(options, folder["maps"])
        found["generator"] = lambda: _generator(options, folder["maps"])
    if made:
        found["images"] = lambda: images(
            folder["conditions"],
            options.generator or out / "generator" / "weights.safetensors",
            folder["images"],
            options.count,
            seed,
            device=options.device,
            **where,
        )
        found["filter"] = lambda: filter_photos(
            folder["images"],
            folder["accepted"],
            options.judge,
            mano=options.mano,
            device=options.device,
            config=FilterConfig(limits=options.limits),
        )
    if options.plain:
        found["plain"] = lambda: _train(options, "plain", (options.data,))
    taken = folder["conditions"]
    if made:
        taken = folder["images" if "filter" in options.skip else "accepted"]
    both = (f"{options.data}={1 - options.share:g}", f"shards:{taken}={options.share:g}")
    found["network"] = lambda: _train(options, "network", both)
    return found


def _maps(options: Boost, folder: Path) -> None:
    """The real set with the maps that the denoiser learns from."""
    from handhold.cli.synth import conditions

    conditions(options.data, Path(options.objects), folder, mano=options.mano)


def _generator(options: Boost, maps: Path) -> int:
    from handhold.cli.train import Train, train

    data = options.data if options.data.startswith("shards:") else f"shards:{maps}"
    return train(
        Train(
            name="handbooster-small",
            data=(data,),
            out=options.out / "generator",
            steps=options.generator_steps,
            threads=options.threads,
            seed=options.seed,
        )
    )


def _train(options: Boost, name: str, data: tuple[str, ...]) -> int:
    from handhold.cli.train import Train, train

    return train(
        Train(
            name=options.network,
            data=data,
            out=options.out / name,
            steps=options.steps,
            mano=options.mano,
            threads=options.threads,
            seed=options.seed,
        )
    )


def _measured(options: Boost, steps: dict[str, Any]) -> dict[str, Any]:
    """The errors of the networks trained, from their reports."""
    from handhold.cli.eval import evaluate
    from handhold.training.recipes import RECIPES

    found: dict[str, Any] = {}
    for name in ("plain", "network"):
        weights = options.out / name / "weights.safetensors"
        if options.test is None or name not in steps or not weights.is_file():
            continue
        report = options.out / f"eval_{name}"
        evaluate(
            RECIPES[options.network]().model,
            options.test,
            "boxes",
            report,
            options.test_count,
            weights=weights,
            mano=options.mano,
            device=options.device,
        )
        found[name] = json.loads((report / "report.json").read_text())
    return found


# --------------------------------------------------------------------------------- the run's file


def _settings(options: Boost) -> dict[str, Any]:
    values = dataclasses.asdict(options)
    plain = {name: value for name, value in values.items() if name not in _HOW}
    return json.loads(json.dumps(plain, default=str))


def _agree(path: Path, settings: dict[str, Any]) -> None:
    """Keep the settings with the run. Raises InputError where it was begun with others,
    FileFormatError where the file holds none."""
    if not path.is_file():
        _write(path, settings)
        return
    earlier = mapping(read_json(path.read_bytes(), str(path)), str(path))
    kept = [name for name in settings if name not in _GROW]
    other = [name for name in kept if name not in earlier or earlier[name] != settings[name]]
    if other:
        raise InputError(
            f"{path.parent}: was begun with another {', '.join(other)}; give another --out, or "
            "the settings of that run"
        )
    _write(path, settings)


def _write(path: Path, value: dict[str, Any]) -> None:
    from handhold.atomic import write_bytes

    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


COMMANDS = boost
