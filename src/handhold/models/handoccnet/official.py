"""The authors' checkpoints of HandOccNet: their keys, and what distinguishes the origins.

The original repository saves {epoch, network, optimizer} with the prefix `module.` and predicts
fingers relative to the mean pose (so does HandBooster's copy of it). UniHOPE's copy saves
{state_dict, optimizer, scheduler, ...} and predicts the pose itself. The keys are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from handhold.errors import InputError
from handhold.hand.model import HandModel
from handhold.models.handoccnet.model import HandOccNet, HandOccNetConfig
from handhold.models.weights import OfficialFile, fit, read_official, rename

Origin = Literal["auto", "original", "unihope"]
PREFIXES = ("module.",)
# Not weights: the hand model's own data (never redistributed), constant grids, what only the
# authors' demonstration needs; and a layer whose result nothing reads (config `literal`).
DROPPED = (
    r"regressor\.mano_regHead\.mano_layer\..*",
    r"regressor\.hand_regHead\.(uu|vv)",
    r"fitting_loss\..*",
)
UNUSED = r"backbone\.smooth2\.(weight|bias)"

_LEAF = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_HEAD, _ENCODER = r"regressor\.hand_regHead\.", r"regressor\.hand_Encoder\."
_MANO = r"regressor\.mano_regHead\."
_LAYER = (
    (r"q_embedding", "query_embedding"),
    (r"k_embedding", "key_embedding"),
    (r"encode_(query|key|value)\.(.*)", r"\2.\3"),
    (r"encode_(query|key)2\.(.*)", r"gate_\2.\3"),
    (r"norm2\.(.*)", r"norm.\2"),
    (r"mlp\.fc1\.(.*)", r"mlp_in.\2"),
    (r"mlp\.fc2\.(.*)", r"mlp_out.\2"),
)
# (pattern of the original key, our key)
RULES: tuple[tuple[str, str], ...] = (
    (rf"backbone\.layer0\.0\.{_LEAF}", r"backbone.stem.conv.\1"),
    (rf"backbone\.layer0\.1\.{_LEAF}", r"backbone.stem.norm.\1"),
    *(
        rule
        for number in (1, 2, 3, 4)
        for rule in (
            (
                rf"backbone\.layer{number}\.0\.(\d+)\.bn(\d)\.{_LEAF}",
                rf"backbone.stages.{number - 1}.\1.norm\2.\3",
            ),
            (
                rf"backbone\.layer{number}\.0\.(\d+)\.downsample\.(\d\..*)",
                rf"backbone.stages.{number - 1}.\1.shortcut.\2",
            ),
            (
                rf"backbone\.layer{number}\.0\.(\d+\.conv\d\..*)",
                rf"backbone.stages.{number - 1}.\1",
            ),
        )
    ),
    (r"backbone\.toplayer\.(.*)", r"backbone.pyramid.top.\1"),
    (r"backbone\.latlayer(\d)\.(.*)", r"backbone.pyramid.lateral\1.\2"),
    (r"backbone\.smooth3\.(.*)", r"backbone.pyramid.smooth.\1"),
    (r"backbone\.smooth2\.(.*)", r"backbone.unused.\1"),
    (r"backbone\.attention_module\.spatial\.conv\.weight", "backbone.gate.conv.weight"),
    (rf"backbone\.attention_module\.spatial\.bn\.{_LEAF}", r"backbone.gate.norm.\1"),
    *(
        (rf"{theirs}\.layers\.(\d+)\.{old}", rf"{ours}.\1.{new}")
        for theirs, ours in (("FIT", "inject"), ("SET", "enhance"))
        for old, new in _LAYER
    ),
    (r"FIT\.conv1\.0\.(.*)", r"inject_tail.conv1.\1"),
    (r"FIT\.conv1\.2\.(.*)", r"inject_tail.conv2.\1"),
    (r"FIT\.conv2\.0\.(.*)", r"inject_tail.shortcut.\1"),
    (_HEAD + r"betas", "hand_head.sharpness"),
    (
        _HEAD + rf"hg\.0\.hg\.(\d+)\.(\d+)\.0\.bn(\d)\.{_LEAF}",
        r"hand_head.hourglass.levels.\1.\2.norm\3.\4",
    ),
    (
        _HEAD + r"hg\.0\.hg\.(\d+)\.(\d+)\.0\.(conv\d\..*)",
        r"hand_head.hourglass.levels.\1.\2.\3",
    ),
    (_HEAD + rf"res\.0\.0\.bn(\d)\.{_LEAF}", r"hand_head.unit.norm\1.\2"),
    (_HEAD + r"res\.0\.0\.(conv\d\..*)", r"hand_head.unit.\1"),
    (_HEAD + r"fc\.0\.block\.0\.(.*)", r"hand_head.conv.\1"),
    (_HEAD + r"fc\.0\.block\.1\.(.*)", r"hand_head.norm.\1"),
    (_HEAD + r"score\.0\.(.*)", r"hand_head.score.\1"),
    (_ENCODER + r"(heatmap|encoding)_conv\.(.*)", r"hand_encoder.\1_conv.\2"),
    # the encoder's units name their norms bn, bn1, bn2
    (_ENCODER + rf"reg\.(\d+)\.bn\.{_LEAF}", r"hand_encoder.units.\1.norm1.\2"),
    (_ENCODER + rf"reg\.(\d+)\.bn1\.{_LEAF}", r"hand_encoder.units.\1.norm2.\2"),
    (_ENCODER + rf"reg\.(\d+)\.bn2\.{_LEAF}", r"hand_encoder.units.\1.norm3.\2"),
    (_ENCODER + r"reg\.(\d+)\.(conv\d\..*)", r"hand_encoder.units.\1.\2"),
    (_MANO + r"mano_base_layer\.0\.(.*)", r"mano_head.hidden1.\1"),
    (_MANO + r"mano_base_layer\.2\.(.*)", r"mano_head.hidden2.\1"),
    (_MANO + r"(pose|shape)_reg\.(.*)", r"mano_head.\1.\2"),
)


def convert(entries: Mapping[str, Tensor], *, keep_unused: bool = False) -> dict[str, Tensor]:
    """Our keys for theirs; raises WeightsError that names keys no rule knows.

    keep_unused: for a `literal` network, which has the layer that nothing reads.
    """
    return rename(entries, RULES, PREFIXES, DROPPED if keep_unused else (*DROPPED, UNUSED))


def config_for(file: OfficialFile, origin: Origin = "auto") -> HandOccNetConfig:
    """The configuration that a file of the given origin needs; "auto" looks at what it holds.

    Raises InputError for unknown origins and files that do not tell theirs.
    """
    if origin not in ("auto", "original", "unihope"):
        raise InputError(f"origin: expected auto, original or unihope, found {origin!r}")
    if origin == "auto":
        copied = {"scheduler", "score_status"} & file.wrapper
        demo = any(re.match(r"(module\.)?fitting_loss\.", key) for key in file.entries)
        if not copied and not demo and not {"epoch", "optimizer"} & file.wrapper:
            raise InputError(
                f"{file.path.name}: cannot tell which repository it comes from (the keys are the "
                "same, what the pose is relative to is not); give origin original or unihope"
            )
        origin = "unihope" if copied else "original"
    return HandOccNetConfig() if origin == "original" else HandOccNetConfig.unihope()


def load_official(
    path: str | Path, *, origin: Origin = "auto", hand: HandModel | None = None
) -> HandOccNet:
    """The network of the authors' file, in eval mode.

    Raises MissingFileError, WeightsError (unknown keys, gaps, wrong shapes), InputError.
    """
    file = read_official(path)
    network = HandOccNet(config_for(file, origin), hand)
    fit(network, convert(file.entries), file.path.name)
    return network.eval()
