"""The headline results; minutes."""

import cartpole_ppo
import pytest

pytestmark = pytest.mark.slow


def test_twenty_seeds_solve_cartpole_in_100_000_steps():
    result = cartpole_ppo.main(cartpole_ppo.Experiment(num_seeds=20))
    assert result["return_iqm"] >= 475
    assert result["solved"] >= 18
    assert result["env_steps"] <= 20 * 100_000
