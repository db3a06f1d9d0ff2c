"""The headline results; minutes."""

import cartpole_ppo
import pytest
import search_cartpole
import thermostat_ppo
from ppo_throughput import HYPERPARAMS, SIZES

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
