"""Keys that the authors' checkpoints of MobRecon and H2ONet share: DenseStack and mesh decoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from handhold.errors import WeightsError
from handhold.hand.hierarchy import build_hierarchy, read_hierarchy
from handhold.hand.model import HandModel
from handhold.models.nn.dense_stack import DenseStackBackbone
from handhold.models.nn.mesh_decoder import hierarchy_tables
from handhold.models.weights import fit, listed, read_official, rename

Template = str | Path | Literal["hand"] | None
PREFIXES = ("module.",)
DROPPED = (r"mano_layer\..*",)  # the hand model's own data are never redistributed

_STACK = r"backbone\.dense_stack"
BACKBONE_RULES: tuple[tuple[str, str], ...] = (
    (r"backbone\.pre_layer\.0\.(.*)", r"backbone.stem.\1"),
    (r"backbone\.pre_layer\.1\.(.*)", r"backbone.stem_unit.\1"),
    (r"backbone\.thrink\.(.*)", r"backbone.fold.\1"),
    (r"backbone\.stack1_remap\.(.*)", r"backbone.remap.\1"),
    (r"backbone\.thrink2\.(.*)", r"backbone.join.\1"),
    (r"backbone\.mid_proj\.0\.(.*)", r"backbone.latent.\1"),
    (r"backbone\.reduce\.0\.(.*)", r"backbone.joints.reduce.\1"),
    (r"backbone\.uv_reg\.(\d)\.0\.(.*)", r"backbone.joints.layers.\1.\2"),
    (rf"{_STACK}([12])\.senet([123])\.(.*)", r"backbone.stack\1.encoder.squeeze\2.\3"),
    (rf"{_STACK}([12])\.(dense\d\..*)", r"backbone.stack\1.encoder.\2"),
    (rf"{_STACK}([12])\.senet([456])\.(.*)", r"backbone.stack\1.squeeze\2.\3"),
    (rf"{_STACK}([12])\.thrink(\d\..*)", r"backbone.stack\1.narrow\2"),
    (rf"{_STACK}3\.senet(\d\..*)", r"backbone.stack3.squeeze\1"),
    (rf"{_STACK}3\.(dense\d\..*)", r"backbone.stack3.\1"),
)
DECODER_RULES: tuple[tuple[str, str], ...] = (
    (r"decoder3d\.upsample", r"decoder.lift"),
    (r"decoder3d\.de_layer_conv\.0\.(.*)", r"decoder.token_conv.\1"),
    (r"decoder3d\.de_layer\.(\d)\.conv\.(.*)", r"decoder.layers.\1.\2"),
    (r"decoder3d\.head\.(.*)", r"decoder.head.\1"),
)
# within the blocks
_PARTS: tuple[tuple[str, str], ...] = (
    (r"\.conv3x3\.(\d)\.", r".depthwise.\1."),
    (r"\.conv1x1\.", r".pointwise."),
    (r"\.fc1\.0\.", r".down."),
    (r"\.fc1\.1\.", r".down_norm."),
    (r"\.fc2\.0\.", r".up."),
    (r"\.fc2\.1\.", r".up_norm."),
    (r"\.(channel_layer|layer)\.", r".linear."),
    (r"\.spatial_layer\.weight", r".spatial"),
)
_PAIR = r"((?:stem|fold|remap|join|pointwise|depthwise\.\d))"


def convert(
    entries: Mapping[str, Tensor], extra_rules: tuple[tuple[str, str], ...] = ()
) -> dict[str, Tensor]:
    """Our keys for theirs; raises WeightsError that names keys no rule knows."""
    rules = (*BACKBONE_RULES, *DECODER_RULES, *extra_rules)
    result: dict[str, Tensor] = {}
    for key, value in rename(entries, rules, PREFIXES, DROPPED).items():
        for pattern, ours in _PARTS:
            key = re.sub(pattern, ours, key)
        if key.startswith("backbone."):
            key = re.sub(rf"\.{_PAIR}\.0\.", r".\1.conv.", key)
            key = re.sub(rf"\.{_PAIR}\.1\.", r".\1.norm.", key)
            # a dense block's units: conv1, conv2, ... become 0, 1, ...
            key = re.sub(r"(dense\d)\.conv(\d)\.", _unit, key)
        result[key] = value.flatten(1) if key.endswith(".spatial") else value
    return result


def _unit(match: re.Match[str]) -> str:
    return f"{match.group(1)}.units.{int(match.group(2)) - 1}."


def mesh_tables(
    template: Template, hand: HandModel, *, spiral_length: int, dilation: int, where: str
) -> dict[str, Tensor]:
    """The decoder's constants for weights that were trained with another mesh than the hand's.

    template: the authors' transform.pkl, or "hand". Raises WeightsError, naming the file, when it
    is None: the checkpoint does not hold the tables, and they do not follow from the hand model.
    """
    if template is None:
        raise WeightsError(
            f"{where}: a checkpoint of this method does not hold the mesh hierarchy that it was "
            "trained with, and the authors' does not follow from MANO's template: give their "
            "transform.pkl (template), or template 'hand' for weights trained with the hierarchy "
            "of the loaded hand model"
        )
    if template == "hand":
        arrays = hand.arrays
        hierarchy = build_hierarchy(
            arrays.v_template, arrays.faces, spiral_length=spiral_length, dilation=dilation
        )
    else:
        hierarchy = read_hierarchy(template, spiral_length=spiral_length, dilation=dilation)
    return {f"decoder.{name}": value for name, value in hierarchy_tables(hierarchy).items()}


def load_backbone(backbone: DenseStackBackbone, path: str | Path) -> list[str]:
    """Start a backbone from the authors' `densestack.pth`: its keys have no prefix.

    Returns the entries of the backbone that the file lacks and that keep their values. Raises
    MissingFileError, WeightsError for unknown keys, wrong shapes and files without any match.
    """
    file = read_official(path)
    entries = file.entries
    for prefix in ("module.", "backbone."):
        if all(key.startswith(prefix) for key in entries):
            entries = {key.removeprefix(prefix): value for key, value in entries.items()}
    renamed = convert({f"backbone.{key}": value for key, value in entries.items()})
    found = {key.removeprefix("backbone."): value for key, value in renamed.items()}
    own = backbone.state_dict()
    absent = [key for key in own if key not in found]
    # never called in the first stack, and not in every network that starts from this file
    idle = re.compile(r"stack1\.encoder\.(squeeze3|dense4|dense5)\..*")
    found = {k: v for k, v in found.items() if k in own or not idle.fullmatch(k)}
    if not set(found) & set(own):
        raise WeightsError(f"{path}: holds none of the backbone's entries: {listed([*found])}")
    fit(backbone, {**{key: own[key] for key in absent}, **found}, file.path.name)
    return absent
