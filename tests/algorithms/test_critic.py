"""What a critic learns, against the exact value of the policy that it judges."""

import dataclasses

import jax
import numpy as np
import pytest
from thermostat_report import compare

from rljax.algorithms.networks import ActorCritic
from rljax.algorithms.ppo import PPOConfig, PPOHyperparams, ppo
from rljax.envs import Thermostat, ThermostatParams
from rljax.training.loop import train

pytestmark = pytest.mark.optimized

PLANT, GAMMA = ThermostatParams(), 0.99
NETWORK = ActorCritic(num_actions=2)


@dataclasses.dataclass(frozen=True)
class EndsWithTheClock(Thermostat):
    """The mistake: the clock's running out is taken for the task's end."""

    def step(self, key, state, action, params):
        state, timestep = super().step(key, state, action, params)
        ended = timestep.truncated
        return state, timestep._replace(terminated=ended, truncated=ended & False)


@pytest.fixture(scope="module")
def critic_error():
    def error(env):
        """Root mean square of the relative error over the states that are visited."""
        config = PPOConfig(num_envs=16, num_steps=64, num_epochs=10)
        learner = ppo(env, NETWORK, config)
        hyperparams = PPOHyperparams(learning_rate=2e-3, gamma=GAMMA, decay_updates=40)
        first = jax.jit(learner.init)(jax.random.key(0), hyperparams, PLANT)
        last = train(learner, first, PLANT, 40)
        one_run = jax.tree.map(lambda x: x[None], (first.params, last.params))
        result = compare(
            *(jax.random.key(1), PLANT, NETWORK, *one_run, np.zeros(1, bool)),
            gamma=GAMMA,
            num_episodes=64,
        )
        assert result["return_iqm"] > 190
        assert result["return_optimum"] == pytest.approx(194.88, abs=0.01)
        assert result["return_bang_bang"] == pytest.approx(
            result["return_best_policy"], abs=0.1
        )
        return result["critic_errors"][0]

    return error


@pytest.mark.slow
def test_the_critic_learns_the_value_of_the_task_that_goes_on(critic_error):
    assert critic_error(Thermostat()) <= 0.03


@pytest.mark.slow
def test_a_time_limit_taken_for_the_end_is_far_off(critic_error):
    assert 0.1 < critic_error(EndsWithTheClock()) < 1.0
