"""Returns and advantages of one trajectory, `[T]`; batch with `jax.vmap`."""

import chex
import jax
import jax.numpy as jnp


def discounted_returns(
    reward: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    *,
    gamma: float | jax.Array,
    bootstrap: jax.Array | None = None,
) -> jax.Array:
    r"""The return from every step of a trajectory of length `T` to its episode's end.

        G_t = r_t + gamma * G_{t+1}

    where an episode ended at `t`, or the trajectory was cut off after it, the value
    beyond takes the place of `G_{t+1}`: zero if terminated, else `bootstrap[t]`.

    Args:
        reward: `[T]` rewards r_t.
        terminated: `[T]` bool.
        truncated: `[T]` bool.
        gamma: discount factor, in [0, 1].
        bootstrap: `[T]` values of the states the actions led to, before any reset; only
            those of truncated steps and of the last step are read. Zero by default,
            which makes this the plain sum of the rewards that were seen.

    Returns:
        `[T]` returns; the first is the trajectory's return J when it is one episode.

    References:
        Sutton & Barto (2018), *Reinforcement Learning*, eq. 3.8.

    Example:
        >>> end = jnp.array([False, False, True])
        >>> discounted_returns(jnp.float32([1, 1, 1]), end, jnp.zeros(3, bool), gamma=0.5)
        Array([1.75, 1.5 , 1.  ], dtype=float32)
    """
    if bootstrap is None:
        bootstrap = jnp.zeros_like(reward)
    chex.assert_rank([reward, terminated, truncated, bootstrap], 1)
    chex.assert_equal_shape([reward, terminated, truncated, bootstrap])
    chex.assert_type([terminated, truncated], bool)  # ~1 is -2
    done = terminated | truncated

    def backward(following, inputs):
        reward_t, terminated_t, done_t, bootstrap_t = inputs
        beyond = jnp.where(done_t, bootstrap_t, following)
        following = reward_t + gamma * jnp.where(terminated_t, 0.0, beyond)
        return following, following

    _, returns = jax.lax.scan(
        backward, bootstrap[-1], (reward, terminated, done, bootstrap), reverse=True
    )
    return returns


def gae(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    *,
    gamma: float | jax.Array,
    gae_lambda: float | jax.Array,
) -> jax.Array:
    r"""Generalized advantage estimation over one trajectory of length `T`.

        delta_t = r_t + gamma * (1 - terminated_t) * V(s_{t+1}) - V(s_t)
        A_t     = delta_t + gamma * lambda * (1 - done_t) * A_{t+1}

    `next_value` is the value of the state the action led to, before any reset, so a
    truncated episode bootstraps while a terminated one does not. Where both flags are
    set, the task ended: terminated wins.

    Args:
        reward: `[T]` rewards r_t.
        value: `[T]` estimates V(s_t).
        next_value: `[T]` estimates V(s_{t+1}).
        terminated: `[T]` bool.
        truncated: `[T]` bool.
        gamma: discount factor, in [0, 1].
        gae_lambda: trace decay, in [0, 1]; 0 is one-step TD, 1 is Monte Carlo.

    Returns:
        `[T]` advantages. Add `value` for the matching value targets.

    References:
        Schulman et al. (2016), https://arxiv.org/abs/1506.02438, eq. 16.

    Example:
        >>> ones, zeros = jnp.float32([1, 1]), jnp.float32([0, 0])
        >>> gae(ones, zeros, zeros, jnp.array([False, True]),
        ...     jnp.array([False, False]), gamma=0.5, gae_lambda=1.0)
        Array([1.5, 1. ], dtype=float32)
    """
    chex.assert_rank([reward, value, next_value, terminated, truncated], 1)
    chex.assert_equal_shape([reward, value, next_value, terminated, truncated])
    chex.assert_type([terminated, truncated], bool)  # ~1 is -2
    delta = reward + gamma * ~terminated * next_value - value
    decay = gamma * gae_lambda * ~(terminated | truncated)

    def after(later, this):
        return this[0] * later[0], this[1] + this[0] * later[1]

    # In log T rounds instead of T steps.
    return jax.lax.associative_scan(after, (decay, delta), reverse=True)[1]
