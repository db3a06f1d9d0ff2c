"""A run whose parameters are no longer finite says so, and is in no figure."""

import dataclasses

import cartpole_ppo
import jax
import numpy as np
import probes
import pytest

import rljax
from rljax.algorithms import ppo
from rljax.algorithms.ppo import PPOConfig, PPOHyperparams
from rljax.numerics.statistics import summarize
from rljax.sweeps import grid, make_problem, sweep
from rljax.training.files import RunError
from rljax.training.loggers import LogEntry
from rljax.training.loop import train
from rljax.training.populations import population, stack
from rljax.training.progress import Console
from rljax.training.run_folder import RunFolder, RunOptions
from rljax.training.run_logger import RunLogger

TINY = PPOConfig(num_envs=2, num_steps=8, num_epochs=1, num_minibatches=1)
LEARNER = rljax.ppo(rljax.CartPole(), rljax.ActorCritic(2, hidden=(8,)), TINY)
TASK = rljax.CartPoleParams()


def start(**values):
    return jax.jit(LEARNER.init)(jax.random.key(0), PPOHyperparams(**values), TASK)


@pytest.mark.slow
def test_a_run_that_diverges_ends_with_the_update():
    with pytest.raises(RunError, match=r"diverged: the run has .*found at update 3"):
        train(LEARNER, start(learning_rate=1e30), TASK, 6, log_every=3)


@dataclasses.dataclass(frozen=True)
class PaysTooMuch(probes.RewardFromBoth):
    def reward(self, state, action):
        return 1e30 * super().reward(state, action)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run_though_its_parameters_are():
    learner = rljax.ppo(PaysTooMuch(), rljax.ActorCritic(2, hidden=(8,)), TINY)
    state = jax.jit(learner.init)(jax.random.key(0), PPOHyperparams(), None)
    with pytest.raises(RunError, match=r"losses that are not finite.*update 2"):
        train(learner, state, None, 6, log_every=2)
    after = train(learner, state, None, 2, raise_if_diverged=False)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(after.params))


@pytest.mark.slow
def test_nor_is_its_sweep_finished():
    problem = make_problem(
        ppo, PaysTooMuch(), rljax.ActorCritic(2, hidden=(8,)), None, total_steps=64,
        config=TINY, num_episodes=2, max_steps=3,
    )  # fmt: skip
    done = sweep(problem, grid(learning_rate=[1e-3]), num_seeds=2)
    assert done.results.status.tolist() == [["diverged"] * 2]


@pytest.mark.slow
def test_an_experiment_that_diverges_fails(tmp_path):
    experiment = cartpole_ppo.Experiment(
        config=TINY, hyperparams=PPOHyperparams(learning_rate=1e30), num_seeds=2,
        total_steps=64, num_evaluations=2, num_episodes=2, run=RunOptions(out=tmp_path),
    )  # fmt: skip
    with pytest.raises(
        RunError, match="all 2 runs have parameters or losses that are not"
    ):
        cartpole_ppo.main(experiment)
    assert not (tmp_path / "result.json").exists()


def test_of_a_population_those_that_diverged_are_marked():
    many, rates = population(LEARNER), [1e-3, 1e30, 1e-3]
    hyperparams = stack(PPOHyperparams(), learning_rate=rates)
    keys = jax.random.split(jax.random.key(0), 3)
    state, seen = jax.jit(many.init)(keys, hyperparams, TASK), []
    train(many, state, TASK, 3, on_log=lambda _, entry: seen.append(entry.diverged))
    np.testing.assert_array_equal(seen, [[False, True, False]])


def test_a_seed_that_diverged_has_no_number_in_the_log(tmp_path, capsys):
    with RunFolder(
        "one", cartpole_ppo.Experiment(), RunOptions(out=tmp_path)
    ) as folder:
        run = RunLogger(
            folder, num_updates=9, steps_per_update=1, headline="greedy_return"
        )
        run.start(lambda: jax.numpy.zeros(2))
        returns = {"greedy_return": np.float32([9.5, 200.0]), "one": np.float32(3.0)}
        for step in (1, 2):
            lost = np.array([True, False])
            run.on_log(None, LogEntry(step, {}, returns, 0.0, 0.0, lost))
    assert run.last["greedy_return"] == [None, 200.0]
    assert run.last["one"] == 3.0
    told = capsys.readouterr().err
    assert told.count("warning: of the runs, 0 diverged before update 1") == 1


def test_what_diverged_is_counted_and_left_out():
    found = summarize([1.0, None, 3.0])
    assert found["diverged"] == 1
    assert found["return_iqm"] == 2.0
    assert np.isnan(found["returns"][1])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"gamma": 99.0}, r"gamma must lie in \[0, 1\], got 99"),
        ({"learning_rate": -1.0}, "learning_rate must lie in"),
        ({"clip_eps": np.nan}, "clip_eps must lie in"),
    ],
)
def test_the_library_checks_what_is_trained_with(values, words):
    with pytest.raises(ValueError, match=words):
        train(LEARNER, start(**values), TASK, 1)


def test_the_library_checks_what_is_trained_on():
    with pytest.raises(ValueError, match="tau must lie in"):
        train(LEARNER, start(), TASK.replace(tau=-0.02), 1)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (np.nan, "unknown"),
        ([np.nan, np.nan], "unknown"),
        ([1.0, np.nan, 3.0], "2.0"),
        (7, "7.0"),
    ],
)
def test_progress_shows_the_mean_of_what_is_known(value, shown, capsys):
    console = Console(4, "episode_return")
    console.write({"step": 2, "env_steps_per_second": 10.0, "episode_return": value})
    console.close()
    assert capsys.readouterr().err.rstrip().endswith(f"episode return {shown}")
