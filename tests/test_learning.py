"""The headline results; minutes."""

import cartpole_ppo
import pytest
import thermostat_ppo

pytestmark = pytest.mark.slow


def test_twenty_seeds_solve_cartpole_in_100_000_steps():
    result = cartpole_ppo.main(cartpole_ppo.Experiment(num_seeds=20))
    assert result["return_iqm"] >= 475
    assert result["solved"] >= 18
    assert result["env_steps"] <= 20 * 100_000


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
