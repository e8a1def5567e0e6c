"""Hands beside objects that they do not hold: the "not grasping" samples.

Everything is in the frame of a right hand model without global rotation; poses have a zero root.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from handhold.geometry.signed_distance import GridDistance
from handhold.hand.anatomy import sample_pose
from handhold.hand.model import HandModel
from handhold.objects.mesh import ObjectMesh
from handhold.synthesis.grips import Array, HoldConfig, HoldResult, checked_shape, parts_of


def near_miss(
    hand: HandModel,
    betas: Array,
    mesh: ObjectMesh,
    distance: GridDistance,
    rng: np.random.Generator,
    config: HoldConfig | None = None,
) -> HoldResult | None:
    """A right hand near an object that it does not hold: before the palm, behind or beside the
    hand, beyond the fingertips. The distance between the two lies in `config.gap`, measured
    exactly; None when no such place is found in `config.tries`.
    """
    config = config or HoldConfig()
    shape = checked_shape(hand, betas)
    del mesh
    parts = parts_of(hand)
    sorts = ("before the palm", "behind the hand", "beside the hand", "beyond the fingers")
    for _ in range(config.tries):
        pose = sample_pose(rng, 1, frames=parts.frames)[0]
        vertices = parts.vertices(pose, shape).astype(np.float64)
        sort = sorts[int(rng.choice(4, p=[0.4, 0.2, 0.2, 0.2]))]
        sideways = np.cross(parts.palm_direction, parts.forward)
        main = {
            sorts[0]: parts.palm_direction,
            sorts[1]: -parts.palm_direction,
            sorts[2]: sideways * rng.choice([-1.0, 1.0]),
            sorts[3]: parts.forward,
        }[sort]
        direction = main + rng.normal(0, 0.25, 3)
        direction /= np.linalg.norm(direction)
        rotation = Rotation.random(rng=rng).as_matrix()
        middle = vertices[parts.palm].mean(axis=0) + rng.normal(0, 0.02, 3)
        middle = middle + parts.forward * rng.uniform(0.0, 0.06)
        centre = (distance.low + distance.high) / 2.0
        gap = float(rng.uniform(*config.gap) if rng.uniform() < 0.5 else config.gap[0] * 1.3)
        gap = min(gap, config.gap[1])
        far = middle + 0.45 * direction - rotation @ centre
        moved = 0.0
        for _ in range(12):
            at = far - moved * direction
            nearest = float(distance.distance((vertices - at) @ rotation).min())
            moved += 0.8 * (nearest - gap)
        at = far - moved * direction
        exact = float(distance.exact.distance((vertices - at) @ rotation).min())
        if config.gap[0] <= exact <= config.gap[1] and moved < 0.6:
            return HoldResult(
                pose=pose, rotation=rotation, translation=at, kind=sort, gap_mm=1e3 * exact
            )
    return None
