"""The authors' checkpoints of UniHOPE: HFL-Net's keys and those of switch and adaptation layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from handhold.errors import WeightsError
from handhold.hand.model import HandModel
from handhold.models.hflnet import official as hflnet
from handhold.models.unihope.model import UniHOPE, UniHOPEConfig
from handhold.models.weights import fit, read_official

_MAPPERS = (("hand_feature_mapper", "roi_mapper"), ("mano_feature_mapper", "mano_mapper"))
_PARTS = (
    ("w_qs", "query"),
    ("w_ks", "key"),
    ("w_vs", "value"),
    ("fc", "out"),
    ("layer_norm", "norm"),
)
_COMMON: tuple[tuple[str, str], ...] = (
    (r"obj_conf_layer\.0\.(.*)", r"switch.reduce.\1"),
    (r"obj_conf_layer\.3\.(.*)", r"switch.out.\1"),
    (r"occ_cls_layer\.0\.(.*)", r"occlusion.reduce.\1"),
    (r"occ_cls_layer\.2\.(.*)", r"occlusion.out.\1"),
    (r"fpn_feature_mapper\.0\.(.*)", r"fpn_mapper.conv.\1"),
    (r"fpn_feature_mapper\.1\.(.*)", r"fpn_mapper.norm.\1"),
    *(
        (rf"{theirs}\.{part}\.(.*)", rf"{ours}.{name}.\1")
        for theirs, ours in _MAPPERS
        for part, name in _PARTS
    ),
)


def is_legacy(entries: Mapping[str, Tensor]) -> bool:
    """Whether the switch has the hidden layer of the DexYCB checkpoints."""
    return any(key.endswith("obj_conf_layer.3.weight") for key in entries)


def convert(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our keys for theirs; raises WeightsError that names keys no rule knows."""
    name = "hidden" if is_legacy(entries) else "out"
    return hflnet.convert(entries, (*_COMMON, (r"obj_conf_layer\.2\.(.*)", rf"switch.{name}.\1")))


def config_for(entries: Mapping[str, Tensor]) -> UniHOPEConfig:
    """Legacy switch and input size (128 or 256) as the keys and shapes tell.

    Raises WeightsError when there is no switch of a known size."""
    for key, value in entries.items():
        if key.endswith("obj_conf_layer.2.weight") and value.ndim == 2:
            for size in (128, 256):
                if value.shape[1] == 64 * (size // 4) ** 2:
                    return UniHOPEConfig(input_size=size, switch_legacy=is_legacy(entries))
            raise WeightsError(
                f"{key}: expected 65536 (input 128) or 262144 (input 256) columns, "
                f"found {value.shape[1]}"
            )
    raise WeightsError(
        "the checkpoint has no obj_conf_layer.2.weight: it is none of UniHOPE's (HFL-Net's are "
        "imported as hflnet)"
    )


def load_official(path: str | Path, *, hand: HandModel | None = None) -> UniHOPE:
    """The network of the authors' file, in eval mode.

    Raises MissingFileError, WeightsError (unknown keys, gaps, wrong shapes).
    """
    file = read_official(path)
    network = UniHOPE(config_for(file.entries), hand)
    fit(network, convert(file.entries), file.path.name)
    return network.eval()
