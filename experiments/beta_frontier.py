"""Reward against divergence on a tiny language model: one sweep over betas and seeds.

    python experiments/beta_frontier.py --out runs/beta_frontier

The policy and the learned reward are those of `overoptimization.py`; the reward is
optimized by REINFORCE with a penalty on the divergence, whose weight is beta. Its page,
report.html, and frontier.png show where each run ends. Expected: see
experiments/results/README.md.
"""

import dataclasses
import functools
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tiny_prose
from overoptimization import Settings
from overoptimization_learning import keys, make_world, train_proxy
from overoptimization_samples import draw_pairs
from overoptimization_settings import GROUP_SIZE
from overoptimization_settings import Experiment as Study
from overoptimization_world import Proxy, World

from rljax.commands.launch import check_counts, check_seed, launch
from rljax.commands.training import files_sha256
from rljax.numerics.processes import is_main
from rljax.report.pages import TradeOff, save_report
from rljax.report.plots import new_figure, require_matplotlib, save_figure
from rljax.rlhf import Transformer, generate, policy
from rljax.rlhf.policy.forward import complete
from rljax.rlhf.policy.samples import join_prompts
from rljax.sweeps import Problem, Results, grid, sweep
from rljax.training.loggers import log_line
from rljax.training.run_folder import RunFolder, RunOptions

TITLE = "Learned reward against divergence, a tiny language model"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    betas: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)
    """Weights of the divergence."""
    num_runs: int = 4
    """Runs of each beta, with other seeds."""
    num_updates: int = 100
    """Updates of each run."""
    num_evaluations: int = 5
    """Parts of a run; its place is the mean over the last one."""
    seed: int = 0
    """Of everything."""
    data: Path | None = dataclasses.field(default=None, metadata={"setting": False})
    """Rated texts; by default the movies of fetch_ratings.py, which are fetched."""
    pretraining_updates: int = Study.pretraining_updates
    """Updates of the language model."""
    num_preferences: int = 8000
    """Pairs of completions that the reward model learns from."""
    run: RunOptions = dataclasses.field(
        default_factory=RunOptions, metadata={"setting": False}
    )

    def __post_init__(self):
        check_counts(self, "num_runs", least=2)
        check_counts(self, "num_updates", "num_evaluations")
        check_seed(self.seed)
        if not self.betas or min(self.betas) <= 0:
            raise ValueError(f"betas must be numbers above 0, got {self.betas}.")

    @property
    def study(self) -> Study:
        """The study that the models are of."""
        return Study(
            seed=self.seed,
            data=self.data,
            pretraining_updates=self.pretraining_updates,
            num_preferences=(self.num_preferences,),
            run=dataclasses.replace(self.run, out=Path(str(self.run.out)) / "models"),
        )


def main(experiment: Experiment) -> dict[str, Any]:
    """Trains the models, sweeps, or goes on, and returns the places of all betas."""
    out = experiment.run.out
    if out is None:
        raise ValueError("the sweep needs a folder, got out=None. Name one with --out.")
    data = files_sha256([experiment.data]) if experiment.data else None
    with RunFolder(
        "beta_frontier", Settings(experiment, data), experiment.run
    ) as folder:
        if folder.result is not None:
            return folder.result
        require_matplotlib()
        study = experiment.study
        world, (judge_key,) = make_world(study), keys(study, "judges", 1)
        learned, _ = draw_pairs(study, world)
        pairs = learned.judged(judge_key, experiment.num_preferences)
        proxy = train_proxy(study, world, "proxy", pairs)
        done = sweep(
            make_problem(experiment, world, proxy),
            grid(beta=experiment.betas),
            num_seeds=experiment.num_runs,
            seed=study.seed,
            num_evaluations=experiment.num_evaluations,
            folder=out / "sweep",
            checkpoint_every=experiment.run.checkpoint_every,
            should_stop=folder.should_stop,
        )
        rows = places(done.results, experiment.betas)
        for row in rows:
            log_line("  ".join(f"{name} {value:.3f}" for name, value in row.items()))
        if is_main():
            save_report(
                out / "report.html",
                done.results,
                title=TITLE,
                command=shlex.join(["python", *sys.argv]),
                versions=folder.manifest["versions"],
                xlabel="completions of one run",
                ylabel="held out: learned reward less beta KL",
                trade_off=TradeOff(),
            )
            draw(out / "frontier.png", done.results, rows)
        totals = {
            "completions": done.env_steps,
            "seconds_run": done.seconds_run,
            "seconds_compile": done.seconds_compile,
        }
        return folder.finish({"betas": rows}, totals, unit="completions")


def make_problem(experiment: Experiment, world: World, proxy: Proxy) -> Problem:
    """Returns what is swept."""
    study, prompts = experiment.study, jnp.asarray(world.corpus.prompts)
    config = policy.PolicyConfig(
        method=policy.PolicyMethod(baseline="leave_one_out"),
        num_prompts=study.num_samples // GROUP_SIZE,
        group_size=GROUP_SIZE,
        max_new_tokens=tiny_prose.COMPLETION_LENGTH,
        stop_ids=(tiny_prose.END,),
    )
    return Problem(
        algorithm=lambda module, config: (
            policy.policy_optimization(module, config, proxy.reward).algorithm
        ),
        evaluate=functools.partial(held_out_objective, world, proxy),
        network=world.module,
        config=config,
        hyperparams=policy.PolicyHyperparams(learning_rate=study.learning_rate),
        task=policy.PolicyTask(
            prompts=prompts,
            prompt_lengths=jnp.full(len(prompts), prompts.shape[1], jnp.int32),
            params=world.reference,
            reward=proxy.params,
        ),
        total_steps=experiment.num_updates * config.batch_size,
        check=policy.check_hyperparams,
    )


def held_out_objective(
    world: World,
    proxy: Proxy,
    module: Transformer,
    state: policy.PolicyState,
    task: policy.PolicyTask,
    key: jax.Array,
) -> jax.Array:
    """Returns E[r] - beta KL(pi || pi_ref) of completions of held-out prompts."""
    prompts = jnp.asarray(world.corpus.held_out)
    lengths = jnp.full(len(prompts), prompts.shape[1], jnp.int32)
    generated = generate(
        module, state.params, prompts, lengths, jax.random.split(key, len(prompts)),
        max_new_tokens=tiny_prose.COMPLETION_LENGTH, stop_ids=(tiny_prose.END,),
    )  # fmt: skip
    samples = join_prompts(
        prompts, lengths, jnp.arange(len(prompts)), generated, module.config.vocab_size
    )
    reference = complete(module, task.params, samples).log_probs(1.0)
    log_ratio = jnp.where(samples.mask, samples.log_probs - reference, 0.0)
    rewards = proxy.reward(task.reward, samples)
    return (rewards - state.hyperparams.beta * log_ratio.sum(axis=1)).mean()


def places(results: Results, betas: tuple[float, ...]) -> list[dict[str, float]]:
    """Returns where runs end, a row for each beta: means, and half their 95 % intervals."""
    rows = []
    for i, beta in enumerate(betas):
        row = {"beta": beta}
        for name in ("kl", "reward"):
            ends = results.metrics[name][i, :, -1]
            row[name] = float(ends.mean())
            row[f"{name}_half"] = float(1.96 * ends.std(ddof=1) / len(ends) ** 0.5)
        rows.append(row)
    return rows


def draw(path: Path, results: Results, rows: list[dict[str, float]]) -> None:
    """Draws every run's end, and the mean of each beta with its intervals."""
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    axes.plot(columns["kl"], columns["reward"], color="0.6", lw=1)
    for i, row in enumerate(rows):
        ends = (results.metrics[name][i, :, -1] for name in ("kl", "reward"))
        axes.plot(*ends, "o", color=f"C{i}", alpha=0.4, markersize=5)
        axes.errorbar(
            row["kl"], row["reward"], yerr=row["reward_half"], xerr=row["kl_half"],
            fmt="s", color=f"C{i}", capsize=4, label=f"beta = {row['beta']:g}",
        )  # fmt: skip
    axes.set(
        title=TITLE,
        xlabel="KL(policy, reference) in nats per completion",
        ylabel="mean learned reward of a completion",
    )
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    save_figure(figure, path)


if __name__ == "__main__":
    launch(main, Experiment, __doc__)
