"""Plots as PNG files: learning curves, sweeps, heat maps, scores."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rljax.extras import require
from rljax.numerics.statistics import bootstrap_interval, interquartile_mean
from rljax.sweeps.results import Results


def require_matplotlib() -> None:
    """Raises an ImportError with the install command if matplotlib is missing."""
    require("matplotlib", "pictures need", "viz")


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
        title: of the figure.
        ylabel: axis label of the returns.
        target: a return to mark with a line.
        target_name: label of that line.
        ceiling: the largest possible return, for the axis.
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


def sweep_curves(
    path: Path,
    results: Results,
    *,
    title: str,
    ylabel: str = "return of the greedy policy",
    target: float | None = None,
    target_name: str = "",
    ceiling: float | None = None,
) -> None:
    """Draws a sweep as a PNG: learning curves, and final returns by configuration.

    Args:
        path: where to write it.
        results: of a sweep; runs that diverged are left out of means.
        title: of the figure.
        ylabel: axis label of the returns.
        target: a return to mark with a line.
        target_name: label of that line.
        ceiling: the largest possible return, for the axis.
    """
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    count = len(results.configurations)
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.95, count))
    figure = Figure(figsize=(11, 5), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    names = list(results.configurations[0])
    numbers = [point[names[0]] for point in results.configurations]
    alone = len(names) == 1 and not isinstance(numbers[0], tuple)
    along = alone and len(set(numbers)) == count and np.isfinite(numbers).all()
    for index in range(count):
        kept = results.columns(index)
        middle = [interquartile_mean(x) if len(x) else math.nan for x in kept]
        label = results.label(index)
        left.plot(results.env_steps[index], middle, color=colors[index], label=label)
        x = numbers[index] if along else index
        final = results.final[index][np.isfinite(results.final[index])]
        right.plot(np.full(len(final), x), final, ".", color="0.75", markersize=3)
        if len(final):
            end = interquartile_mean(final)
            right.plot(
                [x, x], bootstrap_interval(final) or [end] * 2, color=colors[index]
            )
            right.plot(x, end, "o", color=colors[index])
    shown = results.returns[np.isfinite(results.returns)]
    if along and min(numbers) > 0 and max(numbers) > 20 * min(numbers):
        right.set_xscale("log")
    left.set_title(title)
    left.set_xlabel("environment steps of one run")
    left.set_ylabel(ylabel)
    left.xaxis.set_major_formatter("{x:,.0f}")
    right.set_title("at the end: runs, their IQM, its 95 % interval")
    right.set_xlabel(names[0].replace("_", " ") if along else "configuration")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.set_ylim(
            bottom=0 if shown.min(initial=0) >= 0 else None,
            top=None if ceiling is None else 1.05 * ceiling,
        )
        if target is not None:
            label = f"{target_name} {target:.4g}".strip()
            axes.axhline(target, color="tab:red", linestyle="--", linewidth=1)
            axes.annotate(
                label,
                (0.01, target),
                color="tab:red",
                fontsize=8,
                xycoords=("axes fraction", "data"),
                va="bottom",
            )
    if count <= 16:
        left.legend(fontsize=7, loc="best")
    save_figure(figure, path)


def heat_map(
    path: Path,
    x: ArrayLike,
    y: ArrayLike,
    values: ArrayLike,
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    label: str,
    mark: tuple[float, float],
    ceiling: float,
) -> None:
    """Draws values over two positive parameters as a PNG, both axes logarithmic.

    Args:
        path: where to write it.
        x: `[X]` of the first parameter, increasing.
        y: `[Y]` of the second.
        values: `[Y, X]`.
        title: of the figure.
        xlabel: the first parameter, with unit.
        ylabel: the second parameter, with unit.
        label: of the color bar.
        mark: a point to mark with a cross.
        ceiling: the largest possible value.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 6), dpi=120, layout="constrained")
    axes: Any = figure.add_subplot()
    mesh = axes.pcolormesh(x, y, values, vmin=0, vmax=ceiling, shading="nearest")
    axes.plot(*mark, "+", color="tab:red", markersize=16, markeredgewidth=2.5)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xscale="log", yscale="log")
    figure.colorbar(mesh, label=label)
    save_figure(figure, path)


def draw_scores(path: Path, scores: ArrayLike, lengths: ArrayLike) -> float:
    """Draws a histogram of scores, and scores over completion lengths, as a PNG.

    Args:
        path: where to write it.
        scores: `[N]`, at least one.
        lengths: `[N]` characters of the completions.

    Returns:
        Pearson's correlation of scores and lengths; NaN if either is constant.
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


def save_figure(figure: Any, path: Path) -> None:
    """Writes a matplotlib figure as a PNG, atomically."""
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png")
    temporary.replace(path)
