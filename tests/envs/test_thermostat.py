import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.envs import HARD_PLANT, Thermostat, ThermostatParams, bang_bang
from rljax.envs.thermostat import ThermostatState
from rljax.envs.vector import VectorEnv
from rljax.rollouts.rollout import evaluate, unroll

ENV, PARAMS = Thermostat(), ThermostatParams()
ALTERED = ThermostatParams(
    target=20.0, half_band=0.5, outside=-5.0, cooling=0.05, heating=1.7, tau=0.5,
    start_low=15.0, start_high=25.0, max_steps=50,
)  # fmt: skip


@pytest.mark.parametrize("params", [PARAMS, HARD_PLANT, ALTERED])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_step_is_newtons_law_of_cooling(params, dtype):
    """1,000 random steps against the equation in float64."""
    random = np.random.default_rng(0)
    temperature = random.uniform(params.target - 15, params.target + 15, 1000)
    action = random.integers(0, 2, 1000)
    expected = temperature + params.tau * (
        params.heating * action - params.cooling * (temperature - params.outside)
    )
    with jax.enable_x64(dtype is np.float64):
        state = ThermostatState(
            jnp.asarray(temperature, dtype), jnp.zeros(1000, jnp.int32)
        )
        step = jax.jit(jax.vmap(ENV.step_from_noise, in_axes=(None, 0, 0, None)))
        after, seen = step(jnp.float32([0.9]), state, jnp.asarray(action), params)
        assert after.temperature.dtype == dtype
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(after.temperature, expected, rtol=4 * eps)
    distance = np.abs(expected - params.target)
    clear = np.abs(distance - params.half_band) > 1e-4  # of rounding
    np.testing.assert_array_equal(
        np.asarray(seen.reward)[clear], (distance <= params.half_band)[clear]
    )
    np.testing.assert_allclose(
        seen.observation[:, 0], (expected - params.target) / 10, atol=1e-6
    )


@pytest.mark.parametrize(("temperature", "reward"), [(72, 1), (68, 1), (72.01, 0)])
def test_the_band_includes_its_ends(temperature, reward):
    still = PARAMS.replace(cooling=0.0)
    state = ThermostatState(jnp.float32(temperature), jnp.int32(0))
    _, seen = ENV.step(jax.random.key(0), state, 0, still)
    assert seen.reward == reward


def test_it_never_terminates_and_truncates_at_its_limit(key):
    envs = VectorEnv(ENV).reset(jax.random.key(1), ALTERED, 3)
    _, steps, _ = jax.jit(
        lambda key, envs: unroll(
            key, ENV, ALTERED, envs, lambda o, k: (bang_bang(o), 0.0), 120
        )
    )(key, envs)
    assert not steps.terminated.any()
    np.testing.assert_array_equal(np.flatnonzero(steps.truncated[:, 1]), [49, 99])


def test_starts_are_uniform_and_the_same_in_any_number_of_environments(key):
    from scipy.stats import kstest

    one, seven, many = (
        VectorEnv(ENV).reset(jax.random.key(1), PARAMS, n).state for n in (1, 7, 4096)
    )
    np.testing.assert_array_equal(one.temperature, many.temperature[:1])
    np.testing.assert_array_equal(seven.temperature, many.temperature[:7])
    assert kstest(np.asarray(many.temperature), "uniform", (60, 20)).pvalue > 1e-3
    by_reset, _ = jax.jit(jax.vmap(ENV.reset, in_axes=(0, None)))(
        jax.random.split(key, 4096), PARAMS
    )
    assert kstest(np.asarray(by_reset.temperature), "uniform", (60, 20)).pvalue > 1e-3


def test_disturbances_are_normal_and_independent_of_one_another(key):
    from scipy.stats import kstest

    params = PARAMS.replace(disturbance=0.7, cooling=0.0)
    envs = VectorEnv(ENV).reset(jax.random.key(1), params, 500)
    off = lambda o, k: (jnp.zeros(500, jnp.int32), 0.0)  # noqa: E731
    _, steps, _ = unroll(jax.random.key(2), ENV, params, envs, off, 40)
    jumps = 10 * np.asarray(steps.next_observation - steps.observation)[..., 0]
    assert kstest(jumps.ravel(), "norm", (0, 0.7)).pvalue > 1e-3
    assert abs(np.corrcoef(jumps[:-1].ravel(), jumps[1:].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(jumps[:, :-1].ravel(), jumps[:, 1:].ravel())[0, 1]) < 0.03
    by_key, _ = jax.jit(jax.vmap(ENV.step, in_axes=(0, None, None, None)))(
        jax.random.split(key, 4000),
        ThermostatState(jnp.float32(70.0), jnp.int32(0)),
        0,
        params,
    )
    assert kstest(np.asarray(by_key.temperature), "norm", (70, 0.7)).pvalue > 1e-3


@pytest.mark.parametrize("noise", [0.0, np.nextafter(1, 0, dtype="f")])
def test_the_extremes_of_the_noise_stay_finite(noise):
    state = ThermostatState(jnp.float32(70.0), jnp.int32(0))
    after, _ = ENV.step_from_noise(
        jnp.float32([noise]), state, 0, PARAMS.replace(disturbance=1.0)
    )
    assert 4 < abs(float(after.temperature) - 69.6) < 7


def test_the_chapters_policy_holds_the_default_room_and_not_the_hard_one():
    def minutes_in_band(params):
        key = jax.random.key(0)
        return evaluate(
            key, ENV, params, bang_bang, num_episodes=64, max_steps=200
        ).returns.mean()

    assert minutes_in_band(PARAMS) > 190
    assert minutes_in_band(HARD_PLANT) < 160


def test_rooms_can_be_vmapped(key):
    rooms = PARAMS.replace(heating=jnp.array([0.5, 1.0, 3.0]))
    axes = jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, rooms)
    state = ThermostatState(jnp.float32(70.0), jnp.int32(0))
    after, _ = jax.vmap(ENV.step, in_axes=(None, None, None, axes))(
        key, state, 1, rooms
    )
    np.testing.assert_allclose(after.temperature, [70.1, 70.6, 72.6], rtol=1e-6)


@pytest.mark.parametrize("action", [None, 0, 1])
@pytest.mark.parametrize("temperature", [-40.0, 69.0, 300.0])
def test_it_draws_any_state_within_its_window(temperature, action):
    state = ThermostatState(np.float32(temperature), np.int32(3))
    picture = ENV.draw(state, action, PARAMS)
    texts = [shape.text for shape in picture.shapes if hasattr(shape, "text")]
    assert f"{temperature:.1f} F" in texts
    assert f"heater {'on' if action == 1 else 'off'}" in texts
    for shape in picture.shapes:
        for x, y in getattr(shape, "points", ()):
            assert picture.left <= x <= picture.right
            assert picture.bottom <= y <= picture.top
