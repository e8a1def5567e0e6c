"""The order of a mixture: exact shares, full coverage, no memory."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from handhold.data.mixing import ENDLESS, HandItems, Mixture, equal_shares
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


@pytest.mark.parametrize("share", [0.5, 0.3, 0.07])
def test_even_turns_keep_the_shares_in_every_batch(share: float) -> None:
    """Counts of every batch within one of its share (shuffled turns: far off); exact over epochs,
    and the same items as ever, each once a round."""
    lengths, weights, batch, epoch = [30, 1000], [share, 1 - share], 16, 640

    def counts(evenly: bool) -> np.ndarray:
        mixture = Mixture(lengths, weights, epoch_length=epoch, seed=2, evenly=evenly)
        first = [mixture(i)[0] == 0 for i in range(2 * epoch)]
        return np.sum(np.reshape(first, (-1, batch)), axis=1)

    even, shuffled = counts(True), counts(False)
    quota = Mixture(lengths, weights, epoch_length=epoch).quotas[0]
    assert even.sum() == shuffled.sum() == 2 * quota
    assert np.abs(even - batch * quota / epoch).max() < 1
    assert np.abs(shuffled - batch * quota / epoch).max() > 2
    mixture = Mixture(lengths, weights, epoch_length=epoch, seed=2, evenly=True)
    visits = [index for which, index in map(mixture, range(2 * epoch)) if which == 0]
    assert Counter(visits[:30]) == dict.fromkeys(range(30), 1) and visits[:30] != list(range(30))
    ranks = [mixture.before(0, i) for i in range(2 * epoch)]
    taken = [mixture(i)[0] == 0 for i in range(2 * epoch)]
    assert ranks == [0, *np.cumsum(taken)[:-1].tolist()]


def test_even_turns_of_several_sets() -> None:
    """Equal shares are exact in every batch they divide; others within one of three sets."""
    mixture = Mixture([5, 50, 500], [1, 1, 1], epoch_length=120, evenly=True)
    sets = np.reshape([mixture(i)[0] for i in range(240)], (-1, 12))
    assert all(np.bincount(row, minlength=3).tolist() == [4, 4, 4] for row in sets)
    mixture = Mixture([ENDLESS, 50, 500], [0.5, 0.3, 0.2], epoch_length=100, evenly=True)
    sets = np.reshape([mixture(i)[0] for i in range(200)], (-1, 10))
    assert all(np.bincount(row, minlength=3).tolist() == [5, 3, 2] for row in sets)


def test_either_kind_has_half() -> None:
    shares = equal_shares([3, 1, 8, 24], [True, True, False, False])
    assert shares == pytest.approx([3 / 8, 1 / 8, 1 / 8, 3 / 8])
    assert equal_shares([3, 1], [False, False]) == pytest.approx([0.75, 0.25])


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
