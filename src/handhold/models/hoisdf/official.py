"""The authors' checkpoints of HOISDF.

They save {epoch, network, optimizer, lr_scheduler}; the keys of `network` start with `module.`.
Beside the weights they hold the hand model's arrays, which are left out here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from handhold.errors import WeightsError
from handhold.hand.model import HandModel
from handhold.models.hoisdf.model import HOISDF, HOISDFConfig
from handhold.models.weights import fit, read_official, rename

PREFIXES = ("module.",)
# Not weights: the hand model's own data (never redistributed) and a matrix nothing reads.
DROPPED = (r"mano_head\.mano_layer\..*", r"mano_head\.coord_change_mat")

_RESNET = r"backbone_net\.resnet"
_UNET = r"decoder_net\.resnet_decoder"
_HEADS = (
    ("hm", "heatmap"),
    ("hand_seg", "hand_pixels"),
    ("obj_seg", "object_pixels"),
)
_MLPS = (
    ("linear_transformerin", "token_mlp"),
    ("linear_sdfin", "sdf_mlp"),
    ("linear_pose", "hand_head.pose"),
    ("linear_shape", "hand_head.shape"),
    ("linear_handvote", "hand_head.vote"),
    ("linear_handcls", "hand_head.vote_class"),
    ("linear_obj_rot", "object_head.rotation"),
    ("linear_obj_rel_trans", "object_head.translation"),
    ("linear_objvote", "unread.corner_vote"),
    ("linear_objcls", "unread.corner_class"),
)
_TARGETS = (("hand", "hand"), ("obj", "object"))


def _transformers() -> list[tuple[str, str]]:
    parts = (
        ("linear1", "widen"),
        ("linear2", "narrow"),
        *((f"norm{index}", f"norm{index}") for index in (1, 2, 3)),
    )
    rules: list[tuple[str, str]] = []
    for theirs, ours in _TARGETS:
        encoder, decoder = rf"{theirs}_transformer\.encoder", rf"{theirs}_transformer\.decoder"
        rules += [
            (
                rf"{encoder}\.layers\.(\d+)\.self_attn\.(.*)",
                rf"{ours}_head.encoder.layers.\1.self_attention.\2",
            ),
            (rf"{encoder}\.inter_norm\.(.*)", rf"{ours}_head.encoder.norm.\1"),
            (
                rf"{decoder}\.layers\.(\d+)\.self_attn\.(.*)",
                rf"{ours}_head.decoder.layers.\1.self_attention.\2",
            ),
            (
                rf"{decoder}\.layers\.(\d+)\.multihead_attn\.(.*)",
                rf"{ours}_head.decoder.layers.\1.cross_attention.\2",
            ),
            (rf"{decoder}\.norm\.(.*)", rf"{ours}_head.decoder.norm.\1"),
        ]
        for kind in ("encoder", "decoder"):
            rules += [
                (
                    rf"{theirs}_transformer\.{kind}\.layers\.(\d+)\.{part}\.(.*)",
                    rf"{ours}_head.{kind}.layers.\1.{name}.\2",
                )
                for part, name in parts
            ]
    return rules


def _unet() -> list[tuple[str, str]]:
    """Theirs are numbered from the coarsest level, ours named by stride."""
    rules: list[tuple[str, str]] = []
    for level, stride in enumerate((32, 16, 8, 4, 2)):
        rules += [
            (rf"{_UNET}\.conv{level}d\.(.*)", rf"decoder.lateral.{stride}.\1"),
            (rf"{_UNET}\.deconv{level}\.(.*)", rf"decoder.up.{stride}.\1"),
            (rf"{_UNET}\.conv{level}\.(.*)", rf"decoder.join.{stride}.\1"),
        ]
    rules += [(rf"{_UNET}\.convOut_{a}\.(.*)", rf"decoder.heads.{b}.\1") for a, b in _HEADS]
    return rules


RULES: tuple[tuple[str, str], ...] = (
    (rf"{_RESNET}\.conv1\.(.*)", r"backbone.conv.\1"),
    (rf"{_RESNET}\.bn1\.(.*)", r"backbone.norm.\1"),
    (rf"{_RESNET}\.layer(\d)\.(\d+)\.bn(\d)\.(.*)", r"backbone.stage\1.\2.norm\3.\4"),
    (rf"{_RESNET}\.layer(\d)\.(\d+)\.downsample\.(.*)", r"backbone.stage\1.\2.shortcut.\3"),
    (rf"{_RESNET}\.layer(\d)\.(\d+)\.(conv\d\..*)", r"backbone.stage\1.\2.\3"),
    *_unet(),
    *(
        (rf"{target}_sdf_decoder\.linh([0-3])\.{theirs}", rf"{ours}_field.hidden.\1.{name}")
        for target, ours in _TARGETS
        for theirs, name in (("weight_g", "gain"), ("weight_v", "direction"), ("bias", "bias"))
    ),
    *((rf"{t}_sdf_decoder\.linh4\.(.*)", rf"{ours}_field.out.\1") for t, ours in _TARGETS),
    *((rf"{t}_sigmoid_beta", f"{ours}_density_width") for t, ours in _TARGETS),
    *_transformers(),
    *((rf"{theirs}\.layers\.(.*)", rf"{ours}.layers.\1") for theirs, ours in _MLPS),
    (r"mano_query_embed\.(.*)", r"hand_head.queries.\1"),
    (r"norm1\.(.*)", r"unread.norm.\1"),
)


def is_big(entries: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint has the big decoder: no 1x1 convolutions on the maps."""
    return not any(".conv0d." in key for key in entries)


def convert(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our keys for theirs; raises WeightsError that names keys no rule knows."""
    return rename(entries, RULES, PREFIXES, DROPPED)


def config_for(entries: Mapping[str, Tensor]) -> HOISDFConfig:
    """The decoder and the hand's head as the keys and shapes tell.

    Raises WeightsError where the queries are neither 17 nor 1."""
    found = [v.shape[0] for k, v in entries.items() if k.endswith("mano_query_embed.weight")]
    if found not in ([17], [1]):
        raise WeightsError(
            f"mano_query_embed.weight: expected 17 or 1 queries of HOISDF, found {found or 'none'}"
        )
    return HOISDFConfig(
        decoder="big" if is_big(entries) else "small",
        hand_head="queries" if found == [17] else "kinematics",
    )


def load_official(path: str | Path, *, hand: HandModel | None = None) -> HOISDF:
    """The network of the authors' file, in eval mode.

    Raises MissingFileError, WeightsError (unknown keys, gaps, wrong shapes, code in the file).
    """
    file = read_official(path)
    network = HOISDF(config_for(file.entries), hand)
    fit(network, convert(file.entries), file.path.name)
    return network.eval()
