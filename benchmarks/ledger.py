"""Make the reproduction ledger's page, docs/ledger.md, from benchmarks/ledger.json.

    python benchmarks/ledger.py            write the page
    python benchmarks/ledger.py --check    say whether it is up to date (exit code 1: it is not)

A cell of the ledger is a number or the name of a reason why there is none. A figure of ours, or one
measured with the authors' weights, is entered with its seed and date, as the row's command printed
it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from handhold.evaluation.protocols import protocol

LEDGER = Path(__file__).with_name("ledger.json")
PAGE = Path(__file__).parent.parent / "docs" / "ledger.md"
CELLS = ("paper", "authors_weights", "ours")
HEAD = """# Reproduction ledger

Made by `python benchmarks/ledger.py` from `benchmarks/ledger.json`; change that file.

What the papers print, what their authors' weights give here and what our own training gives, each
under the protocol of the published table (`handhold protocols` tells what each gives and aligns).
FOLDER is the data set's official files, MANO the folder of the official hand models, WEIGHTS a file
of `handhold weights import` or of a training here. Errors are millimetres, shares 0 to 1. What the
weights that ship with the package reach is on the methods' cards, and so are the networks' sizes
beside those that the papers print.

Empty cells, by letter:
"""


def check(ledger: dict[str, Any]) -> list[str]:
    """What is wrong with the ledger's rows, as sentences."""
    wrong = []
    for row in ledger["rows"]:
        where = f"{row['method']}, {row['protocol']}"
        for cell in row["cells"]:
            for name in CELLS:
                value = cell[name]
                if isinstance(value, str) and value not in ledger["reasons"]:
                    wrong.append(f"{where}: {cell['number']}: {name}: no reason {value!r}")
                elif not isinstance(value, (int, float, str)) or isinstance(value, bool):
                    wrong.append(f"{where}: {cell['number']}: {name}: neither number nor reason")
            measured = any(isinstance(cell[name], (int, float)) for name in CELLS[1:])
            if measured and (cell["seed"] is None or cell["date"] is None):
                wrong.append(f"{where}: {cell['number']}: a measured figure needs seed and date")
            if row["protocol"] is not None:
                columns = [c.rpartition("/")[2] for c in protocol(row["protocol"]).columns]
                if cell["number"] not in columns:
                    wrong.append(f"{where}: the table does not print {cell['number']}")
    return wrong


def page(ledger: dict[str, Any]) -> str:
    """The ledger as Markdown."""
    letters = {name: chr(ord("a") + place) for place, name in enumerate(ledger["reasons"])}

    def shown(value: Any) -> str:
        return f"({letters[value]})" if isinstance(value, str) else f"{value:g}"

    lines = [HEAD, *(f"- ({letters[name]}) {words}" for name, words in ledger["reasons"].items())]
    method = None
    methods = list(dict.fromkeys(row["method"] for row in ledger["rows"]))
    for row in sorted(ledger["rows"], key=lambda row: methods.index(row["method"])):
        if row["method"] != method:
            method = row["method"]
            lines += ["", f"## {method}"]
        named = "no protocol" if row["protocol"] is None else f"`{row['protocol']}`"
        table = "" if row["protocol"] is None else f": {protocol(row['protocol']).table}"
        lines += ["", f"**{named}**{table}, on {row['data']}"]
        if row["note"]:
            lines += ["", row["note"]]
        lines += [
            "",
            "| number | paper | authors' weights | ours | seed | date |",
            "|---|---|---|---|---|---|",
        ]
        for cell in row["cells"]:
            values = [shown(cell[name]) for name in CELLS]
            told = ["-" if cell[name] is None else str(cell[name]) for name in ("seed", "date")]
            lines.append(f"| {' | '.join([cell['number'], *values, *told])} |")
        if row["command"] in ledger["reasons"]:
            lines += ["", f"Command: {shown(row['command'])}"]
        else:
            lines += ["", f"`{row['command']}`"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    asked = parser.parse_args()
    ledger = json.loads(LEDGER.read_text(encoding="utf-8"))
    wrong = check(ledger)
    for words in wrong:
        print(f"{LEDGER.name}: {words}", file=sys.stderr)
    if wrong:
        return 1
    text = page(ledger)
    if asked.check:
        fresh = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print(f"{PAGE.name} is {'up to date' if fresh else 'old: run python benchmarks/ledger.py'}")
        return 0 if fresh else 1
    temporary = PAGE.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(PAGE)
    print(f"written: docs/{PAGE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
