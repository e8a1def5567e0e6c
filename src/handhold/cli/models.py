"""`handhold models`: the methods, and how large they are."""

from __future__ import annotations

TOLERANCE = 0.01  # of the paper's figure


def models(sizes: bool = False) -> int:
    """List the methods.

    Args:
        sizes: Build each and count parameters and multiply-adds, beside the paper's figures;
            exit code 1 where one is off by more than 1 %.
    """
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from handhold.models.loading import shipped_weights
    from handhold.models.registry import MODELS

    console = Console()
    if not sizes:
        table = Table("model", "what", "weights", box=SIMPLE)
        table.columns[0].no_wrap = True
        for name, entry in MODELS.items():
            there = "in the package" if shipped_weights(name) else "not here"
            table.add_row(name, f"{entry.summary}\n{entry.paper}\n{entry.licence}", there)
        console.print(table)
        console.print(
            "switched: a pair of two of them and a grasp classifier, one file of `handhold weights "
            "pair`.",
            soft_wrap=True,
        )
        return 0

    from handhold.models.sizes import compare

    table = Table(box=SIMPLE)
    for title in ("configuration", "parameters", "counted", "paper", "GMACs", "paper", "+", ""):
        table.add_column(title, no_wrap=True, justify="left" if title[:1] == "c" else "right")
    rows = [row for name in MODELS for row in compare(name)]
    for row in rows:
        table.add_row(
            f"{row.label} {row.input_size}",
            f"{row.size.parameters:,}",
            f"{row.size.counted_parameters / 1e6:.2f} M",
            "" if row.paper_parameters is None else f"{row.paper_parameters / 1e6:.2f} M",
            f"{row.size.counted / 1e9:.3f}",
            "" if row.paper_gmacs is None else f"{row.paper_gmacs:.2f}",
            f"{row.size.attention_macs / 1e9:.3f}",
            "" if row.paper_gmacs is None else "agrees" if row.agrees(TOLERANCE) else "DIFFERS",
        )
    console = Console(width=max(console.width, 110))  # a cut figure would mislead
    console.print(table)
    console.print(
        "The number after the name is the side of the crop. counted: parameters of the layers that "
        "run, as\nthe papers count. GMACs as they count: multiply-adds of convolutions and linear "
        "layers and four\noperations per element of norms; +: products inside attention, which "
        "they leave out.",
        soft_wrap=True,
    )
    for row in rows:
        if row.note:
            console.print(f"{row.label}: {row.note}.", soft_wrap=True)
    return 0 if all(row.agrees(TOLERANCE) for row in rows) else 1


COMMANDS = models
