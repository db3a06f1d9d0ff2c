import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms.distributions import Categorical
from rljax.algorithms.loss_terms import (
    clipped_surrogate_loss,
    clipped_value_loss,
    policy_gradient_loss,
)

LOGITS = jnp.array([[1.0, 1.0, 1.0], [2.0, 0.0, 0.0], [-1.0, -2.0, -3.0]])
OLD_LOGITS = LOGITS.at[2].set(jnp.array([-3.0, -2.0, -1.0]))
ADVANTAGE = jnp.array([0.3, 0.2, 0.1])


def three_random(seed=0, shape=(4, 3)):
    return jnp.float32(np.random.default_rng(seed).normal(size=(3, *shape)))


def test_policy_gradient_loss_is_the_one_that_rlax_publishes():
    # rlax/_src/policy_gradients_test.py, PolicyGradientLossTest.
    logits = jnp.stack([LOGITS, LOGITS + 1])
    action = jnp.array([[0, 1, 2], [0, 0, 0]])
    advantage = jnp.stack([ADVANTAGE, -ADVANTAGE])
    weight = jnp.array([[-2.0, 2.0, 0.0], [-3.0, 1.0, -1.0]])
    loss = policy_gradient_loss(Categorical(logits).log_prob(action), advantage)
    np.testing.assert_allclose(
        jnp.mean(loss * weight, axis=1), [0.0788835088, 0.327200909], atol=1e-6
    )


def test_clipped_surrogate_is_the_one_that_rlax_publishes():
    # rlax/_src/policy_gradients_test.py, ClippedSurrogatePGLossTest.
    action = jnp.array([0, 1, 2])
    log_prob = Categorical(LOGITS).log_prob(action)
    old_log_prob = Categorical(OLD_LOGITS).log_prob(action)
    loss = [
        clipped_surrogate_loss(log_prob, old_log_prob, a, clip_eps=0.2).mean()
        for a in (ADVANTAGE, -ADVANTAGE)
    ]
    np.testing.assert_allclose(loss, [-0.17117467, 0.19333333], atol=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [
        (1.0, 2.0, -2.0),
        (1.3, 2.0, 0.0),  # good, and already likelier by more than 20 %
        (0.7, 2.0, -2.0),  # good, and wrongly less likely: free to come back
        (1.3, -2.0, 2.0),  # bad, and wrongly likelier: free to come back
        (0.7, -2.0, 0.0),  # bad, and already less likely by more than 20 %
    ],
)
def test_clipping_takes_away_the_gain_of_moving_further(ratio, advantage, slope):
    def loss(ratio):
        log_prob, old = jnp.log(ratio), jnp.float32(0)
        return clipped_surrogate_loss(
            log_prob, old, jnp.float32(advantage), clip_eps=0.2
        )

    np.testing.assert_allclose(jax.grad(loss)(ratio), slope, rtol=1e-5)


def test_an_infinite_clip_is_the_plain_importance_weighted_loss():
    log_prob, old_log_prob, advantage = three_random()

    def plain(log_prob):
        return -jnp.exp(log_prob - old_log_prob) * advantage

    def clipped(log_prob):
        return clipped_surrogate_loss(
            log_prob, old_log_prob, advantage, clip_eps=jnp.inf
        )

    np.testing.assert_array_equal(clipped(log_prob), plain(log_prob))
    np.testing.assert_allclose(
        jax.grad(lambda x: clipped(x).sum())(log_prob),
        jax.grad(lambda x: plain(x).sum())(log_prob),
        rtol=1e-6,
    )


def test_at_the_acting_policy_the_surrogate_has_the_policy_gradient():
    log_prob, _, advantage = three_random()
    surrogate = jax.grad(
        lambda x: clipped_surrogate_loss(x, log_prob, advantage, clip_eps=0.2).sum()
    )(log_prob)
    plain = jax.grad(lambda x: policy_gradient_loss(x, advantage).sum())(log_prob)
    np.testing.assert_allclose(surrogate, plain, rtol=1e-6)


@pytest.mark.parametrize("clip_eps", [0.3, 10.0])
def test_clipped_value_loss_is_the_larger_of_the_plain_and_the_clipped(clip_eps):
    value, old_value, target = np.asarray(three_random(shape=(50, 2)), np.float64)
    clipped = np.minimum(np.maximum(value, old_value - clip_eps), old_value + clip_eps)
    expected = np.maximum((value - target) ** 2, (clipped - target) ** 2) / 2
    found = clipped_value_loss(
        *three_random(shape=(50, 2)),
        clip_eps=clip_eps,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_an_infinite_value_clip_is_half_the_squared_error():
    value, old_value, target = three_random()

    def clipped(value):
        return clipped_value_loss(value, old_value, target, clip_eps=jnp.inf)

    np.testing.assert_allclose(clipped(value), (value - target) ** 2 / 2, rtol=1e-5)
    gradient = jax.grad(lambda x: clipped(x).sum())(value)
    np.testing.assert_allclose(gradient, value - target, rtol=1e-5, atol=1e-6)


def test_no_gradient_flows_into_advantages_and_targets():
    x, y, z = three_random()

    def constants(advantage, target):
        return (
            policy_gradient_loss(x, advantage).sum()
            + clipped_surrogate_loss(x, y, advantage, clip_eps=0.2).sum()
            + clipped_value_loss(x, y, target, clip_eps=0.2).sum()
        )

    for gradient in jax.grad(constants, argnums=(0, 1))(z, z):
        np.testing.assert_array_equal(gradient, 0)


LOSSES = {
    "policy_gradient_loss": lambda x, y, z: policy_gradient_loss(x, z),
    "clipped_surrogate_loss": lambda x, y, z: clipped_surrogate_loss(
        x, y, z, clip_eps=0.2
    ),
    "clipped_value_loss": lambda x, y, z: clipped_value_loss(x, y, z, clip_eps=0.2),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_per_element(name):
    inputs = three_random(shape=(4, 3))
    loss = LOSSES[name](*inputs)
    assert loss.shape == (4, 3)
    for i in np.ndindex(4, 3):
        one = LOSSES[name](*(x[i] for x in inputs))
        np.testing.assert_allclose(loss[i], one, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_inputs_of_different_shapes_are_refused(name):
    x, y, z = three_random()
    with pytest.raises(AssertionError):
        LOSSES[name](x, y, z[0])
