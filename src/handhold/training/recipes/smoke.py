"""Recipes that show in minutes, on one processor core, that a method can learn.

Each trains the small configuration on 16 synthetic scenes (the first of series 0) in crops of 64
pixels, all of them in every step, without augmentation. What it validates on are these same scenes:
a network that learns them by heart comes below 3 mm PA-MPJPE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from handhold.training.config import TrainConfig

SCENES = 16

# Their reprojection by weak perspective, there for photos with 2D labels, probably holds the
# joints some millimetres off exact 3D labels.
EXACT = {
    "reprojection": 0.0,
    "relative_joints": 100.0,
    "relative_vertices": 40.0,
    "rotations": 10.0,
    "shape": 0.1,
}


def _smoke(
    method: str, title: str, network: dict[str, Any], **own: Any
) -> Callable[..., TrainConfig]:
    def recipe(**changes: Any) -> TrainConfig:
        values = {
            "model": f"{method}-small",
            "recipe": f"{method}-smoke",
            "network": {"input_size": 64} | network,
            "data": (f"synthetic:0:{SCENES}",),
            "augment": False,
            "steps": 300,
            "batch_size": SCENES,
            "lr": 3e-3,
            "optimizer": "adamw",
            "weight_decay": 0.0,
            "schedule": "one_cycle",
            "final_lr": 0.001,
            "clip_norm": 100.0,
            "channels_last": True,
            "validate_steps": 50,
            "log_steps": 5,
        }
        return TrainConfig(**(values | own | changes))

    recipe.__doc__ = f"{title} learns {SCENES} synthetic scenes by heart, in minutes."
    return recipe


RECIPES: dict[str, Callable[..., TrainConfig]] = {
    "unihope-smoke": _smoke("unihope", "UniHOPE", {"roi_size": 8}, loss=EXACT, lr=1e-3, steps=90),
    "hflnet-smoke": _smoke("hflnet", "HFL-Net", {"roi_size": 8}, loss=EXACT, lr=1e-3, steps=120),
    "semihand-smoke": _smoke(
        "semihand", "Liu et al.'s network", {}, loss=EXACT, lr=1e-3, steps=200
    ),
    "handoccnet-smoke": _smoke("handoccnet", "HandOccNet", {}, steps=400, channels_last=False),
    "mobrecon-smoke": _smoke(
        "mobrecon", "MobRecon", {}, steps=350, clip_norm=1.0, plain_norms=True
    ),
    "h2onet-smoke": _smoke("h2onet", "H2ONet", {}, clip_norm=1.0),
    "simplehand-smoke": _smoke("simplehand", "SimpleHand", {}, clip_norm=1.0),
    "keypoint-transformer-smoke": _smoke(
        "keypoint-transformer", "Keypoint Transformer", {}, lr=1e-3
    ),
    "hoisdf-smoke": _smoke(
        "hoisdf",
        "HOISDF",
        {"grid": 16, "hand_points": 64, "object_points": 32},
        lr=1e-3,
        steps=600,
    ),
}
