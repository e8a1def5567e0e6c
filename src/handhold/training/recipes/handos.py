"""HandOS's two stages: the 2D model, all of whose layers are joints', then the whole network, which
starts from it (its layers have the same names). Both have the same schedule."""

from __future__ import annotations

from typing import Any

from handhold.training.config import TrainConfig

LAYERS = {"handos-paper": 6, "handos-base": 6, "handos-small": 4}  # of either kind, together


def _recipe(model: str, stage: int, values: dict[str, Any], changes: dict[str, Any]) -> TrainConfig:
    base = {
        "model": model,
        "recipe": f"{model}-stage{stage}",
        "network": {"layers_2d": LAYERS[model], "layers_mesh": 0} if stage == 1 else {},
        # sums where there are no other terms, as ED-Pose has them; means beside those of meshes
        "loss": {"reduction2d": "sum" if stage == 1 else "mean"},
        # nothing but 3D labels in every batch keeps hands with 2D labels from losing their depth
        "mixing": "half_3d" if stage == 2 else "batch",
        "batch_size": 16,
        "schedule": "cosine",
        "final_lr": 0.0,
        "warmup": 500,
        "clip_norm": 0.1,
    }
    return TrainConfig(**(base | values | changes))


def _paper(model: str, stage: int, changes: dict[str, Any]) -> TrainConfig:
    values = {"epochs": 40.0, "lr": 1e-3, "cosine_start": 25.0, "workers": 8}
    return _recipe(model, stage, values, changes)


def paper_stage1(**changes: Any) -> TrainConfig:
    """HandOS's 2D model (paper): 40 epochs, cosine from the 25th, batch 16, rate 1e-3.

    The paper does not tell warm-up, clipping and the last rate: 500 steps, 0.1, 0. Should 1e-3 be
    too much for layers with norms at their ends, take 1e-4.
    """
    return _paper("handos-paper", 1, changes)


def paper_stage2(**changes: Any) -> TrainConfig:
    """HandOS from its 2D model (paper), the same schedule."""
    return _paper("handos-paper", 2, changes)


def base_stage1(**changes: Any) -> TrainConfig:
    """The 256 wide HandOS's 2D model, as the paper's."""
    return _paper("handos-base", 1, changes)


def base_stage2(**changes: Any) -> TrainConfig:
    """The 256 wide HandOS from its 2D model, as the paper's."""
    return _paper("handos-base", 2, changes)


def _small(stage: int, changes: dict[str, Any]) -> TrainConfig:
    values: dict[str, Any] = {"lr": 5e-4, "ema": 0.999, "workers": 1, "steps": 20_000}
    if stage == 2:
        # every vertex mixes 195 numbers: at the common rate the upsampling shakes; most vertices
        # begin as the same mixture of joints as their neighbours, and only the lifting parts them
        values |= {"steps": 40_000, "lr_factors": {"mesh.matrix": 0.05, "lift.matrix": 10.0}}
    return _recipe("handos-small", stage, values, changes)


def small_stage1(**changes: Any) -> TrainConfig:
    """The small HandOS's 2D model: photos with 2D or 3D joints."""
    return _small(1, changes)


def small_stage2(**changes: Any) -> TrainConfig:
    """The small HandOS from its 2D model; photos with 2D joints need scenes with meshes beside
    them."""
    return _small(2, changes)
