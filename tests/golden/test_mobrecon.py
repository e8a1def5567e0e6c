"""MobRecon against the activations of the originals, weights filled from the keys; the hierarchy
built from the made-up hand's mesh against the originals' tables."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handhold.hand.hierarchy import MeshHierarchy, build_hierarchy
from handhold.models.mobrecon.model import MobRecon, MobReconConfig
from handhold.models.mobrecon.official import config_for, convert
from handhold.models.weights import fit
from handhold.scene import Batch


def _batch(golden: Any) -> Batch:
    image = golden.generated_inputs()["img"]
    box = torch.tensor([[0.0, 0.0, image.shape[-1], image.shape[-1]]]).expand(len(image), 4)
    return Batch(image=image, hand_box=box, object_box=box)


def _run(golden: Any, entries: dict[str, Tensor], config: MobReconConfig) -> dict[str, Tensor]:
    network = MobRecon(config, golden.hand_model())
    fit(network, convert(entries), golden.name)
    capture: dict[str, Tensor] = {}
    with torch.no_grad():
        prediction = network.eval()(_batch(golden), capture)
    torch.testing.assert_close(prediction.vertices, capture["verts"] * config.unit)
    torch.testing.assert_close(prediction.joints2d, capture["joints_img"] * config.input_size)
    capture["parameters"] = torch.tensor(sum(p.numel() for p in network.parameters()))
    return capture


def test_every_output(golden: Callable[[str], Any]) -> None:
    stored = golden("mobrecon")
    entries = stored.state_dict()
    config = config_for(entries)
    assert config == MobReconConfig()
    found = _run(stored, entries, config)
    assert int(found["parameters"]) == stored.json["parameters"]
    for name in stored.outputs:
        if name in found:
            stored.compare(name, found[name])

    told = stored.json["variants"]["handbooster"]["state_dict_decoder"]
    plain = stored.json["state_dict"] | told
    plain = {k: v for k, v in plain.items() if k in told or not k.startswith("decoder3d.")}
    booster = _filled(stored, plain)
    assert config_for(booster) == MobReconConfig.handbooster()
    found = _run(stored, booster, MobReconConfig.handbooster())
    stored.compare("handbooster_verts", found["verts"])
    assert int(found["parameters"]) == stored.json["parameters_handbooster_variant"]

    mesh = {k: v for k, v in stored.json["state_dict"].items() if "de_layer_conv" not in k}
    for key in [k for k in mesh if ".dense_stack2.dense4." in k or ".dense_stack2.dense5." in k]:
        mesh[key.replace("dense_stack2", "dense_stack1")] = mesh[key]
    entries = _filled(stored, mesh)
    config = config_for(entries)
    assert config == MobReconConfig.handmesh()
    # the stored numbers are those of images in 0..1
    found = _run(stored, entries, dataclasses.replace(config, image_range="unit"))
    stored.compare("handmesh_verts", found["verts"])
    assert int(found["parameters"]) == stored.json["parameters_handmesh_variant"]
    assert not stored.forgotten()


def _filled(golden: Any, shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """The entries of a checkpoint with other keys, by the same rules."""
    other = copy.copy(golden)
    other.json = golden.json | {"state_dict": shapes}
    return other.state_dict()


def check_hierarchy(stored: Any, ours: MeshHierarchy) -> None:
    """Faces, kept vertices and spirals equal; up-sampling within 1e-5."""
    told = stored.json["config"]["hierarchy"]
    assert list(ours.sizes) == told["vertices"]
    assert [len(f) for f in ours.faces] == told["faces"]
    for level, spirals in enumerate(ours.spirals):
        np.testing.assert_array_equal(spirals, stored.inputs[f"spiral_{level}"])
        np.testing.assert_array_equal(ours.faces[level + 1], stored.inputs[f"faces_{level + 1}"])
        kept = stored.inputs[f"down_keep_{level}"]
        np.testing.assert_array_equal(ours.vertices[level][kept], ours.vertices[level + 1])
        found = np.zeros((ours.sizes[level], ours.sizes[level + 1]))
        expected = np.zeros_like(found)
        rows = np.arange(len(found))[:, None]
        np.add.at(found, (rows, ours.columns[level]), ours.weights[level])
        place = (stored.inputs[f"up_row_{level}"], stored.inputs[f"up_col_{level}"])
        np.add.at(expected, place, stored.inputs[f"up_val_{level}"])
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_hierarchy(golden: Callable[[str], Any]) -> None:
    for name in ("mobrecon", "h2onet"):
        stored = golden(name)
        hand = stored.hand_model()
        check_hierarchy(stored, build_hierarchy(hand.arrays.v_template, hand.arrays.faces))
