"""PPO over two devices of this process; over two processes: `test_jobs.py`."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import ActorCritic, CartPole, CartPoleParams, PPOConfig, PPOHyperparams, ppo
from rljax.numerics.processes import agree, any_process, gather, to_host
from rljax.numerics.sharding import make_mesh
from rljax.training import checkpoint
from rljax.training.distributed import check_same_everywhere, connect
from rljax.training.loop import train
from rljax.training.populations import evaluate_each, population, replicate, reusable
from rljax.training.sharded import sharded

CONFIG = PPOConfig(num_envs=8, num_steps=8, num_epochs=2, num_minibatches=2)
LEARNER = ppo(CartPole(), ActorCritic(num_actions=2), CONFIG)
TASK, KEY = CartPoleParams(), jax.random.key(1)


def started(algorithm, key=KEY, hyperparams=None):
    hyperparams = PPOHyperparams() if hyperparams is None else hyperparams
    return jax.jit(algorithm.init)(reusable(key), hyperparams, TASK)


def numbers(state):
    leaves = jax.tree.leaves(to_host(state))
    return [
        np.asarray(jax.random.key_data(x) if isinstance(x, jax.Array) else x)
        for x in leaves
    ]


def test_on_one_device_it_is_the_algorithm_itself():
    assert sharded(LEARNER, make_mesh(jax.devices()[:1])) is LEARNER


def test_two_devices_start_as_one_and_learn_as_one_but_for_rounding():
    two = sharded(LEARNER, make_mesh())
    alone, shared = started(LEARNER), started(two)
    assert shared.envs.done.sharding.spec[0] == "data"
    for a, b in zip(numbers(alone), numbers(shared), strict=True):
        np.testing.assert_array_equal(a, b)
    alone, shared = (train(x, s, TASK, 2) for x, s in ((LEARNER, alone), (two, shared)))
    assert shared.envs.done.sharding.spec[0] == "data"
    for a, b in zip(numbers(alone), numbers(shared), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_population_over_a_mesh_learns_as_one_without():
    mesh, keys = make_mesh(population=2), jax.random.split(reusable(KEY), 2)
    hyperparams = replicate(PPOHyperparams(), 2)
    plain, spread = (
        population(LEARNER),
        population(sharded(LEARNER, mesh), devices=mesh),
    )
    plain, spread = (
        train(x, started(x, keys, hyperparams), TASK, 2) for x in (plain, spread)
    )
    assert spread.envs.done.sharding.spec[0] == "population"
    for a, b in zip(numbers(plain), numbers(spread), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)

    def evaluate(state, key):
        return {"drawn": jax.random.uniform(key) + state.step}

    found = jax.jit(evaluate_each(evaluate, mesh))(spread, reusable(KEY))["drawn"]
    expected = [
        2 + jax.random.uniform(key) for key in jax.random.split(reusable(KEY), 2)
    ]
    np.testing.assert_array_equal(found, expected)


def test_a_checkpoint_of_two_devices_goes_on_on_one(tmp_path):
    two = sharded(LEARNER, make_mesh())
    state = train(two, started(two), TASK, 1)
    checkpoint.save(tmp_path, 1, state, {})
    like = jax.eval_shape(LEARNER.init, reusable(KEY), PPOHyperparams(), TASK)
    restored, _ = checkpoint.restore_latest(tmp_path, like)
    for a, b in zip(numbers(state), numbers(restored), strict=True):
        np.testing.assert_array_equal(a, b)
    rows = []
    for learner, start in ((two, state), (LEARNER, restored)):
        train(learner, start, TASK, 1, on_log=lambda _, x: rows.append(x.metrics))
    chex.assert_trees_all_close(*rows, rtol=1e-6, atol=1e-6)


def test_alone_a_process_agrees_with_itself():
    value = {"rows": [1, None, "a"]}
    assert agree(value) is value
    assert gather(value) == [value]
    assert any_process(True)
    assert not any_process(False)
    tree = {"key": KEY, "x": jnp.arange(3), "y": np.float32(2)}
    found = to_host(tree)
    assert isinstance(found["x"], np.ndarray)
    chex.assert_trees_all_equal(
        jax.random.key_data(found["key"]), jax.random.key_data(KEY)
    )
    check_same_everywhere({"settings": {"seed": 1}})


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("localhost", "must be auto or HOST:PORT,N,I, got 'localhost'"),
        ("host:80,2", "must be auto or HOST:PORT,N,I"),
        ("host:port,2,0", "must be auto or HOST:PORT,N,I"),
        ("host:80,2,2", "numbers 2 processes from 0 to 1, got 2"),
    ],
)
def test_an_address_that_is_none_is_refused(where, words):
    with pytest.raises(ValueError, match=words):
        connect(where)
