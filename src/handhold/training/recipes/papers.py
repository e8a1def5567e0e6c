"""Recipes named after papers hold their settings.

Where paper and released code differ, the docstring says which is which. Batches are for all
devices together.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from handhold.training.config import TrainConfig


def hflnet(**changes: Any) -> TrainConfig:
    """HFL-Net on DexYCB as its repository trains it: 256 pixels, 40 epochs, x0.7 every 5.

    The code steps no more after epoch 35; so do 40 epochs with a step every 5. The paper's text
    says 70 epochs with a step every 10 (its HO3D schedule, `hflnet_ho3d`).
    """
    values = {
        "model": "hflnet",
        "recipe": "hflnet",
        "preparation": "dexycb",
        "network": {"input_size": 256, "heads": 4, "mano_center": 0},
        "epochs": 40.0,
        "batch_size": 64,
        "lr": 1e-4,
        "lr_batch": 64,
        "weight_decay": 5e-4,
        "schedule": "step",
        "decay_epochs": 5.0,
        "decay_factor": 0.7,
        "workers": 8,
    }
    return TrainConfig(**(values | changes))


def hflnet_ho3d(**changes: Any) -> TrainConfig:
    """HFL-Net on HO3D as its repository trains it: 256 pixels, 70 epochs, x0.7 every 10."""
    values = {"preparation": "ho3d", "epochs": 70.0, "decay_epochs": 10.0, "recipe": "hflnet-ho3d"}
    return dataclasses.replace(hflnet(), **(values | changes))


def hflnet_unihope(**changes: Any) -> TrainConfig:
    """HFL-Net as UniHOPE's authors retrained it on DexYCB: 128 pixels, 8 heads, no decay."""
    values = {
        "recipe": "hflnet-unihope",
        "network": {"input_size": 128, "heads": 8},
        "weight_decay": 0.0,
    }
    return dataclasses.replace(hflnet(), **(values | changes))


def unihope_stage1(**changes: Any) -> TrainConfig:
    """UniHOPE's first stage (paper): pairs without feature enhancement, 30 epochs, batch 64.

    Released code: the learning rate falls by 0.7 every 10 epochs, batch 40 a process, no weight
    decay. The first stage's own configuration is not released.
    """
    values = {
        "model": "unihope",
        "recipe": "unihope-stage1",
        "preparation": "dexycb",
        "pairs": True,
        "loss": {"enhancement": False},
        "epochs": 30.0,
        "batch_size": 64,
        "lr": 1e-4,
        "lr_batch": 64,
        "schedule": "step",
        "decay_epochs": 10.0,
        "decay_factor": 0.7,
        "workers": 8,
    }
    return TrainConfig(**(values | changes))


def unihope_stage2(**changes: Any) -> TrainConfig:
    """UniHOPE's second stage (paper): with feature enhancement, 40 epochs from the first's weights.

    The rate begins where six steps of 0.7 lead (released DexYCB configuration: 1.18e-5, 60 epochs
    on S3, 50 on S0). HO3D: `lr=1e-4 * 0.7**5, epochs=50, weight_decay=5e-4, preparation="ho3d"`.
    """
    values = {
        "recipe": "unihope-stage2",
        "loss": {"enhancement": True},
        "epochs": 40.0,
        "lr": 1e-4 * 0.7**6,
    }
    return dataclasses.replace(unihope_stage1(), **(values | changes))


def semihand(**changes: Any) -> TrainConfig:
    """Liu et al.'s network as UniHOPE's authors retrained it on DexYCB: 512 pixels, 50 epochs."""
    values = {
        "model": "semihand",
        "recipe": "semihand",
        "preparation": "dexycb",
        "epochs": 50.0,
        "batch_size": 24,
        "lr": 1e-4,
        "lr_batch": 24,
        "schedule": "step",
        "decay_epochs": 10.0,
        "decay_factor": 0.7,
        "workers": 8,
    }
    return TrainConfig(**(values | changes))


def semihand_ho3d(**changes: Any) -> TrainConfig:
    """Liu et al.'s network on HO3D as its repository trains it: 60 epochs, x0.7 every 10."""
    values = {
        "recipe": "semihand-ho3d",
        "preparation": "ho3d",
        "network": {"mano_center": 0, "tips": "ho3d"},
        "epochs": 60.0,
        "weight_decay": 5e-4,
    }
    return dataclasses.replace(semihand(), **(values | changes))


def handoccnet(**changes: Any) -> TrainConfig:
    """HandOccNet on DexYCB as its repository trains it: 25 epochs, x0.9 every epoch."""
    values = {
        "model": "handoccnet",
        "recipe": "handoccnet",
        "preparation": "hand_alone",
        "epochs": 25.0,
        "batch_size": 64,
        "lr": 1e-4,
        "lr_batch": 64,
        "schedule": "step",
        "decay_epochs": 1.0,
        "decay_factor": 0.9,
        "workers": 8,
    }
    return TrainConfig(**(values | changes))


def handoccnet_ho3d(**changes: Any) -> TrainConfig:
    """HandOccNet on HO3D as its repository trains it: 70 epochs, x0.7 every 10."""
    values = {"recipe": "handoccnet-ho3d", "epochs": 70.0, "decay_epochs": 10.0}
    return dataclasses.replace(handoccnet(), **({"decay_factor": 0.7} | values | changes))


def handoccnet_unihope(**changes: Any) -> TrainConfig:
    """HandOccNet as UniHOPE's authors retrained it on DexYCB: the hand's pose itself, their crops.

    HO3D: `epochs=70, decay_epochs=10, decay_factor=0.7, preparation="ho3d"`.
    """
    values = {
        "recipe": "handoccnet-unihope",
        "preparation": "dexycb",
        "network": {"mean_pose": False, "init": "pytorch"},
    }
    return dataclasses.replace(handoccnet(), **(values | changes))


def mobrecon(**changes: Any) -> TrainConfig:
    """MobRecon as UniHOPE's authors retrained it: 128 pixels, 38 epochs, x0.1 at 30.

    They start from the authors' pretrained backbone (`mobrecon.official.load_backbone`).
    """
    values = {
        "model": "mobrecon",
        "recipe": "mobrecon",
        "preparation": "dexycb",
        "epochs": 38.0,
        "batch_size": 32,
        "lr": 1e-3,
        "lr_batch": 32,
        "schedule": "step",
        "decay_at": (30.0,),
        "decay_factor": 0.1,
        "workers": 8,
    }
    return TrainConfig(**(values | changes))


def h2onet_stage1(**changes: Any) -> TrainConfig:
    """H2ONet's first stage: without the orientation losses, 38 epochs at 1e-3, x0.1 at 30.

    The settings of the second stage's configurations with the rate of the first; the first's own
    are not released. UniHOPE's copy: `preparation="dexycb"`.
    """
    values = {
        "model": "h2onet",
        "recipe": "h2onet-stage1",
        "preparation": "hand_alone",
        "loss": {"turned_vertices": 0.0, "turned_joints": 0.0, "rotation": 0.0},
        "epochs": 38.0,
        "batch_size": 32,
        "lr": 1e-3,
        "lr_batch": 32,
        "schedule": "step",
        "decay_at": (30.0,),
        "decay_factor": 0.1,
        "workers": 8,
    }
    return TrainConfig(**(values | changes))


def h2onet_stage2(**changes: Any) -> TrainConfig:
    """H2ONet's second stage: all losses at 1e-4, from the first's weights."""
    values: dict[str, Any] = {"recipe": "h2onet-stage2", "loss": {}, "lr": 1e-4}
    return dataclasses.replace(h2onet_stage1(), **(values | changes))


def simplehand(**changes: Any) -> TrainConfig:
    """SimpleHand as UniHOPE's authors retrained it: 224 pixels, 100 epochs, x0.1 at 50.

    Their warm-up is 5 epochs of 2940 steps; they decay all parameters, here matrices and kernels.
    """
    values = {
        "model": "simplehand",
        "recipe": "simplehand",
        "preparation": "dexycb",
        "epochs": 100.0,
        "batch_size": 128,
        "lr": 5e-4,
        "lr_batch": 128,
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "schedule": "step",
        "warmup": 14_700,
        "decay_at": (50.0,),
        "decay_factor": 0.1,
        "workers": 8,
    }
    return TrainConfig(**(values | changes))


def keypoint_transformer(**changes: Any) -> TrainConfig:
    """Keypoint Transformer as its code trains it on HO-3D: 256 pixels, vectors from the parents,
    150 epochs at a constant rate; the paper tells of drops.

    Batch 90 a device. Backbone and U-Net learn ten times as slowly as the rest, the norms are
    frozen, both as in the code.
    """
    values = {
        "model": "keypoint-transformer",
        "recipe": "keypoint-transformer",
        "preparation": "ho3d",
        "network": {"decoder": "big", "output": "vectors"},
        "epochs": 150.0,
        "batch_size": 90,
        "lr": 1e-4,
        "lr_batch": 90,
        "lr_factors": {"backbone": 0.1, "decoder": 0.1},  # the decoder is the U-Net's
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "workers": 8,
    }
    return TrainConfig(**(values | changes))


def keypoint_transformer_unihope(**changes: Any) -> TrainConfig:
    """The baseline of UniHOPE's tables: small decoder, angles of the flat hand."""
    values = {"recipe": "keypoint-transformer-unihope", "network": {"flat": True}}
    return dataclasses.replace(keypoint_transformer(), **(values | changes))


def hoisdf(**changes: Any) -> TrainConfig:
    """HOISDF on DexYCB as its code trains it: 70 epochs, x0.7 every 9, batch 22 a device.

    The paper says Adam, batch 32, x0.7 every 5 of about 40 epochs. The batch is that of two devices
    (README of the code). The code's rate stops at 1e-5, here it is 8.2e-6 in the last 7 epochs.
    """
    values = {
        "model": "hoisdf",
        "recipe": "hoisdf",
        "preparation": "dexycb",
        "epochs": 70.0,
        "batch_size": 44,
        "lr": 1e-4,
        "lr_batch": 44,
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "schedule": "step",
        "decay_epochs": 9.0,
        "decay_factor": 0.7,
        "workers": 8,
    }
    return TrainConfig(**(values | changes))


def hoisdf_ho3d(**changes: Any) -> TrainConfig:
    """HOISDF on HO3D: the big decoder, any rotation."""
    values = {"recipe": "hoisdf-ho3d", "preparation": "ho3d", "network": {"decoder": "big"}}
    return dataclasses.replace(hoisdf(), **(values | changes))


def handbooster_diffusion(**changes: Any) -> TrainConfig:
    """HandBooster's image synthesizer, as released: 256 twice a step, 700,000 steps.

    The paper trains 200,000 on HO3D. Its loss and conditions of the background: see the card.
    """
    values = {
        "model": "handbooster",
        "recipe": "handbooster-diffusion",
        "steps": 700_000,
        "batch_size": 512,
        "lr": 8e-5,
        "betas": (0.9, 0.99),
        # the average moves by 0.995 every 10 updates
        "ema": 0.995**0.1,
        "clip_norm": 1.0,
        "augment": False,
    }
    return TrainConfig(**(values | changes))


def grasp_classifier(**changes: Any) -> TrainConfig:
    """The classifier of UniHOPE's pairs "A + B": 128 pixels, 38 epochs, x0.1 at 25 and 30."""
    values = {
        "model": "grasp-classifier",
        "recipe": "grasp-classifier",
        "preparation": "dexycb",
        "epochs": 38.0,
        "batch_size": 64,
        "lr": 5e-5,
        "lr_batch": 64,
        "schedule": "step",
        "decay_at": (25.0, 30.0),
        "decay_factor": 0.1,
        "workers": 8,
    }
    return TrainConfig(**(values | changes))
