import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.algorithms import returns

gae = jax.jit(returns.gae)
discounted_returns = jax.jit(returns.discounted_returns)

few = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**32 - 1)
fractions = st.floats(0, 1)
NO = jnp.zeros(5, bool)


def trajectory(seed, length=12):
    """Random numbers in which episodes end in all three ways."""
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, length))
    terminated, truncated = rng.random((2, length)) < 0.25
    return reward, value, next_value, terminated, truncated


def consistent_trajectory(seed):
    """The same, the value of the next state being the next value within an episode."""
    reward, value, next_value, terminated, truncated = trajectory(seed)
    inside = ~(terminated | truncated)[:-1]
    next_value[:-1] = np.where(inside, value[1:], next_value[:-1])
    return reward, value, next_value, terminated, truncated


def summed_advantages(
    reward, value, next_value, terminated, truncated, gamma, gae_lambda
):
    """A_t = sum over l of (gamma lambda)^l delta_{t+l}, to the episode's end."""
    length = len(reward)
    advantages = np.zeros(length)
    for t in range(length):
        for k in range(t, length):
            beyond = 0.0 if terminated[k] else next_value[k]
            delta = reward[k] + gamma * beyond - value[k]
            advantages[t] += (gamma * gae_lambda) ** (k - t) * delta
            if terminated[k] or truncated[k]:
                break
    return advantages


def summed_returns(reward, terminated, truncated, gamma, bootstrap):
    """G_t = sum over l of gamma^l r_{t+l}, then the value beyond the episode's end."""
    length = len(reward)
    totals = np.zeros(length)
    for t in range(length):
        for k in range(t, length):
            totals[t] += gamma ** (k - t) * reward[k]
            if terminated[k]:
                break
            if truncated[k] or k == length - 1:
                totals[t] += gamma ** (k - t + 1) * bootstrap[k]
                break
    return totals


@pytest.mark.parametrize(
    ("gae_lambda", "expected"),
    [
        (1.0, [[-1.45118, -4.4557, 2.5396, 0.5249, -0.49], [3, 2, 1, 0, -4.9]]),
        (
            0.7,
            [
                [-0.676979, -5.248167, 2.4846, 0.6704, -0.49],
                [2.2899, 1.73, 1, 0, -4.9],
            ],
        ),
        (0.4, [[0.56731, -6.042, 2.3431, 0.815, -0.49], [1.725, 1.46, 1, 0, -4.9]]),
    ],
)
def test_gae_gives_the_advantages_that_rlax_publishes(gae_lambda, expected):
    # rlax/_src/multistep_test.py; a discount of 0 there is a termination here.
    reward = jnp.array([[0.0, 0.0, 1.0, 0.0, -0.5], [0.0, 0.0, 0.0, 0.0, 1.0]])
    value = jnp.array([[1.0, 4, -3, -2, -1, -1], [-3.0, -2, -1, 0, 5, -1]])
    terminated = jnp.array([NO, [False, False, False, True, False]])
    for row, gamma in enumerate((0.99, 0.9)):
        advantage = gae(
            reward[row],
            value[row, :-1],
            value[row, 1:],
            terminated[row],
            NO,
            gamma=gamma,
            gae_lambda=gae_lambda,
        )
        np.testing.assert_allclose(advantage, expected[row], atol=1e-3)


@few
@given(seeds, fractions, fractions)
def test_gae_is_the_sum_of_discounted_errors_to_the_end_of_the_episode(
    seed, gamma, gae_lambda
):
    inputs = trajectory(seed)
    with jax.enable_x64(True):
        advantage = gae(*inputs, gamma=gamma, gae_lambda=gae_lambda)
    expected = summed_advantages(*inputs, gamma, gae_lambda)
    np.testing.assert_allclose(advantage, expected, rtol=1e-9, atol=1e-9)


@few
@given(seeds, fractions)
def test_discounted_returns_are_the_sums_of_rewards_and_the_value_beyond(seed, gamma):
    reward, _, bootstrap, terminated, truncated = trajectory(seed)
    flags = terminated, truncated
    with jax.enable_x64(True):
        found = discounted_returns(reward, *flags, gamma=gamma, bootstrap=bootstrap)
        plain = discounted_returns(reward, *flags, gamma=gamma)
    expected = summed_returns(reward, *flags, gamma, bootstrap)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    expected = summed_returns(reward, *flags, gamma, np.zeros_like(reward))
    np.testing.assert_allclose(plain, expected, rtol=1e-9, atol=1e-9)


@few
@given(seeds, fractions)
def test_gae_with_lambda_one_is_the_return_less_the_value(seed, gamma):
    reward, value, next_value, *flags = consistent_trajectory(seed)
    with jax.enable_x64(True):
        advantage = gae(reward, value, next_value, *flags, gamma=gamma, gae_lambda=1.0)
        total = discounted_returns(reward, *flags, gamma=gamma, bootstrap=next_value)
    advantage, total = np.asarray(advantage), np.asarray(total)
    np.testing.assert_allclose(advantage, total - value, rtol=1e-9, atol=1e-9)


@few
@given(seeds, fractions)
def test_gae_with_lambda_zero_is_the_one_step_error(seed, gamma):
    reward, value, next_value, terminated, _ = inputs = trajectory(seed)
    with jax.enable_x64(True):
        advantage = gae(*inputs, gamma=gamma, gae_lambda=0.0)
    delta = reward + gamma * np.where(terminated, 0.0, next_value) - value
    np.testing.assert_allclose(advantage, delta, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("ending", ["terminated", "truncated", "both"])
def test_joined_episodes_have_the_advantages_and_returns_of_each_alone(ending):
    reward, value, next_value = np.random.default_rng(0).normal(size=(3, 10))
    flags = np.zeros((2, 10), bool)
    flags[0, 4], flags[1, 4] = ending != "truncated", ending != "terminated"
    inputs = np.float32([reward, value, next_value])

    def advantages(part):
        x, ends = inputs[:, part], flags[:, part]
        total = discounted_returns(x[0], *ends, gamma=0.9, bootstrap=x[2])
        return jnp.stack([gae(*x, *ends, gamma=0.9, gae_lambda=0.8), total])

    alone = [advantages(slice(0, 5)), advantages(slice(5, 10))]
    np.testing.assert_allclose(
        advantages(slice(0, 10)), np.concatenate(alone, axis=1), rtol=1e-6
    )


def test_a_truncated_step_bootstraps_and_a_terminated_one_does_not():
    reward, value, yes = jnp.ones(1), jnp.full(1, 10.0), jnp.ones(1, bool)
    no, coefficients = ~yes, {"gamma": 0.5, "gae_lambda": 0.9}

    def advantage(terminated, truncated):
        return gae(
            reward, value, jnp.full(1, 4.0), terminated, truncated, **coefficients
        ).item()

    assert advantage(no, yes) == 1 + 0.5 * 4 - 10
    assert advantage(no, no) == 1 + 0.5 * 4 - 10  # cut off by the end of the rollout
    assert advantage(yes, no) == 1 - 10
    assert advantage(yes, yes) == 1 - 10


@pytest.mark.parametrize("value_beyond", [jnp.inf, jnp.nan])
def test_the_value_beyond_a_termination_is_never_read(value_beyond):
    end = jnp.array([False, True])
    no = ~end & end
    bootstrap = jnp.array([1.0, value_beyond])
    total = discounted_returns(jnp.ones(2), end, no, gamma=0.5, bootstrap=bootstrap)
    np.testing.assert_array_equal(total, [1.5, 1.0])


@pytest.mark.parametrize("shape", [4, (5, 1)])
def test_a_value_of_another_shape_is_refused(shape):
    coefficients = {"gamma": 0.9, "gae_lambda": 0.9}
    with pytest.raises(AssertionError):
        returns.gae(jnp.ones(5), jnp.ones(shape), jnp.ones(5), NO, NO, **coefficients)


def test_flags_that_are_not_bools_are_refused():
    ones, flags = jnp.ones(3), jnp.zeros(3, jnp.int32)
    with pytest.raises(AssertionError, match="type"):
        gae(ones, ones, ones, flags, flags, gamma=0.9, gae_lambda=0.9)
    with pytest.raises(AssertionError, match="type"):
        discounted_returns(ones, flags, flags, gamma=0.9)
