"""The authors' checkpoints of Liu et al.'s network: their keys and their two origins.

The original repository saves its network under the prefix `honet.module.` with a buffer
`mano_branch.coord_change_mat`; its hand is wrist-centred and has HO3D's fingertips. UniHOPE's copy
repeats the hand model's buffers as `mano_layer.*` and may have the prefix `module.`; its hand is
where MANO leaves it, with manopth's fingertips.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from handhold.errors import InputError
from handhold.hand.model import HandModel
from handhold.models.hflnet import official as hflnet
from handhold.models.semihand.model import SemiHand, SemiHandConfig
from handhold.models.weights import OfficialFile, fit, read_official

Origin = Literal["auto", "original", "unihope"]

# beside HFL-Net's, with which the heads agree: (pattern of the original key, our key)
RULES: tuple[tuple[str, str], ...] = (
    (r"base_net\.layer0\.0\.(.*)", r"backbone.stem.conv.\1"),
    (r"base_net\.layer0\.1\.(.*)", r"backbone.stem.norm.\1"),
    (r"base_net\.layer([1-4])\.0\.(\d+\..*)", r"backbone.stage\1.\2"),
    (r"base_net\.toplayer\.(.*)", r"backbone.pyramid.top.\1"),
    (r"base_net\.latlayer(\d)\.(.*)", r"backbone.pyramid.lateral\1.\2"),
    (r"base_net\.smooth1\.(.*)", r"backbone.pyramid.smooth_p4.\1"),
    (r"base_net\.smooth2\.(.*)", r"backbone.pyramid.smooth_p3.\1"),
    (r"base_net\.smooth3\.(.*)", r"backbone.pyramid.smooth.\1"),
    (r"transformer\.layers\.0\.encode_(\w+)\.(.*)", r"object_attention.\1.\2"),
    (r"transformer\.layers\.0\.norm2\.(.*)", r"object_attention.norm.\1"),
    (r"transformer\.layers\.0\.mlp\.fc1\.(.*)", r"object_attention.mlp_in.\1"),
    (r"transformer\.layers\.0\.mlp\.fc2\.(.*)", r"object_attention.mlp_out.\1"),
)
_COPY = re.compile(r"(module\.)?mano_layer\..*")  # the hand model's own data: never imported


def convert(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our keys for theirs; raises WeightsError that names keys no rule knows."""
    kept = {key: value for key, value in entries.items() if not _COPY.fullmatch(key)}
    return hflnet.convert(kept, RULES)


def config_for(file: OfficialFile, origin: Origin = "auto") -> SemiHandConfig:
    """The configuration that a file of the given origin needs; "auto" looks at what it holds.

    Raises InputError for unknown origins and where a file does not tell.
    """
    if origin not in ("auto", "original", "unihope"):
        raise InputError(f"origin: expected auto, original or unihope, found {origin!r}")
    if origin == "auto":
        keys = file.entries
        original = any(k.startswith("honet.") or k.endswith("coord_change_mat") for k in keys)
        copied = any(_COPY.fullmatch(key) for key in keys)
        copied |= bool({"optimizer", "scheduler", "score_status"} & file.wrapper)
        if original == copied:
            raise InputError(
                f"{file.path.name}: cannot tell which repository it comes from (their hands differ "
                "in origin and fingertips); give origin original or unihope"
            )
        origin = "original" if original else "unihope"
    return SemiHandConfig.original() if origin == "original" else SemiHandConfig()


def load_official(
    path: str | Path,
    *,
    origin: Origin = "auto",
    input_size: int | None = None,
    hand: HandModel | None = None,
) -> SemiHand:
    """The network of the authors' file, in eval mode.

    input_size: None for the 512 that both repositories use. Raises MissingFileError, WeightsError
    (unknown keys, gaps, wrong shapes), InputError.
    """
    file = read_official(path)
    config = config_for(file, origin)
    if input_size is not None:
        config = dataclasses.replace(config, input_size=input_size)
    network = SemiHand(config, hand)
    fit(network, convert(file.entries), file.path.name)
    return network.eval()
