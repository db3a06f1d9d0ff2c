"""The four methods are the truth: an optional one counts only beside the one it stands for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.envs.vector import VectorEnv
from rljax.rollouts.objectives import log_prob
from rljax.rollouts.rollout import evaluate, record
from rljax.rollouts.simulation import simulate

PARAMS = rljax.ThermostatParams(max_steps=20)


class Bonus(rljax.Thermostat):
    def step(self, key, state, action, params):
        state, timestep = super().step(key, state, action, params)
        return state, timestep._replace(reward=timestep.reward + 100)


class WarmStart(rljax.Thermostat):
    def reset(self, key, params):
        state, _ = super().reset(key, params)
        state = state.replace(temperature=jnp.float32(params.target + 30))
        return state, jnp.float32([3.0])


@dataclasses.dataclass(frozen=True)
class Wrapped:
    """Passes on whatever it does not change, as wrappers do."""

    env: rljax.Thermostat = rljax.Thermostat()  # noqa: RUF009

    def __getattr__(self, name):
        return getattr(self.env, name)

    def reset(self, key, params):
        return self.env.reset(key, params)

    def step(self, key, state, action, params):
        state, timestep = self.env.step(key, state, action, params)
        return state, timestep._replace(reward=timestep.reward + 100)

    def observation_space(self, params):
        return self.env.observation_space(params)

    def action_space(self, params):
        return self.env.action_space(params)


class Below(Bonus):
    """Overrides nothing: what counts is what its parent counts."""


def off(observation, key):
    return jnp.zeros(len(observation), jnp.int32)


@pytest.mark.slow
@pytest.mark.parametrize("env", [Bonus(), Wrapped(), Below()])
def test_an_overriding_step_is_what_runs(env, key):
    rljax.check_environment(env, PARAMS, jax.random.key(1), num_steps=6)
    played = jax.jit(
        lambda key: evaluate(key, env, PARAMS, off, num_episodes=4, max_steps=20)
    )(key)
    assert (played.returns >= 2000).all()
    vector = VectorEnv(env)
    envs = vector.reset(jax.random.key(2), PARAMS, 4)
    _, timestep, _ = vector.step(
        jax.random.key(3), PARAMS, envs, jnp.zeros(4, jnp.int32)
    )
    assert (timestep.reward >= 100).all()


def test_an_overriding_reset_is_what_runs(key):
    envs = VectorEnv(WarmStart()).reset(key, PARAMS, 5)
    np.testing.assert_array_equal(envs.state.temperature, 100.0)
    totals = simulate(
        jax.random.key(1), WarmStart(), PARAMS.replace(cooling=0.0),
        lambda _, o, u: jnp.zeros(len(u), jnp.int32), num_envs=5, num_steps=10,
    )  # fmt: skip
    np.testing.assert_array_equal(totals.reward, 0.0)


def test_what_is_not_overridden_keeps_its_quick_form():
    assert VectorEnv(Bonus()).reset_size == 1
    assert VectorEnv(Bonus()).step_size is None
    assert VectorEnv(WarmStart()).reset_size is None
    assert VectorEnv(WarmStart()).step_size == 1
    assert VectorEnv(Wrapped()).step_size is None


@pytest.mark.slow
def test_a_density_of_another_step_is_refused(key):
    act = jax.jit(
        lambda key: record(key, Bonus(), PARAMS, off, num_episodes=1, max_steps=3)
    )
    one = jax.tree.map(lambda x: x[:, 0], act(key))

    def half(observation, action):
        return jnp.full(action.shape, -0.7)

    with pytest.raises(
        ValueError, match="Bonus, which has no log_prob_step in the class"
    ):
        log_prob(Bonus(), PARAMS, half, one)

    class Same(Bonus):
        step = Bonus.step
        log_prob_step = rljax.Thermostat.log_prob_step

    assert np.isfinite(log_prob(Same(), PARAMS, half, one).total)


@pytest.mark.slow
def test_a_hook_that_would_never_be_used_is_pointed_out(key):
    class Quick(rljax.Thermostat):
        def step_from_noise(self, noise, state, action, params):
            state, timestep = super().step_from_noise(noise, state, action, params)
            return state, timestep._replace(reward=timestep.reward + 1)

    with pytest.raises(
        ValueError, match="step_from_noise in Quick and step in Thermostat"
    ):
        rljax.check_environment(Quick(), PARAMS, key, num_steps=6)


class BiasedStart(rljax.Thermostat):
    def reset(self, key, params):
        return self.reset_from_noise(
            jax.random.uniform(key, (1,), jnp.float32) ** 2, params
        )

    reset_from_noise = rljax.Thermostat.reset_from_noise


class BiasedStep(rljax.Thermostat):
    def step(self, key, state, action, params):
        noise = jax.random.uniform(key, (1,), jnp.float32)
        return rljax.Thermostat.step_from_noise(self, noise, state, action, params)

    def step_from_noise(self, noise, state, action, params):
        state, timestep = super().step_from_noise(noise, state, action, params)
        return state, timestep._replace(reward=timestep.reward * (noise[0] < 0.5))


@pytest.mark.some_cases(1)
@pytest.mark.parametrize(
    ("env", "what"),
    [(BiasedStart(), "reset draw .*temperature"), (BiasedStep(), "step draw .*reward")],
)
def test_a_hook_that_draws_otherwise_is_told(env, what, key):
    params = PARAMS.replace(cooling=0.0, half_band=30.0, disturbance=1.0)
    with pytest.raises(ValueError, match=f"from_noise and {what} from different"):
        rljax.check_environment(env, params, key, num_steps=6)


@pytest.mark.some_cases(1)
@pytest.mark.parametrize(
    "env_and_params",
    [
        (rljax.CartPole(), rljax.CartPoleParams()),
        (rljax.Thermostat(), PARAMS.replace(disturbance=0.5)),
    ],
)
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 5))]
)
def test_a_good_environment_is_never_accused(env_and_params, seed):
    rljax.check_environment(*env_and_params, jax.random.key(seed), num_steps=6)
