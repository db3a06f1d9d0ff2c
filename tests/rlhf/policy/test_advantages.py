import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.policy.advantages import (
    EPS,
    at_last_token,
    completion_advantages,
    equal_groups,
    token_advantages,
    whiten,
)

RNG = np.random.default_rng(0)
REWARDS = RNG.normal(size=12)
GROUPS = REWARDS.reshape(4, 3)


def advantages(baseline, scale="none"):
    rewards = jnp.asarray(REWARDS, jnp.float32)
    return completion_advantages(rewards, 3, baseline=baseline, scale=scale)


def test_baselines():
    others = [np.delete(group, j).mean() for group in GROUPS for j in range(3)]
    for baseline, want in (
        ("none", REWARDS),
        ("batch", REWARDS - REWARDS.mean()),
        ("group", (GROUPS - GROUPS.mean(1, keepdims=True)).ravel()),
        ("leave_one_out", REWARDS - others),
    ):
        np.testing.assert_allclose(advantages(baseline), want, atol=1e-6)


def test_scales_are_deviations_of_samples():
    of_groups = GROUPS - GROUPS.mean(1, keepdims=True)
    deviation = np.sqrt((of_groups**2).sum(1, keepdims=True) / 2)
    want = (of_groups / (deviation + EPS)).ravel()
    np.testing.assert_allclose(advantages("group", "group"), want, atol=1e-5)
    deviation = np.sqrt(((REWARDS - REWARDS.mean()) ** 2).sum() / 11)
    want = of_groups.ravel() / (deviation + EPS)
    np.testing.assert_allclose(advantages("group", "batch"), want, atol=1e-5)


def test_equal_rewards_teach_nothing_and_are_counted():
    rewards = jnp.array([0.1, 0.1, 0.1, 0.1, 0.2, 0.1])
    got = completion_advantages(rewards, 3, baseline="group", scale="group")
    np.testing.assert_allclose(got[:3], 0.0, atol=1e-4)
    assert equal_groups(rewards, 3).tolist() == [True, False]


def by_hand(rewards, values, length, gae_lambda):
    """In float64, from the end: the sum of gamma-lambda-discounted TD errors."""
    found, later = np.zeros(len(rewards)), 0.0
    for t in reversed(range(length)):
        following = values[t + 1] if t + 1 < length else 0.0
        later = rewards[t] + following - values[t] + gae_lambda * later
        found[t] = later
    return found


@pytest.mark.parametrize("gae_lambda", [0.0, 0.9, 1.0])
def test_token_advantages(gae_lambda):
    rewards, values = RNG.normal(size=(2, 5, 6))
    lengths = np.array([6, 1, 3, 4, 5])
    mask = np.arange(6) < lengths[:, None]
    got = token_advantages(
        jnp.float32(rewards), jnp.float32(values), mask, gae_lambda=gae_lambda
    )
    for i, length in enumerate(lengths):
        want = by_hand(rewards[i], values[i], length, gae_lambda)
        np.testing.assert_allclose(got[i], want, atol=1e-5)


def test_a_score_stands_at_the_last_token_not_after_it():
    mask = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0]], bool)
    got = at_last_token(jnp.array([1.0, 2.0, 3.0]), mask)
    assert got.tolist() == [[0, 1, 0], [0, 0, 2], [3, 0, 0]]


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_whitening_is_safe_with_any_number_of_tokens(count):
    x = RNG.normal(3, 2, (2, 5))
    mask = (np.arange(10) < count).reshape(2, 5)
    got = np.asarray(whiten(jnp.float32(x), mask))
    assert (got[~mask] == 0).all()
    kept = np.asarray(whiten(jnp.float32(x), mask, shift=False))
    if count < 2:
        np.testing.assert_allclose(got, 0.0, atol=1e-6)
    else:
        chosen = x[mask]
        deviation = chosen.std(ddof=1) + EPS
        want = (chosen - chosen.mean()) / deviation
        np.testing.assert_allclose(got[mask], want, atol=1e-5)
        np.testing.assert_allclose(kept[mask], want + chosen.mean(), atol=1e-5)
