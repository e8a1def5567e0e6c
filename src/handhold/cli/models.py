"""`handhold models`: the methods, and how large they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

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
    from handhold.models.photo_registry import PHOTO_MODELS
    from handhold.models.registry import MODELS

    console = Console()
    if not sizes:
        table = Table("model", "what", "weights", box=SIMPLE)
        table.columns[0].no_wrap = True
        for name, entry in {**MODELS, **PHOTO_MODELS}.items():
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
    photo_sizes(console)
    return 0 if all(row.agrees(TOLERANCE) for row in rows) else 1


def photo_sizes(console: Console) -> None:
    """Print the table of the methods that see whole photos."""
    from rich.box import SIMPLE
    from rich.table import Table

    from handhold.models.photo_registry import PHOTO_MODELS
    from handhold.models.photo_sizes import (
        PAPER_DETECTOR_GFLOP,
        PAPER_HAND_GFLOP,
        measure_photo_model,
    )

    table = Table(box=SIMPLE)
    titles = (
        "whole photos",
        "detector",
        "learns",
        "GFLOP: detector",
        "photo",
        "each hand",
        "paper",
    )
    for title in titles:
        table.add_column(title, no_wrap=True, justify="left" if title[:1] == "w" else "right")
    for name in PHOTO_MODELS:
        size = measure_photo_model(name)
        parameters, work = size.detector_parameters, size.detector
        table.add_row(
            f"{name} {size.pixels[0]}x{size.pixels[1]}",
            "not counted" if parameters is None else f"{parameters / 1e6:.2f} M",
            f"{size.parameters / 1e6:.2f} M",
            "not counted" if work is None else f"{work / 1e9:.2f}",
            f"{(size.side_tuning + size.values) / 1e9:.2f}",
            f"{size.hand / 1e9:.2f}",
            f"{PAPER_DETECTOR_GFLOP} + {PAPER_HAND_GFLOP} H" if name == "handos-paper" else "",
        )
    console.print(table)
    console.print(
        "Whole photos: two operations for a multiply-add of convolutions, linear layers and "
        "products inside\nattention; sampling and norms are not counted. photo: side tuning and "
        "the value projections, once\na photo. paper: detector and decoder in GFLOP for H hands; "
        "its counting rule is not told, so the\nfigures need not agree. Grounding DINO itself is "
        "not counted.",
        soft_wrap=True,
    )


COMMANDS = models
