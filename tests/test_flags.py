"""JAX's own flags, and its kinds of keys and numbers, work as its users know them."""

import dataclasses
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

import rljax
from rljax.algorithms.networks import ActorCritic
from rljax.algorithms.ppo import PPOConfig, PPOHyperparams, ppo
from rljax.envs.vector import VectorEnv

TINY = PPOConfig(num_envs=2, num_steps=2, num_epochs=1, num_minibatches=1)


@dataclasses.dataclass(frozen=True)
class Goal(probes.RewardFromBoth):
    """Pays what is left of a number that is a parameter."""

    def step(self, key, state, action, params):
        state, step = super().step(key, state, action, params)
        reward = self.left(state.cue, params["goal"])
        return state, step._replace(reward=reward)

    def left(self, cue, goal):
        return (goal - jnp.sqrt(cue + 1)).astype(jnp.float32)


def trained(env, task, key=None, updates=1):
    learner = ppo(env, ActorCritic(2, hidden=(4,)), TINY)
    key = jax.random.key(0) if key is None else key
    state = jax.jit(learner.init)(key, PPOHyperparams(), task)
    return rljax.train(learner, state, task, updates)


def push(observation, key):
    return jnp.zeros(len(observation), jnp.int32)


def returns(env, task, key=None):
    key = jax.random.key(0) if key is None else key
    return rljax.evaluate(key, env, task, push, num_episodes=4, max_steps=3).returns


@pytest.mark.slow
def test_a_number_may_be_whole_and_later_not():
    for goal in (np.array(3), np.array(2.5), 1):
        found = returns(Goal(), {"goal": goal})
        assert float(found.max()) == float(goal)
        assert int(trained(Goal(), {"goal": goal}).step) == 1


@pytest.mark.slow
def test_nothing_need_be_compiled_to_learn():
    task = rljax.ThermostatParams(disturbance=0.1)
    compiled = trained(rljax.Thermostat(), task)
    with jax.disable_jit():
        plain = trained(rljax.Thermostat(), task)
    for a, b in zip(
        *map(jax.tree.leaves, (plain.params, compiled.params)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_nothing_need_be_compiled_to_play():
    compiled = returns(Goal(), {"goal": 1.0})
    with jax.disable_jit():
        np.testing.assert_allclose(returns(Goal(), {"goal": 1.0}), compiled, rtol=1e-6)


@pytest.mark.slow
def test_a_nan_is_located_where_it_is_made():
    @dataclasses.dataclass(frozen=True)
    class Broken(Goal):
        def left(self, cue, goal):
            return jnp.log(cue - 2).astype(jnp.float32)

    vector, task = VectorEnv(Broken()), {"goal": 1.0}
    envs = vector.reset(jax.random.key(0), task, 2)
    step = jax.jit(lambda envs, key: vector.step(key, task, envs, jnp.zeros(2, int)))
    with jax.debug_nans(True):
        with pytest.raises(FloatingPointError, match="nan") as error:
            step(envs, jax.random.key(1))
        assert "return jnp.log(cue - 2)" in told(error)
        for run in (trained, returns):  # JAX itself locates no more than the loop
            with pytest.raises(FloatingPointError, match=r"nan.* in (scan|while)"):
                run(Broken(), task)


def told(error):
    return "".join(traceback.format_exception(error.value))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["rbg", pytest.param("unsafe_rbg", marks=pytest.mark.slow)]
)
def test_keys_may_be_of_another_kind(kind):
    def key(seed):
        return jax.random.key(seed, impl=kind)

    rljax.check_environment(
        rljax.CartPole(), rljax.CartPoleParams(), key(0), num_steps=4
    )
    rljax.check_environment(Goal(), {"goal": 1.0}, key(1), num_steps=4)
    assert float(returns(Goal(), {"goal": 1.0}, key(2)).max()) == 1.0
    after = trained(rljax.CartPole(), rljax.CartPoleParams(), key(3))
    assert jax.random.key_impl(after.key) == kind
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(after.params))
