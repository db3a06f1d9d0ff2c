"""Sweeps a thermostat's heater and PPO's discount: rooms and numbers in one program.

    python experiments/sweep_thermostat.py --out runs/sweep_thermostat

The room is a part of what is swept: every run has a heater of its own strength. Expected:
see the README's results.
"""

import dataclasses
import functools
from typing import Any

import jax

from rljax.algorithms import ppo
from rljax.envs import Thermostat, ThermostatParams
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

ENV, TASK, NETWORK = Thermostat(), ThermostatParams(), ActorCritic(num_actions=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    seed: int = 0
    """Seeds everything; run i of a configuration depends on it and i only."""
    num_seeds: int = 8
    """Runs of each configuration."""
    heatings: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """Strengths of the heater, in degrees F a minute."""
    gammas: tuple[float, ...] = (0.8, 0.95, 0.99)
    """Discount factors."""
    total_steps: int = 100_000
    """Environment steps of each run: a budget, never exceeded."""
    num_evaluations: int = 20
    """Evaluations during a run, beside one before it."""
    num_episodes: int = 32
    """Episodes in an evaluation of each run."""
    rungs: tuple[float, ...] = ()
    """Shares of a run after which the worse half of the configurations is dropped."""
    config: ppo.PPOConfig = dataclasses.field(
        default_factory=lambda: ppo.PPOConfig(num_envs=16, num_steps=64, num_epochs=10)
    )
    hyperparams: ppo.PPOHyperparams = dataclasses.field(
        default_factory=lambda: ppo.PPOHyperparams(learning_rate=1e-3, ent_coef=0.01)
    )
    run: RunOptions = dataclasses.field(
        default_factory=RunOptions, metadata={"setting": False}
    )

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(self, "num_seeds", "num_evaluations", "num_episodes")
        ppo.check_hyperparams(self.hyperparams)
        self.config.updates(self.total_steps)


def main(experiment: Experiment) -> dict[str, Any]:
    """Sweeps, or goes on, and returns the best configuration's figures."""
    folder, config = experiment.run.out, experiment.config

    def mean_return(config: Any, state: Any, task: Any, key: jax.Array) -> jax.Array:
        act = functools.partial(ppo.act, NETWORK, state, greedy=True)
        episodes = experiment.num_episodes
        return evaluate(
            key, ENV, task, act, num_episodes=episodes, max_steps=TASK.max_steps
        ).returns.mean()

    problem = Problem(
        algorithm=functools.partial(ppo.ppo, ENV, NETWORK),
        evaluate=mean_return,
        config=config,
        hyperparams=experiment.hyperparams,
        task=TASK,
        total_steps=experiment.total_steps,
        prepare=ppo.annealed,
        check=ppo.check_hyperparams,
    )
    with Run(
        "sweep_thermostat",
        experiment,
        experiment.run,
        num_updates=config.updates(experiment.total_steps),
        steps_per_update=config.batch_size,
        headline="return",
    ) as run:
        if run.result is not None:
            return run.result
        if folder is not None:
            watch.require_pictures()
        done = sweep(
            problem,
            grid(heating=experiment.heatings, gamma=experiment.gammas),
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
                title="PPO on the thermostat: heaters and discounts",
                versions=manifest("", experiment)["versions"],
                target=0.9 * TASK.max_steps,
                target_name="nine minutes of ten:",
                max_steps=TASK.max_steps,
                frames_per_second=15.0,
            )
        return run.finish(*sweeps.figures(done, target=0.9 * TASK.max_steps))


if __name__ == "__main__":
    launch(main, Experiment, __doc__, all_cores=True)
