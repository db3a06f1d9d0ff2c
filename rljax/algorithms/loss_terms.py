"""Terms of losses, to be minimized: per element, arrays of the inputs' one shape.

They work alike on environment steps `[T, B]` and on tokens `[B, L]`; callers reduce
them. Gradients are stopped where the papers stop them.
"""

import chex
import jax
import jax.numpy as jnp


def policy_gradient_loss(log_prob: jax.Array, advantage: jax.Array) -> jax.Array:
    """The score-function loss, whose gradient is that of -E[log pi(a|s) A].

    Args:
        log_prob: log pi(a|s) of the actions taken.
        advantage: their advantages; a constant to the gradient.

    References:
        Williams (1992), "Simple statistical gradient-following algorithms", eq. 11.
    """
    chex.assert_equal_shape([log_prob, advantage])
    return -log_prob * jax.lax.stop_gradient(advantage)


def clipped_surrogate_loss(
    log_prob: jax.Array,
    old_log_prob: jax.Array,
    advantage: jax.Array,
    *,
    clip_eps: float | jax.Array,
    clip_eps_high: float | jax.Array | None = None,
    ratio_max: float | jax.Array | None = None,
) -> jax.Array:
    """PPO's clipped policy loss.

    Args:
        log_prob: log pi(a|s) under the policy being learned.
        old_log_prob: the same under the policy that acted.
        advantage: advantages; a constant to the gradient.
        clip_eps: how far the probability ratio may move from 1 to the policy's gain.
        clip_eps_high: how far above 1, where it is not as far as below.
        ratio_max: a larger ratio counts as this, which bounds the loss of a negative
            advantage; None has no bound.

    References:
        Schulman et al. (2017), https://arxiv.org/abs/1707.06347, eq. 7; clip_eps_high: Yu
        et al. (2025), https://arxiv.org/abs/2503.14476; ratio_max: Ye et al. (2020),
        https://arxiv.org/abs/1912.09729, eq. 5.
    """
    chex.assert_equal_shape([log_prob, old_log_prob, advantage])
    advantage = jax.lax.stop_gradient(advantage)
    ratio = jnp.exp(log_prob - old_log_prob)
    high = clip_eps if clip_eps_high is None else clip_eps_high
    clipped = jnp.clip(ratio, 1.0 - clip_eps, 1.0 + high)
    if ratio_max is not None:
        ratio = jnp.minimum(ratio, ratio_max)
    return -jnp.minimum(ratio * advantage, clipped * advantage)


def clipped_value_loss(
    value: jax.Array,
    old_value: jax.Array,
    target: jax.Array,
    *,
    clip_eps: float | jax.Array,
) -> jax.Array:
    """Half the squared error of a value, held near the one at the time of the rollout.

    The larger of the plain loss and that of the value clipped to within `clip_eps` of
    `old_value`; an infinite `clip_eps` gives the plain loss.

    Args:
        value: V(s) being learned.
        old_value: V(s) at the time of the rollout.
        target: value targets; constants to the gradient.
        clip_eps: how far the value may move, in the unit of the return.

    References:
        Huang et al. (2022), "The 37 implementation details of PPO", detail 9.
    """
    chex.assert_equal_shape([value, old_value, target])
    target = jax.lax.stop_gradient(target)
    clipped = old_value + jnp.clip(value - old_value, -clip_eps, clip_eps)
    return 0.5 * jnp.maximum((value - target) ** 2, (clipped - target) ** 2)
