"""Made photos beside others: the ratio, where they come from, and every label of every method."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from handhold.geometry.boxes import apply_affine
from handhold.hand.model import HandModel
from handhold.models.processors import make_processor
from handhold.models.registry import MODELS
from handhold.scene import Provenance, Sample
from handhold.synthesis.diffusion.crops import encode_crops, made_sample
from handhold.synthesis.diffusion.generate import to_uint8
from handhold.synthesis.scenes import SceneConfig, make_scene
from handhold.synthesis.shards import read_shards, write_shards
from handhold.training.build import build_task
from handhold.training.recipes import RECIPES
from handhold.training.stream import BatchStream

SCENES = SceneConfig(width=128, height=96, occluder=0.0, sensor=0.0, conditions=True)
FROM_PIXELS = {  # these may differ by what sampling twice loses, and where a crop shows more
    *("image", "object_mask", "hand_pixels", "object_pixels", "object_map", "crop"),
}


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Sample, Sample]]:
    """Scenes, and the photos that a perfect denoiser makes of them: their own crops. The scene's
    box is that of the made photo, so that both are cropped alike."""
    drawn = (make_scene(11, number, SCENES) for number in range(40))
    found = []
    for scene in islice((scene for scene in drawn if scene.texture_map is not None), 4):
        crops = to_uint8(encode_crops([(scene, 0)], 96).image)
        old = Provenance(source="grasps", pose="024_bowl/000012")
        made = made_sample(replace(scene, provenance=old), crops[0], f"made-{scene.key}", 7)
        back = scene.camera.intrinsics @ np.linalg.inv(made.camera.intrinsics)
        assert made.hands[0].box is not None
        box = apply_affine(back, made.hands[0].box.reshape(2, 2)).reshape(4)
        found.append((replace(scene, hands=(replace(scene.hands[0], box=box),)), made))
    assert {scene.hands[0].side for scene, _ in found} == {"left", "right"}
    assert {scene.object is None for scene, _ in found} == {True, False}
    return found


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("-small")])
def test_every_label_stays(name: str, pairs: list[tuple[Sample, Sample]]) -> None:
    """What a method is taught of a made photo is what it is taught of the scene: hand, camera,
    grasp, visibility, object pose, signed distances."""
    told = MODELS[name]
    settings = told.config()
    prepared = told.trained_on("deployable").fitted(settings)
    processor = make_processor(prepared, settings, HandModel.free())
    truth = processor.encode([(replace(scene, key="same"), 0) for scene, _ in pairs], None)
    found = processor.encode([(replace(made, key="same"), 0) for _, made in pairs], None)
    own_crop = name.startswith("keypoint-transformer")  # as large as photo and object allow
    compared = 0
    for item in dataclasses.fields(truth):
        one, other = getattr(truth, item.name), getattr(found, item.name)
        if torch.is_tensor(one) and item.name not in FROM_PIXELS:
            if own_crop and ("2d" in item.name or "box" in item.name or item.name == "intrinsics"):
                continue
            torch.testing.assert_close(other, one, equal_nan=True, rtol=1e-4, atol=1e-4)
            compared += 1
    assert compared >= 9
    assert found.crop is not None and found.joints2d is not None and found.mirrored is not None
    for row, (_, made) in enumerate(pairs):
        joints = made.hands[0].joints2d
        assert joints is not None
        there = apply_affine(found.crop[row].double().numpy(), joints)
        if found.mirrored[row]:
            there[:, 0] = found.image.shape[-1] - 1 - there[:, 0]
        np.testing.assert_allclose(found.joints2d[row].numpy(), there, atol=1e-3)


def test_where_they_come_from(pairs: list[tuple[Sample, Sample]], tmp_path: Path) -> None:
    """Shards keep it, and samples without it are stored as ever."""
    write_shards([made for _, made in pairs], tmp_path)
    for (scene, _), again in zip(pairs, read_shards(tmp_path), strict=True):
        thing = None if scene.object is None else scene.object.name
        expected = Provenance(source=scene.key, object=thing, pose="024_bowl/000012", seed=7)
        assert again.provenance == expected
    write_shards([scene for scene, _ in pairs], tmp_path / "scenes")
    assert next(read_shards(tmp_path / "scenes")).provenance is None
    assert b"provenance" not in (tmp_path / "scenes" / "shard-000000.tar").read_bytes()


@pytest.mark.parametrize("name", ["mobrecon-small", "h2onet-small", "handoccnet-small"])
def test_ratio(name: str, pairs: list[tuple[Sample, Sample]], tmp_path: Path) -> None:
    """A network trains on both in the ratio that is asked for, whatever the sizes of the sets."""
    write_shards([replace(scene, key=f"real-{n}") for n, (scene, _) in enumerate(pairs)] * 3,
                 tmp_path / "real")  # fmt: skip
    write_shards([made for _, made in pairs], tmp_path / "made")
    config = RECIPES[name](
        data=(f"shards:{tmp_path / 'real'}=0.25", f"shards:{tmp_path / 'made'}=0.75"),
        network={"input_size": 64},
        batch_size=4,
        epoch_items=16,
        steps=4,
    )
    torch.manual_seed(0)
    task = build_task(config)
    stream = BatchStream(config, task)
    keys = [key for step in range(4) for key in stream[step].keys]
    assert Counter(key.split("-")[0] for key in keys) == {"real": 4, "made": 12}
    terms = task.losses(task.network.train(), stream[0])
    terms["total"].backward()
    values = [float(term.detach()) for term in terms.values()]
    assert np.isfinite(values).all() and min(values) > 0
