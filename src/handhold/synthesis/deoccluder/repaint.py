"""Hand and object painted anew as a hand alone: Stable Diffusion inpainting with a depth ControlNet
(extra `diffusion`), as UniHOPE's supplement B and HandRefiner (Lu et al., 2024) describe it.

At every noise level the picture around hand and object is put back under fresh noise (equations 4
to 6): before each step, as in HandRefiner, the only order in which the paper's index of the noise
level is right; after the last step nothing is put back.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from handhold.errors import InputError, MissingExtraError, MissingFileError, WeightsError
from handhold.render.raycast import RenderMesh, Scene3D, cast
from handhold.scene import Camera, FloatArray

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
STRENGTHS = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)  # of the ControlNet (supplement B)
PROMPT = "a hand grasping gesture, indoor, in the lab"  # supplement B
NEGATIVE = (  # HandRefiner's; UniHOPE's is "similar"
    "fake 3D rendered image, longbody, lowres, bad anatomy, bad hands, missing fingers, extra "
    "digit, fewer digits, cropped, worst quality, low quality, blue"
)
SINGLE_FILES = (".safetensors", ".ckpt", ".pth", ".pt", ".bin")


@dataclass(frozen=True, kw_only=True)
class RepaintConfig:
    """How hand and object are painted anew. The defaults are the paper's and HandRefiner's."""

    size: int = 512
    """Side of the crop in pixels, a multiple of 64 or what the networks take."""
    steps: int = 50
    """DDIM steps."""
    guidance: float = 9.0
    """How strongly the prompt is insisted on."""
    strengths: tuple[float, ...] = STRENGTHS
    """Control strengths to try; the candidate whose hand is measured best is kept."""
    prompt: str = PROMPT
    """What the picture shows."""
    negative_prompt: str = NEGATIVE
    """What it should not show."""
    growth: float = 0.04
    """By how much of the crop's side the outline of hand and object grows before all in it is
    painted anew (the paper gives no number)."""

    def __post_init__(self) -> None:
        if not self.strengths or min(self.strengths) < 0:
            raise InputError(
                f"RepaintConfig.strengths: expected one or more of 0 or above: {self.strengths}"
            )
        if self.steps < 1 or self.size < 8 or self.size % 8 or not 0 <= self.growth < 1:
            raise InputError(
                "RepaintConfig: expected steps >= 1, size a multiple of 8, growth in 0..1, found "
                f"{self.steps}, {self.size}, {self.growth}"
            )


def depth_hint(hand: RenderMesh, camera: Camera) -> FloatArray:
    """What the ControlNet sees (H, W) of the hand alone: 1 at its nearest, 0.2 at its farthest
    point, 0 elsewhere (HandRefiner)."""
    hits = cast(Scene3D([hand]), camera)
    seen = hits.mesh == 0
    hint = np.zeros(seen.shape, np.float32)
    if seen.any():
        depth = hits.depth[seen]
        low, high = float(depth.min()), float(depth.max())
        hint[seen] = 1 - 0.8 * (depth - low) / max(high - low, 1e-9)
    return hint


def scheduler() -> Any:
    """HandRefiner's DDIM of Stable Diffusion 1.5: times 981, 961, .. 1 for 50 steps, and a last
    step to the share of the first time, not to 1."""
    return _diffusers().DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


def load_pipeline(base: str, controlnet: str, device: str = "cpu", *, half: bool = False) -> Any:
    """The inpainting pipeline with its ControlNet.

    base: Stable Diffusion 1.5 for inpainting (a U-Net of 9 channels), as a folder in diffusers'
    layout or a name of the hub. controlnet: of depth, as such a folder or name, or one file.
    Raises MissingExtraError without diffusers and transformers, MissingFileError for what is not
    there, WeightsError for networks that do not fit.
    """
    diffusers = _diffusers()
    kind = torch.float16 if half else torch.float32
    single = controlnet.lower().endswith(SINGLE_FILES)
    read = diffusers.ControlNetModel
    control = _read(read.from_single_file if single else read.from_pretrained, controlnet, kind)
    pipeline = _read(
        diffusers.StableDiffusionControlNetInpaintPipeline.from_pretrained,
        base,
        kind,
        controlnet=control,
        safety_checker=None,
        requires_safety_checker=False,
    )
    return pipeline.to(device)


def _diffusers() -> Any:
    try:
        import diffusers
        import transformers as transformers
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "the de-occluder needs: pip install 'handhold[diffusion]' (or take --free)"
        ) from error
    return diffusers


def _read(read: Any, where: str, kind: torch.dtype, **more: Any) -> Any:
    try:
        return read(where, torch_dtype=kind, **more)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if Path(where).exists():
            raise WeightsError(
                f"{where}: cannot be read as the networks it should be ({reason})"
            ) from error
        raise MissingFileError(
            f"{where}: no such file or folder, and the hub does not give it ({reason})"
        ) from error


class LatentBlending:
    """Keeps the latents outside the mask those of the picture at every noise level.

    picture (1, 4, h, w): scaled encoding of the crop. mask (1, 1, h, w): 1 where it is painted
    anew. generator: of the fresh noise. `start()` are the latents to begin with; the object itself
    is the pipeline's callback_on_step_end.
    """

    def __init__(self, scheduler: Any, picture: Tensor, mask: Tensor, generator: Any) -> None:
        self.scheduler, self.picture, self.mask = scheduler, picture, mask
        self.generator = generator

    def _noise(self) -> Tensor:
        drawn = torch.randn(self.picture.shape, generator=self.generator)  # the same everywhere
        return drawn.to(self.picture)

    def blended(self, latents: Tensor, time: Tensor) -> Tensor:
        """Latents as a step at `time` takes them: the picture under fresh noise outside."""
        around = self.scheduler.add_noise(self.picture, self._noise(), time.reshape(1))
        return around * (1 - self.mask) + latents * self.mask

    def start(self) -> Tensor:
        """Pure noise inside, the picture at the first noise level outside."""
        return self.blended(self._noise(), self.scheduler.timesteps[0])

    def __call__(self, _: Any, step: int, __: Any, kept: dict[str, Any]) -> dict[str, Any]:
        """After a step: what the next one takes; nothing after the last."""
        times = self.scheduler.timesteps
        if step + 1 < len(times):
            kept["latents"] = self.blended(kept["latents"], times[step + 1])
        return kept


class Repainter:
    """Paints crops anew. pipeline: of `load_pipeline`; its scheduler is replaced (`scheduler`)."""

    def __init__(self, pipeline: Any, config: RepaintConfig | None = None) -> None:
        self.config = RepaintConfig() if config is None else config
        channels = pipeline.unet.config.in_channels
        if channels != 9:
            raise WeightsError(
                f"the U-Net takes {channels} channels; expected 9, those of an inpainting network"
            )
        pipeline.scheduler = scheduler()
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline = pipeline
        with torch.no_grad():
            self._words = pipeline.encode_prompt(
                self.config.prompt,
                pipeline.device,
                1,
                self.config.guidance > 1,
                self.config.negative_prompt,
            )

    @torch.no_grad()
    def __call__(
        self, crop: Image, mask: Mask, hint: FloatArray, strength: float, seed: int
    ) -> Image:
        """The crop (S, S, 3) with everything in the mask (S, S) painted anew.

        hint (S, S): `depth_hint`. strength: of the ControlNet, on all its residuals. One seed draws
        the same noise for every strength.
        """
        side = self.config.size
        if crop.shape != (side, side, 3) or mask.shape != (side, side) or hint.shape != mask.shape:
            raise InputError(
                f"repaint: expected a crop, mask and hint of {side} pixels, found {crop.shape}, "
                f"{mask.shape} and {hint.shape}"
            )
        pipeline, config = self.pipeline, self.config
        device, kind = pipeline.device, pipeline.unet.dtype
        image = torch.from_numpy(crop).permute(2, 0, 1)[None].to(device, torch.float32) / 255
        painted = torch.from_numpy(mask)[None, None].to(device, torch.float32)
        control = torch.from_numpy(hint)[None, None].expand(1, 3, -1, -1).to(device, kind)
        generator = torch.Generator().manual_seed(seed)
        pipeline.scheduler.set_timesteps(config.steps, device=device)
        encoded = pipeline.vae.encode((2 * image - 1).to(kind)).latent_dist.sample(generator)
        picture = encoded * pipeline.vae.config.scaling_factor
        small = F.interpolate(painted, picture.shape[-2:]).to(kind)
        blending = LatentBlending(pipeline.scheduler, picture, small, generator)
        made = pipeline(
            prompt_embeds=self._words[0],
            negative_prompt_embeds=self._words[1],
            image=image,
            mask_image=painted,
            control_image=control,
            height=side,
            width=side,
            strength=1.0,  # of the noise: the hand is not taken over from the picture
            num_inference_steps=config.steps,
            guidance_scale=config.guidance,
            eta=0.0,
            generator=generator,
            latents=blending.start(),
            controlnet_conditioning_scale=float(strength),
            callback_on_step_end=blending,
            output_type="np",
        ).images[0]
        return np.clip(np.rint(np.nan_to_num(made) * 255), 0, 255).astype(np.uint8)
