"""`handhold protocols`: what each way of measuring gives a method, aligns and counts."""

from __future__ import annotations

from typing import Annotated

import tyro

SHORT = ("table", "data", "given", "aligned")


def protocols(names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()) -> None:
    """List the protocols of `handhold eval`: what each is for, what it gives and what it aligns.

    Args:
        names: Protocols, or the beginnings of their names, as in dexycb-s0: these are explained in
            full, with what counts and what their tables print. Without any, all are listed.
    """
    from handhold.errors import InputError
    from handhold.evaluation.protocols import PROTOCOLS

    for name in names:
        if not any(known.startswith(name) for known in PROTOCOLS):
            raise InputError(
                f"protocols: none begins with {name!r}; there are {', '.join(PROTOCOLS)}"
            )
    chosen = [p for p in PROTOCOLS.values() if not names or p.name.startswith(names)]
    told = {found.name: found.explain() for found in chosen}
    if not names:
        told = {
            name: {head: words[head] for head in SHORT if head in words}
            for name, words in told.items()
        }
    print("\n\n".join(_paragraph(name, words) for name, words in told.items()))


def _paragraph(name: str, told: dict[str, str]) -> str:
    import textwrap

    width = max(map(len, told))
    lines = [name]
    for head, words in told.items():
        start = f"  {head:<{width}}  "
        lines += textwrap.wrap(
            words,
            100,
            initial_indent=start,
            subsequent_indent=" " * len(start),
            break_on_hyphens=False,
        )
    return "\n".join(lines)


COMMANDS = protocols
