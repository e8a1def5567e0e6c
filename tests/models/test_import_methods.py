"""`handhold weights import` for every method, from a file in the original's layout to predictions.

What the importers do with single keys is tested beside each method.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.official_file import LAYOUTS, Danger, entries_of, write
from torch import Tensor, nn

from handhold.cli.weights import import_weights
from handhold.errors import WeightsError
from handhold.hand.model import HandModel
from handhold.models import registry
from handhold.models.loading import load_model
from handhold.models.processors import make_processor
from handhold.models.registry import MODELS
from handhold.models.switched import official as classifier
from handhold.models.switched.model import GraspClassifier, GraspClassifierConfig
from handhold.models.trained_hand import TrainedHand
from handhold.models.weights import fit, make_config, read_weights
from handhold.scene import Batch

METHODS = {
    "classifier": "grasp-classifier",
    "kypt": "keypoint-transformer",
    "kypt_ho3d": "keypoint-transformer",
    "hoisdf_ho3d": "hoisdf",
}
# smaller crops than the original's where the command allows them, which is quicker
OPTIONS: dict[str, dict[str, Any]] = {
    "hflnet": {"input_size": "128", "precision": "fp16"},
    "semihand": {"input_size": "128"},
    "mobrecon": {"template": "hand"},
    "h2onet": {"template": "hand"},
    "kypt_ho3d": {"precision": "fp16"},
    "hoisdf_ho3d": {"precision": "fp16"},
}
FREE = ("h2onet", "classifier")  # imported without MANO's files
GAPS = {  # an entry of the original -> what the message calls it
    "hflnet": ("hand_head.betas", r"hand_head\.sharpness"),
    "unihope": ("obj_conf_layer.2.bias", r"switch\.out\.bias"),
    "semihand": ("base_net.smooth1.bias", r"backbone\.pyramid\.smooth_p4\.bias"),
    "handoccnet": ("FIT.conv1.2.bias", r"inject_tail\.conv2\.bias"),
    "mobrecon": ("decoder3d.upsample", r"decoder\.lift"),
    "h2onet": ("decoder3d.upsample", r"decoder\.lift"),
    "simplehand": ("keypoints_2d_head.bias", r"joints_head\.bias"),
    "kypt": ("linear_cam.layers.1.bias", r"camera_head\.layers\.1\.bias"),
    "kypt_ho3d": ("linear_shape.layers.1.bias", r"shape_head\.layers\.1\.bias"),
    "hoisdf": ("linear_shape.layers.1.bias", r"hand_head\.shape\.layers\.1\.bias"),
    "hoisdf_ho3d": ("linear_shape.layers.1.bias", r"hand_head\.shape\.layers\.1\.bias"),
    "classifier": ("obj_conf_layer.2.bias", r"head\.out\.bias"),
}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The networks that importers give to the command; fresh weights are left undefined."""
    networks: list[nn.Module] = []

    def kept(importer: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        @functools.wraps(importer)
        def run(*values: Any, **options: Any) -> nn.Module:
            networks.append(importer(*values, **options))
            return networks[-1]

        return run

    for method in set(METHODS.values() | LAYOUTS.keys()) & set(MODELS):
        told = MODELS[method]
        assert told.importer is not None
        changed = {**vars(told), "importer": kept(told.importer)}
        monkeypatch.setitem(registry.MODELS, method, type(told)(**changed))
    monkeypatch.setattr(classifier, "load_official", kept(classifier.load_official))
    draws = ("normal_", "uniform_", "trunc_normal_")
    for name in (*draws, "kaiming_normal_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *values, **options: tensor)
    return networks


def _output(case: str, network: Any, batch: Batch) -> Tensor:
    """One output; of the largest networks, the heatmaps of a small image."""
    with torch.no_grad():
        if case.endswith("_ho3d"):
            return network.decoder(network.backbone(batch.image[..., :64, :64]))[1]["heatmap"]
        found = network(batch)
    return found.grasp_logits if case == "classifier" else found.joints


@pytest.mark.parametrize("case", LAYOUTS)
def test_import_and_load(
    case: str,
    made: list[nn.Module],
    make_items: Callable[..., Any],
    other_mano: Path,
    hand: HandModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every number arrives where the importer puts it, and the network gives the same."""
    path, out = write(tmp_path / "snapshot.pth.tar", case), tmp_path / "x.safetensors"
    method, options = METHODS.get(case, case), OPTIONS.get(case, {})
    mano = None if case in FREE else other_mano
    import_weights(method, path, out=out, mano=mano, **options)
    direct: Any = made[-1]
    count = sum(parameter.numel() for parameter in direct.parameters())
    assert f"{count:,} parameters of {method}" in capsys.readouterr().out
    file = read_weights(out)
    assert file.extra["source"]["file"] == path.name
    assert not [key for key in file.entries if "mano_layer" in key or ".th_" in key]
    if case == "classifier":
        network: Any = GraspClassifier(make_config(GraspClassifierConfig, file.config, "x")).eval()
        fit(network, file.entries, "x")
        settings = MODELS["unihope"].processor().fitted(network.config)
        eaten: Any = make_processor(settings, network.config, hand)
        assert file.hand is None
    else:
        model = load_model(method, weights=out, mano=mano)
        network, eaten = model.network, model.processor
        assert file.hand == TrainedHand.of(direct.hand)
    out.unlink()
    assert network.config == direct.config
    assert eaten.config.input_size == network.config.input_size
    state = direct.state_dict()
    if options.get("precision") == "fp16":  # kernels lose digits, vectors none
        rounded = {k: v.half().float() if v.ndim > 1 else v for k, v in state.items()}
        direct.load_state_dict(rounded)
        state = rounded
    found = network.state_dict()
    assert state.keys() == found.keys()
    assert [key for key in state if not torch.equal(state[key], found[key])] == []
    batch = eaten.encode(make_items(1))
    expected, told = _output(case, direct, batch), _output(case, network, batch)
    assert bool(expected.isfinite().all())
    assert float(expected.std(unbiased=False)) > 0 or expected.numel() == 1
    assert torch.equal(expected, told)


@pytest.mark.parametrize("case", LAYOUTS)
def test_refusals(case: str, made: list[nn.Module], tmp_path: Path) -> None:
    """Leftovers, gaps and code in a file; nothing is written."""
    path, out = tmp_path / "snapshot.pth.tar", tmp_path / "x.safetensors"
    method, options = METHODS.get(case, case), OPTIONS.get(case, {})
    entries, prefix = entries_of(case), LAYOUTS[case].prefix
    key, ours = GAPS[case]

    def refused(content: dict[str, Any], message: str) -> None:
        write(path, case, content)
        with pytest.raises(WeightsError, match=message):
            import_weights(method, path, out=out, **options)
        assert list(tmp_path.iterdir()) == [path]

    refused(entries | {"surplus.weight": torch.zeros(1)}, rf"lacks: {prefix}surplus\.weight")
    refused({k: v for k, v in entries.items() if k != key}, f"missing {ours}")
    refused({key: Danger()}, "objects other than tensors")
    assert not Danger.ran
    assert made == []
