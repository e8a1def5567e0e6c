"""The authors' checkpoints of H2ONet (single frame), also UniHOPE's and HandBooster's copies.

{state_dict, ...} with `backbone.*`, `decoder3d.*`, the trained joint regressor and the hand layer's
data, which are dropped; perhaps with the prefix `module.`. The mesh hierarchy is not in the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from handhold.errors import WeightsError
from handhold.hand.model import HandModel
from handhold.models.h2onet.model import H2ONet, H2ONetConfig
from handhold.models.nn import vertex_official
from handhold.models.nn.vertex_official import Template, load_backbone, mesh_tables
from handhold.models.weights import fit, read_official

__all__ = ["config_for", "convert", "load_backbone", "load_official"]

_RULES: tuple[tuple[str, str], ...] = (
    (r"mano_joint_reg", r"regressor"),
    *(
        (rf"decoder3d\.rot_reg\.{block}\.{2 * index}\.(.*)", rf"rotation.{ours}.\1")
        for block, index, ours in (
            ("conv_block", 0, "convs.0"),
            ("conv_block", 1, "convs.1"),
            ("pre_block", 0, "flats.0"),
            ("pre_block", 1, "flats.1"),
            ("fc_block", 0, "outs.0"),
            ("fc_block", 1, "outs.1"),
            ("fc_block", 2, "outs.2"),
            ("fc_block", 3, "last"),
        )
    ),
)


def convert(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our keys for theirs; raises WeightsError that names keys no rule knows."""
    return vertex_official.convert(entries, _RULES)


def config_for(entries: Mapping[str, Tensor]) -> H2ONetConfig:
    """The configuration that the keys tell; WeightsError when it is none of H2ONet's."""
    if not any("rot_reg." in key for key in entries):
        raise WeightsError(
            "the checkpoint is none of H2ONet's: it has no decoder3d.rot_reg (MobRecon's are "
            "imported as mobrecon)"
        )
    unused = any("dense_stack1.senet3." in key for key in entries)
    return H2ONetConfig(unused="squeeze" if unused else "none")


def load_official(
    path: str | Path, *, template: Template = None, hand: HandModel | None = None
) -> H2ONet:
    """The network of the authors' file, in eval mode.

    template: the authors' up-sampling table (`transform.pkl`, read as data), which their weights
    need; "hand": the hierarchy of the loaded hand model. hand: right hand model, None: the free
    one. Raises MissingFileError, WeightsError (no template; unknown keys, gaps, wrong shapes),
    FileFormatError for a damaged table.
    """
    file = read_official(path)
    config = dataclasses.replace(config_for(file.entries), mesh="stored")
    network = H2ONet(config, hand)
    tables = mesh_tables(
        template,
        network.hand,
        spiral_length=config.spiral_length,
        dilation=config.dilation,
        where=file.path.name,
    )
    fit(network, convert(file.entries) | tables, file.path.name)
    return network.eval()
