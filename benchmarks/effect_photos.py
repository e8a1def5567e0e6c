"""Photos of `boost_effect.py`: a narrow set, novel conditions, photos of these, the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from handhold.cli.synth_deocclude import deocclude
from handhold.hand.anatomy import sample_betas
from handhold.hand.model import HandModel
from handhold.objects.catalogue import YCB_NAMES
from handhold.objects.sources import CATALOGUE, mesh_loaders
from handhold.scene import Sample
from handhold.synthesis.diffusion.images import ImageConfig
from handhold.synthesis.diffusion.images import write_part as write_photos
from handhold.synthesis.filtering import FilterConfig, filter_images
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

OBJECTS = ("003_cracker_box", "005_tomato_soup_can", "006_mustard_bottle")
GRASPS, VIEWS, SHAPES = 2, 4, 2  # of an object; of the narrow set
NARROW_DEG, WIDE_DEG = 8.0, 20.0  # deviation of the turns about the views
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

    def drawn(self, filtered: bool) -> Path | str:
        """Scenes with second images drawn without a downloaded model, all or those that help."""
        out = self.out / ("drawn_filtered" if filtered else "drawn")
        drop = "worse" if filtered else "nothing"
        code = deocclude(f"shards:{self.twins()}", out, free=True, drop=drop, shard_size=SHARD)
        return out if code == 0 else "no frame got a second image"

    def hidden(self) -> Path:
        """Held-out scenes for the pairs."""
        return fill_shards(
            self.out / "hidden", self.budget.test, lambda n: make_scene(TEST_SERIES, n, PAIRED)
        )
