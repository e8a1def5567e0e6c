"""HandOS's two stages as the command runs them, on the boxes of the labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.photo_sample import photo

from handhold.errors import InputError
from handhold.hand.model import HandModel
from handhold.models.detector import load_detector
from handhold.models.handos.detectors.hand_detr import HandDetrConfig, HandDetrNetwork
from handhold.models.handos.detectors.hand_detr.frozen import save_hand_detr
from handhold.models.photo_registry import PHOTO_MODELS, load_photo_model
from handhold.training.build import build_task
from handhold.training.checkpoints import start_from
from handhold.training.module import make_optimizer
from handhold.training.recipes import RECIPES
from handhold.training.stages import STAGES

TINY: dict[str, Any] = {
    "detector": "boxes",
    "detector_options": {"width": 16},
    "input_size": 64,
    "width": 32,
    "feedforward": 32,
    "vertices": 49,
    "side_width": 16,
    "side_hidden": 16,
}
FLAT = {"layers_2d": 3, "layers_mesh": 0}
DEEP = {"layers_2d": 1, "layers_mesh": 2}


@pytest.fixture(scope="module")
def hand() -> HandModel:
    return HandModel.free()


def task_of(stage: int, **network: Any):
    recipe = RECIPES[f"handos-small-stage{stage}"]()
    layers = FLAT if stage == 1 else DEEP
    return build_task(dataclasses.replace(recipe, network=TINY | layers | network))


@pytest.mark.parametrize("name", PHOTO_MODELS)
def test_recipes_fit_their_methods(name: str) -> None:
    """The second stage's layers are as many as the first's, and bear the same names."""
    first, second = (recipe() for recipe in STAGES[name])
    assert (first.recipe, second.recipe) == (f"{name}-stage1", f"{name}-stage2")
    assert RECIPES[first.recipe]() == first and RECIPES[second.recipe]() == second
    entry = PHOTO_MODELS[name]
    configs = [dataclasses.replace(entry.config(), **x.network) for x in (first, second)]
    assert configs[0] == configs[1].first_stage()
    for recipe in (first, second):
        dataclasses.replace(entry.loss_config(), **recipe.loss)


def test_the_papers_schedule() -> None:
    """40 epochs of 1600 photos, batch 16: the rate stays until the 25th and ends at zero."""
    recipe = RECIPES["handos-paper-stage2"]()
    rate = [recipe.lr_at(100 * epoch, 1600) for epoch in range(41)]
    assert rate[0] < 1e-5 and rate[5:26] == [1e-3] * 21
    assert rate[32] == pytest.approx(1e-3 * (1 + np.cos(np.pi * 7 / 15)) / 2)
    assert rate[40] == pytest.approx(0)


def test_both_stages_learn_and_the_second_goes_on_from_the_first(
    hand: HandModel, tmp_path: Path
) -> None:
    items = [(photo(hand, 0), 0), (photo(hand, 1), 0)]
    flat, deep = task_of(1), task_of(2)
    torch.manual_seed(0)
    for task in (flat, deep):
        batch = task.encode(items, None)
        recipe = RECIPES[f"handos-small-stage{1 if task is flat else 2}"](lr=4e-3)
        if task is flat:
            recipe = dataclasses.replace(recipe, lr_factors={})
        optimiser = make_optimizer(task.network, recipe)
        task.network.train()
        totals = []
        for _ in range(8):
            optimiser.zero_grad()
            total = task.losses(task.network, batch)["total"]
            total.backward()
            optimiser.step()
            totals.append(float(total.detach()))
        assert totals[-1] < 0.9 * totals[0]
        task.network.eval()
        with torch.no_grad():
            measures = task.measures(task.network, batch)
        assert measures["recall"] == (4, 4) and measures["pck10"][1] > 60
        assert ("pa_mpvpe_mm" in measures) == (task is deep)
        task.save(tmp_path / f"{'flat' if task is flat else 'deep'}.safetensors", task.network, {})
    fresh = task_of(2)
    new = start_from(tmp_path / "flat.safetensors", fresh.network)
    heads = ("lift.", "mesh.", "vertex_heads.", "translation_heads.", "box_heads.")
    assert new and all(name.startswith(heads) for name in new)
    learned = flat.network.state_dict()["layers.2.widen.weight"]
    assert torch.equal(fresh.network.state_dict()["layers.2.widen.weight"], learned)
    loaded = load_photo_model("handos-small", tmp_path / "deep.safetensors")
    assert loaded.processor.config.input_size == 64


def test_measures_of_known_errors(hand: HandModel) -> None:
    """A perfect network, then flat meshes of the other side."""
    from tests.models.test_handos import perfect, wrists

    from handhold.training.photo_measures import photo_measures

    task = task_of(2)
    batch = task.encode([(photo(hand, 0), 0)], None)
    found = perfect(batch, hand, wrists(hand, 0))
    told = photo_measures(found, batch, 1.25)
    assert told["recall"] == (2, 2) and told["side_accuracy"] == (2.0, 2.0)
    assert told["pck10"] == (42.0, 42.0) and told["pa_mpvpe_mm"][0] < 1e-3
    flat = torch.tensor([1, 1, 0.3])
    wrong = dataclasses.replace(
        found,
        vertices=found.vertices * flat,
        volume=-found.volume,
        joints2d=found.joints2d + 0.2,
    )
    told = photo_measures(wrong, batch, 1.25)
    assert told["side_accuracy"] == (0.0, 2.0) and told["pck10"][0] == 0
    assert told["pa_mpvpe_mm"][0] > 2
    zero = dataclasses.replace(found, vertices=0 * found.vertices, volume=0 * found.volume)
    assert np.isfinite(photo_measures(zero, batch, 1.25)["pa_mpvpe_mm"][0])


def test_a_detector_is_needed_and_its_file_decides_its_shape(tmp_path: Path) -> None:
    recipe = RECIPES["handos-small-stage2"]()
    network: dict[str, Any] = {
        "width": 32,
        "feedforward": 32,
        "vertices": 49,
        "layers_mesh": 1,
        "side_hidden": 16,
    }
    shipped: Any = build_task(dataclasses.replace(recipe, network=network)).network
    expected = load_detector().state_dict()  # the package's own, as nobody gave another
    for key, value in shipped.detector.network.state_dict().items():
        assert torch.equal(expected[key], value), key
    network["detector"] = "hand-detr"
    with pytest.raises(InputError, match="detector"):
        build_task(dataclasses.replace(recipe, network=network))
    fields: dict[str, Any] = {"widths": (8, 16, 16, 16), "stem": (8, 8), "width": 16, "queries": 9}
    torch.manual_seed(0)
    trained = HandDetrNetwork(HandDetrConfig(**fields)).eval()
    path = save_hand_detr(tmp_path / "d.safetensors", trained)
    given = dataclasses.replace(recipe, network=network, detector=str(path))
    task = build_task(given)
    built: Any = task.network
    assert built.detector.width == 16 and built.config.detector_options["queries"] == 9
    task.save(tmp_path / "h.safetensors", built, {})
    again = load_photo_model("handos-small", tmp_path / "h.safetensors")
    for key, value in built.state_dict().items():
        assert torch.equal(again.network.state_dict()[key], value), key


def test_pairs_are_refused() -> None:
    recipe = dataclasses.replace(RECIPES["handos-small-stage2"](), pairs=True, network=TINY)
    with pytest.raises(InputError, match="pairs"):
        build_task(recipe)
