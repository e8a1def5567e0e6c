"""From labelled scenes to the denoiser's crops and from its images to labelled photos."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from handhold.cli.synth import images
from handhold.errors import InputError, WeightsError
from handhold.geometry.crop import warp
from handhold.hand.model import HandModel
from handhold.models.handbooster.model import HandBoosterConfig, HandBoosterUNet
from handhold.models.handbooster.weights import save_denoiser
from handhold.objects.procedural import make_object
from handhold.scene import Sample
from handhold.synthesis.conditions import crop_affine, render_conditions
from handhold.synthesis.diffusion.crops import encode_crops, made_sample, seeds_of, with_maps
from handhold.synthesis.diffusion.generate import sample, to_uint8
from handhold.synthesis.diffusion.images import ImageConfig, make_images, open_conditions
from handhold.synthesis.scenes import SceneConfig, make_scene
from handhold.synthesis.shards import read_shards, write_shards

SCENES = SceneConfig(width=128, height=96, occluder=0.0, sensor=0.0, conditions=True)
TINY = HandBoosterConfig(input_size=16, width=8, multipliers=(1, 2), embedding=8, head_width=4)


@pytest.fixture(scope="module")
def scenes() -> list[Sample]:
    """Six scenes of hands with maps, of both sides, with and without an object."""
    drawn = (make_scene(11, number, SCENES) for number in range(30))
    found = list(islice((scene for scene in drawn if scene.texture_map is not None), 6))
    assert {scene.hands[0].side for scene in found} == {"left", "right"}
    assert {scene.object is None for scene in found} == {True, False}
    return found


@pytest.fixture(scope="module")
def models() -> dict[str, HandModel]:
    return {side: HandModel.load(None, side) for side in ("left", "right")}


def test_maps_lie_on_the_scene(scenes: list[Sample]) -> None:
    """They cover what the renderer's own masks cover, and change nothing else."""
    for scene in scenes:
        assert scene.normal_map is not None and scene.hand_mask_amodal is not None
        shown = scene.normal_map.any(2)
        covered = scene.hand_mask_amodal.copy()
        if scene.object_mask is not None:
            covered |= scene.object_mask
        assert (shown & covered).sum() / (shown | covered).sum() > 0.9
        sides = [np.roll(shown, step, axis) for axis in (0, 1) for step in (-2, 2)]
        best = max((side & covered).sum() / (side | covered).sum() for side in sides)
        assert best < (shown & covered).sum() / (shown | covered).sum()
    plain = make_scene(11, 3, replace(SCENES, conditions=False))
    again = make_scene(11, 3, SCENES)
    assert plain.texture_map is None
    np.testing.assert_array_equal(plain.image, again.image)


def test_maps_from_meshes_by_name(models: dict[str, HandModel]) -> None:
    """What a set with object files gives is what the scene gave; only the print may differ."""
    for number in range(60):
        scene = make_scene(12, number, replace(SCENES, holding=1.0, near=0.0))
        name = None if scene.object is None else scene.object.name
        if scene.normal_map is not None and name in ("003_cracker_box", "036_wood_block"):
            break
    else:
        pytest.fail("no scene holds a box")
    objects = {str(name): make_object(str(name), np.random.default_rng(0))}
    found = with_maps(replace(scene, normal_map=None, texture_map=None), objects, models)
    assert found.normal_map is not None and scene.normal_map is not None
    off = np.abs(found.normal_map.astype(int) - scene.normal_map).max(2)
    assert (off <= 3).mean() > 0.985  # its size differs a little from print to print
    with pytest.raises(InputError, match=f"no mesh of '{name}'"):
        with_maps(scene, {}, models)
    with pytest.raises(InputError, match="expected a hand"):
        with_maps(replace(scene, hands=()), objects, models)


def test_shards_keep_the_maps(scenes: list[Sample], tmp_path: Path) -> None:
    write_shards(scenes, tmp_path)
    for scene, again in zip(scenes, read_shards(tmp_path), strict=True):
        for name in ("texture_map", "normal_map"):
            np.testing.assert_array_equal(getattr(again, name), getattr(scene, name))
    light = next(read_shards(tmp_path, skip=("texture_map",)))
    assert light.texture_map is None and light.normal_map is not None


def test_crops_are_the_conditions_of_the_crop(
    scenes: list[Sample], models: dict[str, HandModel]
) -> None:
    """Cutting the frame's maps and rendering in the crop's camera give the same, either side."""
    for scene in scenes:
        hand = scene.hands[0]
        if scene.object is not None or hand.side is None:
            continue
        batch = encode_crops([(scene, 0)], 64)
        found = render_conditions(hand, [], scene.camera, models[hand.side], size=64)
        for name in ("texture", "normal"):
            ours = getattr(batch, name)[0].permute(1, 2, 0).numpy()
            theirs = getattr(found, name) / 255
            inside = (found.segmentation > 0) & (batch.foreground[0, 0].numpy() > 0.99)
            assert inside.sum() > 200
            assert np.abs(ours - theirs)[inside].mean() < 0.04, (name, hand.side)
            wrong = np.abs(ours[:, ::-1] - theirs)[inside & inside[:, ::-1]].mean()
            assert wrong > 0.06 or name == "texture"
        np.testing.assert_allclose(batch.quaternion[0].numpy(), found.quaternion, atol=1e-6)
        cut = warp(scene.image, crop_affine(hand, scene.camera, 64), 64)
        np.testing.assert_array_equal(to_uint8(batch.image)[0], cut)


def test_made_photos_keep_their_labels(scenes: list[Sample]) -> None:
    for scene in scenes:
        batch = encode_crops([(scene, 0)], 48)
        made = made_sample(scene, to_uint8(batch.image)[0], "made")
        hand = made.hands[0]
        assert hand.joints is not None and hand.joints2d is not None
        np.testing.assert_allclose(made.camera.project(hand.joints), hand.joints2d, atol=1e-6)
        assert hand.side == scene.hands[0].side
        # a crop of the original photo, the right way round
        corner = np.linalg.inv(made.camera.intrinsics @ np.linalg.inv(scene.camera.intrinsics))
        assert corner[0, 0] > 0
        cut = warp(scene.image, np.linalg.inv(corner), 48)
        assert np.abs(cut.astype(int) - made.image).mean() < 2
        assert made.hand_mask is not None and made.hand_mask.shape == (48, 48)
        if made.object is not None and made.object.box is not None:
            assert made.object.control_points is not None
            posed = made.object.control_points @ made.object.rotation.T + made.object.translation
            pixels = made.camera.project(posed)
            np.testing.assert_allclose(made.object.box[:2], pixels.min(0), atol=1e-6)


def test_what_cannot_be_encoded(scenes: list[Sample]) -> None:
    scene = scenes[0]
    for wrong, number, words in (
        (replace(scene, normal_map=None), 0, "no texture_map and normal_map"),
        (replace(scene, hands=(replace(scene.hands[0], pose=None),)), 0, "has no pose"),
        (scene, 1, "first hand, found 1"),
    ):
        with pytest.raises(InputError, match=words):
            encode_crops([(wrong, number)], 32)


# ---------------------------------------------------------------------------------- made photos


def test_bytes() -> None:
    values = torch.tensor([-0.1, 0.0, 0.49 / 255, 0.51 / 255, 1.0, 1.3]).view(6, 1, 1, 1)
    found = to_uint8(values.expand(6, 3, 1, 1))
    assert found.shape == (6, 1, 1, 3) and found[:, 0, 0, 1].tolist() == [0, 0, 0, 1, 255, 255]


def test_all_steps_are_sampled_one_by_one() -> None:
    """With every step DDPM samples, with fewer DDIM; a perfect denoiser's image comes out of both,
    and different noise gives different ways there."""
    config = HandBoosterConfig(timesteps=20, last_beta=0.3)
    truth = torch.linspace(-0.9, 0.9, 48).view(1, 3, 4, 4)
    visited: list[int] = []

    def denoise(noisy: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        visited.append(int(time[0]))
        return truth + 0.0 * noisy

    for steps in (20, 6):
        visited.clear()
        draw = torch.Generator().manual_seed(0)
        start = torch.randn(1, 3, 4, 4, generator=draw)
        found = sample(denoise, start, config, steps=steps, generators=[draw])
        torch.testing.assert_close(found, (truth + 1) / 2)
        assert len(visited) == steps and visited[0] == 19 and visited == sorted(visited)[::-1]
    with pytest.raises(InputError, match="1 to 20"):
        sample(denoise, truth, config, steps=21)


@pytest.fixture
def folder(scenes: list[Sample], tmp_path: Path) -> Path:
    write_shards(scenes[:3], tmp_path / "conditions")
    torch.manual_seed(0)
    network = HandBoosterUNet(TINY)
    save_denoiser(tmp_path / "w.safetensors", network)
    return tmp_path


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.tar")}


def test_series(folder: Path) -> None:
    """Photo i is the same whatever the batch; each has noise of its own; shards come back byte for
    byte after an interruption."""
    samples = open_conditions(folder / "conditions")
    torch.manual_seed(0)
    network = HandBoosterUNet(TINY).eval()
    one, other = (
        list(make_images(network, samples, range(5), ImageConfig(steps=3, batch=batch), seed=4))
        for batch in (1, 3)
    )
    for first, second in zip(one, other, strict=True):
        assert np.abs(first.image.astype(int) - second.image).max() <= 1
    assert np.abs(one[0].image.astype(int) - one[3].image).mean() > 1  # the same conditions again
    assert len(set(seeds_of(0, range(100)) + seeds_of(1, range(100)))) == 200

    options = {"count": 5, "shard_size": 2, "config": ImageConfig(steps=3, batch=2)}
    given = (folder / "conditions", folder / "w.safetensors")
    images(*given, folder / "whole", **options)
    whole = digests(folder / "whole")
    assert len(whole) == 3 and (folder / "whole" / "sheet.png").is_file()
    images(*given, folder / "part", **(options | {"count": 2}), sheet=False)
    (folder / "part" / ".shard-000001.tar.99").write_bytes(b"half a shard")
    images(*given, folder / "part", **options, sheet=False)
    assert digests(folder / "part") == whole
    keys = [made.key for made in read_shards(folder / "whole")]
    assert keys[4].startswith("made-0-0000004-") and len(set(keys)) == 5


def test_wrong_inputs(folder: Path, scenes: list[Sample]) -> None:
    write_shards([replace(scenes[0], normal_map=None)], folder / "plain")
    with pytest.raises(InputError, match="plain: its samples have no texture_map"):
        images(folder / "plain", folder / "w.safetensors", folder / "out", count=1)
    write_shards([scenes[0]], folder / "conditions2")
    (folder / "no.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match=r"no\.safetensors"):
        images(folder / "conditions2", folder / "no.safetensors", folder / "out", count=1)
    for wrong in ({"steps": 0}, {"eta": 2.0}, {"guidance": float("nan")}):
        with pytest.raises(InputError, match="ImageConfig"):
            ImageConfig(**wrong)
