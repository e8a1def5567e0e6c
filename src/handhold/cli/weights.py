"""`handhold weights`: import the authors' checkpoints, pack trained weights, make pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro


def import_weights(
    method: Annotated[str, tyro.conf.Positional],
    file: Annotated[Path, tyro.conf.Positional],
    out: Path,
    origin: str = "auto",
    input_size: Literal["auto", "128", "224", "256", "512"] = "auto",
    template: str | None = None,
    mano: Path | None = None,
    precision: Literal["fp16", "fp32"] = "fp32",
) -> None:
    """Turn a checkpoint of the original authors into a weights file of handhold.

    Nothing in the file is executed, and the hand model's data inside it are left behind. The
    authors' licence stays what it is.

    Args:
        method: A method of `handhold models` with released weights, such as hflnet, unihope,
            semihand, handoccnet, mobrecon, h2onet, simplehand; or handbooster (its image
            synthesizer), grasp-classifier.
        file: The authors' .pth or .tar file.
        out: Weights file to write (.safetensors).
        origin: Whose code trained it, where several did and their networks differ: original (the
            method's own repository; mobrecon: handmesh), unihope, handbooster. auto looks at what
            stands in the file.
        input_size: Side of the crops it was trained with. hflnet: auto is 256 (UniHOPE's DexYCB
            training used 128); semihand: auto is 512; all others tell it themselves, and must
            agree.
        template: mobrecon and h2onet: the authors' up-sampling table, transform.pkl (read as data),
            which their released weights need; or "hand", for weights that were trained with the
            mesh hierarchy of the loaded hand model.
        mano: Folder with the official MANO files, whose hand the weights were trained with; its
            hash goes into the header (without it, the name MANO alone).
        precision: fp16 halves the file.
    """
    import dataclasses
    import hashlib
    import inspect
    from typing import Any

    from handhold.errors import InputError
    from handhold.hand.model import HandModel
    from handhold.models.handbooster import official as synthesizer
    from handhold.models.handbooster.weights import LICENCE, NAME
    from handhold.models.registry import MODELS
    from handhold.models.switched import official as classifier
    from handhold.models.trained_hand import OFFICIAL, TrainedHand, hand_of
    from handhold.models.weights import save_weights

    if out.suffix != ".safetensors":
        raise InputError(f"--out: expected a file named .safetensors, found {out.name!r}")
    importers: dict[str, Any] = {
        name: entry.importer for name, entry in MODELS.items() if entry.importer is not None
    }
    importers[NAME] = synthesizer.load_official
    importers["grasp-classifier"] = classifier.load_official
    if method not in importers:
        raise InputError(f"method: expected one of {', '.join(importers)}, found {method!r}")
    size = None if input_size == "auto" else int(input_size)
    accepted = inspect.signature(importers[method]).parameters
    options: dict[str, Any] = {}
    if origin != "auto":
        options["origin"] = origin
    if size is not None and "input_size" in accepted:
        options["input_size"] = size
    if template is not None:
        options["template"] = template if template == "hand" else Path(template)
    hand = HandModel.load(mano, "right")
    if mano is not None or "hand" in accepted:
        options["hand"] = hand
    for name in options:
        if name not in accepted:
            raise InputError(f"--{name.replace('hand', 'mano')}: {method} does not need it")
    network = importers[method](file, **options)
    if size not in (None, network.config.input_size):
        raise InputError(
            f"--input-size: {file.name} was made for {network.config.input_size}, found {size}"
        )
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    licence = LICENCE
    extra: dict[str, Any] = {"source": {"file": file.name, "sha256": digest}}
    if method != NAME:  # which eats no photos
        # the classifier is UniHOPE's, crops included
        told = MODELS["unihope" if method == "grasp-classifier" else method]
        eaten = told.processor() if told.imported is None else told.imported(network.config)
        extra["processor"] = dataclasses.asdict(eaten.fitted(network.config))
        licence = told.licence
    extra["licence"] = licence
    trained = None
    if hand_of(network) is not None:
        trained = OFFICIAL if hand.is_free and template != "hand" else TrainedHand.of(hand)
    save_weights(out, network, model=method, extra=extra, precision=precision, hand=trained)
    print(f"{out}: {sum(p.numel() for p in network.parameters()):,} parameters of {method}")
    print(f"licence: {licence}")


def pair(
    hand_only: Path,
    hand_object: Path,
    classifier: Path,
    out: Path,
    threshold: float = 0.5,
) -> None:
    """Join three weights files to a pair "A + B", used as `--model switched --weights OUT`.

    The classifier looks at every hand: those that grasp nothing go to network A, the others to B.

    Args:
        hand_only: Weights of A, such as mobrecon's or handoccnet's.
        hand_object: Weights of B, such as hflnet's or semihand's; its crops are the pair's.
        classifier: Weights of grasp-classifier (`handhold train grasp-classifier`).
        out: File to write (.safetensors).
        threshold: Probability of grasping above which a hand goes to B.
    """
    from handhold.errors import InputError
    from handhold.models.switched.model import SwitchedConfig
    from handhold.models.switched.pair import join

    if out.suffix != ".safetensors":
        raise InputError(f"--out: expected a file named .safetensors, found {out.name!r}")
    config = SwitchedConfig(threshold=threshold)
    join(hand_only, hand_object, classifier, out, config=config)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def pack(
    file: Annotated[Path, tyro.conf.Positional],
    out: Path,
    config: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE")] = (),
    hand: str | None = None,
    shipped_detector: bool = False,
) -> None:
    """Halve a trained weights file and leave out whose folders it was trained from.

    Kernels become float16; the header keeps the configuration and, of every data source, the kind
    and the folder's name without its path.

    Args:
        file: Weights file of `handhold train`.
        out: File to write (.safetensors).
        config: Changes to the stored configuration that need no training, such as the detector's
            score_threshold=0.3.
        hand: Which hand model the weights were trained with, for files of earlier releases, which
            do not say it: "free", or the folder with the official MANO files.
        shipped_detector: Leave out HandOS's detector, which must be the one of this package.
    """
    import dataclasses
    import json

    from handhold.errors import InputError
    from handhold.hand.model import HandModel
    from handhold.models.handos.shipped import leave_out_detector
    from handhold.models.trained_hand import TrainedHand
    from handhold.models.weights import read_weights, write_weights

    found = read_weights(file)
    if hand is not None:
        told = TrainedHand.of(HandModel.free() if hand == "free" else HandModel.load(hand))
        if found.hand is not None and not found.hand.agrees(told):
            raise InputError(f"--hand: {file} was trained with {found.hand}, found {told}")
        found = dataclasses.replace(found, hand=told)
    if shipped_detector:
        found = leave_out_detector(found, str(file))
    changed = dict(found.config)
    for pair in config:
        name, _, text = pair.partition("=")
        if name not in changed:
            raise InputError(f"--config {pair}: the file knows {', '.join(changed)}")
        try:
            changed[name] = json.loads(text)
        except ValueError:
            raise InputError(f"--config {pair}: {text!r} is no number, list or word") from None
    extra = {name: _without_paths(value) for name, value in found.extra.items()}
    write_weights(out, dataclasses.replace(found, config=changed, extra=extra), "fp16")
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def _without_paths(value: object) -> object:
    """The same with `a:/folder/name=0.5` as `a:name=0.5`, at any depth (also in JSON texts)."""
    import json
    import re

    if isinstance(value, dict):
        return {name: _without_paths(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_paths(part) for part in value]
    if isinstance(value, str):
        if value[:1] in ("{", "["):
            return json.dumps(_without_paths(json.loads(value)))
        return re.sub(r"(^|:)(?:[^:=]*[/\\])+", r"\1", value)
    return value


COMMANDS = {"import": import_weights, "pack": pack, "pair": pair}
