"""Reward against divergence, where the best there can be is known: betas x seeds at once.

    python experiments/enumerable_world.py --out runs/enumerable_world

A language of five tokens and four places, all 625 completions of which are listed
(`enumerated.py`). Every beta has a best policy, pi* ~ pi_ref exp(r / beta); together they
are the frontier of reward against divergence. One sweep trains all runs; its page,
report.html, shows where they end beside the frontier. Expected: see
experiments/results/README.md.
"""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
from enumerated import METHODS, best_of, compare, make_config, make_problem, make_world

from rljax.commands.launch import check_counts, check_seed, launch
from rljax.commands.sweep_experiment import check_flags
from rljax.numerics.processes import is_main
from rljax.report.pages import TradeOff, save_report
from rljax.report.plots import new_figure, require_matplotlib, save_figure
from rljax.rlhf.policy import PolicyHyperparams
from rljax.rlhf.policy.settings import check_hyperparams
from rljax.sweeps import Results, grid, sweep
from rljax.training.loggers import log_line
from rljax.training.run_folder import RunFolder, RunOptions

TITLE = "Reward against divergence, all 625 completions known"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    method: str = "rloo"
    """How the policy is optimized: reinforce, rloo, dr_grpo, ppo or grpo, which ends at
    the best policy of another beta."""
    betas: tuple[float, ...] = (0.5, 0.7, 1.0, 2.0)
    """Weights of the divergence."""
    seed: int = 0
    """Of the world, and of all runs."""
    num_seeds: int = 8
    """Runs of each beta."""
    num_updates: int = 400
    """Updates of each run."""
    num_samples: int = 128
    """Completions of an update."""
    num_evaluations: int = 10
    """Times that all completions are looked at, beside once before training."""
    hyperparams: PolicyHyperparams = dataclasses.field(
        default_factory=lambda: PolicyHyperparams(
            learning_rate=3e-3, critic_learning_rate=1e-2, gae_lambda=1.0
        )
    )
    run: RunOptions = dataclasses.field(
        default_factory=RunOptions, metadata={"setting": False}
    )

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(self, "num_seeds", "num_updates", "num_evaluations")
        check_counts(self, "num_samples", least=2)
        check_hyperparams(self.hyperparams)
        if self.method not in METHODS:
            names = ", ".join(METHODS)
            raise ValueError(f"method must be one of {names}, got {self.method!r}.")
        if not self.betas or min(self.betas) <= 0:
            raise ValueError(f"betas must be numbers above 0, got {self.betas}.")
        check_flags(self, {"beta"})


def main(experiment: Experiment) -> dict[str, Any]:
    """Sweeps, or goes on, and returns the headline figures."""
    betas, run = experiment.betas, experiment.run
    world = make_world(experiment.seed)
    config = make_config(experiment.method, experiment.num_samples)
    problem = make_problem(
        world, config, experiment.hyperparams, experiment.num_updates
    )
    with RunFolder("enumerable_world", experiment, run) as folder:
        if folder.result is not None:
            return folder.result
        if run.out is not None:
            require_matplotlib()
        done = sweep(
            problem,
            grid(beta=betas),
            num_seeds=experiment.num_seeds,
            seed=experiment.seed,
            num_evaluations=experiment.num_evaluations,
            folder=run.out,
            checkpoint_every=run.checkpoint_every,
            should_stop=folder.should_stop,
        )
        best = best_of(world, betas)
        rows = compare(done.results, betas, best)
        for row in rows:
            log_line("  ".join(f"{name} {value:.4f}" for name, value in row.items()))
        if run.out is not None and is_main():
            frontier = best_of(world, np.geomspace(100, min(betas) / 1.5, 100))
            chart = TradeOff(line=frontier.places, goals=best.places)
            done.results.save(run.out, tensorboard=run.tensorboard)
            save_report(
                run.out / "report.html",
                done.results,
                title=TITLE,
                command=shlex.join(["python", *sys.argv]),
                versions=folder.manifest["versions"],
                xlabel="completions of one run",
                ylabel="E[r] - beta KL",
                trade_off=chart,
            )
            draw(run.out / "frontier.png", done.results, chart)
        figures = {
            "betas": rows,
            "largest_distance": max(row["largest_distance"] for row in rows),
            "runs": done.results.status.size,
            "finished": int(np.isfinite(done.results.final).sum()),
            "compilations": done.num_compilations,
            "seconds_compile": done.seconds_compile,
        }
        totals = {"completions": done.env_steps, "seconds_run": done.seconds_run}
        return folder.finish(figures, totals, unit="completions")


def draw(path: Path, results: Results, chart: TradeOff) -> None:
    """Draws the page's trade-off as a picture."""
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    axes.plot(*np.transpose(chart.line), color="black", lw=1, label=chart.line_label)
    for i, goal in enumerate(chart.goals):
        x, y = (results.metrics[name][i, :, -1] for name in (chart.x, chart.y))
        (dots,) = axes.plot(x, y, "o", alpha=0.6, markersize=5, label=results.label(i))
        axes.plot(*goal, "o", markersize=14, fillstyle="none", color=dots.get_color())
    axes.set(title=TITLE, xlabel=chart.xlabel, ylabel=chart.ylabel)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    save_figure(figure, path)


if __name__ == "__main__":
    launch(main, Experiment, __doc__, all_cores=True)
