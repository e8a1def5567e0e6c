"""Importing the authors' checkpoints of Keypoint Transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.official_file import Danger, made_up
from torch import Tensor

from handhold.errors import WeightsError
from handhold.hand.model import HandModel
from handhold.models.keypoint_transformer import official
from handhold.models.keypoint_transformer.model import (
    KeypointTransformer,
    KeypointTransformerConfig,
)


@pytest.mark.parametrize("name", ["kypt", "kypt_ho3d"])
def test_keys_map_one_to_one(name: str, hand: HandModel) -> None:
    entries = made_up(name, "meta")
    converted = official.convert(entries)
    config = official.config_for(converted)
    with torch.device("meta"):
        own = KeypointTransformer(config, hand).state_dict()
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in own.items()}
    dropped = [k for k in entries if k.startswith(("norm1.", "linear_hand_type."))]
    assert len(dropped) == 6
    assert len(converted) == len(entries) - len(dropped)
    h2o3d = {
        k.replace("linear_rel_trans", "linear_obj_left_rel_trans"): v
        for k, v in entries.items()
        if k.startswith("linear_rel_trans")
    }
    assert official.config_for(official.convert(entries | h2o3d)).object_from_left
    with pytest.raises(WeightsError, match="queries"):
        official.config_for(converted | {"queries.weight": torch.zeros(30, 256)})
    with pytest.raises(WeightsError, match="lacks"):
        official.config_for({})


def test_files(tmp_path: Path, hand: HandModel) -> None:
    """The original's wrapper and prefix, the older keys without `resnet_decoder.`, and what must
    be refused."""
    entries = made_up("kypt")
    path = tmp_path / "snapshot.pth.tar"

    def write(network: dict[str, Tensor], **more: Any) -> None:
        wrapped = {f"module.{key}": value for key, value in network.items()}
        told = {"epoch": 149, "optimizer": {"lr": np.float64(1e-4)}, "lr_scheduler": {"step": 3}}
        torch.save({**told, "network": wrapped, **more}, path)

    old = {k.replace("resnet_decoder.", ""): v for k, v in entries.items()}
    write(old)
    network = official.load_official(path, origin="unihope", hand=hand)
    assert network.config == KeypointTransformerConfig.unihope()
    assert not network.training
    state = network.state_dict()
    pairs = {
        "backbone.stage3.4.norm2.running_var": "backbone_net.resnet.layer3.4.bn2.running_var",
        "backbone.stage2.0.shortcut.1.weight": "backbone_net.resnet.layer2.0.downsample.1.weight",
        "decoder.up.16.0.weight": "decoder_net.resnet_decoder.deconv1.0.weight",
        "decoder.lateral.2.0.bias": "decoder_net.resnet_decoder.conv4d.0.bias",
        "decoder.heads.object_map.3.bias": "decoder_net.resnet_decoder.convOut_seg.3.bias",
        "reader.layers.3.cross_attention.in_proj_weight":
            "transformer.decoder.layers.3.multihead_attn.in_proj_weight",
        "tokens.object_appearance.layers.1.weight": "linear1_obj.layers.1.weight",
        "between_head.layers.2.weight": "linear_rel_trans.layers.2.weight",
    }  # fmt: skip
    for ours, theirs in pairs.items():
        assert torch.equal(state[ours], entries[theirs]), ours
    del network, state

    write(entries | {"linear_extra.layers.0.bias": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"linear_extra\.layers\.0\.bias"):
        official.load_official(path, hand=hand)
    write({k: v for k, v in entries.items() if k != "linear_cam.layers.1.bias"})
    with pytest.raises(WeightsError, match=r"missing camera_head\.layers\.1\.bias"):
        official.load_official(path, hand=hand)
    write({"a": torch.zeros(1)}, optimizer=Danger())
    with pytest.raises(WeightsError, match="objects other than tensors"):
        official.load_official(path, hand=hand)
    assert not Danger.ran
