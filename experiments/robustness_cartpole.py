"""Trains a policy on one CartPole, and tries it on a thousand others.

    python experiments/robustness_cartpole.py --out runs/robustness

Pole lengths x masses; 500 steps an episode at most. Expected: see experiments/results/README.md.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rljax.algorithms import ppo
from rljax.algorithms.networks import ActorCritic
from rljax.commands.launch import check_counts, check_seed, launch
from rljax.envs import CartPole, CartPoleParams
from rljax.numerics.processes import is_main, to_host
from rljax.numerics.statistics import summarize
from rljax.report.plots import heat_map, require_matplotlib
from rljax.rollouts.rollout import evaluate
from rljax.training.loop import train
from rljax.training.populations import decay_over, map_over_devices, stack
from rljax.training.run_folder import RunFolder, RunOptions
from rljax.training.run_logger import RunLogger
from rljax.training.sharded import mesh_for, sharded

SOLVED = 475.0
ENV, TASK, NETWORK = CartPole(), CartPoleParams(), ActorCritic(num_actions=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    seed: int = 0
    """Seeds everything."""
    num_lengths: int = 32
    """Half lengths of the pole, from 0.05 to 5 m."""
    num_masses: int = 32
    """Masses of the pole, from 0.01 to 10 kg."""
    num_episodes: int = 32
    """Episodes on each plant."""
    total_steps: int = 100_000
    """Environment steps of the training: a budget, never exceeded."""
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
        check_counts(self, "num_lengths", "num_masses", least=2)
        check_counts(self, "num_episodes")
        ppo.check_hyperparams(self.hyperparams)
        self.config.updates(self.total_steps)


def main(experiment: Experiment) -> dict[str, Any]:
    """Trains, or goes on, and returns the returns on all plants."""
    out, config = experiment.run.out, experiment.config
    num_updates = config.updates(experiment.total_steps)
    lengths = np.geomspace(0.05, 5.0, experiment.num_lengths).tolist()
    masses = np.geomspace(0.01, 10.0, experiment.num_masses).tolist()
    mesh = mesh_for(config.num_envs)
    with RunFolder("robustness_cartpole", experiment, experiment.run) as folder:
        if folder.result is not None:
            return folder.result
        run = RunLogger(
            folder,
            num_updates=num_updates,
            steps_per_update=config.batch_size,
            headline="episode_return",
        )
        if out is not None:
            require_matplotlib()
        keys = jax.random.split(jax.random.key(experiment.seed), 2)
        learner = sharded(ppo.ppo(ENV, NETWORK, config), mesh)
        hyperparams = experiment.hyperparams
        if experiment.decay:
            hyperparams = decay_over(hyperparams, num_updates)
        state = train(
            learner,
            run.start(learner.init, keys[0], hyperparams, TASK),
            TASK,
            run.updates_left,
            log_every=max(1, num_updates // 20),
            on_log=run.on_log,
        )
        run.check_finished()
        pairs = np.array([(x, y) for x in lengths for y in masses])
        columns, count = {"length": pairs[:, 0], "masspole": pairs[:, 1]}, len(pairs)
        # Repeated so that every device has as many; the repetitions are not read.
        more = (0, -count % jax.device_count())
        plants = stack(TASK, **{k: np.pad(x, more, "edge") for k, x in columns.items()})
        returns = jax.jit(on_plants(experiment))(state, plants, keys[1])
        returns = to_host(returns)[:count]
        if out is not None and is_main():
            draw(out, pairs, returns.reshape(len(lengths), len(masses)))
        figures = {"plants": count, "solved": int((returns >= SOLVED).sum())}
        return run.finish(figures | summarize([nearest(returns, columns)]))


def on_plants(experiment: Experiment) -> Any:
    """`(state, plants, key) -> [N]` mean returns of the greedy policy, on all devices."""
    num, most = experiment.num_episodes, TASK.max_steps

    def one(state: Any, task: Any, key: jax.Array) -> jax.Array:
        act = functools.partial(ppo.act, NETWORK, state, greedy=True)
        played = evaluate(key, ENV, task, act, num_episodes=num, max_steps=most)
        return played.returns.mean()

    axes = None, 0, None
    return map_over_devices(jax.vmap(one, in_axes=axes), axes, tuple(jax.devices()))


def nearest(returns: np.ndarray, columns: dict[str, np.ndarray]) -> float:
    """The return on the plant nearest to the one that was trained on."""
    far = abs(np.log(columns["length"] / TASK.length))
    far += abs(np.log(columns["masspole"] / TASK.masspole))
    return float(returns[int(far.argmin())])


def draw(folder: Path, pairs: np.ndarray, returns: np.ndarray) -> None:
    """The map, as a PNG and as numbers."""
    np.savetxt(
        folder / "robustness.csv",
        np.column_stack([pairs, returns.ravel()]),
        delimiter=",",
        header="length,masspole,return",
        comments="",
        fmt="%.6g",
    )
    heat_map(
        folder / "robustness.png",
        np.unique(pairs[:, 1]),
        np.unique(pairs[:, 0]),
        returns,
        title="A policy trained on one CartPole (cross), tried on others",
        xlabel="mass of the pole (kg)",
        ylabel="half length of the pole (m)",
        label="mean return of the greedy policy",
        mark=(TASK.masspole, TASK.length),
        ceiling=TASK.max_steps,
    )


if __name__ == "__main__":
    launch(main, Experiment, __doc__, all_cores=True)
