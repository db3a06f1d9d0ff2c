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


def new_figure(width: float, height: float, dpi: int = 120) -> Any:
    """An empty matplotlib figure, in inches, whose axes leave room for one another."""
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def learning_curve(
    path: Path | str,
    env_steps: ArrayLike,
    returns: ArrayLike,
    *,
    title: str,
    xlabel: str = "environment steps of one run",
    ylabel: str = "return of the greedy policy",
    target: float | None = None,
    target_name: str = "",
    ceiling: float | None = None,
) -> None:
    """Draws the interquartile mean over runs with its 95 % bootstrap band, as a PNG.

    Args:
        path: where to write it.
        env_steps: `[E]` environment steps of one run at each evaluation.
        returns: `[E, N]` returns of N runs; those with a NaN diverged, and are left out.
        title: of the figure.
        xlabel: axis label of the steps, or of what else is counted.
        ylabel: axis label of the returns.
        target: a return to mark with a line.
        target_name: label of that line.
        ceiling: the largest possible return, for the axis.
    """
    steps, runs = np.asarray(env_steps), np.asarray(returns, np.float64)
    runs = runs[:, ~np.isnan(runs).any(0)]
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    axes.plot(steps, runs, color="tab:blue", alpha=0.25, linewidth=0.8)
    middle = [interquartile_mean(row) for row in runs]
    count = runs.shape[1]
    label = "the run" if count == 1 else f"interquartile mean of {count} runs"
    axes.plot(steps, middle, color="tab:blue", linewidth=2, label=label)
    bands = [bootstrap_interval(row, num_resamples=2_000) for row in runs]
    if all(band is not None for band in bands):
        style = {"color": "tab:blue", "alpha": 0.25, "linewidth": 0}
        label = "95 % bootstrap interval"
        axes.fill_between(steps, *np.array(bands).T, label=label, **style)
    if target is not None:
        label = f"{target_name} {target:.4g}".strip()
        axes.axhline(target, color="tab:red", linestyle="--", linewidth=1, label=label)
    _label_curves(axes, title, ylabel, xlabel)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0, top=None if ceiling is None else 1.05 * ceiling)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    save_figure(figure, path)


def sweep_curves(
    path: Path | str,
    results: Results,
    *,
    title: str,
    ylabel: str = "return of the greedy policy",
    target: float | None = None,
    target_name: str = "",
    ceiling: float | None = None,
) -> None:
    """Draws a sweep as a PNG: learning curves, and final returns by configuration.

    Runs that diverged are left out of means; options as those of `learning_curve`.
    """
    figure = new_figure(11, 5)
    import matplotlib

    count = len(results.configurations)
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.95, count))
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
    _label_curves(left, title, ylabel)
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
            where = axes.get_yaxis_transform()
            style = {"color": "tab:red", "fontsize": 8, "va": "bottom"}
            axes.text(0.01, target, label, transform=where, **style)
    if count <= 16:
        left.legend(fontsize=7, loc="best")
    save_figure(figure, path)


def heat_map(
    path: Path | str,
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
    """Draws `values` `[Y, X]`, from 0 to `ceiling`, as colors in a PNG.

    Over two positive parameters, `x` `[X]` and `y` `[Y]`, both increasing, on
    logarithmic axes, with a cross at `mark`; `label` is that of the color bar.
    """
    figure = new_figure(7.5, 6)
    axes = figure.add_subplot()
    mesh = axes.pcolormesh(x, y, values, vmin=0, vmax=ceiling, shading="nearest")
    axes.plot(*mark, "+", color="tab:red", markersize=16, markeredgewidth=2.5)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xscale="log", yscale="log")
    figure.colorbar(mesh, label=label)
    save_figure(figure, path)


def draw_scores(path: Path | str, scores: ArrayLike, lengths: ArrayLike) -> float:
    """Draws a histogram of scores, and scores over completion lengths, as a PNG.

    Of N completions: `scores` `[N]`, at least one, and `lengths` `[N]` in characters.
    Returns Pearson's correlation of the two; NaN if either is constant.
    """
    scores, lengths = np.asarray(scores, np.float64), np.asarray(lengths, np.float64)
    varies = len(scores) > 1 and np.ptp(scores) > 0 and np.ptp(lengths) > 0
    correlation = float(np.corrcoef(scores, lengths)[0, 1]) if varies else float("nan")
    figure = new_figure(10, 4.5)
    left, right = figure.subplots(1, 2)
    left.hist(scores, bins=50, color="tab:blue")
    left.axvline(scores.mean(), color="tab:red", linestyle="--")
    title = f"{len(scores):,} scores, mean {scores.mean():.3g} (dashed)"
    left.set(title=title, xlabel="score", ylabel="completions")
    right.scatter(lengths, scores, s=6, alpha=0.3, color="tab:blue", linewidths=0)
    title = f"score and length: correlation {correlation:+.2f}"
    xlabel = "length of the completion (characters)"
    right.set(title=title, xlabel=xlabel, ylabel="score")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save_figure(figure, path)
    return correlation


def save_figure(figure: Any, path: Path | str) -> None:
    """Writes a matplotlib figure as a PNG, atomically."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png")
    temporary.replace(path)


def _label_curves(
    axes: Any, title: str, ylabel: str, xlabel: str = "environment steps of one run"
) -> None:
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_formatter("{x:,.0f}")
