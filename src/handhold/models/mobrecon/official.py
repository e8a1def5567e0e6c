"""The authors' checkpoints of MobRecon, from three repositories.

HandMesh (the method's own) saves `backbone.*`, `decoder3d.*`, bare or in a dictionary; UniHOPE
{state_dict, optimizer, scheduler, step, epoch, score_status} with the hand layer's data, which are
dropped. Their keys differ, so they tell the make; none holds the mesh hierarchy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from handhold.errors import InputError, WeightsError
from handhold.hand.model import HandModel
from handhold.models.mobrecon.model import MobRecon, MobReconConfig
from handhold.models.nn.vertex_official import Template, convert, load_backbone, mesh_tables
from handhold.models.weights import fit, read_official

__all__ = ["config_for", "convert", "load_backbone", "load_official"]

Origin = Literal["auto", "handmesh", "unihope", "handbooster"]


def config_for(entries: Mapping[str, Tensor], origin: Origin = "auto") -> MobReconConfig:
    """The configuration that the keys tell.

    origin: decides range and unit of input and output, which no key tells; "auto" takes a file with
    the 1x1 convolution before sampling for UniHOPE's or HandBooster's, one without for HandMesh's.
    Raises WeightsError when it is none of MobRecon's, InputError for an unknown origin.
    """
    if origin not in ("auto", "handmesh", "unihope", "handbooster"):
        raise InputError(
            f"origin: expected auto, handmesh, unihope or handbooster, found {origin!r}"
        )

    def holds(part: str) -> bool:
        return any(part in key for key in entries)

    if not holds("decoder3d.de_layer.0.") or holds("dense_stack3"):
        raise WeightsError(
            "the checkpoint is none of MobRecon's: expected decoder3d.de_layer.0.* and no "
            "dense_stack3 (H2ONet's are imported as h2onet)"
        )
    token_conv = holds("decoder3d.de_layer_conv.")
    if origin == "auto":
        origin = "unihope" if token_conv else "handmesh"
    base = MobReconConfig.handmesh() if origin == "handmesh" else MobReconConfig()
    unused = "squeeze" if holds("dense_stack1.senet3.") else "none"
    return dataclasses.replace(
        base,
        mesh_conv="spiral" if holds("de_layer.0.conv.layer.") else "separable",
        token_conv=token_conv,
        unused="dense" if holds("dense_stack1.dense4.") else unused,
    )


def load_official(
    path: str | Path,
    *,
    template: Template = None,
    origin: Origin = "auto",
    hand: HandModel | None = None,
) -> MobRecon:
    """The network of the authors' file, in eval mode.

    template: the authors' up-sampling table (`transform.pkl`, read as data), which their weights
    need; "hand": the hierarchy of the loaded hand model. hand: right hand model, None: the free
    one. Raises MissingFileError, WeightsError (no template; unknown keys, gaps, wrong shapes),
    FileFormatError for a damaged table.
    """
    file = read_official(path)
    config = dataclasses.replace(config_for(file.entries, origin), mesh="stored")
    network = MobRecon(config, hand)
    tables = mesh_tables(
        template,
        network.hand,
        spiral_length=config.spiral_length,
        dilation=config.dilation,
        where=file.path.name,
    )
    fit(network, convert(file.entries) | tables, file.path.name)
    return network.eval()
