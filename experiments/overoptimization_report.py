"""The picture, the samples and the figures of the study of over-optimization."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from overoptimization_fits import fit_best_of_n, fit_optimization

from rljax.numerics.processes import is_main
from rljax.report.plots import new_figure, save_figure
from rljax.training.files import write_atomically

FITS = {"best_of_n": fit_best_of_n, "optimization": fit_optimization}
DISTANCE = "sqrt KL(policy || reference) (sqrt nats)"
QUALITIES = {
    "perplexity": "perplexity under another model",
    "distinct_2": "distinct-2 (share of word pairs)",
    "repetition": "most frequent word (share of a text)",
    "length": "length (tokens)",
}
Curves = list[dict[str, Any]]


def report(out: Path, curves: Curves) -> dict[str, Any]:
    """Writes the picture and the samples into a folder; returns figures of all curves."""
    names = list(dict.fromkeys(curve["proxy"] for curve in curves))
    groups = {
        method: {name: points_of(curves, method, name) for name in names}
        for method in FITS
    }
    if is_main():
        draw_picture(out / "overoptimization.png", groups)
        write_atomically(out / "samples.md", samples(out, groups["optimization"]))
    return {
        method: {name: figures_of(method, found) for name, found in group.items()}
        for method, group in groups.items()
    }


def points_of(curves: Curves, method: str, name: str) -> dict[str, np.ndarray]:
    """Returns `[S, K]` of each number, over S seeds and K points of a curve."""
    found = [c["points"] for c in curves if (c["method"], c["proxy"]) == (method, name)]
    numbers = {"distance", "gold", "proxy", "distinct_1", *QUALITIES}
    of_time = {"best_of_n": "n", "optimization": "step"}[method]
    return {
        key: np.array([[point[key] for point in points] for points in found], float)
        for key in (of_time, *sorted(numbers))
    }


def figures_of(method: str, found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns a curve's fit, and what it is at its start, its gold's peak and its end."""
    moved = found["distance"] > 0
    fit = FITS[method](found["distance"][moved], found["gold"][moved])
    peak = int(found["gold"].mean(axis=0).argmax())
    places = {"start": 0, "peak": peak, "end": -1}
    return {
        "fit": fit._asdict(),
        # Of each seed; what it lost since the mean's peak, and since its own.
        "fall_of_gold": (found["gold"][:, peak] - found["gold"][:, -1]).tolist(),
        "fall_from_highest": (found["gold"].max(1) - found["gold"][:, -1]).tolist(),
        **{
            name: {key: float(x[:, place].mean()) for key, x in found.items()}
            for name, place in places.items()
        },
    }


def draw_picture(path: Path, groups: dict[str, Any]) -> None:
    """Draws gold and proxy rewards, and what they do not see, over the distance."""
    figure = new_figure(17, 8.5, dpi=75)
    axes = figure.subplots(2, 4)
    for_n, learned = groups["best_of_n"], groups["optimization"]
    *counts, ensemble = learned
    middle = counts[len(counts) // 2]
    colors = {name: f"C{i}" for i, name in enumerate(learned)}

    def rewards(
        place: Any, title: str, group: dict[str, Any], names: list[str]
    ) -> None:
        for name in names:
            found, color = group[name], colors[name]
            draw_curve(place, found, "gold", color, label=f"gold, {name}")
            draw_curve(place, found, "proxy", color, style="--", label="its proxy")
        place.axhline(0, color="black", linewidth=0.7)
        place.set(title=title, ylabel="reward gained (points of valence)")

    rewards(axes[0, 0], "best of n", for_n, counts)
    rewards(axes[0, 1], "REINFORCE", learned, counts)
    title = "REINFORCE: without, and with a penalty"
    rewards(axes[0, 2], title, learned, [middle, ensemble])
    for name, found in learned.items():
        draw_curve(axes[0, 3], found, "gold", colors[name], label=name)
        draw_fit(axes[0, 3], found, colors[name])
        draw_curve(axes[0, 3], for_n[name], "gold", colors[name], style=":")
    axes[0, 3].axhline(0, color="black", linewidth=0.7)
    title = "gold (dashed: fitted; dotted: best of n)"
    axes[0, 3].set(title=title, ylabel="reward gained (points of valence)")
    for place, (key, label) in zip(axes[1], QUALITIES.items(), strict=True):
        for name, found in learned.items():
            draw_curve(place, found, key, colors[name], label=name)
            draw_curve(place, for_n[name], key, colors[name], style=":")
        place.set(title="lines: REINFORCE; dotted: best of n", ylabel=label)
    axes[1, 0].set_yscale("log")
    for place in axes.flat:
        place.set(xlabel=DISTANCE)
        place.set_xlim(left=0)
        place.grid(alpha=0.3)
        place.legend(fontsize=8)
    save_figure(figure, path)


def draw_curve(
    place: Any,
    found: dict[str, np.ndarray],
    key: str,
    color: str,
    *,
    style: str = "-",
    label: str | None = None,
) -> None:
    """Draws the mean over seeds, and a thin line for each of them."""
    x, y = found["distance"], found[key]
    place.plot(x.T, y.T, color=color, linestyle=style, alpha=0.3, linewidth=0.7)
    mean = x.mean(axis=0), y.mean(axis=0)
    place.plot(*mean, color=color, linestyle=style, linewidth=1.8, label=label)


def draw_fit(place: Any, found: dict[str, np.ndarray], color: str) -> None:
    """Draws the fitted curve of gold."""
    moved = found["distance"] > 0
    fit = fit_optimization(found["distance"][moved], found["gold"][moved])
    d = np.linspace(0.05, found["distance"].mean(axis=0).max(), 100)
    gains = d * (fit.alpha - fit.beta * np.log(d))
    place.plot(d, gains, color=color, linestyle="--", linewidth=0.8)


def samples(out: Path, group: dict[str, Any]) -> str:
    """Returns a page of what policies write at first, at their gold's peak, at the end."""
    lines = ["# What the policies write", ""]
    for name, found in group.items():
        steps, gold = found["step"][0].astype(int), found["gold"][0]
        folder = out / f"policy_{name}_0".replace(" ", "_")
        moments = (
            ("before", steps[0]), ("at gold's peak", steps[gold.argmax()]),
            ("at the end", steps[-1]),
        )  # fmt: skip
        for moment, step in moments:
            place = int(np.flatnonzero(steps == step)[0])
            distance = found["distance"][0, place]
            lines += [
                f"## {name}, {moment}: {step} updates, distance {distance:.2f}",
                "",
            ]
            lines += [
                "| gold | proxy gained | prompt | completion |",
                "|---|---|---|---|",
            ]
            text = (folder / f"samples_{step:06d}.json").read_text()
            for prompt, completion, gold_of, proxy_of in json.loads(text):
                cells = (f"{gold_of:.1f}", f"{proxy_of:.1f}", prompt, completion)
                lines.append("|".join(["", *(escaped(cell) for cell in cells), ""]))
            lines.append("")
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Returns a text for a cell of a table."""
    return f" {' '.join(text.split())} ".replace("|", "\\|").replace("*", "\\*")
