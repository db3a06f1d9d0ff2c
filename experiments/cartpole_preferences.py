"""Balances CartPole-v1 from preferences only, with the code of `thermostat_preferences.py`.

    python experiments/cartpole_preferences.py --num-seeds 8 --out runs/cartpole_preferences

The simulated person prefers the stretch in which the pole stands longer, the cart near the
middle of its track. Solved is a mean return of 475 out of 500, which nobody tells the learner.

Expected: see experiments/results/README.md.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from rljax.algorithms.networks import make_network
from rljax.algorithms.ppo import PPOConfig, PPOHyperparams
from rljax.base import Transition
from rljax.commands.launch import check_counts, check_seed, launch
from rljax.envs import CartPole, CartPoleParams
from rljax.numerics.processes import is_main
from rljax.numerics.statistics import summarize
from rljax.report.plots import learning_curve, require_matplotlib
from rljax.rlhf.segments import (
    PreferenceConfig,
    PreferenceHyperparams,
    PreferenceNetworks,
    make_reward_network,
    preference_learning,
)
from rljax.rlhf.segments.learning import act, check_hyperparams
from rljax.rollouts.rollout import greedy_and_sampled
from rljax.training.loop import train
from rljax.training.populations import evaluate_each, population, replicate
from rljax.training.run_folder import RunFolder, RunOptions
from rljax.training.run_logger import RunLogger
from rljax.training.sharded import mesh_for, sharded

SOLVED = 475.0
ENV, TASK = CartPole(), CartPoleParams()
NETWORKS = PreferenceNetworks(
    policy=make_network(ENV, TASK), reward=make_reward_network(ENV, TASK, (32, 32))
)


def standing_in_the_middle(steps: Transition) -> jax.Array:
    """`[T, B]`: a step is worth 1 in the middle of the track, and 0 at its ends."""
    return 1.0 - jnp.abs(steps.next_observation[..., 0]) / TASK.x_threshold


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    seed: int = 0
    """Seeds everything; run i of several depends on it and i only."""
    num_seeds: int = 8
    """Independent runs, trained side by side in one program."""
    num_episodes: int = 128
    """Fresh episodes in an evaluation of each run."""
    config: PreferenceConfig = dataclasses.field(
        default_factory=lambda: PreferenceConfig(
            num_rounds=8,
            collect_envs=32,
            collect_steps=100,
            policy_updates=25,
            fresh_policy=False,
            centred=False,
            utility=standing_in_the_middle,
            agent=PPOConfig(num_envs=16, num_steps=64, num_epochs=10),
        )
    )
    hyperparams: PreferenceHyperparams = dataclasses.field(
        default_factory=lambda: PreferenceHyperparams(
            agent=PPOHyperparams(learning_rate=1e-3, decay_updates=200.0)
        )
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
    mesh = mesh_for(config.agent.num_envs, members=seeds)
    with RunFolder("cartpole_preferences", experiment, options) as folder:
        if folder.result is not None:
            return folder.result
        run = RunLogger(
            folder,
            num_updates=config.num_rounds,
            steps_per_update=config.batch_size * seeds,
            headline="greedy_return",
        )
        if options.out is not None:
            require_matplotlib()

        def test(state: Any, key: jax.Array) -> dict[str, jax.Array]:
            return greedy_and_sampled(
                key,
                ENV,
                TASK,
                functools.partial(act, NETWORKS, state),
                num_episodes=experiment.num_episodes,
                max_steps=TASK.max_steps,
            )

        keys = jax.random.split(jax.random.key(experiment.seed), 2)
        learner = preference_learning(ENV, NETWORKS, config)
        learners = population(sharded(learner, mesh), devices=mesh)
        hyperparams = replicate(experiment.hyperparams, seeds)
        train(
            learners,
            run.start(
                learners.init, jax.random.split(keys[0], seeds), hyperparams, TASK
            ),
            TASK,
            run.updates_left,
            log_every=1,
            on_log=run.on_log,
            evaluate=evaluate_each(test, mesh),
            evaluate_every=1,
            evaluation_key=keys[1],
        )
        run.check_finished()
        if options.out is not None and is_main():
            learning_curve(
                options.out / "learning_curve.png",
                [row["env_steps"] / seeds for row in run.rows],
                [row["greedy_return"] for row in run.rows],
                title="CartPole-v1 from preferences, rewards unseen",
                target=SOLVED,
                target_name="solved:",
                ceiling=TASK.max_steps,
            )
        asked = {"comparisons": experiment.hyperparams.num_comparisons}
        return run.finish(summarize(run.last["greedy_return"]) | asked)


if __name__ == "__main__":
    launch(main, Experiment, __doc__)
