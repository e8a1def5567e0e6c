"""Draw the pictures of the smoke runs for the cards.

    python tools/draw_smoke.py runs

takes each folder runs/METHOD-smoke of `handhold train METHOD-smoke`, prints what it reached, and
writes smoke.png beside the method's card.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import handhold
from handhold.training.curves import draw_summary, read_metrics
from handhold.training.recipes.smoke import RECIPES

MEASURE = "synthetic/pa_mpjpe_mm"
AIM = 3.0


def main() -> None:
    """Draw and print."""
    parser = argparse.ArgumentParser(description="pictures of the smoke runs, for the cards")
    parser.add_argument("runs", type=Path, help="folder that holds METHOD-smoke folders")
    folder = parser.parse_args().runs
    for name in RECIPES:
        rows = read_metrics(folder / name / "metrics.jsonl")
        measured = [row for row in rows if MEASURE in row]
        if not measured:
            print(f"{name:<28} no finished run in {folder}")
            continue
        method = name.removesuffix("-smoke").replace("-", "_")
        picture = Path(handhold.__file__).parent / "models" / method / "smoke.png"
        draw_summary(rows, picture, MEASURE, aim=AIM, title=name)
        reached = next((row["step"] for row in measured if row[MEASURE] < AIM), None)
        first = next(row for row in rows if "loss/total" in row)["loss/total"]
        last = [row for row in rows if "loss/total" in row][-1]["loss/total"]
        print(
            f"{name:<28} {measured[-1]['step']:>5} steps  loss {first:.3g} -> {last:.3g}  "
            f"PA-MPJPE {measured[-1][MEASURE]:.2f} mm, below {AIM:g} mm first at step "
            f"{reached or '-'}  {picture.stat().st_size / 1000:.0f} kB"
        )


if __name__ == "__main__":
    main()
