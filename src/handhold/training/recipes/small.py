"""Recipes of the small configurations, for a processor."""

from __future__ import annotations

from typing import Any

from handhold.training.config import TrainConfig


def _small(model: str, changes: dict[str, Any]) -> TrainConfig:
    values = {
        "model": model,
        "recipe": model,
        "steps": 20_000,
        "batch_size": 32,
        "lr": 1e-3,
        "optimizer": "adamw",
        "weight_decay": 0.02,
        "schedule": "cosine",
        "warmup": 100,
        "ema": 0.999,
        "clip_norm": 100.0,
        "channels_last": True,
        "workers": 1,
    }
    return TrainConfig(**(values | changes))


def unihope_small(**changes: Any) -> TrainConfig:
    """UniHOPE's heads on a small backbone, for a processor: hours on synthetic scenes."""
    return _small("unihope-small", changes)


def hflnet_small(**changes: Any) -> TrainConfig:
    """HFL-Net's heads on a small backbone, for a processor: hours on synthetic scenes."""
    return _small("hflnet-small", changes)


def semihand_small(**changes: Any) -> TrainConfig:
    """Liu et al.'s heads on a small backbone, for a processor."""
    return _small("semihand-small", changes)


def handoccnet_small(**changes: Any) -> TrainConfig:
    """HandOccNet's structure on a small backbone, for a processor."""
    return _small("handoccnet-small", changes)


def mobrecon_small(**changes: Any) -> TrainConfig:
    """MobRecon a quarter as wide, for a processor."""
    return _small("mobrecon-small", changes)


def h2onet_small(**changes: Any) -> TrainConfig:
    """H2ONet a quarter as wide, in one stage, for a processor."""
    return _small("h2onet-small", changes)


def simplehand_small(**changes: Any) -> TrainConfig:
    """SimpleHand with a small FastViT, for a processor."""
    return _small("simplehand-small", changes)


def hand_detector(**changes: Any) -> TrainConfig:
    """The hand detector: photos with boxes, on a processor."""
    values = {
        "model": "hand-detector",
        "recipe": "hand-detector",
        "steps": 12_000,
        "batch_size": 16,
        "lr": 1e-3,
        "optimizer": "adamw",
        "weight_decay": 0.02,
        "schedule": "cosine",
        "warmup": 300,
        "ema": 0.999,
        "clip_norm": 20.0,
        "channels_last": True,
        "workers": 1,
    }
    return TrainConfig(**(values | changes))


def hand_detr(**changes: Any) -> TrainConfig:
    """The detector that HandOS stands on: photos with boxes, for an accelerator or days."""
    values = {
        "model": "hand-detr",
        "recipe": "hand-detr",
        "steps": 60_000,
        "batch_size": 32,
        "lr": 4e-4,
        "optimizer": "adamw",
        "weight_decay": 1e-4,
        "schedule": "cosine",
        "warmup": 1000,
        "ema": 0.9997,
        "clip_norm": 0.1,
        "workers": 1,
    }
    return TrainConfig(**(values | changes))


def handbooster_small(**changes: Any) -> TrainConfig:
    """HandBooster's image synthesizer at 64 pixels, a quarter as wide, for a processor."""
    values = {
        "model": "handbooster",
        "network": {
            "input_size": 64,
            "width": 16,
            "multipliers": [1, 2, 4],
            "embedding": 64,
            "head_width": 16,
        },
        "loss": {"largest_snr": 5.0},
        "steps": 1500,
        "batch_size": 8,
        "lr": 1e-3,
        "warmup": 50,
        "ema": 0.995,
        "clip_norm": 1.0,
        "augment": False,
        "channels_last": False,
        "workers": 1,
    }
    return _small("handbooster-small", values | changes)


def keypoint_transformer_small(**changes: Any) -> TrainConfig:
    """Keypoint Transformer's structure on a small backbone, for a processor."""
    return _small("keypoint-transformer-small", changes)


def hoisdf_small(**changes: Any) -> TrainConfig:
    """HOISDF's structure on a small backbone, for a processor; the wrist comes from the box."""
    return _small("hoisdf-small", changes)
