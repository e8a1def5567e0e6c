"""Scenes drawn while training, as a set of samples."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from handhold.data.mixing import ENDLESS
from handhold.scene import Sample
from handhold.training.config import TrainConfig

if TYPE_CHECKING:
    from handhold.synthesis.scenes import SceneConfig

Part: TypeAlias = Literal["train", "held_out", "all"]
BACKGROUNDS_KEPT = 7 / 8  # for training
HELD_OUT_SEED = 1_000_003  # added to the seed of scenes drawn for validation


class SyntheticScenes:
    """Scenes drawn on the fly: sample i is make_scene(seed, i, config), without end.

    count: only the first so many, kept once they are drawn. Nothing of them is held out: every part
    is the same scenes.
    """

    hands: list[int] | None = None

    def __init__(
        self,
        seed: int,
        config: TrainConfig,
        part: Part = "train",
        count: int | None = None,
        *,
        conditions: bool = False,
    ) -> None:
        from handhold.synthesis.scenes import SceneConfig

        train = part == "train" or count is not None
        self.count = count
        self.seed = seed + (0 if train else HELD_OUT_SEED)
        self.config = SceneConfig(
            paired=config.pairs,
            mano=Path(config.mano) if config.mano else None,
            backgrounds=Path(config.backgrounds) if config.backgrounds else None,
            background_part=(0.0, BACKGROUNDS_KEPT) if train else (BACKGROUNDS_KEPT, 1.0),
            conditions=conditions,
            occluder=0.0 if conditions else SceneConfig.occluder,  # which no map shows
        )

    def __len__(self) -> int:
        return ENDLESS if self.count is None else self.count

    def __getitem__(self, number: int) -> Sample:
        from handhold.synthesis.scenes import make_scene

        if self.count is None:
            return make_scene(self.seed, number, self.config)
        if not 0 <= number < self.count:
            raise IndexError(number)
        return _kept_scene(self.seed, number, self.config)


@lru_cache(maxsize=512)
def _kept_scene(seed: int, number: int, config: SceneConfig) -> Sample:
    from handhold.synthesis.scenes import make_scene

    return make_scene(seed, number, config)
