"""`handhold weights`: import the authors' checkpoints, pack trained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro


def import_weights(
    method: Annotated[Literal["hflnet", "unihope"], tyro.conf.Positional],
    file: Annotated[Path, tyro.conf.Positional],
    out: Path,
    origin: Literal["auto", "original", "unihope"] = "auto",
    input_size: Literal["auto", "128", "256"] = "auto",
    precision: Literal["fp16", "fp32"] = "fp32",
) -> None:
    """Turn a checkpoint of the original authors into a weights file of handhold.

    Nothing in the file is executed, and the hand model's data inside it are left behind. The
    authors' licence stays what it is.

    Args:
        method: hflnet or unihope.
        file: The authors' .pth or .tar file.
        out: Weights file to write (.safetensors).
        origin: hflnet only: the original repository (4 attention heads, wrist-centred) or UniHOPE's
            copy (8 heads); auto looks at what stands beside the weights in the file.
        input_size: Side of the crops it was trained with. hflnet: auto is 256 (UniHOPE's DexYCB
            training used 128); unihope: auto reads it from the switch, which must agree.
        precision: fp16 halves the file.
    """
    import dataclasses
    import hashlib

    from handhold.errors import InputError
    from handhold.models.hflnet import official as hflnet
    from handhold.models.registry import entry
    from handhold.models.unihope import official as unihope
    from handhold.models.weights import save_weights

    if out.suffix != ".safetensors":
        raise InputError(f"--out: expected a file named .safetensors, found {out.name!r}")
    size = None if input_size == "auto" else int(input_size)
    if method == "hflnet":
        network = hflnet.load_official(file, origin=origin, input_size=size)
    else:
        network = unihope.load_official(file)
        if size not in (None, network.config.input_size):
            raise InputError(
                f"--input-size: the switch in {file.name} was made for "
                f"{network.config.input_size}, found {size}"
            )
    processor = dataclasses.replace(entry(method).processor(), input_size=network.config.input_size)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    extra = {
        "processor": dataclasses.asdict(processor),
        "source": {"file": file.name, "sha256": digest},
        "licence": entry(method).licence,
    }
    save_weights(out, network, model=method, extra=extra, precision=precision)
    print(f"{out}: {sum(p.numel() for p in network.parameters()):,} parameters of {method}")
    print(f"licence: {entry(method).licence}")


def pack(
    file: Annotated[Path, tyro.conf.Positional],
    out: Path,
    config: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE")] = (),
) -> None:
    """Halve a trained weights file and leave out whose folders it was trained from.

    Kernels become float16; the header keeps the configuration and, of every data source, the kind
    and the folder's name without its path.

    Args:
        file: Weights file of `handhold train`.
        out: File to write (.safetensors).
        config: Changes to the stored configuration that need no training, such as the detector's
            score_threshold=0.3.
    """
    import dataclasses
    import json

    from handhold.errors import InputError
    from handhold.models.weights import read_weights, write_weights

    found = read_weights(file)
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


COMMANDS = {"import": import_weights, "pack": pack}
