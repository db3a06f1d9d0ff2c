"""Rounds of comparing, fitting and training: what is asked, what is kept, what is seen."""

import dataclasses
import functools

import cartpole_preferences
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import thermostat_preferences

from rljax.algorithms.networks import ActorCritic
from rljax.algorithms.ppo import PPOConfig, PPOHyperparams
from rljax.envs import CartPoleParams, ParamsPerEnv, Thermostat, ThermostatParams
from rljax.numerics.random import is_key
from rljax.rlhf.segments import (
    PreferenceConfig,
    PreferenceHyperparams,
    PreferenceNetworks,
    make_reward_network,
    preference_learning,
)
from rljax.rlhf.segments.learning import act, check_hyperparams
from rljax.rollouts.rollout import evaluate
from rljax.training import checkpoint
from rljax.training.loop import train
from rljax.training.populations import population, replicate, stack


def centred(steps):
    return -jnp.abs(steps.next_observation[..., 0])


TINY = PreferenceConfig(
    num_rounds=3,
    max_comparisons=8,
    segment_length=3,
    collect_envs=4,
    collect_steps=7,
    fit_steps=3,
    fit_batch=4,
    policy_updates=2,
    utility=centred,
    agent=PPOConfig(num_envs=2, num_steps=4, num_epochs=1, num_minibatches=1),
)
NUMBERS = PreferenceHyperparams(num_comparisons=7)
ROOM = ThermostatParams(max_steps=9)
NETWORKS = PreferenceNetworks(
    ActorCritic(num_actions=2, hidden=(4,)),
    make_reward_network(Thermostat(), ROOM, hidden=(4,)),
)


def learned(algorithm, rounds, task=ROOM):
    state = jax.jit(algorithm.init)(jax.random.key(0), NUMBERS, task)
    return train(algorithm, state, task, rounds)


def plain(tree):
    """Typed keys as the bits they are."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


@pytest.mark.slow
def test_comparisons_are_spread_over_the_rounds_and_then_no_more_are_asked():
    algorithm = preference_learning(Thermostat(), NETWORKS, TINY)
    counts, losses = [], []

    def on_log(state, entry):
        counts.append(int(state.pairs.count))
        losses.append(float(entry.metrics["reward_loss"]))
        assert entry.metrics["comparisons"] == counts[-1]

    state = jax.jit(algorithm.init)(jax.random.key(0), NUMBERS, ROOM)
    before = state.agent.params
    state = train(algorithm, state, ROOM, 4, log_every=1, on_log=on_log)
    assert counts == [2, 4, 7, 7]
    assert np.isfinite(losses).all()
    assert ((state.pairs.probs == 0) | (state.pairs.probs == 1)).all()
    chex.assert_trees_all_equal_shapes_and_dtypes(before, state.agent.params)
    assert TINY.batch_size == 4 * 7 + 2 * 8
    assert TINY.updates(140) == 3


@pytest.mark.slow
def test_it_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    algorithm = preference_learning(Thermostat(), NETWORKS, TINY)
    straight, half = learned(algorithm, 3), learned(algorithm, 1)
    checkpoint.save(tmp_path, 1, half, {})
    like = jax.eval_shape(algorithm.init, jax.random.key(0), NUMBERS, ROOM)
    loaded, _ = checkpoint.restore_latest(tmp_path, like)
    resumed = train(algorithm, loaded, ROOM, 2)
    chex.assert_trees_all_equal(plain(straight), plain(resumed))


@pytest.mark.slow  # sweeps' tests compile populations, too
def test_members_of_a_population_with_fewer_comparisons_equal_runs_alone():
    algorithm = preference_learning(Thermostat(), NETWORKS, TINY)
    many = population(algorithm)
    hyperparams = stack(NUMBERS, num_comparisons=[7, 3])
    keys = jax.random.wrap_key_data(jnp.uint32([[0, 0], [0, 5]]))
    states = train(many, jax.jit(many.init)(keys, hyperparams, ROOM), ROOM, 2)
    assert states.pairs.count.tolist() == [4, 2]
    alone = learned(algorithm, 2)
    first = jax.tree.map(lambda x: x[0], states)
    chex.assert_trees_all_equal(plain(first.key), plain(alone.key))
    chex.assert_trees_all_close(first.pairs, alone.pairs, rtol=1e-5, atol=1e-5)
    # Of a reward's last bias, which cancels, the gradient is rounding: compare rewards.
    rewards = [
        NETWORKS.reward.apply(
            state.reward, alone.pairs.segments.observation, alone.pairs.segments.action
        )
        for state in (first, alone)
    ]
    np.testing.assert_allclose(*rewards, rtol=1e-3, atol=1e-3)


@pytest.mark.slow  # another environment is another program
def test_nothing_but_the_choices_tells_of_the_reward():
    @dataclasses.dataclass(frozen=True)
    class Bribed(Thermostat):
        def step(self, key, state, action, params):
            after, timestep = Thermostat.step(self, key, state, action, params)
            return after, timestep._replace(reward=1e3 * timestep.reward - 7.0)

        reset_from_noise = Thermostat.reset_from_noise

        def step_from_noise(self, noise, state, action, params):
            after, timestep = Thermostat.step_from_noise(
                self, noise, state, action, params
            )
            return after, timestep._replace(reward=1e3 * timestep.reward - 7.0)

        reset = Thermostat.reset

    envs = Thermostat(), Bribed()
    states = [learned(preference_learning(x, NETWORKS, TINY), 2) for x in envs]
    chex.assert_trees_all_equal(*map(plain, states))


@pytest.mark.slow
def test_it_learns_in_rooms_of_several_kinds_at_once():
    algorithm = preference_learning(Thermostat(), NETWORKS, TINY)
    rooms = ParamsPerEnv(stack(ROOM, heating=[1.0, 3.0]))
    state = learned(algorithm, 1, rooms)
    assert int(state.pairs.count) == 2
    algorithm.check(state, rooms)


def test_what_cannot_be_is_refused():
    algorithm = preference_learning(Thermostat(), NETWORKS, TINY)
    init = jax.jit(algorithm.init)
    numbers = NUMBERS.replace(num_comparisons=9)
    with pytest.raises(ValueError, match="at most max_comparisons, got 9 and 8"):
        train(algorithm, init(jax.random.key(0), numbers, ROOM), ROOM, 1)
    for name in ("temperature", "reward_learning_rate"):
        with pytest.raises(ValueError, match=f"{name} must lie in"):
            check_hyperparams(NUMBERS.replace(**{name: -1.0}))
    with pytest.raises(ValueError, match="gamma must lie in"):
        check_hyperparams(NUMBERS.replace(agent=PPOHyperparams(gamma=2.0)))
    with pytest.raises(ValueError, match="a comparison needs two segments, got 0"):
        PreferenceConfig(collect_steps=9)
    with pytest.raises(ValueError, match="random_share must lie in"):
        PreferenceConfig(random_share=1.5)
    with pytest.raises(ValueError, match="fit_batch must be a positive integer"):
        PreferenceConfig(fit_batch=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "task", "enough"),
    [
        (thermostat_preferences, ThermostatParams(), 193.0),
        (cartpole_preferences, CartPoleParams(), 300.0),
    ],
)
def test_behaviour_is_learned_from_preferences(script, task, enough, key):
    experiment = script.Experiment()
    env, networks, config = script.ENV, script.NETWORKS, experiment.config
    many = population(preference_learning(env, networks, config))
    start = jax.random.split(key, 4), replicate(experiment.hyperparams, 4), task
    states = train(many, jax.jit(many.init)(*start), task, config.num_rounds)

    def mean_return(state):
        policy = functools.partial(act, networks, state, greedy=True)
        played = evaluate(
            jax.random.key(9), env, task, policy, num_episodes=64, max_steps=500
        )
        return played.returns.mean()

    returns = jax.jit(jax.vmap(mean_return))(states)
    assert (returns >= enough).sum() >= 3, returns
