"""Sweeps a thermostat's heater and PPO's discount: rooms and numbers in one program.

    python experiments/sweep_thermostat.py --out runs/sweep_thermostat

The room is a part of what is swept: every run has a heater of its own strength. Expected:
see experiments/results/README.md.
"""

import dataclasses
from typing import Any

from rljax.algorithms import ppo
from rljax.algorithms.networks import ActorCritic
from rljax.commands.launch import check_counts, check_seed, launch
from rljax.commands.sweep_experiment import run_sweep
from rljax.envs import Thermostat, ThermostatParams
from rljax.sweeps.points import grid
from rljax.training.run_folder import RunOptions

ENV, TASK, NETWORK = Thermostat(), ThermostatParams(), ActorCritic(num_actions=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    seed: int = 0
    """Seeds everything; run i of a configuration depends on it and i only."""
    num_seeds: int = 8
    """Runs of each configuration."""
    heatings: tuple[float, ...] = (1.0, 2.0, 3.0, 6.0)
    """Strengths of the heater, in degrees F a minute."""
    gammas: tuple[float, ...] = (0.0, 0.5, 0.9, 0.99)
    """Discount factors."""
    total_steps: int = 100_000
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
        if any(gamma >= 1 for gamma in self.gammas):
            raise ValueError(
                f"gammas must be below 1, as the room never ends, got {max(self.gammas)}."
            )
        ppo.check_hyperparams(self.hyperparams)
        self.config.updates(self.total_steps)


def main(experiment: Experiment) -> dict[str, Any]:
    """Sweeps, or goes on, and returns the best configuration's figures."""
    return run_sweep(
        "sweep_thermostat",
        experiment,
        ppo,
        ENV,
        NETWORK,
        TASK,
        grid(heating=experiment.heatings, gamma=experiment.gammas),
        title="PPO on the thermostat: heaters and discounts",
        target=0.9 * TASK.max_steps,
        target_name="nine minutes of ten:",
        ceiling=TASK.max_steps,
        frames_per_second=15.0,
    )


if __name__ == "__main__":
    launch(main, Experiment, __doc__, all_cores=True)
