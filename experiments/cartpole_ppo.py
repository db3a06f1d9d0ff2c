"""Trains a Flax policy to balance CartPole-v1 with PPO; several seeds in one program.

    python experiments/cartpole_ppo.py --num-seeds 8 --out runs/cartpole

Solved is a mean return of 475 out of 500. Expected: see the README's results.
"""

import dataclasses
import functools
import math
from typing import Any

import jax

from rljax.algorithms.ppo import (
    PPOConfig,
    PPOHyperparams,
    PPOState,
    act,
    check_hyperparams,
    ppo,
)
from rljax.envs import CartPole, CartPoleParams
from rljax.networks import ActorCritic
from rljax.report.plots import learning_curve, require_matplotlib
from rljax.report.statistics import bootstrap_interval, interquartile_mean
from rljax.rollout import evaluate
from rljax.run import Run, RunOptions, device, launch
from rljax.sweep import population, replicate
from rljax.train import train

SOLVED = 475.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    seed: int = 0
    """Seeds everything; run i of several depends on it and i only."""
    num_seeds: int = 8
    """Independent runs, trained side by side in one program."""
    total_steps: int = 100_000
    """Environment steps of each run: a budget, never exceeded."""
    num_evaluations: int = 20
    """Evaluations during a run, beside one before it."""
    num_episodes: int = 128
    """Fresh episodes in an evaluation of each run."""
    stop_at_return: float | None = None
    """Stop once every run's greedy mean return is at least this."""
    config: PPOConfig = dataclasses.field(
        default_factory=lambda: PPOConfig(num_envs=16, num_steps=32, num_epochs=10)
    )
    hyperparams: PPOHyperparams = dataclasses.field(
        default_factory=lambda: PPOHyperparams(learning_rate=1e-3)
    )
    run: RunOptions = dataclasses.field(default_factory=RunOptions)

    def __post_init__(self):
        for name in ("num_seeds", "num_evaluations", "num_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}. Use 1 or more."
                )
        check_hyperparams(self.hyperparams)
        self.config.updates(self.total_steps)


def main(experiment: Experiment) -> dict[str, Any]:
    """Trains, or goes on, and returns the headline figures."""
    config, options = experiment.config, experiment.run
    num_updates = config.updates(experiment.total_steps)
    evaluate_every = max(1, num_updates // experiment.num_evaluations)
    if options.out is not None:
        require_matplotlib()
    with Run(
        "cartpole_ppo",
        experiment,
        options,
        num_updates=num_updates,
        steps_per_update=config.batch_size * experiment.num_seeds,
        headline="greedy_return",
    ) as run:
        if run.result is not None:
            return run.result
        env, task = CartPole(), CartPoleParams()
        network = ActorCritic(num_actions=env.action_space(task).n)
        agents = population(ppo(env, network, config))
        state = run.start(agents.init, *_members(experiment, num_updates), task)

        def on_log(state, report):
            goal, reached = experiment.stop_at_return, report.evaluation
            solved = bool(
                goal is not None
                and reached
                and (reached["greedy_return"] >= goal).all()
            )
            return run.on_log(state, report, stop=solved)

        train(
            agents,
            state,
            task,
            run.updates_left,
            log_every=_divisor_near(evaluate_every, num_updates // 100),
            on_log=on_log,
            evaluate=_evaluator(env, task, network, experiment),
            evaluate_every=evaluate_every,
            evaluation_key=jax.random.fold_in(jax.random.key(experiment.seed), 1),
        )
        run.check_finished()
        if options.out is not None:
            _draw(options.out / "learning_curve.png", run.rows, experiment)
        return run.finish(_headline(run))


def _members(
    experiment: Experiment, num_updates: int
) -> tuple[jax.Array, PPOHyperparams]:
    """Keys and hyperparameters of the runs, `[num_seeds]`."""
    hyperparams = experiment.hyperparams
    if hyperparams.num_updates == math.inf:
        hyperparams = hyperparams.replace(num_updates=num_updates)
    key = jax.random.fold_in(jax.random.key(experiment.seed), 0)
    # Row i of a split does not depend on the number of rows: run i is the same run.
    keys = jax.random.split(key, experiment.num_seeds)
    return keys, replicate(hyperparams, experiment.num_seeds)


def _evaluator(env, task, network, experiment):
    """Mean returns, greedy and sampled, of every run over fresh episodes."""

    def evaluate_one(state: PPOState, key: jax.Array) -> dict[str, jax.Array]:
        means = {}
        for name, greedy in (("greedy", True), ("sampled", False)):
            episodes = evaluate(
                jax.random.fold_in(key, greedy),
                env,
                task,
                functools.partial(act, network, state, greedy=greedy),
                num_episodes=experiment.num_episodes,
                max_steps=task.max_steps,
            )
            means[f"{name}_return"] = episodes.returns.mean()
        return means

    def evaluate_all(state: PPOState, key: jax.Array) -> dict[str, jax.Array]:
        keys = jax.random.split(key, experiment.num_seeds)
        return jax.vmap(evaluate_one)(state, keys)

    return evaluate_all


def _headline(run: Run) -> dict[str, Any]:
    last = run.rows[-1]
    returns = last["greedy_return"]
    return {
        "device": device(),
        "env_steps": last["env_steps"],
        "env_steps_per_second": last["env_steps"] / last["seconds_run"],
        "seconds_compile": run.seconds_compile,
        "seconds_run": last["seconds_run"],
        "returns": returns,
        "returns_sampled": last["sampled_return"],
        "return_iqm": interquartile_mean(returns),
        "return_ci95": bootstrap_interval(returns),
        "solved": sum(x >= SOLVED for x in returns),
    }


def _draw(path, rows, experiment: Experiment) -> None:
    evaluated = [row for row in rows if "greedy_return" in row]
    learning_curve(
        path,
        [row["env_steps"] / experiment.num_seeds for row in evaluated],
        [row["greedy_return"] for row in evaluated],
        title=f"PPO on CartPole-v1, {experiment.config.num_envs} environments a run",
        target=SOLVED,
        ceiling=CartPoleParams().max_steps,
    )


def _divisor_near(number: int, wanted: int) -> int:
    """The divisor of `number` closest to `wanted`."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return min(divisors, key=lambda d: abs(d - wanted))


if __name__ == "__main__":
    launch(main, Experiment, __doc__)
