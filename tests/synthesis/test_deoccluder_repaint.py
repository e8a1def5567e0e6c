"""Painting hand and object anew, with tiny networks of random weights: order, blending, choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.synthesis.tiny_diffusion import SIDE, make_pipeline
from torch import Tensor

from handhold.errors import InputError, MissingFileError, WeightsError
from handhold.geometry.crop import crop_affine
from handhold.render.raycast import RenderMesh
from handhold.scene import Camera
from handhold.synthesis.deoccluder.judge import Errors, best
from handhold.synthesis.deoccluder.pairs import pasted
from handhold.synthesis.deoccluder.repaint import (
    LatentBlending,
    RepaintConfig,
    Repainter,
    depth_hint,
    load_pipeline,
    scheduler,
)

CONFIG = RepaintConfig(size=SIDE, steps=6, strengths=(0.25, 0.55))


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return make_pipeline()


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A crop, the part of it that is painted anew, and a hint."""
    rng = np.random.default_rng(5)
    crop = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[16:48, 8:40] = True
    hint = np.where(mask, rng.random((SIDE, SIDE)), 0).astype(np.float32)
    return crop, mask, hint


def test_schedule_is_that_of_stable_diffusion() -> None:
    """Times 981, 961, .. 1 of the scaled-linear schedule; the last step ends at its first share."""
    found = scheduler()
    found.set_timesteps(50)
    assert found.timesteps.tolist() == list(range(981, 0, -20))
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    shares = np.cumprod(1 - betas)
    np.testing.assert_allclose(found.alphas_cumprod.numpy(), shares, rtol=1e-4)
    assert float(found.final_alpha_cumprod) == pytest.approx(shares[0], rel=1e-6)


def _shares(pipeline: Any) -> list[tuple[float, float]]:
    """Signal's share before and after every step."""
    table = pipeline.scheduler.alphas_cumprod.double()
    times = pipeline.scheduler.timesteps.tolist()
    after = [float(table[t]) for t in times[1:]] + [float(table[0])]
    return [(float(table[t]), last) for t, last in zip(times, after, strict=True)]


def test_equals_a_plain_loop_in_handrefiners_order(
    pipeline: Any, scene: tuple[np.ndarray, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blend, guided noise of both networks, DDIM; after the last step nothing."""
    crop, mask, hint = scene
    repaint = Repainter(pipeline, CONFIG)
    kept: dict[str, Tensor] = {}
    decode = pipeline.vae.decode

    def remember(latents: Tensor, **more: Any) -> Any:
        kept["ours"] = latents * pipeline.vae.config.scaling_factor
        return decode(latents, **more)

    monkeypatch.setattr(pipeline.vae, "decode", remember)
    repaint(crop, mask, hint, 0.55, seed=7)

    generator = torch.Generator().manual_seed(7)
    image = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 127.5 - 1
    whole = torch.from_numpy(mask)[None, None].float()
    small = F.interpolate(whole, (8, 8))
    control = torch.from_numpy(hint)[None, None].repeat(2, 3, 1, 1)
    with torch.no_grad():
        words, other = repaint._words
        both = torch.cat([other, words])
        scale = pipeline.vae.config.scaling_factor
        z0 = pipeline.vae.encode(image).latent_dist.sample(generator) * scale
        z = torch.randn(z0.shape, generator=generator)
        first = torch.randn(z0.shape, generator=generator)
        hidden = image * (whole < 0.5)
        z_mask = pipeline.vae.encode(hidden).latent_dist.sample(generator) * scale
        for step, (now, after) in enumerate(_shares(pipeline)):
            noise = torch.randn(z0.shape, generator=generator) if step else first
            z = (1 - small) * (now**0.5 * z0 + (1 - now) ** 0.5 * noise) + small * z
            time = pipeline.scheduler.timesteps[step]
            twice = torch.cat([z, z])
            down, middle = pipeline.controlnet(
                twice, time, both, control, conditioning_scale=0.55, return_dict=False
            )
            told = torch.cat([twice, small.repeat(2, 1, 1, 1), z_mask.repeat(2, 1, 1, 1)], 1)
            guess = pipeline.unet(
                told,
                time,
                both,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            ).sample
            free, led = guess.chunk(2)
            guess = free + CONFIG.guidance * (led - free)
            clean = (z - (1 - now) ** 0.5 * guess) / now**0.5
            z = after**0.5 * clean + (1 - after) ** 0.5 * guess
    assert float(z.abs().mean()) > 0.5
    torch.testing.assert_close(kept["ours"], z, atol=2e-4, rtol=1e-4)


def test_an_all_knowing_denoiser_keeps_the_picture(
    pipeline: Any, scene: tuple[np.ndarray, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that finds the noise over the picture in every latent ends, outside the mask, at
    sqrt(a) z0 + sqrt(1 - a) times the last fresh noise, a the first share of the schedule; and
    every step sees the picture outside under noise of its own."""
    crop, mask, hint = scene
    repaint = Repainter(pipeline, CONFIG)
    z0: list[Tensor] = []
    encode = pipeline.vae.encode

    def remember(image: Tensor) -> Any:
        found = encode(image)
        if not z0:
            found.latent_dist.std = torch.zeros_like(found.latent_dist.std)
            z0.append(found.latent_dist.mean * pipeline.vae.config.scaling_factor)
        return found

    seen: list[Tensor] = []

    def oracle(latents: Tensor, time: Tensor, **_: Any) -> tuple[Tensor]:
        share = pipeline.scheduler.alphas_cumprod[int(time)]
        noise = (latents[:, :4] - share**0.5 * z0[0]) / (1 - share) ** 0.5
        seen.append(noise[0])
        return (noise,)

    last: list[Tensor] = []
    decode = pipeline.vae.decode
    monkeypatch.setattr(pipeline.vae, "encode", remember)
    monkeypatch.setattr(pipeline.unet, "forward", oracle)
    monkeypatch.setattr(pipeline.vae, "decode", lambda z, **k: (last.append(z), decode(z, **k))[1])
    repaint(crop, mask, hint, 1.0, seed=3)
    end = last[0][0] * pipeline.vae.config.scaling_factor
    first = float(pipeline.scheduler.alphas_cumprod[0])
    expected = first**0.5 * z0[0][0] + (1 - first) ** 0.5 * seen[-1]
    torch.testing.assert_close(end, expected, atol=1e-4, rtol=1e-4)
    outside = F.interpolate(torch.from_numpy(mask)[None, None].float(), (8, 8))[0, 0] == 0
    assert len(seen) == CONFIG.steps and int(outside.sum()) == 64 - 16
    for step, noise in enumerate(seen):
        assert 0.7 < float(noise[:, outside].std()) < 1.3
        for other in seen[:step]:
            apart = float((noise - other)[:, outside].abs().mean())
            assert apart > 0.5  # fresh noise
            # inside, such a network's noise stays the same from step to step
            torch.testing.assert_close(noise[:, ~outside], other[:, ~outside], atol=2e-3, rtol=1e-3)


def test_blending_alone() -> None:
    """Inside the latents stay; outside is the picture and noise by the shares of that time; the
    last step's are left alone."""
    schedule = scheduler()
    schedule.set_timesteps(4)
    picture, inside = torch.full((1, 4, 8, 8), 2.0), torch.zeros(1, 1, 8, 8)
    inside[..., 2:5, 3:6] = 1
    blending = LatentBlending(schedule, picture, inside, torch.Generator().manual_seed(1))
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
    given = torch.full_like(picture, 5.0)
    found = blending(None, 1, None, {"latents": given})["latents"]
    share = float(schedule.alphas_cumprod[int(schedule.timesteps[2])])
    expected = torch.where(inside > 0, given, share**0.5 * 2 + (1 - share) ** 0.5 * noise)
    torch.testing.assert_close(found, expected)
    assert blending(None, 3, None, {"latents": given})["latents"] is given


def test_seed_and_strength_decide(pipeline: Any, scene: tuple[np.ndarray, ...]) -> None:
    repaint = Repainter(pipeline, CONFIG)
    crop, mask, hint = scene
    one = repaint(crop, mask, hint, 0.55, seed=1)
    assert one.shape == (SIDE, SIDE, 3) and one.dtype == np.uint8
    assert np.array_equal(one, repaint(crop, mask, hint, 0.55, seed=1))
    assert not np.array_equal(one, repaint(crop, mask, hint, 0.55, seed=2))
    assert not np.array_equal(one, repaint(crop, mask, hint, 0.25, seed=1))
    with pytest.raises(InputError, match="a crop, mask and hint of 64 pixels"):
        repaint(crop[:32], mask, hint, 1.0, seed=1)


def test_hint_of_a_slanted_plane() -> None:
    """1 where it is nearest, 0.2 where it is farthest, linear in depth between, 0 beside it."""
    corners = np.array([[-1, -1, 2], [1, -1, 2], [1, 1, 4], [-1, 1, 4]], np.float32) * 0.1
    plane = RenderMesh(vertices=corners, faces=np.array([[0, 1, 2], [0, 2, 3]]))
    focal = np.array([[40.0, 0, 31.5], [0, 40, 31.5], [0, 0, 1]])
    hint = depth_hint(plane, Camera(intrinsics=focal, width=64, height=64))
    seen = hint > 0
    rows = np.flatnonzero(seen.any(1))
    assert hint[seen].max() == pytest.approx(1) and hint[seen].min() == pytest.approx(0.2)
    # depth z of a row at slope s = (y - cy) / f: points (y, z) with z = 0.3 + y, y = s z
    slope = (rows - 31.5) / 40
    depth = 0.3 / (1 - slope)
    expected = 1 - 0.8 * (depth - depth.min()) / (depth.max() - depth.min())
    np.testing.assert_allclose(hint[rows, 32], expected, atol=1e-4)
    assert hint[0].max() == 0


def test_paste_is_exact() -> None:
    """Outside mask or crop not a byte changes; inside is the crop, also where it was shrunk."""
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (60, 80, 3), np.uint8)
    mask = np.zeros((60, 80), bool)
    mask[10:50, 20:60] = True
    mask[0:4, 70:80] = True  # beyond the crop
    affine = crop_affine((40, 30), 50, 50)  # pixel for pixel
    made = rng.integers(0, 256, (50, 50, 3), np.uint8)
    found = pasted(photo, made, mask, affine)
    inside = mask.copy()
    inside[0:4, 70:80] = False
    assert np.array_equal(found[~inside], photo[~inside])
    assert np.array_equal(found[inside], made[5:45, 5:45].reshape(-1, 3))
    even = np.full((200, 200, 3), 77, np.uint8)
    large = crop_affine((40, 30), 50, 200)
    assert (pasted(photo, even, mask, large)[inside] == 77).all()
    soft = pasted(photo, even, mask, large, soft=6)
    assert np.array_equal(soft[~inside], photo[~inside])
    assert (soft[20:40, 30:50] == 77).all() and not (soft[10, 20:60] == 77).all()


def test_the_lowest_joint_error_wins() -> None:
    rows = [Errors(mpjpe=3, pa_mpjpe=1), Errors(mpjpe=2, pa_mpjpe=9), Errors(mpjpe=2, pa_mpjpe=1)]
    assert best(rows) == 1
    assert Errors(mpjpe=1, pa_mpjpe=2, mpvpe=3, pa_mpvpe=4).score == 10


def test_parts_from_folders_and_what_cannot_be_read(pipeline: Any, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "all")
    base, control = tmp_path / "all", tmp_path / "all" / "controlnet"
    again = load_pipeline(str(base), str(control))
    for part in ("unet", "vae", "controlnet", "text_encoder"):
        ours, theirs = getattr(pipeline, part).state_dict(), getattr(again, part).state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"broken\.safetensors: cannot be read"):
        load_pipeline(str(base), str(tmp_path / "broken.safetensors"))
    with pytest.raises(MissingFileError, match=r"none: no such file or folder"):
        load_pipeline(str(base), str(tmp_path / "none"))
    with pytest.raises(WeightsError, match="takes 4 channels; expected 9"):
        Repainter(make_pipeline(4))
    with pytest.raises(InputError, match="strengths"):
        RepaintConfig(strengths=())
