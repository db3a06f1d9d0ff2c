"""How many preferences are enough: numbers of comparisons x seeds, in one program.

    python experiments/sweep_preferences.py --out runs/sweep_preferences

What `thermostat_preferences.py` does, from few comparisons to many. Expected: see
experiments/results/README.md.
"""

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from thermostat_preferences import ENV, NETWORKS, ROOMS

from rljax.commands.launch import check_counts, check_seed, launch
from rljax.commands.sweep_experiment import run_sweep
from rljax.envs import thermostat_exact as exact
from rljax.numerics.processes import is_main
from rljax.numerics.statistics import bootstrap_interval, interquartile_mean
from rljax.report.plots import new_figure, save_figure
from rljax.rlhf.segments import PreferenceConfig, PreferenceHyperparams, learning
from rljax.sweeps.points import grid
from rljax.training.run_folder import RunOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    room: str = "default"
    """Or hard: its heater is three times as strong."""
    seed: int = 0
    """Seeds everything; run i of a configuration depends on it and i only."""
    num_seeds: int = 20
    """Runs of each number of comparisons."""
    comparisons: tuple[int, ...] = (5, 10, 25, 50, 100, 200, 400, 800)
    """Numbers of comparisons, all rounds together."""
    num_episodes: int = 128
    """Episodes in an evaluation of each run."""
    config: PreferenceConfig = dataclasses.field(
        default_factory=lambda: PreferenceConfig(max_comparisons=800)
    )
    hyperparams: PreferenceHyperparams = dataclasses.field(
        default_factory=PreferenceHyperparams
    )
    run: RunOptions = dataclasses.field(
        default_factory=RunOptions, metadata={"setting": False}
    )

    # A run is as long as its rounds, of which all but none are cut short.
    rungs = ()
    stop_at_return = None

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(self, "num_seeds", "num_episodes")
        learning.check_hyperparams(self.hyperparams)
        if self.room not in ROOMS:
            raise ValueError(f"room must be default or hard, got {self.room!r}.")
        if max(self.comparisons, default=0) > self.config.max_comparisons:
            raise ValueError(
                f"comparisons must be at most max_comparisons, got "
                f"{max(self.comparisons)} and {self.config.max_comparisons}. Raise "
                f"--max-comparisons."
            )

    @property
    def total_steps(self) -> int:
        """Environment steps of each run."""
        return self.config.num_rounds * self.config.batch_size

    @property
    def num_evaluations(self) -> int:
        """One a round."""
        return self.config.num_rounds


def main(experiment: Experiment) -> dict[str, Any]:
    """Sweeps, or goes on, and returns the best configuration's figures."""
    task = ROOMS[experiment.room]
    table = exact.grid(task)
    values = exact.optimal_values(table, gamma=1.0, num_steps=task.max_steps)
    optimum = exact.objective(table, values)
    result = run_sweep(
        "sweep_preferences",
        experiment,
        learning,
        ENV,
        NETWORKS,
        task,
        grid(num_comparisons=experiment.comparisons),
        title="The thermostat, learned from preferences",
        target=0.99 * optimum,
        target_name="99 % of the optimum:",
        ceiling=task.max_steps,
        frames_per_second=15.0,
    )
    if (out := experiment.run.out) is not None and is_main():
        draw(out / "preferences.png", out / "results.csv", optimum, experiment.room)
    return result


def draw(path: Path, table: Path, optimum: float, room: str) -> None:
    """Draws the true returns over the number of comparisons, from the sweep's table."""
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    last = max(int(row["env_steps"]) for row in rows)
    rows = [row for row in rows if int(row["env_steps"]) == last]
    counts = np.array([int(row["num_comparisons"]) for row in rows])
    returns = np.array([float(row["return"] or "nan") for row in rows])
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    asked, shifts = np.unique(counts), np.random.default_rng(0)
    kept = [returns[(counts == n) & np.isfinite(returns)] for n in asked]
    for n, runs in zip(asked, kept, strict=True):
        x = n * np.exp(shifts.uniform(-0.08, 0.08, len(runs)))
        axes.plot(x, runs, "o", color="tab:blue", alpha=0.35, markersize=4)
        near = int((runs >= 0.99 * optimum).sum())
        text = f"{near} of {len(runs)}"
        axes.annotate(text, (n, 1.06 * optimum), ha="center", fontsize=9)
    middle = [interquartile_mean(runs) for runs in kept]
    axes.plot(asked, middle, color="tab:blue", linewidth=2, label="interquartile mean")
    bands = [bootstrap_interval(runs) or (np.nan, np.nan) for runs in kept]
    style = {"color": "tab:blue", "alpha": 0.2, "linewidth": 0}
    axes.fill_between(asked, *np.array(bands).T, label="95 % interval", **style)
    style = {"color": "tab:red", "linestyle": "--", "linewidth": 1}
    axes.axhline(optimum, label=f"optimum {optimum:.1f}", **style)
    axes.set_xscale("log", base=2)
    axes.set_xticks(asked, [f"{n:,}" for n in asked])
    axes.set_ylim(0, 1.14 * optimum)
    axes.set(
        title=f"How many preferences are enough? Thermostat, {room} room\n"
        "(above: runs within 1 % of the optimum)",
        xlabel="comparisons of two ten-minute segments",
        ylabel="true return (minutes within the band)",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    save_figure(figure, path)


if __name__ == "__main__":
    launch(main, Experiment, __doc__, all_cores=True)
