"""Weights know the hand model they were trained with; a made-up second hand is the other one."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from handhold.cli.weights import pack
from handhold.cli.weights import pair as pair_command
from handhold.errors import InputError, WeightsError
from handhold.hand.files import FREE_HAND
from handhold.hand.model import HandModel
from handhold.inference.estimator import Estimator
from handhold.models.loading import build_model, load_model
from handhold.models.registry import MODELS
from handhold.models.switched.model import GraspClassifier, GraspClassifierConfig
from handhold.models.trained_hand import FREE, OFFICIAL, TrainedHand, fits_one_hand
from handhold.models.weights import read_weights, save_weights
from handhold.training.build_hands import hand_task
from handhold.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint, start_from
from handhold.training.config import TrainConfig
from handhold.training.run import train

SMALL: dict[str, Any] = {
    "depths": [1, 1, 1, 1],
    "widths": [8, 16, 32, 64],
    "token_widths": [16, 16, 8],
}
FIX = r"pass --mano FOLDER \(mano\) with the files of MANO_RIGHT\.npz"


@pytest.fixture(scope="module")
def other(other_mano: Path) -> HandModel:
    return HandModel.load(other_mano, "right")


def _save(path: Path, hand: HandModel) -> Path:
    config = dataclasses.replace(MODELS["simplehand-small"].config(), **SMALL)
    built = build_model("simplehand-small", config=config, hand=hand)
    return save_weights(path, built.network, model="simplehand-small")


def test_hash_tells_hands_apart(hand: HandModel, other: HandModel) -> None:
    free = TrainedHand.of(hand)
    assert free.name == FREE
    assert TrainedHand.of(other).name == "MANO_RIGHT.npz"
    assert TrainedHand.of(HandModel.free()) == free
    assert TrainedHand.of(hand.with_tips("smplx")) == free
    assert TrainedHand.of(other).sha256 != free.sha256
    for field in ("shapedirs", "posedirs", "J_regressor", "weights", "faces"):
        changed = getattr(hand.arrays, field).copy()
        changed.flat[0] += 1
        made = HandModel(dataclasses.replace(hand.arrays, **{field: changed}), side="right")
        assert TrainedHand.of(made).sha256 != free.sha256, field
    assert not free.agrees(OFFICIAL)
    assert TrainedHand.of(other).agrees(OFFICIAL)
    assert free.agrees(TrainedHand(name=FREE))


def test_only_name_and_hash_are_stored(other: HandModel, tmp_path: Path) -> None:
    path = _save(tmp_path / "a.safetensors", other)
    with safe_open(path, framework="pt") as file:
        told = file.metadata()["hand"]
    told_hand = TrainedHand.of(other)
    assert told == f'{{"name": "MANO_RIGHT.npz", "sha256": "{told_hand.sha256}"}}'
    assert read_weights(path).hand == told_hand


def test_vertex_networks_refuse_another_hand(
    hand: HandModel, other: HandModel, other_mano: Path, tmp_path: Path
) -> None:
    path = _save(tmp_path / "other.safetensors", other)
    with pytest.raises(WeightsError, match=rf"trained with MANO_RIGHT\.npz .*{FREE}.*{FIX}"):
        load_model("simplehand-small", weights=path)
    with pytest.raises(WeightsError, match=FIX):  # what predict and eval build
        Estimator("simplehand-small", detector="none", weights=path)
    found = load_model("simplehand-small", weights=path, mano=other_mano)
    assert torch.equal(found.network.hand.template, other.template)
    path = _save(tmp_path / "free.safetensors", hand)
    with pytest.raises(WeightsError, match=rf"{FREE}.*MANO_RIGHT\.npz.*leave out --mano"):
        load_model("simplehand-small", weights=path, mano=other_mano)
    assert load_model("simplehand-small", weights=path).network.hand.is_free


def test_environment_counts(
    hand: HandModel, other_mano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _save(tmp_path / "free.safetensors", hand)
    monkeypatch.setenv("HANDHOLD_MANO", str(other_mano))
    with pytest.raises(WeightsError, match="unset HANDHOLD_MANO"):
        load_model("simplehand-small", weights=path)


def test_unknown_hash_and_no_record(hand: HandModel, other_mano: Path, tmp_path: Path) -> None:
    """Authors' weights imported without MANO's files; files of earlier releases."""
    network = load_model(
        "simplehand-small", weights=_save(tmp_path / "a.safetensors", hand)
    ).network
    path = save_weights(
        tmp_path / "b.safetensors", network, model="simplehand-small", hand=OFFICIAL
    )
    with pytest.raises(WeightsError, match=r"MANO \(unknown hash\).*pass --mano FOLDER"):
        load_model("simplehand-small", weights=path)
    load_model("simplehand-small", weights=path, mano=other_mano)
    with safe_open(path, framework="pt") as file:
        header = {k: v for k, v in file.metadata().items() if k != "hand"}
    save_file(load_file(path), path, metadata=header)
    for mano in (None, other_mano):
        load_model("simplehand-small", weights=path, mano=mano)
    save_file(load_file(path), path, metadata=header | {"hand": '{"name": 3}'})
    with pytest.raises(WeightsError, match="hand in its header: expected name and sha256"):
        load_model("simplehand-small", weights=path)


def test_networks_that_give_pose_and_betas_warn(
    tiny_hflnet: Any, other: HandModel, other_mano: Path, tmp_path: Path
) -> None:
    built = build_model("hflnet", config=tiny_hflnet, hand=other)
    path = save_weights(tmp_path / "a.safetensors", built.network, model="hflnet")
    with pytest.warns(UserWarning, match=rf"its pose and betas mean another hand: {FIX}"):
        load_model("hflnet", weights=path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model("hflnet", weights=path, mano=other_mano)


def test_which_methods_fit_one_hand(hand: HandModel) -> None:
    """Those whose vertices do not come from the hand model inside."""
    found = {name for name, entry in MODELS.items() if hasattr(entry.network, "fits_one_hand")}
    assert found == {
        f"{name}{size}" for name in ("mobrecon", "h2onet", "simplehand") for size in ("", "-small")
    }
    with torch.device("meta"):
        network = MODELS["simplehand-small"].network(MODELS["simplehand-small"].config(), hand)
    assert fits_one_hand(torch.nn.ModuleList([network]))


def test_training_writes_it_and_starting_from_it(
    hand: HandModel, other: HandModel, other_mano: Path, tmp_path: Path
) -> None:
    def config(mano: Path | None) -> TrainConfig:
        given = None if mano is None else str(mano)
        return TrainConfig(model="simplehand-small", mano=given, network=SMALL, steps=1)

    task = hand_task(config(other_mano))
    path, checkpoint = tmp_path / "weights.safetensors", tmp_path / "run" / "last.ckpt"
    task.save(path, task.network, {})
    assert read_weights(path).hand == TrainedHand.of(other)
    state = {"network": task.network.state_dict(), "ema": None}
    told = Checkpoint(
        config=config(other_mano), done=0, seconds=0.0, state=state, hand=TrainedHand.of(other)
    )
    save_checkpoint(checkpoint, told)
    assert load_checkpoint(checkpoint).hand == TrainedHand.of(other)
    free = hand_task(config(None)).network
    for file in (path, checkpoint):
        assert start_from(file, hand_task(config(other_mano)).network) == []
        with pytest.raises(WeightsError, match=FIX):
            start_from(file, free)
    # a run that goes on, with another hand in the same folder
    np.savez(tmp_path / "changed.npz", **_fields(hand))
    moved = dataclasses.replace(config(other_mano), mano=str(tmp_path / "changed.npz"))
    save_checkpoint(checkpoint, dataclasses.replace(told, config=moved))
    with pytest.raises(WeightsError, match=FIX):
        train(moved, hand_task, tmp_path / "run")


def _fields(hand: HandModel) -> dict[str, Any]:
    with np.load(FREE_HAND) as archive:
        assert np.array_equal(archive["v_template"], hand.arrays.v_template)
        return {name: archive[name] for name in archive.files}


def test_packing_keeps_or_adds_it(
    hand: HandModel, other: HandModel, other_mano: Path, tmp_path: Path
) -> None:
    path, out = _save(tmp_path / "a.safetensors", other), tmp_path / "b.safetensors"
    pack(path, out)
    assert read_weights(out).hand == TrainedHand.of(other)
    with pytest.raises(
        InputError, match=r"--hand: .* was trained with MANO_RIGHT\.npz .*found the"
    ):
        pack(path, out, hand="free")
    with safe_open(path, framework="pt") as file:
        header = {k: v for k, v in file.metadata().items() if k != "hand"}
    save_file(load_file(path), path, metadata=header)
    pack(path, out)
    assert read_weights(out).hand is None
    pack(path, out, hand="free")
    assert read_weights(out).hand == TrainedHand.of(hand)
    pack(path, out, hand=str(other_mano))
    assert read_weights(out).hand == TrainedHand.of(other)


def test_pairs(
    tiny_hflnet: Any, hand: HandModel, other: HandModel, other_mano: Path, tmp_path: Path
) -> None:
    one = _save(tmp_path / "one.safetensors", other)
    looks = GraspClassifierConfig(
        block="basic", switch_width=4, input_size=64, depths=(1, 1, 1, 1), widths=(8, 8, 16, 16),
        stem_width=8, pyramid_width=16,
    )  # fmt: skip
    classifier = save_weights(
        tmp_path / "c.safetensors", GraspClassifier(looks), model="grasp-classifier"
    )
    assert read_weights(classifier).hand is None
    out = tmp_path / "pair.safetensors"
    for model, agrees in ((hand, False), (other, True)):
        network = build_model("hflnet", config=tiny_hflnet, hand=model).network
        two = save_weights(tmp_path / "two.safetensors", network, model="hflnet")
        if agrees:
            pair_command(one, two, classifier, out=out)
        else:
            with pytest.raises(
                WeightsError, match=r"MANO_RIGHT\.npz .*a pair needs weights of one"
            ):
                pair_command(one, two, classifier, out=out)
    assert read_weights(out).hand == TrainedHand.of(other)
    load_model("switched", weights=out, mano=other_mano)
    with pytest.raises(WeightsError, match=FIX):
        load_model("switched", weights=out)
