"""Stable Diffusion for inpainting with a ControlNet: tiny, with random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
SIDE = 64  # of its pictures


def make_pipeline(channels: int = 9) -> Any:
    torch.manual_seed(0)
    shared = {
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=4,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **shared,
    )
    control = diffusers.ControlNetModel(
        in_channels=4,
        conditioning_channels=3,
        conditioning_embedding_out_channels=(4, 8, 8, 16),
        **shared,
    )
    with torch.no_grad():  # they begin as zeros, without effect
        for weight in (*control.controlnet_down_blocks.parameters(),):
            weight.normal_(0, 0.3)
        for weight in (*control.controlnet_cond_embedding.conv_out.parameters(),):
            weight.normal_(0, 0.3)
    vae = diffusers.AutoencoderKL(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
    )
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=32,
            num_attention_heads=2,
            num_hidden_layers=1,
            max_position_embeddings=77,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    letters = [f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz,"]
    words = {word: n for n, word in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    tokenizer = transformers.CLIPTokenizer(
        vocab=words, merges=[], unk_token="<|endoftext|>", model_max_length=77
    )
    return diffusers.StableDiffusionControlNetInpaintPipeline(
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        controlnet=control.eval(),
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
