"""Sweeps PPO's learning rate on CartPole-v1: all runs in one program, on all cores.

    python experiments/sweep_cartpole.py --out runs/sweep_cartpole

16 learning rates x 16 seeds. Expected: see experiments/results/README.md.
"""

import dataclasses
from typing import Any

import numpy as np

from rljax.algorithms import ppo
from rljax.algorithms.networks import ActorCritic
from rljax.commands.launch import check_counts, check_seed, launch
from rljax.commands.sweep_experiment import run_sweep
from rljax.envs import CartPole, CartPoleParams
from rljax.sweeps.points import grid
from rljax.training.run_folder import RunOptions

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
    stop_at_return: float | None = None
    """At a rung, a configuration all of whose runs have this return ends."""
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


def main(experiment: Experiment) -> dict[str, Any]:
    """Sweeps, or goes on, and returns the best configuration's figures."""
    return run_sweep(
        "sweep_cartpole",
        experiment,
        ppo,
        ENV,
        NETWORK,
        TASK,
        grid(learning_rate=experiment.learning_rates),
        title="PPO on CartPole-v1: learning rates",
        target=SOLVED,
        target_name="solved:",
        ceiling=TASK.max_steps,
    )


if __name__ == "__main__":
    launch(main, Experiment, __doc__, all_cores=True)
