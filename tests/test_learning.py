"""The headline results; minutes."""

import cartpole_ppo
import pytest
import sweep_cartpole
import thermostat_ppo
from ppo_throughput import HYPERPARAMS, SIZES

from rljax.search import search
from rljax.sweep import LogUniform
from rljax.sweep_experiment import ppo_problem

pytestmark = pytest.mark.slow


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
    it = sweep_cartpole
    study = search(
        ppo_problem(it.ENV, it.NETWORK, it.TASK, it.Experiment()),
        {"learning_rate": LogUniform(1e-6, 1.0)},
        num_trials=64,
        batch_size=16,
        num_seeds=4,
    )
    assert len(study.trials) == 64
    assert study.best_value >= 475
    assert 1e-4 < study.best_params["learning_rate"] < 1e-1


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
