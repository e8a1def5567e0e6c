"""The authors' checkpoint of the grasp classifier, and the three of a pair.

The original loads a pair from three files, with the prefix `module.` removed and gaps ignored. Here
each file is imported by its own method (this one for the classifier), gaps are refused, and
`Switched` takes the three networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from handhold.errors import WeightsError
from handhold.models.hflnet import official as hflnet
from handhold.models.switched.model import GraspClassifier, GraspClassifierConfig
from handhold.models.weights import fit, listed, read_official

# beside HFL-Net's, with which the backbone agrees: (pattern of the original key, our key)
RULES: tuple[tuple[str, str], ...] = (
    (r"obj_conf_layer\.0\.(.*)", r"head.reduce.\1"),
    (r"obj_conf_layer\.2\.(.*)", r"head.out.\1"),
)


def convert(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our keys for theirs; raises WeightsError that names keys no rule knows, and those of networks
    that estimate hands."""
    renamed = hflnet.convert(entries, RULES)
    strange = sorted(k for k in renamed if not k.startswith(("backbone.", "head.")))
    if strange:
        raise WeightsError(
            f"the checkpoint is no grasp classifier alone, it also holds {listed(strange)}; "
            "HFL-Net's and UniHOPE's are imported as hflnet and unihope"
        )
    return renamed


def load_official(path: str | Path) -> GraspClassifier:
    """The classifier of the authors' file, in eval mode.

    Raises MissingFileError, WeightsError (unknown keys, gaps, wrong shapes).
    """
    file = read_official(path)
    network = GraspClassifier(GraspClassifierConfig())
    fit(network, convert(file.entries), file.path.name)
    return network.eval()
