"""A new algorithm trains, is swept, saved and resumed with no line outside its file."""

import functools
import pathlib

import chex
import jax
import numpy as np
import pytest
import reinforce

from rljax.algorithms.networks import ActorCritic
from rljax.envs import CartPole, CartPoleParams
from rljax.sweeps import grid, make_problem, sweep
from rljax.training.checkpoint import restore_latest, save
from rljax.training.files import RunError
from rljax.training.loop import train

ENV, TASK, NETWORK = CartPole(), CartPoleParams(), ActorCritic(num_actions=2)
ALGORITHM = reinforce.make(ENV, NETWORK, reinforce.Config())


@functools.cache
def begun():
    return jax.jit(ALGORITHM.init)(jax.random.key(0), reinforce.Hyperparams(), TASK)


def test_it_is_a_file_of_its_own():
    lines = pathlib.Path(reinforce.__file__).read_text().splitlines()
    assert len([line for line in lines if line]) < 80


def test_it_learns():
    reports = []
    train(
        ALGORITHM,
        begun(),
        TASK,
        60,
        on_log=lambda _, x: reports.append(x),
        log_every=20,
    )
    returns = [float(report.metrics["episode_return"]) for report in reports]
    assert returns[-1] > 50  # a random policy: 22


def test_it_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    straight = train(ALGORITHM, begun(), TASK, 4)
    save(tmp_path, 2, train(ALGORITHM, begun(), TASK, 2), {})
    state, _ = restore_latest(tmp_path, jax.eval_shape(lambda: begun()))
    chex.assert_trees_all_equal(train(ALGORITHM, state, TASK, 2), straight)


@pytest.mark.slow
def test_it_is_swept_and_goes_on(tmp_path):
    problem = make_problem(
        reinforce, ENV, NETWORK, TASK, total_steps=1024, num_episodes=2,
        config=reinforce.Config(num_envs=4),
    )  # fmt: skip
    points = grid(learning_rate=[1e-3, 1e-2])
    settings = {"num_seeds": 2, "num_evaluations": 2}
    whole = sweep(problem, points, **settings)
    assert (whole.results.status == "finished").all()
    with pytest.raises(RunError, match="stopped by SIGTERM"):
        sweep(
            problem, points, **settings, folder=tmp_path, should_stop=lambda: "SIGTERM"
        )
    done = sweep(problem, points, **settings, folder=tmp_path)
    np.testing.assert_array_equal(done.results.returns, whole.results.returns)
