"""Sweeps PPO's learning rate on CartPole-v1: all runs in one program, on all cores.

    python experiments/sweep_cartpole.py --out runs/sweep_cartpole

16 learning rates x 16 seeds. Expected: see the README's results.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from rljax.algorithms import ppo
from rljax.envs import CartPole, CartPoleParams
from rljax.launch import check_counts, check_seed, launch
from rljax.manifest import manifest
from rljax.networks import ActorCritic
from rljax.plan import Problem
from rljax.report import sweeps, watch
from rljax.report.results import say_results
from rljax.rollout import evaluate
from rljax.run import Run, RunOptions
from rljax.sweep import grid
from rljax.sweep_run import sweep

SOLVED = 475.0
ENV, TASK, NETWORK = CartPole(), CartPoleParams(), ActorCritic(num_actions=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    seed: int = 0
    """Seeds everything; run i of a configuration depends on it and i only."""
    num_seeds: int = 16
    """Runs of each configuration."""
    learning_rates: tuple[float, ...] = tuple(
        float(f"{x:.2g}") for x in np.geomspace(1e-4, 1e-1, 16)
    )
    """What is swept."""
    total_steps: int = 50_000
    """Environment steps of each run: a budget, never exceeded."""
    num_evaluations: int = 20
    """Evaluations during a run, beside one before it."""
    num_episodes: int = 32
    """Episodes in an evaluation of each run."""
    rungs: tuple[float, ...] = ()
    """Shares of a run after which the worse half of the configurations is dropped."""
    config: ppo.PPOConfig = dataclasses.field(
        default_factory=lambda: ppo.PPOConfig(num_envs=16, num_steps=32, num_epochs=10)
    )
    hyperparams: ppo.PPOHyperparams = dataclasses.field(
        default_factory=ppo.PPOHyperparams
    )
    run: RunOptions = dataclasses.field(
        default_factory=RunOptions, metadata={"setting": False}
    )

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(self, "num_seeds", "num_evaluations", "num_episodes")
        ppo.check_hyperparams(self.hyperparams)
        self.config.updates(self.total_steps)


def problem_of(experiment: Experiment) -> Problem:
    """PPO on CartPole, judged by the greedy policy."""

    def mean_return(config: Any, state: Any, task: Any, key: jax.Array) -> jax.Array:
        act = functools.partial(ppo.act, NETWORK, state, greedy=True)
        episodes = experiment.num_episodes
        return evaluate(
            key, ENV, task, act, num_episodes=episodes, max_steps=TASK.max_steps
        ).returns.mean()

    return Problem(
        algorithm=functools.partial(ppo.ppo, ENV, NETWORK),
        evaluate=mean_return,
        config=experiment.config,
        hyperparams=experiment.hyperparams,
        task=TASK,
        total_steps=experiment.total_steps,
        prepare=ppo.annealed,
        check=ppo.check_hyperparams,
    )


def main(experiment: Experiment) -> dict[str, Any]:
    """Sweeps, or goes on, and returns the best configuration's figures."""
    folder, steps = experiment.run.out, experiment.total_steps

    with Run(
        "sweep_cartpole",
        experiment,
        experiment.run,
        num_updates=experiment.config.updates(steps),
        steps_per_update=experiment.config.batch_size,
        headline="return",
    ) as run:
        if run.result is not None:
            return run.result
        if folder is not None:
            watch.require_pictures()
        done = sweep(
            problem_of(experiment),
            grid(learning_rate=experiment.learning_rates),
            num_seeds=experiment.num_seeds,
            seed=experiment.seed,
            num_evaluations=experiment.num_evaluations,
            rungs=experiment.rungs,
            folder=folder,
            checkpoint_every=experiment.run.checkpoint_every,
        )
        say_results(done.results)
        if folder is not None:
            sweeps.save(
                folder,
                done,
                ENV,
                TASK,
                lambda state: functools.partial(ppo.act, NETWORK, state, greedy=True),
                title="PPO on CartPole-v1: learning rates",
                versions=manifest("", experiment)["versions"],
                target=SOLVED,
                target_name="solved:",
                max_steps=TASK.max_steps,
            )
        return run.finish(*sweeps.figures(done, target=SOLVED))


if __name__ == "__main__":
    launch(main, Experiment, __doc__, all_cores=True)
