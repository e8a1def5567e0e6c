"""Pictures of how alike grasp poses are, in the manner of HandBooster's figure 4."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from handhold.errors import MissingExtraError
from handhold.scene import FloatArray
from handhold.synthesis.sampling import farthest_poses, novelty, similarities


def mean_nearest(vectors: FloatArray) -> float:
    """How alike a set of poses (P, N) is: the mean of each one's similarity to the one most like
    it; 1 for a single pose."""
    if len(vectors) < 2:
        return 1.0
    matrix = similarities(vectors)
    np.fill_diagonal(matrix, -np.inf)
    return float(matrix.max(axis=1).mean())


def draw_similarities(
    real: FloatArray,
    synthetic: FloatArray,
    path: str | Path,
    *,
    real_count: int = 10,
    synthetic_count: int = 60,
    seed: int = 0,
    title: str = "",
) -> dict[str, float]:
    """Draw similarity matrices of real (P, N) and made (Q, N) pose vectors as PNG.

    Upper line: poses chosen at random; lower: by farthest pose sampling. Left: real with real;
    middle: made with made; right: made (rows, the most probable of equation 6 first) with real.
    Returns `mean_nearest` of the four sets by name. Raises MissingExtraError without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("plots need: pip install 'handhold[train]'") from error
    rng = np.random.default_rng(seed)
    real, synthetic = np.asarray(real), np.asarray(synthetic)
    counts = min(real_count, len(real)), min(synthetic_count, len(synthetic))
    figure = Figure(figsize=(9.6, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(2, 3)
    means: dict[str, float] = {}
    picture = None
    for line, way in zip(grid, ("random", "farthest"), strict=True):
        chosen = []
        for vectors, count in zip((real, synthetic), counts, strict=True):
            first = int(rng.integers(len(vectors)))
            numbers = rng.permutation(len(vectors))[:count]
            if way == "farthest":
                numbers = farthest_poses(vectors, count, start=first)
            chosen.append(vectors[numbers])
        means[f"real, {way}"], means[f"made, {way}"] = map(mean_nearest, chosen)
        kept, made = chosen
        rows = made[np.argsort(-novelty(made, kept), kind="stable")]
        panels = (
            (similarities(kept), f"real, {way}: {means[f'real, {way}']:.3f}"),
            (similarities(made), f"made, {way}: {means[f'made, {way}']:.3f}"),
            (similarities(rows, kept), "made (most probable first) with real"),
        )
        for axis, (matrix, words) in zip(line, panels, strict=True):
            picture = axis.imshow(matrix, vmin=0, vmax=1, aspect="auto", cmap="viridis")
            axis.set_title(words, fontsize=9)
            axis.tick_params(labelsize=7)
    if picture is not None:
        figure.colorbar(picture, ax=grid, label="similarity (cosine)", shrink=0.6)
    figure.suptitle(title or "similarity of grasp poses; numbers: mean to the nearest", fontsize=10)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(unfinished, format="png", dpi=90)
    unfinished.replace(path)
    return means
