"""A reward fitted to comparisons, against float64 loops and exact probabilities."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.envs import (
    Box,
    Discrete,
    MultiDiscrete,
    Thermostat,
    ThermostatParams,
)
from rljax.envs.spaces import sample_action
from rljax.rlhf.segments import (
    Segment,
    SegmentPairs,
    add_pairs,
    fit_reward,
    make_reward_network,
    no_pairs,
    predicted_returns,
)
from rljax.rlhf.training.losses import bradley_terry_loss

L = 5


def a_segment(rng, *batch):
    return Segment(
        observation=jnp.float32(rng.normal(size=(*batch, L, 2))),
        action=jnp.int32(rng.integers(0, 3, (*batch, L))),
        valid=jnp.asarray(rng.random((*batch, L)) < 0.8),
    )


def summed_features(segments):
    """float64 `[P, 2, 5]` by loops: two numbers and an action's one-hot, valid steps."""
    observation, action, valid = map(np.asarray, jax.tree.leaves(segments))
    out = np.zeros((*valid.shape[:2], 5))
    for index in np.ndindex(*valid.shape):
        if valid[index]:
            out[index[:2]][:2] += observation[index]
            out[index[:2]][2 + action[index]] += 1
    return out


@pytest.fixture
def world():
    """Noisy comparisons under a linear reward, and the network that can learn it."""
    rng = np.random.default_rng(5)
    segments = a_segment(rng, 150, 2)
    truth = np.array([1.0, -0.5, 0.3, -0.2, 0.0])
    returns = summed_features(segments) @ truth
    chance = 1 / (1 + np.exp(returns[:, 1] - returns[:, 0]))
    first = jnp.asarray(rng.random(150) < chance)
    room = no_pairs(jax.tree.map(lambda x: x[:1, 0], segments), 200)
    pairs = add_pairs(room, segments, first, jnp.int32(150))

    class Room:
        def observation_space(self, params):
            return Box(-9.0, 9.0, (2,))

        def action_space(self, params):
            return Discrete(3)

    network = make_reward_network(Room(), None, hidden=())
    one = jax.tree.map(lambda x: x[0, 0, 0], segments)
    weights = network.init(jax.random.key(0), one.observation, one.action)
    return network, weights, pairs


def first_rows(pairs, count):
    segments, probs = jax.tree.map(lambda x: x[:count], (pairs.segments, pairs.probs))
    return pairs.replace(segments=segments, probs=probs)


def numpy_loss_and_gradient(weights, pairs, count):
    """Of the mean Bradley-Terry loss of a linear reward, in float64."""
    rows = first_rows(pairs, count)
    features = summed_features(rows.segments)
    sign = np.where(np.asarray(rows.probs) == 1, 1.0, -1.0)
    difference = sign[:, None] * (features[:, 0] - features[:, 1])
    margin = difference @ weights
    gradient = -(difference / (1 + np.exp(margin))[:, None]).mean(axis=0)
    return np.log1p(np.exp(-margin)).mean(), gradient


def test_loss_and_gradient_are_those_of_a_loop_in_float64(world):
    network, weights, pairs = world
    rows = first_rows(pairs, 150)

    def loss(weights):
        returns = predicted_returns(network, weights, rows.segments)
        return bradley_terry_loss(returns, 0.0, rows.probs).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(weights)
    kernel = weights["params"]["MLP_0"]["Dense_0"]["kernel"]
    wanted = numpy_loss_and_gradient(np.float64(kernel[:, 0]), pairs, 150)
    np.testing.assert_allclose(value, wanted[0], rtol=1e-5)
    found = gradient["params"]["MLP_0"]["Dense_0"]["kernel"][:, 0]
    np.testing.assert_allclose(found, wanted[1], rtol=1e-4, atol=1e-5)


def fitted(network, weights, pairs, **changes):
    how = {
        "num_steps": 400, "batch_size": 64, "learning_rate": 0.05,
        "weight_decay": 0.0, "centred": True,
    }  # fmt: skip
    fit = jax.jit(
        lambda *args: fit_reward(args[0], network, *args[1:], **how | changes)
    )
    return fit(jax.random.key(1), weights, pairs)


@pytest.mark.slow
def test_a_fit_finds_the_minimum_and_reports_it(world):
    network, weights, pairs = world
    learned, metrics = fitted(network, weights, pairs, num_steps=1500)
    dense = learned["params"]["MLP_0"]["Dense_0"]
    kernel = np.float64(dense["kernel"][:, 0])
    kernel[2:] += dense["bias"]  # of actions, one is always taken
    loss, _ = numpy_loss_and_gradient(kernel, pairs, 150)
    best = kernel
    for _ in range(300):  # from there on by gradient descent
        least, gradient = numpy_loss_and_gradient(best, pairs, 150)
        best = best - 0.3 * gradient
    assert loss < least + 0.002
    assert metrics["reward_loss"].value == pytest.approx(loss, rel=1e-4)
    features = summed_features(first_rows(pairs, 150).segments)
    right = (features[:, 0] - features[:, 1]) @ kernel > 0
    right = right == np.asarray(pairs.probs[:150] == 1)
    assert metrics["reward_accuracy"].value == pytest.approx(right.mean())


def test_rewards_are_scaled_over_the_steps_that_were_compared(world):
    network, weights, pairs = world
    used = np.asarray(pairs.segments.valid)[:150]
    for centred in (True, False):
        learned, _ = fitted(network, weights, pairs, num_steps=20, centred=centred)
        rewards = network.apply(
            learned, pairs.segments.observation, pairs.segments.action
        )
        seen = np.float64(rewards[:150])[used]
        assert seen.std() == pytest.approx(1, abs=1e-4)
        assert (abs(seen.mean()) < 1e-4) == centred


def test_without_comparisons_nothing_is_learned(world):
    network, weights, pairs = world
    none = no_pairs(jax.tree.map(lambda x: x[:1, 0], pairs.segments), 7)
    learned, metrics = fitted(network, weights, none, num_steps=3)
    chex.assert_trees_all_equal(learned["params"], weights["params"])
    assert metrics["reward_loss"].weight == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(learned))


@pytest.mark.slow
def test_all_segments_compared_with_exact_probabilities_give_the_reward():
    """Of four observations and actions, every segment of two steps; no labels drawn."""
    truth = np.array([[0.0, 1.0], [-0.5, 2.0]])  # reward by observation and action
    rows = list(itertools.product(range(4), repeat=2))
    observation = jnp.float32([[[s // 2] for s in row] for row in rows])
    action = jnp.int32([[s % 2 for s in row] for row in rows])
    worth = np.array([sum(truth.ravel()[s] for s in row) for row in rows])
    couples = np.array(list(itertools.combinations(range(16), 2)))
    difference = worth[couples[:, 0]] - worth[couples[:, 1]]
    shown = Segment(observation, action, jnp.ones((16, 2), bool))
    pairs = SegmentPairs(
        jax.tree.map(lambda x: x[couples], shown),
        jnp.float32(1 / (1 + np.exp(-difference))),
        jnp.int32(len(couples)),
    )
    env = Thermostat()
    network = make_reward_network(env, ThermostatParams(), hidden=(16,))
    weights = network.init(jax.random.key(0), observation[0, 0], action[0, 0])
    learned, _ = fitted(network, weights, pairs, num_steps=1500, learning_rate=0.02)
    states = np.array(list(itertools.product(range(2), repeat=2)))
    found = network.apply(learned, jnp.float32(states[:, :1]), jnp.int32(states[:, 1]))
    wanted = (truth - truth.mean()) / truth.std()
    np.testing.assert_allclose(found.reshape(2, 2), wanted, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("observations", "actions"),
    [
        (Box(-1.0, 1.0, (3,)), Box(-1.0, 1.0, (2,))),
        (Box(0, 255, (8, 8, 1), np.uint8), Discrete(3)),
        ({"a": Discrete(4), "b": Box(-1.0, 1.0, (2,))}, MultiDiscrete((2, 3))),
    ],
)
def test_the_stock_model_takes_every_space(observations, actions, key):
    class Anything:
        def observation_space(self, params):
            return observations

        def action_space(self, params):
            return actions

    network = make_reward_network(Anything(), None, hidden=(4,))
    seen_key, done_key, key = jax.random.split(key, 3)
    one = (
        sample_action(observations, seen_key, None),
        sample_action(actions, done_key, None),
    )
    weights = network.init(key, *one)
    assert network.apply(weights, *one).shape == ()
    many = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, 3, *x.shape)), one)
    assert network.apply(weights, *many).shape == (2, 3)
