"""Learns what a thermostat is for from preferences only: the reward is never told.

    python experiments/thermostat_preferences.py --num-seeds 20 --out runs/preferences

A simulated person sees two stretches of ten minutes and prefers one, more often the better
one. A reward model learns from these choices, PPO from the reward model, and the next round
compares what the new policy does. With `--room hard` the heater is three times as strong, and
more is needed: --num-rounds 8 --num-comparisons 1600 --max-comparisons 1600 --fit-steps 2000
--random-share 0.25 --policy-updates 80 --decay-updates 80.

Expected: see the README's results.
"""

import dataclasses
from typing import Any, Literal

import jax
import numpy as np
import preferences_report
import thermostat_report

from rljax.algorithms.networks import make_network
from rljax.commands.launch import check_counts, check_seed, launch
from rljax.envs import HARD_PLANT, Thermostat, ThermostatParams
from rljax.numerics.processes import is_main, to_host
from rljax.report.policy_replay import require_pictures
from rljax.rlhf.segments import (
    PreferenceConfig,
    PreferenceHyperparams,
    PreferenceNetworks,
    make_reward_network,
    preference_learning,
)
from rljax.rlhf.segments.learning import check_hyperparams
from rljax.training.loop import diverged, train
from rljax.training.populations import map_over_devices, member, population, replicate
from rljax.training.run_folder import RunFolder, RunOptions
from rljax.training.run_logger import RunLogger
from rljax.training.sharded import mesh_for, sharded

ENV, ROOMS = Thermostat(), {"default": ThermostatParams(), "hard": HARD_PLANT}
NETWORKS = PreferenceNetworks(
    policy=make_network(ENV, ROOMS["default"], hidden=(32, 32)),
    reward=make_reward_network(ENV, ROOMS["default"], hidden=(32, 32)),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    room: Literal["default", "hard"] = "default"
    """The hard one has a heater three times as strong."""
    seed: int = 0
    """Seeds everything; run i of several depends on it and i only."""
    num_seeds: int = 1
    """Independent runs, trained side by side in one program."""
    num_episodes: int = 512
    """Fresh episodes in an evaluation of each run."""
    config: PreferenceConfig = dataclasses.field(default_factory=PreferenceConfig)
    hyperparams: PreferenceHyperparams = dataclasses.field(
        default_factory=PreferenceHyperparams
    )
    run: RunOptions = dataclasses.field(
        default_factory=RunOptions, metadata={"setting": False}
    )

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(self, "num_seeds", "num_episodes")
        check_hyperparams(self.hyperparams)


def main(experiment: Experiment) -> dict[str, Any]:
    """Learns, or goes on, and returns the headline figures."""
    config, options, seeds = experiment.config, experiment.run, experiment.num_seeds
    task = ROOMS[experiment.room]
    mesh = mesh_for(config.agent.num_envs, members=seeds)
    with RunFolder("thermostat_preferences", experiment, options) as folder:
        if folder.result is not None:
            preferences_report.print_table(folder.result)
            return folder.result
        run = RunLogger(
            folder,
            num_updates=config.num_rounds,
            steps_per_update=config.batch_size * seeds,
            headline="true_return",
        )
        if options.out is not None:
            require_pictures()
        keys = jax.random.split(jax.random.key(experiment.seed), 4)
        learner = preference_learning(ENV, NETWORKS, config)
        learners = population(sharded(learner, mesh), devices=mesh)
        hyperparams = replicate(experiment.hyperparams, seeds)
        start = jax.random.split(keys[0], seeds), hyperparams, task
        test = preferences_report.make_test(NETWORKS, task, experiment.num_episodes)
        states = train(
            learners,
            run.start(learners.init, *start),
            task,
            run.updates_left,
            log_every=1,
            on_log=run.on_log,
            evaluate=map_over_devices(test, (0, None), mesh),
            evaluate_every=1,
            evaluation_key=keys[1],
        )
        run.check_finished()
        states = to_host(states)
        result = preferences_report.figures(run.last) | {
            "comparisons": experiment.hyperparams.num_comparisons
        }
        if options.out is not None and is_main():
            preferences_report.draw_rewards(options.out / "rewards.png", run.rows, task)
            preferences_report.draw_returns(options.out / "returns.png", run.rows)
            first = jax.jit(population(learner).init)(*start)
            policies = first.agent.params, states.agent.params
            thermostat_report.draw_episodes(
                options.out,
                keys[3],
                task,
                NETWORKS.policy,
                *member(policies, np.array([diverged(states).argmin()])),
                gamma=float(experiment.hyperparams.agent.gamma),
            )
        preferences_report.print_table(result)
        return run.finish(result)


if __name__ == "__main__":
    launch(main, Experiment, __doc__)
