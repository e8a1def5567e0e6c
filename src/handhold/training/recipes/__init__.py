"""Recipes by name: functions that return a TrainConfig; any field can be changed by its name."""

from __future__ import annotations

from collections.abc import Callable

from handhold.training.config import TrainConfig
from handhold.training.recipes import boosted, handos, papers, small, smoke

RECIPES: dict[str, Callable[..., TrainConfig]] = {
    "unihope-small": small.unihope_small,
    "hflnet-small": small.hflnet_small,
    "hand-detector": small.hand_detector,
    "hand-detr": small.hand_detr,
    "hflnet": papers.hflnet,
    "hflnet-ho3d": papers.hflnet_ho3d,
    "hflnet-unihope": papers.hflnet_unihope,
    "unihope-stage1": papers.unihope_stage1,
    "unihope-stage2": papers.unihope_stage2,
    "semihand": papers.semihand,
    "semihand-ho3d": papers.semihand_ho3d,
    "semihand-small": small.semihand_small,
    "handoccnet": papers.handoccnet,
    "handoccnet-ho3d": papers.handoccnet_ho3d,
    "handoccnet-unihope": papers.handoccnet_unihope,
    "handoccnet-small": small.handoccnet_small,
    "mobrecon": papers.mobrecon,
    "mobrecon-small": small.mobrecon_small,
    "h2onet-stage1": papers.h2onet_stage1,
    "h2onet-stage2": papers.h2onet_stage2,
    "h2onet-small": small.h2onet_small,
    "simplehand": papers.simplehand,
    "simplehand-small": small.simplehand_small,
    "keypoint-transformer": papers.keypoint_transformer,
    "keypoint-transformer-unihope": papers.keypoint_transformer_unihope,
    "keypoint-transformer-small": small.keypoint_transformer_small,
    "hoisdf": papers.hoisdf,
    "hoisdf-ho3d": papers.hoisdf_ho3d,
    "hoisdf-small": small.hoisdf_small,
    "handos-paper-stage1": handos.paper_stage1,
    "handos-paper-stage2": handos.paper_stage2,
    "handos-base-stage1": handos.base_stage1,
    "handos-base-stage2": handos.base_stage2,
    "handos-small-stage1": handos.small_stage1,
    "handos-small-stage2": handos.small_stage2,
    "grasp-classifier": papers.grasp_classifier,
    "handbooster-diffusion": papers.handbooster_diffusion,
    "handbooster-small": small.handbooster_small,
    **boosted.RECIPES,
    **smoke.RECIPES,
}
