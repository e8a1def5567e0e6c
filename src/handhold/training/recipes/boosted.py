"""HandBooster's three baselines, trained on real photos and made ones together.

Paper and released code give neither a ratio nor a weight of made photos: without weights `--data`
puts the sets together and shuffles them, `=WEIGHT` chooses another ratio. An epoch has all photos,
made ones too. Schedules are the released configurations'; all begin with backbones that were
trained on ImageNet, which do not come with the recipes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from handhold.training.config import TrainConfig
from handhold.training.recipes import papers


def mobrecon(**changes: Any) -> TrainConfig:
    """MobRecon with HandBooster on DexYCB S0 and S1: 76 epochs, x0.1 at 60."""
    values = {
        "recipe": "mobrecon-handbooster",
        "preparation": "hand_alone",
        "network": {"mesh_conv": "spiral"},
        "epochs": 76.0,
        "decay_at": (60.0,),
        "clip_norm": 0.1,
    }
    return dataclasses.replace(papers.mobrecon(), **(values | changes))


def mobrecon_ho3d(**changes: Any) -> TrainConfig:
    """MobRecon with HandBooster on HO3D: 38 epochs, x0.1 at 30."""
    values = {"recipe": "mobrecon-handbooster-ho3d", "epochs": 38.0, "decay_at": (30.0,)}
    return dataclasses.replace(mobrecon(), **(values | changes))


def h2onet(**changes: Any) -> TrainConfig:
    """H2ONet with HandBooster on DexYCB S0: all losses at 1e-4, 38 epochs, x0.1 at 30.

    Its first stage (`h2onet-stage1`, to start from) is not told.
    """
    values = {"recipe": "h2onet-handbooster"}
    return dataclasses.replace(papers.h2onet_stage2(), **(values | changes))


def h2onet_s1(**changes: Any) -> TrainConfig:
    """H2ONet with HandBooster on DexYCB S1: 76 epochs, x0.1 at 60."""
    values = {"recipe": "h2onet-handbooster-s1", "epochs": 76.0, "decay_at": (60.0,)}
    return dataclasses.replace(h2onet(), **(values | changes))


def h2onet_ho3d(**changes: Any) -> TrainConfig:
    """H2ONet with HandBooster on HO3D: as on DexYCB S0."""
    return dataclasses.replace(h2onet(), **({"recipe": "h2onet-handbooster-ho3d"} | changes))


def handoccnet(**changes: Any) -> TrainConfig:
    """HandOccNet with HandBooster on DexYCB S0 and S1: batch 32, 50 epochs, x0.9 every 2."""
    values = {
        "recipe": "handoccnet-handbooster",
        "network": {"init": "pytorch"},  # the code defines almost-zero heads and uses them nowhere
        "epochs": 50.0,
        "batch_size": 32,
        "lr_batch": 32,
        "decay_epochs": 2.0,
        "clip_norm": 0.1,
    }
    return dataclasses.replace(papers.handoccnet(), **(values | changes))


def handoccnet_ho3d(**changes: Any) -> TrainConfig:
    """HandOccNet with HandBooster on HO3D: batch 64, 70 epochs, x0.7 every 10."""
    values = {
        "recipe": "handoccnet-handbooster-ho3d",
        "epochs": 70.0,
        "batch_size": 64,
        "lr_batch": 64,
        "decay_epochs": 10.0,
        "decay_factor": 0.7,
    }
    return dataclasses.replace(handoccnet(), **(values | changes))


RECIPES = {
    "mobrecon-handbooster": mobrecon,
    "mobrecon-handbooster-ho3d": mobrecon_ho3d,
    "h2onet-handbooster": h2onet,
    "h2onet-handbooster-s1": h2onet_s1,
    "h2onet-handbooster-ho3d": h2onet_ho3d,
    "handoccnet-handbooster": handoccnet,
    "handoccnet-handbooster-ho3d": handoccnet_ho3d,
}
