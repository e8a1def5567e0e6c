"""The golden loader itself: its numbers are frozen, and it fails when it should."""

import json
import zlib

import numpy as np
import pytest
import torch

FAILED = pytest.fail.Exception


@pytest.fixture
def made(tmp_path, monkeypatch, golden):
    """A small subject of our own, under seed 5, with every rule of the format."""
    description = {
        "seed": 5,
        "state_dict": {
            "a.weight": [4, 3],
            "norm.weight": [4],
            "norm.bias": [4],
            "b.weight": [2, 2, 2],
            "norm.running_var": [4],
            "norm.running_mean": [4],
            "norm.num_batches_tracked": [],
            "head.bias": [2],
            "hand.th_faces": [9, 3],
            "beta": [1],
        },
        "kept": ["hand.*", "beta"],
        "kept_values": {"beta": 0.25, "hand.*": "from a file"},
        "override": {"head.bias": "replace"},
        "fill_scale": {"prefix": "b.", "min_ndim": 3, "factor": 2.0},
        "generated": {
            "img": [
                {"shape": [1, 3, 8, 8], "name": "one"},
                {"shape": [1, 3, 8, 8], "name": "two", "affine": [2, -1]},
            ]
        },
        "outputs": {"whole": {"shape": [2, 3]}, "thin": {"shape": [2, 3], "stride": 2}},
    }
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    (tmp_path / "made.json").write_text(json.dumps(description))
    np.savez(
        tmp_path / "made.npz",
        **{"out/whole": values, "out/thin": values.reshape(-1)[::2], "in/x": values},
        **{"override/head.bias": np.array([7, 8], np.float32)},
    )
    monkeypatch.setenv("HANDHOLD_GOLDEN", str(tmp_path))
    return golden("made")


def stream(name, seed):
    return np.random.RandomState((zlib.crc32(name.encode()) + 7919 * seed) % 2**32)


def test_state_dict_follows_the_rules(made):
    entries = made.state_dict()
    assert "hand.th_faces" not in entries
    assert entries["beta"].tolist() == [0.25]
    assert entries["head.bias"].tolist() == [7, 8]
    truth = {
        "a.weight": stream("a.weight", 5).standard_normal((4, 3)) / np.sqrt(3),
        "b.weight": 2 * (stream("b.weight", 5).standard_normal((2, 2, 2)) / 2).astype(np.float32),
        "norm.weight": stream("norm.weight", 5).uniform(0.5, 1.0, 4),
        "norm.bias": 0.1 * stream("norm.bias", 5).standard_normal(4),
        "norm.running_var": stream("norm.running_var", 5).uniform(0.5, 1.5, 4),
        "norm.running_mean": 0.1 * stream("norm.running_mean", 5).standard_normal(4),
    }
    for key, value in truth.items():
        np.testing.assert_array_equal(entries[key].numpy(), value.astype(np.float32))
    assert entries["norm.num_batches_tracked"].dtype == torch.int64
    assert not torch.equal(made.state_dict(seed=6)["a.weight"], entries["a.weight"])


def test_frozen_numbers(made):
    """From the format's description: seed and name alone give the number, on any machine."""
    first = stream("one", 5)
    cells, noise = first.uniform(0, 1, (1, 3, 8, 8)), first.uniform(0, 1, (1, 3, 8, 8))
    images = made.generated_inputs()["img"]
    assert images.shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(images[0], (0.8 * cells + 0.2 * noise)[0].astype(np.float32))
    assert images[1].min() < 0


def test_compare(made):
    values = made.tensor("x")
    assert made.forgotten() == ["whole", "thin"]
    assert made.compare("whole", values) == 0
    assert made.compare("thin", values + 3e-4) == pytest.approx(3e-4 / 4, rel=1e-2)
    assert made.forgotten() == []
    for wrong in (values + 1e-3, values * float("nan"), values[:1], values.t()):
        with pytest.raises(FAILED):
            made.compare("whole", wrong)
    with pytest.raises(FAILED):
        made.compare("other", values)


def test_missing_files_fail(made, golden):
    with pytest.raises(FAILED, match=r"absent\.json"):
        golden("absent")
