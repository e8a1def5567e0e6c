"""Every method that can be trained takes its steps; UniHOPE's pairs reach the network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handhold.errors import InputError
from handhold.hand.anatomy import sample_betas, sample_pose
from handhold.hand.model import HandModel
from handhold.models.registry import MODELS
from handhold.models.switched.model import GraspClassifierConfig
from handhold.scene import Camera, Hand, RigidObject, Sample
from handhold.training.build import build_task
from handhold.training.config import TrainConfig
from handhold.training.module import make_optimizer
from handhold.training.recipes import RECIPES

TINY: dict[str, Any] = {
    "input_size": 64,
    "block": "basic",
    "stem_width": 8,
    "widths": [8, 16, 16, 24],
    "depths": [1, 1, 1, 1],
    "pyramid_width": 16,
    "roi_size": 8,
    "hourglass_depth": 2,
    "mano_widths": [32, 16],
}


def make_samples(count: int) -> list[tuple[Sample, int]]:
    """Posed hands on noise; every other one holds a box; the last has 2D labels only."""
    rng = np.random.default_rng(4)
    pose, betas = sample_pose(rng, count), sample_betas(rng, count)
    model = HandModel.free()
    posed = model(torch.from_numpy(pose).float(), torch.from_numpy(betas).float())
    camera = Camera(
        intrinsics=np.array([[120.0, 0, 48], [0, 120.0, 48], [0, 0, 1]]), width=96, height=96
    )
    far = np.array([0.0, 0.0, 0.5], np.float32)
    result = []
    for i in range(count):
        joints = posed.joints[i].numpy() - posed.joints[i, 9].numpy() + far
        holding, flat = i % 2 == 0, i == count - 1
        points = rng.uniform(-0.04, 0.04, (21, 3))
        thing = RigidObject(
            name="003_cracker_box",
            rotation=np.eye(3),
            translation=far.astype(np.float64),
            control_points=points,
            held=True,
        )
        hand = Hand(
            side="right",
            joints2d=camera.project(joints),
            joints2d_valid=np.ones(21, np.bool_),
            joints=None if flat else joints,
            pose=None if flat else pose[i].astype(np.float32),
            betas=None if flat else betas[i].astype(np.float32),
            grasping=holding,
            visibility=0.5,
        )
        sample = Sample(
            key=f"s{i}",
            image=rng.integers(0, 255, (96, 96, 3), dtype=np.uint8),
            bare_image=rng.integers(0, 255, (96, 96, 3), dtype=np.uint8),
            camera=camera,
            hands=(hand,),
            object=thing if holding else None,
            object_mask=rng.random((96, 96)) < 0.3,
        )
        result.append((sample, 0))
    return result


OWN: dict[str, dict[str, Any]] = {
    "hand-detector": {"input_size": 64, "width": 16},
    "hand-detr": {
        "input_size": 64,
        "stem": [8, 16],
        "widths": [16, 32, 32, 32],
        "width": 64,
        "feedforward": 64,
        "layers": 1,
        "queries": 10,
    },
    "mobrecon-small": {"input_size": 64, "width": 16, "latent_width": 32},
    "h2onet-small": {
        "input_size": 64,
        "width": 16,
        "latent_width": 32,
        "rotation_widths": [32, 16, 64, 32, 32, 16, 16],
    },
    "simplehand-small": {"input_size": 64, "depths": [1, 1, 1, 1]},
}


def config(model: str, **changes: Any) -> TrainConfig:
    """A very small network, of fields that the method has."""
    kind = MODELS[model].config() if model in MODELS else GraspClassifierConfig()
    fields = {item.name for item in dataclasses.fields(kind)}
    tiny = {name: value for name, value in TINY.items() if name in fields}
    return TrainConfig(model=model, steps=1, network=OWN.get(model, tiny), **changes)


MODELS_HERE = [name for name in MODELS if name.endswith("-small")]


@pytest.mark.parametrize("model", [*MODELS_HERE, "hand-detector", "hand-detr", "grasp-classifier"])
def test_steps_lower_the_loss_and_measures_are_given(model: str) -> None:
    torch.manual_seed(0)
    chosen = config(model, lr=5e-3)
    task = build_task(chosen)
    batch = task.encode(make_samples(4), None)
    optimizer = make_optimizer(task.network, chosen)
    totals = []
    for _ in range(15):
        terms = task.losses(task.network, batch)
        assert float(terms["total"].detach()) == pytest.approx(
            sum(float(v.detach()) for k, v in terms.items() if k != "total"), rel=1e-4
        )
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        totals.append(float(terms["total"].detach()))
    assert totals[-1] < 0.8 * totals[0]
    task.network.eval()
    with torch.no_grad():
        names = set(task.measures(task.network, batch))
    own = {
        "hand-detector": {"recall"},
        "hand-detr": {"recall", "recall_any"},
        "grasp-classifier": {"grasp_accuracy"},
    }
    assert own.get(model, {"pa_mpjpe_mm", "pck10"}) <= names


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_fit_their_methods(name: str) -> None:
    """Fields of network and loss exist, and the preparation is one that the method knows."""
    recipe = RECIPES[name]()
    if recipe.model not in MODELS:
        return
    told = MODELS[recipe.model]
    settings = dataclasses.replace(told.config(), **recipe.network)
    dataclasses.replace(told.loss_config(), **recipe.loss)
    assert told.trained_on(recipe.preparation).fitted(settings).input_size == settings.input_size
    if recipe.preparation == "hand_alone":
        assert told.trained_on("hand_alone").crop_rule == "hand"


def test_pairs_reach_network_and_loss() -> None:
    torch.manual_seed(0)
    plain = config("unihope-small", pairs=True)
    enhanced = dataclasses.replace(plain, loss={"enhancement": True})
    one, two = build_task(plain), build_task(enhanced)
    items = make_samples(4)
    batch = two.encode(items, None)
    assert batch.paired_image is not None and not torch.equal(batch.paired_image, batch.image)
    first, second = one.losses(one.network, batch), two.losses(one.network, batch)
    assert {"c3", "roi", "mano"} <= second.keys() and not {"c3", "roi", "mano"} & first.keys()
    black = dataclasses.replace(batch, paired_image=torch.zeros_like(batch.image))
    one.network.eval()
    assert one.losses(one.network, batch)["joints"] != one.losses(one.network, black)["joints"]


def test_unknown_names_and_fields_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"'nothing' cannot be trained; known: hand-detector, hand-detr, h"
    ):
        build_task(TrainConfig(model="nothing", steps=1))
    with pytest.raises(InputError, match=r"unihope-small, network: .*'colour'"):
        build_task(TrainConfig(model="unihope-small", steps=1, network={"colour": 1}))
    with pytest.raises(InputError, match=r"hand-detector, loss: .*'colour'"):
        build_task(TrainConfig(model="hand-detector", steps=1, loss={"colour": 1}))
    with pytest.raises(InputError, match=r"hand-detr, loss: .*'colour'"):
        build_task(TrainConfig(model="hand-detr", steps=1, loss={"colour": 1}))
    with pytest.raises(InputError, match=r"unihope-small, augmentation: .*'colour'"):
        build_task(config("unihope-small", augmentation={"colour": 1}))
    with pytest.raises(InputError, match="preparation: expected deployable, dexycb or ho3d"):
        build_task(config("unihope-small", preparation="hand_alone"))
    with pytest.raises(InputError, match="hflnet-small does not train on pairs"):
        build_task(config("hflnet-small", pairs=True))


def test_backgrounds_lie_beside_the_detectors_photos(tmp_path: Path) -> None:
    for i in range(8):
        colour = (255, 0, 0) if i < 7 else (0, 255, 0)  # the last is kept for validation
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{i}.png")
    still = {"mosaic": 0.0, "distortion": 0.0, "sized": 0.0, "zoom": [0.3, 0.4]}
    chosen = config("hand-detector", backgrounds=str(tmp_path), augmentation=still)
    task = build_task(chosen)
    images = task.encode(make_samples(8) * 3, np.random.default_rng(0)).image
    corner = images[:, :, -1, -1].tolist()
    assert [255, 0, 0] in corner and [0, 255, 0] not in corner
