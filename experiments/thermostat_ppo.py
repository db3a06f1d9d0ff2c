"""Trains a thermostat with PPO, and sets it beside the best that there can be.

    python experiments/thermostat_ppo.py --hard --out runs/thermostat_hard

"On below 70" is optimal in the default room; with --hard the heater is too strong.

Expected: see the README's results.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import thermostat_report

from rljax.algorithms import ppo
from rljax.algorithms.networks import ActorCritic
from rljax.commands.launch import check_counts, check_seed, launch
from rljax.envs import HARD_PLANT, Thermostat, ThermostatParams
from rljax.numerics.processes import is_main, to_host
from rljax.report.plots import learning_curve
from rljax.report.policy_replay import require_pictures
from rljax.rollouts.rollout import greedy_and_sampled
from rljax.training.loop import diverged, train
from rljax.training.populations import (
    decay_over,
    evaluate_each,
    member,
    population,
    replicate,
)
from rljax.training.run_folder import RunFolder, RunOptions
from rljax.training.run_logger import RunLogger
from rljax.training.sharded import mesh_for, sharded

ENV, NETWORK = Thermostat(), ActorCritic(num_actions=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    hard: bool = False
    """The strong heater, with which "on below 70" overshoots."""
    seed: int = 0
    """Seeds everything; run i of several depends on it and i only."""
    num_seeds: int = 10
    """Independent runs, trained side by side in one program."""
    total_steps: int = 100_000
    """Environment steps of each run: a budget, never exceeded."""
    num_evaluations: int = 20
    """Evaluations during a run, about; beside one before it and one after."""
    num_episodes: int = 1024
    """Fresh episodes on which all policies are compared at the end."""
    decay: bool = True
    """Let the learning rate fall to 0 over the run, or over --decay-updates."""
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
        if not self.hyperparams.gamma < 1:
            raise ValueError(
                f"gamma must be below 1, as the task goes on for ever, got "
                f"{self.hyperparams.gamma}. Lower it."
            )
        self.config.updates(self.total_steps)


def main(experiment: Experiment) -> dict[str, Any]:
    """Trains, or goes on, and returns the headline figures."""
    config, options, seeds = experiment.config, experiment.run, experiment.num_seeds
    task = HARD_PLANT if experiment.hard else ThermostatParams()
    num_updates = config.updates(experiment.total_steps)
    log_every = max(1, num_updates // experiment.num_evaluations)
    mesh = mesh_for(config.num_envs, members=seeds)
    with RunFolder("thermostat_ppo", experiment, options) as folder:
        if folder.result is not None:
            thermostat_report.print_table(folder.result)
            return folder.result
        run = RunLogger(
            folder,
            num_updates=num_updates,
            steps_per_update=config.batch_size * seeds,
            headline="greedy_return",
        )
        if options.out is not None:
            require_pictures()

        def test(state: Any, key: jax.Array) -> dict[str, jax.Array]:
            returns = greedy_and_sampled(
                key,
                ENV,
                task,
                functools.partial(ppo.act, NETWORK, state),
                num_episodes=128,
                max_steps=task.max_steps,
            )
            on = thermostat_report.on_probability(NETWORK, state.params)
            return returns | {"heater_on": on}

        keys = jax.random.split(jax.random.key(experiment.seed), 4)
        agent = ppo.ppo(ENV, NETWORK, config)
        agents = population(sharded(agent, mesh), devices=mesh)
        hyperparams = experiment.hyperparams
        if experiment.decay:
            hyperparams = decay_over(hyperparams, num_updates)
        start = jax.random.split(keys[0], seeds), replicate(hyperparams, seeds), task
        states = train(
            agents,
            run.start(agents.init, *start),
            task,
            run.updates_left,
            log_every=log_every,
            on_log=run.on_log,
            evaluate=evaluate_each(test, mesh),
            evaluate_every=log_every,
            evaluation_key=keys[1],
        )
        run.check_finished()
        states = to_host(states)
        gamma, episodes = float(hyperparams.gamma), experiment.num_episodes
        runs = NETWORK, jax.jit(population(agent).init)(*start).params, states.params
        lost = diverged(states)
        result = thermostat_report.compare(
            keys[2], task, *runs, lost, gamma=gamma, num_episodes=episodes
        )
        if options.out is not None and is_main():
            seen = [row for row in run.rows if "heater_on" in row]
            steps = [row["env_steps"] / seeds for row in seen]
            learning_curve(
                options.out / "learning_curve.png",
                steps,
                [row["sampled_return"] for row in seen],
                title=f"PPO on the thermostat, {config.num_envs} environments a run",
                ylabel="return (minutes within the band)",
                target=result["return_bang_bang"],
                target_name='"on below 70"',
                ceiling=task.max_steps,
            )
            on = [row["heater_on"][lost.argmin()] for row in seen]
            thermostat_report.draw_policy(
                options.out / "policy.png", task, steps, on, gamma=gamma
            )
            shown = NETWORK, *member(runs[1:], np.array([lost.argmin()]))
            thermostat_report.draw_episodes(
                options.out, keys[3], task, *shown, gamma=gamma
            )
        thermostat_report.print_table(result)
        return run.finish(result)


if __name__ == "__main__":
    launch(main, Experiment, __doc__)
