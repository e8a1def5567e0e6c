"""The authors' checkpoints of Keypoint Transformer: their keys, and what their shapes tell.

Files are {epoch, network, optimizer, lr_scheduler} with the prefix `module.`; older ones lack
`resnet_decoder.` in the decoder's keys. Of the released files the layouts with an object (HO-3D,
H2O-3D) are read; InterHand2.6M's, which has no object, is refused by its keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from handhold.errors import InputError, WeightsError
from handhold.hand.model import HandModel
from handhold.models.keypoint_transformer.model import (
    KeypointTransformer,
    KeypointTransformerConfig,
)
from handhold.models.weights import fit, read_official, rename

PREFIXES = ("module.",)
# Modules that the original makes and never calls.
DROPPED = (r"norm1\.(weight|bias)", r"linear_hand_type\.layers\.\d\.(weight|bias)")

_DECODER = r"decoder_net\.(?:resnet_decoder\.)?"
_STRIDE = {1: 16, 2: 8, 3: 4, 4: 2}  # of the original's numbers
_HEADS = {
    "linear1": "tokens.appearance",
    "linear1_obj": "tokens.object_appearance",
    "linear_class": "token_class",
    "linear_pose": "hand_head",
    "linear_joint_vecs": "hand_head",
    "linear_shape": "shape_head",
    "linear_cam": "camera_head",
    "linear_rel_trans": "between_head",
    "linear_obj_rot": "rotation_head",
    "linear_obj_rel_trans": "translation_head",
    "linear_obj_left_rel_trans": "left_translation_head",
    "linear_obj_corner_proj": "corner_head",
    "linear_bottleneck_hand_type": "hand_type",
}
_RESNET = r"backbone_net\.resnet\."
# (pattern of the original key, our key)
RULES: tuple[tuple[str, str], ...] = (
    (rf"{_RESNET}conv1\.(.*)", r"backbone.conv.\1"),
    (rf"{_RESNET}bn1\.(.*)", r"backbone.norm.\1"),
    (rf"{_RESNET}layer(\d)\.(\d+)\.bn(\d)\.(.*)", r"backbone.stage\1.\2.norm\3.\4"),
    (rf"{_RESNET}layer(\d)\.(\d+)\.downsample\.(.*)", r"backbone.stage\1.\2.shortcut.\3"),
    (rf"{_RESNET}layer(\d)\.(\d+)\.(conv\d\..*)", r"backbone.stage\1.\2.\3"),
    (rf"{_DECODER}conv0d\.(.*)", r"decoder.lateral.32.\1"),
    *(
        rule
        for number, stride in _STRIDE.items()
        for rule in (
            (rf"{_DECODER}conv{number}d\.(.*)", rf"decoder.lateral.{stride}.\1"),
            (rf"{_DECODER}deconv{number}\.(.*)", rf"decoder.up.{stride}.\1"),
            (rf"{_DECODER}conv{number}\.(.*)", rf"decoder.join.{stride}.\1"),
        )
    ),
    (rf"{_DECODER}convOut_hm\.(.*)", r"decoder.heads.heatmap.\1"),
    (rf"{_DECODER}convOut_seg\.(.*)", r"decoder.heads.object_map.\1"),
    *(
        rule
        for theirs, ours in (("encoder", "encoder"), ("decoder", "reader"))
        for rule in (
            (rf"transformer\.{theirs}\.layers\.(\d+)\.self_attn\.(.*)",
             rf"{ours}.layers.\1.self_attention.\2"),
            (rf"transformer\.{theirs}\.layers\.(\d+)\.linear1\.(.*)",
             rf"{ours}.layers.\1.widen.\2"),
            (rf"transformer\.{theirs}\.layers\.(\d+)\.linear2\.(.*)",
             rf"{ours}.layers.\1.narrow.\2"),
            (rf"transformer\.{theirs}\.layers\.(\d+)\.(norm\d\..*)", rf"{ours}.layers.\1.\2"),
        )
    ),
    (r"transformer\.decoder\.layers\.(\d+)\.multihead_attn\.(.*)",
     r"reader.layers.\1.cross_attention.\2"),
    (r"transformer\.encoder\.inter_norm\.(.*)", r"encoder.norm.\1"),
    (r"transformer\.decoder\.norm\.(.*)", r"reader.norm.\1"),
    (r"query_embed\.weight", r"queries.weight"),
    *((rf"{theirs}\.(layers\..*)", rf"{ours}.\1") for theirs, ours in _HEADS.items()),
)  # fmt: skip


def convert(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our keys for theirs; raises WeightsError that names keys no rule knows."""
    return rename(entries, RULES, PREFIXES, DROPPED)


def config_for(entries: Mapping[str, Tensor]) -> KeypointTransformerConfig:
    """The configuration that converted entries need, from their names and shapes.

    The number of attention heads (8) and the hand's convention (`flat`) leave no trace in a file.
    Raises WeightsError where the numbers of queries and classes fit no layout.
    """
    try:
        rows = len(entries["queries.weight"])
        classes = len(entries["token_class.layers.3.weight"])
        dim = entries["queries.weight"].shape[1]
        look = entries["tokens.appearance.layers.3.weight"].shape[0]
        wide = entries["encoder.layers.0.widen.weight"].shape[0]
    except KeyError as error:
        raise WeightsError(f"no Keypoint Transformer: the checkpoint lacks {error}") from error
    found: dict[str, Any] = {
        "decoder": "small" if any(k.startswith("decoder.lateral.") for k in entries) else "big",
        "object_from_left": any(k.startswith("left_translation_head.") for k in entries),
        "encoder_layers": _layers(entries, "encoder"),
        "decoder_layers": _layers(entries, "reader"),
        "dim": dim,
        "code_width": dim - look,
        "feedforward": wide,
    }
    for output in ("angles", "vectors"):
        for two_hands in (True, False):
            config = KeypointTransformerConfig(output=output, two_hands=two_hands, **found)
            if (config.rows["all"], config.classes) == (rows, classes):
                return config
    raise WeightsError(f"no known layout has {rows} queries and {classes} token classes")


def _layers(entries: Mapping[str, Tensor], name: str) -> int:
    """How many layers are numbered under `name`."""
    return len({key.split(".")[2] for key in entries if key.startswith(f"{name}.layers.")})


def load_official(
    path: str | Path,
    *,
    origin: Literal["auto", "original", "unihope"] = "auto",
    hand: HandModel | None = None,
) -> KeypointTransformer:
    """The network of the authors' file, in eval mode.

    origin: whose code trained it; UniHOPE's is flat. No file tells: auto is original. Raises
    InputError for other names, MissingFileError, WeightsError (unknown keys, gaps, wrong shapes).
    """
    if origin not in ("auto", "original", "unihope"):
        raise InputError(f"origin: expected auto, original or unihope, found {origin!r}")
    file = read_official(path)
    entries = convert(file.entries)
    config = dataclasses.replace(config_for(entries), flat=origin == "unihope")
    network = KeypointTransformer(config, hand)
    fit(network, entries, file.path.name)
    return network.eval()
