"""HandBooster's denoiser, schedule, samplers and losses against those of the original."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from handhold.models.handbooster.loss import HandBoosterLossConfig, loss
from handhold.models.handbooster.model import (
    Attention,
    HandBoosterConfig,
    HandBoosterUNet,
    LinearAttention,
)
from handhold.models.handbooster.official import convert
from handhold.models.weights import fit
from handhold.synthesis.diffusion import generate, schedule

Load = Callable[[str], Any]
# Closer than the usual 1e-4, which an unbiased variance in the standardised filters passes
ACTIVATIONS, IMAGES = 5e-6, 1e-5
NAMES = {
    "init_conv": "stem",
    "time_mlp": "time",
    "classes_emb": "orientation",
    "classes_mlp": "orientation_embedding",
    "mid_block1": "middle1",
    "mid_attn": "middle_attention",
    "mid_block2": "middle2",
    "final_res_block": "last_block",
}
PARTS = {"block1": "block1", "attn": "attention", "down": "resample", "up": "resample"}


def our_name(theirs: str) -> str:
    if theirs in NAMES:
        return NAMES[theirs]
    way, level, part = theirs.split(".")
    return f"{way.removesuffix('s')}.{level}.{PARTS[part]}"


@torch.no_grad()
def test_denoiser(golden: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = golden("handbooster_unet")
    told = stored.json["config"]
    config = HandBoosterConfig(
        input_size=told["image_size"],
        width=told["dim"],
        multipliers=tuple(told["dim_mults"]),
        groups=told["resnet_block_groups"],
    )
    network = HandBoosterUNet(config)
    fit(network, convert(stored.state_dict()), stored.name)
    network.eval()
    maps = stored.generated_inputs()
    given = (stored.tensor("x"), maps["texture"], maps["normal"])
    given = (*given, stored.tensor("t"), stored.tensor("quaternion"))
    found: dict[str, Tensor] = {}
    kept = network(*given, found=found)
    dropped = network(*given, keep=torch.zeros(1, dtype=torch.bool))
    stored.compare("x0_cond", kept, IMAGES)
    stored.compare("x0_dropped", dropped, IMAGES)
    # both are known by now: that saves two passes
    answer = lambda *given: torch.where(given[5][:, None, None, None], kept, dropped)  # noqa: E731
    monkeypatch.setattr(network, "forward", answer)
    stored.compare("x0_guided_scale3", network.guided(*given, scale=3.0), IMAGES)
    for name in stored.outputs:
        if name.startswith("act/"):
            stored.compare(name, found[our_name(name.removeprefix("act/"))], ACTIVATIONS)
    assert not stored.forgotten(except_=["sub/*"])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["linear_attention", "full_attention"])
def test_attention_alone(golden: Load, kind: str) -> None:
    """The whole denoiser hardly depends on its attentions, so they are compared by themselves."""
    stored = golden("handbooster_unet")
    linear = kind == "linear_attention"
    module = LinearAttention(64, 4, 32) if linear else Attention(64, 4, 32)
    out = "fn.fn.to_out.0" if linear else "fn.fn.to_out"
    theirs = {
        "norm.gain": "fn.norm.g",
        "qkv.weight": "fn.fn.to_qkv.weight",
        "out.weight": f"{out}.weight",
        "out.bias": f"{out}.bias",
        "out_norm.gain": "fn.fn.to_out.1.g",
    }
    entries = {
        name: stored.filled(f"{kind}.{theirs[name]}", value.shape)
        for name, value in module.state_dict().items()
    }
    for name, value in entries.items():  # the rule of the json's `fill_scale`
        if name.endswith("gain"):
            entries[name] = value + 1
        elif name == "qkv.weight":
            entries[name] = value * (20 if linear else 2)
        elif name == "out.bias":
            entries[name] = torch.zeros_like(value)
    module.load_state_dict(entries)
    stored.compare(f"sub/{kind}", module(stored.tensor("attention_x")), 1e-5)


# ------------------------------------------------------------------- schedule, steps and losses


class Toy:
    """The closed form that stands in for the network in the stored steps."""

    def __init__(self, stored: Any) -> None:
        self.texture = 2 * stored.tensor("texture") - 1
        self.normal = 2 * stored.tensor("normal") - 1
        self.kept = 0.05 * stored.tensor("quaternion").sum(1)

    def __call__(self, noisy: Tensor, time: Tensor, kept: bool = True) -> Tensor:
        shift = self.kept if kept else torch.zeros_like(self.kept)
        inner = 0.5 * noisy + 0.3 * self.texture - 0.2 * self.normal
        return 1.2 * torch.tanh(inner + (shift + time / 2000)[:, None, None, None])

    def guided(self, noisy: Tensor, time: Tensor) -> Tensor:
        dropped = self(noisy, time, False)
        return dropped + 3 * (self(noisy, time) - dropped)


@pytest.fixture
def noises(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What diffusers' steps draw, one after the other."""
    import diffusers.schedulers.scheduling_ddim as one
    import diffusers.schedulers.scheduling_ddpm as other

    waiting: list[Tensor] = []
    for module in (one, other):
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: waiting.pop(0))
    return waiting


@pytest.fixture
def stored(golden: Load) -> Any:
    return golden("handbooster_diffusion")


CONFIG = HandBoosterConfig()


def test_schedule(stored: Any, noises: list[Tensor]) -> None:
    """What the scheduler does in every step, taken from its steps themselves."""
    scheduler = schedule.ancestral(CONFIG)
    shares = scheduler.alphas_cumprod
    before = torch.cat((shares.new_ones(1), shares[:-1]))
    one, nothing = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)

    def effect(clean: Tensor, noisy: Tensor, noise: Tensor) -> Tensor:
        values = []
        for time in range(CONFIG.timesteps):
            noises[:] = [noise]
            values.append(scheduler.step(clean, time, noisy, return_dict=False)[0].flatten())
        return torch.cat(values)

    spread = effect(nothing, nothing, one)  # none in the last step
    variance = torch.stack([scheduler._get_variance(t) for t in range(CONFIG.timesteps)])
    torch.testing.assert_close(spread[1:].double(), variance[1:].sqrt(), rtol=1e-6, atol=0)
    values = {
        "betas": scheduler.betas,
        "alphas_cumprod": shares,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": shares.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - shares).sqrt(),
        "sqrt_recip_alphas_cumprod": shares.rsqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / shares - 1).sqrt(),
        "posterior_variance": torch.cat((variance.new_zeros(1), variance[1:])),
        "posterior_log_variance_clipped": variance.log(),
        "posterior_mean_coef1": effect(one, nothing, nothing),
        "posterior_mean_coef2": effect(nothing, one, nothing),
        "loss_weight": schedule.snr(shares),
    }
    for name, value in values.items():
        stored.compare(f"schedule/{name}", value)
    assert not stored.forgotten(except_=["[!s]*"])
    # 1 - abar of the first step, of which float32 keeps three digits
    exact = stored.output("schedule/loss_weight")
    np.testing.assert_allclose(schedule.snr(shares).numpy(), exact, rtol=1e-5)


def test_noisy_crops(stored: Any) -> None:
    image, noise = 2 * stored.tensor("image") - 1, stored.tensor("noise")
    time = stored.tensor("t")
    noisy = schedule.ancestral(CONFIG).add_noise(image, noise, time)
    stored.compare("q_sample", noisy)
    stored.compare("model_out", Toy(stored)(noisy, time))


def test_ancestral_step(stored: Any, noises: list[Tensor]) -> None:
    scheduler, toy = schedule.ancestral(CONFIG), Toy(stored)
    noisy, time = stored.tensor("x_t"), int(stored.tensor("t_step"))
    noises[:] = [stored.tensor("noise")]
    step = scheduler.step(toy.guided(noisy, torch.full((len(noisy),), time)), time, noisy)
    stored.compare("ddpm_step/prev", step.prev_sample)
    stored.compare("ddpm_step/x0", step.pred_original_sample)
    last = scheduler.step(toy.guided(noisy, torch.zeros(len(noisy))), 0, noisy)
    stored.compare("ddpm_step_t0/prev", last.prev_sample)


def test_ddim_step(stored: Any) -> None:
    """The noise that a step derives, read off a step without fresh noise."""
    toy, noisy, time = Toy(stored), stored.tensor("x_t"), int(stored.tensor("t_step"))
    scheduler, times = schedule.ddim(CONFIG, CONFIG.timesteps)
    assert times == list(range(CONFIG.timesteps - 1, -1, -1))
    guided = toy.guided(noisy, torch.full((len(noisy),), time))
    step = scheduler.step(guided, time, noisy, eta=0.0, use_clipped_model_output=True)
    clean = step.pred_original_sample
    stored.compare("ddim/x0", clean)
    share = scheduler.alphas_cumprod[time - 1]
    noise = (step.prev_sample - share.sqrt() * clean) / (1 - share).sqrt()
    stored.compare("ddim/pred_noise", noise)


def test_ddim_loop(stored: Any, noises: list[Tensor]) -> None:
    for steps in (4, 250):
        times = [*schedule.ddim_times(CONFIG, steps), -1]
        stored.compare(f"ddim{steps}_times", np.array(times))
    start, *rest = stored.tensor("noise_sequence")
    noises[:] = [*rest, torch.full_like(start, 1e3)]  # the last step must not use what it draws
    image = generate.sample(Toy(stored).guided, start, CONFIG, steps=4)
    stored.compare("ddim4_image", image)
    assert not noises


def test_steps_that_do_not_divide() -> None:
    """Times cut towards zero, and a step of them in closed form (DDIM, equation 12, eta 1)."""
    assert schedule.ddim_times(CONFIG, 7) == [999, 856, 713, 570, 427, 284, 141]
    scheduler, times = schedule.ddim(CONFIG, 7)
    shares = schedule.signal_shares(CONFIG)
    rng = torch.Generator().manual_seed(0)
    noisy, noise = (torch.randn(2, 3, 4, 4, generator=rng, dtype=torch.float64) for _ in "ab")
    clean = torch.rand(2, 3, 4, 4, generator=rng, dtype=torch.float64) * 2 - 1
    now, following = shares[times[2]], shares[times[3]]
    sigma = ((1 - now / following) * (1 - following) / (1 - now)).sqrt()
    derived = (noisy - now.sqrt() * clean) / (1 - now).sqrt()
    truth = following.sqrt() * clean + (1 - following - sigma**2).sqrt() * derived + sigma * noise
    options = SimpleNamespace(eta=1.0, use_clipped_model_output=True, variance_noise=noise)
    found = scheduler.step(clean, 4, noisy, **vars(options)).prev_sample
    torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-10)


def test_losses(stored: Any) -> None:
    image, time = 2 * stored.tensor("image") - 1, stored.tensor("t")
    scheduler = schedule.ancestral(CONFIG)
    clean = Toy(stored)(scheduler.add_noise(image, stored.tensor("noise"), time), time)
    weight = schedule.snr(scheduler.alphas_cumprod)[time].float()
    foreground = stored.tensor("foreground")
    for name, config in (
        ("loss_code_l1", HandBoosterLossConfig.released()),
        ("loss_paper_l2", HandBoosterLossConfig.paper()),
    ):
        total = loss(clean, image, weight, foreground, config)["total"]
        stored.compare(name, total.reshape(1))
