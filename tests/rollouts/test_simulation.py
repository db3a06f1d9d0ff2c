"""`simulate`, against a plain loop over the same numbers, in any blocks, on any devices."""

import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import RewardFromObservation

from rljax import (
    CartPole,
    CartPoleParams,
    Thermostat,
    ThermostatParams,
    Totals,
    bang_bang,
    simulate,
)
from rljax.envs.vector import VectorEnv
from rljax.numerics import random
from rljax.rollouts import simulation
from rljax.rollouts.rollout import evaluate, unroll

pytestmark = pytest.mark.optimized


def coin(policy, observation, uniform):
    del policy, observation
    return (uniform < 0.5).astype(jnp.int32)


def by_hand(key, env, params, act, num_envs, num_steps):
    """One environment and one step at a time."""
    start_key, steps_key, _ = jax.random.split(key, 3)
    first = jax.random.bits(start_key, (2,), jnp.uint32)
    keys = jax.random.bits(steps_key, (num_steps, 2), jnp.uint32)
    step_noise = getattr(env, "step_noise", 0)

    @jax.jit
    def fresh(step_key, index):
        numbers = [
            random.uniform(step_key, index, 1 + step_noise + i)
            for i in range(env.num_noise)
        ]
        return env.reset_from_noise(jnp.stack(numbers), params)

    @jax.jit
    def step(step_key, index, state, observation):
        action = act(None, observation, random.uniform(step_key, index, 0))
        if step_noise:
            drawn = jnp.stack([random.uniform(step_key, index, 1)])
            return env.step_from_noise(drawn, state, action, params)
        return env.step(jax.random.key(0), state, action, params)

    rewards, episodes = np.zeros(num_envs), np.zeros(num_envs, int)
    for index in range(num_envs):
        state, observation = fresh(first, jnp.uint32(index))
        for step_key in keys:
            state, timestep = step(step_key, jnp.uint32(index), state, observation)
            observation = timestep.observation
            rewards[index] += timestep.reward
            if timestep.terminated | timestep.truncated:
                episodes[index] += 1
                state, observation = fresh(step_key, jnp.uint32(index))
    return rewards, episodes


CASES = [
    (CartPole(), CartPoleParams(max_steps=30), coin),
    (
        Thermostat(),
        ThermostatParams(max_steps=20, disturbance=0.5),
        lambda _, observation, uniform: bang_bang(observation),
    ),
]


@pytest.mark.some_cases(1)
@pytest.mark.parametrize(("env", "params", "act"), CASES)
def test_totals_are_those_of_a_plain_loop(env, params, act):
    sizes = {"num_envs": 5, "num_steps": 60}
    totals = simulate(jax.random.key(3), env, params, act, **sizes)
    rewards, episodes = by_hand(jax.random.key(3), env, params, act, **sizes)
    np.testing.assert_allclose(totals.reward, rewards)
    np.testing.assert_array_equal(totals.episodes, episodes)


@pytest.mark.slow
def test_a_lane_is_the_same_among_any_number(monkeypatch):
    def run(num_envs):
        return simulate(
            jax.random.key(0), CartPole(), CartPoleParams(), coin,
            num_envs=num_envs, num_steps=50,
        )  # fmt: skip

    many = run(4096)
    for count in (1, 7):
        chex.assert_trees_all_equal(run(count), Totals(*(x[:count] for x in many)))
    simulation.compile_simulation.cache_clear()
    monkeypatch.setattr(
        simulation, "_blocks", lambda n, d, _: (-(-n // (100 * d)) * d, 100)
    )
    chex.assert_trees_all_equal(run(4096), many)
    simulation.compile_simulation.cache_clear()


@pytest.mark.slow
def test_on_two_devices_as_on_one_and_with_other_kernels():
    one, two = (
        simulate(
            jax.random.key(0), CartPole(), CartPoleParams(), coin,
            num_envs=1001, num_steps=100, devices=jax.devices()[:n],
        )
        for n in (1, 2)
    )  # fmt: skip
    chex.assert_trees_all_equal(*jax.device_get((one, two)))
    code = """
import jax, jax.numpy as jnp
from rljax import CartPole, CartPoleParams, simulate
coin = lambda policy, observation, uniform: (uniform < 0.5).astype(jnp.int32)
found = simulate(jax.random.key(0), CartPole(), CartPoleParams(), coin,
                 num_envs=1001, num_steps=100)
print(*found.episodes)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"XLA_FLAGS": simulation.CPU_FLAGS},
    )
    assert [int(x) for x in done.stdout.split()] == one.episodes.tolist()


@pytest.mark.slow
def test_an_environment_that_draws_by_keys():
    """The reward is the sign of the observation; the observation is drawn by a key."""
    totals = simulate(
        jax.random.key(0), RewardFromObservation(), None, coin,
        num_envs=100, num_steps=100,
    )  # fmt: skip
    episodes = totals.episodes.sum()
    assert abs(float(totals.reward.sum() / episodes)) < 6 / np.sqrt(episodes)


@pytest.mark.slow
@pytest.mark.parametrize("most", [3, 64])
def test_keys_do_not_depend_on_blocks_or_devices_either(most, monkeypatch):
    """Of an environment with only the four methods."""

    def blocks(num_envs, num_devices, platform):
        each = -(-num_envs // (num_devices * -(-num_envs // (most * num_devices))))
        return -(-num_envs // (each * num_devices)) * num_devices, each

    def run(num_envs, num_devices):
        return simulate(
            jax.random.key(0), Noisy(), None, coin, num_envs=num_envs, num_steps=20,
            devices=jax.devices()[:num_devices],
        )  # fmt: skip

    one = run(8, 1)
    assert len(set(one.reward.tolist())) == 8
    simulation.compile_simulation.cache_clear()
    monkeypatch.setattr(simulation, "_blocks", blocks)
    for num_envs, num_devices in ((4, 2), (5, 1), (8, 2)):
        few = run(num_envs, num_devices)
        np.testing.assert_allclose(few.reward, one.reward[:num_envs], rtol=1e-6)
        np.testing.assert_array_equal(few.episodes, one.episodes[:num_envs])
    simulation.compile_simulation.cache_clear()


class Noisy(RewardFromObservation):
    """Draws its rewards and its ends by keys."""

    def step(self, key, state, action, params):
        state, timestep = super().step(key, state, action, params)
        keys = jax.random.split(jax.random.clone(key))
        ended = jax.random.bernoulli(keys[1], 0.2)
        reward = jax.random.normal(keys[0], (), jnp.float32)
        return state, timestep._replace(reward=reward, terminated=ended)


class Rich(RewardFromObservation):
    """Pays 2**32 in 64 steps, then 1 a step: a float32 sum would stand still."""

    length = 10_000

    def reward(self, state, action):
        return jnp.where(state.time < 64, 2.0**26, 1.0)


def test_totals_grow_beyond_the_last_whole_float():
    sizes = {"num_envs": 3, "num_steps": 1001}
    totals = simulate(jax.random.key(0), Rich(), None, coin, **sizes)
    np.testing.assert_array_equal(totals.reward, np.float32(2**32 + 937))


@pytest.mark.slow
def test_returns_grow_beyond_the_last_whole_float():
    still = lambda o, k: jnp.zeros(2, jnp.int32)  # noqa: E731
    played = jax.jit(
        lambda key: evaluate(key, Rich(), None, still, num_episodes=2, max_steps=1001)
    )(jax.random.key(0))
    np.testing.assert_array_equal(played.returns, np.float32(2**32 + 937))
    envs = VectorEnv(Rich()).reset(jax.random.key(0), None, 2)
    run = jax.jit(
        lambda key, envs: unroll(
            key, Rich(), None, envs, lambda o, k: (still(o, k), 0.0), 77
        )
    )
    envs = envs.replace(
        state=envs.state.replace(time=jnp.full(2, 64, jnp.int32)),
        episode_return=jnp.full(2, 2.0**24),
    )
    for i in range(13):
        envs, *_ = run(jax.random.key(i), envs)
    np.testing.assert_array_equal(envs.episode_return, np.float32(2**24 + 1001))
    long = envs.replace(episode_length=jnp.full(2, 2**31 - 3, jnp.int32))
    envs, *_ = run(jax.random.key(99), long)
    np.testing.assert_array_equal(envs.episode_length, 2**31 - 1)
    envs, *_ = VectorEnv(Rich()).step(
        jax.random.key(3), None, envs, jnp.zeros(2, jnp.int32)
    )
    np.testing.assert_array_equal(envs.episode_length, 2**31 - 1)
    np.testing.assert_array_equal(envs.episode_return, np.float32(2**24 + 1079))


def test_a_policy_is_an_argument():
    """Its numbers may change without a compilation; `act` reads them."""

    def push(policy, observation, uniform):
        del uniform
        return (observation @ policy > 0).astype(jnp.int32)

    balance = jnp.float32([0.1, 0.3, 1.0, 1.0])
    fall = -balance
    good, bad = (
        simulate(
            jax.random.key(0), CartPole(), CartPoleParams(), push, policy,
            num_envs=64, num_steps=400,
        )
        for policy in (balance, fall)
    )  # fmt: skip
    assert int(good.episodes.sum()) == 0
    assert float(bad.reward.sum()) / int(bad.episodes.sum()) < 15
    program = simulation.compile_simulation(
        CartPole(), push, 64, 400, tuple(jax.devices())
    )
    assert program._cache_size() == 1


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0), (2**31, 5)])
def test_sizes_out_of_range(sizes):
    num_envs, num_steps = sizes
    with pytest.raises(ValueError, match=r"must lie in \[1, 2\*\*31\)"):
        simulate(
            jax.random.key(0), CartPole(), CartPoleParams(), coin,
            num_envs=num_envs, num_steps=num_steps,
        )  # fmt: skip
