"""Reward against divergence, where the best there can be is known: betas x seeds at once.

    python experiments/enumerable_world.py --out runs/enumerable_world

A language of five tokens and four places, all 625 completions of which are listed
(`enumerated.py`). Every beta has a best policy, pi* ~ pi_ref exp(r / beta); together they
are the frontier of reward against divergence. All runs are members of one population, in
one program. Expected: see experiments/results/README.md.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from enumerated import (
    METHODS,
    World,
    best_policy,
    divergence,
    grpo_policy,
    log_probs,
    make_learner,
    make_task,
    make_world,
)

from rljax.commands.launch import check_counts, check_seed, launch
from rljax.report.plots import new_figure, require_matplotlib, save_figure
from rljax.rlhf.policy import PolicyHyperparams
from rljax.rlhf.policy.settings import check_hyperparams
from rljax.training.loggers import log_line
from rljax.training.loop import train
from rljax.training.populations import population, stack
from rljax.training.run_folder import RunFolder, RunOptions
from rljax.training.run_logger import RunLogger


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    method: str = "rloo"
    """How the policy is optimized: reinforce, rloo, dr_grpo, ppo or grpo."""
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
    """Times that all completions are looked at."""
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


def main(experiment: Experiment) -> dict[str, Any]:
    """Trains, or goes on, and returns the headline figures."""
    betas, seeds = experiment.betas, experiment.num_seeds
    world = make_world(experiment.seed)
    reference = log_probs(world.params)
    fixed = grpo_policy if experiment.method == "grpo" else best_policy
    best = jnp.stack([fixed(reference, world.rewards, beta) for beta in betas])
    every = max(1, experiment.num_updates // experiment.num_evaluations)
    with RunFolder("enumerable_world", experiment, experiment.run) as folder:
        if folder.result is not None:
            return folder.result
        if experiment.run.out is not None:
            require_matplotlib()
        count = len(betas) * seeds
        run = RunLogger(
            folder,
            num_updates=experiment.num_updates,
            steps_per_update=experiment.num_samples * count,
            headline="distance",
            unit="completions",
        )
        learner = make_learner(experiment.method, experiment.num_samples)
        task = make_task(world)
        numbers = experiment.hyperparams.replace(decay_updates=experiment.num_updates)
        hyperparams = stack(numbers, beta=np.repeat(betas, seeds))

        def evaluate(states: Any, key: jax.Array) -> dict[str, jax.Array]:
            del key

            def one(params, best):
                found = log_probs(params)
                return {
                    "distance": divergence(found, best),
                    "exact_kl": divergence(found, reference),
                    "exact_reward": (jnp.exp(found) * world.rewards).sum(),
                }

            return jax.vmap(one)(states.params, jnp.repeat(best, seeds, axis=0))

        keys = jax.random.split(jax.random.key(experiment.seed), count + 1)
        learners = population(learner.algorithm)
        train(
            learners,
            run.start(learners.init, keys[1:], hyperparams, task),
            task,
            run.updates_left,
            log_every=every,
            on_log=run.on_log,
            evaluate=evaluate,
            evaluate_every=every,
            evaluation_key=keys[0],
        )
        run.check_finished()
        found = {
            name: np.reshape(run.last[name], (len(betas), seeds))
            for name in ("distance", "exact_kl", "exact_reward")
        }
        rows = frontier_rows(world, reference, best, betas, found)
        for row in rows:
            log_line("  ".join(f"{name} {value:8.4f}" for name, value in row.items()))
        if experiment.run.out is not None:
            draw(experiment.run.out / "frontier.png", world, reference, found, betas)
        worst = float(found["distance"].max())
        return run.finish({"betas": rows, "largest_distance": worst, "runs": count})


def frontier_rows(world: World, reference, best, betas, found) -> list[dict[str, Any]]:
    """Returns what each beta's runs found, beside what there is to find."""
    rows = []
    for i, beta in enumerate(betas):
        means = {name: float(np.mean(values[i])) for name, values in found.items()}
        want_kl = float(divergence(best[i], reference))
        want_reward = float((jnp.exp(best[i]) * world.rewards).sum())
        rows.append({"beta": beta} | means | {"kl": want_kl, "reward": want_reward})
    return rows


def draw(path: Path, world: World, reference, found, betas) -> None:
    """Draws the runs' rewards over their divergences, and the frontier."""
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    stars = [
        best_policy(reference, world.rewards, b)
        for b in np.geomspace(min(betas) / 1.5, 20, 60)
    ]
    kl = [float(divergence(star, reference)) for star in stars]
    reward = [float((jnp.exp(star) * world.rewards).sum()) for star in stars]
    axes.plot(kl, reward, color="black", linewidth=1, label="the best there can be")
    for beta, x, y in zip(betas, found["exact_kl"], found["exact_reward"], strict=True):
        axes.plot(x, y, "o", alpha=0.6, markersize=5, label=f"beta = {beta:g}")
    axes.set_xlabel("KL(policy, reference) of a completion, in nats")
    axes.set_ylabel("mean reward of a completion")
    axes.set_title("Every run of every beta, all 625 completions counted")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    save_figure(figure, path)


if __name__ == "__main__":
    launch(main, Experiment, __doc__)
