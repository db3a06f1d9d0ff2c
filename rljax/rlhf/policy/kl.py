r"""The divergence of a policy from its reference: estimates, and what to do with them.

With samples y from the policy pi, and l = log pi - log pi_ref:

    k1 = l          k2 = l^2 / 2          k3 = exp(-l) - 1 + l

k1 and k3 have the mean KL(pi || pi_ref); k2's is another, near it where the policies are
near. Of one token, `exact_kl` is the divergence itself.

What counts in training is the mean of a gradient, on samples from pi:

    as a loss term              mean of the gradient
    k1                          0: it does nothing, and is refused
    k2                          that of KL(pi || pi_ref)
    k3                          that of KL(pi_ref || pi), the other direction
    k3 times pi / pi_old        that of KL(pi || pi_ref); the form that is used here
    exact_kl                    that of KL(pi || pi_ref), without noise
    as a reward: -k1            that of -KL(pi || pi_ref)

"That of KL" holds for what l is of. Of whole completions it is the gradient of the
divergence between distributions of completions. The loss terms here are of single tokens:
they give the gradient of each token's divergence *given the tokens before it*, and leave
out that the policy also decides which tokens come before:

    grad KL = E[sum_t grad KL_t] + E[sum_t grad log pi(a_t | s_t) sum_{u > t} KL_u]

As a reward, -beta k1, summed up to a completion's end, gives both terms; so does the exact
divergence used twice, as a loss, which gives the first term, and as the advantage of the
tokens before, which gives the second (`kl="whole"`).

References:
    Schulman (2020), "Approximating KL divergence", http://joschu.net/blog/kl-approx.html;
    k3 times the ratio: DeepSeek-AI (2025), https://arxiv.org/abs/2512.02556, section 3.1.
"""

from typing import Literal

import jax
import jax.numpy as jnp

Estimator = Literal["k1", "k2", "k3", "exact"]


def estimate_kl(log_ratio: jax.Array, estimator: Estimator) -> jax.Array:
    """Returns the estimate of a divergence, elementwise.

    Args:
        log_ratio: log pi - log pi_ref, of samples from pi.
        estimator: k1, k2 or k3.

    Example:
        >>> [round(float(x), 3) for x in estimate_kl(jnp.float32([0.0, 1.0]), "k3")]
        [0.0, 0.368]
    """
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio**2
    return jnp.expm1(-log_ratio) + log_ratio


def exact_kl(
    logits: jax.Array,
    reference_logits: jax.Array,
    temperature: float | jax.Array = 1.0,
) -> jax.Array:
    """Returns KL(pi || pi_ref) `[...]` of the choice among V tokens; differentiable.

    Args:
        logits: `[..., V]`.
        reference_logits: `[..., V]`.
        temperature: both are divided by it.
    """
    wide = jnp.promote_types(logits.dtype, jnp.float32)
    log_pi = jax.nn.log_softmax(logits.astype(wide) / temperature)
    log_ref = jax.nn.log_softmax(reference_logits.astype(wide) / temperature)
    # A token that pi never draws adds 0, not 0 times infinity.
    pi = jnp.exp(log_pi)
    return jnp.where(pi > 0, pi * (log_pi - log_ref), 0.0).sum(axis=-1)


def adapt_beta(
    beta: jax.Array,
    kl: jax.Array,
    *,
    target: jax.Array | float,
    horizon: jax.Array | float,
    num_samples: int,
) -> jax.Array:
    """Returns the coefficient of the next update, raised where the divergence is too large.

        beta (1 + clip(kl / target - 1, -0.2, 0.2) num_samples / horizon)

    Args:
        beta: the present one.
        kl: of this update's completions, a mean over them of the sum over tokens.
        target: for it; with infinity beta stays as it is.
        horizon: completions after which beta has changed by up to a fifth.
        num_samples: completions of this update.

    References:
        Ziegler et al. (2019), https://arxiv.org/abs/1909.08593, section 2.2.
    """
    error = jnp.clip(kl / target - 1, -0.2, 0.2)
    adapted = beta * (1 + error * num_samples / horizon)
    return jnp.where(jnp.isinf(target), beta, adapted)
