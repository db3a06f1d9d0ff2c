"""Losses of tokens beside loops in float64, written from the papers' formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.policy.policy_losses import (
    is_clipped,
    log_ratios,
    policy_losses,
    token_weights,
)

RNG = np.random.default_rng(1)
LENGTHS = np.array([4, 1, 3, 2])
MASK = np.arange(4) < LENGTHS[:, None]
LOG_PROBS, OLD, ADVANTAGES = RNG.normal(0, 0.8, (3, 4, 4))
LOW, HIGH, MOST = 0.2, 0.4, 1.5


def losses(ratio, clip):
    new = jnp.float32(LOG_PROBS)
    log_ratio = log_ratios(new, jnp.float32(OLD), MASK, ratio)
    bounds = {"clip_low": LOW, "clip_high": HIGH, "ratio_max": MOST}
    choices = {"ratio": ratio, "clip": clip, **bounds}
    advantages = jnp.float32(ADVANTAGES)
    found = policy_losses(new, log_ratio, advantages, **choices)
    return found, is_clipped(log_ratio, advantages, **choices)


def by_hand(ratio, clip):
    found, clipped = np.zeros((4, 4)), np.zeros((4, 4), bool)
    for i, length in enumerate(LENGTHS):
        apart = (LOG_PROBS - OLD)[i, :length]
        for t in range(length):
            log_ratio = {
                "token": apart[t],
                "sequence_mean": apart.mean(),
                "sequence_sum": apart.sum(),
            }[ratio]
            r, a = np.exp(log_ratio), ADVANTAGES[i, t]
            if clip == "truncated":
                found[i, t] = -min(r, MOST) * a * LOG_PROBS[i, t]
                clipped[i, t] = r > MOST
                continue
            found[i, t] = -min(min(r, MOST) * a, min(max(r, 1 - LOW), 1 + HIGH) * a)
            if a > 0:
                clipped[i, t] = r > 1 + HIGH
            else:
                clipped[i, t] = r < 1 - LOW or r > MOST
    return found, clipped


@pytest.mark.parametrize("clip", ["two_sided", "truncated"])
@pytest.mark.parametrize("ratio", ["token", "sequence_mean", "sequence_sum"])
def test_losses_and_clips(ratio, clip):
    want, clipped = by_hand(ratio, clip)
    got, got_clipped = losses(ratio, clip)
    np.testing.assert_allclose(np.where(MASK, got, 0), want, atol=1e-5)
    np.testing.assert_array_equal(got_clipped & MASK, clipped)
    assert clipped.any()


def test_of_a_truncated_weight_only_log_pi_has_a_gradient():
    def loss(new):
        log_ratio = log_ratios(new, jnp.float32(OLD), MASK, "token")
        return policy_losses(
            new, log_ratio, jnp.float32(ADVANTAGES), ratio="token", clip="truncated",
            clip_low=0.0, clip_high=0.0, ratio_max=MOST,
        ).sum()  # fmt: skip

    got = jax.grad(loss)(jnp.float32(LOG_PROBS))
    want = -np.minimum(np.exp(LOG_PROBS - OLD), MOST) * ADVANTAGES
    np.testing.assert_allclose(got[MASK], want[MASK], rtol=1e-5)


def test_a_ratio_that_would_overflow_gives_no_nan():
    def loss(new):
        log_ratio = log_ratios(new, jnp.zeros((1, 1)), jnp.ones((1, 1), bool), "token")
        return policy_losses(
            new, log_ratio, jnp.zeros((1, 1)), ratio="token", clip="two_sided",
            clip_low=0.2, clip_high=0.2, ratio_max=jnp.inf,
        ).sum()  # fmt: skip

    for log_prob in (-1e4, 1e4):
        value, gradient = jax.value_and_grad(loss)(jnp.full((1, 1), log_prob))
        assert float(value) == float(gradient[0, 0]) == 0.0


def test_aggregations_are_the_papers_means():
    x = RNG.normal(size=(4, 4)) * MASK
    for aggregation, want in (
        ("tokens", x.sum() / LENGTHS.sum()),
        ("sequences", np.mean([x[i, :n].mean() for i, n in enumerate(LENGTHS)])),
        ("sums", np.mean([x[i, :n].sum() for i, n in enumerate(LENGTHS)])),
        ("constant", x.sum() / (4 * 7)),
    ):
        weights = token_weights(jnp.asarray(LENGTHS), aggregation, 7)
        got = (np.asarray(weights)[:, None] * x).sum()
        assert got == pytest.approx(want, rel=1e-5), aggregation


@pytest.mark.parametrize("aggregation", ["tokens", "sequences", "sums", "constant"])
def test_without_a_token_weights_are_finite(aggregation):
    assert np.isfinite(token_weights(jnp.zeros(2, jnp.int32), aggregation, 3)).all()
