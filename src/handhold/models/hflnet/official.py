"""The authors' checkpoints of HFL-Net: their keys, and what distinguishes the two origins.

The original repository saves {epoch, network, state_dict} with the prefix `honet.module.`; it uses
4 attention heads and a wrist-centred hand. UniHOPE's copy saves {state_dict, optimizer, scheduler,
step, epoch, score_status}, perhaps with the prefix `module.`; 8 heads, not centred. The keys are
the same, so the origin decides.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from handhold.errors import InputError
from handhold.hand.model import HandModel
from handhold.models.hflnet.model import HFLNet, HFLNetConfig
from handhold.models.weights import OfficialFile, fit, read_official, rename

Origin = Literal["auto", "original", "unihope"]
PREFIXES = ("honet.module.", "honet.", "module.")
# Not weights: the hand model's own data (never redistributed) and constant grids.
DROPPED = (
    r"mano_branch\.mano_layer\..*",
    r"hand_head\.(uu|vv)",
    r"(.*\.)?coord_change_mat",
)

_LEAF = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
# (pattern of the original key, our key)
RULES: tuple[tuple[str, str], ...] = (
    (rf"base_net\.layer0_h\.0\.{_LEAF}", r"backbone.stem.conv.\1"),
    (rf"base_net\.layer0_h\.1\.{_LEAF}", r"backbone.stem.norm.\1"),
    (r"base_net\.layer1_h\.0\.(\d+\..*)", r"backbone.stage1.\1"),
    (r"base_net\.layer([23])_h\.0\.(\d+\..*)", r"backbone.hand_stage\1.\2"),
    (r"base_net\.layer([23])_o\.0\.(\d+\..*)", r"backbone.object_stage\1.\2"),
    (r"base_net\.layer4_h\.0\.(\d+\..*)", r"backbone.stage4.\1"),
    (r"base_net\.toplayer_h\.(.*)", r"backbone.hand_pyramid.top.\1"),
    (r"base_net\.toplayer_o\.(.*)", r"backbone.object_pyramid.top.\1"),
    (r"base_net\.latlayer(\d)_h\.(.*)", r"backbone.hand_pyramid.lateral\1.\2"),
    (r"base_net\.latlayer(\d)_o\.(.*)", r"backbone.object_pyramid.lateral\1.\2"),
    (r"base_net\.smooth3_h\.(.*)", r"backbone.hand_pyramid.smooth.\1"),
    (r"base_net\.smooth3_o\.(.*)", r"backbone.object_pyramid.smooth.\1"),
    (r"hand_head\.betas", r"hand_head.sharpness"),
    (r"hand_head\.hg\.0\.hg\.(\d+)\.(\d+)\.0\.(.*)", r"hand_head.hourglass.levels.\1.\2.\3"),
    (r"hand_head\.res\.0\.0\.(.*)", r"hand_head.unit.\1"),
    (r"hand_head\.fc\.0\.block\.0\.(.*)", r"hand_head.conv.\1"),
    (r"hand_head\.fc\.0\.block\.1\.(.*)", r"hand_head.norm.\1"),
    (r"hand_head\.score\.0\.(.*)", r"hand_head.score.\1"),
    (r"hand_encoder\.(heatmap|encoding)_conv\.(.*)", r"hand_encoder.\1_conv.\2"),
    # the encoder's units name their norms bn, bn1, bn2
    (rf"hand_encoder\.reg\.(\d+)\.bn2\.{_LEAF}", r"hand_encoder.units.\1.norm3.\2"),
    (rf"hand_encoder\.reg\.(\d+)\.bn1\.{_LEAF}", r"hand_encoder.units.\1.norm2.\2"),
    (rf"hand_encoder\.reg\.(\d+)\.bn\.{_LEAF}", r"hand_encoder.units.\1.norm1.\2"),
    (r"hand_encoder\.reg\.(\d+)\.(conv\d\..*)", r"hand_encoder.units.\1.\2"),
    (r"mano_branch\.mano_base_layer\.0\.(.*)", r"mano_head.hidden1.\1"),
    (r"mano_branch\.mano_base_layer\.2\.(.*)", r"mano_head.hidden2.\1"),
    (r"mano_branch\.(pose|shape)_reg\.(.*)", r"mano_head.\1.\2"),
    *(
        rule
        for unit in (1, 2, 3)
        for rule in (
            (rf"obj_head\.conv{unit}_1\.(.*)", rf"object_head.narrow.{unit - 1}.\1"),
            (rf"obj_head\.bn{unit}_1\.(.*)", rf"object_head.narrow_norm.{unit - 1}.\1"),
            (rf"obj_head\.conv{unit}_2\.(.*)", rf"object_head.wide.{unit - 1}.\1"),
            (rf"obj_head\.bn{unit}_2\.(.*)", rf"object_head.wide_norm.{unit - 1}.\1"),
        )
    ),
    (r"obj_head\.out_conv\.(.*)", r"object_head.out.\1"),
    *(
        rule
        for theirs, ours in (("hand", "hand_attention"), ("obj", "object_attention"))
        for rule in (
            (rf"transformer_{theirs}\.layers\.0\.encode_(\w+)\.(.*)", rf"{ours}.\1.\2"),
            (rf"transformer_{theirs}\.layers\.0\.norm2\.(.*)", rf"{ours}.norm.\1"),
            (rf"transformer_{theirs}\.layers\.0\.mlp\.fc1\.(.*)", rf"{ours}.mlp_in.\1"),
            (rf"transformer_{theirs}\.layers\.0\.mlp\.fc2\.(.*)", rf"{ours}.mlp_out.\1"),
        )
    ),
)


def convert(
    entries: Mapping[str, Tensor], extra_rules: Sequence[tuple[str, str]] = ()
) -> dict[str, Tensor]:
    """Our keys for theirs; raises WeightsError that names keys no rule knows."""
    renamed = rename(entries, (*RULES, *extra_rules), PREFIXES, DROPPED)
    result: dict[str, Tensor] = {}
    for key, value in renamed.items():
        if ".stage" in key or "_stage" in key:
            key = re.sub(r"\.bn(\d)\.", r".norm\1.", key).replace(".downsample.", ".shortcut.")
        elif key.startswith(("hand_head.hourglass.", "hand_head.unit.")):
            key = re.sub(r"\.bn(\d)\.", r".norm\1.", key)
        result[key] = value
    return result


def config_for(file: OfficialFile, origin: Origin = "auto") -> HFLNetConfig:
    """The configuration that a file of the given origin needs; "auto" looks at what it holds."""
    if origin not in ("auto", "original", "unihope"):
        raise InputError(f"origin: expected auto, original or unihope, found {origin!r}")
    if origin == "auto":
        original = "network" in file.wrapper or any(k.startswith("honet.") for k in file.entries)
        if not original and not {"optimizer", "scheduler", "score_status"} & file.wrapper:
            raise InputError(
                f"{file.path.name}: cannot tell which repository it comes from (the keys are the "
                "same, the number of attention heads is not); give origin original or unihope"
            )
        origin = "original" if original else "unihope"
    if origin == "original":
        return HFLNetConfig.original()
    return HFLNetConfig()


def load_official(
    path: str | Path,
    *,
    origin: Origin = "auto",
    input_size: int | None = None,
    hand: HandModel | None = None,
) -> HFLNet:
    """The network of the authors' file, in eval mode.

    input_size: 128 for UniHOPE's DexYCB training, 256 otherwise (default). Raises
    MissingFileError, WeightsError (unknown keys, gaps, wrong shapes), InputError.
    """
    file = read_official(path)
    config = config_for(file, origin)
    if input_size is not None:
        config = dataclasses.replace(config, input_size=input_size)
    network = HFLNet(config, hand)
    fit(network, convert(file.entries), file.path.name)
    return network.eval()
