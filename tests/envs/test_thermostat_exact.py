"""The oracle itself, against enumeration and simulation in plain NumPy."""

import itertools

import jax
import numpy as np
import pytest

from rljax.envs import HARD_PLANT, Thermostat, ThermostatParams
from rljax.envs.thermostat_exact import (
    action_values,
    best_act,
    grid,
    objective,
    optimal_values,
    policy_values,
)
from rljax.rollouts.rollout import evaluate

pytestmark = pytest.mark.optimized

PLANTS = {
    "default": ThermostatParams(),
    "hard": HARD_PLANT,
    "hard, disturbed": HARD_PLANT.replace(disturbance=0.5),
}


def step(params, temperature, action):
    return temperature + params.tau * (
        params.heating * action - params.cooling * (temperature - params.outside)
    )


def reward(params, temperature):
    return (np.abs(temperature - params.target) <= params.half_band) * 1.0


def threshold(table, params, degrees=0.0):
    """On below the target plus this."""
    return table.temperature < params.target + degrees


@pytest.mark.parametrize("plant", ["default", "hard"])
def test_the_optimum_is_the_best_of_all_action_sequences(plant):
    params = PLANTS[plant]
    table = grid(params)
    values = optimal_values(table, gamma=0.9, num_steps=10)
    starts = np.random.default_rng(0).uniform(60, 80, 300)
    best = np.zeros(300)
    for actions in itertools.product([0, 1], repeat=10):
        temperature, total = starts, 0.0
        for t, action in enumerate(actions):
            temperature = step(params, temperature, action)
            total = total + 0.9**t * reward(params, temperature)
        best = np.maximum(best, total)
    found = np.interp(starts, table.temperature, values)
    # A start within a spacing of a jump may fall on its wrong side.
    assert np.mean(np.abs(found - best) < 1e-2) > 0.98
    assert abs(found.mean() - best.mean()) < 0.01


@pytest.mark.some_cases(2)
@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("num_steps", [200, None])
def test_a_policys_value_is_its_simulated_return(plant, num_steps):
    params = PLANTS[plant]
    table = grid(params)
    gamma = 0.97 if num_steps is None else 1.0
    on = np.where(threshold(table, params), 0.9, 0.2)
    exact = objective(table, policy_values(table, on, gamma=gamma, num_steps=num_steps))

    random = np.random.default_rng(1)
    temperature = random.uniform(60, 80, 20_000)
    returns = np.zeros(20_000)
    for t in range(num_steps or 500):
        chance = np.where(temperature < params.target, 0.9, 0.2)
        action = random.random(20_000) < chance
        noise = params.disturbance * random.standard_normal(20_000)
        temperature = step(params, temperature, action) + noise
        returns += gamma**t * reward(params, temperature)
    standard_error = returns.std() / np.sqrt(20_000)
    assert abs(returns.mean() - exact) < 3.5 * standard_error


def test_a_deterministic_policy_is_worth_what_its_one_path_pays():
    params = PLANTS["hard"]
    table = grid(params)
    values = policy_values(table, threshold(table, params), gamma=0.99)
    temperature = np.linspace(60, 80, 20_001)
    total = np.zeros_like(temperature)
    for t in range(2000):
        temperature = step(params, temperature, temperature < params.target)
        total += 0.99**t * reward(params, temperature)
    assert abs(objective(table, values) - total.mean()) < 0.03


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("plant", PLANTS)
def test_the_optimum_solves_bellmans_equation_and_beats_every_threshold(plant):
    params = PLANTS[plant]
    table = grid(params, 8001)
    values = optimal_values(table, gamma=0.99)
    backed_up = action_values(table, values, 0.99).max(axis=0)
    np.testing.assert_allclose(values, backed_up, atol=1e-5)
    for degrees in np.linspace(-3, 1, 9):
        one = policy_values(table, threshold(table, params, degrees), gamma=0.99)
        assert (one <= values + 1e-4).all()


@pytest.mark.slow
def test_the_optimal_policy_can_be_played(key):
    table = grid(HARD_PLANT)
    act = best_act(table, HARD_PLANT, gamma=0.99)
    episodes = evaluate(
        key, Thermostat(), HARD_PLANT, act, num_episodes=512, max_steps=200
    )
    best = objective(table, optimal_values(table, gamma=1.0, num_steps=200))
    assert best * 0.995 < float(episodes.returns.mean()) < best * 1.005


def test_inside_the_band_for_ever_is_worth_the_geometric_sum():
    """A policy that never leaves the band earns 1 / (1 - gamma)."""
    table = grid(ThermostatParams())
    values = policy_values(table, threshold(table, ThermostatParams()), gamma=0.99)
    inside = np.abs(table.temperature - 70) < 1
    np.testing.assert_allclose(values[inside], 100.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grid(ThermostatParams(cooling=0.0)), "0 < cooling \\* tau <= 1, got 0.0"),
        (lambda: grid(ThermostatParams(tau=60.0)), "0 < cooling \\* tau <= 1"),
        (lambda: grid(ThermostatParams(), 1), "two points, got 1"),
        (lambda: grid(ThermostatParams(disturbance=-1.0)), "disturbance >= 0 .* got -1.0"),
        (lambda: grid(ThermostatParams(start_low=90.0)), "start_low <= start_high"),
        (
            lambda: optimal_values(grid(ThermostatParams(), 101), gamma=1.0),
            "discount factor in \\[0, 1\\), got gamma=1.0",
        ),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_policy_that_diverged_is_worth_nan():
    table = grid(ThermostatParams(), 101)
    values = policy_values(table, np.full(101, np.nan), gamma=0.99)
    assert np.isnan(values).all()


def test_it_takes_numbers_of_jax_too():
    swept = jax.tree.map(np.float32, ThermostatParams())
    assert np.isfinite(optimal_values(grid(swept, 101), gamma=0.9)).all()
