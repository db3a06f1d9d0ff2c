"""A picture of a reward model's scores, and of what they follow."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rljax.report.plots import require_matplotlib, save_figure


def draw_scores(path: Path, scores: ArrayLike, lengths: ArrayLike) -> float:
    """Draws how scores are spread, and each against its completion's length, as a PNG.

    Args:
        path: where to write it.
        scores: `[N]`, at least one.
        lengths: `[N]` characters of the completions.

    Returns:
        Pearson's correlation of the two; NaN where one of them does not vary.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    scores, lengths = np.asarray(scores, np.float64), np.asarray(lengths, np.float64)
    varies = len(scores) > 1 and np.ptp(scores) > 0 and np.ptp(lengths) > 0
    correlation = float(np.corrcoef(scores, lengths)[0, 1]) if varies else float("nan")
    figure = Figure(figsize=(10, 4.5), dpi=120, layout="constrained")
    axes: Any = figure.subplots(1, 2)
    axes[0].hist(scores, bins=50, color="tab:blue")
    axes[0].axvline(scores.mean(), color="tab:red", linestyle="--")
    axes[0].set_title(f"{len(scores):,} scores, mean {scores.mean():.3g} (dashed)")
    axes[0].set_xlabel("score")
    axes[0].set_ylabel("completions")
    axes[1].scatter(lengths, scores, s=6, alpha=0.3, color="tab:blue", linewidths=0)
    axes[1].set_title(f"score and length: correlation {correlation:+.2f}")
    axes[1].set_xlabel("length of the completion (characters)")
    axes[1].set_ylabel("score")
    for one in axes:
        one.grid(alpha=0.3)
    save_figure(figure, path)
    return correlation
