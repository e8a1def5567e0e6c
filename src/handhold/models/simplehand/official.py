"""The authors' checkpoints of SimpleHand: their keys, and what distinguishes the origins.

The authors' repository saves {epoch, state_dict, optimizer_state_dict, scaler_state_dict}; it feeds
images in BGR order. UniHOPE's copy saves {state_dict, optimizer, scheduler, ...} with MANO's
buffers and feeds RGB. The keys are the same; the backbone's are timm's names of FastViT.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from handhold.errors import InputError
from handhold.hand.model import HandModel
from handhold.models.simplehand.model import SimpleHand, SimpleHandConfig
from handhold.models.weights import OfficialFile, fit, read_official, rename

Origin = Literal["auto", "original", "unihope"]
PREFIXES = ("module.",)
# Not weights: the hand model's own data (never redistributed). Never used: ImageNet's classifier.
DROPPED = (r"mano_layer\..*", r"backbone\.head\.fc\.(weight|bias)")

_MIXER = r"stages\.(\d)\.blocks\.(\d+)\.token_mixer\."
_BLOCK = r"stages\.(\d)\.blocks\.(\d+)\."
_TO = r"backbone.stages.\1.blocks.\2."
# branches of a layer, wherever it stands
_BRANCHES: tuple[tuple[str, str], ...] = (
    (r"conv_kxk\.0\.conv\.", "main.conv."),
    (r"conv_kxk\.0\.bn\.", "main.norm."),
    (r"conv_scale\.conv\.", "point.conv."),
    (r"conv_scale\.bn\.", "point.norm."),
    (r"identity\.", "identity."),
)
_LARGE: tuple[tuple[str, str], ...] = tuple(
    (rf"{size}_conv\.{theirs}\.", f"{size}.{ours}.")
    for size in ("large", "small")
    for theirs, ours in (("conv", "conv"), ("bn", "norm"))
)
_BACKBONE: tuple[tuple[str, str], ...] = (
    *((rf"stem\.(\d)\.{a}(\w+)", rf"backbone.stem.\1.{b}\2") for a, b in _BRANCHES),
    *((rf"{_MIXER}mixer\.{a}(\w+)", rf"{_TO}mixer.branches.{b}\3") for a, b in _BRANCHES),
    *(
        (rf"stages\.(\d)\.downsample\.proj\.0\.{a}(\w+)", rf"backbone.stages.\1.down.0.{b}\2")
        for a, b in _LARGE
    ),
    *(
        (rf"stages\.(\d)\.downsample\.proj\.1\.{a}(\w+)", rf"backbone.stages.\1.down.1.{b}\2")
        for a, b in _BRANCHES
    ),
    *((rf"final_conv\.{a}(\w+)", rf"backbone.final.{b}\1") for a, b in _BRANCHES),
    (r"final_conv\.se\.fc1\.(\w+)", r"backbone.final.squeeze.down.\1"),
    (r"final_conv\.se\.fc2\.(\w+)", r"backbone.final.squeeze.up.\1"),
    (rf"{_MIXER}norm\.identity\.(\w+)", rf"{_TO}mixer.norm.\3"),
    (rf"{_MIXER}layer_scale\.gamma", rf"{_TO}mixer.scale.gamma"),
    (rf"{_MIXER}qkv\.weight", rf"{_TO}qkv.weight"),
    (rf"{_MIXER}proj\.(\w+)", rf"{_TO}out.\3"),
    (rf"{_BLOCK}mlp\.conv\.conv\.(\w+)", rf"{_TO}mlp.spatial.conv.\3"),
    (rf"{_BLOCK}mlp\.conv\.bn\.(\w+)", rf"{_TO}mlp.spatial.norm.\3"),
    (rf"{_BLOCK}mlp\.fc1\.(\w+)", rf"{_TO}mlp.widen.\3"),
    (rf"{_BLOCK}mlp\.fc2\.(\w+)", rf"{_TO}mlp.narrow.\3"),
    (rf"{_BLOCK}norm\.(\w+)", rf"{_TO}norm.\3"),
    (rf"{_BLOCK}layer_scale\.gamma", rf"{_TO}scale.gamma"),
    (rf"{_BLOCK}layer_scale_([12])\.gamma", rf"{_TO}scale\3.gamma"),
    (r"stages\.(\d)\.pos_emb\.pos_enc\.(\w+)", r"backbone.stages.\1.position.\2"),
)
_STEP = r"mesh_head\.encoder_([123])\.(\d+)\."
_HEAD: tuple[tuple[str, str], ...] = (
    (r"keypoints_2d_head\.(\w+)", r"joints_head.\1"),
    (r"mesh_head\.deconv\.0\.weight", "mesh_head.enlarge.weight"),
    (r"mesh_head\.deconv\.1\.(\w+)", r"mesh_head.enlarge_norm.\1"),
    (r"mesh_head\.pos_emb_([123])", r"mesh_head.steps.#\1.position"),
    (r"mesh_head\.proj_([123])\.(\w+)", r"mesh_head.steps.#\1.project.\2"),
    (r"mesh_head\.upsample_([123])\.upsample\.(\w+)", r"mesh_head.steps.#\1.more.\2"),
    (rf"{_STEP}token_mixer\.in_proj_(\w+)", r"mesh_head.steps.#\1.blocks.\2.qkv.\3"),
    (rf"{_STEP}token_mixer\.out_proj\.(\w+)", r"mesh_head.steps.#\1.blocks.\2.out.\3"),
    (rf"{_STEP}(norm[12])\.(\w+)", r"mesh_head.steps.#\1.blocks.\2.\3.\4"),
    (rf"{_STEP}mlp\.fc1\.(\w+)", r"mesh_head.steps.#\1.blocks.\2.widen.\3"),
    (rf"{_STEP}mlp\.fc2\.(\w+)", r"mesh_head.steps.#\1.blocks.\2.narrow.\3"),
    (r"mesh_head\.pred_final\.(\w+)", r"mesh_head.vertices.\1"),
)
# (pattern of the original key, our key); #n: they count from 1
RULES = (*((rf"backbone\.{theirs}", ours) for theirs, ours in _BACKBONE), *_HEAD)


def convert(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our keys for theirs; raises WeightsError that names keys no rule knows."""
    renamed = rename(entries, RULES, PREFIXES, DROPPED)
    return {re.sub(r"#(\d)", _from_zero, key): value for key, value in renamed.items()}


def _from_zero(match: re.Match[str]) -> str:
    return str(int(match.group(1)) - 1)


def config_for(file: OfficialFile, origin: Origin = "auto") -> SimpleHandConfig:
    """The configuration that a file of the given origin needs; "auto" looks at what it holds.

    Raises InputError for unknown origins and files that do not tell theirs.
    """
    if origin not in ("auto", "original", "unihope"):
        raise InputError(f"origin: expected auto, original or unihope, found {origin!r}")
    if origin == "auto":
        copied = any(re.match(r"(module\.)?mano_layer\.", key) for key in file.entries)
        copied = copied or bool({"scheduler", "score_status"} & file.wrapper)
        if not copied and not {"optimizer_state_dict", "scaler_state_dict"} & file.wrapper:
            raise InputError(
                f"{file.path.name}: cannot tell which repository it comes from (the keys are the "
                "same, the order of the colours is not); give origin original or unihope"
            )
        origin = "unihope" if copied else "original"
    return SimpleHandConfig.original() if origin == "original" else SimpleHandConfig()


def load_official(
    path: str | Path, *, origin: Origin = "auto", hand: HandModel | None = None
) -> SimpleHand:
    """The network of the authors' file, in eval mode.

    Raises MissingFileError, WeightsError (unknown keys, gaps, wrong shapes), InputError.
    """
    file = read_official(path)
    network = SimpleHand(config_for(file, origin), hand)
    fit(network, convert(file.entries), file.path.name)
    return network.eval()
