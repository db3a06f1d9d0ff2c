"""Trains a Flax policy to balance CartPole-v1 with PPO; several seeds in one program.

    python experiments/cartpole_ppo.py --num-seeds 8 --out runs/cartpole

Solved is a mean return of 475 out of 500. Expected: see the README's results.
"""

import dataclasses
import functools
import math
from typing import Any

import jax

from rljax.algorithms import ppo
from rljax.algorithms.networks import ActorCritic
from rljax.commands.launch import check_counts, check_seed, launch
from rljax.envs import CartPole, CartPoleParams
from rljax.numerics.processes import is_main, to_host
from rljax.numerics.statistics import summarize
from rljax.report.plots import learning_curve
from rljax.report.policy_replay import play_policies, require_pictures, save_replay
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

SOLVED = 475.0
ENV, TASK, NETWORK = CartPole(), CartPoleParams(), ActorCritic(num_actions=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    seed: int = 0
    """Seeds everything; run i of several depends on it and i only."""
    num_seeds: int = 8
    """Independent runs, trained side by side in one program."""
    total_steps: int | None = None
    """Environment steps of each run: a budget, never exceeded. By default 100,000, or
    20 updates if they take more."""
    num_evaluations: int = 20
    """Evaluations during a run, about; beside one before it and one after."""
    num_episodes: int = 128
    """Fresh episodes in an evaluation of each run."""
    stop_at_return: float | None = None
    """Stop once every run's greedy mean return is this or more."""
    decay: bool = True
    """Let the learning rate fall to 0 over the run, or over --decay-updates."""
    config: ppo.PPOConfig = dataclasses.field(
        default_factory=lambda: ppo.PPOConfig(num_envs=16, num_steps=32, num_epochs=10)
    )
    hyperparams: ppo.PPOHyperparams = dataclasses.field(
        default_factory=lambda: ppo.PPOHyperparams(learning_rate=1e-3)
    )
    run: RunOptions = dataclasses.field(
        default_factory=RunOptions, metadata={"setting": False}
    )

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(self, "num_seeds", "num_evaluations", "num_episodes")
        if self.stop_at_return is not None and math.isnan(self.stop_at_return):
            raise ValueError("stop_at_return must be a number, got nan. Leave it out.")
        ppo.check_hyperparams(self.hyperparams)
        self.num_updates()

    def num_updates(self) -> int:
        """Updates of each run."""
        if self.total_steps is None:
            return self.config.updates(max(100_000, 20 * self.config.batch_size))
        return self.config.updates(self.total_steps)


def main(experiment: Experiment) -> dict[str, Any]:
    """Trains, or goes on, and returns the headline figures."""
    config, options, seeds = experiment.config, experiment.run, experiment.num_seeds
    num_updates = experiment.num_updates()
    log_every = max(1, num_updates // (5 * experiment.num_evaluations))
    evaluate_every = max(1, num_updates // experiment.num_evaluations)
    evaluate_every -= evaluate_every % log_every
    mesh = mesh_for(config.num_envs, members=seeds)
    with RunFolder("cartpole_ppo", experiment, options) as folder:
        if folder.result is not None:
            return folder.result
        run = RunLogger(
            folder,
            num_updates=num_updates,
            steps_per_update=config.batch_size * seeds,
            headline="greedy_return",
            stop_at=experiment.stop_at_return,
        )
        if options.out is not None:
            require_pictures()

        def evaluate(state: Any, key: jax.Array) -> dict[str, jax.Array]:
            return greedy_and_sampled(
                key,
                ENV,
                TASK,
                functools.partial(ppo.act, NETWORK, state),
                num_episodes=experiment.num_episodes,
                max_steps=TASK.max_steps,
            )

        agent = ppo.ppo(ENV, NETWORK, config)
        agents = population(sharded(agent, mesh), devices=mesh)
        hyperparams = experiment.hyperparams
        if experiment.decay:
            hyperparams = decay_over(hyperparams, num_updates)
        keys = jax.random.split(jax.random.key(experiment.seed), 3)
        start = jax.random.split(keys[0], seeds), replicate(hyperparams, seeds), TASK
        states = train(
            agents,
            run.start(agents.init, *start),
            TASK,
            run.updates_left,
            log_every=log_every,
            on_log=run.on_log,
            evaluate=evaluate_each(evaluate, mesh),
            evaluate_every=evaluate_every,
            evaluation_key=keys[1],
        )
        run.check_finished()
        states = to_host(states)
        if options.out is not None and is_main():
            seen = [row for row in run.rows if "greedy_return" in row]
            learning_curve(
                options.out / "learning_curve.png",
                [row["env_steps"] / seeds for row in seen],
                [row["greedy_return"] for row in seen],
                title=f"PPO on CartPole-v1, {config.num_envs} environments a run",
                target=SOLVED,
                ceiling=TASK.max_steps,
            )
            shown = int(diverged(states).argmin())
            first = jax.jit(agent.init)(*member(start[:2], shown), TASK)
            policies = {
                "untrained": functools.partial(ppo.act, NETWORK, first),
                "trained": functools.partial(ppo.act, NETWORK, member(states, shown)),
            }
            episodes = play_policies(
                keys[2], ENV, TASK, policies, max_steps=TASK.max_steps
            )
            save_replay(options.out, ENV, TASK, episodes, steps_per_second=50.0)
        returns, sampled = run.last["greedy_return"], run.last["sampled_return"]
        more = {
            "returns_sampled": sampled,
            "solved": sum(x is not None and x >= SOLVED for x in returns),
        }
        return run.finish(summarize(returns) | more)


if __name__ == "__main__":
    launch(main, Experiment, __doc__)
