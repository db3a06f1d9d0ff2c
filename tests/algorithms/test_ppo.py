import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import probes
import pytest

from rljax.algorithms.networks import ActorCritic, NormalActorCritic
from rljax.algorithms.ppo import (
    PPOConfig,
    PPOHyperparams,
    _optimizer,
    act,
    check_hyperparams,
    ppo,
)
from rljax.envs import CartPole, CartPoleParams
from rljax.training.loop import train
from rljax.training.populations import population, replicate

CONFIG = PPOConfig(num_envs=32, num_steps=10, num_epochs=4, num_minibatches=2)
FAST = PPOHyperparams(learning_rate=3e-3, gamma=0.5, gae_lambda=0.9)
NETWORK = ActorCritic(num_actions=2, hidden=(16,))


apply = jax.jit(NETWORK.apply)


@pytest.fixture(scope="module")
def learned():
    """The policies and values of all probes, learned as one population."""
    many = population(ppo(probes.AnyProbe(), NETWORK, CONFIG), task_axes=0)
    indices = jnp.arange(len(probes.PROBES))
    keys = jax.random.split(jax.random.key(0), len(indices))
    states = jax.jit(many.init)(keys, replicate(FAST, len(indices)), indices)
    params = train(many, states, indices, 200).params

    def policy_and_value(probe, observation):
        which = probes.PROBES.index(probe)
        one = jax.tree.map(lambda x: x[which], params)
        return apply(one, np.array([[observation]], np.float32))

    return policy_and_value


@pytest.mark.slow
def test_it_learns_the_value_of_a_constant_reward(learned):
    _, value = learned(probes.ConstantReward(), 0.0)
    np.testing.assert_allclose(value, [1.0], atol=0.02)


@pytest.mark.slow
def test_it_learns_a_value_that_depends_on_the_observation(learned):
    probe = probes.RewardFromObservation()
    np.testing.assert_allclose(learned(probe, 1.0)[1], [1.0], atol=0.05)
    np.testing.assert_allclose(learned(probe, -1.0)[1], [-1.0], atol=0.05)


@pytest.mark.slow
def test_it_discounts_a_delayed_reward(learned):
    probe = probes.DelayedReward()
    np.testing.assert_allclose(learned(probe, 0.0)[1], [FAST.gamma], atol=0.05)
    np.testing.assert_allclose(learned(probe, 1.0)[1], [1.0], atol=0.05)


@pytest.mark.slow
def test_it_learns_the_better_action(learned):
    policy, _ = learned(probes.RewardFromAction(), 0.0)
    assert jax.nn.softmax(policy.logits)[0, 1] > 0.95


@pytest.mark.slow
def test_it_learns_an_action_that_depends_on_the_observation(learned):
    probe = probes.RewardFromBoth()
    assert jax.nn.softmax(learned(probe, 1.0)[0].logits)[0, 1] > 0.95
    assert jax.nn.softmax(learned(probe, -1.0)[0].logits)[0, 0] > 0.95


@pytest.mark.slow
def test_it_values_what_lies_beyond_a_time_limit(learned):
    _, value = learned(probes.NeverEnding(), 0.0)
    # Taking the clock for the end of the task would give at most
    # 1 + 0.5 + ... + 0.5^4 = 1.94 at an episode's start and 1.6 on average.
    np.testing.assert_allclose(value, [1 / (1 - FAST.gamma)], atol=0.05)


@pytest.mark.slow
def test_it_learns_continuous_actions():
    network = NormalActorCritic(action_size=1, hidden=(16,), low=-10.0, high=10.0)
    algorithm = ppo(probes.ContinuousTarget(), network, CONFIG)
    state = jax.jit(algorithm.init)(jax.random.key(0), FAST, None)
    state = train(algorithm, state, None, 300)
    for cue in (1.0, -1.0):
        policy, _ = network.apply(state.params, jnp.array([[cue]]))
        np.testing.assert_allclose(policy.mode(), [[0.5 * cue]], atol=0.1)


def test_gradients_are_clipped_by_their_global_norm():
    gradient = {"a": jnp.full(3, 3.0), "b": jnp.full((2, 2), -4.0)}
    for max_norm in (0.5, 100.0, math.inf):
        ours = _optimizer(FAST.replace(max_grad_norm=max_norm), 0)
        theirs = optax.chain(
            optax.clip_by_global_norm(max_norm),
            optax.adam(FAST.learning_rate, eps=1e-5),
        )
        states = ours.init(gradient), theirs.init(gradient)
        for scale in (1.0, 1e-3):  # the second step remembers the first
            scaled = jax.tree.map(lambda x, scale=scale: scale * x, gradient)
            update, first = jax.jit(ours.update)(scaled, states[0])
            wanted, second = jax.jit(theirs.update)(scaled, states[1])
            states = first, second
            chex.assert_trees_all_close(update, wanted, rtol=1e-5)


def test_a_gradient_of_zero_under_a_bound_of_zero_is_no_nan():
    optimizer = _optimizer(FAST.replace(max_grad_norm=0.0), 0)
    update, _ = optimizer.update(jnp.zeros(3), optimizer.init(jnp.zeros(3)))
    np.testing.assert_array_equal(update, np.zeros(3))


@pytest.mark.slow
def test_the_learning_rate_falls_linearly_to_zero_and_stays_there():
    algorithm = ppo(probes.ConstantReward(), NETWORK, CONFIG)
    hyperparams = FAST.replace(decay_updates=4)
    state = jax.jit(algorithm.init)(jax.random.key(0), hyperparams, None)
    rates = []
    step = jax.jit(algorithm.step)
    for _ in range(6):
        state, metrics = step(state, None)
        rates.append(float(metrics["learning_rate"].value))
    wanted = FAST.learning_rate * np.array([1, 0.75, 0.5, 0.25, 0, 0])
    np.testing.assert_allclose(rates, wanted, rtol=1e-6)


def test_every_hyperparameter_is_consumed():
    """Changing any one of them changes the parameters after two updates."""
    algorithm = ppo(CartPole(), NETWORK, CONFIG)
    init, step = jax.jit(algorithm.init), jax.jit(algorithm.step)

    def train_two(hyperparams):
        state = init(jax.random.key(0), hyperparams, CartPoleParams())
        for _ in range(2):
            state, _ = step(state, CartPoleParams())
        return state.params

    base = PPOHyperparams(
        learning_rate=0.03,
        clip_eps=0.1,
        ent_coef=0.01,
        vf_clip_eps=0.1,
        decay_updates=10.0,
    )
    reference = train_two(base)
    for name in base.__dataclass_fields__:
        changed = train_two(base.replace(**{name: 0.7 * getattr(base, name)}))
        same = jax.tree.map(
            lambda a, b: np.allclose(a, b, rtol=1e-6), reference, changed
        )
        assert not all(jax.tree.leaves(same)), f"{name} changes nothing"


def test_greedy_actions_are_the_most_probable_and_others_are_drawn(key):
    algorithm = ppo(CartPole(), NETWORK, CONFIG)
    state = jax.jit(algorithm.init)(key, PPOHyperparams(), CartPoleParams())
    observations = jax.random.normal(jax.random.key(2), (1000, 4))
    greedy = act(NETWORK, state, observations, jax.random.key(3), greedy=True)
    policy, _ = NETWORK.apply(state.params, observations)
    np.testing.assert_array_equal(greedy, policy.logits.argmax(-1))
    drawn = act(NETWORK, state, observations, jax.random.key(3))
    assert 0.3 < float((drawn == greedy).mean()) < 0.7  # near uniform at the start


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_envs": 0}, "num_envs must be a positive integer, got 0"),
        ({"num_steps": 2.5}, "num_steps must be a positive integer, got 2.5"),
        ({"num_envs": 2**26, "num_minibatches": 3}, r"must be less than 2\*\*31"),
        ({"num_minibatches": 128}, "a minibatch needs two transitions"),
        ({"num_minibatches": 5}, "divisible by num_minibatches.*nearest is 4"),
    ],
)
def test_a_bad_size_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        PPOConfig(**({"num_envs": 4, "num_steps": 32} | given))


def test_a_budget_below_one_update_names_the_smallest():
    with pytest.raises(ValueError, match="total_steps >= 320"):
        CONFIG.updates(319)
    assert CONFIG.updates(320) == 1
    assert CONFIG.updates(959) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gamma", 1.01),
        ("learning_rate", -1.0),
        ("learning_rate", math.inf),
        ("gae_lambda", math.nan),
    ],
)
def test_a_hyperparameter_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must lie in .*got"):
        check_hyperparams(PPOHyperparams(**{name: value}))
    swept = np.array([0.5, value])
    with pytest.raises(ValueError, match=f"{name} must lie in"):
        check_hyperparams(PPOHyperparams(**{name: swept}))


@pytest.mark.parametrize(
    ("network", "made"),
    [
        (ActorCritic(num_actions=3), "3 discrete actions"),
        (NormalActorCritic(action_size=2), r"actions float32\[2\]"),
    ],
)
def test_a_network_for_other_actions_is_refused(network, made, key):
    algorithm = ppo(CartPole(), network, CONFIG)
    with pytest.raises(ValueError, match=f"{made}.*Discrete"):
        algorithm.init(key, PPOHyperparams(), CartPoleParams())


def test_hyperparameters_with_an_axis_are_refused_outside_a_population(key):
    algorithm = ppo(CartPole(), NETWORK, CONFIG)
    swept = PPOHyperparams(gamma=jnp.array([0.9, 0.99]))
    with pytest.raises(ValueError, match=r"gamma must be a scalar.*population"):
        algorithm.init(key, swept, CartPoleParams())


def test_making_the_same_learner_twice_gives_the_same_functions():
    make = functools.partial(PPOConfig, num_envs=4, num_steps=8)
    assert ppo(CartPole(), ActorCritic(2), make()) is ppo(
        CartPole(), ActorCritic(2), make()
    )
