"""What changes while HOISDF is trained."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from handhold.models.hoisdf.inputs import HOISDFBatch
from handhold.models.hoisdf.points import gives_queries
from handhold.scene import Batch


def prepare(network: Any, batch: Batch, epoch: float) -> Batch:
    """The pose stage gets the given points in the first epochs, later often those of the grid.

    Drawn from torch's global generator, which training seeds in every step.
    """
    draw = np.random.default_rng(int(torch.randint(2**31, ())))
    if not isinstance(batch, HOISDFBatch) or gives_queries(int(epoch), draw):
        return batch
    return dataclasses.replace(batch, hand_query_points=None, object_query_points=None)
