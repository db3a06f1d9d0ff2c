import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

from rljax.algorithms.distributions import Categorical
from rljax.envs import (
    HARD_PLANT,
    CartPole,
    CartPoleParams,
    Thermostat,
    ThermostatParams,
)
from rljax.envs import thermostat_exact as exact
from rljax.rollouts.objectives import LogProb, horizon, objective
from rljax.rollouts.objectives import log_prob as log_prob_
from rljax.rollouts.rollout import episode
from rljax.rollouts.rollout import record as record_

ENV = Thermostat()

record = jax.jit(
    record_, static_argnums=(1, 3), static_argnames=("num_episodes", "max_steps")
)
log_prob = jax.jit(log_prob_, static_argnums=(0, 2))


def sharp(observation):
    """A stochastic policy, as logits: the heater is likely on when it is cold."""
    return jnp.stack([5.0 * observation[..., 0], -5.0 * observation[..., 0]], -1)


def act(observation, key):
    return Categorical(sharp(observation)).sample(key)


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("params", [ThermostatParams(disturbance=0.3), HARD_PLANT])
@pytest.mark.parametrize("continuing", [False, True])
def test_the_objective_is_the_exact_value_of_the_policy(params, continuing, key):
    table = exact.grid(params, 20001)
    on = jax.nn.softmax(sharp(table.observation))[:, 1]
    length = None if continuing else 200
    values = exact.policy_values(table, on, gamma=0.99, num_steps=length)
    estimate = objective(
        key,
        ENV,
        params,
        act,
        gamma=0.99,
        num_episodes=4096,
        max_steps=horizon(0.99) if continuing else 200,
        continuing=continuing,
    )
    error = float(estimate.mean) - exact.objective(table, values)
    assert abs(error) < 3 * estimate.standard_error
    assert estimate.standard_error < 0.01 * estimate.mean
    assert estimate.unfinished == (1.0 if continuing else 0.0)


@pytest.mark.slow
def test_the_standard_error_is_that_of_the_mean():
    params = ThermostatParams()
    few = functools.partial(
        objective, env=ENV, params=params, act=act, gamma=0.9, max_steps=50
    )
    keys = jax.random.split(jax.random.key(1), 200)
    estimates = jax.jit(jax.vmap(functools.partial(few, num_episodes=64)))(keys)
    np.testing.assert_allclose(
        estimates.mean.std(), estimates.standard_error.mean(), rtol=0.2
    )


def test_a_horizon_leaves_the_tolerance():
    assert 0.99 ** horizon(0.99) <= 1e-4 < 0.99 ** (horizon(0.99) - 1)
    assert horizon(0.0) == 1
    for gamma, tolerance in [(1.0, 0.1), (-0.1, 0.1), (0.9, 0.0)]:
        with pytest.raises(ValueError, match="a horizon needs gamma in"):
            horizon(gamma, tolerance)


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("disturbance", [0.0, 0.4])
def test_a_trajectorys_log_probability_is_the_numpy_sum(disturbance, key):
    params = ThermostatParams(disturbance=disturbance, max_steps=30)
    trajectories = record(key, ENV, params, act, num_episodes=5, max_steps=40)
    found = jax.vmap(
        lambda one: log_prob(ENV, params, log_policy, one), in_axes=1
    )(trajectories)  # fmt: skip
    for index in range(5):
        one = episode(trajectories, index)
        temperature = one.state.temperature.astype(np.float64)
        assert len(temperature) == 31
        start = policy = dynamics = 0.0
        start = math.log(1 / 20)
        for t, action in enumerate(one.action):
            above = (temperature[t] - 70) / 10
            chance_of_on = 1 / (1 + math.exp(10 * above))
            policy += math.log(chance_of_on if action else 1 - chance_of_on)
            mean = temperature[t] + action - 0.02 * (temperature[t] - 50)
            if disturbance:
                z = (temperature[t + 1] - mean) / disturbance
                density = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
                dynamics += math.log(density / disturbance)
            else:
                assert abs(temperature[t + 1] - mean) < 1e-4
        mine = jax.tree.map(lambda x, index=index: x[index], found)
        np.testing.assert_allclose(mine, (start, policy, dynamics), rtol=1e-4)
        np.testing.assert_allclose(mine.total, sum(mine), rtol=1e-6)
    alone = log_prob(ENV, params, log_policy, one)
    chex.assert_trees_all_close(alone, LogProb(*mine), rtol=1e-5)


@pytest.mark.slow
def test_cartpoles_log_probability_is_start_and_policy_alone(key):
    env, params = CartPole(), CartPoleParams()
    trajectories = record(key, env, params, uniform, num_episodes=8, max_steps=60)
    found = jax.vmap(lambda one: log_prob(env, params, half, one), in_axes=1)(
        trajectories
    )
    lengths = trajectories.valid.sum(0)
    assert len(set(lengths.tolist())) > 1
    np.testing.assert_allclose(found.start, -4 * math.log(0.1), rtol=1e-5)
    np.testing.assert_allclose(found.policy, lengths * math.log(0.5), rtol=1e-5)
    np.testing.assert_array_equal(found.dynamics, 0.0)


@pytest.mark.some_cases(1)
@pytest.mark.parametrize(
    ("env", "params"),
    [
        (ENV, ThermostatParams()),
        (ENV, ThermostatParams(disturbance=0.1)),
        (CartPole(), CartPoleParams()),
    ],
)
def test_what_cannot_happen_has_probability_zero(env, params, key):
    one = episode(record(key, env, params, uniform, num_episodes=1, max_steps=5), 0)
    assert np.isfinite(log_prob(env, params, half, one).total)
    field = "temperature" if isinstance(env, Thermostat) else "theta"

    def altered(name, t, change):
        values = np.array(getattr(one.state, name))
        values[t] += change
        return one._replace(state=one.state.replace(**{name: values}))

    assert log_prob(env, params, half, altered(field, 0, 100.0)).start == -np.inf
    assert log_prob(env, params, half, altered("time", 0, 1)).start == -np.inf
    assert log_prob(env, params, half, altered("time", 3, 1)).dynamics == -np.inf
    moved = log_prob(env, params, half, altered(field, 3, 1e-2)).dynamics
    if getattr(params, "disturbance", 0):
        assert moved != log_prob(env, params, half, one).dynamics
    else:
        assert moved == -np.inf


def uniform(observation, key):
    return jax.random.randint(key, observation.shape[:1], 0, 2)


def half(observation, action):
    return jnp.full(action.shape, math.log(0.5))


def log_policy(observation, action):
    return Categorical(sharp(observation)).log_prob(action)


def test_errors_say_what_to_do():
    env = probes.ConstantReward()
    trajectories = record(
        jax.random.key(0),
        env,
        None,
        lambda o, k: jnp.zeros(2, jnp.int32),
        num_episodes=2,
        max_steps=2,
    )
    with pytest.raises(ValueError, match="ConstantReward, which has no log_prob_reset"):
        log_prob(env, None, log_policy, trajectories)
    two = record(
        jax.random.key(0), ENV, ThermostatParams(), act, num_episodes=2, max_steps=2
    )
    with pytest.raises(ValueError, match=r"got valid of shape \(2, 2\)"):
        log_prob(ENV, ThermostatParams(), log_policy, two)
