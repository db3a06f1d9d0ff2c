"""The log-probabilities of tokens under a language model: the one way to compute them."""

import jax
import jax.numpy as jnp


def token_log_probs(
    logits: jax.Array, ids: jax.Array, temperature: float | jax.Array = 1.0
) -> jax.Array:
    """Returns log p(token t + 1 | tokens up to t), `[..., L - 1]`, at least float32.

    Args:
        logits: `[..., L, V]`, those at place t being of the token after it.
        ids: `[..., L]` int32.
        temperature: the logits are divided by it, as they are in sampling.

    Example:
        >>> token_log_probs(jnp.zeros((3, 4)), jnp.array([0, 1, 2])).round(3).tolist()
        [-1.3860000371932983, -1.3860000371932983]
    """
    logits = logits[..., :-1, :].astype(jnp.promote_types(logits.dtype, jnp.float32))
    logits = logits / temperature
    chosen = jnp.take_along_axis(logits, ids[..., 1:, None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)
