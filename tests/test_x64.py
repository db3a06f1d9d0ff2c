"""With `JAX_ENABLE_X64` programs compile, and their numbers stay float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pendulum
import pytest

import rljax
from rljax.algorithms.networks import make_network
from rljax.interop.gymnasium import GymnasiumVectorEnv
from rljax.numerics import random


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def floats(tree):
    leaves = [x for x in jax.tree.leaves(tree) if hasattr(x, "dtype")]
    return {x.dtype for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)}


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("draw", [random.uniforms, random.normals, random.gumbels])
def test_random_numbers_keep_their_shape_and_bits(draw):
    found = draw(jax.random.key(0), (3,))
    assert (found.shape, found.dtype) == ((3,), np.float32)
    with jax.enable_x64(False):
        np.testing.assert_array_equal(found, draw(jax.random.key(0), (3,)))


def test_the_adapter_keeps_its_spaces():
    env = GymnasiumVectorEnv(rljax.CartPole(), rljax.CartPoleParams(), 2)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    observation, *_ = env.step(env.action_space.sample())
    assert observation in env.observation_space


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "task"),
    [
        (rljax.CartPole(), rljax.CartPoleParams()),
        (rljax.Thermostat(), rljax.ThermostatParams(disturbance=0.1)),
        (pendulum.Pendulum(), pendulum.PendulumParams()),
    ],
    ids=lambda x: type(x).__name__,
)
def test_ppo_trains_in_float32(env, task):
    config = rljax.PPOConfig(
        num_envs=2, num_steps=8, num_epochs=1, num_minibatches=1,
        normalize_observations=True, normalize_rewards=True,
    )  # fmt: skip
    learner = rljax.ppo(env, make_network(env, task, hidden=(8,)), config)
    state = jax.jit(learner.init)(jax.random.key(0), rljax.PPOHyperparams(), task)
    after = rljax.train(learner, state, task, 2)
    assert floats(state) == floats(after) == {np.dtype(np.float32)}


@dataclasses.dataclass(frozen=True)
class Drift:
    """An environment that computes in float64."""

    def reset(self, key, params):
        state = jax.random.uniform(key, (2,), jnp.float64)
        return state, state

    def step(self, key, state, action, params):
        del key
        state = state + params["move"] * (2 * action - 1)
        far = jnp.abs(state).max() > 2
        reward = -jnp.abs(state).sum().astype(jnp.float32)
        return state, rljax.TimeStep(state, reward, far, jnp.bool_(False))

    def observation_space(self, params):
        return rljax.Box(-np.inf, np.inf, (2,), np.float64)

    def action_space(self, params):
        return rljax.Discrete(2)


@pytest.mark.slow
def test_an_environment_of_float64_stays_so():
    env, task = Drift(), {"move": 0.1}
    rljax.check_environment(env, task, jax.random.key(0), num_steps=9)
    network = make_network(env, task, hidden=(8,))
    config = rljax.PPOConfig(
        num_envs=2, num_steps=8, num_epochs=1, num_minibatches=1,
        normalize_observations=True, normalize_rewards=True,
    )  # fmt: skip
    learner = rljax.ppo(env, network, config)
    state = jax.jit(learner.init)(jax.random.key(0), rljax.PPOHyperparams(), task)
    after = rljax.train(learner, state, task, 2)
    for both in (state, after):
        assert both.envs.state.dtype == both.envs.observation.dtype == np.float64
        assert floats((both.params, both.opt_state, both.normalizer)) == {
            np.dtype(np.float32)
        }
    policy = lambda o, k: jnp.zeros(len(o), jnp.int32)  # noqa: E731
    episodes = rljax.evaluate(
        jax.random.key(0), env, task, policy, num_episodes=3, max_steps=99
    )
    assert episodes.returns.dtype == np.float32
    adapted = GymnasiumVectorEnv(env, task, 2)
    assert adapted.reset(seed=0)[0] in adapted.observation_space


def test_whole_episodes_and_totals_are_float32():
    env, task = rljax.Thermostat(), rljax.ThermostatParams(disturbance=0.1)
    policy = lambda o, k: rljax.bang_bang(o)  # noqa: E731
    run = jax.jit(
        lambda key: (
            rljax.evaluate(key, env, task, policy, num_episodes=3, max_steps=9),
            rljax.record(
                jax.random.fold_in(key, 1), env, task, policy, num_episodes=3,
                max_steps=9,
            ),
        )
    )  # fmt: skip
    assert floats(run(jax.random.key(0))) == {np.dtype(np.float32)}
    totals = rljax.simulate(
        jax.random.key(0), env, task, lambda _, o, u: rljax.bang_bang(o), num_envs=3,
        num_steps=9,
    )  # fmt: skip
    assert totals.reward.dtype == np.float32
