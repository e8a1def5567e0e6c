"""`handhold VERB ...`: finds the verb's file, lets tyro parse its options, prints errors as one
line.

Every file beside this one that holds a verb defines `COMMANDS`: a function or dataclass for tyro,
or a dictionary of sub-verbs. A function returns the exit code or None (0). Only the file of the
verb that is asked for is imported.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from handhold.errors import HandholdError

VERBS = {
    "predict": "photos to 3D hands: pictures, GLB and JSON",
    "demo": "make scenes with known truth, predict them and compare",
    "synth": "make synthetic labelled scenes and grasps (`handhold synth scenes`)",
    "data": "published data sets: check, index, view, export (`handhold data check`)",
    "train": "train a network",
    "boost": "train a network on photos of novel grasps, from meshes on (HandBooster)",
    "eval": "measure a model on synthetic scenes, labelled photos or published sets",
    "protocols": "what each protocol of `eval` gives a method, aligns and counts",
    "fid": "how far made pictures are from real ones (FID)",
    "submit": "write the file that the evaluation server of HO3D or FreiHAND takes",
    "models": "list the methods and their sizes",
    "export": "one file, from photo to hands, for ONNX Runtime",
    "weights": "import the original authors' checkpoints (`handhold weights import`)",
    "doctor": "say what is installed, what is missing and what this machine can do",
}


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    head = "usage: handhold VERB [options]      (handhold VERB --help explains the options)"
    return "\n".join([head, "", *lines])


def _first_line(command: Any) -> str:
    return (command.__doc__ or "").strip().partition("\n")[0]


def _call(command: Any, arguments: Sequence[str], name: str) -> int:
    import tyro

    if isinstance(command, dict):
        if not arguments or arguments[0] not in command:
            wanted = bool(arguments) and arguments[0] not in ("-h", "--help")
            if wanted:
                print(f"handhold: there is no {name} {arguments[0]}", file=sys.stderr)
            lines = [f"  {verb:<10}  {_first_line(part)}" for verb, part in command.items()]
            print("\n".join([f"usage: {name} VERB [options]", "", *lines]))
            return 2 if wanted else 0
        return _call(command[arguments[0]], arguments[1:], f"{name} {arguments[0]}")
    result = tyro.cli(command, prog=name, args=list(arguments))
    return result if isinstance(result, int) else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; 0: done, 1: part of the work failed, 2: nothing could be done, 130:
    interrupted."""
    # Threads that wait asleep: spinning ones halve the speed where cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0
    if words[0] == "--version":
        from handhold import __version__

        print(__version__)
        return 0
    if words[0] not in VERBS:
        print(f"handhold: there is no verb {words[0]!r}\n\n{_help()}", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(f"handhold.cli.{words[0]}")
        return _call(module.COMMANDS, words[1:], f"handhold {words[0]}")
    except HandholdError as error:
        print(f"handhold: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("handhold: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as in `handhold models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.strerror is None:  # none of the system's: a defect of ours
            raise
        named = error.filename2 or error.filename
        where = "" if named is None else f"{os.fsdecode(named)}: "
        print(f"handhold: {where}{error.strerror}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
