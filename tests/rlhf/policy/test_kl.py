"""Divergences by enumeration: of one choice among six, where every mean is a sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.policy.kl import adapt_beta, estimate_kl, exact_kl

RNG = np.random.default_rng(0)
LOGITS, REFERENCE = RNG.normal(0, 2, (2, 6))
PI, REF = (np.exp(x - np.log(np.exp(x).sum())) for x in (LOGITS, REFERENCE))
LOG_RATIO = np.log(PI) - np.log(REF)
KL = (PI * LOG_RATIO).sum()
# d pi_a / d logit_b = pi_a (1[a = b] - pi_b)
JACOBIAN = np.diag(PI) - np.outer(PI, PI)
KL_GRADIENT = JACOBIAN @ LOG_RATIO


def log_softmax(x):
    return jax.nn.log_softmax(jnp.asarray(x, jnp.float32))


def mean_gradient(loss):
    """E[d loss(log pi(a)) / d logits], over all choices a."""

    def expected(logits):
        weights = jax.lax.stop_gradient(jnp.exp(log_softmax(logits)))
        return (weights * loss(log_softmax(logits))).sum()

    return jax.grad(expected)(jnp.asarray(LOGITS, jnp.float32))


def of_estimate(estimator):
    return mean_gradient(lambda log_pi: estimate_kl(log_pi - np.log(REF), estimator))


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_mean_of_k1_and_of_k3_is_the_divergence(estimator):
    found = estimate_kl(jnp.asarray(LOG_RATIO, jnp.float32), estimator)
    assert (PI * np.asarray(found)).sum() == pytest.approx(KL, rel=1e-5)


def test_the_mean_of_k2_is_another():
    found = estimate_kl(jnp.asarray(LOG_RATIO, jnp.float32), "k2")
    assert (PI * np.asarray(found)).sum() == pytest.approx(
        (PI * LOG_RATIO**2 / 2).sum(), rel=1e-5
    )


def test_the_divergence_itself_and_its_gradient():
    logits = jnp.asarray(LOGITS, jnp.float32)
    found, gradient = jax.value_and_grad(exact_kl)(logits, jnp.float32(REFERENCE))
    assert float(found) == pytest.approx(KL, rel=1e-5)
    np.testing.assert_allclose(gradient, KL_GRADIENT, atol=1e-6)
    # Temperatures divide both; what is never drawn adds nothing.
    cold = exact_kl(2 * logits, 2 * jnp.float32(REFERENCE), 2.0)
    assert float(cold) == pytest.approx(KL, rel=1e-5)
    never = exact_kl(jnp.array([0.0, -jnp.inf]), jnp.array([0.0, 0.0]))
    assert float(never) == pytest.approx(np.log(2))


def test_as_a_loss_k1_does_nothing():
    np.testing.assert_allclose(of_estimate("k1"), 0, atol=1e-6)


def test_as_a_loss_k2_has_the_divergences_gradient():
    np.testing.assert_allclose(of_estimate("k2"), KL_GRADIENT, atol=1e-5)


def test_as_a_loss_k3_has_it_times_the_ratio_and_else_the_other_directions():
    # KL(ref || pi) = sum ref (log ref - log pi), whose gradient is pi - ref.
    np.testing.assert_allclose(of_estimate("k3"), PI - REF, atol=1e-5)

    def with_ratio(log_pi):
        ratio = jnp.exp(log_pi - jax.lax.stop_gradient(log_pi))
        return ratio * estimate_kl(log_pi - np.log(REF), "k3")

    np.testing.assert_allclose(mean_gradient(with_ratio), KL_GRADIENT, atol=1e-5)


def test_as_a_reward_minus_k1_has_the_divergences_gradient():
    def policy_gradient(log_pi):
        reward = -estimate_kl(log_pi - np.log(REF), "k1")
        return log_pi * jax.lax.stop_gradient(reward)

    np.testing.assert_allclose(mean_gradient(policy_gradient), -KL_GRADIENT, atol=1e-5)


@pytest.mark.parametrize(
    ("kl", "factor"), [(6.0, 1.0), (6.6, 1.001), (60.0, 1.002), (0.0, 0.998)]
)
def test_beta_moves_by_up_to_a_fifth_of_the_horizon(kl, factor):
    beta = adapt_beta(
        jnp.float32(0.2), jnp.float32(kl), target=6.0, horizon=1e4, num_samples=100
    )
    assert float(beta) == pytest.approx(0.2 * factor, rel=1e-6)


def test_without_a_target_beta_stays():
    for kl in (0.0, 100.0):
        beta = adapt_beta(
            jnp.float32(0.2), jnp.float32(kl), target=jnp.inf, horizon=1.0,
            num_samples=9,
        )  # fmt: skip
        assert float(beta) == pytest.approx(0.2)
