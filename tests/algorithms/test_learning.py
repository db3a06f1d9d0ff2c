"""The headline results; minutes."""

import functools

import cartpole_ppo
import jax
import numpy as np
import pendulum
import pytest
import search_cartpole
import thermostat_ppo
from ppo_throughput import HYPERPARAMS, SIZES

import rljax
from rljax.algorithms import ppo
from rljax.envs.variation import ParamsPerEnv
from rljax.numerics.statistics import summarize
from rljax.training.populations import decay_over, population, replicate, stack

pytestmark = [pytest.mark.slow, pytest.mark.optimized]


def test_twenty_seeds_solve_cartpole_in_100_000_steps():
    result = cartpole_ppo.main(cartpole_ppo.Experiment(num_seeds=20))
    assert result["return_iqm"] >= 475
    assert result["solved"] >= 18
    assert result["env_steps"] <= 20 * 100_000


def test_twenty_seeds_solve_cartpole_with_the_benchmarks_sizes():
    result = cartpole_ppo.main(
        cartpole_ppo.Experiment(
            num_seeds=20,
            total_steps=500_000,
            num_evaluations=2,
            config=SIZES["4x128"],
            hyperparams=HYPERPARAMS,
        )
    )
    assert result["return_iqm"] >= 475
    assert result["solved"] >= 18


def test_a_search_finds_a_learning_rate_that_solves_cartpole():
    result = search_cartpole.main(search_cartpole.Experiment())
    assert result["trials"] == 64
    assert result["return_iqm"] >= 475  # with seeds that had no part in the choice
    assert 1e-4 < result["best"]["learning_rate"] < 1e-1


@pytest.mark.parametrize("hard", [False, True])
def test_ten_seeds_learn_the_best_thermostat(hard):
    result = thermostat_ppo.main(thermostat_ppo.Experiment(hard=hard))
    low, high = result["return_ci95"]
    if hard:
        assert low >= 0.95 * result["return_optimum"]
        assert low > 1.2 * result["return_bang_bang"]
    else:
        assert low >= 0.99 * result["return_bang_bang"]
    assert high <= 1.01 * result["return_optimum"]
    assert max(result["critic_errors"]) <= 0.03


def test_ten_seeds_swing_a_pendulum_up():
    """A bounded action, a squashed policy, observations and rewards normalized."""
    env, task = pendulum.Pendulum(), pendulum.PendulumParams()
    config = rljax.PPOConfig(
        num_envs=16, num_steps=128, num_epochs=10, num_minibatches=32,
        normalize_observations=True, normalize_rewards=True,
    )  # fmt: skip
    network, num_updates = rljax.make_network(env, task), config.updates(500_000)
    hyperparams = rljax.PPOHyperparams(learning_rate=1e-3, gamma=0.95)
    many = population(rljax.ppo(env, network, config))
    start = (
        jax.random.split(jax.random.key(0), 10),
        replicate(decay_over(hyperparams, num_updates), 10),
    )
    states = rljax.train(many, jax.jit(many.init)(*start, task), task, num_updates)
    result = summarize(returns_on(env, network, states, task))
    assert np.mean(result["returns"]) > -200
    assert result["return_ci95"][0] > -200


def returns_on(env, network, states, task, task_axes=None):
    """Mean returns of each member's greedy policy."""

    def one(state, task, key):
        act = functools.partial(ppo.act, network, state, greedy=True)
        return rljax.evaluate(
            key, env, task, act, num_episodes=128, max_steps=500
        ).returns.mean()

    count = len(states.step)
    run = jax.jit(jax.vmap(one, in_axes=(0, task_axes, 0)))
    return np.asarray(run(states, task, jax.random.split(jax.random.key(1), count)))


def test_one_learner_balances_eight_poles_as_well_as_eight_specialists():
    lengths = np.linspace(0.25, 1.0, 8).tolist()
    poles = stack(rljax.CartPoleParams(), length=lengths)
    env, network = rljax.CartPole(), rljax.ActorCritic(2)
    config = rljax.PPOConfig(num_envs=16, num_steps=32, num_epochs=10)
    num_updates = config.updates(100_000)
    hyperparams = decay_over(rljax.PPOHyperparams(learning_rate=1e-3), num_updates)
    learner = rljax.ppo(env, network, config)

    many = population(learner, task_axes=0)
    keys = jax.random.split(jax.random.key(0), 8)
    eight = jax.jit(many.init)(keys, replicate(hyperparams, 8), poles)
    eight = rljax.train(many, eight, poles, num_updates)
    specialists = returns_on(env, network, eight, poles, 0)

    together = ParamsPerEnv(poles)
    one = jax.jit(learner.init)(jax.random.key(1), hyperparams, together)
    one = rljax.train(learner, one, together, num_updates)
    copies = jax.tree.map(
        lambda x: jax.numpy.stack([x] * 8),
        one.replace(key=jax.random.key_data(one.key)),
    )
    generalist = returns_on(env, network, copies, poles, 0)
    assert (generalist >= 0.95 * specialists).all()
