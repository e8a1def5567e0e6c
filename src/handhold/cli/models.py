"""`handhold models`: the methods, and how large they are."""

from __future__ import annotations

TOLERANCE = 0.01  # of the paper's figure


def models(sizes: bool = False) -> int:
    """List the methods.

    Args:
        sizes: Build each and count parameters and multiply-adds, beside the paper's figures;
            exit code 1 where one is off by more than 1 %.
    """
    from rich.console import Console
    from rich.table import Table

    from handhold.models.registry import MODELS, shipped_weights

    console = Console()
    if not sizes:
        table = Table("model", "what", "paper", "weights")
        for name, entry in MODELS.items():
            there = "in the package" if shipped_weights(name) else "not in the package"
            table.add_row(name, entry.summary, entry.paper, there)
        console.print(table)
        return 0

    from handhold.models.sizes import compare

    table = Table("model", "parameters", "paper", "GMACs", "paper", "with attention", "pixels", "")
    rows = [row for name in MODELS for row in compare(name)]
    for row in rows:
        table.add_row(
            row.label,
            f"{row.size.parameters:,}",
            "" if row.paper_parameters is None else f"{row.paper_parameters:,}",
            f"{row.size.counted / 1e9:.3f}",
            "" if row.paper_gmacs is None else f"{row.paper_gmacs:.2f}",
            f"{(row.size.macs + row.size.attention_macs) / 1e9:.3f}",
            str(row.input_size),
            "" if row.paper_gmacs is None else "agrees" if row.agrees(TOLERANCE) else "DIFFERS",
        )
    console.print(table)
    console.print(
        "GMACs as the papers count: multiply-adds of convolutions and linear layers, four"
        " operations\nper element of norms, products inside attention left out; those are in the"
        " column after,\nwithout the norms."
    )
    return 0 if all(row.agrees(TOLERANCE) for row in rows) else 1


COMMANDS = models
