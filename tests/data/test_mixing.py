"""The order of a mixture: exact shares, full coverage, no memory."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from handhold.data.mixing import ENDLESS, HandItems, Mixture
from handhold.errors import InputError
from handhold.scene import Camera, Hand, Sample


def test_shares_are_exact_in_every_epoch() -> None:
    mixture = Mixture([50, 1000, ENDLESS], [0.5, 0.3, 0.2], epoch_length=997, seed=3)
    for epoch in range(3):
        seen = Counter(mixture(epoch * 997 + i)[0] for i in range(997))
        assert (seen[0], seen[1], seen[2]) == (499, 299, 199)  # 498.5, 299.1, 199.4


def test_every_item_comes_once_before_any_comes_again() -> None:
    mixture = Mixture([7, 30], [0.5, 0.5], epoch_length=10, seed=1)
    visits: dict[int, list[int]] = {0: [], 1: []}
    quota = 5
    slots = [mixture(i) for i in range(420)]
    for which, index in slots:
        visits[which].append(index)
    # an epoch visits items in shuffled order, so passes are whole after lcm(7, 5) visits
    for start in range(0, 210, 35):
        assert Counter(visits[0][start : start + 35]) == dict.fromkeys(range(7), 5)
    assert Counter(visits[1][:30]) == dict.fromkeys(range(30), 1)
    assert len(visits[0]) == 42 * quota


def test_order_depends_on_seed_and_epoch_but_not_on_history() -> None:
    one, two = (Mixture([40, 60], epoch_length=100, seed=5) for _ in range(2))
    forward = [one(i) for i in range(300)]
    assert [two(i) for i in reversed(range(300))] == forward[::-1]
    assert forward[:100] != forward[100:200]
    assert sorted(forward[:100]) == sorted((s, i) for s, n in ((0, 40), (1, 60)) for i in range(n))
    other = Mixture([40, 60], epoch_length=100, seed=6)
    assert [other(i) for i in range(100)] != forward[:100]


def test_an_endless_set_never_repeats() -> None:
    mixture = Mixture([ENDLESS, 3], [0.9, 0.1], epoch_length=20)
    drawn = [index for which, index in map(mixture, range(200)) if which == 0]
    assert sorted(drawn) == list(range(180))


@pytest.mark.parametrize(
    ("lengths", "weights", "epoch", "message"),
    [
        ([3, 0], None, None, "not empty"),
        ([3, 3], [1.0, -1.0], None, "positive numbers"),
        ([3, 3], [1.0], None, "expected 2 positive"),
        ([3, 3], [1.0, 1e-6], 100, "set 1 would never occur"),
        ([ENDLESS], None, None, "endless"),
    ],
)
def test_what_cannot_be_mixed(
    lengths: list[int], weights: list[float] | None, epoch: int | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Mixture(lengths, weights, epoch_length=epoch)


class _Samples:
    def __init__(self, counts: list[int], known: bool) -> None:
        self.counts = counts
        self.hands = counts if known else None

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, number: int) -> Sample:
        camera = Camera(intrinsics=np.eye(3), width=4, height=4)
        hands = tuple(Hand(side="left") for _ in range(self.counts[number]))
        image = np.zeros((4, 4, 3), np.uint8)
        return Sample(key=str(number), image=image, camera=camera, hands=hands)


def test_hands_are_items_of_their_own() -> None:
    items = HandItems(_Samples([1, 0, 3, 2], known=True))
    assert [(s.key, h) for s, h in (items[i] for i in range(len(items)))] == [
        ("0", 0),
        ("2", 0),
        ("2", 1),
        ("2", 2),
        ("3", 0),
        ("3", 1),
    ]
    unknown = HandItems(_Samples([1, 0, 3, 2], known=False))
    assert [unknown[i][1] for i in range(4)] == [0, -1, 2, 1]
