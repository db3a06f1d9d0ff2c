"""Pictures of training."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rljax.report.statistics import bootstrap_interval, interquartile_mean


def require_matplotlib() -> None:
    """Checks that pictures can be drawn, before a long run rather than after it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib, which is not installed. Install it with: "
            "pip install 'rljax[viz]'"
        ) from error


def learning_curve(
    path: Path,
    env_steps: ArrayLike,
    returns: ArrayLike,
    *,
    title: str,
    ylabel: str = "return of the greedy policy",
    target: float | None = None,
    target_name: str = "",
    ceiling: float | None = None,
) -> None:
    """Draws the interquartile mean over runs with its 95 % bootstrap band, as a PNG.

    Args:
        path: where to write it.
        env_steps: `[E]` environment steps of one run at each evaluation.
        returns: `[E, N]` returns of N runs.
        title: what was trained on what.
        ylabel: what the returns are.
        target: a return to mark with a line.
        target_name: what it is.
        ceiling: the largest return there is, for the axis.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    steps, runs = np.asarray(env_steps), np.asarray(returns, np.float64)
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes: Any = figure.add_subplot()
    axes.plot(steps, runs, color="tab:blue", alpha=0.25, linewidth=0.8)
    middle = [interquartile_mean(row) for row in runs]
    count = runs.shape[1]
    label = "the run" if count == 1 else f"interquartile mean of {count} runs"
    axes.plot(steps, middle, color="tab:blue", linewidth=2, label=label)
    bands = [bootstrap_interval(row, num_resamples=2_000) for row in runs]
    if all(band is not None for band in bands):
        low, high = np.array(bands).T
        axes.fill_between(
            steps,
            low,
            high,
            color="tab:blue",
            alpha=0.25,
            linewidth=0,
            label="95 % bootstrap interval",
        )
    if target is not None:
        label = f"{target_name} {target:.4g}".strip()
        axes.axhline(target, color="tab:red", linestyle="--", linewidth=1, label=label)
    axes.set_title(title)
    axes.set_xlabel("environment steps of one run")
    axes.set_ylabel(ylabel)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0, top=None if ceiling is None else 1.05 * ceiling)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    save_figure(figure, path)


def save_figure(figure: Any, path: Path) -> None:
    """Writes a matplotlib figure as a PNG, whole or not at all."""
    beside = path.with_name(f".{path.name}")
    figure.savefig(beside, format="png")
    beside.replace(path)
